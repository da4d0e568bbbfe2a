//! Attacks with certificates that were good once, by somebody who can write anything to Redis. The certificates and the
//! list of what is revoked are made by the real `ssh-keygen`.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use protocol::{
    command::{Envelope, Manifest},
    outcome::{Outcome, State},
    signed::Signed,
    targets::Targets,
    trust::{
        certificate::Certificate,
        sshsig::{self, Signature},
    },
};
use tempfile::TempDir;
use tests::{Evidence, Raw, Redis, Signatory, Worker, renewed};

/// Bob's keys.
const OLD: u8 = 66;
const NEW: u8 = 67;

/// A certificate's time.
const GOOD: &str = "-1d:+1d";

/// An authority, and what `ssh-keygen` makes of its key.
struct Authority {
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let authority = Self { directory: tempfile::tempdir().expect("a directory") };
        authority.write("authority", &key().private_key());
        authority.write("authority.pub", &public(&key()));
        authority
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("a file");
        // ssh-keygen uses no key that others can read.
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("its mode");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.directory.path().join(name)).expect("a file")
    }

    fn keygen(&self, arguments: &[&str]) {
        let output = Command::new("ssh-keygen").args(arguments).current_dir(self.directory.path()).output();
        let output = output.expect("ssh-keygen");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A certificate for one of bob's keys.
    fn certify(&self, key: u8, id: &str, serial: &str, validity: &str) -> Certificate {
        self.write("bob.pub", &public(&Signatory::new(key)));
        self.keygen(&["-q", "-s", "authority", "-I", id, "-z", serial, "-n", "bob", "-V", validity, "bob.pub"]);
        let text = String::from_utf8(self.read("bob-cert.pub")).expect("text");
        Certificate::from_openssh(&text).expect("a certificate")
    }

    /// The list of what it has revoked.
    fn revoke(&self, lines: &str) -> Vec<u8> {
        self.write("stated", lines);
        self.keygen(&["-q", "-k", "-f", "list", "-s", "authority.pub", "stated"]);
        self.read("list")
    }
}

fn key() -> Signatory {
    Signatory::new(20)
}

/// The line of a key's public file.
fn public(signatory: &Signatory) -> String {
    signatory.line("", "").trim_start().to_owned()
}

/// The host `web1`, which obeys bob under certificates of the authority.
struct Scene {
    raw: Raw,
    evidence: Evidence,
    _worker: Worker,
    _redis: Redis,
}

impl Scene {
    fn new(revoked: &[u8]) -> Self {
        let redis = Redis::start();
        let options = Worker::on(&redis).allow_exec();
        options.trust(&key().line("bob", "cert-authority"));
        fs::write(options.directory().join("revoked"), revoked).expect("a list");
        let worker = options.start();
        worker.wait_online();
        Self { raw: Raw::on(&redis), evidence: Evidence::new(&redis, "evidence"), _worker: worker, _redis: redis }
    }

    /// What comes of a job that leaves evidence, signed under this certificate.
    fn run(&mut self, owner: u8, certificate: &Certificate) -> Outcome {
        let script = self.evidence.script();
        let manifest = renewed(Manifest { operator: "bob".into(), ..self.raw.shell("web1", &script) });
        let signed = Signed::unsigned(&manifest);
        let by_key = Signatory::new(owner).sign_bytes(sshsig::JOB, &signed.bytes);
        let signature = Signature::from_bytes(&by_key).and_then(|signature| signature.certified(certificate));
        let signed = signed.with_signature(signature.expect("a certificate of this key").to_bytes());
        let targets = Targets::new(["web1".parse().expect("a name")]);
        let (_, proof) = targets.proofs().next().expect("one host");
        self.raw.add("web1", &Envelope { signed, proof }.fields());
        self.raw.outcome("web1", &manifest)
    }

    #[track_caller]
    fn refuses(&mut self, owner: u8, certificate: &Certificate, why: &str) {
        let Outcome { state, reason, .. } = self.run(owner, certificate);
        let reason = reason.unwrap_or_default();
        assert!(state == State::Rejected && reason.contains(why), "{state}: {reason}");
        assert_eq!(self.evidence.count(), 0, "a program ran");
    }

    /// Under a certificate that is good, the same person is obeyed.
    #[track_caller]
    fn obeys(mut self, owner: u8, certificate: &Certificate) {
        let Outcome { state, reason, .. } = self.run(owner, certificate);
        assert_eq!(state, State::Succeeded, "{reason:?}");
        assert_eq!(self.evidence.count(), 1);
    }
}

#[test]
fn attack_signing_under_an_expired_certificate() {
    let authority = Authority::new();
    let mut scene = Scene::new(b"");
    for (validity, why) in [("-2d:-1d", "it was valid until"), ("+1d:+2d", "it is not valid before")] {
        scene.refuses(OLD, &authority.certify(OLD, "bob's", "1", validity), why);
    }
    scene.obeys(OLD, &authority.certify(OLD, "bob's", "1", GOOD));
}

#[test]
fn attack_signing_under_a_revoked_certificate() {
    let authority = Authority::new();
    let revoked = format!("serial: 7\nid: bob's lost one\nkey: {}", public(&Signatory::new(NEW)));
    let mut scene = Scene::new(&authority.revoke(&revoked));
    for (owner, id, serial) in [(OLD, "bob's", "7"), (OLD, "bob's lost one", "8"), (NEW, "bob's", "9")] {
        scene.refuses(owner, &authority.certify(owner, id, serial, GOOD), "is revoked");
    }
    scene.obeys(OLD, &authority.certify(OLD, "bob's", "6", GOOD));
}

/// The list may also be lines of public keys: of the certified key, or of the authority.
#[test]
fn attack_signing_under_a_certificate_of_a_revoked_key() {
    let authority = Authority::new();
    let mut scene = Scene::new(public(&Signatory::new(NEW)).as_bytes());
    scene.refuses(NEW, &authority.certify(NEW, "bob's", "1", GOOD), "is revoked");
    scene.obeys(OLD, &authority.certify(OLD, "bob's", "1", GOOD));
    let mut scene = Scene::new(public(&key()).as_bytes());
    scene.refuses(OLD, &authority.certify(OLD, "bob's", "1", GOOD), "is revoked");
}
