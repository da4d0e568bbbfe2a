//! Admission: admits, refuses or drops each entry of the inbox. Pure functions of the entry and of what is known.
//!
//! An entry is judged twice. When it is read, [`open`] and [`admit`] check, in this order: size → version →
//! target → signature and id → replay → policy → arguments → deadline. When its turn to start comes, which may be
//! much later, [`may_start`] checks how long it has waited, and [`start`] what the journal replied.

mod approvals;
mod standing;

use std::{sync::Arc, time::Duration};

use protocol::{
    action::{ActionSpec, ArgumentError, Arguments, Repeat},
    approval::Approvals,
    clock::millis,
    command::{EntryError, Envelope, Manifest},
    control::CancelOrder,
    limits,
    outcome::{Outcome, State},
    sealing::{SealedKey, UnsealingKey},
    secret::{self, Digest, JobKey, SecretError},
    signed::{self, Fields, Signed},
    standing::Unfounded,
    statement,
    time::{Millis, show_duration, show_moment},
    trust::{
        self,
        sshsig::{self, Signature},
    },
};

use self::approvals::Counted;
use crate::{
    actions::{Call, Catalogue},
    audit::AuditError,
    delivery::Asker,
    fault::{self, Bug},
    identity::Identity,
    journal::{Begin, Prior},
    log::{self, excerpt, with_sources},
    pending::Pending,
    policy::{Decision, Policy},
    schedule::Claim,
    trust::{Trusted, Unsigned},
};

/// The drop counter of orders that nobody who may give them has signed.
const UNTRUSTED: &str = "untrusted";

/// The reason of a command that was cancelled before it started.
pub(crate) const BEFORE_START: &str = "before it started";

/// A command for this host, as read from its entry.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) manifest: Manifest,
    /// Of the manifest's bytes as they were received.
    pub(crate) digest: Digest,
    /// What this host's statements name the command by.
    pub(crate) stated: Digest,
    /// Who asks for it.
    pub(crate) asker: Arc<Asker>,
    /// The key of its secrets.
    key: Result<SealedKey, SecretError>,
    /// Whether its operator is known and has signed it, and who else has.
    signed: Result<Counted, Untrusted>,
    /// The size of its manifest: about the memory that it takes.
    pub(crate) bytes: usize,
}

/// Reads an entry: size, version, target, signature.
pub(crate) fn open(mut fields: Fields, identity: &Identity, trusted: &Trusted) -> Result<Opened, EntryError> {
    let envelope = Envelope::<Manifest>::take(&mut fields)?;
    let key = SealedKey::take(&mut fields);
    let approvals = Approvals::take(&mut fields)?;
    let manifest = match envelope.open(&identity.host) {
        Err(EntryError::NotForThisHost) if fault::planted(Bug::NoTarget) => envelope.signed.open()?,
        manifest => manifest?,
    };
    if manifest.namespace != identity.namespace {
        return Err(EntryError::NotForThisHost);
    }
    let mut asker = Asker::claimed(&manifest.operator);
    let is_run = signed::is_voucher(&envelope.signed.signature);
    let signature = if is_run {
        let vouched = standing::vouch(&manifest, &envelope.signed, identity, trusted);
        vouched.map(|vouched| {
            asker.stands(&vouched.name, vouched.ends_prior);
            vouched.signature
        })
    } else {
        verify(&manifest.operator, &envelope.signed, trusted)
    };
    // Nobody is awake to approve a run, and an approval of all runs at once there is none.
    let approvals = if is_run { Approvals::default() } else { approvals };
    let signed = signature.and_then(|signature| {
        asker.has_signed(&manifest.operator, signature.as_ref());
        if !manifest.has_its_own_id() && !fault::planted(Bug::NoId) {
            return Err(Untrusted::Id);
        }
        let bytes = &envelope.signed.bytes;
        let counted = Counted::of(&approvals, &manifest.operator, signature.as_ref(), bytes, trusted);
        asker.is_approved_by(&counted.by);
        Ok(counted)
    });

    let Signed { bytes, signature, .. } = &envelope.signed;
    let digest = secret::digest(bytes);
    let stated = if signed.is_ok() { digest } else { statement::unverified(bytes, signature) };
    Ok(Opened { manifest, digest, stated, asker: Arc::new(asker), key, signed, bytes: bytes.len() })
}

