//! Attacks on the two-person rule by operators whom the host trusts, or who own Redis. None of them may run anything
//! that not enough others have signed.
//!
//! `scripts/attacks` switches off the check that each test names, and shows that the test then fails.

use protocol::{
    approval::{Approval, Approvals},
    command::{Envelope, Manifest},
    outcome::{Outcome, State},
    signed::Signed,
    targets::Targets,
    trust::sshsig,
};
use tests::{Evidence, Raw, Redis, Signatory, Worker, renewed};

const ANN: u8 = 11;
const BOB: u8 = 12;
/// Ann's other key.
const SPARE: u8 = 13;
const MALLORY: u8 = 66;

/// The host `web1`, where so many must sign what ann asks for.
struct Scene {
    raw: Raw,
    evidence: Evidence,
    _worker: Worker,
    _redis: Redis,
}

impl Scene {
    fn needing(approvals: usize) -> Self {
        Self::with(approvals, "")
    }

    fn with(approvals: usize, revoked: &str) -> Self {
        let redis = Redis::start();
        let rule = format!("[[policy]]\nwho = ['*']\nactions = ['exec']\napprovals = {approvals}");
        let options = Worker::on(&redis).config(&rule);
        let lines = [(ANN, "ann,annie"), (BOB, "bob,robert"), (SPARE, "ann")];
        options.trust(&lines.map(|(seed, names)| Signatory::new(seed).line(names, "")).concat());
        std::fs::write(options.directory().join("revoked"), revoked).expect("a list");
        let worker = options.start();
        worker.wait_online();
        Self { raw: Raw::on(&redis), evidence: Evidence::new(&redis, "evidence"), _worker: worker, _redis: redis }
    }

    /// A job of ann that would leave evidence, signed by her.
    fn job(&mut self) -> (Manifest, Signed<Manifest>) {
        let script = self.evidence.script();
        let manifest = self.raw.exec(&["web1"], &["sh", "-c", &script]);
        let manifest = renewed(Manifest { operator: "ann".into(), ..manifest });
        let signed = Signatory::new(ANN).sign(&manifest);
        (manifest, signed)
    }

    fn outcome(&mut self, manifest: &Manifest, signed: Signed<Manifest>, approvals: &[Approval]) -> Outcome {
        let targets = Targets::new(["web1".parse().expect("a name")]);
        let (_, proof) = targets.proofs().next().expect("one host");
        let beside = Approvals(approvals.to_vec()).entry_field();
        let fields: Vec<_> = Envelope { signed, proof }.fields().into_iter().chain(beside).collect();
        self.raw.add("web1", &fields);
        self.raw.outcome("web1", manifest)
    }

    /// These approvals of a job do not suffice, and the refusal says so.
    #[track_caller]
    fn refuses(&mut self, approvals: &[(&str, u8)], why: &str) {
        let (manifest, signed) = self.job();
        let approvals: Vec<_> = approvals.iter().map(|(name, seed)| approve(&signed.bytes, name, *seed)).collect();
        self.refuses_signed(&manifest, signed, &approvals, why);
    }

    #[track_caller]
    fn refuses_signed(&mut self, manifest: &Manifest, signed: Signed<Manifest>, approvals: &[Approval], why: &str) {
        let Outcome { state, reason, .. } = self.outcome(manifest, signed, approvals);
        let reason = reason.unwrap_or_default();
        assert!(state == State::Rejected && reason.contains("approvals, it has"), "{state}: {reason}");
        assert!(reason.contains(why), "{reason}");
        assert_eq!(self.evidence.count(), 0, "a program ran");
    }

    /// What bob has approved still runs.
    #[track_caller]
    fn survives(mut self) {
        let (manifest, signed) = self.job();
        let approval = approve(&signed.bytes, "bob", BOB);
        assert_eq!(self.outcome(&manifest, signed, &[approval]).state, State::Succeeded);
        assert_eq!(self.evidence.count(), 1);
    }
}

fn approve(manifest: &[u8], principal: &str, seed: u8) -> Approval {
    let signature = Signatory::new(seed).sign_bytes(sshsig::JOB, manifest);
    Approval { principal: principal.into(), signature }
}

#[test]
fn attack_same_key_under_two_names() {
    let mut scene = Scene::needing(3);
    scene.refuses(&[("bob", BOB), ("robert", BOB)], "robert: the key has signed already under another name");
}

#[test]
fn attack_requester_twice() {
    let mut scene = Scene::needing(2);
    scene.refuses(&[("ann", SPARE)], "ann: this principal has already signed");
    scene.refuses(&[("ann", ANN), ("ann", SPARE), ("ann", ANN)], "it has 1");
    scene.survives();
}

#[test]
fn attack_self_approve() {
    let mut scene = Scene::needing(2);
    scene.refuses(&[("annie", ANN)], "annie: the key has signed already under another name");
    scene.survives();
}

#[test]
fn attack_revoked_approver() {
    let mut scene = Scene::with(2, Signatory::new(BOB).line("", "").trim_start());
    scene.refuses(&[("bob", BOB)], "is revoked");
}

#[test]
fn attack_approving_in_the_name_of_another() {
    let mut scene = Scene::needing(2);
    scene.refuses(&[("bob", MALLORY)], "is not trusted as 'bob'");
    scene.survives();
}

#[test]
fn attack_approval_of_another_job() {
    let mut scene = Scene::needing(2);
    let (other, _) = scene.job();
    let approval = approve(&Signed::unsigned(&other).bytes, "bob", BOB);
    let (manifest, signed) = scene.job();
    scene.refuses_signed(&manifest, signed, &[approval], "bob: its signature does not belong to it");
    scene.survives();
}

#[test]
fn attack_taking_the_approvals_away() {
    let mut scene = Scene::needing(2);
    scene.refuses(&[], "it has 1");
    scene.survives();
}

/// Each byte of an approval is altered, one at a time.
#[test]
fn attack_altering_one_byte_of_an_approval() {
    let mut scene = Scene::needing(2);
    let targets = Targets::new(["web1".parse().expect("a name")]);
    let (_, proof) = targets.proofs().next().expect("one host");
    let mut sent = 0;
    loop {
        // Each is another job: one that is known by its id would be dropped without a look at its approvals.
        let (_, signed) = scene.job();
        let approval = approve(&signed.bytes, "bob", BOB);
        let (name, mut altered) = Approvals(vec![approval]).entry_field().expect("an approval");
        let Some(byte) = altered.get_mut(sent) else { break };
        *byte ^= 1 << (sent % 8);
        let envelope = Envelope { signed, proof: proof.clone() };
        scene.raw.add("web1", &envelope.fields().into_iter().chain([(name, altered)]).collect::<Vec<_>>());
        sent += 1;
    }
    scene.raw.wait_settled("web1");
    assert!(sent > 64, "a signature is in it");
    for key in scene.raw.query::<Vec<String>>(&["KEYS", "job:*:hosts"]) {
        let states: Vec<String> = scene.raw.query(&["HVALS", &key]);
        assert_eq!(states, ["rejected"], "{key}");
    }
    assert_eq!(scene.evidence.count(), 0, "a program ran");
    scene.survives();
}
