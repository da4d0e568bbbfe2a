//! The grammar of the command line. Structures only: [`super::settings`] resolves flags together with the environment
//! and the settings file, and a file for each noun implements its commands.

#![expect(clippy::doc_markdown, reason = "these doc comments are the help texts, in which backticks would show")]

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use protocol::{limits, name::HostName, trust};

use super::{
    alerts, completers, deploys,
    durations::up_to,
    groups, help, hosts, jobs, playbooks, redis, schedules,
    settings::Global,
    sizes,
    targeting::{Targeting, Words, words},
    top, transfers,
    waves::Waves,
};
use crate::output::{Exact, Look};

/// Run actions on a fleet of servers through Redis.
#[derive(Debug, Parser)]
#[command(name = "ctl", version = protocol::VERSION, styles = help::STYLES)]
#[command(max_term_width = help::WIDTH)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(after_help = help::RUN)]
    Run(Box<Run>),
    #[command(after_help = help::EXEC)]
    Exec(Exec),
    #[command(after_help = help::SH)]
    Sh(Sh),
    /// Look at jobs: what was dispatched, to which hosts, and how it went
    #[command(subcommand, disable_help_subcommand = true, after_help = help::JOB)]
    Job(jobs::Job),
    #[command(after_help = help::TOP)]
    Top(Box<top::Top>),
    /// Look at hosts: who is there, and how they are
    #[command(subcommand, disable_help_subcommand = true)]
    Host(hosts::Host),
    /// Save which hosts are meant again and again, under a name
    #[command(subcommand, disable_help_subcommand = true, after_help = help::GROUP)]
    Group(groups::Group),
    /// Look at actions: what can be run on the hosts
    #[command(subcommand, disable_help_subcommand = true)]
    Action(Action),
    /// Put files on hosts, and get files from them
    #[command(subcommand, disable_help_subcommand = true)]
    File(transfers::File),
    Deploy(Box<deploys::Deploy>),
    /// Run the steps of a file, one after another
    #[command(subcommand, disable_help_subcommand = true)]
    Playbook(playbooks::Playbook),
    /// Have actions run again and again, while nobody types
    #[command(subcommand, disable_help_subcommand = true)]
    Schedule(schedules::Schedule),
    /// See what is wrong and who was told, and say by which rules
    #[command(subcommand, disable_help_subcommand = true)]
    Alert(alerts::Alert),
    Serve(schedules::Serve),
    /// Look at Redis itself
    #[command(subcommand, disable_help_subcommand = true)]
    Redis(redis::Redis),
    /// The key that signs what you send, and whose keys the hosts trust
    #[command(subcommand, disable_help_subcommand = true)]
    Key(Key),
    /// See what each program may do in Redis: the rules of its users
    #[command(subcommand, disable_help_subcommand = true)]
    Acl(Acl),
    #[command(after_help = help::UP)]
    Up(Up),
    /// Stop what `ctl up` started, in order
    Down(Dir),
    /// Check Redis and the fleet for what could go wrong
    ///
    /// Reachability, version, persistence, eviction policy, memory, clients, clocks, what the users of ctl and the
    /// workers may send, hosts that are offline or cannot work, and keys without a time to live or a cap.
    #[command(after_help = help::DOCTOR)]
    Doctor,
    /// Print a script that lets your shell complete hosts, actions and jobs
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        /// Shell
        #[arg(value_parser = ["bash", "zsh", "fish"])]
        shell: String,
    },
    /// Write a manual page for every command into a directory
    Man {
        /// Where to write them; made if missing
        #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        dir: PathBuf,
    },
    /// Print the version, as --version does
    #[command(hide = true)]
    Version,
    /// Print the reference of environment variables, exit codes and limits as Markdown
    #[command(hide = true)]
    Reference,
}

