//! The two-person rule: one proposes, others look at it and approve, and whoever completes the number sends it.

use protocol::{
    action::{Argument, Arguments},
    command::Manifest,
    job::JobRecord,
    keys::Keys,
    signed::Signed,
    targets::Targets,
    trust::sshsig,
};
use tests::{Ctl, Evidence, Network, Raw, Redis, Signatory, Worker, eventually, renewed};

const RULES: &str = "
[[policy]]
who = ['*']
actions = ['ping']

[[policy]]
who = ['ann', 'bob', 'carol']
actions = ['exec', 'collect-cpu']
approvals = 2
pre_approved = ['collect-cpu']
";

struct Scene {
    redis: Redis,
    worker: Worker,
    evidence: Evidence,
    ann: Ctl,
    bob: Ctl,
}

impl Scene {
    fn new(rules: &str) -> Self {
        let redis = Redis::start();
        let options = Worker::on(&redis).config(rules);
        let names = ["ann", "bob", "carol"].into_iter().zip(11..);
        options.trust(&names.map(|(name, seed)| Signatory::new(seed).line(name, "")).collect::<String>());
        let worker = options.start();
        worker.wait_online();
        let (ann, bob) = (operator(&redis, "ann", 11), operator(&redis, "bob", 12));
        Self { evidence: Evidence::new(&redis, "evidence"), redis, worker, ann, bob }
    }

    /// Ann proposes a program that leaves evidence. Returns the job's id.
    #[track_caller]
    fn propose(&self) -> String {
        let script = self.evidence.script();
        let run = ["run", "--host", "web1", "--propose", "exec", "--", "sh", "-c", &script];
        self.ann.run(run).expect(0).stdout.trim().to_owned()
    }

    #[track_caller]
    fn never_ran(&self) {
        Raw::on(&self.redis).wait_settled("web1");
        assert_eq!(self.evidence.count(), 0, "a program ran");
    }
}

fn operator(redis: &Redis, name: &str, seed: u8) -> Ctl {
    Ctl::on(redis).with_key(&Signatory::new(seed)).env("REDFLEET_OPERATOR", name)
}

