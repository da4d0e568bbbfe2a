//! The grammar of `ctl schedule` and `ctl serve`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use protocol::{limits, name::ScheduleName, standing};

use super::{
    completers,
    durations::up_to,
    help, sizes,
    targeting::{Words, words},
};

/// `ctl schedule`.
#[derive(Debug, Subcommand)]
pub enum Schedule {
    Add(Box<AddSchedule>),
    /// List schedules: when each runs next, and how it went last
    #[command(alias = "ls")]
    List,
    /// Show a schedule, what its standing order says, and its next ten times
    Show {
        /// Schedule
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(completers::schedules))]
        name: ScheduleName,
    },
    /// Run nothing of a schedule until it is resumed
    Pause {
        /// Schedule
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(completers::schedules))]
        name: ScheduleName,
    },
    /// Go on with a schedule that was paused: nothing runs for the time of the pause
    Resume {
        /// Schedule
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(completers::schedules))]
        name: ScheduleName,
    },
    /// Run it now, as a job that you sign: the schedule goes on as if it had not been
    RunNow {
        /// Schedule
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(completers::schedules))]
        name: ScheduleName,
        /// Print the job's id and do not wait
        #[arg(short, long)]
        detach: bool,
    },
    /// Remove a schedule and its history
    Rm {
        /// Schedule
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(completers::schedules))]
        name: ScheduleName,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Show what became of each time of a schedule, the newest first
    History {
        /// Schedule
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(completers::schedules))]
        name: ScheduleName,
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
}

/// Have an action run again and again, while nobody types
///
/// You sign a standing order: what runs, where, when and until when. `ctl serve` sends its runs, and needs no key; each host
/// checks the order itself. Its rules must give you the right 'standing-order', besides what the action needs.
#[derive(Args, Debug)]
#[command(after_help = help::SCHEDULE)]
#[command(group = ArgGroup::new("when").args(["cron", "every", "at"]).required(true))]
#[command(group = ArgGroup::new("whom").args(["hosts", "all", "labels"]).required(true).multiple(true))]
pub struct AddSchedule {
    /// What the schedule is called
    #[arg(value_name = "NAME")]
    pub name: ScheduleName,
    /// At the times of this expression: minute, hour, day, month, weekday; '*/5 * * * *', '30 2 * * MON-FRI', @daily
    #[arg(long, value_name = "EXPR")]
    pub cron: Option<String>,
    /// Again and again after this time, from now on: 30s, 10m, 6h
    #[arg(long, value_name = "DURATION", value_parser = up_to(limits::STANDING_MAX))]
    pub every: Option<Duration>,
    /// Once: 2026-12-01T14:00, or with an offset such as Z or +01:00
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// The time zone of --cron and --at, such as Europe/Berlin or UTC [default: that of this machine]
    #[arg(long, value_name = "ZONE")]
    pub tz: Option<String>,
    /// Host, a pattern with `*` and `?`, or a range such as web[1-20]; may be repeated, or separated by commas
    #[arg(short = 'H', long = "host", value_name = "NAME|GLOB", value_parser = words, add = ArgValueCompleter::new(completers::hosts))]
    pub hosts: Vec<Words>,
    /// Every host
    #[arg(long, conflicts_with = "hosts")]
    pub all: bool,
    /// Hosts with this label in their own settings: NAME=VALUE; may be repeated: all must hold
    #[arg(short = 'l', long = "label", value_name = "NAME=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Not these hosts, patterns or ranges; may be repeated, or separated by commas
    #[arg(long, value_name = "NAME|GLOB", value_parser = words, add = ArgValueCompleter::new(completers::hosts))]
    pub exclude: Vec<Words>,
    /// How long the order is valid; then sign another one (--replace)
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = up_to(limits::STANDING_MAX))]
    pub valid_for: Duration,
    /// If the prior run has not ended: leave this one out, let one wait, run both, or end the prior one
    #[arg(long, value_name = "POLICY", default_value = "skip")]
    pub overlap: Overlap,
    /// How long after its time a run may still start [default: until the next, at most 10m]
    #[arg(long, value_name = "DURATION", value_parser = up_to(limits::START_BY_MAX))]
    pub grace: Option<Duration>,
    /// Run late, within the grace, also what may change hosts; what only reads does so always
    #[arg(long)]
    pub late: bool,
    /// Let each run wait up to so long: not all schedules begin at once
    #[arg(long, value_name = "DURATION", value_parser = up_to(limits::START_BY_MAX))]
    pub jitter: Option<Duration>,
    /// Pause the schedule after so many failed runs in a row [default: never]
    #[arg(long, value_name = "N")]
    pub pause_after: Option<u32>,
    /// How often a failed run is tried again on the hosts where it failed, within the grace
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=5))]
    pub retries: u32,
    /// How long a run may take [default: what the action says]
    #[arg(short, long, value_name = "DURATION", value_parser = up_to(limits::TIMEOUT_MAX))]
    pub timeout: Option<Duration>,
    /// How long results are kept, at most 90d [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = up_to(limits::RETENTION_MAX))]
    pub retention: Option<Duration>,
    /// How much of each output stream a result keeps, at most 16MiB [default: 64KiB]
    #[arg(long, value_name = "SIZE", value_parser = sizes::up_to(limits::OUTPUT_BYTES_MAX))]
    pub keep_output: Option<u64>,
    /// Put it in the place of the schedule of that name
    #[arg(long)]
    pub replace: bool,
    /// What to do: `ctl action list` lists the actions
    #[arg(value_name = "ACTION", add = ArgValueCompleter::new(completers::actions))]
    pub action: String,
    /// Arguments of the action, as `ctl action show ACTION` describes them
    #[arg(value_name = "NAME=VALUE", add = ArgValueCompleter::new(completers::arguments))]
    pub arguments: Vec<String>,
    /// Words for the action as they are: the program and its arguments of `exec`
    #[arg(last = true, value_name = "WORD")]
    pub words: Vec<String>,
}

/// What happens at a time when the prior run has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Overlap {
    /// Nothing runs
    Skip,
    /// One run waits, within the grace
    Queue,
    /// It runs beside the prior one
    Allow,
    /// It runs, and each host ends the prior one
    Cancel,
}

impl From<Overlap> for standing::Overlap {
    fn from(overlap: Overlap) -> Self {
        match overlap {
            Overlap::Skip => Self::Skip,
            Overlap::Queue => Self::Queue,
            Overlap::Allow => Self::Allow,
            Overlap::Cancel => Self::Cancel,
        }
    }
}

/// Reads `NAME=VALUE`.
fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty() && !name.ends_with('!'))
        .ok_or("write NAME=VALUE: a host judges by its own labels, of which each must have the value that you sign")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Run the services that do what is due while nobody types: schedules
///
/// It needs no key of an operator. Run it as often as you like, on as many machines: what one claims, the others leave
/// alone, and what a dead one left half done, they finish. SIGTERM ends it in order.
#[derive(Args, Debug)]
#[command(after_help = help::SERVE)]
pub struct Serve {
    /// Settings, as TOML: `name`, `interval`, `[alerts]` and `[[receivers]]`
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Check the settings and print them; start nothing
    #[arg(long)]
    pub check_config: bool,
}