/// Run an action on hosts and print the results
///
/// The command is put into each host's inbox in Redis, and its worker runs it. A host that is
/// offline gets it when it comes back, unless --start-by has passed by then; it is not waited for,
/// except with --wait. Ctrl-C detaches: the job goes on, and `ctl job wait ID` gives its result later.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(group = ArgGroup::new("whom").args(["hosts", "groups", "all", "labels", "filter"]).required(true).multiple(true))]
pub struct Run {
    #[command(flatten)]
    pub targeting: Targeting,
    /// What to do: `ctl action list` lists the actions
    #[arg(value_name = "ACTION", add = ArgValueCompleter::new(completers::actions))]
    pub action: String,
    /// Arguments of the action, as `ctl action show ACTION` describes them
    #[arg(value_name = "NAME=VALUE", add = ArgValueCompleter::new(completers::arguments))]
    pub arguments: Vec<String>,
    /// Words for the action as they are: the program and its arguments of `exec`
    #[arg(last = true, value_name = "WORD")]
    pub words: Vec<String>,
    /// Say what would be done, and change nothing; refused where the action cannot say it
    #[arg(long = "dry-run")]
    pub rehearse: bool,
    /// How long it may run, such as 30s or 2h [default: what the action says: 1h for exec, mostly 1m]
    #[arg(short, long, value_name = "DURATION", value_parser = up_to(limits::TIMEOUT_MAX))]
    pub timeout: Option<Duration>,
    /// How long it may wait until its worker takes it, at most 7d; a command that the worker has taken
    /// starts when its turn comes [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = up_to(limits::START_BY_MAX))]
    pub start_by: Option<Duration>,
    /// How long the result is kept, at most 90d [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = up_to(limits::RETENTION_MAX))]
    pub retention: Option<Duration>,
    /// How much of each output stream the result keeps, at most 16MiB [default: 64KiB]
    #[arg(long, value_name = "SIZE", value_parser = sizes::up_to(limits::OUTPUT_BYTES_MAX))]
    pub keep_output: Option<u64>,
    /// Print output as it is produced
    #[arg(short, long, conflicts_with = "detach")]
    pub follow: bool,
    /// Print the job's id and do not wait
    #[arg(short, long, conflicts_with = "waves")]
    pub detach: bool,
    /// Sign it and keep it; it is sent once others have approved it (`ctl job approve`), within
    /// --start-by, which is 1h then if not given
    #[arg(long, conflicts_with_all = ["follow", "detach", "wait", "waves"])]
    pub propose: bool,
    /// Wait for hosts that are offline, too: until they are back, or --start-by has passed
    #[arg(long, conflicts_with_all = ["detach", "waves"])]
    pub wait: bool,
    /// Leave out hosts that are offline: nothing is queued for them
    #[arg(long, conflicts_with = "wait")]
    pub online: bool,
    /// Do not ask before it may change several hosts that were not named
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub look: Look,
    #[command(flatten)]
    pub waves: Waves,
}

/// Run a program on one host, as `kubectl exec` does: its output live, its exit code as one's own
///
/// Standard input is forwarded if it is no terminal, read to its end before anything is sent: up to 512 MiB, encrypted
/// to the host. Ctrl-C cancels the program and exits with 130. Exits as the program did, with 128 and the signal's number
/// where a signal ended it, and with 255 where it did not run or ctl failed.
#[derive(Args, Debug)]
pub struct Exec {
    #[command(flatten)]
    pub options: Remote,
    /// Send this script and run it in place of a program: the words after -- are its arguments
    ///
    /// It runs by its first line, such as #!/bin/sh, as a copy that only its user can read and that is removed afterwards.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub script: Option<PathBuf>,
    /// The program and its arguments; no shell is involved
    #[arg(last = true, index = 2, required_unless_present = "script", value_name = "ARGV")]
    pub words: Vec<String>,
}

/// Run a line of shell on one host, as ssh does: its output live, its exit code as one's own
///
/// The line is for the host's `sh`; quote it as one word. In all else it is `ctl exec HOST -- sh -c LINE`:
/// standard input is forwarded if it is no terminal, Ctrl-C cancels the line and exits with 130, and 255
/// means that it did not run or ctl failed.
#[derive(Args, Debug)]
pub struct Sh {
    /// The line, quoted: 'df -h | tail'
    #[arg(value_name = "LINE", index = 2)]
    pub line: String,
    #[command(flatten)]
    pub options: Remote,
}

/// What `ctl exec` and `ctl sh` have in common.
#[derive(Args, Debug)]
pub struct Remote {
    /// Host
    #[arg(value_name = "HOST", index = 1, add = ArgValueCompleter::new(completers::hosts))]
    pub host: String,
    /// Parameter of exec, such as cwd=/srv; may be repeated
    #[arg(short = 'p', long = "param", value_name = "NAME=VALUE")]
    pub arguments: Vec<String>,
    /// How long it may run, such as 30s or 2h [default: 1h]
    #[arg(short, long, value_name = "DURATION", value_parser = up_to(limits::TIMEOUT_MAX))]
    pub timeout: Option<Duration>,
    /// Do not read standard input
    #[arg(short = 'n', long)]
    pub no_stdin: bool,
    /// The program's standard input: a file here, or - for that of ctl, even if it is a terminal
    #[arg(long, value_name = "FILE", conflicts_with = "no_stdin", value_hint = clap::ValueHint::FilePath)]
    pub stdin: Option<PathBuf>,
    #[command(flatten)]
    pub exact: Exact,
}

/// `ctl action`.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List all actions that any host offers
    #[command(alias = "ls")]
    List,
    /// Show an action's parameters and which hosts offer it
    Show {
        /// Action
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(completers::actions))]
        name: String,
    },
}

/// `ctl key`.
#[derive(Debug, Subcommand)]
pub enum Key {
    Init(NewKey),
    /// Show which key signs, as whom, and the line by which hosts trust it
    ///
    /// Nothing is asked, and no passphrase is needed, except with --check.
    Show {
        /// Sign a test document with it
        #[arg(long)]
        check: bool,
    },
    /// List whom the fleet trusts, by your copy of its trust file, and what hosts have in force
    #[command(alias = "ls")]
    List(SomeHosts),
    Trust(TrustKey),
    Revoke(RevokeKey),
    /// Send your copy of the fleet's trust files to hosts as it is: to those that missed a change
    #[command(after_help = help::KEY_TRUST)]
    Send(SendAgain),
}

