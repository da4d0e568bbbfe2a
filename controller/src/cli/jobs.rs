//! The grammar of `ctl job`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use protocol::name::HostName;

use super::{completers, help, waves::Waves};
use crate::output::{Exact, Look};

/// `ctl job`.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// List recent jobs, the newest first
    #[command(alias = "ls")]
    List {
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Only jobs for this host, or for hosts that match; may be repeated, or separated by commas
        #[arg(
            short = 'H',
            long = "host",
            value_name = "NAME|GLOB",
            value_delimiter = ',',
            add = ArgValueCompleter::new(completers::hosts)
        )]
        hosts: Vec<String>,
        /// Only jobs that did not succeed on some host
        #[arg(long)]
        failed: bool,
        /// Only jobs that have not ended on some host
        #[arg(long)]
        running: bool,
        /// Only your own jobs
        #[arg(long)]
        mine: bool,
    },
    /// Show what was dispatched and how each host stands
    #[command(after_help = help::JOB_SHOW)]
    Show {
        #[command(flatten)]
        id: JobId,
        /// Write what was signed (manifest) and the signature (manifest.sig) into this directory, for ssh-keygen
        #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        raw: Option<PathBuf>,
    },
    /// Wait until the job has ended and print its results, as `ctl run` would have
    Wait {
        #[command(flatten)]
        id: JobId,
        #[command(flatten)]
        look: Look,
    },
    /// Print what the job's programs have printed so far, from the start
    Logs {
        #[command(flatten)]
        id: JobId,
        #[command(flatten)]
        only: Only,
        /// Go on until the job has ended
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        exact: Exact,
    },
    Approve(Approve),
    #[command(after_help = help::RESUME)]
    Resume(Box<Resume>),
    Rerun(Box<Again>),
    /// End the job where it runs, and see to it that it never starts where it has not
    ///
    /// Prints what it takes before it takes it. A job of another operator is cancelled only after a question.
    /// A job that was only proposed is withdrawn.
    Cancel {
        #[command(flatten)]
        id: JobId,
        #[command(flatten)]
        only: Only,
        /// Do not ask, even if it is the job of another operator
        #[arg(short, long)]
        yes: bool,
    },
}

/// Add your signature to a job that somebody else has proposed
///
/// Shows exactly what will run, where, and who asks for it; then asks. Whoever completes the number of signatures
/// sends the job and follows it as `ctl run` does. The hosts count anew: each principal once, each key once.
#[derive(Args, Debug)]
pub struct Approve {
    #[command(flatten)]
    pub id: JobId,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Print output as it is produced
    #[arg(short, long, conflicts_with = "detach")]
    pub follow: bool,
    /// Do not wait for the results
    #[arg(short, long)]
    pub detach: bool,
    #[command(flatten)]
    pub look: Look,
}

/// Go on with a rolling run, or a job, where it has not succeeded
///
/// From any machine: what became of each host is read from Redis. What is under way is awaited first. Then a new run
/// reaches the hosts on which it failed, expired, or was not begun, in the same waves. A host on which it has succeeded
/// is never reached again; one whose command may still run is left out and named. Another `ctl` that still drives the
/// run begins no further wave.
#[derive(Args, Debug)]
pub struct Resume {
    /// Only hosts that stand so; several may be separated by commas
    #[arg(long, value_name = "STANDING", value_delimiter = ',', value_enum)]
    pub only: Vec<Standing>,
    #[command(flatten)]
    pub again: Again,
}

/// Run a rolling run, or a job, once more, on all of its hosts
#[derive(Args, Debug)]
pub struct Again {
    #[command(flatten)]
    pub id: JobId,
    /// The secret arguments, which Redis does not have in clear
    #[arg(value_name = "NAME=VALUE")]
    pub secrets: Vec<String>,
    /// Do not ask, even if somebody else has signed what will run
    #[arg(short, long)]
    pub yes: bool,
    /// Print output as it is produced
    #[arg(short, long)]
    pub follow: bool,
    #[command(flatten)]
    pub look: Look,
    #[command(flatten)]
    pub waves: Waves,
}

/// How a run stands on hosts that are to be reached again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Standing {
    /// It ended without success
    Failed,
    /// It was never sent
    Unreached,
    /// It was not begun in time
    Expired,
}

/// Some hosts of a job.
#[derive(Args, Debug)]
pub struct Only {
    /// Only on this host; may be repeated, or separated by commas
    #[arg(
        short = 'H',
        long = "host",
        value_name = "NAME",
        value_delimiter = ',',
        add = ArgValueCompleter::new(completers::hosts)
    )]
    pub hosts: Vec<HostName>,
}

/// Which job.
#[derive(Args, Debug)]
pub struct JobId {
    /// Job id as `ctl job list` shows it, the beginning of one, or `last`: your last job
    #[arg(value_name = "ID", add = ArgValueCompleter::new(completers::jobs))]
    pub id: String,
}
