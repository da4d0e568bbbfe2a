//! Every Redis key, spelled here and nowhere else, with what bounds its life beside it.
//!
//! Braces are literal: they are Redis Cluster hash tags, so that all keys of one host share a slot,
//! and all keys of one job, and all keys of one artifact. No command or script ever spans two of them.

use std::{fmt, time::Duration};

use crate::{
    artifact::Artifact,
    limits,
    metrics::MetricGroup,
    name::{HostName, JobId, Namespace, ScheduleName},
};

/// What keeps a key from growing or staying for ever: a time to live, or a cap that every writer applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// It must carry a time to live; this is the longest.
    Expires(Duration),
    /// A sorted set of so many members at most.
    Members(usize),
    /// A hash of so many fields at most.
    Fields(usize),
    /// A stream of so many entries at most.
    Entries(usize),
    /// A stream of entries up to this age.
    Age(Duration),
}

/// Constructor of all keys within an optional namespace.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    prefix: String,
}

/// What stands in a key in the place of a host: its name, or [`Any`].
pub trait HostPart: fmt::Display {}

/// What stands in a key in the place of a job: its id, or [`Any`].
pub trait JobPart: Copy + fmt::Display {}

/// What stands in a key in the place of a schedule: its name, or [`Any`].
pub trait SchedulePart: fmt::Display {}

/// What stands in a key in the place of an artifact: its digest, or [`Any`].
pub trait ArtifactPart {
    /// The part of the key.
    fn part(&self) -> String;
}

/// What stands in a key in the place of the number of a piece: the number, or [`Any`].
pub trait PiecePart: Copy + fmt::Display {}

impl HostPart for HostName {}
impl SchedulePart for ScheduleName {}
impl SchedulePart for Any {}
impl PiecePart for u64 {}
impl ArtifactPart for Artifact {
    fn part(&self) -> String {
        self.sha256()
    }
}
impl<T: HostPart + ?Sized> HostPart for &T {}
impl JobPart for JobId {}

/// Every host, or every job: then the key is a pattern, for the rules of [`crate::acl`]. In a name nothing has a meaning
/// of its own in a pattern.
#[derive(Clone, Copy, Debug)]
pub struct Any;

impl fmt::Display for Any {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("*")
    }
}

impl HostPart for Any {}
impl JobPart for Any {}
impl PiecePart for Any {}
impl ArtifactPart for Any {
    fn part(&self) -> String {
        self.to_string()
    }
}

/// The consumer group of every host's streams.
pub const CONSUMER_GROUP: &str = "worker";

/// The field beside a host's state that holds what its command waits for. No host has a colon in its name.
pub fn waits_for_field(host: &HostName) -> String {
    format!("{host}:waits_for")
}

impl Keys {
    /// Keys within `namespace` (`prod:server:…`), or bare ones.
    pub fn new(namespace: Option<&Namespace>) -> Self {
        Self { prefix: namespace.map(|name| format!("{name}:")).unwrap_or_default() }
    }

    /// Stream, group [`CONSUMER_GROUP`]: the durable inbox of a host. Capped by age: `MINID` at the longest start-by and wait.
    /// Expires [`limits::HOST_RETENTION`] after the last command and the last sign of life.
    pub fn commands(&self, host: &impl HostPart) -> String {
        self.server(host, "commands")
    }

    /// Stream, group [`CONSUMER_GROUP`]: cancel and other control. Capped by `MAXLEN`. Expires like
    /// the inbox.
    pub fn control(&self, host: &impl HostPart) -> String {
        self.server(host, "control")
    }

    /// Hash: inventory and the catalogue of actions. Expires [`limits::HOST_RETENTION`] after the last refresh.
    pub fn facts(&self, host: &impl HostPart) -> String {
        self.server(host, "facts")
    }

    /// Hash: labels from the worker's configuration. Expires like the facts.
    pub fn labels(&self, host: &impl HostPart) -> String {
        self.server(host, "labels")
    }

    /// Hash: labels that controllers have set. Expires like the facts, with which its worker renews it.
    pub fn set_labels(&self, host: &impl HostPart) -> String {
        self.server(host, "set-labels")
    }

    /// Hash: liveness and counters. Expires like the facts.
    pub fn status(&self, host: &impl HostPart) -> String {
        self.server(host, "status")
    }

    /// Hash: current figures of a metric group (`cpu`, `memory`, …). Expires [`limits::METRICS_RETENTION`] after the last sample.
    pub fn metrics(&self, host: &impl HostPart, group: MetricGroup) -> String {
        self.server(host, group.name())
    }

