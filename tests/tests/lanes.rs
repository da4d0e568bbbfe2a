//! Lanes and locks: which commands run side by side, which wait, and which expire while they wait.

use std::collections::BTreeMap;

use protocol::{
    action::Argument,
    command::Manifest,
    control::Control,
    outcome::{Outcome, State},
    signed::Signed,
};
use tests::{Ctl, Evidence, Gate, Raw, eventually, fleet_with};

fn locked(lock: &str, mut manifest: Manifest) -> Manifest {
    manifest.arguments.insert("lock".into(), Argument::Text(lock.into()));
    manifest
}

/// Sends a program for each gate. It waits at that gate.
fn send_all(raw: &mut Raw, gates: &[Gate]) -> Vec<Manifest> {
    let manifests: Vec<_> = gates.iter().map(|gate| raw.shell("web1", &gate.script())).collect();
    for manifest in &manifests {
        raw.send("web1", manifest);
    }
    manifests
}

#[test]
fn a_ping_runs_while_all_other_slots_are_busy() {
    let (redis, _worker, mut raw) = fleet_with("slots = 3");
    let mut gates: Vec<_> = (0..4).map(|number| Gate::new(&redis, &format!("gate{number}"))).collect();
    let manifests = send_all(&mut raw, &gates);
    gates[..2].iter_mut().for_each(Gate::reached);
    for waiting in &manifests[2..] {
        raw.wait_state("web1", waiting, State::Delivered);
    }
    for _ in 0..20 {
        raw.ping("web1");
    }
    let collect = Ctl::on(&redis).run(["run", "--host", "web1", "collect-load"]);
    collect.expect(0);
    for (manifest, state) in manifests.iter().zip([State::Running, State::Running, State::Delivered, State::Delivered])
    {
        assert_eq!(raw.state("web1", manifest), Some(state));
    }
    gates.iter_mut().for_each(Gate::open);
    raw.wait_all("web1", &manifests);
    assert_eq!(raw.states(&manifests[3]), [State::Delivered, State::Running, State::Succeeded]);
    raw.wait_settled("web1");
}

#[test]
fn with_no_lane_reserved_all_slots_are_used() {
    let (redis, _worker, mut raw) = fleet_with("slots = 3\nreserved = 0");
    let mut gates: Vec<_> = (0..3).map(|number| Gate::new(&redis, &format!("gate{number}"))).collect();
    let manifests = send_all(&mut raw, &gates);
    gates.iter_mut().for_each(Gate::reached);
    gates.iter_mut().for_each(Gate::open);
    raw.wait_all("web1", &manifests);
}

#[test]
fn programs_with_the_same_lock_run_one_after_another_and_others_pass() {
    let (redis, _worker, mut raw) = fleet_with("slots = 8");
    let order = redis.directory().join("order");
    let mut gates: Vec<_> = (0..4).map(|number| Gate::new(&redis, &format!("gate{number}"))).collect();
    let mut app = Vec::new();
    for (number, gate) in gates.iter().enumerate() {
        let script = format!("echo {number} >> '{}'; {}", order.display(), gate.script());
        app.push(locked("app", raw.shell("web1", &script)));
        raw.send("web1", &app[number]);
    }
    gates[0].reached();
    for waiting in &app[1..] {
        raw.wait_state("web1", waiting, State::Delivered);
    }
    // Programs with another lock or without a lock pass.
    let other = locked("db", raw.shell("web1", "true"));
    let none = raw.shell("web1", "true");
    for passing in [&other, &none] {
        assert_eq!(raw.run("web1", passing).state, State::Succeeded);
    }
    for (number, gate) in gates.iter_mut().enumerate() {
        gate.reached();
        let states: Vec<_> = app[number..].iter().map(|manifest| raw.state("web1", manifest)).collect();
        assert!(states[1..].iter().all(|state| *state == Some(State::Delivered)), "{states:?}");
        gate.open();
        assert_eq!(raw.outcome("web1", &app[number]).state, State::Succeeded);
    }
    assert_eq!(std::fs::read_to_string(order).expect("their order"), "0\n1\n2\n3\n");
    raw.wait_settled("web1");
}

#[test]
fn a_ping_behind_many_waiting_programs_runs_before_them() {
    // The programs wait for a lock, or for a free slot of the lane for programs.
    for (config, lock) in [("slots = 4", Some("app")), ("slots = 2", None)] {
        let (redis, _worker, mut raw) = fleet_with(config);
        let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
        let with = |manifest| if let Some(lock) = lock { locked(lock, manifest) } else { manifest };
        let first = with(raw.shell("web1", &gate.script()));
        raw.send("web1", &first);
        gate.reached();
        let waiting: Vec<_> = (0..150).map(|_| with(raw.shell("web1", &evidence.script()))).collect();
        for manifest in &waiting {
            raw.send("web1", manifest);
        }
        raw.ping("web1");
        assert_eq!(evidence.count(), 0, "{config}");
        gate.open();
        raw.wait_all("web1", &waiting);
        assert_eq!(evidence.count(), 150, "{config}");
        raw.wait_settled("web1");
    }
}