/// Let a key speak for somebody, and send that to hosts
///
/// A line is added to your copy of the fleet's trust file (~/.config/redfleet/fleet/allowed_signers), its version is
/// raised, and the hosts are sent the whole file. Each takes it if your own key is trusted there and a rule of its
/// policy names `set-trust` for you.
#[derive(Args, Debug)]
#[command(after_help = help::KEY_TRUST)]
pub struct TrustKey {
    /// Whom the key speaks for, such as bob@desk
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The public key
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// When the trust ends, such as 20301231Z
    #[arg(long, value_name = "MOMENT", value_parser = moment)]
    pub valid_before: Option<String>,
    /// The key signs certificates, and they speak for NAME
    #[arg(long)]
    pub authority: bool,
    #[command(flatten)]
    pub to: SendTo,
}

/// Take the trust from a key for good, and send that to hosts
///
/// Its lines are removed from your copy of the fleet's trust file, the key is added to the list of revoked ones, and
/// the hosts are sent both.
#[derive(Args, Debug)]
#[command(after_help = help::KEY_TRUST)]
pub struct RevokeKey {
    /// Whose key: a principal of the trust file, a fingerprint, or a file with the public key
    #[arg(value_name = "NAME|FINGERPRINT|FILE")]
    pub what: String,
    #[command(flatten)]
    pub to: SendTo,
}

/// Where trust files go.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("where").args(["hosts", "all", "local"]).required(true).multiple(false))]
pub struct SendTo {
    #[command(flatten)]
    pub whom: SomeHosts,
    /// Send nothing: change your copy only
    #[arg(long)]
    pub local: bool,
    /// Overwrite newer or different trust files, even if that locks you out
    #[arg(long, conflicts_with = "local")]
    pub force: bool,
}

/// Hosts that are sent the trust files as they are.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("hosts-or-all").args(["hosts", "all"]).required(true).multiple(false))]
pub struct SendAgain {
    #[command(flatten)]
    pub whom: SomeHosts,
    /// Overwrite newer or different trust files, even if that locks you out
    #[arg(long)]
    pub force: bool,
}

/// Hosts, perhaps none.
#[derive(Args, Debug)]
pub struct SomeHosts {
    /// Host, or a pattern with `*` and `?`; may be repeated, or separated by commas
    #[arg(
        short = 'H',
        long = "host",
        value_name = "NAME|GLOB",
        value_parser = words,
        add = ArgValueCompleter::new(completers::hosts)
    )]
    pub hosts: Vec<Words>,
    /// Every known host
    #[arg(long, conflicts_with = "hosts")]
    pub all: bool,
}

/// A moment as trust files write it.
fn moment(text: &str) -> Result<String, String> {
    trust::moment::parse(text).map(|_| text.to_owned())
}

/// Make a key that signs what you send, and print the line by which hosts trust it
///
/// It is an ed25519 key as ssh-keygen makes them, in FILE and FILE.pub. A key that exists is never replaced.
/// Who has a key for ssh already needs no other: ctl key show
#[derive(Args, Debug)]
pub struct NewKey {
    /// Where to put it [default: ~/.config/redfleet/key]
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// What it is called in lists [default: the operator]
    #[arg(short = 'C', long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// Do not ask for a passphrase: whoever can read the file can sign with it
    #[arg(long)]
    pub no_passphrase: bool,
}

/// `ctl acl`.
#[derive(Debug, Subcommand)]
pub enum Acl {
    #[command(after_help = help::ACL_PRINT)]
    Print(AclPrint),
}

/// Print a Redis user that has the rights of a program, and no more, as a line of an ACL file
///
/// The user of a host can read and write only what is that host's own, and of a job what its worker reports. Nothing
/// is sent to Redis. Redis must be 7.0 or newer: older ones cannot restrict commands to some keys.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(group = ArgGroup::new("role").args(["host", "controller", "reader", "serve"]).required(true).multiple(false))]
pub struct AclPrint {
    /// The worker of this host: user worker-NAME
    #[arg(short = 'H', long, value_name = "NAME", add = ArgValueCompleter::new(completers::hosts))]
    pub host: Option<HostName>,
    /// ctl, with everything that it can do: user controller
    #[arg(long)]
    pub controller: bool,
    /// A dashboard, or ctl where it only looks: user reader
    #[arg(long)]
    pub reader: bool,
    /// ctl serve, which sends what standing orders ask for: user serve
    #[arg(long)]
    pub serve: bool,
    /// File with the user's password in its first line; only its SHA-256 is printed
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub password_file: Option<PathBuf>,
    /// Print the command that makes the user, for redis-cli to read, in place of a line for an ACL file
    #[arg(long)]
    pub setuser: bool,
    /// Print the rights as a table that says what each is for
    #[arg(long, conflicts_with = "setuser")]
    pub explain: bool,
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

/// The state directory.
#[derive(Args, Debug)]
pub struct Dir {
    /// State directory [env: REDFLEET_DIR] [default: ~/.local/state/redfleet]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{super::targeting::texts, *};
    use crate::output::Format;

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
        assert_eq!(texts(&run.targeting.whom.hosts), ["web1", "web2"]);
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
}
