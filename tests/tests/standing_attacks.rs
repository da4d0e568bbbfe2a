//! Attacks on standing orders by somebody who can write anything to Redis, has every order that was ever signed, and may
//! have taken over the scheduler. None of them may run anything that was not signed, nor elsewhere, nor more often.
//!
//! `scripts/attacks` switches off the check that each test names, and shows that the test then fails.

use protocol::{
    action::{Argument, Arguments},
    command::{Envelope, Manifest},
    control::{CancelOrder, Control},
    name::JobId,
    outcome::State,
    rollout::{Plan, Waves},
    signed::Signed,
    standing::{Conduct, Overlap, Standing, StandingOrder, schedule::Schedule, selector::Selector},
    targets::Targets,
    time::Millis,
    trust::sshsig,
};
use tests::{Evidence, Gate, Raw, Redis, Signatory, Worker, eventually, renewed};

const MINUTE: u64 = 60_000;

/// Ann may run programs, and give standing orders; bob may only run programs.
const POLICY: &str = "[[policy]]\nwho = ['ann', 'bob']\nactions = ['exec', 'ping']\n\
                      [[policy]]\nwho = ['ann']\nactions = ['standing-order']\n\
                      [labels]\nrole = 'web'\n";

/// The host `web1`, and an attacker.
struct Scene {
    redis: Redis,
    worker: Worker,
    raw: Raw,
    evidence: Evidence,
    now: Millis,
}

impl Scene {
    fn new() -> Self {
        Self::with("")
    }

    fn with(settings: &str) -> Self {
        let redis = Redis::start();
        let options = Worker::on(&redis).config(&format!("{settings}{POLICY}"));
        options.trust(&[ann().line("ann", ""), Signatory::new(11).line("bob", "")].concat());
        let worker = options.start();
        worker.wait_online();
        let mut raw = Raw::on(&redis);
        let evidence = Evidence::new(&redis, "evidence");
        let now = raw.now();
        Self { redis, worker, raw, evidence, now }
    }

    /// An order of ann that leaves evidence each minute, for a quarter of an hour before and behind now.
    fn order(&self) -> StandingOrder {
        let argv = ["sh", "-c", &self.evidence.script()].map(str::to_owned).into();
        StandingOrder {
            name: "tidy".parse().expect("a name"),
            action: "exec".into(),
            arguments: Arguments::from([("argv".into(), Argument::List(argv))]),
            operator: "ann".into(),
            salt: JobId::salt(),
            issued_at_ms: self.now - 15 * MINUTE,
            valid_until_ms: self.now + 15 * MINUTE,
            // The end of a run counts by its instant: none of these comes too late.
            start_within_ms: 60 * MINUTE,
            timeout_ms: MINUTE,
            retention_ms: 60 * MINUTE,
            keep_output: None,
            namespace: None,
            selector: Selector::default(),
            schedule: Schedule::Every { period_ms: MINUTE, anchor_ms: self.now },
            conduct: Conduct { overlap: Overlap::Skip, late: true, jitter_ms: 0, pause_after: 0, retries: 0 },
        }
    }

    fn send(&mut self, voucher: &[u8], run: &Manifest) {
        let targets = Targets::new(["web1".parse().expect("a name")]);
        let (_, proof) = targets.proofs().next().expect("a host");
        let signed = Signed::unsigned(run).with_signature(voucher.to_vec());
        self.raw.add("web1", &Envelope { signed, proof }.fields());
    }

    /// Sends the order's run of this instant.
    fn send_run(&mut self, standing: &Standing, instant: Millis) -> Manifest {
        let run = run(standing, instant);
        self.send(&standing.voucher(), &run);
        run
    }

    #[track_caller]
    fn refused(&mut self, run: &Manifest, why: &str) {
        let outcome = self.raw.outcome("web1", run);
        assert_eq!(outcome.state, State::Rejected, "{outcome:?}");
        let reason = outcome.reason.expect("a reason");
        assert!(reason.contains(why), "{reason}");
    }

