//! Commands that come in: each is queued, refused or dropped.

use std::sync::Arc;

use protocol::{command::Manifest, limits, secret::Digest};
use tracing::{Span, info_span};

use super::{ANSWERED, Dispatcher, waiting::Waiting};
use crate::{
    admission::{self, Admission, Admitted, Dropped, Known, Refusal},
    delivery::Delivery,
    executor::Ask,
    fault::{self, Bug},
    journal::Prior,
    log::{self, excerpt, with_sources},
    publisher::Write,
    reader::Command,
};

impl Dispatcher {
    /// Judges a command that was read, and queues, refuses or drops it. Returns the entry if it is to be acknowledged
    /// without an outcome.
    pub(super) fn admit(&mut self, command: Command, prior: bool) -> Option<String> {
        let Command { entry, opened, published } = command;
        let (bytes, job) = opened.as_ref().map_or((0, None), |opened| (opened.bytes, Some(opened.manifest.job)));
        let (digest, stated, asker) = match &opened {
            Ok(opened) => (opened.digest, opened.stated, Arc::clone(&opened.asker)),
            Err(_) => (Digest::default(), Digest::default(), Arc::default()),
        };
        let known = Known {
            catalogue: &self.catalogue,
            policy: &self.config.policy,
            unsealing: &self.identity.unsealing,
            pending: &self.pending,
            published,
            cancelled: job.is_some_and(|job| self.cancelled.contains_key(&job)),
            now: self.clock.now(),
            taken_ms: if fault::planted(Bug::NoClock) {
                self.clock.now()
            } else {
                self.clock.judged(limits::CLOCK_MARGIN)
            },
            reached_ms: self.clock.reached(limits::CLOCK_MARGIN),
        };
        let (taken_ms, cancelled, now) = (known.taken_ms, known.cancelled, known.now);
        match admission::admit(&entry, opened, &known) {
            Admission::Admitted(manifest, Admitted { call, claim }) => {
                let (delivery, span) = (Delivery::new(entry, &manifest, stated, asker), self.span(&manifest));
                let receipt = self.accepted(&delivery, &manifest, &digest, claim.repeatable, prior);
                // What never starts ends nothing.
                if admission::may_start(&manifest, cancelled, taken_ms, now).is_none() {
                    self.end_prior_runs(&delivery);
                }
                let prior = Prior::of(published, prior);
                self.pending.add(delivery.entry.clone(), delivery.job);
                let waiting = Waiting { delivery, manifest, call, receipt, prior, taken_ms, announced: None, span };
                self.schedule.push(claim, waiting, bytes);
            }
            Admission::Refused { manifest, refusal, must_last } => {
                let (delivery, span) = (Delivery::new(entry, &manifest, stated, asker), self.span(&manifest));
                self.refused(&delivery, &manifest, &digest, &refusal, prior);
                self.pending.add(delivery.entry.clone(), delivery.job);
                if must_last {
                    self.refuse_for_good(delivery, manifest, &span, refusal, Prior::of(published, prior));
                } else {
                    self.refuse(delivery, &span, refusal);
                }
            }
            Admission::Dropped(dropped) => return self.drop_entry(entry, &dropped),
        }
        None
    }

    pub(super) fn span(&self, manifest: &Manifest) -> Span {
        let action = excerpt(&manifest.action, log::NAME);
        info_span!("command", job = %manifest.job, host = %self.identity.host, action)
    }

    fn drop_entry(&mut self, entry: String, dropped: &Dropped) -> Option<String> {
        if matches!(dropped, Dropped::Pending) {
            // The entry is acknowledged with its outcome.
            return None;
        }
        self.dropped(&entry, dropped);
        let logs = match dropped.reason() {
            Some(reason) => self.drops(reason),
            None => self.floods.admits(ANSWERED),
        };
        let job = match dropped {
            Dropped::Answered(manifest) => Some(manifest.job),
            // Another entry of the same job may still be meant for this host, or come in time.
            Dropped::Entry(_) | Dropped::Duplicate(_) | Dropped::Early(..) | Dropped::Pending => None,
        };
        match dropped {
            _ if !logs => {}
            Dropped::Answered(manifest) => self.span(manifest).in_scope(|| tracing::info!("{dropped}")),
            Dropped::Duplicate(manifest) | Dropped::Early(_, manifest) => {
                self.span(manifest).in_scope(|| tracing::warn!("dropped an entry: {dropped}"));
            }
            dropped => tracing::warn!(entry, "dropped an entry: {}", excerpt(&with_sources(dropped), log::SENTENCE)),
        }
        self.pending.add_dropped(entry.clone(), job);
        Some(entry)
    }

    /// Ends a command that never starts.
    pub(super) fn refuse(&self, delivery: Delivery, span: &Span, refusal: Refusal) {
        span.in_scope(|| tracing::warn!("{}: {}", refusal.state, refusal.reason));
        let outcome = refusal.outcome(self.clock.now());
        self.write(Write::Outcome { delivery, outcome, metrics: Vec::new() });
    }

    /// Ends a command that never starts, and records that. If the journal knows of a run, that run's outcome is the end.
    pub(super) fn refuse_for_good(
        &mut self,
        delivery: Delivery,
        manifest: Manifest,
        span: &Span,
        refusal: Refusal,
        prior: Prior,
    ) {
        span.in_scope(|| tracing::warn!("{}: {}", refusal.state, refusal.reason));
        self.pending.mark_journaled(&delivery.entry);
        let (journal, writes, clock) = (self.journal.clone(), self.writes.clone(), self.clock);
        let identity = Arc::clone(&self.identity);
        tokio::spawn(async move {
            let action = &manifest.action;
            let ask =
                Ask { journal: &journal, delivery: &delivery, prior, action, clock: &clock, host: &identity.host };
            let outcome = ask.journal(Some(refusal.clone())).await.unwrap_or_else(|| refusal.outcome(clock.now()));
            let _ = writes.send(Write::Outcome { delivery, outcome, metrics: Vec::new() });
        });
    }

    /// Why a command that has waited must not start any more: somebody who has signed it is trusted no more.
    pub(super) fn distrusted(&self, waiting: &Waiting) -> Option<Refusal> {
        let asker = waiting.delivery.asker.as_deref().filter(|_| !fault::planted(Bug::NoSecondLook))?;
        let untrusted = self.trusted.borrow().still_accepts(asker.purpose(), &asker.signatories).err()?;
        Some(admission::distrusted(&untrusted))
    }
}
