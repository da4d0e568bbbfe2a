//! What a host has reported, or was told, holds: an attacker who can write anything to Redis gets no second decision out
//! of it.

use protocol::{
    command::{Envelope, Manifest},
    control::{CancelOrder, Control},
    outcome::State,
    signed::Signed,
    targets::Targets,
};
use tests::{Evidence, Gate, Raw, Redis, Signatory, Worker, WorkerOptions, eventually, renewed};

/// The host `web1`, which obeys ann and bob.
struct Scene {
    redis: Redis,
    raw: Raw,
    evidence: Evidence,
    ann: Signatory,
    bob: Signatory,
}

impl Scene {
    fn new() -> (Self, WorkerOptions) {
        let redis = Redis::start();
        let (ann, bob) = (Signatory::new(10), Signatory::new(11));
        let options = Worker::on(&redis);
        options.trust(&[ann.line("ann", ""), bob.line("bob", "")].concat());
        let (raw, evidence) = (Raw::on(&redis), Evidence::new(&redis, "evidence"));
        (Self { redis, raw, evidence, ann, bob }, options)
    }

    fn job(&mut self, operator: &str, script: &str) -> Manifest {
        renewed(Manifest { operator: operator.into(), ..self.raw.shell("web1", script) })
    }

    fn send(&mut self, signed: Signed<Manifest>) {
        let targets = Targets::new(["web1".parse().expect("a name")]);
        let (_, proof) = targets.proofs().next().expect("one host");
        self.raw.add("web1", &Envelope { signed, proof }.fields());
    }

    /// Takes away what was published about a job, as if it had never been.
    fn forget(&mut self, manifest: &Manifest) {
        let id = manifest.job;
        self.redis.cli(["DEL", &format!("job:{{{id}}}:hosts"), &format!("job:{{{id}}}:result:web1")]);
    }

    /// Waits until the worker has done with all that was sent before.
    fn settle(&mut self) {
        self.raw.wait_settled("web1");
        let ping = renewed(Manifest { operator: "ann".into(), ..self.raw.manifest(&["web1"], "ping") });
        let signed = self.ann.sign(&ping);
        self.send(signed);
        self.reason(&ping, State::Succeeded);
    }

    fn reason(&mut self, manifest: &Manifest, state: State) -> String {
        let outcome = self.raw.outcome("web1", manifest);
        assert_eq!(outcome.state, state, "{outcome:?}");
        outcome.reason.unwrap_or_default()
    }
}

#[test]
fn attack_bringing_back_what_was_rejected() {
    let (mut scene, options) = Scene::new();
    let mut worker = options.start();
    worker.wait_online();
    let script = scene.evidence.script();
    let job = scene.job("ann", &script);
    let signed = scene.ann.sign(&job);
    scene.send(signed.clone());
    assert!(scene.reason(&job, State::Rejected).contains("is not allowed"));
    scene.raw.wait_settled("web1");

    worker.terminate();
    let worker = worker.options().allow_exec().start();
    worker.wait_online();
    scene.forget(&job);
    scene.send(signed);
    assert!(scene.reason(&job, State::Rejected).contains("is not allowed"), "the first decision stands");
    let other = scene.job("ann", &script);
    let signed = scene.ann.sign(&other);
    scene.send(signed);
    scene.reason(&other, State::Succeeded);
    assert_eq!(scene.evidence.count(), 1);
}

#[test]
fn attack_having_a_job_refused_by_a_copy() {
    let (mut scene, options) = Scene::new();
    let worker = options.allow_exec().start();
    worker.wait_online();
    let mallory = Signatory::new(66);
    let script = scene.evidence.script();
    let job = scene.job("ann", &script);
    let signed = scene.ann.sign(&job);
    for copy in [Signed::unsigned(&job), mallory.sign(&job)] {
        scene.send(copy.clone());
        scene.reason(&job, State::Rejected);
        assert!(!scene.raw.is_about("web1", &job, &signed.signature), "the refusal is not about ann's job");
        assert!(scene.raw.is_about("web1", &job, &copy.signature), "who sent the copy learns why");
        scene.settle();
        scene.forget(&job);
    }
    scene.send(signed.clone());
    scene.reason(&job, State::Succeeded);
    assert!(scene.raw.is_about("web1", &job, &signed.signature));
    assert_eq!(scene.evidence.count(), 1);
}

