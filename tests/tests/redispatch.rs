//! A command that Redis has lost, or a dispatch whose reply was lost, is dispatched again under the same id. Its
//! result arrives, and nothing runs twice.

use tests::{Aof, Ctl, Evidence, Gate, Network, Raw, Redis, Running, Worker, eventually};

const REDISPATCHED: &str = "dispatched again under the same id";

fn fleet(aof: Aof) -> (Redis, Worker, Ctl) {
    let redis = Redis::options().aof(aof).start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    (redis, worker, ctl)
}

fn run(ctl: &Ctl, script: &str) -> Running {
    ctl.spawn(["run", "--host", "web1", "--wait", "exec", "--", "sh", "-c", script])
}

/// Waits until the job has been dispatched.
#[track_caller]
fn wait_dispatched(redis: &Redis) {
    eventually("the dispatch", || (redis.cli(["EXISTS", "jobs"]) == "1").then_some(()));
}

/// The program has printed `done` and has run once, and the inbox is empty.
#[track_caller]
fn expect_done(redis: &Redis, running: Running, evidence: &Evidence) {
    let output = running.wait().expect(0);
    assert_eq!(output.stdout, "done\n", "{output}");
    Raw::on(redis).wait_settled("web1");
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_command_that_was_flushed_before_the_host_came_back_is_redispatched() {
    let (redis, mut worker, ctl) = fleet(Aof::EverySecond);
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    wait_dispatched(&redis);
    redis.cli(["FLUSHALL"]);
    running.wait_stderr("the job is gone from Redis");
    running.wait_stderr(REDISPATCHED);
    let _worker = worker.options().start();
    expect_done(&redis, running, &evidence);
    let shown = ctl.host_states("last");
    assert_eq!(shown, [("web1".into(), "succeeded".into())], "the job's record is written again");
    ctl.run(["doctor"]).expect(0);
}

#[test]
fn a_command_that_was_flushed_when_it_had_just_been_delivered_runs_once() {
    let (redis, worker, ctl) = fleet(Aof::EverySecond);
    Raw::on(&redis).wait_reading();
    worker.stop();
    let evidence = Evidence::new(&redis, "evidence");
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    wait_dispatched(&redis);
    redis.cli(["FLUSHALL"]);
    running.wait_stderr(REDISPATCHED);
    // The worker now gets two copies: the one delivered before and the one in the stream.
    worker.cont();
    expect_done(&redis, running, &evidence);
}

#[test]
fn a_command_that_runs_while_redis_is_flushed_goes_on_and_its_result_arrives() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let running = run(&ctl, &format!("{}; {}; echo done", evidence.script(), gate.script()));
    gate.reached();
    redis.cli(["FLUSHALL"]);
    running.wait_stderr(REDISPATCHED);
    Raw::on(&redis).wait_dropped("web1", "duplicate", 1);
    gate.open();
    expect_done(&redis, running, &evidence);
}

#[test]
fn an_outcome_that_was_flushed_before_it_was_read_is_published_again() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let network = Network::to(&redis);
    let ctl = ctl.through(&redis, &network.url());
    let running = run(&ctl, &format!("{}; {}; echo done", evidence.script(), gate.script()));
    gate.reached();
    // Redis' replies with the events reach `ctl` too late.
    network.hold("XREAD");
    network.wait_held();
    gate.open();
    let mut raw = Raw::on(&redis);
    raw.wait_settled("web1");
    redis.cli(["FLUSHALL"]);
    network.cut();
    running.wait_stderr(REDISPATCHED);
    expect_done(&redis, running, &evidence);
}