    /// Revokes ann's key, and waits until that is in force: a job of hers is refused then.
    #[track_caller]
    fn revoke_ann(&mut self) {
        let revoked = self.worker.options().directory().join("revoked");
        std::fs::write(revoked, ann().line("", "").trim_start()).expect("a list");
        self.worker.hangup();
        eventually("the revocation", || {
            let ping = renewed(Manifest { operator: "ann".into(), ..self.raw.manifest(&["web1"], "ping") });
            let signed = ann().sign(&ping);
            self.send(&signed.signature, &ping);
            self.raw.outcome("web1", &ping).reason?.contains("is revoked").then_some(())
        });
    }

    /// Nothing of what was sent has run, and what ann has ordered does.
    #[track_caller]
    fn survives(mut self) {
        self.raw.wait_settled("web1");
        assert_eq!(self.evidence.count(), 0, "a program ran");
        let standing = stand(&self.order());
        let run = self.send_run(&standing, self.now);
        assert_eq!(self.raw.outcome("web1", &run).state, State::Succeeded);
        assert_eq!(self.evidence.count(), 1);
    }
}

fn ann() -> Signatory {
    Signatory::new(10)
}

fn stand(order: &StandingOrder) -> Standing {
    signed_by(&ann(), sshsig::STANDING, order)
}

fn signed_by(signatory: &Signatory, namespace: &str, order: &StandingOrder) -> Standing {
    Standing::open(signatory.sign_for(namespace, order)).expect("an order")
}

fn run(standing: &Standing, instant: Millis) -> Manifest {
    standing.run(instant, 0, Targets::new(["web1".parse().expect("a name")]).root())
}

#[test]
fn attack_giving_a_standing_order_with_a_key_that_nobody_trusts() {
    let mut scene = Scene::new();
    let standing = signed_by(&Signatory::new(66), sshsig::STANDING, &scene.order());
    let sent = scene.send_run(&standing, scene.now);
    scene.refused(&sent, "is not trusted as 'ann'");
    scene.survives();
}

#[test]
fn attack_giving_a_standing_order_without_a_signature() {
    let mut scene = Scene::new();
    let standing = Standing::open(Signed::unsigned(&scene.order())).expect("an order");
    let sent = scene.send_run(&standing, scene.now);
    scene.refused(&sent, "it is not signed");
    scene.survives();
}

#[test]
fn attack_altering_a_standing_order() {
    let mut scene = Scene::new();
    let order = StandingOrder { valid_until_ms: scene.now - MINUTE, ..scene.order() };
    let signature = stand(&order).signed().signature.clone();
    let longer = Signed::unsigned(&StandingOrder { valid_until_ms: scene.now + MINUTE, ..order });
    let altered = Standing::open(longer.with_signature(signature)).expect("an order");
    let sent = scene.send_run(&altered, scene.now);
    scene.refused(&sent, "it was altered");
    scene.survives();
}

/// What ann has signed as a job, or as the plan of a rolling run, is no standing order.
#[test]
fn attack_making_a_standing_order_of_what_was_signed_for_another_purpose() {
    let mut scene = Scene::new();
    for namespace in [sshsig::JOB, sshsig::ROLLOUT] {
        let standing = signed_by(&ann(), namespace, &scene.order());
        let sent = scene.send_run(&standing, scene.now);
        scene.refused(&sent, "made for another purpose");
    }
    scene.survives();
}

