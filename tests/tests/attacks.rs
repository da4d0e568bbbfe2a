//! Attacks by somebody who can write anything to Redis, and owns no key that the host trusts. None of them may run
//! anything, end anything, or run anything twice.
//!
//! `scripts/attacks` switches off the check that each test names, and shows that the test then fails.

use std::time::Duration;

use protocol::{
    clock::millis,
    command::{Envelope, Manifest},
    limits,
    name::JobId,
    outcome::{Outcome, State},
    signed::Signed,
    targets::Targets,
    trust::sshsig,
};
use ssh_key::certificate::{Builder, CertType};
use tests::{
    Evidence, Network, Raw, Redis, Signatory, Worker, WorkerOptions, eventually,
    hostile::{Entry, entry, with, without},
    renewed,
};

const OPERATOR: &str = "ann";

/// The host `web1`, which obeys ann alone, and an attacker.
struct Scene {
    redis: Redis,
    worker: Worker,
    raw: Raw,
    evidence: Evidence,
    ann: Signatory,
    mallory: Signatory,
}

impl Scene {
    fn new() -> Self {
        Self::trusting(&Signatory::new(10).line(OPERATOR, ""))
    }

    fn trusting(lines: &str) -> Self {
        Self::with(lines, |options| options)
    }

    fn with(lines: &str, more: impl FnOnce(WorkerOptions) -> WorkerOptions) -> Self {
        let redis = Redis::start();
        let options = more(Worker::on(&redis).allow_exec());
        options.trust(lines);
        let worker = options.start();
        worker.wait_online();
        let (raw, evidence) = (Raw::on(&redis), Evidence::new(&redis, "evidence"));
        Self { redis, worker, raw, evidence, ann: Signatory::new(10), mallory: Signatory::new(66) }
    }

    /// A job of ann that would leave evidence.
    fn job(&mut self) -> Manifest {
        self.job_for(&["web1"])
    }

    fn job_for(&mut self, hosts: &[&str]) -> Manifest {
        let argv = ["sh", "-c", &self.evidence.script()].map(str::to_owned);
        renewed(Manifest { operator: OPERATOR.into(), ..self.raw.exec(hosts, &argv.each_ref().map(String::as_str)) })
    }

    fn send(&mut self, signed: Signed<Manifest>) {
        let entry = entry(&to_web1(signed, &["web1"]));
        self.send_entry(&entry);
    }

    fn send_entry(&mut self, entry: &Entry) {
        let mut add = redis::cmd("XADD");
        add.arg("server:{web1}:commands").arg("*");
        for (name, value) in entry {
            add.arg(name).arg(value);
        }
        add.query::<String>(&mut self.redis.blocking()).expect("XADD");
    }

    /// The reason for which the job is refused.
    #[track_caller]
    fn refused(&mut self, manifest: &Manifest) -> String {
        let Outcome { state, reason, .. } = self.raw.outcome("web1", manifest);
        assert_eq!(state, State::Rejected, "{reason:?}");
        reason.expect("a reason")
    }

    /// Nothing of what was sent has run, and the worker still does what ann asks for.
    #[track_caller]
    fn survives(mut self) {
        self.raw.wait_settled("web1");
        assert_eq!(self.evidence.count(), 0, "a program ran");
        let good = self.job();
        let signed = self.ann.sign(&good);
        self.send(signed);
        assert_eq!(self.raw.outcome("web1", &good).state, State::Succeeded);
        assert_eq!(self.evidence.count(), 1);
    }
}

fn to_web1<T: protocol::command::Addressed>(signed: Signed<T>, hosts: &[&str]) -> Envelope<T> {
    let targets = Targets::new(hosts.iter().map(|host| host.parse().expect("a name")));
    let (_, proof) = targets.proofs().find(|(host, _)| host.as_str() == "web1").expect("web1 is among them");
    Envelope { signed, proof }
}

#[test]
fn attack_forging_an_unsigned_job() {
    let mut scene = Scene::new();
    let manifest = scene.job();
    scene.send(Signed::unsigned(&manifest));
    assert_eq!(scene.refused(&manifest), "it is not signed");
    for signature in [&b"SSHSIG"[..], &[0; 200], &[0xff; limits::SIGNATURE_BYTES]] {
        let manifest = scene.job();
        scene.send(Signed::unsigned(&manifest).with_signature(signature.into()));
        assert!(scene.refused(&manifest).contains("signature"));
    }
    scene.survives();
}