    /// Hash: the figures of an action of the host's own ([`crate::action::ActionSpec::metrics`]). Expires like other
    /// figures.
    pub fn custom(&self, host: &impl HostPart, action: impl fmt::Display) -> String {
        self.server(host, &format!("custom:{action}"))
    }

    /// Stream: means of figures, an entry for each step. See [`crate::history`]. Capped at [`limits::HISTORY_ENTRIES`], expires
    /// [`limits::HISTORY_RETENTION`] after the last entry.
    pub fn history(&self, host: &impl HostPart) -> String {
        self.server(host, "history")
    }

    /// All keys of a host, but those of its own actions.
    pub fn of_host(&self, host: &impl HostPart) -> Vec<String> {
        let streams = [self.commands(host), self.control(host)];
        let own = streams.into_iter().chain([self.facts(host), self.labels(host), self.status(host)]);
        own.chain([self.set_labels(host), self.history(host)])
            .chain(MetricGroup::ALL.map(|group| self.metrics(host, group)))
            .collect()
    }

    /// Pattern that matches every key of a host, those of later releases too.
    pub fn pattern_of_host(&self, host: &impl HostPart) -> String {
        self.server(host, "*")
    }

    /// Sorted set: hosts by last heartbeat (milliseconds). Capped at [`limits::HOSTS`].
    pub fn servers(&self) -> String {
        format!("{}servers", self.prefix)
    }

    /// Hash, name → the hosts that the group stands for, as text. Capped at [`limits::GROUPS`].
    pub fn groups(&self) -> String {
        format!("{}groups", self.prefix)
    }

    /// Hash: the job's record. Expires with the job's retention, counted from the last moment at which the job can end.
    pub fn job(&self, job: impl JobPart) -> String {
        format!("{}job:{{{job}}}", self.prefix)
    }

    /// Hash, host → state. Expires with the job's retention.
    pub fn job_hosts(&self, job: impl JobPart) -> String {
        format!("{}:hosts", self.job(job))
    }

    /// Hash, host → the key of the job's secrets, sealed to that host. Expires with the job's retention.
    pub fn job_keys(&self, job: impl JobPart) -> String {
        format!("{}:keys", self.job(job))
    }

    /// Hash, host → when it was ordered to cancel (RFC 3339). Expires with the job's retention.
    pub fn job_cancels(&self, job: impl JobPart) -> String {
        format!("{}:cancels", self.job(job))
    }

    /// Hash: a rolling run, whose id is no job's. See [`crate::rollout`]. Expires like its newest job.
    pub fn job_rollout(&self, rollout: impl JobPart) -> String {
        format!("{}:rollout", self.job(rollout))
    }

    /// String: the step whose failure has begun to undo the run of a playbook. Expires like the runs of its steps.
    pub fn job_undo(&self, run: impl JobPart) -> String {
        format!("{}:undo", self.job(run))
    }

    /// Hash: a host's outcome. Expires with the job's retention.
    pub fn job_result(&self, job: impl JobPart, host: &impl HostPart) -> String {
        format!("{}:result:{host}", self.job(job))
    }

    /// Stream: state changes and progress. Expires with the job's retention, capped at [`limits::EVENTS`].
    pub fn job_events(&self, job: impl JobPart) -> String {
        format!("{}:events", self.job(job))
    }

    /// Stream: a host's live output. The id of an entry is its place in it, in bytes. Expires with the job's retention,
    /// capped at [`limits::LIVE_BYTES`], with [`limits::LIVE_LAG_BYTES`] more while the command runs.
    pub fn job_output(&self, job: impl JobPart, host: &impl HostPart) -> String {
        format!("{}:output:{host}", self.job(job))
    }

    /// String: a piece of a file that a host sends, encrypted. Expires [`limits::FILE_PIECE_KEEP`] after it was written;
    /// `ctl` deletes it as soon as it has it.
    pub fn job_file(&self, job: impl JobPart, host: &impl HostPart, number: impl PiecePart) -> String {
        format!("{}:file:{host}:{number}", self.job(job))
    }

    /// String: a piece of an artifact, encrypted. Expires when the last command that may need it must have ended; `ctl`
    /// deletes it as soon as nobody needs it.
    pub fn artifact(&self, artifact: &impl ArtifactPart, number: impl PiecePart) -> String {
        format!("{}artifact:{{{}}}:{number}", self.prefix, artifact.part())
    }

    /// Sorted set: who needs an artifact, and until when (milliseconds). Expires like the artifact.
    pub fn artifact_users(&self, artifact: &impl ArtifactPart) -> String {
        format!("{}artifact:{{{}}}:users", self.prefix, artifact.part())
    }

    /// Pattern that matches every key of every job.
    pub fn pattern_of_job(&self) -> String {
        format!("{}*", self.job(Any))
    }

