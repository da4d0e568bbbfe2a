//! Redis is reachable but refuses requests: out of memory, a key of the wrong type, a wrong password.

use protocol::{action::Argument, event::EventKind, keys::Keys, limits, outcome::State};
use tests::{Evidence, Gate, Raw, Redis, Worker, eventually, fleet};

#[test]
fn outcomes_wait_while_redis_is_out_of_memory() {
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
    let line = worker.wait_log("Redis refuses writes");
    assert!(line.contains("OOM"), "{line}");
    eventually("all to end", || (worker.log().matches("succeeded in ").count() == 3).then_some(()));
    for manifest in &manifests {
        assert_eq!(raw.state("web1", manifest), Some(State::Running));
    }
    assert_eq!(raw.pending("web1"), 3, "a command without a published outcome is not acknowledged");

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

/// Thousands may wait behind a lock, and each may leave megabytes of output.
#[test]
fn commands_that_wait_start_only_while_there_is_room_for_their_output() {
    let (redis, worker, mut raw) = fleet();
    let evidence = Evidence::new(&redis, "evidence");
    let mut gate = Gate::new(&redis, "gate");
    let script = format!("{}; {}; head -c 4194304 /dev/zero", evidence.script(), gate.script());
    let manifests: Vec<_> = (0..18)
        .map(|number| {
            let script = if number == 0 { script.clone() } else { script.replace(&gate.script(), "true") };
            let mut manifest = raw.shell("web1", &script);
            manifest.arguments.insert("lock".into(), Argument::Text("deploy".into()));
            raw.send("web1", &manifest);
            manifest
        })
        .collect();
    gate.reached();
    eventually("all to be taken", || (raw.pending("web1") == 18).then_some(()));
    redis.cli(["CONFIG", "SET", "maxmemory", "1"]);
    gate.open();
    let most = limits::UNPUBLISHED_BYTES / limits::LIVE_LAG_BYTES;
    let ended = || worker.log().matches("succeeded in ").count();
    // Each has 4 MiB of live output, and a little in its result.
    eventually("no room to be left", || (ended() == most).then_some(()));
    let full = raw.now();
    eventually("time to start another one", || (raw.now() > full + 1000).then_some(()));
    assert_eq!(evidence.count(), most);

    redis.cli(["CONFIG", "SET", "maxmemory", "0"]);
    for manifest in &manifests {
        assert_eq!(raw.outcome("web1", manifest).state, State::Succeeded);
    }
    assert_eq!(evidence.count(), 18);
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
fn an_outcome_that_redis_can_never_take_holds_up_nothing() {
    let (redis, worker, mut raw) = fleet();
    let keys = Keys::new(None);
    let (before, after) = (raw.manifest(&["web1"], "ping"), raw.manifest(&["web1"], "ping"));
    let evidence = Evidence::new(&redis, "evidence");
    let squatted: Vec<_> = (0..3).map(|_| raw.shell("web1", &evidence.script())).collect();
    let host: protocol::name::HostName = "web1".parse().expect("a name");
    let squat =
        [keys.job_hosts(squatted[0].job), keys.job_events(squatted[1].job), keys.job_result(squatted[2].job, &host)];
    for key in &squat {
        let _: String = raw.query(&["SET", key, "mine"]);
    }
    raw.send("web1", &before);
    for manifest in &squatted {
        raw.send("web1", manifest);
    }
    raw.send("web1", &after);
    for manifest in [&before, &after] {
        assert_eq!(raw.outcome("web1", manifest).state, State::Succeeded);
    }
    // The worker gives up, logs that, and empties the inbox.
    raw.wait_settled("web1");
    let line = worker.wait_log("Redis will not take a write, it is given up");
    assert!(line.contains("ERROR") && line.contains("WRONGTYPE"), "{line}");
    assert_eq!(evidence.count(), 3);
    // The other keys are written; a foreign value at the result's own key is replaced.
    assert_eq!(raw.outcome("web1", &squatted[0]).state, State::Succeeded);
    assert_eq!(raw.outcome("web1", &squatted[1]).state, State::Succeeded);
    assert_eq!(raw.outcome("web1", &squatted[2]).state, State::Succeeded);
    raw.ping("web1");
}

/// How many commands the server has refused for want of a permission.
fn refusals(redis: &Redis) -> u64 {
    let errors = redis.cli(["INFO", "errorstats"]);
    let count = errors.lines().find_map(|line| line.strip_prefix("errorstat_NOPERM:count="));
    count.map_or(0, |count| count.trim().parse().expect("a number"))
}

/// Where Redis refuses one write about a job, those behind it wait: what a program printed is never published
/// after its end.
#[test]
fn a_refused_output_is_not_overtaken_by_the_end() {
    let (redis, worker, mut raw) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    // Output of the first 20 ms is not sent on.
    let manifest = raw.shell("web1", &format!("sleep 0.1; {}; echo out", gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    // All keys but that of the output.
    let job = format!("~{}", Keys::new(None).job(manifest.job));
    let [hosts, events, results] = ["~job:*:hosts", "~job:*:events", "~job:*:result:*"];
    let user = ["ACL", "SETUSER", "worker-web1", "clearselectors", "+@all"];
    redis.cli([user[0], user[1], user[2], user[3], user[4], "~server*", &job, hosts, events, results]);
    gate.open();
    worker.wait_log("succeeded in ");
    let before = refusals(&redis);
    eventually("further attempts", || (refusals(&redis) > before + 3).then_some(()));
    let ends = |kind: &EventKind| matches!(kind, EventKind::State(state) if state.is_terminal());
    assert!(!raw.events(&manifest).iter().any(|event| ends(&event.kind)), "the end waits for the output");

    redis.cli(["ACL", "SETUSER", "worker-web1", "allkeys"]);
    assert_eq!(raw.outcome("web1", &manifest).stdout.kept, b"out\n");
    // Whoever sees the end finds the output: both are of one transaction.
    assert_eq!(raw.output("web1", &manifest).len(), 1);
    assert!(raw.events(&manifest).iter().any(|event| ends(&event.kind)));
}

/// One write that Redis never takes does not take the host offline.
#[test]
fn heartbeats_go_on_while_a_write_is_refused() {
    let (redis, worker, mut raw) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let manifest = raw.shell("web1", &format!("sleep 0.1; {}; echo out", gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    // No entry can be added behind the last possible id.
    let events = Keys::new(None).job_events(manifest.job);
    redis.cli(["XADD", &events, "18446744073709551615-18446744073709551615", "host", "web1"]);
    gate.open();
    worker.wait_log("Redis refuses writes");
    let seen = || worker.status().expect("a status").last_seen_ms;
    let before = seen();
    eventually("two more heartbeats", || (seen() > before + 5500).then_some(()));
    raw.ping("web1");
    redis.cli(["DEL", &events]);
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
}

/// Where something else stands in the inbox's place, there is nothing left to acknowledge.
#[test]
fn a_lost_inbox_holds_up_no_other_write() {
    let (redis, worker, mut raw) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let manifest = raw.shell("web1", &gate.script());
    raw.send("web1", &manifest);
    gate.reached();
    redis.cli(["SET", "server:{web1}:commands", "mine"]);
    gate.open();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    let seen = || worker.status().expect("a status").last_seen_ms;
    let before = seen();
    eventually("two more heartbeats", || (seen() > before + 5500).then_some(()));
    redis.cli(["DEL", "server:{web1}:commands"]);
    raw.ping("web1");
}

#[test]
fn foreign_values_at_a_hosts_keys_hold_up_nothing() {
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
        eventually(&format!("{key} to be a hash"), || (raw.query::<String>(&["TYPE", &key]) == "hash").then_some(()));
    }
    worker.wait_log("WRONGTYPE");
    redis.cli(["DEL", "servers", "server:{web1}:status"]);
    worker.wait_online();
    eventually("the host in the index", || raw.query::<Option<f64>>(&["ZSCORE", "servers", "web1"]));
}

#[test]
fn a_foreign_value_at_a_streams_key_is_logged_and_its_removal_noticed() {
    for part in ["commands", "control"] {
        let redis = Redis::start();
        let key = format!("server:{{web1}}:{part}");
        redis.cli(["SET", &key, "mine"]);
        let worker = Worker::on(&redis).start();
        let line = worker.wait_log("WRONGTYPE");
        assert!(line.contains("WARN"), "{line}");
        redis.cli(["DEL", &key]);
        Raw::on(&redis).ping("web1");
        // And again, while the worker reads.
        redis.cli(["SET", &key, "mine"]);
        eventually("a second warning", || (worker.log().matches("WRONGTYPE").count() > 1).then_some(()));
        redis.cli(["DEL", &key]);
        Raw::on(&redis).ping("web1");
    }
}

#[test]
fn a_wrong_password_is_logged_and_not_shown() {
    let redis = Redis::options().password("open sesame").start();
    let url = format!("unix://{}?pass=hunter2", redis.socket().display());
    let mut worker = Worker::on(&redis).redis(&url).start();
    let line = worker.wait_log("refuses this worker");
    assert!(line.contains("ERROR"), "{line}");
    assert!(!worker.log().contains("hunter2"), "{}", worker.log());
    redis.cli(["CONFIG", "SET", "requirepass", "hunter2"]);
    worker.wait_online();
    worker.terminate();
    assert!(!worker.log().contains("hunter2"), "{}", worker.log());
}