impl Opened {
    /// Whether its operator is known and has signed it.
    pub(crate) const fn is_signed(&self) -> bool {
        self.signed.is_ok()
    }
}

/// Why nobody who is known answers for a document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Untrusted {
    #[error(transparent)]
    Signature(#[from] Unsigned),
    #[error("its id is not one that its operator can give it: the id is another job's, or made up")]
    Id,
    #[error(transparent)]
    Standing(#[from] Unfounded),
}

/// The operator's signature over exactly these bytes.
fn verify<T>(operator: &str, document: &Signed<T>, trusted: &Trusted) -> Result<Option<Signature>, Untrusted> {
    Ok(trusted.verify(sshsig::JOB, operator, &document.bytes, &document.signature)?)
}

/// Why an order to cancel is not obeyed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Disobeyed {
    /// It is no order that could be read.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Nobody who may give it has signed it.
    #[error("{reason}")]
    Refused { order: Box<CancelOrder>, asker: Arc<Asker>, reason: String },
}

impl Disobeyed {
    /// The drop counter that counts it.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Entry(error) => error.reason(),
            Self::Refused { .. } => UNTRUSTED,
        }
    }
}

/// Whether something was issued later than clocks may differ.
fn is_future(issued_at_ms: Millis, now: Millis) -> bool {
    issued_at_ms > now.saturating_add(millis(limits::CLOCK_MARGIN))
}

/// Judges an order to cancel: it must be signed by the job's own operator, or by somebody who may cancel any job.
pub(crate) fn judge_order(
    order: &Envelope<CancelOrder>,
    identity: &Identity,
    trusted: &Trusted,
    policy: &Policy,
    now: Millis,
) -> Result<(CancelOrder, Arc<Asker>), Disobeyed> {
    let document = order.open(&identity.host)?;
    let mut asker = Asker::claimed(&document.operator);
    let signature = verify(&document.operator, &order.signed, trusted);
    let signed = signature.map(|signature| asker.has_signed(&document.operator, signature.as_ref()));
    let owns = document.is_by_owner() || policy.may_cancel(&document.operator) || fault::planted(Bug::NoOwner);
    let reason = match signed {
        Err(untrusted) => excerpt(&with_sources(&untrusted), log::SENTENCE),
        Ok(()) if is_future(document.job.issued_at_ms(), now) => {
            "the job is from the future: Redis' clock was ahead then, or is behind now (`ctl doctor`)".into()
        }
        Ok(()) if owns => return Ok((document, Arc::new(asker))),
        Ok(()) => format!(
            "the job is not {0}'s own, and no rule lets {0} cancel the jobs of others (the right 'cancel')",
            asker.operator
        ),
    };
    Err(Disobeyed::Refused { order: Box::new(document), asker: Arc::new(asker), reason })
}

/// What the worker knows when it judges an entry.
pub(crate) struct Known<'a> {
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) policy: &'a Policy,
    /// Opens what is sealed to this host.
    pub(crate) unsealing: &'a UnsealingKey,
    pub(crate) pending: &'a Pending,
    /// The command's published state, if one was looked up and found.
    pub(crate) published: Option<State>,
    /// Whether the command was cancelled.
    pub(crate) cancelled: bool,
    pub(crate) now: Millis,
    /// When the command was taken: see [`FleetClock::judged`](protocol::clock::FleetClock::judged).
    pub(crate) taken_ms: Millis,
    /// What has come at least: see [`FleetClock::reached`](protocol::clock::FleetClock::reached).
    pub(crate) reached_ms: Millis,
}