    /// Sorted set: recent jobs by creation time (milliseconds). Capped at [`limits::JOBS`].
    pub fn jobs(&self) -> String {
        format!("{}jobs", self.prefix)
    }

    /// Sorted set: the instances of `ctl serve` by last heartbeat (milliseconds). Capped at [`limits::SERVING`]; expires
    /// [`limits::HOST_RETENTION`] after the last heartbeat of any.
    pub fn serving(&self) -> String {
        format!("{}serve", self.prefix)
    }

    /// Hash, name → when it was added: the schedules that there are. Capped at [`limits::SCHEDULES`].
    pub fn schedules(&self) -> String {
        format!("{}schedules", self.prefix)
    }

    /// Hash: a schedule and its standing order, see [`crate::scheduled`]. Expires [`limits::RETENTION_MAX`] after the order's
    /// end.
    pub fn schedule(&self, name: &impl SchedulePart) -> String {
        format!("{}schedule:{{{name}}}", self.prefix)
    }

    /// Hash, instant → its run, as long as it is not known how it has ended. Expires like the schedule, capped at
    /// [`limits::OPEN_RUNS`].
    pub fn schedule_open(&self, name: &impl SchedulePart) -> String {
        format!("{}:open", self.schedule(name))
    }

    /// Hash, instant → what became of it. Expires like the schedule, capped at [`limits::KEPT_RUNS`].
    pub fn schedule_runs(&self, name: &impl SchedulePart) -> String {
        format!("{}:runs", self.schedule(name))
    }

    /// Hash: how Redis itself is. Expires [`limits::REDIS_STATUS_RETENTION`] after the last look.
    pub fn redis_status(&self) -> String {
        format!("{}redis:status", self.prefix)
    }

    /// Stream: how Redis itself was, an entry for each step. Capped and expires like the history of a host.
    pub fn redis_history(&self) -> String {
        format!("{}redis:history", self.prefix)
    }

    /// Hash: which instance of `ctl serve` sends figures to a remote receiver, and whether another waits. Expires
    /// [`limits::REMOTE_WRITE_LEASE_MAX`] after it was renewed.
    pub fn remote_write(&self) -> String {
        format!("{}serve:{{remote-write}}", self.prefix)
    }

    /// Hash: the last evaluation of the alerts: its version, when it was, and by whom.
    pub fn alert_evaluation(&self) -> String {
        self.alert("evaluation")
    }

    /// Hash, name → a rule of alerts. Capped at [`limits::ALERT_RULES`].
    pub fn alert_rules(&self) -> String {
        self.alert("rules")
    }

    /// Hash, `RULE/HOST` → how far an alert has come; none where all is well. Capped at [`limits::ALERT_STATES`].
    pub fn alert_states(&self) -> String {
        self.alert("states")
    }

    /// Hash, receiver and group → what it was told last. Capped at [`limits::ALERT_STATES`].
    pub fn alert_groups(&self) -> String {
        self.alert("groups")
    }

    /// Hash, id → a silence. Capped at [`limits::ALERT_SILENCES`].
    pub fn alert_silences(&self) -> String {
        self.alert("silences")
    }

    /// Hash, id → a notification that is to be delivered. Capped at [`limits::ALERT_OUTBOX`].
    pub fn alert_outbox(&self) -> String {
        self.alert("outbox")
    }

    /// Hash, id → who delivers a notification of the outbox, and how often that was tried. Capped like the outbox.
    pub fn alert_deliveries(&self) -> String {
        self.alert("deliveries")
    }

    /// Stream: what was delivered, or given up. Capped at [`limits::ALERT_LOG`].
    pub fn alert_log(&self) -> String {
        self.alert("log")
    }

    fn alert(&self, part: &str) -> String {
        format!("{}alert:{{fleet}}:{part}", self.prefix)
    }

    /// Pattern that matches every key of this namespace, for `SCAN`.
    pub fn pattern(&self) -> String {
        format!("{}*", self.prefix)
    }