#[test]
fn an_outcome_that_was_published_twice_is_printed_once() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let evidence = Evidence::new(&redis, "evidence");
    let network = Network::to(&redis);
    // `ctl` begins to read events when the command has ended.
    network.hold("XADD");
    let ctl = ctl.through(&redis, &network.url());
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    network.wait_held();
    evidence.wait();
    Raw::on(&redis).wait_settled("web1");
    // As a worker does that has lost the reply to its publication.
    let events = redis.cli(["KEYS", "job:*:events"]);
    redis.cli(["XADD", &events, "*", "host", "web1", "state", "succeeded"]);
    network.release();
    expect_done(&redis, running, &evidence);
}

#[test]
fn a_waiting_ctl_gets_its_result_despite_a_restart_without_persistence() {
    let (mut redis, mut worker, ctl) = fleet(Aof::Off);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let running = run(&ctl, &format!("{}; {}; echo done", evidence.script(), gate.script()));
    gate.reached();
    redis.kill9();
    running.wait_stderr("trying again");
    redis.restart();
    running.wait_stderr(REDISPATCHED);
    gate.open();
    expect_done(&redis, running, &evidence);

    worker.terminate();
    let evidence = Evidence::new(&redis, "queued");
    let queued = run(&ctl, &format!("{}; echo done", evidence.script()));
    wait_dispatched(&redis);
    queued.wait_stderr("queued until");
    redis.kill9();
    redis.restart();
    queued.wait_stderr(REDISPATCHED);
    let _worker = worker.options().start();
    expect_done(&redis, queued, &evidence);
}

#[test]
fn a_command_whose_inbox_entry_alone_was_lost_is_redispatched() {
    let (redis, mut worker, ctl) = fleet(Aof::EverySecond);
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    wait_dispatched(&redis);
    // As after a failover that lost the newest writes: the job's record is there, the inbox entry is not.
    redis.cli(["DEL", "server:{web1}:commands"]);
    running.wait_stderr("Redis has lost the command of 1 host");
    running.wait_stderr(REDISPATCHED);
    let _worker = worker.options().start();
    expect_done(&redis, running, &evidence);
}

#[test]
fn a_dispatch_whose_reply_was_lost_runs_once() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let network = Network::to(&redis);
    let ctl = ctl.through(&redis, &network.url());
    for round in 0..3 {
        let evidence = Evidence::new(&redis, &format!("evidence{round}"));
        let mut gate = Gate::new(&redis, &format!("gate{round}"));
        network.hold("XADD");
        let running = run(&ctl, &format!("{}; {}; echo done", evidence.script(), gate.script()));
        network.wait_held();
        // The second dispatch arrives before the command ends, at about its end, or after it.
        if round == 0 {
            network.cut();
            running.wait_stderr("trying again under the same id");
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
        expect_done(&redis, running, &evidence);
    }
}

#[test]
fn a_dispatch_refused_after_a_lost_reply_is_not_reported_as_unsent() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let network = Network::to(&redis);
    network.hold("XADD");
    let evidence = Evidence::new(&redis, "evidence");
    let running = run(&ctl.clone().through(&redis, &network.url()), &evidence.script());
    network.wait_held();
    Raw::on(&redis).wait_settled("web1");
    let job = redis.cli(["ZRANGE", "jobs", "0", "-1"]);
    redis.cli(["CONFIG", "SET", "maxmemory", "1"]);
    network.cut();
    let output = running.wait().expect(1);
    assert!(output.stderr.contains("is full"), "{output}");
    assert!(!output.stderr.contains("nothing was sent"), "{output}");
    assert!(
        output.stderr.contains(&format!("may have been sent all the same: ctl job show {}", &job[28..])),
        "{output}"
    );
    redis.cli(["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(ctl.host_states(&job), [("web1".into(), "succeeded".into())]);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_dispatch_that_redis_refuses_for_a_moment_is_retried() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let evidence = Evidence::new(&redis, "evidence");
    let network = Network::to(&redis);
    // `ctl` has read the host's status and is about to dispatch.
    network.hold("HGETALL");
    let ctl = ctl.through(&redis, &network.url());
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    network.wait_held();
    // A replica without its master replies MASTERDOWN, as in a failover.
    redis.cli(["CONFIG", "SET", "replica-read-only", "no", "replica-serve-stale-data", "no"]);
    redis.cli(["REPLICAOF", "127.0.0.1", "1"]);
    network.release();
    running.wait_stderr("trying again under the same id");
    assert_eq!(evidence.count(), 0);
    redis.cli(["REPLICAOF", "NO", "ONE"]);
    expect_done(&redis, running, &evidence);
}

#[test]
fn another_ctl_can_wait_for_a_dispatch_whose_ctl_died() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let network = Network::to(&redis);
    network.hold("XADD");
    let through = ctl.clone().through(&redis, &network.url());
    let mut first = run(&through, &format!("{}; {}; echo done", evidence.script(), gate.script()));
    network.wait_held();
    first.kill9();
    let second = ctl.spawn(["job", "wait", "last"]);
    gate.open();
    expect_done(&redis, second, &evidence);
}