#[test]
fn attack_signing_with_a_key_that_nobody_trusts() {
    let mut scene = Scene::new();
    let manifest = scene.job();
    let signed = scene.mallory.sign(&manifest);
    scene.send(signed);
    assert!(scene.refused(&manifest).contains("is not trusted as 'ann'"));
    scene.survives();
}

#[test]
fn attack_speaking_for_another_principal() {
    let lines = [Signatory::new(10).line(OPERATOR, ""), Signatory::new(66).line("mallory", "")].concat();
    let mut scene = Scene::trusting(&lines);
    let manifest = scene.job();
    let signed = scene.mallory.sign(&manifest);
    scene.send(signed);
    assert!(scene.refused(&manifest).contains("is not trusted as 'ann'"));
    scene.survives();
}

#[test]
fn attack_signing_with_an_expired_key() {
    let lines = [Signatory::new(10).line(OPERATOR, ""), Signatory::new(66).line("bob", "valid-before=\"20200101Z\"")];
    let mut scene = Scene::trusting(&lines.concat());
    let bobs = renewed(Manifest { operator: "bob".into(), ..scene.job() });
    let signed = scene.mallory.sign(&bobs);
    scene.send(signed);
    assert!(scene.refused(&bobs).contains("was trusted until"));
    scene.survives();
}

#[test]
fn attack_signing_with_a_key_for_another_purpose() {
    let options = "namespaces=\"git,redfleet-host@v1\"";
    let lines = [Signatory::new(10).line(OPERATOR, ""), Signatory::new(66).line("bob", options)].concat();
    let mut scene = Scene::trusting(&lines);
    let bobs = renewed(Manifest { operator: "bob".into(), ..scene.job() });
    let signed = scene.mallory.sign(&bobs);
    scene.send(signed);
    assert!(scene.refused(&bobs).contains("may not sign for"));
    // A signature that was made for another purpose is none for a job.
    let manifest = scene.job();
    let signed = scene.ann.sign_for("git", &manifest);
    scene.send(signed);
    assert!(scene.refused(&manifest).contains("'git'"));
    scene.survives();
}

#[test]
fn attack_signing_with_a_revoked_key() {
    let lines = [Signatory::new(10).line(OPERATOR, ""), Signatory::new(66).line("bob", "")].concat();
    let revoked = Signatory::new(66).line("", "");
    let mut scene = Scene::with(&lines, |options| {
        std::fs::write(options.directory().join("revoked"), revoked.trim_start()).expect("a list");
        options
    });
    let bobs = renewed(Manifest { operator: "bob".into(), ..scene.job() });
    let signed = scene.mallory.sign(&bobs);
    scene.send(signed);
    assert!(scene.refused(&bobs).contains("is revoked"));
    scene.survives();
}

/// Certificates of a trusted authority that do not fit, and good ones of another.
#[test]
fn attack_signing_under_a_certificate_that_does_not_fit() {
    let (authority, stranger) = (Signatory::new(20), Signatory::new(21));
    let lines = [Signatory::new(10).line(OPERATOR, ""), authority.line("bob", "cert-authority")];
    let mut scene = Scene::trusting(&lines.concat());
    let for_bob = |builder: &mut Builder| {
        builder.valid_principal("bob").expect("a name");
    };
    let owner = Signatory::new(66);
    let user = CertType::User;
    let for_carol = |builder: &mut Builder| drop(builder.valid_principal("carol"));
    let for_everybody = |builder: &mut Builder| drop(builder.all_principals_valid());
    let with_option = |builder: &mut Builder| {
        for_bob(builder);
        builder.critical_option("force-command", "true").expect("an option");
    };
    let certificates = [
        (stranger.certify(&owner, user, for_bob), "is not trusted"),
        (authority.certify(&owner, user, for_carol), "not for 'bob'"),
        (authority.certify(&owner, user, for_everybody), "names no principals"),
        (authority.certify(&owner, CertType::Host, for_bob), "no certificate for users"),
        (authority.certify(&owner, user, with_option), "critical option 'force-command'"),
    ];
    for (certificate, reason) in certificates {
        let bobs = renewed(Manifest { operator: "bob".into(), ..scene.job() });
        let signed = scene.mallory.sign_under(&certificate, &bobs);
        scene.send(signed);
        let refused = scene.refused(&bobs);
        assert!(refused.contains(reason), "{refused}");
    }
    // One that fits is for bob alone.
    let good = authority.certify(&owner, user, for_bob);
    let manifest = scene.job();
    let signed = scene.mallory.sign_under(&good, &manifest);
    scene.send(signed);
    assert!(scene.refused(&manifest).contains("is not trusted as 'ann'"));
    let bobs = renewed(Manifest { operator: "bob".into(), ..scene.raw.manifest(&["web1"], "ping") });
    let signed = scene.mallory.sign_under(&good, &bobs);
    scene.send(signed);
    assert_eq!(scene.raw.outcome("web1", &bobs).state, State::Succeeded);
    scene.survives();
}

