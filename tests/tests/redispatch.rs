//! A question that Redis has lost, or whose receipt was lost, is asked again under the same id: it is answered, and
//! nothing runs twice.

use tests::{Aof, Ctl, Evidence, Gate, Network, Raw, Redis, Running, Worker, eventually};

const AGAIN: &str = "asked again under the same id";

fn fleet(aof: Aof) -> (Redis, Worker, Ctl) {
    let redis = Redis::options().aof(aof).start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    (redis, worker, ctl)
}

fn run(ctl: &Ctl, script: &str) -> Running {
    ctl.spawn(["run", "--host", "web1", "exec", "--", "sh", "-c", script])
}

/// Waits until the question has been asked.
#[track_caller]
fn wait_asked(redis: &Redis) {
    eventually("the question", || (redis.cli(["EXISTS", "jobs"]) == "1").then_some(()));
}

/// The program answered `done`, having run once, and nothing is left of the question.
#[track_caller]
fn answered(redis: &Redis, running: Running, evidence: &Evidence) {
    let output = running.wait().expect(0);
    assert_eq!(output.stdout, "done\n", "{output}");
    Raw::on(redis).wait_settled("web1");
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_command_that_was_flushed_before_the_host_came_back_is_asked_again() {
    let (redis, mut worker, ctl) = fleet(Aof::EverySecond);
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    wait_asked(&redis);
    redis.cli(["FLUSHALL"]);
    running.wait_stderr("the job is gone from Redis");
    running.wait_stderr(AGAIN);
    let _worker = worker.options().start();
    answered(&redis, running, &evidence);
    let shown = ctl.standing("last");
    assert_eq!(shown, [("web1".into(), "succeeded".into())], "the job itself is there again");
    ctl.run(["doctor"]).expect(0);
}

#[test]
fn a_command_that_was_flushed_when_it_had_just_been_delivered_runs_once() {
    let (redis, worker, ctl) = fleet(Aof::EverySecond);
    Raw::on(&redis).wait_reading();
    worker.stop();
    let evidence = Evidence::new(&redis, "evidence");
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    wait_asked(&redis);
    redis.cli(["FLUSHALL"]);
    running.wait_stderr(AGAIN);
    // It has both now: what it was given before, and what it finds in the stream.
    worker.cont();
    answered(&redis, running, &evidence);
}

#[test]
fn a_command_that_runs_while_redis_is_flushed_goes_on_and_is_answered() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let running = run(&ctl, &format!("{}; {}; echo done", evidence.script(), gate.script()));
    gate.reached();
    redis.cli(["FLUSHALL"]);
    running.wait_stderr(AGAIN);
    Raw::on(&redis).wait_dropped("web1", "duplicate", 1);
    gate.open();
    answered(&redis, running, &evidence);
}

#[test]
fn an_answer_that_was_flushed_before_it_was_seen_is_told_again() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let network = Network::to(&redis);
    let ctl = ctl.env("REDFLEET_REDIS", &network.url());
    let running = run(&ctl, &format!("{}; {}; echo done", evidence.script(), gate.script()));
    gate.reached();
    // Whatever `ctl` hears of it comes too late.
    network.hold("XREAD");
    network.wait_held();
    gate.open();
    let mut raw = Raw::on(&redis);
    raw.wait_settled("web1");
    redis.cli(["FLUSHALL"]);
    network.cut();
    running.wait_stderr(AGAIN);
    answered(&redis, running, &evidence);
}

#[test]
fn an_answer_that_was_written_twice_is_printed_once() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let evidence = Evidence::new(&redis, "evidence");
    let network = Network::to(&redis);
    // `ctl` begins to listen when all is over.
    network.hold("XADD");
    let ctl = ctl.env("REDFLEET_REDIS", &network.url());
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    network.wait_held();
    evidence.wait();
    Raw::on(&redis).wait_settled("web1");
    // As by a worker that lost the receipt of its answer.
    let events = redis.cli(["KEYS", "job:*:events"]);
    redis.cli(["XADD", &events, "*", "host", "web1", "state", "succeeded"]);
    network.release();
    answered(&redis, running, &evidence);
}

#[test]
fn a_restart_without_persistence_changes_nothing_for_who_waits() {
    let (mut redis, mut worker, ctl) = fleet(Aof::Off);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let running = run(&ctl, &format!("{}; {}; echo done", evidence.script(), gate.script()));
    gate.reached();
    redis.kill9();
    running.wait_stderr("trying again");
    redis.restart();
    running.wait_stderr(AGAIN);
    gate.open();
    answered(&redis, running, &evidence);

    worker.terminate();
    let evidence = Evidence::new(&redis, "queued");
    let queued = run(&ctl, &format!("{}; echo done", evidence.script()));
    wait_asked(&redis);
    queued.wait_stderr("queued until");
    redis.kill9();
    redis.restart();
    queued.wait_stderr(AGAIN);
    let _worker = worker.options().start();
    answered(&redis, queued, &evidence);
}