#[test]
fn a_plan_or_a_job_in_the_place_of_a_standing_order_is_refused() {
    let mut scene = Scene::new();
    let sent = run(&stand(&scene.order()), scene.now);
    let plan = Plan {
        rollout: sent.job,
        salt: JobId::salt(),
        from: None,
        action: sent.action.clone(),
        arguments: sent.arguments.clone(),
        secrets: Vec::new(),
        operator: "ann".into(),
        issued_at_ms: scene.now,
        start_by_ms: MINUTE,
        timeout_ms: MINUTE,
        retention_ms: MINUTE,
        keep_output: None,
        targets: sent.targets.clone(),
        namespace: None,
        waves: Waves { canary: 1, batch: 1, wait_ms: 0, max_fail: 0, abort_if: None },
    };
    let plan = ann().sign_for(sshsig::STANDING, &plan);
    let job = ann().sign_for(sshsig::STANDING, &sent);
    scene.send(&tests::hostile::voucher(&plan.bytes, &plan.signature), &sent);
    scene.refused(&sent, "its standing order cannot be read");
    let sent = run(&stand(&scene.order()), scene.now - MINUTE);
    scene.send(&tests::hostile::voucher(&job.bytes, &job.signature), &sent);
    scene.refused(&sent, "its standing order cannot be read");
    scene.survives();
}

/// A run is sent again and again, also after what was published about it is gone.
#[test]
fn attack_running_a_run_twice() {
    let mut scene = Scene::new();
    let standing = stand(&scene.order());
    let sent = scene.send_run(&standing, scene.now);
    assert_eq!(scene.raw.outcome("web1", &sent).state, State::Succeeded);
    for _ in 0..3 {
        scene.redis.cli(["DEL", &format!("job:{{{}}}:result:web1", sent.job), &format!("job:{{{}}}:hosts", sent.job)]);
        scene.send_run(&standing, scene.now);
        scene.raw.wait_settled("web1");
    }
    assert_eq!(scene.evidence.count(), 1);
    // For other hosts it has the same id.
    let targets = Targets::new(["web1", "web2"].map(|host| host.parse().expect("a name")));
    let more = standing.run(scene.now, 0, targets.root());
    let (_, proof) = targets.proofs().next().expect("web1");
    let signed = Signed::unsigned(&more).with_signature(standing.voucher());
    scene.raw.add("web1", &Envelope { signed, proof }.fields());
    scene.raw.wait_settled("web1");
    assert_eq!(scene.evidence.count(), 1);
}

#[test]
fn attack_moving_a_standing_order_to_other_hosts() {
    let mut scene = Scene::new();
    for (hosts, except) in [(&["web2", "db*"][..], &[][..]), (&["web*"], &["web1"])] {
        let texts = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let selector = Selector { hosts: texts(hosts), except: texts(except), ..Selector::default() };
        let standing = stand(&StandingOrder { selector, ..scene.order() });
        let sent = scene.send_run(&standing, scene.now);
        scene.refused(&sent, "is not for this host");
    }
    scene.survives();
}

/// Labels that controllers set are for people, and for the hosts of a job that somebody signs.
#[test]
fn attack_moving_a_standing_order_by_labels_that_are_set_from_outside() {
    let mut scene = Scene::new();
    for (name, value) in [("role", "db"), ("env", "prod")] {
        for key in ["server:{web1}:set-labels", "server:{web1}:labels"] {
            scene.redis.cli(["HSET", key, name, value]);
        }
        let selector = Selector { labels: [(name.into(), value.into())].into(), ..Selector::default() };
        let standing = stand(&StandingOrder { selector, ..scene.order() });
        let sent = scene.send_run(&standing, scene.now);
        scene.refused(&sent, "the labels of its own settings, are others");
    }
    let own = Selector { labels: [("role".into(), "web".into())].into(), ..Selector::default() };
    let standing = stand(&StandingOrder { selector: own, ..scene.order() });
    let sent = scene.send_run(&standing, scene.now);
    assert_eq!(scene.raw.outcome("web1", &sent).state, State::Succeeded, "its own label is another thing");
    assert_eq!(scene.evidence.count(), 1);
}

#[test]
fn attack_running_a_standing_order_more_often() {
    let mut scene = Scene::new();
    let standing = stand(&scene.order());
    for instant in [scene.now - 1, scene.now - 1000, scene.now - MINUTE / 2] {
        let sent = scene.send_run(&standing, instant);
        scene.refused(&sent, "the standing order 'tidy' has no run at");
    }
    scene.survives();
}

