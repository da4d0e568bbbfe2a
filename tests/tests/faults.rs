//! Redis goes away and comes back: no command is lost, none runs twice.

use std::{fs, os::unix::net::UnixListener};

use protocol::outcome::State;
use tests::{Aof, Evidence, Gate, Raw, Redis, Worker, eventually, outlive_a_redis_outage};

/// A server that syncs every write before it replies, and a worker that is online.
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
fn a_worker_may_start_before_redis_and_logs_the_outage_once() {
    let mut redis = Redis::start();
    redis.stop();
    // In its place a server that closes every connection, and so sees every attempt.
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
fn a_redis_that_loads_its_data_is_away_and_refuses_nothing() {
    // It loads for some seconds, and replies meanwhile. The worker has something to write every second.
    let options = Redis::options().aof(Aof::EverySecond).set("key-load-delay", "20");
    let mut redis = options.set("aof-use-rdb-preamble", "no").start();
    let worker = Worker::on(&redis).config("sample_interval = '1s'").start();
    worker.wait_online();
    let fill = "for i = 1, 30000 do redis.call('SET', 'filler:' .. i, i) end";
    redis.cli(["EVAL", fill, "0"]);
    redis.stop();
    worker.wait_log("is away");
    redis.restart();
    worker.wait_log("Redis is back after ");
    Raw::on(&redis).ping("web1");
    assert_eq!(times(&worker, "refuses writes"), 0, "{}", worker.log());
    assert_eq!(times(&worker, "WARN"), 1, "{}", worker.log());
}

#[test]
fn an_outcome_of_a_redis_outage_is_published_when_redis_is_back() {
    let (mut redis, worker) = fleet();
    outlive_a_redis_outage(&mut redis, &worker);
}

#[test]
fn a_running_program_goes_on_through_a_redis_outage() {
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
    // The entry was delivered before and is pending: the worker that runs it must not start it again.
    raw.ping("web1");
    assert_eq!(raw.state("web1", &manifest), Some(State::Running));
    gate.open();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_command_sent_at_the_moment_of_the_crash_runs_once() {
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
fn a_command_sent_to_a_disconnected_worker_runs_when_it_reconnects() {
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
        let _: u64 = raw.query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        if number % 10 == 0 {
            // Otherwise no connection might ever live long enough to carry an outcome.
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
    // Redis stays connected and does not reply: only a timeout shows that. This takes the 15 s of the worker's
    // longest read.
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
