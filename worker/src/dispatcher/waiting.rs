//! Commands that wait for their turn: what they wait for is published, and their wait has a bound.

use protocol::{command::Manifest, name::JobId, time::Millis};
use tracing::Span;

use super::Dispatcher;
use crate::{
    actions::Call, admission, audit::Receipt, delivery::Delivery, journal::Prior, publisher::Write, schedule::Obstacle,
};

/// So many commands at the head of the queue are told exactly what they wait for, and again when that changes. Each
/// end of a command changes it for all that wait, so that to tell all of them would be work without bound.
const TOLD: usize = 20;

/// A command that was admitted and waits for its turn.
pub(super) struct Waiting {
    pub(super) delivery: Delivery,
    pub(super) manifest: Manifest,
    pub(super) call: Call,
    /// Its line in the audit trail, where it must be written before the command starts.
    pub(super) receipt: Option<Receipt>,
    pub(super) prior: Prior,
    /// When this process took it.
    pub(super) taken_ms: Millis,
    /// What was published last about its wait.
    pub(super) announced: Option<String>,
    pub(super) span: Span,
}

impl Dispatcher {
    /// Publishes what commands wait for, where that has changed.
    pub(super) fn announce_waiting(&mut self) {
        let told: Vec<String> =
            self.schedule.obstacles().take(TOLD).map(|(_, obstacle)| self.what(&obstacle)).collect();
        for (place, waiting) in self.schedule.waiting().enumerate() {
            let what = match told.get(place) {
                Some(what) => what.clone(),
                None if waiting.announced.is_none() => format!("its turn, behind {TOLD} others or more"),
                None => continue,
            };
            if waiting.announced.as_ref() != Some(&what) {
                waiting.announced = Some(what.clone());
                let _ = self.writes.send(Write::Waits { delivery: waiting.delivery.clone(), what });
            }
        }
    }

    /// What a command waits for, in words.
    fn what(&self, obstacle: &Obstacle<'_, Waiting>) -> String {
        match obstacle {
            Obstacle::Held(key) => match self.holder(key) {
                Some(job) => format!("{key}, held by job {}", job.short()),
                None => (*key).to_owned(),
            },
            Obstacle::Behind(key, before) => format!("{key}, behind job {}", before.delivery.job.short()),
            Obstacle::Slot { busy, of } => format!("a slot: {busy} of {of} busy"),
        }
    }

    fn holder(&self, key: &str) -> Option<JobId> {
        let mut running = self.running.iter();
        running.find(|(_, running)| running.claim.exclusion.as_deref() == Some(key)).map(|(job, _)| *job)
    }

    /// Ends the wait of commands that must not start any more: they have waited too long, or were taken too late.
    pub(super) fn expire_waiting(&mut self) {
        let now = self.clock.now();
        let is_over =
            |waiting: &Waiting| admission::may_start(&waiting.manifest, false, waiting.taken_ms, now).is_some();
        while let Some((claim, waiting)) = self.schedule.take(is_over) {
            self.start_or_refuse(claim, waiting, false);
        }
        self.wake_reader();
    }
}