#[test]
fn job_wait_redispatches_an_old_job() {
    let (redis, mut worker, ctl) = fleet(Aof::EverySecond);
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let job = ctl.dispatch("web1", &format!("{}; echo done", evidence.script()));
    let waiting = ctl.spawn(["job", "wait", &job]);
    waiting.wait_stderr("queued until");
    redis.cli(["FLUSHALL"]);
    waiting.wait_stderr(REDISPATCHED);
    let _worker = worker.options().start();
    expect_done(&redis, waiting, &evidence);
}

/// Hosts that have reported once, offer what `web1` offers, and are offline.
fn register_silent_hosts(redis: &Redis, count: usize) {
    let copy = "
        local actions = redis.call('HGET', 'server:{web1}:facts', 'actions')
        for i = 1, ARGV[1] do
            local host = string.format('silent%04d', i)
            redis.call('ZADD', 'servers', 1000, host)
            redis.call('HSET', 'server:{' .. host .. '}:status', 'last_seen', '2026-01-01T00:00:00Z')
            redis.call('HSET', 'server:{' .. host .. '}:facts', 'actions', actions)
        end";
    redis.cli(["EVAL", copy, "0", &count.to_string()]);
}

#[test]
fn a_lost_command_of_the_last_of_many_silent_hosts_is_redispatched() {
    let (redis, _worker, ctl) = fleet(Aof::EverySecond);
    register_silent_hosts(&redis, 600);
    let mut gate = Gate::new(&redis, "gate");
    let running = ctl.spawn(["run", "--all", "exec", "--", "sh", "-c", &gate.script()]);
    gate.reached();
    redis.cli(["DEL", "server:{silent0600}:commands"]);
    running.wait_stderr("Redis has lost the command of 1 host");
    running.wait_stderr(REDISPATCHED);
    assert_eq!(redis.cli(["XLEN", "server:{silent0600}:commands"]), "1");
    gate.open();
}

#[test]
fn job_wait_redispatches_a_command_whose_inbox_entry_alone_was_lost() {
    let (redis, mut worker, ctl) = fleet(Aof::EverySecond);
    worker.terminate();
    let (evidence, other) = (Evidence::new(&redis, "evidence"), Evidence::new(&redis, "other"));
    let job = ctl.dispatch("web1", &format!("{}; echo done", evidence.script()));
    for _ in 0..20 {
        ctl.dispatch("web1", &other.script());
    }
    let first = redis.cli(["XRANGE", "server:{web1}:commands", "-", "+", "COUNT", "1"]);
    let first = first.lines().next().expect("an entry").to_owned();
    redis.cli(["XDEL", "server:{web1}:commands", &first]);
    let waiting = ctl.spawn(["job", "wait", &job]);
    waiting.wait_stderr("Redis has lost the command of 1 host");
    waiting.wait_stderr(REDISPATCHED);
    let _worker = worker.options().start();
    expect_done(&redis, waiting, &evidence);
    assert_eq!(other.count(), 20);
}
