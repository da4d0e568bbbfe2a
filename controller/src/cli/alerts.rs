//! The grammar of `ctl alert`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use protocol::{limits, name::RuleName};

use super::{
    completers,
    durations::up_to,
    help,
    targeting::{Words, words},
};

/// `ctl alert`.
#[derive(Debug, Subcommand)]
pub enum Alert {
    /// List what fires, what is pending, and what could not be told
    #[command(alias = "ls")]
    List {
        /// List the rules instead
        #[arg(long)]
        rules: bool,
    },
    /// Show a rule and its alerts, or a notification by its id
    Show {
        /// Rule, or the beginning of a notification's id
        #[arg(value_name = "RULE|ID", add = ArgValueCompleter::new(completers::rules))]
        what: String,
    },
    Add(Box<AddRule>),
    /// Remove a rule that was added; its alerts end
    Rm {
        /// Rule
        #[arg(value_name = "RULE", add = ArgValueCompleter::new(completers::rules))]
        name: RuleName,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    Silence(Box<Silence>),
    Test(TestRule),
    /// List what was told, the newest first
    Log {
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
}

/// Add rules from a file, or one by its parts
///
/// A rule of that name is replaced, also one that comes with Redfleet or a file of `ctl serve`: what was added counts.
#[derive(Args, Debug)]
#[command(after_help = help::ALERT_ADD)]
#[command(group = ArgGroup::new("source").args(["file", "name"]).required(true).multiple(false))]
pub struct AddRule {
    /// A file with rules, as TOML
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// What the rule is called
    #[arg(long, value_name = "NAME", requires = "when")]
    pub name: Option<RuleName>,
    /// What must hold for the alert to begin, such as 'cpu.usage > 90'
    #[arg(long, value_name = "EXPR", requires = "name")]
    pub when: Option<String>,
    /// It is about the fleet's Redis, and asks for redis.NAME
    #[arg(long, requires = "name")]
    pub on_redis: bool,
    /// How long it must hold
    #[arg(long = "for", value_name = "DURATION", requires = "name")]
    pub lasts: Option<String>,
    /// What must hold for it to end, such as 'cpu.usage < 80' [default: that --when does not]
    #[arg(long, value_name = "EXPR", requires = "name")]
    pub clear: Option<String>,
    /// How long that must hold
    #[arg(long, value_name = "DURATION", requires = "name")]
    pub clear_for: Option<String>,
    /// How bad it is
    #[arg(long, value_name = "SEVERITY", default_value = "warning", value_parser = ["info", "warning", "critical"])]
    pub severity: String,
    /// A label of the alert: NAME=VALUE; may be repeated
    #[arg(short = 'l', long = "label", value_name = "NAME=VALUE", value_parser = pair, requires = "name")]
    pub labels: Vec<(String, String)>,
    /// What is said: {host}, {found}, {label.NAME} and fields such as {cpu.usage} are filled in
    #[arg(long, value_name = "TEXT", requires = "name")]
    pub text: Option<String>,
    /// Only these hosts: names, patterns, ranges or @GROUPs
    #[arg(short = 'H', long = "host", value_name = "NAME|GLOB", requires = "name", add = ArgValueCompleter::new(completers::hosts))]
    pub hosts: Vec<String>,
    /// Only hosts for which this holds
    #[arg(long = "where", value_name = "EXPR", requires = "name")]
    pub filter: Option<String>,
    /// A rule that explains this one: nothing is said where it has begun; may be repeated
    #[arg(long, value_name = "RULE", requires = "name", add = ArgValueCompleter::new(completers::rules))]
    pub depends_on: Vec<RuleName>,
    /// How long alerts of a group are gathered before they are told [default: 30s]
    #[arg(long, value_name = "DURATION", requires = "name")]
    pub group_wait: Option<String>,
    /// When what goes on is told again [default: 4h]
    #[arg(long, value_name = "DURATION", requires = "name")]
    pub repeat: Option<String>,
    /// Who is told; may be repeated [default: as the settings of ctl serve say]
    #[arg(long = "receiver", value_name = "NAME", requires = "name")]
    pub receivers: Vec<String>,
}

/// Tell nobody of some alerts for a while
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub struct Silence {
    #[command(subcommand)]
    pub command: Option<Silences>,
    #[command(flatten)]
    pub new: Option<NewSilence>,
}

/// What is silenced.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").args(["rule", "hosts", "labels"]).required(true).multiple(true))]
pub struct NewSilence {
    /// Alerts of this rule
    #[arg(long, value_name = "RULE", add = ArgValueCompleter::new(completers::rules))]
    pub rule: Option<RuleName>,
    /// Alerts of these hosts: names, patterns or ranges; may be repeated, or separated by commas
    #[arg(short = 'H', long = "host", value_name = "NAME|GLOB", value_parser = words, add = ArgValueCompleter::new(completers::hosts))]
    pub hosts: Vec<Words>,
    /// Alerts with this label of their rule: NAME=VALUE; may be repeated: all must hold
    #[arg(short = 'l', long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// For how long, at most 90d
    #[arg(long = "for", value_name = "DURATION", value_parser = up_to(limits::SILENCE_MAX))]
    pub lasts: Duration,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub why: String,
}

/// `ctl alert silence`.
#[derive(Debug, Subcommand)]
pub enum Silences {
    /// List the silences
    #[command(alias = "ls")]
    List,
    /// Remove a silence
    Rm {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Judge a rule now, and show what would be said
///
/// Nothing is changed, and nobody is told, except with --send: then the receivers of the rule are sent a message that is
/// marked as a test.
#[derive(Args, Debug)]
pub struct TestRule {
    /// Rule
    #[arg(value_name = "RULE", add = ArgValueCompleter::new(completers::rules))]
    pub name: RuleName,
    /// Only these hosts; may be repeated, or separated by commas
    #[arg(short = 'H', long = "host", value_name = "NAME|GLOB", value_parser = words, add = ArgValueCompleter::new(completers::hosts))]
    pub hosts: Vec<Words>,
    /// Send the receivers of the rule a message that is marked as a test
    #[arg(long)]
    pub send: bool,
}

impl NewSilence {
    /// The labels by name.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().cloned().collect()
    }
}

/// Reads `NAME=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
