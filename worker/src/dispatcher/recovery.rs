//! What an earlier process left, and what may be forgotten.

use std::{sync::Arc, time::Duration};

use protocol::{clock::millis, limits, name::JobId};
use tokio::{sync::mpsc, time::sleep};

use super::{Dispatcher, PRUNE_EVERY};
use crate::{
    journal::{self, Found, Unpublished},
    process,
};

/// How long the first look into the journal may take before the work begins without it.
const RECOVER_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether another worker of this host has ended.
const LOCK_AGAIN: Duration = Duration::from_secs(1);

/// How long a cancelled job is remembered: longer than any of its commands may wait.
const CANCELLED_FOR: Duration = limits::START_BY_MAX.saturating_add(PRUNE_EVERY);

impl Dispatcher {
    /// Learns what an earlier process left, before anything is read. Another worker of this host is waited
    /// for, as both would answer the same commands; without a usable journal the work begins all the same.
    pub(super) async fn first_recovery(&mut self, recoveries: &mut mpsc::UnboundedReceiver<Result<Found, String>>) {
        loop {
            self.recover();
            match tokio::time::timeout(RECOVER_WITHIN, recoveries.recv()).await {
                Ok(Some(Ok(found))) => return self.resume(found),
                Ok(Some(Err(reason))) if journal::is_locked(&reason) => sleep(LOCK_AGAIN).await,
                _ => return,
            }
        }
    }

    /// Asks the journal what an earlier process left, and ends what that left running.
    fn recover(&self) {
        let (journal, recoveries) = (self.journal.clone(), self.recoveries.clone());
        let (identity, now) = (Arc::clone(&self.identity), self.clock.now());
        tokio::spawn(async move {
            let found = journal.reconcile(now).await;
            let unpublished = found.iter().flat_map(|found| &found.unpublished);
            let died: Vec<JobId> = unpublished.filter(|one| one.was_running).map(|one| one.job).collect();
            process::end_leftovers(&died, &identity.host).await;
            let _ = recoveries.send(found);
        });
    }

    /// Publishes what an earlier process finished or left in the middle.
    pub(super) fn resume(&mut self, found: Found) {
        if std::mem::replace(&mut self.recovered, true) {
            return;
        }
        self.cancelled.extend(found.cancelled);
        for Unpublished { job, entry, retention, outcome, was_running } in found.unpublished {
            if was_running {
                tracing::warn!(%job, host = %self.identity.host, "interrupted: the worker died while it ran");
                let (journal, entry, outcome) = (self.journal.clone(), entry.clone(), outcome.clone());
                tokio::spawn(async move { journal.finish(job, entry, retention, outcome).await });
            }
            self.inbox.take(entry.clone(), Some(job));
            self.inbox.is_journaled(&entry);
            self.publish(entry, job, outcome, retention);
        }
    }

    /// Sees whether a journal in trouble can be used again.
    pub(super) fn try_journal(&self) {
        if !self.recovered {
            self.recover();
        } else if self.journal.trouble().is_some() {
            self.journal.probe();
        }
    }

    pub(super) fn prune(&mut self) {
        // By a clock that is merely local, everything might look old.
        if !self.knows_time {
            return;
        }
        let now = self.clock.now();
        self.cancelled.retain(|_, at| at.saturating_add(millis(CANCELLED_FOR)) > now);
        self.journal.prune(now);
    }
}
