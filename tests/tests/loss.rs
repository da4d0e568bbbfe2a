//! Redis loses its data: by FLUSHALL, or by a restart without persistence. The worker logs the loss and makes its
//! keys again; all later commands work.

use protocol::outcome::State;
use tests::{Aof, Evidence, Gate, Raw, Redis, Worker, eventually, outlive_a_redis_outage};

const GAP: &str = "the host's streams had vanished from Redis and were made again";

fn fleet(aof: Aof) -> (Redis, Worker) {
    let redis = Redis::options().aof(aof).start();
    let worker = Worker::on(&redis).config("sample_interval = '1h'\nlabels = { role = 'web' }").allow_exec().start();
    worker.wait_online();
    eventually("the first sample", || {
        (!redis.cli(["HGET", "server:{web1}:network", "sampled_at"]).is_empty()).then_some(())
    });
    // All of its keys are there: its streams are what it made last.
    Raw::on(&redis).wait_reading();
    (redis, worker)
}

/// Waits until all keys of a worker are there again, though no heartbeat or sample is due.
fn wait_whole(redis: &Redis) {
    let mut raw = Raw::on(redis);
    let parts = ["commands", "control", "facts", "labels", "status", "cpu", "memory", "load", "disk", "network"];
    for part in parts {
        let key = format!("server:{{web1}}:{part}");
        eventually(&format!("{key} to be there again"), || (raw.query::<u64>(&["EXISTS", &key]) == 1).then_some(()));
    }
    eventually("the host in the index", || raw.query::<Option<f64>>(&["ZSCORE", "servers", "web1"]));
    for part in ["commands", "control"] {
        eventually("its group", || {
            let groups: Vec<redis::Value> = raw.query(&["XINFO", "GROUPS", &format!("server:{{web1}}:{part}")]);
            (groups.len() == 1).then_some(())
        });
    }
}

#[test]
fn after_flushall_all_keys_are_made_again_and_the_gap_is_logged() {
    let (redis, worker) = fleet(Aof::EverySecond);
    let mut raw = Raw::on(&redis);
    assert!(!worker.log().contains(GAP), "{}", worker.log());
    for round in 1..=3 {
        // In the first round the worker may not block in a read yet: both cases must work.
        if round > 1 {
            raw.wait_reading();
        }
        redis.cli(["FLUSHALL"]);
        wait_whole(&redis);
        raw.ping("web1");
        eventually("the gap to be logged", || (worker.log().matches(GAP).count() == round).then_some(()));
    }
    assert!(!worker.log().contains("is away"), "{}", worker.log());
}

#[test]
fn a_command_sent_right_after_flushall_runs() {
    let (redis, worker) = fleet(Aof::EverySecond);
    let mut raw = Raw::on(&redis);
    for round in 0..10 {
        let evidence = Evidence::new(&redis, &format!("evidence{round}"));
        let manifest = raw.shell("web1", &evidence.script());
        let entry = Raw::envelope(&manifest, &["web1"]);
        // In one transaction: the stream is there again, without a group, before the worker could notice.
        let mut both = redis::pipe();
        both.atomic().cmd("FLUSHALL").ignore().xadd("server:{web1}:commands", "*", &entry.fields()).ignore();
        both.query::<()>(&mut redis.blocking()).expect("both");
        assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded, "{}", worker.log());
        assert_eq!(evidence.count(), 1);
    }
}

#[test]
fn a_command_that_runs_at_flushall_is_still_reported() {
    let (redis, worker) = fleet(Aof::EverySecond);
    let mut raw = Raw::on(&redis);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}; echo done", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    redis.cli(["FLUSHALL"]);
    worker.wait_log(GAP);
    gate.open();
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!((outcome.state, &*outcome.stdout.kept), (State::Succeeded, &b"done\n"[..]));
    raw.ping("web1");
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 1);
    let job = format!("job:{{{}}}", manifest.job);
    for key in [format!("{job}:hosts"), format!("{job}:events"), format!("{job}:result:web1")] {
        assert!(raw.query::<i64>(&["TTL", &key]) > 0, "{key}");
    }
}

#[test]
fn flushall_while_all_slots_are_busy_does_not_stop_the_reader() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).config("slots = 1").allow_exec().start();
    let mut raw = Raw::on(&redis);
    let mut gate = Gate::new(&redis, "gate");
    let manifest = raw.shell("web1", &gate.script());
    raw.send("web1", &manifest);
    gate.reached();
    redis.cli(["FLUSHALL"]);
    worker.wait_log(GAP);
    let later = raw.manifest(&["web1"], "ping");
    raw.send("web1", &later);
    gate.open();
    assert_eq!(raw.outcome("web1", &later).state, State::Succeeded);
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
}

#[test]
fn a_single_vanished_stream_is_made_again() {
    let (redis, worker) = fleet(Aof::EverySecond);
    let mut raw = Raw::on(&redis);
    for (round, command) in [["DEL", "server:{web1}:commands"], ["DEL", "server:{web1}:control"]].iter().enumerate() {
        redis.cli(*command);
        raw.ping("web1");
        eventually("the gap to be logged", || (worker.log().matches(GAP).count() == round + 1).then_some(()));
    }
    redis.cli(["XGROUP", "DESTROY", "server:{web1}:commands", "worker"]);
    raw.ping("web1");
}

#[test]
fn after_a_restart_without_persistence_all_keys_are_made_again() {
    let (mut redis, worker) = fleet(Aof::Off);
    redis.kill9();
    worker.wait_log("is away");
    redis.restart();
    wait_whole(&redis);
    worker.wait_log(GAP);
    Raw::on(&redis).ping("web1");
}

#[test]
fn a_command_that_runs_at_a_restart_without_persistence_is_still_reported() {
    let (mut redis, worker) = fleet(Aof::Off);
    outlive_a_redis_outage(&mut redis, &worker);
}

#[test]
fn whatever_key_of_a_living_host_is_deleted_is_there_again_within_a_heartbeat() {
    let (redis, worker) = fleet(Aof::Off);
    let mut raw = Raw::on(&redis);
    for parts in [&["facts"][..], &["labels", "cpu", "network", "status", "commands", "control"]] {
        for part in parts {
            let deleted: u64 = raw.query(&["DEL", &format!("server:{{web1}}:{part}")]);
            assert_eq!(deleted, 1, "{part}");
        }
        wait_whole(&redis);
    }
    let _: u64 = raw.query(&["ZREM", "servers", "web1"]);
    for stream in ["commands", "control"] {
        let _: u64 = raw.query(&["XGROUP", "DESTROY", &format!("server:{{web1}}:{stream}"), "worker"]);
    }
    wait_whole(&redis);
    raw.ping("web1");
    assert!(!worker.log().contains("is away"), "{}", worker.log());
}