/// The decision about an entry.
pub(crate) enum Admission {
    /// The command may start when its turn comes.
    Admitted(Manifest, Admitted),
    /// No outcome is due: the entry names no job, or its job is being handled or has an outcome.
    Dropped(Dropped),
    /// The command never starts, and its outcome states the reason. If that `must_last`, the journal must keep the command
    /// from starting later: its operator has signed it, and it may not be one that only reads.
    Refused { manifest: Manifest, refusal: Refusal, must_last: bool },
}

/// What a command needs to run.
pub(crate) struct Admitted {
    pub(crate) call: Call,
    pub(crate) claim: Claim,
}

/// Why an entry is dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Dropped {
    /// It was read again after a reconnect.
    #[error("it is being handled")]
    Pending,
    /// It names no job.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A command has more than one entry.
    #[error("it is a second entry of the same job")]
    Duplicate(Manifest),
    /// A standing order's run, before its time. It has no outcome: whoever sends runs too early must not keep them from
    /// running when they are due.
    #[error("the standing order '{0}' runs it at {at}, which this host's clocks have not reached", at = show_moment(.1.issued_at_ms))]
    Early(String, Manifest),
    /// Its outcome is published: by a prior process, or by this one when the command came the first time.
    #[error("it has an outcome already")]
    Answered(Manifest),
}

impl Dropped {
    /// The drop counter that counts it, if one does.
    pub(crate) const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Entry(error) => Some(error.reason()),
            Self::Duplicate(_) => Some("duplicate"),
            Self::Early(..) => Some("early"),
            Self::Pending | Self::Answered(_) => None,
        }
    }

    /// All drop counters.
    pub(crate) fn reasons() -> impl Iterator<Item = &'static str> {
        EntryError::REASONS.into_iter().chain(["duplicate", "early", UNTRUSTED])
    }
}

/// The end of a command that never starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) state: State,
    pub(crate) reason: String,
}

impl Refusal {
    fn new(state: State, reason: &str) -> Self {
        Self { state, reason: excerpt(reason, log::SENTENCE) }
    }

    /// The outcome to publish.
    pub(crate) fn outcome(self, now: Millis) -> Box<Outcome> {
        Box::new(Outcome::bare(self.state, Some(self.reason), now))
    }
}

/// Why a command is rejected.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// With a remark about approvals that do not count.
    #[error("{0}{1}")]
    Denied(Decision, String),
    #[error("unknown action '{0}'")]
    Unknown(String),
    #[error("'{0}' is not allowed by this worker's configuration (actions.allow)")]
    NotAllowed(String),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("the value of '{0}' must travel as a secret, and no other value may")]
    Secrecy(String),
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error("the arguments do not fit the action")]
    Shape(#[source] serde_json::Error),
    #[error("its start-by is later than {} after it was issued", show_duration(limits::START_BY_MAX))]
    LongWait,
    #[error("its start-by is too far in the future")]
    Future,
    #[error("it was issued in the future: Redis' clock was ahead then, or is behind now (`ctl doctor`)")]
    Issued,
    #[error("denied: no rule lets '{0}' give standing orders (the right '{1}')")]
    Standing(String, &'static str),
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::new(State::Rejected, &with_sources(&rejection))
    }
}

