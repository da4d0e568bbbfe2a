//! What the worker says of itself and its host, whoever asks or not.

use std::sync::Arc;

use protocol::{VERSION, clock::millis, status::Status};

use super::Dispatcher;
use crate::{
    metrics::Group,
    publisher::{Write, plain},
};

impl Dispatcher {
    pub(super) fn say_status(&mut self, stopped: bool) {
        let now = self.clock.now();
        if self.started_at_ms == 0 {
            self.started_at_ms = now;
        }
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
            refuses: self.journal.refusal(),
            dropped: self.dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        };
        self.write(Write::Status(Box::new(status)));
    }

    pub(super) fn say_facts(&self) {
        let mut facts: Vec<(String, String)> =
            self.collector.facts().into_iter().map(|(name, value)| (name, plain(&value))).collect();
        facts.push(("version".into(), VERSION.into()));
        let catalogue = serde_json::to_string(&self.catalogue.specs()).expect("plain data always encodes");
        facts.push(("actions".into(), catalogue));
        let labels = self.config.labels.clone().into_iter().collect();
        self.write(Write::Facts { facts, labels });
    }

    /// Reads all groups in a task of its own; a slow disk delays nothing else.
    pub(super) fn sample(&mut self) {
        while self.sampling.try_join_next().is_some() {}
        if !self.sampling.is_empty() {
            return;
        }
        let (collector, writes) = (Arc::clone(&self.collector), self.writes.clone());
        self.sampling.spawn(async move {
            let mut metrics = Vec::new();
            for group in Group::ALL {
                match collector.collect(group).await {
                    Ok(figures) => metrics.push((group, figures)),
                    Err(error) => tracing::debug!("cannot sample {}: {error}", group.name()),
                }
            }
            let _ = writes.send(Write::Metrics(metrics));
        });
    }
}