/// Each byte of what is sent is altered, one at a time. It is a `ping`: where the check is switched off, altered programs
/// would run here.
#[test]
fn attack_altering_one_byte() {
    let mut scene = Scene::new();
    let manifest = Manifest { operator: OPERATOR.into(), ..scene.raw.manifest(&["web1"], "ping") };
    let good = scene.ann.sign(&manifest);
    for (field, count) in [("manifest", good.bytes.len()), ("signature", good.signature.len())] {
        for at in 0..count {
            // Each is another job: one that is known by its id would be dropped without a look at its signature.
            let good = scene.ann.sign(&renewed(manifest.clone()));
            let mut altered = if field == "manifest" { good.bytes.clone() } else { good.signature.clone() };
            altered[at] ^= 1 << (at % 8);
            scene.send_entry(&with(&entry(&to_web1(good, &["web1"])), field, altered));
        }
    }
    scene.raw.wait_settled("web1");
    for key in scene.raw.query::<Vec<String>>(&["KEYS", "job:*:hosts"]) {
        let states: Vec<String> = scene.raw.query(&["HVALS", &key]);
        assert_eq!(states, ["rejected"], "{key}");
    }
    scene.survives();
}

#[test]
fn attack_replaying_an_old_job() {
    let mut scene = Scene::new();
    let manifest = scene.job();
    let signed = scene.ann.sign(&manifest);
    scene.send(signed.clone());
    assert_eq!(scene.raw.outcome("web1", &manifest).state, State::Succeeded);
    let forget = ["DEL", &format!("job:{{{}}}:hosts", manifest.job), &format!("job:{{{}}}", manifest.job)];
    for restart in [false, true] {
        if restart {
            scene.worker.kill9();
            scene.worker = scene.worker.options().start();
            scene.worker.wait_online();
        }
        // The attacker removes what Redis knows of its end.
        scene.raw.query::<u64>(&forget);
        scene.send(signed.clone());
        scene.raw.wait_settled("web1");
        assert_eq!(scene.evidence.count(), 1, "it ran again");
    }
}

/// A job is kept back until its start-by has passed, while Redis' clock stands still.
#[test]
fn attack_stretching_a_deadline() {
    let redis = Redis::start();
    let network = Network::to(&redis);
    network.step_clock(-2 * 24 * 3600);
    let options = Worker::on(&redis).redis(&network.url()).allow_exec();
    options.trust(&Signatory::new(10).line(OPERATOR, ""));
    let worker = options.start();
    worker.wait_online();
    let (raw, evidence) = (Raw::on(&redis), Evidence::new(&redis, "evidence"));
    let (ann, mallory) = (Signatory::new(10), Signatory::new(66));
    let mut scene = Scene { redis, worker, raw, evidence, ann, mallory };

    // A day ago by the true clock, in a day by that of Redis.
    let issued_at_ms = scene.raw.now() - millis(Duration::from_secs(48 * 3600));
    let start_by_ms = issued_at_ms + millis(Duration::from_secs(24 * 3600));
    let manifest = renewed(Manifest { issued_at_ms, start_by_ms, ..scene.job() });
    let signed = scene.ann.sign(&manifest);
    scene.send(signed);
    assert_eq!(scene.raw.outcome("web1", &manifest).state, State::Expired);
    assert_eq!(scene.evidence.count(), 0);
}

#[test]
fn attack_moving_a_command_to_another_host() {
    let mut scene = Scene::new();
    let elsewhere = scene.job_for(&["db1", "db2", "db3"]);
    let signed = scene.ann.sign(&elsewhere);
    let targets = Targets::new(["db1", "db2", "db3"].map(|host| host.parse().expect("a name")));
    // Every proof that the job has, and one of another job of this host.
    for (_, proof) in targets.proofs() {
        scene.send_entry(&entry(&Envelope { signed: signed.clone(), proof }));
    }
    let mine = to_web1(signed.clone(), &["web1"]);
    scene.send_entry(&entry(&mine));
    let among = to_web1(signed, &["db1", "web1", "db3"]);
    scene.send_entry(&entry(&among));
    scene.raw.wait_dropped("web1", "not_for_this_host", 5);
    scene.survives();
}

