//! Redis goes away and comes back: nothing that was asked is lost, nothing is done twice.

use std::{fs, os::unix::net::UnixListener};

use protocol::outcome::State;
use tests::{Aof, Evidence, Gate, Raw, Redis, Worker, eventually, outlive_an_absence};

/// A server that has on disk what it has answered, and a worker that is online.
fn fleet() -> (Redis, Worker) {
    let redis = Redis::options().aof(Aof::Always).start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    (redis, worker)
}

fn times(worker: &Worker, pattern: &str) -> usize {
    worker.log().matches(pattern).count()
}

#[test]
fn redis_may_come_after_the_worker_and_its_absence_is_said_once() {
    let mut redis = Redis::start();
    redis.stop();
    // In its place somebody who hangs up on everyone, and so learns of every attempt.
    let _ = fs::remove_file(redis.socket());
    let impostor = UnixListener::bind(redis.socket()).expect("a socket");
    let worker = Worker::on(&redis).start();
    for _ in 0..8 {
        impostor.accept().expect("an attempt");
    }
    drop(impostor);
    fs::remove_file(redis.socket()).expect("the socket");
    redis.restart();
    worker.wait_online();
    Raw::on(&redis).ping("web1");
    worker.wait_log("Redis is back after ");
    assert_eq!(times(&worker, "is away"), 1, "{}", worker.log());
    assert_eq!(times(&worker, "Redis is back"), 1, "{}", worker.log());
    assert_eq!(times(&worker, "WARN"), 1, "{}", worker.log());
}

#[test]
fn what_ends_while_redis_is_away_is_told_when_it_is_back() {
    let (mut redis, worker) = fleet();
    outlive_an_absence(&mut redis, &worker);
}

#[test]
fn what_runs_through_the_outage_goes_on() {
    let (mut redis, worker) = fleet();
    let mut raw = Raw::on(&redis);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    redis.kill9();
    worker.wait_log("is away");
    redis.restart();
    worker.wait_log("Redis is back");
    let mut raw = Raw::on(&redis);
    // It was delivered before and is pending: the worker that has it must not take it anew.
    raw.ping("web1");
    assert_eq!(raw.state("web1", &manifest), Some(State::Running));
    gate.open();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 1);
}

#[test]
fn what_was_asked_in_the_moment_of_the_crash_is_done_once() {
    let (mut redis, worker) = fleet();
    let evidence: Vec<_> = (0..10).map(|round| Evidence::new(&redis, &format!("evidence{round}"))).collect();
    for evidence in &evidence {
        let mut raw = Raw::on(&redis);
        let manifest = raw.shell("web1", &evidence.script());
        raw.send("web1", &manifest);
        redis.kill9();
        redis.restart();
        let mut raw = Raw::on(&redis);
        assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded, "{}", worker.log());
        raw.wait_settled("web1");
    }
    let counts: Vec<_> = evidence.iter().map(Evidence::count).collect();
    assert_eq!(counts, [1; 10]);
}

#[test]
fn what_was_asked_of_a_worker_that_has_lost_redis_is_done_once_it_is_back() {
    let (mut redis, worker) = fleet();
    redis.kill9();
    worker.wait_log("is away");
    worker.stop();
    redis.restart();
    let mut raw = Raw::on(&redis);
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    raw.send("web1", &manifest);
    worker.cont();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn connections_that_are_killed_all_the_time_lose_nothing_and_repeat_nothing() {
    let (redis, worker) = fleet();
    let mut raw = Raw::on(&redis);
    let evidence: Vec<_> = (0..100).map(|number| Evidence::new(&redis, &format!("evidence{number}"))).collect();
    let manifests: Vec<_> = evidence.iter().map(|evidence| raw.shell("web1", &evidence.script())).collect();
    for (number, manifest) in manifests.iter().enumerate() {
        raw.send("web1", manifest);
        let _: u64 = raw.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        if number % 10 == 0 {
            // Else it could be that no connection ever lives long enough to carry an answer.
            raw.outcome("web1", manifest);
        }
    }
    raw.wait_all("web1", &manifests);
    raw.wait_settled("web1");
    assert!(manifests.iter().all(|manifest| raw.state("web1", manifest) == Some(State::Succeeded)), "{}", worker.log());
    let counts: Vec<_> = evidence.iter().map(Evidence::count).collect();
    assert_eq!(counts, [1; 100]);
}

#[test]
fn a_redis_that_stalls_for_a_moment_is_not_away() {
    let (redis, worker) = fleet();
    let mut raw = Raw::on(&redis);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}; {}", evidence.script(), gate.script(), evidence.script()));
    raw.send("web1", &manifest);
    gate.reached();
    redis.freeze();
    gate.open();
    eventually("the program to end", || (evidence.count() == 2).then_some(()));
    worker.wait_log("succeeded in ");
    redis.thaw();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
    raw.ping("web1");
    assert_eq!(times(&worker, "is away"), 0, "{}", worker.log());
}

#[test]
fn a_redis_that_stalls_for_long_is_left_and_found_again() {
    let (redis, worker) = fleet();
    let mut raw = Raw::on(&redis);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    redis.freeze();
    // It stays connected and answers nothing: only the clock can tell. This takes the 15 s of the
    // worker's longest read.
    worker.wait_log("is away");
    gate.open();
    worker.wait_log("succeeded in ");
    redis.thaw();
    worker.wait_log("Redis is back");
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
    raw.ping("web1");
    assert_eq!(evidence.count(), 1);
    assert_eq!(times(&worker, "is away"), 1, "{}", worker.log());
}
