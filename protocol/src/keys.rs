//! Every Redis key, spelled here and nowhere else, with what bounds its life beside it.
//!
//! Braces are literal: they are Redis Cluster hash tags, so that all keys of one host share a slot,
//! and all keys of one job. No command or script ever spans two hosts or two jobs.

use std::time::Duration;

use crate::{
    limits,
    metrics::Group,
    name::{HostName, JobId, Namespace},
};

/// What keeps a key from growing or staying for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// It must carry a time to live; this is the longest.
    Expires(Duration),
    /// A hard cap, applied by every writer.
    Capped(Cap),
}

/// What a key without a time to live may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// A sorted set: so many members.
    Members(usize),
    /// A stream: so many entries.
    Entries(usize),
    /// A stream: entries up to this age.
    Age(Duration),
}

/// Constructor of all keys within an optional namespace.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    prefix: String,
}

/// The consumer group of every host's streams.
pub const GROUP: &str = "worker";

impl Keys {
    /// Keys within `namespace` (`prod:server:…`), or bare ones.
    pub fn new(namespace: Option<&Namespace>) -> Self {
        Self { prefix: namespace.map(|name| format!("{name}:")).unwrap_or_default() }
    }

    /// Stream, group [`GROUP`]: the durable inbox of a host. Capped by age: `MINID` at the longest start-by.
    pub fn commands(&self, host: &HostName) -> String {
        self.server(host, "commands")
    }

    /// Stream, group [`GROUP`]: cancel and other control. Capped by `MAXLEN`.
    pub fn control(&self, host: &HostName) -> String {
        self.server(host, "control")
    }

    /// Hash: inventory and the catalogue of actions. Expires [`limits::HOST_RETENTION`] after the last refresh.
    pub fn facts(&self, host: &HostName) -> String {
        self.server(host, "facts")
    }

    /// Hash: labels from the worker's configuration. Expires like the facts.
    pub fn labels(&self, host: &HostName) -> String {
        self.server(host, "labels")
    }

    /// Hash: liveness and counters. Expires like the facts.
    pub fn status(&self, host: &HostName) -> String {
        self.server(host, "status")
    }

    /// Hash: current figures of a metric group (`cpu`, `memory`, …). Expires [`limits::METRICS_RETENTION`] after the last sample.
    pub fn metrics(&self, host: &HostName, group: Group) -> String {
        self.server(host, group.name())
    }

    /// Sorted set: hosts by last heartbeat (milliseconds). Capped at [`limits::HOSTS`].
    pub fn servers(&self) -> String {
        format!("{}servers", self.prefix)
    }

    /// Hash: what was asked. Expires with the job's retention, counted from its last possible moment.
    pub fn job(&self, job: JobId) -> String {
        format!("{}job:{{{job}}}", self.prefix)
    }

    /// Hash, host → state. Expires with the job's retention.
    pub fn job_hosts(&self, job: JobId) -> String {
        format!("{}:hosts", self.job(job))
    }

    /// Hash: a host's outcome. Expires with the job's retention.
    pub fn job_result(&self, job: JobId, host: &HostName) -> String {
        format!("{}:result:{host}", self.job(job))
    }

    /// Stream: state changes and live output. Expires with the job's retention, capped at [`limits::EVENTS`].
    pub fn job_events(&self, job: JobId) -> String {
        format!("{}:events", self.job(job))
    }

    /// Sorted set: recent jobs by creation time (milliseconds). Capped at [`limits::JOBS`].
    pub fn jobs(&self) -> String {
        format!("{}jobs", self.prefix)
    }

    /// Pattern that matches every key of this namespace, for `SCAN`.
    pub fn pattern(&self) -> String {
        format!("{}*", self.prefix)
    }

    /// What must bound `key`, or `None` where it is not one of ours.
    pub fn retention(&self, key: &str) -> Option<Retention> {
        let key = key.strip_prefix(&self.prefix)?;
        match key {
            "servers" => return Some(Retention::Capped(Cap::Members(limits::HOSTS))),
            "jobs" => return Some(Retention::Capped(Cap::Members(limits::JOBS))),
            _ => {}
        }
        if let Some((_, part)) = key.strip_prefix("server:{").and_then(|rest| rest.split_once("}:")) {
            return Some(match part {
                "commands" => Retention::Capped(Cap::Age(limits::START_BY_MAX)),
                "control" => Retention::Capped(Cap::Entries(limits::CONTROL_ENTRIES)),
                "facts" | "labels" | "status" => Retention::Expires(limits::HOST_RETENTION),
                _ => Retention::Expires(limits::METRICS_RETENTION),
            });
        }
        let longest = limits::RETENTION_MAX + limits::START_BY_MAX + limits::TIMEOUT_MAX;
        key.starts_with("job:{").then_some(Retention::Expires(longest))
    }

    fn server(&self, host: &HostName, part: &str) -> String {
        format!("{}server:{{{host}}}:{part}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_documented_and_each_has_a_bound() {
        let host: HostName = "web1".parse().unwrap();
        let job: JobId = "019a0000-0000-7000-8000-000000000000".parse().unwrap();
        let keys = Keys::new(None);
        assert_eq!(keys.commands(&host), "server:{web1}:commands");
        assert_eq!(keys.metrics(&host, Group::Cpu), "server:{web1}:cpu");
        assert_eq!(keys.job_result(job, &host), "job:{019a0000-0000-7000-8000-000000000000}:result:web1");
        let keys = Keys::new(Some(&"prod".parse().unwrap()));
        assert_eq!(keys.servers(), "prod:servers");
        for key in [
            keys.commands(&host),
            keys.control(&host),
            keys.facts(&host),
            keys.labels(&host),
            keys.status(&host),
            keys.metrics(&host, Group::Cpu),
            keys.servers(),
            keys.job(job),
            keys.job_hosts(job),
            keys.job_result(job, &host),
            keys.job_events(job),
            keys.jobs(),
        ] {
            assert!(keys.retention(&key).is_some(), "{key}");
            assert!(Keys::new(None).retention(&key).is_none(), "{key}");
        }
    }
}
