//! What can be typed. Structures only: what flags mean together with the environment and the settings
//! file is resolved in [`crate::settings`], what commands do is in the file of each noun.

#![expect(clippy::doc_markdown, reason = "these doc comments are the help texts, in which backticks would show")]

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use protocol::{
    limits,
    name::{HostName, Namespace},
    time::read_duration,
};

use crate::{complete, help, settings::Format};

/// Run actions on a fleet of servers through Redis.
#[derive(Debug, Parser)]
#[command(name = "ctl", version = protocol::VERSION, after_help = help::top(), styles = help::STYLES)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Redis server [env: REDFLEET_REDIS] [default: that of a running `ctl up`]
    ///
    /// Write redis://[:PASSWORD@]HOST[:PORT][/DB] or unix:///PATH. A password typed here can be seen by
    /// other users of this machine (`ps`): put it into the environment or the settings file instead.
    #[arg(long, global = true, value_name = "URL")]
    pub redis: Option<String>,
    /// Prefix of all keys, so that several fleets can share a Redis [env: REDFLEET_NAMESPACE]
    #[arg(long, global = true, value_name = "NAME")]
    pub namespace: Option<Namespace>,
    /// Settings file [env: REDFLEET_CONFIG]
    ///
    /// TOML; where none is given, ~/.config/redfleet/ctl.toml is read if it exists.
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// How results are printed [env: REDFLEET_OUTPUT]
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Print results and errors, nothing else
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to use colours; NO_COLOR is respected
    #[arg(long, alias = "color", global = true, value_name = "WHEN")]
    pub colour: Option<Colour>,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On terminals.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(after_help = help::RUN)]
    Run(Run),
    /// Look at jobs: what was asked, of whom, and how it went
    #[command(subcommand, after_help = help::JOB)]
    Job(Job),
    /// Look at hosts: who is there, and how they are
    #[command(subcommand)]
    Host(Host),
    /// Look at actions: what hosts can be asked
    #[command(subcommand)]
    Action(Action),
    #[command(after_help = help::UP)]
    Up(Up),
    /// Stop what `ctl up` started, in order
    Down(Down),
    /// Check Redis and the fleet for what could go wrong
    ///
    /// Reachability, version, persistence, eviction policy, memory, clocks, silent workers, and keys without
    /// a time to live or a cap.
    #[command(after_help = help::DOCTOR)]
    Doctor,
    #[command(after_help = help::COMPLETIONS)]
    Completions(Completions),
    /// Write a manual page for every command into a directory
    Man(Man),
    /// Print the reference of environment variables, exit codes and limits as Markdown
    #[command(hide = true)]
    Reference,
}

/// Run an action on hosts and print what they answer
///
/// The command is put into each host's inbox in Redis, and its worker runs it. A host that is
/// offline gets it when it comes back, unless --start-by has passed by then. Ctrl-C detaches: the job
/// goes on, and `ctl job wait ID` gives its result later.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("whom").args(["hosts", "all"]).required(true).multiple(false))]
pub struct Run {
    /// Host to ask, or a pattern with `*` and `?`; may be repeated, or separated by commas
    #[arg(
        short = 'H',
        long = "host",
        value_name = "NAME|GLOB",
        value_delimiter = ',',
        add = ArgValueCompleter::new(complete::hosts)
    )]
    pub hosts: Vec<String>,
    /// Ask every known host
    #[arg(long)]
    pub all: bool,
    /// What to do: `ctl action list` shows what there is
    #[arg(value_name = "ACTION", add = ArgValueCompleter::new(complete::actions))]
    pub action: String,
    /// Arguments of the action, as `ctl action show ACTION` describes them
    #[arg(value_name = "NAME=VALUE", add = ArgValueCompleter::new(complete::arguments))]
    pub arguments: Vec<String>,
    /// Words for the action as they are: the program and its arguments of `exec`
    #[arg(last = true, value_name = "WORD")]
    pub words: Vec<String>,
    /// How long it may run, such as 30s or 2h [default: what the action says, mostly 1m]
    #[arg(short, long, value_name = "DURATION", value_parser = timeout)]
    pub timeout: Option<Duration>,
    /// How long it may wait for a host that is offline, at most 7d [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = start_by)]
    pub start_by: Option<Duration>,
    /// How long the result is kept, at most 90d [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = retention)]
    pub retention: Option<Duration>,
    /// Print output as it is produced
    #[arg(short, long, conflicts_with = "detach")]
    pub follow: bool,
    /// Print the job's id and do not wait
    #[arg(short, long)]
    pub detach: bool,
}

