//! Errors of a fleet: a variant for each situation, with the data that explains it.

use std::time::Duration;

use protocol::{
    connection::{Address, is_broken},
    diagnosis::{Mistake, diagnose},
    job::{JobHeadline, RecordError},
    limits,
    name::{GroupName, HostName, JobId, NameError, Namespace, ScheduleName},
    rollout::RolloutError,
    scheduled::ScheduledError,
    secret::SecretError,
    standing::selector::SelectorError,
    time::{Millis, show_duration},
};
use redis::{ErrorKind, RedisError, RetryMethod};

use super::{
    arguments::ArgumentsError,
    proposal::ProposalError,
    signer::SignerError,
    targeting::{GroupError, Unknown, WordError, by_reason},
    witness::Unsealable,
};

/// Why a call on a fleet failed. The text of each error is complete without its source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Redis could not be reached, or refused.
    #[error("{}", describe(.address, .source))]
    Redis {
        /// Where Redis is.
        address: Box<Address>,
        /// The error itself.
        source: RedisError,
    },
    /// The address is not that of a Redis server for a fleet. See [`Error::diagnosed`].
    #[error("{address} {mistake}")]
    NotRedis {
        /// The address.
        address: Box<Address>,
        /// What is there instead.
        mistake: Mistake,
    },
    /// A job could not be sent to all of its hosts.
    #[error("{source}")]
    Dispatch {
        /// The job.
        job: JobId,
        /// Number of its hosts.
        hosts: usize,
        /// How many of them have certainly been sent the command.
        asked: usize,
        /// More may have been sent it: a reply was lost.
        unclear: bool,
        /// The job's own record was written.
        recorded: bool,
        /// What stopped it.
        source: Box<Error>,
    },

    /// There is no such schedule.
    #[error("there is no schedule {name}")]
    UnknownSchedule {
        /// What was typed.
        name: ScheduleName,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A schedule cannot be read.
    #[error("the schedule {0} cannot be read: {1}")]
    DamagedSchedule(ScheduleName, ScheduledError),
    /// There are as many schedules as there can be.
    #[error("there are {} schedules already", limits::SCHEDULES)]
    ManySchedules,
    /// A schedule was not replaced, as its runs begin too often.
    #[error("runs of {0} begin all the while: pause it first, then replace it")]
    BusySchedule(ScheduleName),
    /// There is no such rule of alerts.
    #[error("there is no rule {name}")]
    UnknownRule {
        /// What was typed.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// There are more of something about alerts than there can be.
    #[error("there are {size} {what} of alerts in {key}: no more are possible")]
    ManyAlerts {
        /// Of what.
        what: &'static str,
        /// How many.
        size: usize,
        /// Where.
        key: String,
    },
    /// What says which hosts a schedule is for cannot be used.
    #[error("{0}")]
    Selector(SelectorError),
    /// Nothing was sent, as the key did not sign it.
    #[error("nothing was sent: {0}")]
    Signer(#[from] SignerError),
    /// Nothing was signed, as the clocks of Redis and of this machine disagree about when it would be valid.
    #[error("nothing was sent: {}", disagree(*.local_ahead_ms))]
    Clocks {
        /// How far this machine's clock is ahead of Redis'; negative where it is behind.
        local_ahead_ms: i64,
    },
    /// The secret arguments of a job cannot be sent.
    #[error("nothing was sent: {0}")]
    Secrets(SecretError),
    /// Nothing was sent, as its secrets cannot be sealed to a host.
    #[error("nothing was sent, as its secrets cannot be sealed to {host}: {reason}")]
    Unsealable {
        /// The host.
        host: HostName,
        /// Why.
        reason: Unsealable,
    },
    /// Something else stands where one of Redfleet's keys belongs.
    #[error(transparent)]
    WrongType(#[from] WrongType),
    /// A text is no host name, or no job id.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No host has ever reported to this Redis.
    #[error("no worker has reported to Redis at {0} yet")]
    NoHosts(String),
    /// No host has this name.
    #[error("no host is called {name}")]
    UnknownHost {
        /// The name.
        name: HostName,
        /// All hosts, sorted.
        known: Vec<HostName>,
    },
    /// A host that is online cannot be forgotten.
    #[error("{0} is online: its worker would make it known again at once")]
    HostOnline(HostName),
    /// No host matches a pattern.
    #[error("no host matches '{pattern}'")]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// All hosts, sorted.
        known: Vec<HostName>,
    },
    /// A word names no hosts.
    #[error(transparent)]
    Word(#[from] WordError),
    /// Hosts have a label of that name of their own, so that another one would not count.
    #[error("{} a label '{name}' of {} own, and that one counts: nothing was changed", subject(.hosts, "has", "have"), if .hosts.len() == 1 { "its" } else { "their" })]
    OwnLabel {
        /// The label.
        name: String,
        /// The hosts.
        hosts: Vec<HostName>,
    },
    /// A host would have too many labels.
    #[error("{0} would have more than {most} labels that ctl has set: nothing was changed", most = limits::SET_LABELS)]
    ManyLabels(HostName),
    /// No group has this name.
    #[error("there is no group {name}")]
    UnknownGroup {
        /// The name.
        name: GroupName,
        /// The names of all groups, sorted.
        known: Vec<String>,
    },
    /// What a group stands for cannot be read.
    #[error("the group {0} cannot be read: {1}")]
    DamagedGroup(GroupName, #[source] GroupError),
    /// Groups refer to each other in a circle.
    #[error("the groups {} refer to each other in a circle", circle(.0))]
    GroupCircle(Vec<GroupName>),
    /// Groups refer to groups, and these to groups, without end.
    #[error("the group {0} is nested deeper than {1} groups")]
    DeepGroup(GroupName, usize),
    /// A host that a group excludes, or that is excluded with a group, is not known.
    #[error("the group {group} names {host} to exclude it, and no host is called that")]
    GroupStranger {
        /// The group.
        group: GroupName,
        /// The host.
        host: HostName,
    },
    /// A group cannot be removed, as other groups refer to it.
    #[error("the group {group} is a part of {users}", group = .0, users = shorten(.1))]
    GroupInUse(GroupName, Vec<GroupName>),
    /// There are too many groups.
    #[error("there are {} groups already: no more are allowed", limits::GROUPS)]
    ManyGroups,
    /// Nothing is left of the hosts that were named.
    #[error("{}", none_meant(*.considered, .filter.as_deref(), .unknown))]
    NoneMeant {
        /// How many were named, without those that were excluded.
        considered: usize,
        /// What had to hold for them.
        filter: Option<String>,
        /// Those of which it is not known.
        unknown: Vec<Unknown>,
    },
    /// A host's catalogue of actions cannot be read.
    #[error("{0} publishes no readable list of actions: {1}")]
    Catalogue(HostName, #[source] serde_json::Error),

    /// The hosts' catalogues are not known yet.
    #[error("{} not published any actions yet", subject(.0, "has", "have"))]
    NotPublished(Vec<HostName>),
    /// Hosts do not know the action.
    #[error("{} not offer the action '{action}'", subject(.hosts, "does", "do"))]
    NotOffered {
        /// The action.
        action: String,
        /// These hosts.
        hosts: Vec<HostName>,
        /// Whether other hosts of the selection offer it.
        elsewhere: bool,
        /// The actions that any host of the selection offers.
        known: Vec<String>,
    },
    /// Hosts know the action, but their configuration does not allow it.
    #[error("{} not allow the action '{action}'", subject(.hosts, "does", "do"))]
    NotAllowed {
        /// The action.
        action: String,
        /// These hosts.
        hosts: Vec<HostName>,
    },
    /// Hosts know the action, but it cannot say what it would do: it would do it.
    #[error("the action '{action}' has no dry run on {}", shorten(.hosts))]
    NoDryRun {
        /// The action.
        action: String,
        /// These hosts.
        hosts: Vec<HostName>,
        /// Whether it has one on other hosts of the selection.
        elsewhere: bool,
        /// The actions that have one on any host of the selection.
        able: Vec<String>,
    },
    /// The arguments do not fit the action.
    #[error("{}{source}", .host.as_ref().map(|host| format!("on {host}: ")).unwrap_or_default())]
    Arguments {
        /// The action.
        action: String,
        /// The host that refuses them; none where it is the only one.
        host: Option<HostName>,
        /// Why.
        source: Box<ArgumentsError>,
    },
    /// A host reads the arguments differently from those before it.
    #[error("{0} reads these arguments differently: its release is another one")]
    Disagreement(HostName),
    /// A request is for no host.
    #[error("no host was given")]
    NoTargets,
    /// A request is larger than the wire allows.
    #[error("the job is too large: {size} {what}, at most {limit}")]
    TooLarge {
        /// The unit of the size.
        what: &'static str,
        /// The actual size.
        size: usize,
        /// The largest size.
        limit: usize,
    },

    /// This operator has no job.
    #[error("{0} has run no job that is still kept")]
    NoJobs(String),
    /// Somebody else has begun a rolling run of this id.
    #[error("the rolling run {0} has been begun already")]
    Begun(JobId),
    /// Somebody else goes on with a rolling run.
    #[error("the rolling run {0} was taken over: somebody resumes it, or has cancelled a wave of it")]
    RolloutClosed(JobId),
    /// The record of the rolling run to which a job says that it belongs is gone, or knows nothing of it.
    #[error("job {job} is a wave of the rolling run {rollout}, of which Redis has lost the record")]
    LostRollout {
        /// The job.
        job: JobId,
        /// The run.
        rollout: JobId,
    },
    /// Something else stands in the place of a run that goes on with another.
    #[error("the record of the rolling run {0} is not that of a run that goes on where the one before it ended")]
    Replaced(JobId),
    /// The record of a rolling run cannot be read.
    #[error("the record of the rolling run {0} cannot be read: {1}")]
    DamagedRollout(JobId, #[source] Box<RolloutError>),
    /// There is no job of this id, or whose id begins like this.
    #[error("there is no job {0}")]
    UnknownJob(String),
    /// Several job ids begin like this.
    #[error("{count} jobs begin with {typed}")]
    AmbiguousJob {
        /// The beginning.
        typed: String,
        /// How many.
        count: usize,
        /// The newest of them.
        newest: Vec<(JobId, JobHeadline)>,
        /// The moment at which they were read.
        now: Millis,
    },
    /// A job's record cannot be read, or is that of another job.
    #[error("the record of job {0} is damaged, or of a newer release: {1}")]
    DamagedJob(JobId, #[source] RecordError),
    /// The job was signed for the hosts of another namespace.
    #[error("job {short} is not of this fleet: it was signed for {}, and this is {}", fleet(.theirs.as_ref()), fleet(.ours.as_ref()), short = .job.short())]
    ForeignJob {
        /// The job.
        job: JobId,
        /// Its namespace.
        theirs: Option<Namespace>,
        /// The namespace in which its record was found.
        ours: Option<Namespace>,
    },
    /// The job cannot be proposed or approved.
    #[error("job {short}: {1}", short = .0.short())]
    Proposal(JobId, #[source] ProposalError),
    /// The job was not for this host.
    #[error("{0} is not among the hosts of job {short}", short = .1.short())]
    NotATarget(HostName, JobId),
}

/// A key of ours whose value is of another type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key {0} is damaged: its value is of another type")]
pub struct WrongType(pub String);

impl Error {
    pub(super) fn redis(error: RedisError, address: &Address) -> Self {
        // A failed pipeline lists the errors of its commands.
        let first = error.clone().into_server_errors().and_then(|errors| errors.first().cloned());
        let source = first.map_or(error, |(_, error)| error.into());
        Self::Redis { address: Box::new(address.clone()), source }
    }

    /// Finds out whether an error of Redis comes from an address that is none of a Redis server for a fleet, and then
    /// says so. May ask the address, over a connection of its own.
    pub async fn diagnosed(self) -> Self {
        let Self::Redis { address, source } = &self else { return self };
        match diagnose(address, source).await {
            Some(mistake) => Self::NotRedis { address: address.clone(), mistake },
            None => self,
        }
    }

    /// Whether something else stands where one of Redfleet's keys belongs.
    pub(super) fn is_wrong_type(&self) -> bool {
        match self {
            Self::WrongType(_) => true,
            Self::Redis { source, .. } => source.code() == Some("WRONGTYPE"),
            _ => false,
        }
    }

    /// Whether a record is absent, damaged, or of another fleet or release. Others may be read all the same.
    pub(super) fn is_of_record(&self) -> bool {
        let is_other = matches!(self, Self::UnknownJob(_) | Self::ForeignJob { .. });
        is_other || matches!(self, Self::DamagedJob(..) | Self::DamagedRollout(..)) || self.is_wrong_type()
    }

    /// Whether the same call may succeed a little later: the connection broke, or Redis is loading or
    /// failing over.
    pub fn is_transient(&self) -> bool {
        let passes = |error: &RedisError| is_broken(error) || matches!(error.retry_method(), RetryMethod::WaitAndRetry);
        matches!(self, Self::Redis { source, .. } if passes(source))
    }

    /// Whether this user may not do that in Redis.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Redis { source, .. } if source.code() == Some("NOPERM"))
    }
}

/// Describes an error of Redis by its meaning for a fleet.
fn describe(address: &Address, error: &RedisError) -> String {
    let reason = match error.code() {
        Some("OOM") => "is full: it has reached maxmemory and drops nothing (noeviction)",
        Some("NOAUTH") => "requires a password",
        Some("WRONGPASS") => "does not accept this user or password",
        Some("NOPERM") => &format!("does not permit this user to do that: {}", error.detail().unwrap_or_default()),
        Some("MISCONF") => "refuses to write, because it cannot save to its disk",
        Some("READONLY") => "is a read-only replica",
        Some("LOADING") => "is still loading its data",
        _ if error.kind() == ErrorKind::AuthenticationFailed => "does not accept this user or password",
        _ if error.is_connection_refusal() => return format!("cannot reach Redis at {address}: nothing answers there"),
        _ if error.is_timeout() => "does not answer",
        _ if error.is_io_error() => return format!("no connection to Redis at {address}: {error}"),
        _ => return format!("Redis at {address}: {error}"),
    };
    format!("Redis at {address} {reason}")
}

/// Names in a message at most; more are counted.
const NAMED: usize = 5;

/// `a, b, c` or, of many, `a, b, c, d, e and 7 more`.
pub fn shorten(names: &[impl ToString]) -> String {
    let shown: Vec<_> = names.iter().take(NAMED).map(ToString::to_string).collect();
    match names.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Which clock is ahead, and by how much.
fn disagree(local_ahead_ms: i64) -> String {
    let by = show_duration(Duration::from_secs(local_ahead_ms.unsigned_abs() / 1000));
    let (ahead, other) = if local_ahead_ms < 0 { ("Redis'", "this machine's") } else { ("this machine's", "Redis'") };
    let margin = show_duration(limits::SIGNING_MARGIN);
    format!(
        "{ahead} clock is {by} ahead of {other}, and what is signed by a wrong clock is valid at a wrong time (at most {margin} are allowed)"
    )
}

/// That no host is left, and why.
fn none_meant(considered: usize, filter: Option<&str>, unknown: &[Unknown]) -> String {
    let Some(filter) = filter.filter(|_| considered > 0) else { return "no host is left: all are excluded".into() };
    let reasons =
        by_reason(unknown).into_iter().map(|(reason, hosts)| format!("; not known of {}: {reason}", shorten(&hosts)));
    let of = if considered == 1 { "the only host".to_owned() } else { format!("none of {considered} hosts") };
    let fails = if considered == 1 { "does not hold for" } else { "holds for" };
    format!("'{filter}' {fails} {of}{}", reasons.collect::<String>())
}

/// A fleet, by the namespace of its keys.
fn fleet(namespace: Option<&Namespace>) -> String {
    namespace.map_or("the fleet without a namespace".to_owned(), |name| format!("the namespace '{name}'"))
}

/// `a → b → a`.
fn circle(groups: &[GroupName]) -> String {
    groups.iter().map(GroupName::as_str).collect::<Vec<_>>().join(" → ")
}

fn subject(hosts: &[HostName], one: &str, several: &str) -> String {
    format!("{} {}", shorten(hosts), if hosts.len() == 1 { one } else { several })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_shortened() {
        assert_eq!(shorten(&["a", "b"]), "a, b");
        assert_eq!(shorten(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }

    #[test]
    fn hosts_are_named_in_a_sentence() {
        let hosts = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>();
        let error = |names| Error::NotAllowed { action: "x".into(), hosts: hosts(names) }.to_string();
        assert_eq!(error(&["a"]), "a does not allow the action 'x'");
        assert_eq!(error(&["a", "b"]), "a, b do not allow the action 'x'");
    }
}
