//! Decisions, on their way to the audit trail.

use protocol::{
    command::Manifest,
    control::CancelOrder,
    outcome::{Outcome, State},
    secret::Digest,
};

use super::{ANSWERED, Dispatcher, FORGOTTEN};
use crate::{
    admission::{Disobeyed, Dropped, Refusal},
    audit::{About, Decision, Receipt, Verdict},
    delivery::{Asker, Delivery},
    log::{self, excerpt, with_sources},
};

/// The reason of a command that the journal knows.
const RAN_BEFORE: &str = "it ran before, and is not run again: its outcome is published anew";

/// What becomes of the command of an order to cancel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cancelled {
    Running,
    Waiting,
    /// It is not at work here, and never will be.
    Remembered,
    /// It is not at work here, and there is no room to remember the order.
    Forgotten,
}

impl Dispatcher {
    /// A command was admitted. If it may change the host, it must not start before its line is written.
    pub(super) fn accepted(
        &mut self,
        delivery: &Delivery,
        manifest: &Manifest,
        digest: &Digest,
        repeatable: bool,
        again: bool,
    ) -> Option<Receipt> {
        let spec = self.catalogue.spec(&manifest.action);
        let about = About::Command { manifest, digest, spec, asker: delivery.asker.as_deref() };
        let decision = Decision { about, verdict: Verdict::Accepted, reason: None, entry: &delivery.entry, again };
        if !repeatable {
            return Some(self.audit.record_first(&decision));
        }
        self.audit.record(&decision);
        None
    }

    /// A command has come to its end here.
    pub(super) fn count_end(&mut self, state: State) {
        *self.ended.entry(state).or_default() += 1;
    }

    /// A command was refused when it was read.
    pub(super) fn refused(
        &mut self,
        delivery: &Delivery,
        manifest: &Manifest,
        digest: &Digest,
        Refusal { state, reason }: &Refusal,
        again: bool,
    ) {
        self.count_end(*state);
        let spec = self.catalogue.spec(&manifest.action);
        let about = About::Command { manifest, digest, spec, asker: delivery.asker.as_deref() };
        let (verdict, entry) = (Verdict::Refused(*state), &delivery.entry);
        self.audit.record(&Decision { about, verdict, reason: Some(reason), entry, again });
    }

    /// A command that was admitted is refused before it has started.
    pub(super) fn refused_later(&mut self, delivery: &Delivery, state: State, reason: Option<&str>) {
        self.count_end(state);
        let about = About::Known { job: delivery.job, asker: delivery.asker.as_deref() };
        let (verdict, entry) = (Verdict::Refused(state), &delivery.entry);
        self.audit.record(&Decision { about, verdict, reason, entry, again: false });
    }

    /// The journal, or what it could not record, kept a command from running.
    pub(super) fn kept_from_running(&mut self, delivery: &Delivery, outcome: &Outcome) {
        if outcome.started_at_ms.is_none() || outcome.state == State::Interrupted {
            return self.refused_later(delivery, outcome.state, outcome.reason.as_deref());
        }
        let about = About::Known { job: delivery.job, asker: delivery.asker.as_deref() };
        let (verdict, entry) = (Verdict::Dropped(ANSWERED), &delivery.entry);
        self.audit.record(&Decision { about, verdict, reason: Some(RAN_BEFORE), entry, again: false });
    }

    /// An entry of the inbox was dropped.
    pub(super) fn dropped(&mut self, entry: &str, dropped: &Dropped) {
        let about = match dropped {
            Dropped::Duplicate(manifest) | Dropped::Early(_, manifest) | Dropped::Answered(manifest) => {
                About::Known { job: manifest.job, asker: None }
            }
            Dropped::Entry(_) | Dropped::Pending => About::Inbox,
        };
        let verdict = Verdict::Dropped(dropped.reason().unwrap_or(ANSWERED));
        let reason = excerpt(&with_sources(dropped), log::SENTENCE);
        self.audit.record(&Decision { about, verdict, reason: Some(&reason), entry, again: false });
    }

    /// An order to cancel is obeyed, as far as it can be.
    pub(super) fn ordered(&mut self, entry: &str, order: &CancelOrder, asker: &Asker, cancelled: Cancelled) {
        let (verdict, reason) = match cancelled {
            Cancelled::Running => (Verdict::Accepted, "its command runs, and is ended"),
            Cancelled::Waiting => (Verdict::Accepted, "its command waits, and does not start"),
            Cancelled::Remembered => {
                (Verdict::Accepted, "its command is not at work here, and does not start any more")
            }
            Cancelled::Forgotten => (Verdict::Dropped(FORGOTTEN), "no more orders can be remembered"),
        };
        let about =
            About::Cancel { order, asker, at_work: matches!(cancelled, Cancelled::Running | Cancelled::Waiting) };
        self.audit.record(&Decision { about, verdict, reason: Some(reason), entry, again: false });
    }

    /// An entry of the control stream was dropped, or the order in it is not obeyed.
    pub(super) fn disobeyed(&mut self, entry: &str, disobeyed: &Disobeyed) {
        let reason = excerpt(&with_sources(disobeyed), log::SENTENCE);
        let (about, verdict) = match disobeyed {
            Disobeyed::Entry(error) => (About::Control, Verdict::Dropped(error.reason())),
            Disobeyed::Refused { order, asker, .. } => {
                (About::Cancel { order, asker, at_work: false }, Verdict::Refused(State::Rejected))
            }
        };
        self.audit.record(&Decision { about, verdict, reason: Some(&reason), entry, again: false });
    }
}
