//! Redis is there but refuses: out of memory, a key of the wrong type, a password.

use protocol::{keys::Keys, outcome::State};
use tests::{Evidence, Gate, Raw, Redis, Worker, eventually, fleet};

#[test]
fn answers_that_find_no_memory_in_redis_wait_until_there_is_some() {
    let (redis, worker, mut raw) = fleet();
    let evidence = Evidence::new(&redis, "evidence");
    let mut gates: Vec<_> = (0..3).map(|number| Gate::new(&redis, &format!("gate{number}"))).collect();
    let scripts = gates.iter().map(|gate| format!("{}; {}; echo done", evidence.script(), gate.script()));
    let manifests: Vec<_> = scripts.map(|script| raw.shell("web1", &script)).collect();
    for (gate, manifest) in gates.iter_mut().zip(&manifests) {
        raw.send("web1", manifest);
        gate.reached();
        raw.wait_state("web1", manifest, State::Running);
    }
    // Less than an empty server needs.
    redis.cli(["CONFIG", "SET", "maxmemory", "1"]);
    gates.iter_mut().for_each(Gate::open);
    let said = worker.wait_log("Redis refuses writes");
    assert!(said.contains("OOM"), "{said}");
    eventually("all to end", || (worker.log().matches("succeeded in ").count() == 3).then_some(()));
    for manifest in &manifests {
        assert_eq!(raw.state("web1", manifest), Some(State::Running));
    }
    assert_eq!(raw.pending("web1"), 3, "what is not told is not acknowledged");

    redis.cli(["CONFIG", "SET", "maxmemory", "0"]);
    for manifest in &manifests {
        let outcome = raw.outcome("web1", manifest);
        assert_eq!((outcome.state, &*outcome.stdout.kept), (State::Succeeded, &b"done\n"[..]));
    }
    raw.ping("web1");
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 3);
    assert_eq!(worker.log().matches("Redis refuses writes").count(), 1, "{}", worker.log());
}

#[test]
fn a_worker_that_starts_while_redis_is_full_works_once_it_is_not() {
    let redis = Redis::start();
    redis.cli(["CONFIG", "SET", "maxmemory", "1"]);
    let worker = Worker::on(&redis).start();
    worker.wait_log("is away: \"OOM\"");
    worker.wait_log("Redis refuses writes");
    redis.cli(["CONFIG", "SET", "maxmemory", "0"]);
    worker.wait_online();
    Raw::on(&redis).ping("web1");
}

#[test]
fn an_answer_that_redis_can_never_take_holds_up_nothing() {
    let (redis, worker, mut raw) = fleet();
    let keys = Keys::new(None);
    let (before, after) = (raw.manifest(&["web1"], "ping"), raw.manifest(&["web1"], "ping"));
    let evidence = Evidence::new(&redis, "evidence");
    let squatted: Vec<_> = (0..3).map(|_| raw.shell("web1", &evidence.script())).collect();
    let host = "web1".parse().expect("a name");
    let squat =
        [keys.job_hosts(squatted[0].job), keys.job_events(squatted[1].job), keys.job_result(squatted[2].job, &host)];
    for key in &squat {
        let _: String = raw.ask(&["SET", key, "mine"]);
    }
    raw.send("web1", &before);
    for manifest in &squatted {
        raw.send("web1", manifest);
    }
    raw.send("web1", &after);
    for manifest in [&before, &after] {
        assert_eq!(raw.outcome("web1", manifest).state, State::Succeeded);
    }
    // Given up, said so, and gone from the inbox.
    raw.wait_settled("web1");
    let line = worker.wait_log("Redis will not take a write, it is given up");
    assert!(line.contains("ERROR") && line.contains("WRONGTYPE"), "{line}");
    assert_eq!(evidence.count(), 3);
    // What can be written of them is written: only the result's own key may be replaced.
    assert_eq!(raw.outcome("web1", &squatted[0]).state, State::Succeeded);
    assert_eq!(raw.outcome("web1", &squatted[1]).state, State::Succeeded);
    assert_eq!(raw.outcome("web1", &squatted[2]).state, State::Succeeded);
    raw.ping("web1");
}

#[test]
fn foreign_values_in_the_place_of_a_hosts_own_hold_up_nothing() {
    let redis = Redis::start();
    for part in ["facts", "labels", "status", "cpu", "memory", "load", "disk", "network"] {
        redis.cli(["SET", &format!("server:{{web1}}:{part}"), "mine"]);
    }
    redis.cli(["SET", "servers", "mine"]);
    let worker = Worker::on(&redis).config("sample_interval = '1s'").start();
    let mut raw = Raw::on(&redis);
    raw.ping("web1");
    for part in ["cpu", "memory", "load", "disk", "network", "facts"] {
        let key = format!("server:{{web1}}:{part}");
        eventually(&format!("{key} to be a hash"), || (raw.ask::<String>(&["TYPE", &key]) == "hash").then_some(()));
    }
    worker.wait_log("WRONGTYPE");
    redis.cli(["DEL", "servers", "server:{web1}:status"]);
    worker.wait_online();
    eventually("the host in the index", || raw.ask::<Option<f64>>(&["ZSCORE", "servers", "web1"]));
}

#[test]
fn a_foreign_value_in_the_place_of_a_stream_is_named_and_its_end_noticed() {
    for part in ["commands", "control"] {
        let redis = Redis::start();
        let key = format!("server:{{web1}}:{part}");
        redis.cli(["SET", &key, "mine"]);
        let worker = Worker::on(&redis).start();
        let line = worker.wait_log("WRONGTYPE");
        assert!(line.contains("WARN"), "{line}");
        redis.cli(["DEL", &key]);
        Raw::on(&redis).ping("web1");
        // And again, from under a worker that reads.
        redis.cli(["SET", &key, "mine"]);
        eventually("it to be said again", || (worker.log().matches("WRONGTYPE").count() > 1).then_some(()));
        redis.cli(["DEL", &key]);
        Raw::on(&redis).ping("web1");
    }
}

#[test]
fn a_wrong_password_is_said_and_not_shown() {
    let redis = Redis::options().password("open sesame").start();
    let url = format!("unix://{}?pass=hunter2", redis.socket().display());
    let mut worker = Worker::on(&redis).redis(&url).start();
    let line = worker.wait_log("is away");
    assert!(line.contains("WARN"), "{line}");
    assert!(!worker.log().contains("hunter2"), "{}", worker.log());
    redis.cli(["CONFIG", "SET", "requirepass", "hunter2"]);
    worker.wait_online();
    worker.terminate();
    assert!(!worker.log().contains("hunter2"), "{}", worker.log());
}
