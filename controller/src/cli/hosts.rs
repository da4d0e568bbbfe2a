//! The grammar of `ctl host`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use protocol::{connection::Address, name::HostName};

use super::{
    completers,
    durations::of_history,
    help,
    targeting::{Narrowing, Targeting, Whom, Words, words},
};
use crate::client::LabelChange;

/// `ctl host`.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// List hosts, those that are offline first
    #[command(alias = "ls", after_help = help::TARGETING)]
    List(Box<Targeting>),
    /// Show a host's state, facts, labels and current figures, or how its figures were
    Show {
        /// Host
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(completers::hosts))]
        name: String,
        /// Draw how its figures were for so long, such as 90m or 6h, at most 24h
        #[arg(long, value_name = "DURATION", value_parser = of_history)]
        since: Option<Duration>,
    },
    /// Show the key that a host's results must be signed with
    ///
    /// With --pin or --forget, change which one that is.
    Key {
        /// Host
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(completers::hosts))]
        name: HostName,
        /// Trust this key alone: 'ssh-ed25519 AAAA…', or SHA256:… of the one that the host publishes, or whichever that is
        ///
        /// On the host, `worker --config /etc/redfleet/worker.toml --check-config` shows it.
        #[arg(long, value_name = "KEY", num_args = 0..=1, require_equals = true, default_missing_value = "")]
        pin: Option<String>,
        /// Trust no key: the next one that signs a result is taken for the host's own
        #[arg(long, conflicts_with = "pin")]
        forget: bool,
        /// Do not ask
        #[arg(short, long, requires = "pin")]
        yes: bool,
    },
    /// Print which hosts join, stop, go offline, restart, return and are forgotten, as it happens, until Ctrl-C
    #[command(after_help = help::WATCH)]
    Watch(Box<Whom>),
    Label(Box<Relabel>),
    Enroll(Box<Enroll>),
    /// Remove a host that is gone for good, with what is queued for it
    Forget {
        /// Host; may be repeated. It must be offline
        #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(completers::hosts))]
        names: Vec<HostName>,
    },
}

/// Set labels of hosts, or remove them
///
/// They are beside the labels of the host's own settings, which ctl cannot change and which count where both have one
/// of the same name. They mean hosts (--label, --where), and nothing else: no policy of a host goes by them.
#[derive(Args, Debug)]
#[command(after_help = help::LABEL)]
pub struct Relabel {
    /// Hosts, patterns with `*` and `?`, ranges such as web[1-20], or @GROUPs, separated by commas
    #[arg(value_name = "HOSTS", value_parser = words, add = ArgValueCompleter::new(completers::hosts))]
    pub hosts: Words,
    /// NAME=VALUE sets a label, and says what it replaces; NAME- removes it
    #[arg(value_name = "NAME=VALUE|NAME-", required = true)]
    pub changes: Vec<LabelChange>,
    #[command(flatten)]
    pub narrowing: Narrowing,
    /// Do not ask before it changes several hosts that were not named
    #[arg(short, long)]
    pub yes: bool,
}

/// Write a script that makes a machine a host of the fleet
///
/// It holds all that the machine needs besides the program `worker`: the password of its Redis user, the worker's
/// settings with a policy to build on, whom it trusts (your copy of the fleet's trust file; one with your key is made
/// if there is none), and a systemd unit. Run it there as root. It downloads nothing, and can be run again.
#[derive(Args, Debug)]
#[command(after_help = help::ENROLL)]
pub struct Enroll {
    /// The host's name in the fleet
    #[arg(value_name = "NAME")]
    pub name: HostName,
    /// Where to write the script, readable for you alone; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-", value_hint = clap::ValueHint::FilePath)]
    pub out: PathBuf,
    /// Make the host's Redis user now: your own must be allowed to. Otherwise the command for redis-cli is printed
    #[arg(long)]
    pub apply_acl: bool,
    /// Redis as the host reaches it, without a login [default: as ctl does]
    #[arg(long, value_name = "URL")]
    pub worker_redis: Option<Address>,
    /// Do not ask, even if the host has a Redis user already, whose password is replaced
    #[arg(short, long)]
    pub yes: bool,
}
