//! Admission: admits, refuses or drops each entry of the inbox. Pure functions of the entry and of what is known.
//!
//! An entry is judged twice. When it is read, [`open`] and [`admit`] check, in this order: size → version →
//! target → signature → replay → policy → arguments → deadline. When its turn to start comes, which may be
//! much later, [`may_start`] checks how long it has waited, and [`start`] what the journal replied.

use std::time::Duration;

use protocol::{
    action::{ArgumentError, Arguments, Repeat},
    clock::millis,
    command::{EntryError, Envelope, Manifest},
    limits,
    outcome::{Outcome, State},
    secret::{self, Digest, SecretError, Secrets},
    signed::Fields,
    time::{Millis, show_duration},
};

use crate::{
    actions::{Call, Catalogue},
    audit::AuditError,
    fault::{self, Bug},
    identity::Identity,
    journal::{Begin, Prior},
    log::{self, excerpt, with_sources},
    pending::Pending,
    schedule::Claim,
};

/// How far a controller's clock may be ahead.
const FUTURE_MARGIN: Duration = Duration::from_secs(3600);

/// The reason of a command that was cancelled before it started.
pub(crate) const BEFORE_START: &str = "before it started";

/// A command for this host, as read from its entry.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) manifest: Manifest,
    /// Of the manifest's bytes as they were received.
    pub(crate) digest: Digest,
    secrets: Result<Secrets, SecretError>,
    /// The size of its manifest and secrets: about the memory that it takes.
    pub(crate) bytes: usize,
}

/// Reads an entry: size, version, target, signature.
pub(crate) fn open(mut fields: Fields, identity: &Identity) -> Result<Opened, EntryError> {
    let envelope = Envelope::<Manifest>::take(&mut fields)?;
    let secrets = Secrets::take(&mut fields);
    let manifest = envelope.open(&identity.host)?;
    if manifest.namespace != identity.namespace {
        return Err(EntryError::NotForThisHost);
    }
    // The place to verify `envelope.signed.signature` over `envelope.signed.bytes`: nothing is signed yet.
    let bytes = envelope.signed.bytes.len() + secrets.as_ref().map_or(0, Secrets::size);
    let digest = secret::digest(&envelope.signed.bytes);
    Ok(Opened { manifest, digest, secrets, bytes })
}

/// What the worker knows when it judges an entry.
pub(crate) struct Known<'a> {
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) pending: &'a Pending,
    /// The command's published state, if one was looked up and found.
    pub(crate) published: Option<State>,
    /// Whether the command was cancelled.
    pub(crate) cancelled: bool,
    pub(crate) now: Millis,
}

/// The decision about an entry.
pub(crate) enum Admission {
    /// The command may start when its turn comes.
    Admitted(Manifest, Admitted),
    /// No outcome is due: the entry names no job, or its job is being handled or has an outcome.
    Dropped(Dropped),
    /// The command never starts, and its outcome states the reason.
    Refused(Manifest, Refusal),
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
            Self::Pending | Self::Answered(_) => None,
        }
    }

    /// All drop counters.
    pub(crate) fn reasons() -> impl Iterator<Item = &'static str> {
        EntryError::REASONS.into_iter().chain(["duplicate"])
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
    let Opened { manifest, secrets, .. } = match opened {
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
    match check(&manifest, secrets, known) {
        Ok(admitted) => Admission::Admitted(manifest, admitted),
        Err(refusal) => Admission::Refused(manifest, refusal),
    }
}