/// A job that another operator signed under the id of ann's: its end must not pass for the end of ann's.
#[test]
fn attack_taking_the_id_of_another_job() {
    let lines = [Signatory::new(10).line(OPERATOR, ""), Signatory::new(66).line("bob", "")].concat();
    let mut scene = Scene::trusting(&lines);
    let job = scene.job();
    let stolen = Manifest { operator: "bob".into(), ..job };
    let signed = scene.mallory.sign(&stolen);
    scene.send(signed);
    assert!(scene.refused(&stolen).contains("its id is not one that its operator can give it"));
    scene.survives();
}

#[test]
fn attack_cancelling_the_job_of_another() {
    let lines = [Signatory::new(10).line(OPERATOR, ""), Signatory::new(66).line("bob", "")].concat();
    let mut scene = Scene::trusting(&lines);
    let running = renewed(Manifest { operator: OPERATOR.into(), ..scene.raw.exec(&["web1"], &["sleep", "1000"]) });
    let signed = scene.ann.sign(&running);
    scene.send(signed);
    scene.raw.wait_state("web1", &running, State::Running);

    let targets = Targets::new(["web1".parse().expect("a name")]);
    let signed = scene.ann.sign(&running);
    let order = |operator: &str| {
        protocol::control::CancelOrder::new(&running, &signed, targets.root(), operator.into(), running.issued_at_ms)
    };
    // Unsigned; signed by a stranger in ann's name; by somebody who is known, in their own name, and with a salt of
    // their own; for another host.
    let guess = protocol::control::CancelOrder { salt: JobId::salt(), ..order("bob") };
    for signed in [
        Signed::unsigned(&order(OPERATOR)),
        scene.mallory.sign(&order(OPERATOR)),
        scene.mallory.sign(&order("bob")),
        scene.mallory.sign(&guess),
    ] {
        let control = protocol::control::Control::Cancel(to_web1(signed, &["web1"]));
        scene.raw.add_control("web1", &control.fields());
    }
    scene.raw.wait_dropped("web1", "untrusted", 4);
    assert_eq!(scene.raw.state("web1", &running), Some(State::Running));
    let own = protocol::control::Control::Cancel(to_web1(scene.ann.sign(&order(OPERATOR)), &["web1"]));
    scene.raw.add_control("web1", &own.fields());
    assert_eq!(scene.raw.outcome("web1", &running).state, State::Cancelled);
    scene.survives();
}

#[test]
fn attack_rolling_the_trust_file_back() {
    let old = [Signatory::new(10).line(OPERATOR, ""), Signatory::new(66).line("bob", "")].concat();
    let mut scene = Scene::trusting(&format!("# version: 1\n{old}"));
    let bobs = |scene: &mut Scene| renewed(Manifest { operator: "bob".into(), ..scene.job() });
    scene.worker.options().trust(&format!("# version: 2\n{}", Signatory::new(10).line(OPERATOR, "")));
    scene.worker.wait_log("is in force: version 2");
    scene.worker.options().trust(&format!("# version: 1\n{old}"));
    scene.worker.wait_log("has version 1, but version 2 was in force");
    for restart in [false, true] {
        if restart {
            scene.worker.terminate();
            scene.worker = scene.worker.options().start();
            scene.worker.wait_online();
        }
        let manifest = bobs(&mut scene);
        let signed = scene.mallory.sign(&manifest);
        scene.send(signed);
        assert!(scene.refused(&manifest).contains("is not trusted as 'bob'"));
    }
    scene.survives();
}

#[test]
fn attack_running_what_the_policy_does_not_allow() {
    let lines = [Signatory::new(10).line(OPERATOR, ""), Signatory::new(66).line("bob", "")].concat();
    let policy = "[[policy]]\nwho = ['*']\nactions = ['ping']\n[[policy]]\nwho = ['ann']\nactions = ['exec']";
    let mut scene = Scene::policed(&lines, policy);
    let bobs = renewed(Manifest { operator: "bob".into(), ..scene.job() });
    let signed = scene.mallory.sign(&bobs);
    scene.send(signed);
    assert_eq!(scene.refused(&bobs), "denied: no rule lets 'bob' run exec");
    scene.survives();
}