#[test]
fn what_one_proposes_and_another_approves_runs() {
    let scene = Scene::new(RULES);
    let job = scene.propose();
    scene.never_ran();
    let listed = scene.bob.run(["job", "list"]).expect(0);
    assert!(listed.stdout.contains("proposed, 1 of 2"), "{listed}");
    let shown = scene.ann.run(["job", "show", "last", "-o", "json"]).expect(0).json();
    assert_eq!((&shown["proposed"]["signed"], &shown["proposed"]["needed"]), (&1.into(), &2.into()));

    let (code, shown) = scene.bob.at_terminal(["job", "approve", &job], "y\n");
    assert_eq!(code, 0, "{shown}");
    let key = Signatory::new(11).fingerprint();
    for part in ["asked by", &key, "1 host: web1", "sh -c", "1 of 2; 1 more needed", "Approve it as bob?", "succeeded"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(scene.evidence.count(), 1);
    let shown = scene.ann.run(["job", "show", &job, "-o", "json"]).expect(0).json();
    assert_eq!((&shown["approved_by_unverified"][0], &shown["proposed"]), (&"bob".into(), &serde_json::Value::Null));
    let trail = std::fs::read_to_string(scene.worker.options().directory().join("state/audit.jsonl")).expect("a trail");
    assert!(trail.contains(r#""approved_by":["bob"]"#), "{trail}");
    let late = scene.bob.run(["job", "approve", &job, "--yes"]).expect(1);
    assert!(late.stderr.contains("it waits for no approval: it was sent, or withdrawn"), "{late}");
}

#[test]
fn the_last_of_three_sends_it() {
    let scene = Scene::new(&RULES.replace("approvals = 2", "approvals = 3"));
    let job = scene.propose();
    let waits = scene.bob.run(["job", "approve", &job, "--yes"]).expect(0);
    assert!(waits.stderr.contains("approved: 2 of 3 have signed; 1 more needed"), "{waits}");
    let again = scene.bob.run(["job", "approve", &job, "--yes"]).expect(1);
    assert!(again.stderr.contains("bob has approved it already"), "{again}");
    scene.never_ran();
    let carol = operator(&scene.redis, "carol", 13);
    carol.run(["job", "approve", &job, "--yes"]).expect(0);
    assert_eq!(scene.evidence.count(), 1);
}

#[test]
fn what_needs_approvals_is_not_sent_alone_and_what_is_pre_approved_is() {
    let scene = Scene::new(RULES);
    for line in ["run --host web1 exec -- true", "exec web1 -- true", "sh web1 true"] {
        let refused = scene.ann.run(line.split(' '));
        assert!(refused.stderr.contains("exec needs 2 signatures there, yours and 1 more"), "{refused}");
        assert!(refused.stderr.contains("ctl run --propose … exec …"), "{refused}");
    }
    let described = scene.ann.run(["action", "show", "exec"]).expect(0);
    assert!(described.stdout.contains("2 needed: ctl run --propose … exec"), "{described}");
    scene.ann.run(["run", "--host", "web1", "collect-cpu"]).expect(0);
    scene.ann.run(["run", "--host", "web1", "ping"]).expect(0);
}

#[test]
fn nobody_approves_for_the_operator_or_twice_with_a_key() {
    let scene = Scene::new(RULES);
    let job = scene.propose();
    let own = scene.ann.run(["job", "approve", &job, "--yes"]).expect(1);
    assert!(own.stderr.contains("you asked for it yourself (ann)"), "{own}");
    let renamed = operator(&scene.redis, "bob", 11).run(["job", "approve", &job, "--yes"]).expect(1);
    assert!(renamed.stderr.contains("your key has signed it already, under another name"), "{renamed}");
    let unasked = scene.bob.run(["job", "approve", &job]).expect(1);
    assert!(unasked.stderr.contains("there is no terminal to ask at"), "{unasked}");
    let (code, declined) = scene.bob.at_terminal(["job", "approve", &job], "n\n");
    assert!(code == 1 && declined.contains("not approved"), "{declined}");
    scene.never_ran();
}

#[test]
fn a_proposal_is_not_awaited_and_can_be_withdrawn() {
    let scene = Scene::new(RULES);
    let job = scene.propose();
    for verb in ["wait", "logs"] {
        let refused = scene.ann.run(["job", verb, &job]).expect(1);
        assert!(refused.stderr.contains("was not sent: it is proposed, and 1 of 2 have signed it"), "{refused}");
    }
    scene.never_ran();
    scene.ann.run(["job", "cancel", &job]).expect(0);
    let late = scene.bob.run(["job", "approve", &job, "--yes"]).expect(1);
    assert!(late.stderr.contains("it was sent, or withdrawn"), "{late}");

    // Not even somebody who writes to Redis brings it back: the host has the order to cancel it.
    let mut raw = Raw::on(&scene.redis);
    raw.query::<u64>(&["HSET", &format!("job:{{{job}}}"), "proposed", "2"]);
    scene.bob.run(["job", "approve", &job, "--yes"]).expect(2);
    scene.never_ran();
    let listed = scene.bob.run(["job", "list", "-o", "json"]).expect(0).json();
    assert_eq!(listed[0]["states"], serde_json::json!({ "cancelled": 1 }));
}

#[test]
fn two_who_approve_at_once_lose_nothing() {
    let scene = Scene::new(&RULES.replace("approvals = 2", "approvals = 3"));
    let job = scene.propose();
    let carol = operator(&scene.redis, "carol", 13);
    let both = [&scene.bob, &carol].map(|ctl| ctl.spawn(["job", "approve", &job, "--yes"]));
    // Whoever comes last completes it; where both see all three, only one sends it.
    for running in both {
        let output = running.wait();
        assert!(output.code == 0 || output.stderr.contains("it was sent"), "{output}");
    }
    scene.evidence.wait();
    eventually("its end", || {
        let shown = scene.ann.run(["job", "show", &job, "-o", "json"]).expect(0).json();
        (shown["hosts"][0]["state"] == "succeeded").then_some(())
    });
    assert_eq!(scene.evidence.count(), 1);
}

#[test]
fn a_lost_command_is_sent_again_with_its_approvals() {
    let mut scene = Scene::new(RULES);
    let job = scene.propose();
    scene.worker.terminate();
    scene.bob.run(["job", "approve", &job, "--yes", "--detach"]).expect(0);
    let mut raw = Raw::on(&scene.redis);
    raw.query::<u64>(&["DEL", "server:{web1}:commands"]);
    scene.worker = scene.worker.options().start();
    scene.ann.run(["job", "wait", &job]).expect(0);
    assert_eq!(scene.evidence.count(), 1);
}

/// Whoever writes to Redis keeps a proposal of ann that says more than this release knows.
#[test]
fn what_cannot_be_shown_in_full_is_not_signed() {
    let scene = Scene::new(RULES);
    let mut raw = Raw::on(&scene.redis);
    let manifest = renewed(Manifest { operator: "ann".into(), ..raw.exec(&["web1"], &["true"]) });
    let bytes = tests::hostile::with_unknown_field(&manifest, &tests::hostile::text("more"));
    let signature = Signatory::new(11).sign_bytes(sshsig::JOB, &bytes);
    let targets = Targets::new(["web1".parse().expect("a name")]);
    let signed = Signed::of_bytes(bytes, signature);
    let record = JobRecord { signed, proposed: Some(2), ..JobRecord::unsigned(manifest, targets) };
    record.write(&Keys::new(None)).query::<()>(&mut scene.redis.blocking()).expect("a record");
    let refused = scene.bob.run(["job", "approve", &record.id().to_string(), "--yes"]).expect(1);
    assert!(refused.stderr.contains("does not know, and cannot show"), "{refused}");
    scene.never_ran();
}

#[test]
fn a_proposal_may_have_secrets_that_nobody_sees() {
    let scene = Scene::new(RULES);
    let secret = ["run", "--host", "web1", "--propose", "exec", "secret.TOKEN=hunter2", "--"];
    let script = ["sh", "-c", "test $TOKEN = hunter2 && echo right"];
    let job = scene.ann.run(secret.into_iter().chain(script)).expect(0).stdout.trim().to_owned();
    let (code, shown) = scene.bob.at_terminal(["job", "approve", &job], "y\n");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("***") && shown.contains("right") && !shown.contains("TOKEN=hunter2"), "{shown}");
}

#[test]
fn what_cannot_be_approved_says_why() {
    let scene = Scene::new(RULES);
    let mut raw = Raw::on(&scene.redis);
    let job = scene.propose();
    let key = format!("job:{{{job}}}");
    raw.query::<u64>(&["HSET", &key, "targets", "web2"]);
    let damaged = scene.bob.run(["job", "approve", &job, "--yes"]).expect(1);
    assert!(damaged.stderr.contains("the field 'targets' does not belong to the manifest"), "{damaged}");
    raw.query::<u64>(&["HSET", &key, "targets", "web1", "signature", ""]);
    let unsigned = scene.bob.run(["job", "approve", &job, "--yes"]).expect(1);
    assert!(unsigned.stderr.contains("no host would take it: it is not signed"), "{unsigned}");

    let short = ["run", "--host", "web1", "--propose", "--start-by", "1ms", "ping"];
    let late = scene.ann.run(short).expect(0).stdout;
    eventually("its start-by", || {
        let refused = scene.bob.run(["job", "approve", late.trim(), "--yes"]);
        refused.stderr.contains("it is too late: its start-by has passed").then_some(())
    });
    scene.never_ran();
}

/// A proposal of ann for web1 that runs `argv`, as a faulty or hostile Redis may show it.
fn proposal(raw: &mut Raw, namespace: Option<&str>, argv: &[&str]) -> JobRecord {
    let namespace = namespace.map(|name| name.parse().expect("a name"));
    let manifest = renewed(Manifest { operator: "ann".into(), namespace, ..raw.exec(&["web1"], argv) });
    let targets = Targets::new(["web1".parse().expect("a name")]);
    JobRecord { proposed: Some(2), ..Signatory::new(11).record(manifest, targets) }
}

/// Whoever writes to Redis copies a proposal for one fleet to another one, where a host of the same name is less precious.
#[test]
fn a_proposal_of_another_fleet_is_not_approved() {
    let redis = Redis::start();
    let (mut raw, mut connection) = (Raw::on(&redis), redis.blocking());
    let record = proposal(&mut raw, Some("prod"), &["true"]);
    let id = record.id().to_string();
    let within =
        |namespace| Ctl::within(&redis, namespace).with_key(&Signatory::new(12)).env("REDFLEET_OPERATOR", "bob");
    for namespace in ["prod", "staging"] {
        let keys = Keys::new(Some(&namespace.parse().expect("a name")));
        record.write(&keys).query::<()>(&mut connection).expect("a record");
    }
    let (prod, staging) = (within("prod"), within("staging"));
    for verb in [&["job", "approve", &id, "--yes"][..], &["job", "show", &id], &["job", "cancel", &id, "--yes"]] {
        let refused = staging.run(verb).expect(1);
        let reason = "it was signed for the namespace 'prod', and this is the namespace 'staging'";
        assert!(refused.stderr.contains(reason) && refused.stderr.contains("--namespace prod"), "{refused}");
    }
    let fields: Vec<String> = raw.query(&["HKEYS", &format!("staging:job:{{{id}}}")]);
    assert!(!fields.contains(&"approval:bob".to_owned()), "bob has signed it");
    let shown = prod.run(["job", "show", &id]).expect(0);
    assert!(shown.stdout.lines().any(|line| line.starts_with("namespace ") && line.ends_with(" prod")), "{shown}");
    let unasked = prod.run(["job", "approve", &id]).expect(1);
    assert!(unasked.stderr.lines().any(|line| line.starts_with("namespace ") && line.ends_with(" prod")), "{unasked}");
}

/// Ann has signed two jobs under one id. Whoever writes to Redis shows bob one, and replaces it before he agrees.
#[test]
fn only_what_was_shown_is_sent() {
    let scene = Scene::new(RULES);
    let mut raw = Raw::on(&scene.redis);
    let mut connection = scene.redis.blocking();
    let shown = proposal(&mut raw, None, &["true"]);
    let script = scene.evidence.script();
    let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let arguments = Arguments::from([("argv".to_owned(), Argument::List(argv))]);
    let other = Manifest { arguments, ..shown.manifest.clone() };
    let other = JobRecord { proposed: Some(1), ..Signatory::new(11).record(other, shown.targets.clone()) };
    shown.write(&Keys::new(None)).query::<()>(&mut connection).expect("a record");

    let mut terminal = scene.bob.start_at_terminal(["job", "approve", &shown.id().to_string()]);
    terminal.wait_for("Approve it as bob?");
    other.write(&Keys::new(None)).query::<()>(&mut connection).expect("a record");
    terminal.answer("Approve it as bob?", "y\n");
    let (code, said) = terminal.wait();
    assert!(code == Some(1) && said.contains("its record was replaced while it was approved"), "{said}");
    let sent: u64 = raw.query(&["EXISTS", "server:{web1}:commands"]);
    let sent = if sent == 0 { 0 } else { raw.query::<u64>(&["XLEN", "server:{web1}:commands"]) };
    assert_eq!(sent, 0, "the other job was sent");
    scene.never_ran();
}

/// A name beside a signature is what somebody has typed: only the trust file tells whose key it is.
#[test]
fn names_are_verified_by_the_copy_of_the_trust_file() {
    let scene = Scene::new(&RULES.replace("approvals = 2", "approvals = 3"));
    let job = scene.propose();
    scene.bob.run(["job", "approve", &job, "--yes"]).expect(0);
    let carol = operator(&scene.redis, "carol", 13);
    let looked = |ctl: &Ctl| {
        let asked = ctl.run(["job", "approve", &job]).expect(1).stderr;
        let [table, json] =
            [&["job", "show", &job][..], &["job", "show", &job, "-o", "json"]].map(|words| ctl.run(words));
        (asked, table.expect(0), json.expect(0).json())
    };
    let trusted = |lines: [(&str, u8); 2]| {
        let lines = lines.map(|(name, seed)| Signatory::new(seed).line(name, "")).concat();
        carol.write(".config/redfleet/fleet/allowed_signers", &lines);
    };

    let (asked, table, json) = looked(&carol);
    assert!(asked.contains("ann (not verified), ") && asked.contains("bob (not verified)"), "{asked}");
    assert!(table.stdout.contains("bob (not verified)") && table.stderr.contains("no copy of the fleet's"), "{table}");
    assert_eq!((&json["approved_by"], &json["approved_by_unverified"][0]), (&serde_json::json!([]), &"bob".into()));
    trusted([("ann", 11), ("bob", 12)]);
    let (asked, table, json) = looked(&carol);
    assert!(!asked.contains("not verified") && !table.to_string().contains("not verified"), "{asked}{table}");
    let null = serde_json::Value::Null;
    assert_eq!((&json["approved_by"][0], &json["approved_by_unverified"]), (&"bob".into(), &null));
    // The keys are others'.
    trusted([("bob", 11), ("ann", 12)]);
    let (asked, table, json) = looked(&carol);
    assert!(asked.contains("ann (not verified), ") && asked.contains("is not trusted as 'bob'"), "{asked}");
    assert!(table.stdout.contains("bob (not verified)") && table.stderr.contains("is not trusted as 'bob'"), "{table}");
    assert_eq!((&json["approved_by"], &json["approved_by_unverified"][0]), (&serde_json::json!([]), &"bob".into()));
}

/// Whoever owns Redis, or sets its clock, does not decide from when and until when a job is valid.
#[test]
fn nothing_is_signed_by_a_wrong_clock() {
    let scene = Scene::new(RULES);
    let job = scene.propose();
    let network = Network::to(&scene.redis);
    let [ann, bob] = [&scene.ann, &scene.bob].map(|ctl| ctl.clone().through(&scene.redis, &network.url()));
    let attempts = [
        (&ann, vec!["run", "--host", "web1", "ping"]),
        (&ann, vec!["run", "--host", "web1", "--propose", "ping"]),
        (&bob, vec!["job", "approve", &job, "--yes"]),
        (&ann, vec!["job", "cancel", &job]),
    ];
    for (seconds, reason) in
        [(-600, "this machine's clock is 10m ahead of Redis'"), (600, "Redis' clock is 10m ahead of this machine's")]
    {
        network.step_clock(seconds);
        for (ctl, words) in &attempts {
            let refused = ctl.run(words).expect(1);
            // Part of a second is lost on the way.
            let said = refused.stderr.replace("9m 59s", "10m").replace("10m 1s", "10m");
            assert!(said.contains(reason) && said.contains("timedatectl"), "{refused}");
        }
    }
    // Nothing was withdrawn, or ordered to be cancelled.
    scene.never_ran();
    // A small difference is no matter.
    network.step_clock(-60);
    ann.run(["run", "--host", "web1", "ping"]).expect(0);
    bob.run(["job", "approve", &job, "--yes"]).expect(0);
    assert_eq!(scene.evidence.count(), 1);
}