fn check(manifest: &Manifest, secrets: Result<Secrets, SecretError>, known: &Known<'_>) -> Result<Admitted, Refusal> {
    let name = || excerpt(&manifest.action, log::NAME);
    let spec = known.catalogue.spec(&manifest.action).ok_or_else(|| Rejection::Unknown(name()))?;
    if !spec.allowed {
        return Err(Rejection::NotAllowed(name()).into());
    }

    let mut arguments: Arguments = manifest.arguments.clone();
    let is_secret = |name: &String| spec.parameter(name).is_some_and(|parameter| parameter.secret);
    let (mut clear, mut sealed) = (arguments.keys(), manifest.secrets.keys());
    if let Some(name) = clear.find(|name| is_secret(name)).or_else(|| sealed.find(|name| !is_secret(name))) {
        return Err(Rejection::Secrecy(excerpt(name, log::NAME)).into());
    }
    arguments.extend(secrets.and_then(|secrets| secrets.open(&manifest.secrets)).map_err(Rejection::from)?);
    let arguments = spec.check(arguments).map_err(Rejection::from)?;
    let call = known.catalogue.prepare(&manifest.action, arguments).ok_or_else(|| Rejection::Unknown(name()))?;
    let call = call.map_err(Rejection::Shape)?;

    let longest = millis(limits::START_BY_MAX);
    if manifest.start_by_ms.saturating_sub(manifest.issued_at_ms) > longest {
        return Err(Rejection::LongWait.into());
    }
    if manifest.start_by_ms.saturating_sub(known.now) > longest + millis(FUTURE_MARGIN) {
        return Err(Rejection::Future.into());
    }
    let repeatable = spec.repeat == Repeat::Repeatable;
    // A command that must not run twice may have run already: its executor asks the journal first.
    match may_start(manifest, known.cancelled, known.now, known.now) {
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
mod tests {
    use std::collections::BTreeMap;

    use protocol::{action::Argument, name::JobId, signed::Signed, targets::Targets};

    use super::*;
    use crate::{actions::specs, policy::Policy};

    const NOW: Millis = 1_790_000_000_000;

    fn manifest(action: &str) -> Manifest {
        let argv = Argument::List(vec!["true".into()]);
        Manifest {
            job: JobId::new(),
            action: action.into(),
            arguments: if action == "exec" { Arguments::from([("argv".into(), argv)]) } else { Arguments::new() },
            secrets: BTreeMap::new(),
            operator: "ann@desk".into(),
            issued_at_ms: NOW,
            start_by_ms: NOW + 1000,
            timeout_ms: 1000,
            retention_ms: 1000,
            keep_output: None,
            targets: Targets::new(["web1".parse().unwrap()]).root(),
            namespace: None,
            trace: None,
        }
    }

    fn fields(manifest: &Manifest, secrets: &Secrets) -> Fields {
        let targets = Targets::new(["web1".parse().unwrap()]);
        let (_, proof) = targets.proofs().next().unwrap();
        let envelope = Envelope { signed: Signed::unsigned(manifest), proof };
        let fields = envelope.fields().into_iter().chain(secrets.field());
        fields.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What the worker knows about a command. Each test changes it as needed.
    struct Setting {
        catalogue: Catalogue,
        pending: Pending,
        published: Option<State>,
        cancelled: bool,
        now: Millis,
    }

    impl Setting {
        fn new() -> Self {
            let catalogue = Catalogue::new(&Policy::default_of(&specs(), &["exec".into()]));
            Self { catalogue, pending: Pending::default(), published: None, cancelled: false, now: NOW }
        }

        fn admit_fields(&self, fields: Fields) -> Admission {
            let Self { catalogue, pending, published, cancelled, now } = self;
            let known = Known { catalogue, pending, published: *published, cancelled: *cancelled, now: *now };
            admit("1-1", open(fields, &Identity::new("web1".parse().unwrap(), None)), &known)
        }

        fn admit(&self, manifest: &Manifest) -> Admission {
            self.admit_fields(fields(manifest, &Secrets::default()))
        }

        fn refusal(&self, manifest: &Manifest) -> Refusal {
            match self.admit(manifest) {
                Admission::Refused(_, refusal) => refusal,
                Admission::Admitted(..) => panic!("admitted"),
                Admission::Dropped(dropped) => panic!("dropped: {dropped}"),
            }
        }
    }

    fn rejected(reason: &str) -> Refusal {
        Refusal::new(State::Rejected, reason)
    }

    #[test]
    fn each_check_has_its_verdict() {
        let setting = Setting::new();
        assert!(
            matches!(setting.admit(&manifest("exec")), Admission::Admitted(_, admitted) if !admitted.claim.repeatable)
        );
        assert_eq!(setting.refusal(&manifest("dance")), rejected("unknown action 'dance'"));
        let needs = "exec needs -- ARGV…: the program and its arguments; no shell is involved";
        let bare = Manifest { arguments: Arguments::new(), ..manifest("exec") };
        assert_eq!(setting.refusal(&bare), rejected(needs));
        let week = millis(limits::START_BY_MAX);
        let long = Manifest { start_by_ms: NOW + week + 1, ..manifest("ping") };
        assert_eq!(setting.refusal(&long).state, State::Rejected);
        let issued_at_ms = NOW + millis(FUTURE_MARGIN) + 1;
        let future = Manifest { issued_at_ms, start_by_ms: issued_at_ms + week, ..manifest("ping") };
        assert_eq!(setting.refusal(&future), rejected("its start-by is too far in the future"));

        let locked = Setting { catalogue: Catalogue::new(&Policy::default_of(&specs(), &[])), ..Setting::new() };
        assert!(locked.refusal(&manifest("exec")).reason.contains("not allowed by this worker's configuration"));
    }

    #[test]
    fn earlier_checks_come_first() {
        let secret = Secrets::default();
        let mut setting = Setting { now: NOW + 5000, published: Some(State::Failed), ..Setting::new() };
        setting.pending.add_dropped("2-2".into(), None);
        // The entry has several faults at once, which are mended one after another.
        let mut wrong =
            fields(&Manifest { targets: Targets::new(["db1".parse().unwrap()]).root(), ..manifest("dance") }, &secret);
        wrong.insert("version".into(), b"9".to_vec());
        wrong.insert("signature".into(), vec![0; limits::SIGNATURE_BYTES + 1]);
        let dropped = |fields: &Fields| match setting.admit_fields(fields.clone()) {
            Admission::Dropped(dropped) => dropped.reason(),
            _ => panic!("not dropped"),
        };
        assert_eq!(dropped(&wrong), Some("oversize"));
        wrong.remove("signature");
        assert_eq!(dropped(&wrong), Some("unknown_version"));
        wrong.insert("version".into(), b"1".to_vec());
        assert_eq!(dropped(&wrong), Some("not_for_this_host"));
        let dance = manifest("dance");
        assert_eq!(dropped(&fields(&dance, &secret)), None, "it has an outcome already");
        let mut setting = Setting { published: None, ..setting };
        setting.pending.add("3-3".into(), dance.job);
        assert!(matches!(setting.admit(&dance), Admission::Dropped(Dropped::Duplicate(_))));
        assert_eq!(setting.refusal(&manifest("dance")), rejected("unknown action 'dance'"));
        assert_eq!(setting.refusal(&manifest("ping")).state, State::Expired);
    }

    #[test]
    fn a_command_of_another_fleet_is_dropped() {
        let prod = Manifest { namespace: Some("prod".parse().unwrap()), ..manifest("ping") };
        let fields = fields(&prod, &Secrets::default());
        let open = |namespace: Option<&str>| {
            let namespace = namespace.map(|name| name.parse().unwrap());
            open(fields.clone(), &Identity::new("web1".parse().unwrap(), namespace)).map(|_| ())
        };
        assert!(open(Some("prod")).is_ok());
        for other in [None, Some("test")] {
            assert_eq!(open(other).unwrap_err().reason(), "not_for_this_host");
        }
    }

    #[test]
    fn an_entry_that_is_being_handled_is_left_alone() {
        let mut setting = Setting::new();
        setting.pending.add_dropped("1-1".into(), None);
        assert!(matches!(setting.admit_fields(Fields::new()), Admission::Dropped(Dropped::Pending)));
    }

    #[test]
    fn deadlines_and_cancels_are_for_the_journal_where_it_may_have_run() {
        for setting in [Setting { now: NOW + 5000, ..Setting::new() }, Setting { cancelled: true, ..Setting::new() }] {
            assert!(matches!(setting.admit(&manifest("exec")), Admission::Admitted(..)));
            let state = setting.refusal(&manifest("ping")).state;
            assert_eq!(state, if setting.cancelled { State::Cancelled } else { State::Expired });
        }
    }

    #[test]
    fn secrets_must_be_the_ones_that_were_asked_for() {
        let setting = Setting::new();
        let value = Arguments::from([("secret".into(), Argument::Map([("TOKEN".into(), "hunter2".into())].into()))]);
        let sealed = Secrets::seal(&value);
        let asked = Manifest { secrets: sealed.digests(), ..manifest("exec") };
        assert!(matches!(setting.admit_fields(fields(&asked, &sealed)), Admission::Admitted(..)));
        let refused = |fields: Fields| match setting.admit_fields(fields) {
            Admission::Refused(_, refusal) => refusal.reason,
            _ => panic!("not refused"),
        };
        for reason in [
            refused(fields(&asked, &Secrets::default())),
            refused(fields(&asked, &Secrets::seal(&value))),
            refused(fields(&Manifest { arguments: value.clone(), ..manifest("exec") }, &Secrets::default())),
        ] {
            assert!(reason.contains("secret") && !reason.contains("hunter2"), "{reason}");
        }
        // Only parameters that the action declares secret may come as secrets: other values are not kept out of errors,
        // and a secret must not replace an argument that the job's record shows.
        for name in ["user", "argv", "none"] {
            let sealed = Secrets::seal(&Arguments::from([(name.into(), Argument::Text("hunter2".into()))]));
            let reason = refused(fields(&Manifest { secrets: sealed.digests(), ..manifest("exec") }, &sealed));
            assert!(reason.contains("no other value may") && !reason.contains("hunter2"), "{reason}");
        }
        // A value of the wrong kind is not quoted.
        let wrong = Secrets::seal(&Arguments::from([("secret".into(), Argument::Text("hunter2".into()))]));
        let reason = refused(fields(&Manifest { secrets: wrong.digests(), ..manifest("exec") }, &wrong));
        assert!(reason.contains("secret must be values by name") && !reason.contains("hunter2"), "{reason}");
    }

    #[test]
    fn what_was_taken_in_time_may_wait_for_its_turn_within_bounds() {
        let longest = millis(limits::QUEUE_MAX);
        let at = |now| may_start(&manifest("exec"), false, NOW, now);
        assert_eq!(at(NOW + longest), None);
        assert_eq!(at(NOW + longest + 1).unwrap().reason, "its turn did not come within 12h");
    }

    #[test]
    fn the_journal_has_the_last_word_on_what_must_not_run_twice() {
        let late = may_start(&manifest("exec"), false, NOW + 3000, NOW + 3000).unwrap();
        assert_eq!(late.reason, "the worker took it 2s after its start-by");
        assert_eq!(may_start(&manifest("exec"), false, NOW + 1000, NOW + 1000), None);
        let known = Box::new(Outcome::bare(State::Failed, None, NOW));
        let judged = |reply, prior| start(reply, prior, Some(late.clone()), "exec");
        assert!(matches!(judged(Begin::Go, Prior::None), StartVerdict::Go));
        assert!(matches!(judged(Begin::Known(Some(known)), Prior::Running), StartVerdict::Ended(_)));
        assert!(matches!(judged(Begin::NotAllowed, Prior::None), StartVerdict::Refused(refusal) if refusal == late));
        for prior in [Prior::Delivered, Prior::Running] {
            assert!(matches!(judged(Begin::Lost, prior), StartVerdict::Interrupted(_)));
        }
    }
}