/// Judges an entry that was read: replay, policy, arguments, deadline.
pub(crate) fn admit(entry: &str, opened: Result<Opened, EntryError>, known: &Known<'_>) -> Admission {
    if known.pending.has(entry) {
        return Admission::Dropped(Dropped::Pending);
    }
    let Opened { manifest, digest, key, signed, asker, .. } = match opened {
        Ok(opened) => opened,
        Err(error) => return Admission::Dropped(error.into()),
    };
    if !fault::planted(Bug::NoDedup) {
        if known.pending.has_job(manifest.job) {
            return Admission::Dropped(Dropped::Duplicate(manifest));
        }
        if known.published.is_some_and(State::is_terminal) {
            return Admission::Dropped(Dropped::Answered(manifest));
        }
    }
    let is_repeatable = |spec: &ActionSpec| spec.repeat == Repeat::Repeatable;
    let must_last = signed.is_ok() && !known.catalogue.spec(&manifest.action).is_some_and(is_repeatable);
    if let Some(name) = &asker.standing_order
        && !standing::has_begun(&manifest, known.reached_ms)
    {
        return Admission::Dropped(Dropped::Early(name.clone(), manifest));
    }
    let judged = signed.map_err(Rejection::from).and_then(|approved| match asker.standing_order {
        Some(_) => standing::may_run(&manifest.operator, known.policy).map(|()| approved),
        None => Ok(approved),
    });
    let judged = judged.map_err(Refusal::from);
    match judged.and_then(|approved| check(&manifest, || known.unsealing.open(&key?, &digest), &approved, known)) {
        Ok(admitted) => Admission::Admitted(manifest, admitted),
        Err(refusal) => Admission::Refused { manifest, refusal, must_last },
    }
}

/// `key`: opens the key of the secrets, where there are any.
fn check(
    manifest: &Manifest,
    key: impl FnOnce() -> Result<JobKey, SecretError>,
    approved: &Counted,
    known: &Known<'_>,
) -> Result<Admitted, Refusal> {
    let name = || excerpt(&manifest.action, log::NAME);
    let spec = known.catalogue.spec(&manifest.action).ok_or_else(|| Rejection::Unknown(name()))?;
    if !spec.allowed {
        return Err(Rejection::NotAllowed(name()).into());
    }

    let mut arguments: Arguments = manifest.arguments.clone();
    let is_secret = |name: &String| spec.parameter(name).is_some_and(|parameter| parameter.secret);
    let (mut clear, mut sealed) = (arguments.keys(), manifest.secret_names());
    if let Some(name) = clear.find(|name| is_secret(name)).or_else(|| sealed.find(|name| !is_secret(name))) {
        return Err(Rejection::Secrecy(excerpt(name, log::NAME)).into());
    }
    if let Some(sealed) = &manifest.sealed {
        arguments.extend(key().and_then(|key| sealed.open(manifest.job, &key)).map_err(Rejection::from)?);
    }
    let approvers = approved.by.iter().map(|(principal, _)| principal);
    let principals: Vec<_> = [&manifest.operator].into_iter().chain(approvers).map(String::as_str).collect();
    let decision = known.policy.decide(&principals, spec, &arguments);
    if !decision.is_granted() && !fault::planted(Bug::NoPolicy) {
        return Err(Rejection::Denied(decision, approved.remark()).into());
    }
    let arguments = spec.check(arguments).map_err(Rejection::from)?;
    let call = known.catalogue.prepare(&manifest.action, arguments).ok_or_else(|| Rejection::Unknown(name()))?;
    let call = call.map_err(Rejection::Shape)?;

    let longest = millis(limits::START_BY_MAX);
    if manifest.start_by_ms.saturating_sub(manifest.issued_at_ms) > longest {
        return Err(Rejection::LongWait.into());
    }
    if manifest.start_by_ms.saturating_sub(known.now) > longest + millis(limits::CLOCK_MARGIN) {
        return Err(Rejection::Future.into());
    }
    if is_future(manifest.issued_at_ms, known.now) {
        return Err(Rejection::Issued.into());
    }
    let repeatable = spec.repeat == Repeat::Repeatable;
    // A command that must not run twice may have run already: its executor asks the journal first.
    match may_start(manifest, known.cancelled, known.taken_ms, known.now) {
        Some(refusal) if repeatable => Err(refusal),
        _ => Ok(Admitted { claim: Claim { repeatable, exclusion: call.exclusion.clone() }, call }),
    }
}