impl Scene {
    fn policed(lines: &str, policy: &str) -> Self {
        let redis = Redis::start();
        let options = Worker::on(&redis).config(policy);
        options.trust(lines);
        let worker = options.start();
        worker.wait_online();
        let (raw, evidence) = (Raw::on(&redis), Evidence::new(&redis, "evidence"));
        Self { redis, worker, raw, evidence, ann: Signatory::new(10), mallory: Signatory::new(66) }
    }
}

/// The same name twice, of which one decoder takes the first value and another the last; and values in the places of a
/// list, without names.
#[test]
fn attack_a_manifest_that_decodes_two_ways() {
    let mut scene = Scene::new();
    let manifest = scene.job();
    let bytes = Signed::unsigned(&manifest).bytes;
    assert_eq!(bytes[0] & 0xf0, 0x80, "a map of up to 15");
    let mut twice = bytes.clone();
    twice[0] += 1;
    twice.extend([tests::hostile::text("action"), tests::hostile::text("ping")].concat());
    let arguments = tests::hostile::text("arguments");
    let at = bytes.windows(arguments.len()).position(|window| window == arguments).expect("arguments");
    let mut inner = bytes.clone();
    inner[at + arguments.len()] += 1;
    let again = [tests::hostile::text("argv"), vec![0x91], tests::hostile::text("true")].concat();
    let behind_head = at + arguments.len() + 1;
    inner.splice(behind_head..behind_head, again);
    for bytes in [twice, inner] {
        let signature = scene.ann.sign_bytes(sshsig::JOB, &bytes);
        scene.send(Signed::of_bytes(bytes, signature));
    }
    scene.raw.wait_dropped("web1", "malformed", 2);
    scene.survives();
}

/// A field that no release knows would be ignored, but this one is as deep as would exhaust the stack of many a decoder.
#[test]
fn attack_nesting_deeply() {
    let mut scene = Scene::new();
    let ping = Manifest { operator: OPERATOR.into(), ..scene.raw.manifest(&["web1"], "ping") };
    for depth in [30, 900] {
        let mut bytes = Signed::unsigned(&renewed(ping.clone())).bytes;
        assert!(bytes[0] < 0x8f, "a map with room for one more");
        bytes[0] += 1;
        bytes.extend([tests::hostile::text("later"), tests::hostile::nested(depth)].concat());
        let signature = scene.ann.sign_bytes(sshsig::JOB, &bytes);
        scene.send(Signed::of_bytes(bytes, signature));
    }
    scene.raw.wait_dropped("web1", "malformed", 2);
    scene.survives();
}

/// A signature that is far too large, none, and several.
#[test]
fn attack_strange_signatures() {
    let mut scene = Scene::new();
    let manifest = scene.job();
    let valid = entry(&to_web1(scene.ann.sign(&manifest), &["web1"]));
    scene.send_entry(&with(&valid, "signature", vec![0; limits::SIGNATURE_BYTES + 1]));
    scene.raw.wait_dropped("web1", "oversize", 1);
    let armored = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", "A".repeat(70));
    scene.send_entry(&with(&without(&valid, "signature"), "signature", armored));
    eventually("a refusal", || (scene.raw.state("web1", &manifest) == Some(State::Rejected)).then_some(()));
    scene.survives();
}

/// Each byte of the proof that the host is meant, which nobody signs, is altered, one at a time.
#[test]
fn attack_altering_one_byte_of_the_proof() {
    let mut scene = Scene::new();
    let hosts = ["db1", "web1", "web2"];
    let manifest = Manifest { operator: OPERATOR.into(), ..scene.raw.manifest(&hosts, "ping") };
    let proof = |entry: &Entry| entry.iter().find(|(name, _)| name == b"proof").expect("a proof").1.clone();
    let mut sent = 0;
    loop {
        let entry = entry(&to_web1(scene.ann.sign(&renewed(manifest.clone())), &hosts));
        let mut altered = proof(&entry);
        let Some(byte) = altered.get_mut(sent) else { break };
        *byte ^= 1 << (sent % 8);
        scene.send_entry(&with(&entry, "proof", altered));
        sent += 1;
    }
    scene.raw.wait_settled("web1");
    assert!(sent > 64, "two hashes of the tree are in it");
    assert_eq!(scene.raw.query::<Vec<String>>(&["KEYS", "job:*:hosts"]), [""; 0], "a command ran");
    scene.survives();
}
