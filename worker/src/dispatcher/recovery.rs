//! Recovery of what a prior process left, and removal of old records.

use std::{sync::Arc, time::Duration};

use protocol::{
    clock::{FleetClock, millis},
    limits,
    name::JobId,
};
use tokio::{sync::mpsc, time::sleep};

use super::{Dispatcher, PRUNE_EVERY};
use crate::{
    journal::{Found, JournalError, Unpublished},
    program,
};

/// What the journal found, or why it could not be read.
pub(super) type Recovery = Result<Found, JournalError>;

/// How long the first read of the journal may take before the work begins without it.
const RECOVER_WITHIN: Duration = Duration::from_secs(10);

/// How often the journal is tried while another worker of this host has it.
const LOCK_AGAIN: Duration = Duration::from_secs(1);

/// How long a cancelled job is remembered: longer than any of its commands may wait.
const CANCELLED_FOR: Duration = limits::START_BY_MAX.saturating_add(limits::QUEUE_MAX).saturating_add(PRUNE_EVERY);

impl Dispatcher {
    /// Publishes what a prior process left, before any command is read. Waits until another worker of this host has
    /// ended, as both would execute the same commands. Without a usable journal the work begins all the same.
    pub(super) async fn first_recovery(&mut self, recoveries: &mut mpsc::UnboundedReceiver<Recovery>) {
        let mut waits = false;
        loop {
            self.recover();
            match tokio::time::timeout(RECOVER_WITHIN, recoveries.recv()).await {
                Ok(Some(Ok(found))) => {
                    if waits {
                        tracing::info!("the other worker of this host has ended: this one takes over");
                    }
                    return self.publish_found(found);
                }
                Ok(Some(Err(error))) if error.is_locked() => {
                    if !std::mem::replace(&mut waits, true) {
                        tracing::warn!(
                            "another worker of this host is running: this one waits until that one has ended"
                        );
                    }
                    sleep(LOCK_AGAIN).await;
                }
                _ => return,
            }
        }
    }

    /// Asks the journal what a prior process left, and ends the programs that are left running.
    fn recover(&self) {
        let (journal, recoveries) = (self.journal.clone(), self.recoveries.clone());
        let (identity, now) = (Arc::clone(&self.identity), self.clock.now());
        tokio::spawn(async move {
            let found = journal.reconcile(now).await;
            let unpublished = found.iter().flat_map(|found| &found.unpublished);
            let died: Vec<JobId> = unpublished.filter(|one| one.was_running).map(|one| one.delivery.job).collect();
            program::end_leftovers(&died, &identity.host).await;
            let _ = recoveries.send(found);
        });
    }

    /// Publishes the outcomes of commands that a prior process finished or had only started.
    pub(super) fn publish_found(&mut self, found: Found) {
        if std::mem::replace(&mut self.recovered, true) {
            return;
        }
        self.cancelled.extend(found.cancelled);
        for Unpublished { delivery, outcome, was_running } in found.unpublished {
            if was_running {
                tracing::warn!(job = %delivery.job, host = %self.identity.host, "interrupted: the worker died while it ran");
                let (journal, delivery, outcome) = (self.journal.clone(), delivery.clone(), outcome.clone());
                tokio::spawn(async move { journal.finish(delivery, outcome).await });
            }
            self.pending.add(delivery.entry.clone(), delivery.job);
            self.pending.mark_journaled(&delivery.entry);
            self.publish_end(delivery, outcome, Vec::new());
        }
    }

    /// Looks whether the journal is still there, and tries whether one in trouble can be used again.
    pub(super) fn try_journal(&self) {
        if self.recovered {
            self.journal.probe();
        } else {
            self.recover();
        }
    }

    pub(super) fn prune(&mut self) {
        self.services.artifacts.prune();
        // By the local clock every record might look old.
        if !self.knows_time {
            return;
        }
        // Whoever owns Redis can set its clock ahead. What is forgotten too early could run once more, or nothing any more.
        let now = self.clock.now().min(FleetClock::local().now());
        self.cancelled.retain(|_, at| at.saturating_add(millis(CANCELLED_FOR)) > now);
        self.journal.prune(now);
    }
}