/// Why a command that has not started must not start any more; `None` where it may start.
///
/// The start-by is for the moment at which this process took the command (`taken_ms`): what it has accepted in time
/// starts when its turn comes. A later process that reads the command anew takes it anew.
pub(crate) fn may_start(manifest: &Manifest, cancelled: bool, taken_ms: Millis, now: Millis) -> Option<Refusal> {
    if cancelled {
        return Some(Refusal::new(State::Cancelled, BEFORE_START));
    }
    let expired = |reason: &str| Some(Refusal::new(State::Expired, reason));
    if let Some(late) = taken_ms.checked_sub(manifest.start_by_ms).filter(|late| *late > 0) {
        let late = show_duration(Duration::from_millis(late));
        return expired(&format!("the worker took it {late} after its start-by"));
    }
    if now.saturating_sub(taken_ms) > millis(limits::QUEUE_MAX) {
        return expired(&format!("its turn did not come within {}", show_duration(limits::QUEUE_MAX)));
    }
    None
}

/// The end of a command of which a signature has ceased to count while it waited.
pub(crate) fn distrusted(untrusted: &trust::Untrusted) -> Refusal {
    Refusal::new(State::Rejected, &format!("while it waited, this changed: {}", with_sources(untrusted)))
}

/// The end of a command that may change the host, where the decision to start it cannot be recorded.
pub(crate) fn unrecorded(action: &str, error: &AuditError) -> Refusal {
    Refusal::new(State::Rejected, &format!("'{action}' may change this host, and {error}"))
}

/// Whether a command that must not run twice starts.
pub(crate) enum StartVerdict {
    /// It starts.
    Go,
    /// It ran before, and ended with this outcome.
    Ended(Box<Outcome>),
    /// It never starts.
    Refused(Refusal),
    /// It may have run, or may still run. How far it came is not known.
    Interrupted(Refusal),
}

/// Judges the journal's reply. `refusal`: why the command must not start, if the journal does not know it.
pub(crate) fn start(reply: Begin, prior: Prior, refusal: Option<Refusal>, action: &str) -> StartVerdict {
    let refused = |state, reason: &str| StartVerdict::Refused(Refusal::new(state, reason));
    let twice = |reason: String| refused(State::Rejected, &format!("'{action}' must not run twice, and {reason}"));
    match reply {
        Begin::Known(_) if fault::planted(Bug::NoDedup) => StartVerdict::Go,
        Begin::Go => StartVerdict::Go,
        Begin::Known(Some(outcome)) => StartVerdict::Ended(outcome),
        Begin::Other => refused(State::Rejected, "another command had the id of this job, and was started"),
        Begin::Known(None) => refused(State::Interrupted, "it was started before; how it ended is not known"),
        Begin::Cancelled => refused(State::Cancelled, BEFORE_START),
        // The request did not allow the start, because there is a refusal.
        Begin::NotAllowed => refusal.map_or_else(|| twice("it may not start".into()), StartVerdict::Refused),
        Begin::Lost => StartVerdict::Interrupted(nobody_knows(prior, "the journal that knew more is gone")),
        Begin::Unavailable(error) if prior != Prior::None => {
            StartVerdict::Interrupted(nobody_knows(prior, &with_sources(&error)))
        }
        Begin::Unavailable(error) => twice(with_sources(&error)),
        Begin::Full(full) => twice(full.to_string()),
        Begin::Forgotten(until) => {
            let until = show_moment(until);
            twice(format!("this host has forgotten what ran of all that was issued until {until}; send it anew"))
        }
    }
}

fn nobody_knows(prior: Prior, why: &str) -> Refusal {
    let known = match prior {
        Prior::Running => "it was running when the prior worker process ended",
        Prior::None | Prior::Delivered => {
            "it was delivered to the prior worker process, and whether it ran is not known"
        }
    };
    Refusal::new(State::Interrupted, &format!("{known}: {why}"))
}

#[cfg(test)]
mod tests;