#[test]
fn attack_running_a_standing_order_before_it_was_issued_and_after_its_end() {
    let mut scene = Scene::new();
    let standing = stand(&StandingOrder { issued_at_ms: scene.now - 5 * MINUTE, ..scene.order() });
    let sent = scene.send_run(&standing, scene.now - 6 * MINUTE);
    scene.refused(&sent, "was issued later than this run's time");
    let standing = stand(&StandingOrder { valid_until_ms: scene.now - 3 * MINUTE, ..scene.order() });
    let sent = scene.send_run(&standing, scene.now - 2 * MINUTE);
    scene.refused(&sent, "ended at");
    scene.survives();
}

/// All runs at once, before their time. None of them is lost by that.
#[test]
fn attack_running_a_standing_order_before_its_time() {
    let mut scene = Scene::new();
    let standing = stand(&scene.order());
    for minute in 5..10 {
        scene.send_run(&standing, scene.now + minute * MINUTE);
    }
    eventually("a drop, or a run", || {
        let dropped: Option<u64> = scene.raw.query(&["HGET", "server:{web1}:status", "dropped_early"]);
        (dropped == Some(5) || scene.evidence.count() > 0).then_some(())
    });
    assert_eq!(scene.raw.query::<Vec<String>>(&["KEYS", "job:*:hosts"]), [""; 0], "nothing is published about them");
    scene.survives();
}

#[test]
fn attack_running_something_else_by_a_standing_order() {
    let mut scene = Scene::new();
    let order =
        StandingOrder { arguments: [("argv".into(), Argument::List(vec!["true".into()]))].into(), ..scene.order() };
    let standing = stand(&order);
    let sent = Manifest { arguments: scene.order().arguments, ..run(&standing, scene.now) };
    scene.send(&standing.voucher(), &sent);
    scene.refused(&sent, "is not what the standing order 'tidy' asks for");
    // A run of another order, which ann has signed, too.
    let other = stand(&StandingOrder { salt: JobId::salt(), ..order });
    let sent = run(&stand(&scene.order()), scene.now);
    scene.send(&other.voucher(), &sent);
    scene.refused(&sent, "is not what the standing order 'tidy' asks for");
    scene.survives();
}

#[test]
fn attack_running_a_standing_order_of_another_fleet() {
    let mut scene = Scene::new();
    let standing = stand(&StandingOrder { namespace: Some("prod".parse().expect("a name")), ..scene.order() });
    scene.send_run(&standing, scene.now);
    scene.raw.wait_dropped("web1", "not_for_this_host", 1);
    let sent = Manifest { namespace: None, ..run(&standing, scene.now) };
    scene.send(&standing.voucher(), &sent);
    scene.refused(&sent, "is not what the standing order 'tidy' asks for");
    scene.survives();
}

#[test]
fn attack_giving_standing_orders_without_the_right() {
    let mut scene = Scene::new();
    let order = StandingOrder { operator: "bob".into(), ..scene.order() };
    let standing = signed_by(&Signatory::new(11), sshsig::STANDING, &order);
    let sent = scene.send_run(&standing, scene.now);
    scene.refused(&sent, "denied: no rule lets 'bob' give standing orders (the right 'standing-order')");
    scene.survives();
}

#[test]
fn attack_going_on_with_the_standing_order_of_a_revoked_key() {
    let mut scene = Scene::new();
    let standing = stand(&scene.order());
    let sent = scene.send_run(&standing, scene.now);
    assert_eq!(scene.raw.outcome("web1", &sent).state, State::Succeeded);
    scene.revoke_ann();
    let sent = scene.send_run(&standing, scene.now - 2 * MINUTE);
    scene.refused(&sent, "is revoked");
    assert_eq!(scene.evidence.count(), 1);
}