#[test]
fn pending_entries_are_read_in_large_batches() {
    const MANY: u64 = 1000;
    let (redis, _worker, mut raw) = fleet_with("slots = 2");
    let mut gate = Gate::new(&redis, "gate");
    let first = raw.shell("web1", &gate.script());
    raw.send("web1", &first);
    gate.reached();
    for _ in 0..MANY {
        let manifest = raw.shell("web1", "true");
        raw.send("web1", &manifest);
    }
    eventually("all to be delivered", || (raw.pending("web1") == MANY + 1).then_some(()));
    redis.cli(["CONFIG", "RESETSTAT"]);
    // A new connection first reads all pending entries, and only then new ones.
    let _: u64 = raw.query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    raw.ping("web1");
    let calls = redis.calls("xreadgroup");
    assert!(calls > 0 && calls < MANY / 10, "{calls} reads");
}

#[test]
fn commands_beyond_the_memory_bound_wait_in_the_inbox_and_all_run_in_order() {
    const MANY: usize = 130;
    let (redis, _worker, mut raw) = fleet_with("slots = 4");
    let (order, mut gate) = (redis.directory().join("order"), Gate::new(&redis, "gate"));
    let first = locked("app", raw.shell("web1", &gate.script()));
    raw.send("web1", &first);
    gate.reached();
    let ballast = BTreeMap::from([("BALLAST".to_owned(), "x".repeat(100_000))]);
    let mut manifests = Vec::new();
    for number in 0..MANY {
        let mut manifest = raw.shell("web1", &format!("echo {number} >> '{}'", order.display()));
        manifest.arguments.insert("env".into(), Argument::Map(ballast.clone()));
        manifests.push(locked("app", manifest));
        raw.send("web1", &manifests[number]);
    }
    let held = protocol::limits::WAITING_BYTES.div_ceil(Signed::unsigned(&manifests[0]).bytes.len()) as u64;
    eventually("as many as the worker may hold", || (raw.pending("web1") > held).then_some(()));
    // The last read may have exceeded the bound by a few entries. After that the worker takes no more.
    raw.add_control("web1", &Control::Wake.fields());
    raw.wait_control_settled("web1");
    assert!(raw.pending("web1") <= held + 4);
    gate.open();
    raw.wait_all("web1", &manifests);
    let ran = std::fs::read_to_string(order).expect("their order");
    assert!(ran.lines().map(str::to_owned).eq((0..MANY).map(|number| number.to_string())), "{ran}");
    raw.wait_settled("web1");
}

#[test]
fn what_was_taken_in_time_starts_when_its_turn_comes_and_what_lay_unread_expires() {
    // The command waits for a lock, for a slot of the lane for programs, or unread in the inbox.
    for (config, lock) in [("slots = 4", Some("app")), ("slots = 2", None), ("slots = 1", None)] {
        let is_taken = config != "slots = 1";
        let (redis, _worker, mut raw) = fleet_with(config);
        let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
        let with = |manifest| if let Some(lock) = lock { locked(lock, manifest) } else { manifest };
        let first = with(raw.shell("web1", &gate.script()));
        raw.send("web1", &first);
        gate.reached();
        // What is taken is taken in time; what lies unread is taken after 3 s.
        let soon = raw.now() + if is_taken { 3000 } else { 200 };
        let late = with(Manifest { start_by_ms: soon, ..raw.shell("web1", &evidence.script()) });
        let early = with(raw.shell("web1", &evidence.script()));
        raw.send("web1", &late);
        raw.send("web1", &early);
        if is_taken {
            raw.wait_state("web1", &late, State::Delivered);
        }
        // The worker's clock may be behind Redis' clock by the time that a reply takes.
        eventually("the deadline to pass", || (raw.now() > soon + 1000).then_some(()));
        gate.open();
        let Outcome { state, started_at_ms, reason, .. } = raw.outcome("web1", &late);
        let expected = if is_taken { State::Succeeded } else { State::Expired };
        assert_eq!((state, started_at_ms.is_some()), (expected, is_taken), "{config}");
        assert_eq!(reason.is_some_and(|reason| reason.ends_with(" after its start-by")), !is_taken, "{config}");
        assert_eq!(raw.outcome("web1", &early).state, State::Succeeded, "{config}");
        raw.wait_settled("web1");
        assert_eq!(evidence.count(), 1 + usize::from(is_taken), "{config}");
    }
}

#[test]
fn commands_that_waited_in_a_dead_worker_run_once_in_the_next_one() {
    let (redis, mut worker, mut raw) = fleet_with("slots = 4");
    let mut gate = Gate::new(&redis, "gate");
    let first = locked("app", raw.shell("web1", &gate.script()));
    raw.send("web1", &first);
    gate.reached();
    let evidence = Evidence::new(&redis, "evidence");
    let waiting: Vec<_> = (0..3).map(|_| locked("app", raw.shell("web1", &evidence.script()))).collect();
    for manifest in &waiting {
        raw.send("web1", manifest);
        raw.wait_state("web1", manifest, State::Delivered);
    }
    worker.kill9();
    let _worker = worker.options().start();
    for manifest in &waiting {
        assert_eq!(raw.outcome("web1", manifest).state, State::Succeeded);
    }
    assert_eq!(raw.outcome("web1", &first).state, State::Interrupted);
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 3);
}