/// `ctl job`.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// List recent jobs, the newest first
    List {
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Show what was asked and how each host stands
    Show {
        /// Job id, an unambiguous part of its beginning, or `last`
        #[arg(value_name = "ID", add = ArgValueCompleter::new(complete::jobs))]
        id: String,
    },
    /// Wait until the job has ended and print its results, as `ctl run` would have
    Wait {
        /// Job id, an unambiguous part of its beginning, or `last`
        #[arg(value_name = "ID", add = ArgValueCompleter::new(complete::jobs))]
        id: String,
    },
    /// Print what the job's programs have printed so far, from the start
    Logs {
        /// Job id, an unambiguous part of its beginning, or `last`
        #[arg(value_name = "ID", add = ArgValueCompleter::new(complete::jobs))]
        id: String,
        /// Go on until the job has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// End the job where it runs, and see to it that it never starts where it has not
    Cancel {
        /// Job id, an unambiguous part of its beginning, or `last`
        #[arg(value_name = "ID", add = ArgValueCompleter::new(complete::jobs))]
        id: String,
        /// Only on this host; may be repeated, or separated by commas
        #[arg(
            short = 'H',
            long = "host",
            value_name = "NAME",
            value_delimiter = ',',
            add = ArgValueCompleter::new(complete::hosts)
        )]
        hosts: Vec<HostName>,
    },
}

/// `ctl host`.
#[derive(Debug, Subcommand)]
pub enum Host {
    /// List all hosts, those that are offline first
    List,
    /// Show a host's state, facts, labels and current figures
    Show {
        /// Host
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::hosts))]
        name: String,
    },
}

/// `ctl action`.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List all actions that any host offers
    List,
    /// Show an action's parameters and which hosts offer it
    Show {
        /// Action
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::actions))]
        name: String,
    },
}

/// Start a private Redis and a worker on this machine
#[derive(Args, Debug)]
pub struct Up {
    /// The worker's name in the fleet [default: this machine's host name]
    #[arg(long, value_name = "NAME")]
    pub host: Option<HostName>,
    #[command(flatten)]
    pub dir: Dir,
}

/// `ctl down`.
#[derive(Args, Debug)]
pub struct Down {
    #[command(flatten)]
    pub dir: Dir,
}

/// The state directory.
#[derive(Args, Debug)]
pub struct Dir {
    /// State directory [env: REDFLEET_DIR] [default: ~/.local/state/redfleet]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// Print a script that lets your shell complete hosts, actions and jobs
#[derive(Args, Debug)]
pub struct Completions {
    /// Shell
    pub shell: Shell,
}

/// Shells that can complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// Fish
    Fish,
}

/// `ctl man`.
#[derive(Args, Debug)]
pub struct Man {
    /// Where to write them; made if missing
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub dir: PathBuf,
}

/// Reads a timeout.
pub fn timeout(text: &str) -> Result<Duration, String> {
    within(text, limits::TIMEOUT_MAX)
}

/// Reads a start-by.
pub fn start_by(text: &str) -> Result<Duration, String> {
    within(text, limits::START_BY_MAX)
}

/// Reads a retention.
pub fn retention(text: &str) -> Result<Duration, String> {
    within(text, limits::RETENTION_MAX)
}

fn within(text: &str, longest: Duration) -> Result<Duration, String> {
    let duration = read_duration(text)?;
    if duration < Duration::from_millis(1) {
        return Err("it must be longer than nothing".into());
    }
    if duration > longest {
        return Err(format!("at most {} days", longest.as_secs() / (24 * 3600)));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_follow_the_action_and_words_keep_theirs() {
        let line = "ctl run --host web1,web2 exec cwd=/ -o json -- ls -q";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(cli.global.output, Some(Format::Json));
        assert!(!cli.global.quiet);
        let Command::Run(run) = cli.command else { panic!() };
        assert_eq!(run.hosts, ["web1", "web2"]);
        assert_eq!((run.action.as_str(), run.arguments), ("exec", vec!["cwd=/".to_owned()]));
        assert_eq!(run.words, ["ls", "-q"]);
    }

    #[test]
    fn every_variable_in_help_is_a_defined_one() {
        let mut help = String::new();
        let mut commands = vec![Cli::command()];
        while let Some(mut command) = commands.pop() {
            help += &command.render_long_help().to_string();
            commands.extend(command.get_subcommands().cloned());
        }
        let named: Vec<_> = help.split("[env: ").skip(1).filter_map(|rest| rest.split(']').next()).collect();
        assert!(named.len() > 5);
        let defined = |name: &str| protocol::environment::ALL.iter().any(|(known, _)| *known == name);
        assert_eq!(named.iter().find(|name| !defined(name)), None);
    }

    #[test]
    fn durations_have_bounds() {
        assert!(start_by("7d").is_ok());
        assert!(start_by("8d").unwrap_err().contains("7 days"));
        assert!(timeout("0s").is_err());
    }
}
