//! A worker dies in the middle of its work, and the next one recovers.

use protocol::{
    command::Manifest,
    keys::{CONSUMER_GROUP, Keys},
    name::HostName,
    outcome::State,
};
use tests::{Evidence, Gate, Raw, Redis, Worker, fleet};

/// Makes Redis deliver `manifest` to a halted worker, which then dies: the entry is pending, and the worker has
/// done nothing about it.
fn die_with(worker: &mut Worker, raw: &mut Raw, manifest: &Manifest) {
    raw.wait_reading();
    worker.stop();
    raw.send("web1", manifest);
    assert_eq!(raw.pending("web1"), 1);
    worker.kill9();
}

#[test]
fn a_program_that_ran_at_the_crash_is_reported_as_interrupted_and_never_runs_twice() {
    let (redis, mut worker, mut raw) = fleet();
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    worker.kill9();
    assert_eq!(raw.state("web1", &manifest), Some(State::Running), "only the worker writes its host's state");

    let _worker = worker.options().start();
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!(outcome.state, State::Interrupted);
    assert!(outcome.started_at_ms.is_some(), "the journal knows when it began");
    let reason = outcome.reason.expect("a reason");
    assert!(reason.contains("how far it came is not known"), "{reason}");
    raw.ping("web1");
    raw.wait_settled("web1");
    assert_eq!(raw.states(&manifest), [State::Running, State::Interrupted]);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_program_that_was_delivered_but_never_started_runs_after_the_crash() {
    let (redis, mut worker, mut raw) = fleet();
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    die_with(&mut worker, &mut raw, &manifest);
    let _worker = worker.options().start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_repeatable_action_runs_again() {
    let (_redis, mut worker, mut raw) = fleet();
    let manifest = raw.manifest(&["web1"], "collect-cpu");
    die_with(&mut worker, &mut raw, &manifest);
    let _worker = worker.options().start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
}

#[test]
fn a_repeatable_action_does_not_run_again_after_its_start_by() {
    let (_redis, mut worker, mut raw) = fleet();
    let soon = raw.now() + 200;
    let manifest = Manifest { start_by_ms: soon, ..raw.manifest(&["web1"], "collect-cpu") };
    die_with(&mut worker, &mut raw, &manifest);
    tests::eventually("the deadline to pass", || (raw.now() > soon).then_some(()));
    let _worker = worker.options().start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Expired);
    raw.wait_settled("web1");
}

#[test]
fn a_crash_between_the_outcome_and_the_acknowledgement_changes_nothing() {
    let (redis, mut worker, mut raw) = fleet();
    let evidence = Evidence::new(&redis, "evidence");
    let once = raw.shell("web1", &evidence.script());
    die_with(&mut worker, &mut raw, &once);
    // As if the dead worker had published its outcome and died right after.
    let (keys, web1) = (Keys::new(None), "web1".parse::<HostName>().expect("a name"));
    let _: u64 = raw.query(&["HSET", &keys.job_hosts(once.job), "web1", "succeeded"]);
    let _: u64 = raw.query(&["HSET", &keys.job_result(once.job, &web1), "status", "succeeded"]);
    let worker = worker.options().start();
    raw.wait_settled("web1");
    worker.wait_log("it has an outcome already");
    assert_eq!(raw.state("web1", &once), Some(State::Succeeded));
    assert_eq!(raw.states(&once), [], "no state is reported twice");
    assert_eq!(evidence.count(), 0);
}

#[test]
fn more_pending_commands_than_slots_run_in_turn_after_a_crash() {
    let redis = Redis::start();
    let mut worker = Worker::on(&redis).config("slots = 1").allow_exec().start();
    let mut raw = Raw::on(&redis);
    raw.wait_reading(); // A worker that is online need not have its consumer group yet.
    worker.terminate();
    let key = "server:{web1}:commands";
    let evidence = Evidence::new(&redis, "evidence");
    let pings: Vec<_> = (0..12).map(|_| raw.manifest(&["web1"], "collect-network")).collect();
    let execs: Vec<_> = (0..12).map(|_| raw.shell("web1", &evidence.script())).collect();
    for (ping, exec) in pings.iter().zip(&execs) {
        raw.send("web1", ping);
        raw.send("web1", exec);
    }
    let _: redis::Value = raw.query(&["XREADGROUP", "GROUP", CONSUMER_GROUP, "worker", "STREAMS", key, ">"]);
    assert_eq!(raw.pending("web1"), 24);

    let _worker = worker.options().start();
    raw.wait_all("web1", &pings);
    raw.wait_all("web1", &execs);
    assert!(pings.iter().all(|ping| raw.state("web1", ping) == Some(State::Succeeded)));
    assert!(execs.iter().all(|exec| raw.state("web1", exec) == Some(State::Succeeded)));
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 12);
}
