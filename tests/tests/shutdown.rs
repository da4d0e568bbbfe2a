//! How a worker stops after SIGTERM.

use std::fs;

use protocol::{outcome::State, status::Status};
use tests::{Evidence, Gate, Raw, Redis, Worker, eventually, fleet, fleet_with, is_alive};

#[test]
fn running_commands_finish_and_later_ones_wait_for_the_next_start() {
    let (redis, mut worker, mut raw) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let running = raw.shell("web1", &format!("{}; echo done", gate.script()));
    raw.send("web1", &running);
    gate.reached();
    worker.term();
    worker.wait_log("waiting up to 30s for running commands");
    wait_control_only(&redis, &mut raw);
    let evidence = Evidence::new(&redis, "evidence");
    let late = raw.shell("web1", &evidence.script());
    raw.send("web1", &late);
    gate.open();
    assert_eq!(worker.wait().code(), Some(0));

    let outcome = raw.outcome("web1", &running);
    assert_eq!((outcome.state, &*outcome.stdout.kept), (State::Succeeded, &b"done\n"[..]));
    assert_eq!((evidence.count(), raw.state("web1", &late)), (0, None));
    assert_eq!((raw.queued("web1"), raw.pending("web1")), (1, 0));
    let Status { stopped, running, .. } = worker.status().expect("a status");
    assert!(stopped && running == 0);

    let _worker = worker.options().start();
    assert_eq!(raw.outcome("web1", &late).state, State::Succeeded);
    assert_eq!(evidence.count(), 1);
}

/// Waits until the reader reads the control stream only.
fn wait_control_only(redis: &Redis, raw: &mut Raw) {
    let woken = || redis.cli(["XINFO", "STREAM", "server:{web1}:control"]).contains("entries-added\n1");
    eventually("the reader to be woken", || woken().then_some(()));
    raw.wait_control_settled("web1");
}

#[test]
fn a_running_command_can_be_cancelled_while_the_worker_stops() {
    let (redis, mut worker, mut raw) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let running = raw.shell("web1", &gate.script());
    raw.send("web1", &running);
    gate.reached();
    worker.term();
    wait_control_only(&redis, &mut raw);
    raw.cancel("web1", &running);
    assert_eq!(raw.outcome("web1", &running).state, State::Cancelled);
    assert_eq!(worker.wait().code(), Some(0));
    raw.wait_control_settled("web1");
    raw.wait_settled("web1");
}

#[test]
fn after_the_grace_period_the_whole_process_group_is_ended() {
    let (redis, mut worker, mut raw) = fleet_with("grace = '100ms'");
    let mut gate = Gate::new(&redis, "gate");
    let (pid, evidence) = (redis.directory().join("pid"), Evidence::new(&redis, "evidence"));
    let script =
        format!("{}; echo begun; sleep 1000 & echo $! > {}; {}", evidence.script(), pid.display(), gate.script());
    let manifest = raw.shell("web1", &script);
    raw.send("web1", &manifest);
    gate.reached();
    let grandchild = fs::read_to_string(pid).expect("a pid").trim().parse().expect("a pid");
    assert!(is_alive(grandchild));
    assert_eq!(worker.terminate().code(), Some(0));
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!((outcome.state, outcome.reason.as_deref()), (State::Interrupted, Some("the worker was stopped")));
    assert_eq!(outcome.stdout.kept, b"begun\n");
    assert!(!is_alive(grandchild));
    // The outcome is published and the entry acknowledged: the next worker does not see the command.
    assert_eq!(raw.queued("web1"), 0);
    let _worker = worker.options().start();
    raw.ping("web1");
    assert_eq!(raw.states(&manifest), [State::Running, State::Interrupted]);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_stopping_worker_still_sends_heartbeats() {
    let (redis, mut worker, mut raw) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let manifest = raw.shell("web1", &gate.script());
    raw.send("web1", &manifest);
    gate.reached();
    worker.term();
    worker.wait_log("waiting up to 30s for running commands");
    let last_seen = |worker: &Worker| worker.status().expect("a status").last_seen_ms;
    let before = last_seen(&worker);
    eventually("the next heartbeat", || (last_seen(&worker) > before).then_some(()));
    gate.open();
    assert_eq!(worker.wait().code(), Some(0));
}

#[test]
fn a_second_sigterm_ends_everything_at_once_and_the_next_worker_reports_the_interruption() {
    let (redis, mut worker, mut raw) = fleet();
    let (mut gate, pid) = (Gate::new(&redis, "gate"), redis.directory().join("pid"));
    let manifest = raw.shell("web1", &format!("sleep 1000 & echo $! > {}; {}", pid.display(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    let grandchild = fs::read_to_string(pid).expect("a pid").trim().parse().expect("a pid");
    worker.term();
    worker.wait_log("SIGTERM: stopping; ");
    worker.term();
    assert_eq!(worker.wait().code(), Some(130));
    worker.wait_log("SIGTERM: stopping at once");
    eventually("nothing to be left running", || (!is_alive(grandchild)).then_some(()));
    let _worker = worker.options().start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Interrupted);
}

#[test]
fn a_worker_stops_while_redis_is_away() {
    let (mut redis, mut worker, _) = fleet();
    redis.kill9();
    worker.wait_log("is away");
    assert_eq!(worker.terminate().code(), Some(0));
}

#[test]
fn a_worker_stops_before_redis_was_ever_there() {
    let mut redis = Redis::start();
    redis.stop();
    let mut worker = Worker::on(&redis).start();
    worker.wait_log("is away");
    assert_eq!(worker.terminate().code(), Some(0));
}
