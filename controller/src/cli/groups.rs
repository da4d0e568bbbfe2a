//! The grammar of `ctl group`.

use clap::{ArgGroup, Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use protocol::name::GroupName;

use super::{completers, help, targeting::Whom};

/// `ctl group`.
#[derive(Debug, Subcommand)]
pub enum Group {
    Set(Box<SetGroup>),
    /// List groups, and which hosts each stands for
    #[command(alias = "ls")]
    List,
    /// Show what a group stands for, and which hosts these are now
    Show {
        /// Group
        #[arg(value_name = "NAME", value_parser = name, add = ArgValueCompleter::new(completers::groups))]
        name: GroupName,
    },
    /// Remove a group
    Rm {
        /// Group
        #[arg(value_name = "NAME", value_parser = name, add = ArgValueCompleter::new(completers::groups))]
        name: GroupName,
    },
}

/// Save which hosts are meant, under a name
///
/// Hosts, labels and conditions are saved as they are written: which hosts these are is found out anew whenever the group
/// is used. A group of that name is replaced.
#[derive(Args, Debug)]
#[command(after_help = help::GROUP)]
#[command(group = ArgGroup::new("whom").args(["hosts", "groups", "labels", "filter", "exclude"]).required(true).multiple(true))]
pub struct SetGroup {
    /// What the group is called
    #[arg(value_name = "NAME", value_parser = name, add = ArgValueCompleter::new(completers::groups))]
    pub name: GroupName,
    #[command(flatten)]
    pub whom: Whom,
}

/// Reads the name of a group, with or without the @ by which it is meant among hosts.
fn name(text: &str) -> Result<GroupName, String> {
    text.strip_prefix('@').unwrap_or(text).parse().map_err(|error: protocol::name::NameError| error.to_string())
}
