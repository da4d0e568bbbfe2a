//! What the worker publishes about itself and its host: heartbeat, facts, figures.

use std::{sync::Arc, time::Duration};

use protocol::{
    VERSION,
    action::Repeat,
    clock::millis,
    outcome::State,
    status::Status,
    time::{Millis, show_moment},
};
use tokio::{task::JoinError, time::Instant};

use super::Dispatcher;
use crate::{
    config::Config,
    log::with_sources,
    metrics::{
        MetricGroup, Topic,
        history::{self, Sample},
    },
    publisher::{Write, plain},
};

/// How often facts and labels are published again, which also renews their time to live.
pub(super) const FACTS_EVERY: Duration = Duration::from_secs(600);

/// How long another number of running commands must last before it is published.
const RUNNING_AFTER: Duration = Duration::from_millis(250);

impl Dispatcher {
    pub(super) fn publish_status(&mut self, stopped: bool) {
        let now = self.clock.now();
        self.shown_running = self.running.len();
        if self.started_at_ms == 0 {
            self.started_at_ms = now;
        }
        let trusted = self.trusted.borrow().clone();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let status = Status {
            last_seen_ms: now,
            stopped,
            version: VERSION.into(),
            boot_id: boot_id.trim().into(),
            started_at_ms: self.started_at_ms,
            pid: std::process::id(),
            running: self.running.len() as u64,
            slots: self.config.slots as u64,
            read_age_ms: millis(self.last_read.elapsed()),
            clock_ahead_ms: self.clock.local_ahead_ms(),
            refuses: self.refusal(),
            trust: trusted.problem,
            actions: self.own_problem(),
            serve_missing_ms: self.serve_missing_ms,
            trust_version: trusted.trust.version(),
            trust_digest: trusted.digest,
            rejected: self.ended.get(&State::Rejected).copied().unwrap_or(0),
            ended: self.ended.iter().map(|(state, count)| (state.as_str().to_owned(), *count)).collect(),
            dropped: self.dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        };
        self.write(Write::Status(Box::new(status)));
    }

    /// Says once that no `ctl serve` lives, and once that one does again.
    pub(super) fn judge_serve(&mut self, since_ms: Option<Millis>) {
        match (std::mem::replace(&mut self.serve_missing_ms, since_ms), since_ms) {
            (None, Some(since_ms)) => {
                let since = show_moment(since_ms);
                tracing::warn!("no ctl serve has been heard of since {since}: schedules do not run");
            }
            (Some(_), None) => tracing::info!("a ctl serve lives again"),
            // Of the same absence nothing more is said.
            _ => return,
        }
        self.publish_status(false);
    }

    /// Why what may change the host is refused, where it is.
    fn refusal(&self) -> Option<String> {
        self.journal.refusal().or_else(|| Some(self.audit.trouble()?.to_string()))
    }

    /// When to publish that the number of running commands has changed. A command that ends sooner is not shown, so that
    /// many short ones cost little.
    pub(super) fn status_due(&mut self) -> Option<Instant> {
        if self.running.len() != self.shown_running {
            self.status_due.get_or_insert_with(|| Instant::now() + RUNNING_AFTER);
        }
        self.status_due
    }

    /// Publishes the number of running commands, if it is still another one.
    pub(super) fn publish_running(&mut self) {
        self.status_due = None;
        if self.running.len() != self.shown_running {
            self.publish_status(false);
        }
    }

    /// Logs, once, that the worker takes commands, and which.
    pub(super) fn report_ready(&mut self) {
        if std::mem::replace(&mut self.ready, true) {
            return;
        }
        let Config { slots, reserved, .. } = self.config;
        let specs = self.catalogue.specs().filter(|spec| spec.repeat == Repeat::Once && spec.allowed);
        let allowed: Vec<_> = specs.map(|spec| spec.name.as_str()).collect();
        let may = match &allowed[..] {
            [] => "nothing that changes this host is allowed (actions.allow)".to_owned(),
            allowed => format!("allowed to change this host: {}", allowed.join(", ")),
        };
        tracing::info!("ready: {slots} slots, {reserved} of them for actions that only read; {may}");
    }

    pub(super) fn publish_facts(&self) {
        let facts = self.services.collector.facts();
        let mut facts: Vec<(String, String)> = facts.into_iter().map(|(name, value)| (name, plain(&value))).collect();
        facts.push(("version".into(), VERSION.into()));
        facts.push(("host_key".into(), self.identity.key.line()));
        facts.push(("sealing_key".into(), self.identity.sealing_fact()));
        let specs: Vec<_> = self.catalogue.specs().collect();
        facts.push(("actions".into(), serde_json::to_string(&specs).expect("plain data always encodes")));
        let labels = self.config.labels.clone().into_iter().collect();
        self.write(Write::Facts { facts, labels });
    }

    /// Samples all groups in a task of its own; a slow disk delays nothing else.
    pub(super) fn sample(&mut self) {
        while let Some(sampled) = self.sampling.try_join_next() {
            self.sampled(sampled);
        }
        if !self.sampling.is_empty() {
            return;
        }
        let (services, writes) = (Arc::clone(&self.services), self.writes.clone());
        self.sampling.spawn(async move {
            let mut metrics = Vec::new();
            for group in MetricGroup::ALL {
                match services.collector.collect(group).await {
                    Ok(figures) => metrics.push((Topic::Group(group), figures)),
                    Err(error) => tracing::debug!("cannot sample {}: {}", group.name(), with_sources(&error)),
                }
            }
            let sample = history::sample(&metrics);
            let _ = writes.send(Write::Metrics(metrics));
            sample
        });
    }

    /// Counts a sample for the history, once it is known when by Redis' clock.
    pub(super) fn sampled(&mut self, sampled: Result<Sample, JoinError>) {
        let (Ok(sample), Some(history), true) = (sampled, &mut self.history, self.knows_time) else { return };
        if let Some(step) = history.add(self.clock.now(), &sample) {
            self.write(Write::History(vec![step]));
        }
    }
}
