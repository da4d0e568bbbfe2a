//! The grammar of `ctl playbook`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::name::JobId;

use super::help;
use crate::output::Look;

/// `ctl playbook`.
#[derive(Debug, Subcommand)]
pub enum Playbook {
    Run(Box<Run>),
}

/// Run the steps of a file, one after another
///
/// Each step is an action on hosts, in waves, or a check of what is known about them. A step that fails stops the
/// playbook, unless it says otherwise. Whatever ends it, --resume goes on with the step that was not finished, from any
/// machine that has the file.
#[derive(Args, Debug)]
#[command(after_help = help::PLAYBOOK)]
pub struct Run {
    /// The file (TOML)
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// A value of the playbook, in place of the one in the file; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub values: Vec<String>,
    /// Say what would be done on which hosts, and do nothing
    #[arg(long = "dry-run")]
    pub rehearse: bool,
    /// Go on with a run of this playbook, by its id
    #[arg(long, value_name = "ID", conflicts_with = "rehearse")]
    pub resume: Option<JobId>,
    /// Do not ask before it may change several hosts that were not named
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub look: Look,
}