    /// What must bound `key`, or `None` where it is not one of ours.
    pub fn retention(&self, key: &str) -> Option<Retention> {
        let key = key.strip_prefix(&self.prefix)?;
        match key {
            "servers" => return Some(Retention::Members(limits::HOSTS)),
            "jobs" => return Some(Retention::Members(limits::JOBS)),
            "groups" => return Some(Retention::Fields(limits::GROUPS)),
            "serve" => return Some(Retention::Expires(limits::HOST_RETENTION)),
            "schedules" => return Some(Retention::Fields(limits::SCHEDULES)),
            "redis:status" => return Some(Retention::Expires(limits::REDIS_STATUS_RETENTION)),
            "redis:history" => return Some(Retention::Expires(limits::HISTORY_RETENTION)),
            "serve:{remote-write}" => return Some(Retention::Expires(limits::REMOTE_WRITE_LEASE_MAX)),
            _ if key.starts_with("schedule:{") => {
                return Some(Retention::Expires(limits::STANDING_MAX + limits::RETENTION_MAX));
            }
            _ => {}
        }
        if let Some(part) = key.strip_prefix("alert:{fleet}:") {
            return Some(match part {
                "log" => Retention::Entries(limits::ALERT_LOG),
                "rules" => Retention::Fields(limits::ALERT_RULES),
                "silences" => Retention::Fields(limits::ALERT_SILENCES),
                "outbox" | "deliveries" => Retention::Fields(limits::ALERT_OUTBOX),
                _ => Retention::Fields(limits::ALERT_STATES),
            });
        }
        if let Some((_, part)) = key.strip_prefix("server:{").and_then(|rest| rest.split_once("}:")) {
            return Some(match part {
                "commands" => Retention::Age(limits::START_BY_MAX + limits::QUEUE_MAX),
                "control" => Retention::Entries(limits::CONTROL_ENTRIES),
                "facts" | "labels" | "set-labels" | "status" => Retention::Expires(limits::HOST_RETENTION),
                "history" => Retention::Expires(limits::HISTORY_RETENTION),
                _ => Retention::Expires(limits::METRICS_RETENTION),
            });
        }
        let longest_run = limits::START_BY_MAX + limits::QUEUE_MAX + limits::TIMEOUT_MAX;
        if key.starts_with("artifact:{") {
            return Some(Retention::Expires(longest_run));
        }
        let is_file = key.split_once("}:").is_some_and(|(_, part)| part.starts_with("file:"));
        let longest = if is_file { limits::FILE_PIECE_KEEP } else { limits::RETENTION_MAX + longest_run };
        key.starts_with("job:{").then_some(Retention::Expires(longest))
    }

    fn server(&self, host: &impl HostPart, part: &str) -> String {
        format!("{}server:{{{host}}}:{part}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Digester;

    #[test]
    fn keys_read_as_documented_and_each_has_a_bound() {
        let host: HostName = "web1".parse().unwrap();
        let job: JobId = "019a0000-0000-7000-8000-000000000000".parse().unwrap();
        let keys = Keys::new(None);
        assert_eq!(keys.commands(&host), "server:{web1}:commands");
        assert_eq!(keys.metrics(&host, MetricGroup::Cpu), "server:{web1}:cpu");
        assert_eq!(keys.custom(&host, "backup"), "server:{web1}:custom:backup");
        assert_eq!(keys.job_result(job, &host), "job:{019a0000-0000-7000-8000-000000000000}:result:web1");
        assert_eq!(keys.job_file(job, &host, 7), "job:{019a0000-0000-7000-8000-000000000000}:file:web1:7");
        let artifact = Digester::default().artifact();
        assert_eq!(keys.artifact(&artifact, 7), format!("artifact:{{{}}}:7", artifact.sha256()));
        let name: ScheduleName = "tidy".parse().unwrap();
        assert_eq!(keys.schedule_runs(&name), "schedule:{tidy}:runs");
        let keys = Keys::new(Some(&"prod".parse().unwrap()));
        assert_eq!(keys.servers(), "prod:servers");
        for key in [
            keys.commands(&host),
            keys.control(&host),
            keys.facts(&host),
            keys.labels(&host),
            keys.set_labels(&host),
            keys.status(&host),
            keys.metrics(&host, MetricGroup::Cpu),
            keys.custom(&host, "backup"),
            keys.history(&host),
            keys.redis_status(),
            keys.redis_history(),
            keys.servers(),
            keys.job(job),
            keys.job_hosts(job),
            keys.job_keys(job),
            keys.job_cancels(job),
            keys.job_rollout(job),
            keys.job_undo(job),
            keys.job_result(job, &host),
            keys.job_events(job),
            keys.job_output(job, &host),
            keys.job_file(job, &host, 7),
            keys.artifact(&artifact, 7),
            keys.artifact_users(&artifact),
            keys.jobs(),
            keys.groups(),
            keys.serving(),
            keys.schedules(),
            keys.schedule(&name),
            keys.schedule_open(&name),
            keys.schedule_runs(&name),
            keys.remote_write(),
            keys.alert_evaluation(),
            keys.alert_rules(),
            keys.alert_states(),
            keys.alert_groups(),
            keys.alert_silences(),
            keys.alert_outbox(),
            keys.alert_deliveries(),
            keys.alert_log(),
            keys.redis_status(),
        ] {
            assert!(keys.retention(&key).is_some(), "{key}");
            assert!(Keys::new(None).retention(&key).is_none(), "{key}");
        }
    }
}