#[test]
fn attack_running_a_run_again_by_attempts_that_were_not_ordered() {
    let mut scene = Scene::new();
    let usual = scene.order();
    let conduct = Conduct { retries: 1, ..usual.conduct.clone() };
    let standing = stand(&StandingOrder { conduct, ..usual });
    let root = Targets::new(["web1".parse().expect("a name")]).root();
    for (attempt, evidence) in [(0, 1), (1, 2)] {
        let run = standing.run(scene.now, attempt, root.clone());
        scene.send(&standing.voucher(), &run);
        assert_eq!(scene.raw.outcome("web1", &run).state, State::Succeeded);
        assert_eq!(scene.evidence.count(), evidence);
    }
    let run = standing.run(scene.now, 2, root);
    scene.send(&standing.voucher(), &run);
    scene.refused(&run, "it is not what the standing order 'tidy' asks for");
    assert_eq!(scene.evidence.count(), 2);
}

#[test]
fn attack_running_a_run_whose_key_was_revoked_while_it_waited() {
    let mut scene = Scene::with("slots = 2\n");
    let mut gate = Gate::new(&scene.redis, "gate");
    let argv = ["sh".to_owned(), "-c".into(), gate.script()].into();
    let held = StandingOrder { arguments: Arguments::from([("argv".into(), Argument::List(argv))]), ..scene.order() };
    let held = scene.send_run(&stand(&held), scene.now);
    gate.reached();
    // One slot is kept for what only reads: this one waits.
    let waits = stand(&scene.order());
    let waits = scene.send_run(&waits, scene.now);
    scene.revoke_ann();
    gate.open();
    assert_eq!(scene.raw.outcome("web1", &held).state, State::Succeeded);
    scene.refused(&waits, "is revoked");
    assert_eq!(scene.evidence.count(), 0);
}

/// Where the next run ends the prior one, that is one that starts: not one that is sent though it was cancelled, or comes too
/// late.
#[test]
fn a_run_that_never_starts_ends_no_prior_one() {
    let mut scene = Scene::new();
    let mut gate = Gate::new(&scene.redis, "gate");
    let script = format!("{}; {}", gate.script(), scene.evidence.script());
    let argv = ["sh".to_owned(), "-c".into(), script].into();
    let usual = scene.order();
    let conduct = Conduct { overlap: Overlap::Cancel, ..usual.conduct.clone() };
    let arguments = Arguments::from([("argv".into(), Argument::List(argv))]);
    // Two of its instants lie behind: a schedule begins at its anchor.
    let schedule = Schedule::Every { period_ms: MINUTE, anchor_ms: scene.now - MINUTE };
    let standing = stand(&StandingOrder { arguments, conduct, schedule, ..usual });
    let older = scene.send_run(&standing, scene.now - MINUTE);
    gate.reached();
    let newer = run(&standing, scene.now);
    let targets = Targets::new(["web1".parse().expect("a name")]);
    let cancel = CancelOrder::new(&newer, &Signed::unsigned(&newer), targets.root(), "ann".into(), scene.now);
    let (_, proof) = targets.proofs().next().expect("a host");
    let cancel = Control::Cancel(Envelope { signed: ann().sign(&cancel), proof });
    scene.raw.add_control("web1", &cancel.fields());
    eventually("the order to be remembered", || {
        (scene.raw.query::<u64>(&["XLEN", "server:{web1}:control"]) == 0).then_some(())
    });
    scene.send_run(&standing, scene.now);
    // What comes behind it in the inbox is judged after it.
    let ping = renewed(Manifest { operator: "ann".into(), ..scene.raw.manifest(&["web1"], "ping") });
    let signed = ann().sign(&ping);
    scene.send(&signed.signature, &ping);
    assert_eq!(scene.raw.outcome("web1", &ping).state, State::Succeeded);
    scene.raw.wait_state("web1", &older, State::Running);
    gate.open();
    assert_eq!(scene.raw.outcome("web1", &older).state, State::Succeeded);
    assert_eq!(scene.raw.outcome("web1", &newer).state, State::Cancelled);
    assert_eq!(scene.evidence.count(), 1);
}