#[test]
fn a_command_that_alone_was_lost_is_asked_again() {
    let (redis, mut worker, ctl) = fleet(Aof::EverySecond);
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    wait_asked(&redis);
    // As after a failover that lost the newest writes: the job is there, the entry in the inbox is not.
    redis.cli(["DEL", "server:{web1}:commands"]);
    running.wait_stderr("Redis has lost the command of 1 host");
    running.wait_stderr(AGAIN);
    let _worker = worker.options().start();
    answered(&redis, running, &evidence);
}

#[test]
fn a_dispatch_whose_receipt_was_lost_runs_once() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let network = Network::to(&redis);
    let ctl = ctl.env("REDFLEET_REDIS", &network.url());
    for round in 0..3 {
        let evidence = Evidence::new(&redis, &format!("evidence{round}"));
        let mut gate = Gate::new(&redis, &format!("gate{round}"));
        network.hold("XADD");
        let running = run(&ctl, &format!("{}; {}; echo done", evidence.script(), gate.script()));
        network.wait_held();
        // The second question comes before, while or after the first is answered.
        if round == 0 {
            network.cut();
            running.wait_stderr("asking again under the same id");
            Raw::on(&redis).wait_dropped("web1", "duplicate", 1);
        }
        gate.open();
        if round == 1 {
            evidence.wait();
        }
        if round == 2 {
            Raw::on(&redis).wait_settled("web1");
        }
        if round > 0 {
            network.cut();
        }
        answered(&redis, running, &evidence);
    }
}

#[test]
fn a_dispatch_that_is_refused_after_its_receipt_was_lost_is_not_said_to_be_unsent() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let network = Network::to(&redis);
    network.hold("XADD");
    let evidence = Evidence::new(&redis, "evidence");
    let running = run(&ctl.clone().env("REDFLEET_REDIS", &network.url()), &evidence.script());
    network.wait_held();
    Raw::on(&redis).wait_settled("web1");
    let job = redis.cli(["ZRANGE", "jobs", "0", "-1"]);
    redis.cli(["CONFIG", "SET", "maxmemory", "1"]);
    network.cut();
    let output = running.wait().expect(1);
    assert!(output.stderr.contains("is full"), "{output}");
    assert!(!output.stderr.contains("nothing was sent"), "{output}");
    assert!(output.stderr.contains(&format!("may have been sent all the same: ctl job show {job}")), "{output}");
    redis.cli(["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(ctl.standing(&job), [("web1".into(), "succeeded".into())]);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_dispatch_that_redis_cannot_take_for_the_moment_is_tried_again() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let evidence = Evidence::new(&redis, "evidence");
    let network = Network::to(&redis);
    // `ctl` has looked at the host and is about to ask it.
    network.hold("HGETALL");
    let ctl = ctl.env("REDFLEET_REDIS", &network.url());
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    network.wait_held();
    // A replica whose master is away says MASTERDOWN, as in a failover.
    redis.cli(["CONFIG", "SET", "replica-read-only", "no", "replica-serve-stale-data", "no"]);
    redis.cli(["REPLICAOF", "127.0.0.1", "1"]);
    network.release();
    running.wait_stderr("asking again under the same id");
    assert_eq!(evidence.count(), 0);
    redis.cli(["REPLICAOF", "NO", "ONE"]);
    answered(&redis, running, &evidence);
}

#[test]
fn a_controller_that_died_in_its_dispatch_may_be_replaced() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let network = Network::to(&redis);
    network.hold("XADD");
    let through = ctl.clone().env("REDFLEET_REDIS", &network.url());
    let mut first = run(&through, &format!("{}; {}; echo done", evidence.script(), gate.script()));
    network.wait_held();
    first.kill9();
    let second = ctl.spawn(["job", "wait", "last"]);
    gate.open();
    answered(&redis, second, &evidence);
}

#[test]
fn who_waits_for_an_old_job_asks_again_as_well() {
    let (redis, mut worker, ctl) = fleet(Aof::EverySecond);
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let job = ctl.ask("web1", &format!("{}; echo done", evidence.script()));
    let waiting = ctl.spawn(["job", "wait", &job]);
    waiting.wait_stderr("queued until");
    redis.cli(["FLUSHALL"]);
    waiting.wait_stderr(AGAIN);
    let _worker = worker.options().start();
    answered(&redis, waiting, &evidence);
}