#[test]
fn attack_using_a_key_that_was_revoked_while_its_command_waited() {
    let (mut scene, options) = Scene::new();
    let worker = options.config("slots = 1\nreserved = 0").allow_exec().start();
    worker.wait_online();
    let mut gate = Gate::new(&scene.redis, "gate");
    let first = scene.job("ann", &gate.script());
    let signed = scene.ann.sign(&first);
    scene.send(signed);
    gate.reached();
    let script = scene.evidence.script();
    let waits = scene.job("bob", &script);
    let signed = scene.bob.sign(&waits);
    scene.send(signed);
    scene.raw.wait_state("web1", &waits, State::Delivered);
    let revoked = scene.bob.line("", "");
    std::fs::write(worker.options().directory().join("revoked"), revoked.trim_start()).expect("a list");
    let digest = |worker: &Worker| worker.status().map(|status| status.trust_digest);
    let before = digest(&worker);
    eventually("the list to be in force", || (digest(&worker) != before).then_some(()));
    gate.open();
    scene.reason(&first, State::Succeeded);
    let reason = scene.reason(&waits, State::Rejected);
    assert!(reason.contains("while it waited") && reason.contains("is revoked"), "{reason}");
    assert_eq!(scene.evidence.count(), 0);
    let is_counted = || worker.status().is_some_and(|status| status.rejected == 1);
    eventually("the refusal to be counted", || is_counted().then_some(()));
}

/// The user of another host may write the states of jobs that both have.
#[test]
fn attack_ending_a_job_on_another_host_by_its_state() {
    for state in ["succeeded", "running", "rejected"] {
        let (mut scene, options) = Scene::new();
        let worker = options.allow_exec().start();
        worker.wait_online();
        let script = scene.evidence.script();
        let job = scene.job("ann", &script);
        let signed = scene.ann.sign(&job);
        scene.redis.cli(["HSET", &format!("job:{{{}}}:hosts", job.job), "web1", state]);
        scene.send(signed);
        scene.reason(&job, State::Succeeded);
        assert_eq!(scene.evidence.count(), 1, "{state}");
        assert_eq!(scene.raw.state("web1", &job), Some(State::Succeeded));
    }
}

/// Whoever is trusted can give orders about jobs of their own, and make up any number of these.
#[test]
fn attack_filling_the_memory_of_orders_to_cancel() {
    let (mut scene, options) = Scene::new();
    let worker = options.config("[[policy]]\nwho = ['ann']\nactions = ['exec']").start();
    worker.wait_online();
    let targets = Targets::new(["web1".parse().expect("a name")]);
    let mut order = |operator: &str, signatory: &Signatory| {
        let job = scene.job(operator, "true");
        let order = CancelOrder::new(&job, &signatory.sign(&job), targets.root(), operator.into(), job.issued_at_ms);
        let (_, proof) = targets.proofs().next().expect("one host");
        let control = Control::Cancel(Envelope { signed: signatory.sign(&order), proof });
        scene.raw.add_control("web1", &control.fields());
        job
    };
    let [ann, bob] = [10, 11].map(Signatory::new);
    for _ in 0..3 {
        order("bob", &bob);
    }
    let cancelled = order("ann", &ann);
    scene.raw.wait_dropped("web1", "cancel_forgotten", 3);
    let signed = scene.ann.sign(&cancelled);
    scene.send(signed);
    scene.reason(&cancelled, State::Cancelled);
}
