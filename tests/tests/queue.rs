//! Commands that wait in their worker: what they wait for is shown, and they start when their turn comes.

use protocol::{action::Argument, command::Manifest, keys, outcome::State};
use tests::{Ctl, Gate, Raw, eventually, fleet_with};

/// What the host says that the command waits for.
fn waits_for(raw: &mut Raw, manifest: &Manifest) -> Option<String> {
    let field = keys::waits_for_field(&"web1".parse().expect("a name"));
    raw.query(&["HGET", &keys::Keys::new(None).job_hosts(manifest.job), &field])
}

fn locked(mut manifest: Manifest) -> Manifest {
    manifest.arguments.insert("lock".into(), Argument::Text("deploy".into()));
    manifest
}

#[test]
fn a_command_behind_a_lock_names_the_holder_and_runs_when_its_turn_comes() {
    let (redis, _worker, mut raw) = fleet_with("slots = 4");
    let (ctl, mut gate) = (Ctl::on(&redis), Gate::new(&redis, "gate"));
    let script = gate.script();
    let first = ["run", "-q", "--host", "web1", "--detach", "exec", "lock=deploy", "--", "sh", "-c", &script];
    let holder = ctl.run(first).expect(0).stdout.trim().to_owned();
    gate.reached();
    let holder = &holder[holder.len() - 8..];

    let start_by = raw.now() + 3000;
    let second = ctl.spawn(["run", "--host", "web1", "--start-by", "3s", "exec", "lock=deploy", "--", "echo", "mine"]);
    let waits = format!("web1: waiting for lock 'deploy', held by job {holder}");
    second.wait_stderr(&waits);
    let shown = ctl.run(["job", "show", "last"]).expect(0);
    assert!(shown.stdout.contains("waiting for lock") && shown.stderr.contains(&waits), "{shown}");
    let json = ctl.run(["job", "show", "last", "-o", "json"]).expect(0).json();
    assert_eq!(json["hosts"][0]["waits_for"], format!("lock 'deploy', held by job {holder}"));
    let listed = ctl.run(["job", "list"]).expect(0);
    assert!(listed.stdout.contains("delivered"), "{listed}");

    // Long after its start-by it still waits, for the worker and for `ctl`.
    eventually("the start-by to have passed", || (raw.now() > start_by + 3500).then_some(()));
    assert_eq!(ctl.host_states("last"), [("web1".to_owned(), "delivered".to_owned())]);
    gate.open();
    let output = second.wait().expect(0);
    assert_eq!(output.stdout, "mine\n", "{output}");
    assert!(output.stderr.contains(" (waited "), "{output}");

    let json = ctl.run(["job", "show", "last", "-o", "json"]).expect(0).json();
    assert!(json["hosts"][0]["waited_ms"].as_u64() > json["hosts"][0]["duration_ms"].as_u64(), "{json}");
    assert_eq!(json["hosts"][0].get("waits_for"), None);
    raw.wait_settled("web1");
}

#[test]
fn a_command_that_waits_for_a_slot_says_so() {
    let (redis, _worker, mut raw) = fleet_with("slots = 3");
    let mut gates = ["one", "two"].map(|name| Gate::new(&redis, name));
    for gate in &mut gates {
        let manifest = raw.shell("web1", &gate.script());
        raw.send("web1", &manifest);
        gate.reached();
    }
    let second = Ctl::on(&redis).spawn(["run", "--host", "web1", "exec", "--", "true"]);
    second.wait_stderr("web1: waiting for a slot: 2 of 2 busy");
    gates.iter_mut().for_each(Gate::open);
    second.wait().expect(0);
}

/// Where all slots are busy for long, not even one for actions that only read is free.
#[test]
fn while_all_slots_are_busy_commands_are_taken_before_they_expire() {
    let (redis, _worker, mut raw) = fleet_with("slots = 1");
    let mut gate = Gate::new(&redis, "gate");
    let first = raw.shell("web1", &gate.script());
    raw.send("web1", &first);
    gate.reached();
    let start_by = raw.now() + 30_000;
    let second = Ctl::on(&redis).spawn(["run", "--host", "web1", "--start-by", "30s", "exec", "--", "echo", "mine"]);
    second.wait_stderr("web1: waiting for a slot: 1 of 1 busy");
    assert!(raw.now() < start_by);
    gate.open();
    assert_eq!(second.wait().expect(0).stdout, "mine\n");
}

#[test]
fn what_a_command_waits_for_follows_the_queue() {
    let (redis, _worker, mut raw) = fleet_with("slots = 4");
    let mut gates: Vec<_> = (0..2).map(|number| Gate::new(&redis, &format!("gate{number}"))).collect();
    let mut queue: Vec<_> = gates.iter().map(|gate| locked(raw.shell("web1", &gate.script()))).collect();
    queue.extend((0..25).map(|_| locked(raw.shell("web1", "true"))));
    for manifest in &queue {
        raw.send("web1", manifest);
    }
    for (number, gate) in gates.iter_mut().enumerate() {
        gate.reached();
        let held = format!("lock 'deploy', held by job {}", queue[number].job.short());
        eventually("its holder to be named", || (waits_for(&mut raw, &queue[2]).as_ref() == Some(&held)).then_some(()));
        eventually("the last to be told that many are before it", || {
            (waits_for(&mut raw, &queue[26])? == "its turn, behind 20 others or more").then_some(())
        });
        eventually("it to be shown as running", || waits_for(&mut raw, &queue[number]).is_none().then_some(()));
        gate.open();
    }
    raw.wait_all("web1", &queue);
    assert_eq!(waits_for(&mut raw, &queue[26]), None);
    assert_eq!(raw.states(&queue[26]), [State::Delivered, State::Running, State::Succeeded]);
}

#[test]
fn a_worker_that_returns_too_late_does_not_start_what_its_predecessor_had_taken() {
    let (redis, mut worker, mut raw) = fleet_with("slots = 4");
    let mut gate = Gate::new(&redis, "gate");
    let first = locked(raw.shell("web1", &gate.script()));
    raw.send("web1", &first);
    gate.reached();
    let start_by_ms = raw.now() + 3000;
    let second = Manifest { start_by_ms, ..locked(raw.shell("web1", "true")) };
    raw.send("web1", &second);
    raw.wait_state("web1", &second, State::Delivered);
    worker.kill9();
    eventually("the start-by to have passed", || (raw.now() > start_by_ms + 100).then_some(()));
    let _worker = worker.options().start();
    let outcome = raw.outcome("web1", &second);
    assert_eq!((outcome.state, outcome.started_at_ms), (State::Expired, None));
    assert!(outcome.reason.is_some_and(|reason| reason.starts_with("the worker took it ")));
}

#[test]
fn exec_has_an_hour() {
    let (redis, _worker, _raw) = fleet_with("");
    let ctl = Ctl::on(&redis);
    ctl.run(["run", "--host", "web1", "exec", "--", "true"]).expect(0);
    assert_eq!(ctl.run(["job", "show", "last", "-o", "json"]).expect(0).json()["timeout_ms"], 3_600_000);
}
