use std::sync::Arc;

use protocol::{
    action::Argument,
    approval::Approval,
    name::{JobId, Namespace},
    secret::Sealed,
    signed::Document,
    targets::Targets,
    trust::signing::SigningKey,
};
use ssh_key::{PrivateKey, private::Ed25519Keypair};

use super::*;
use crate::{
    HostKeys,
    actions::{OwnActions, specs},
    policy,
};

const NOW: Millis = 1_790_000_000_000;

fn manifest(action: &str) -> Manifest {
    let (salt, argv) = (JobId::salt(), Argument::List(vec!["true".into()]));
    Manifest {
        job: JobId::derive("ann@desk", NOW, &salt),
        salt,
        action: action.into(),
        arguments: if action == "exec" { Arguments::from([("argv".into(), argv)]) } else { Arguments::new() },
        sealed: None,
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

fn key(seed: u8) -> PrivateKey {
    PrivateKey::new(Ed25519Keypair::from_seed(&[seed; 32]).into(), "").unwrap()
}

/// A key for everybody, and one for bob.
fn trusted() -> Trusted {
    let [all, bob] = [7, 8].map(|seed| key(seed).public_key().to_openssh().unwrap());
    Trusted::of(&format!("* {all}\nbob {bob}\n"))
}

fn sign<T: Document>(document: &T, seed: u8) -> Signed<T> {
    let signed = Signed::unsigned(document);
    let signature = sshsig::sign(&key(seed), sshsig::JOB, &signed.bytes).unwrap().to_bytes();
    signed.with_signature(signature)
}

fn fields(manifest: &Manifest, key: Option<&SealedKey>) -> Fields {
    fields_of(sign(manifest, 7), key)
}

fn fields_of(signed: Signed<Manifest>, key: Option<&SealedKey>) -> Fields {
    let targets = Targets::new(["web1".parse().unwrap()]);
    let (_, proof) = targets.proofs().next().unwrap();
    let envelope = Envelope { signed, proof };
    let fields = envelope.fields().into_iter().chain(key.map(SealedKey::field));
    fields.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn identity(namespace: Option<Namespace>) -> Arc<Identity> {
    let keys = HostKeys { signing: SigningKey::generate(), unsealing: UnsealingKey::generate() };
    Identity::new("web1".parse().unwrap(), namespace, [("env".into(), "prod".into())].into(), keys)
}

/// What the worker knows about a command. Each test changes it as needed.
struct Setting {
    unsealing: UnsealingKey,
    catalogue: Catalogue,
    pending: Pending,
    published: Option<State>,
    cancelled: bool,
    now: Millis,
    policy: Policy,
}

impl Setting {
    fn new() -> Self {
        Self::allowing(Policy::default_of(&specs(), &["exec".into()]))
    }

    fn allowing(policy: Policy) -> Self {
        let catalogue = Catalogue::new(&policy, &OwnActions::default(), &Arc::default());
        let unsealing = UnsealingKey::generate();
        Self { unsealing, policy, catalogue, pending: Pending::default(), published: None, cancelled: false, now: NOW }
    }

    fn admit_fields(&self, fields: Fields) -> Admission {
        let Self { unsealing, catalogue, policy, pending, published, cancelled, now } = self;
        let (published, cancelled, now, taken_ms) = (*published, *cancelled, *now, *now);
        let known =
            Known { catalogue, policy, unsealing, pending, published, cancelled, now, taken_ms, reached_ms: now };
        admit("1-1", open(fields, &identity(None), &trusted()), &known)
    }

    fn admit(&self, manifest: &Manifest) -> Admission {
        self.admit_fields(fields(manifest, None))
    }

    fn refusal(&self, manifest: &Manifest) -> Refusal {
        self.refusal_of(fields(manifest, None))
    }

    fn refusal_of(&self, fields: Fields) -> Refusal {
        match self.admit_fields(fields) {
            Admission::Refused { refusal, .. } => refusal,
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
    assert!(matches!(setting.admit(&manifest("exec")), Admission::Admitted(_, admitted) if !admitted.claim.repeatable));
    assert_eq!(setting.refusal(&manifest("dance")), rejected("unknown action 'dance'"));
    let needs = "exec needs -- ARGV…: the program and its arguments; no shell is involved";
    let bare = Manifest { arguments: Arguments::new(), ..manifest("exec") };
    assert_eq!(setting.refusal(&bare), rejected(needs));
    let week = millis(limits::START_BY_MAX);
    let long = Manifest { start_by_ms: NOW + week + 1, ..manifest("ping") };
    assert_eq!(setting.refusal(&long).state, State::Rejected);
    let ahead = Setting { now: NOW - millis(limits::CLOCK_MARGIN) - 1, ..Setting::new() };
    assert!(ahead.refusal(&manifest("ping")).reason.starts_with("it was issued in the future"));
    let far = Manifest { start_by_ms: NOW + week, ..manifest("ping") };
    assert_eq!(ahead.refusal(&far), rejected("its start-by is too far in the future"));

    let locked = Setting::allowing(Policy::default_of(&specs(), &[]));
    assert!(locked.refusal(&manifest("exec")).reason.contains("not allowed by this worker's configuration"));
}

#[test]
fn earlier_checks_come_first() {
    let mut setting = Setting { now: NOW + 5000, published: Some(State::Failed), ..Setting::new() };
    setting.pending.add_dropped("2-2".into(), None);
    // The entry has several faults at once, which are mended one after another.
    let mut wrong =
        fields(&Manifest { targets: Targets::new(["db1".parse().unwrap()]).root(), ..manifest("dance") }, None);
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
    assert_eq!(dropped(&fields(&dance, None)), None, "it has an outcome already");
    let mut setting = Setting { published: None, ..setting };
    setting.pending.add("3-3".into(), dance.job);
    assert!(matches!(setting.admit(&dance), Admission::Dropped(Dropped::Duplicate(_))));
    let unsigned = fields_of(Signed::unsigned(&manifest("dance")), None);
    assert_eq!(setting.refusal_of(unsigned), rejected("it is not signed"));
    assert_eq!(setting.refusal(&manifest("dance")), rejected("unknown action 'dance'"));
    assert_eq!(setting.refusal(&manifest("ping")).state, State::Expired);
}

#[test]
fn only_what_its_operator_signed_is_admitted() {
    let (setting, ping) = (Setting::new(), manifest("ping"));
    let reason = |signed: Signed<Manifest>| setting.refusal_of(fields_of(signed, None)).reason;
    // Bob's key does not speak for ann, and a stranger's for nobody.
    for seed in [8, 9] {
        assert!(reason(sign(&ping, seed)).contains("is not trusted as 'ann@desk'"));
    }
    let elsewhere = sign(&Manifest { timeout_ms: 2000, ..ping.clone() }, 7).signature;
    assert!(reason(Signed::unsigned(&ping).with_signature(elsewhere)).contains("does not"));
    assert!(reason(Signed::unsigned(&ping).with_signature(b"SSHSIG".to_vec())).contains("signature"));
    let theirs = Manifest { operator: "bob".into(), ..ping.clone() };
    assert!(reason(sign(&theirs, 8)).contains("its id is not one that its operator can give it"));
    assert!(matches!(setting.admit(&ping), Admission::Admitted(..)));
}

#[test]
fn the_policy_says_what_a_known_signer_may_run() {
    let policy = "[[policy]]\nwho = ['bob']\nactions = ['exec']";
    let setting = Setting::allowing(policy::tests::policy(policy));
    let reason = setting.refusal(&manifest("exec")).reason;
    assert_eq!(reason, "denied: no rule lets 'ann@desk' run exec");
}

/// An order to cancel a job of ann, by somebody.
fn order(operator: &str, seed: u8) -> Envelope<CancelOrder> {
    let targets = Targets::new(["web1".parse().unwrap()]);
    let job = manifest("exec");
    let order = CancelOrder::new(&job, &Signed::unsigned(&job), targets.root(), operator.into(), NOW);
    let (_, proof) = targets.proofs().next().unwrap();
    Envelope { signed: sign(&order, seed), proof }
}

#[test]
fn a_job_is_cancelled_by_its_operator_or_by_those_who_may() {
    let judge = |order: &Envelope<CancelOrder>, policy: &str, now| {
        let identity = identity(None);
        judge_order(order, &identity, &trusted(), &policy::tests::policy(policy), now).map(|(order, asker)| {
            assert_eq!(asker.principal.as_deref(), Some(&*order.operator));
            order.operator
        })
    };
    assert_eq!(judge(&order("ann@desk", 7), "", NOW).unwrap(), "ann@desk");
    let refused = |order: &Envelope<CancelOrder>, now| judge(order, "", now).unwrap_err().to_string();
    assert!(refused(&order("ann@desk", 8), NOW).contains("is not trusted as 'ann@desk'"));
    assert!(refused(&order("bob", 8), NOW).contains("the job is not bob's own"));
    let may = "[[policy]]\nwho = ['bob']\nactions = ['cancel']";
    assert_eq!(judge(&order("bob", 8), may, NOW).unwrap(), "bob");
    assert!(refused(&order("ann@desk", 7), NOW - 3_700_000).contains("from the future"));
}

#[test]
fn a_command_of_another_fleet_is_dropped() {
    let prod = Manifest { namespace: Some("prod".parse().unwrap()), ..manifest("ping") };
    let fields = fields(&prod, None);
    let open = |namespace: Option<&str>| {
        let namespace = namespace.map(|name| name.parse().unwrap());
        open(fields.clone(), &identity(namespace), &trusted()).map(|_| ())
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

impl Setting {
    /// Adds secrets to a manifest. Returns their key, too, sealed to this host.
    fn seal(&self, manifest: Manifest, secrets: Arguments) -> (Manifest, SealedKey) {
        let key = JobKey::generate();
        let sealed = Sealed::seal(manifest.job, secrets, &key).unwrap();
        let manifest = Manifest { sealed: Some(sealed), ..manifest };
        let host = self.unsealing.public(None, "web1".parse().unwrap());
        let key = host.seal(&key, &secret::digest(&Signed::unsigned(&manifest).bytes));
        (manifest, key)
    }
}

#[test]
fn secrets_must_be_the_ones_that_were_signed_for_this_host() {
    let setting = Setting::new();
    let token = || Argument::Map([("TOKEN".into(), "hunter2".into())].into());
    let sealed = |name: &str, value: Argument| setting.seal(manifest("exec"), Arguments::from([(name.into(), value)]));
    let (asked, key) = sealed("secret", token());
    assert!(matches!(setting.admit_fields(fields(&asked, Some(&key))), Admission::Admitted(..)));
    let (_, anothers) = sealed("secret", token());
    let elsewhere = Setting::new().seal(manifest("exec"), Arguments::new()).1;
    let other = Manifest { sealed: asked.sealed.clone(), ..manifest("exec") };
    let clear = Manifest { arguments: Arguments::from([("secret".into(), token())]), ..manifest("exec") };
    for (fields, expected) in [
        (fields(&asked, None), "the key of its secret arguments is missing"),
        (fields(&asked, Some(&anothers)), "belongs to another command"),
        (fields(&asked, Some(&elsewhere)), "is not sealed to this host's sealing key"),
        (fields(&other, Some(&key)), "belongs to another command"),
        (fields(&clear, None), "must travel as a secret"),
    ] {
        let refusal = setting.refusal_of(fields);
        assert_eq!(refusal.state, State::Rejected);
        assert!(refusal.reason.contains(expected) && !refusal.reason.contains("hunter2"), "{}", refusal.reason);
    }
    // Only parameters that the action declares secret may come as secrets: other values are not kept out of errors,
    // and a secret must not replace an argument that the job's record shows.
    for name in ["user", "argv", "none"] {
        let (asked, key) = sealed(name, Argument::Text("hunter2".into()));
        let reason = setting.refusal_of(fields(&asked, Some(&key))).reason;
        assert!(reason.contains("no other value may") && !reason.contains("hunter2"), "{reason}");
    }
    // A value of the wrong kind is not quoted.
    let (asked, key) = sealed("secret", Argument::Text("hunter2".into()));
    let reason = setting.refusal_of(fields(&asked, Some(&key))).reason;
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

/// A job by ann (key 7) with these approvals: principal, the seed of the key, and whether it is over this manifest.
fn approved(manifest: &Manifest, approvals: &[(&str, u8, bool)]) -> Fields {
    let signed = sign(manifest, 7);
    let approve = |&(principal, seed, own): &(&str, u8, bool)| {
        let document = if own { &signed.bytes[..] } else { b"another manifest" };
        let signature = sshsig::sign(&key(seed), sshsig::JOB, document).unwrap().to_bytes();
        Approval { principal: principal.into(), signature }
    };
    let field = Approvals(approvals.iter().map(approve).collect()).entry_field();
    let mut fields = fields_of(signed, None);
    fields.extend(field.map(|(name, value)| (name.to_owned(), value)));
    fields
}

#[test]
fn approvals_are_verified_and_counted_once_by_name_and_key() {
    let rules = "[[policy]]\nwho = ['*']\nactions = ['exec']\napprovals = 2";
    let setting = Setting::allowing(policy::tests::policy(rules));
    assert_eq!(setting.catalogue.spec("exec").unwrap().approvals, 2);
    let job = manifest("exec");
    let admitted = setting.admit_fields(approved(&job, &[("bob", 8, true)]));
    assert!(matches!(admitted, Admission::Admitted(..)));

    for (approvals, why) in [
        (&[][..], ""),
        // The key for everybody is ann's: it signs under another name, and another key under her name.
        (&[("carol", 7, true)], "; carol: the key has signed already under another name, and counts once"),
        (&[("ann@desk", 7, true)], "; ann@desk: this principal has already signed"),
        (&[("bob", 8, false)], "; bob: its signature does not belong to it: it was altered"),
        (&[("carol", 9, true)], "; carol: the key SHA256:"),
    ] {
        let refusal = setting.refusal_of(approved(&job, approvals));
        let begins = format!("denied: rule 1 (worker.toml, line 1) needs 2 approvals, it has 1{why}");
        assert!(refusal.state == State::Rejected && refusal.reason.starts_with(&begins), "{}", refusal.reason);
    }
}

#[test]
fn malformed_approvals_are_dropped_with_their_entry() {
    let setting = Setting::new();
    let with = |bytes: Vec<u8>| {
        let mut fields = fields(&manifest("ping"), None);
        fields.insert("approvals".into(), bytes);
        match setting.admit_fields(fields) {
            Admission::Dropped(dropped) => dropped.reason(),
            _ => None,
        }
    };
    assert_eq!(with(vec![0xc1]), Some("malformed"));
    assert_eq!(with(vec![0; limits::APPROVALS_BYTES + 1]), Some("oversize"));
}

mod standing;
