//! `ctl doctor`: it finds what is wrong, and nothing where all is well.

use serde_json::Value;
use tests::{Aof, Ctl, Output, Raw, Redis, Worker, eventually};

/// The findings of one check: level and message.
fn findings(output: &Output, check: &str) -> Vec<(String, String)> {
    let report = output.json();
    let text = |finding: &Value, name: &str| finding[name].as_str().expect("text").to_owned();
    let checks = report["checks"].as_array().expect("a list").iter();
    let ours = checks.filter(|finding| finding["check"] == check);
    ours.map(|finding| (text(finding, "level"), text(finding, "message"))).collect()
}

#[track_caller]
fn examine(redis: &Redis, code: i32) -> Output {
    Ctl::as_administrator(redis).run(["doctor", "-o", "json"]).expect(code)
}

#[track_caller]
fn found(output: &Output, check: &str, level: &str, words: &str) {
    let findings = findings(output, check);
    let found = findings.iter().any(|(of, message)| of == level && message.contains(words));
    assert!(found, "no {level} with '{words}' in {findings:#?}");
}

#[test]
fn a_sound_fleet_has_no_problem_and_no_key_without_bounds() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let ctl = Ctl::as_administrator(&redis);
    ctl.run(["run", "--host", "web1", "collect-all"]).expect(0);
    ctl.run(["run", "--host", "web1", "exec", "--", "seq", "1000"]).expect(0);
    ctl.run(["run", "--host", "web1", "exec", "--", "false"]).expect(2);
    // On a busy machine Redis may reply slowly, which is worth a warning.
    let output = eventually("no warning", || {
        let output = examine(&redis, 0);
        (output.json()["warnings"] == 0).then_some(output)
    });
    found(&output, "keys", "ok", "every key has a TTL or a cap");
    found(&output, "hosts", "ok", "1 online");
    found(&output, "readers", "ok", "");
    found(&output, "drops", "ok", "");
    found(&output, "persistence", "ok", "synced every second");
    found(&output, "eviction", "ok", "noeviction");
    found(&output, "version", "ok", "redis 7");
    assert_eq!(output.json()["problems"], 0, "{output}");
    let table = eventually("a table without a warning", || {
        let table = ctl.run(["doctor"]).expect(0);
        table.stderr.contains("0 problems, 0 warnings").then_some(table)
    });
    assert!(table.stdout.contains("every key has a TTL or a cap"), "{table}");
    eventually("a list without a warning", || {
        let listed = ctl.run(["doctor", "-o", "jsonl"]).expect(0).stdout;
        let is_ok = |line| serde_json::from_str::<Value>(line).expect("JSON")["level"] == "ok";
        listed.lines().all(is_ok).then_some(())
    });
}

#[test]
fn keys_without_bounds_are_found_whoever_left_them() {
    let redis = Redis::start();
    redis.cli(["SET", "job:{019a0000-0000-7000-8000-000000000000}", "x"]);
    redis.cli(["HSET", "server:{web1}:cpu", "usage", "1"]);
    redis.cli(["SET", "cart:17", "not ours"]);
    let output = examine(&redis, 2);
    found(&output, "keys", "problem", "2 without the TTL that it must have: ");
    redis.cli(["EXPIRE", "server:{web1}:cpu", "7200"]);
    redis.cli(["EXPIRE", "job:{019a0000-0000-7000-8000-000000000000}", "7200"]);
    let output = examine(&redis, 2);
    found(&output, "keys", "problem", "1 with a longer TTL than it may have: server:{web1}:cpu");
    redis.cli(["EXPIRE", "server:{web1}:cpu", "3600"]);
    found(&examine(&redis, 0), "keys", "ok", "every key has a TTL or a cap (2 keys; not Redfleet's: 1)");
}

#[test]
fn keys_above_their_cap_are_a_problem() {
    let redis = Redis::start();
    let fill = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'kind', 'wake') end";
    redis.cli(["EVAL", fill, "1", "server:{web1}:control", "10000"]);
    examine(&redis, 0);
    redis.cli(["EVAL", fill, "1", "server:{web1}:control", "300"]);
    found(&examine(&redis, 2), "keys", "problem", "1 above its cap: server:{web1}:control");
    redis.cli(["DEL", "server:{web1}:control"]);

    let fill = "for i = 1, 10001 do redis.call('ZADD', KEYS[1], i, i) end";
    redis.cli(["EVAL", fill, "1", "jobs"]);
    found(&examine(&redis, 2), "keys", "problem", "1 above its cap: jobs");
    redis.cli(["DEL", "jobs"]);

    // Old entries in front of a new one: the client that added the new one did not trim.
    let fill = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], i, 'version', '1') end";
    redis.cli(["EVAL", fill, "1", "server:{web1}:commands", "500"]);
    examine(&redis, 0);
    redis.cli(["XADD", "server:{web1}:commands", "*", "version", "1"]);
    found(&examine(&redis, 2), "keys", "problem", "1 above its cap: server:{web1}:commands");
}

#[test]
fn unknown_keys_are_a_warning_and_wrong_types_a_problem() {
    let redis = Redis::start();
    redis.cli(["SET", "server:web1", "x"]);
    found(&examine(&redis, 0), "keys", "warning", "1 named like Redfleet's, but unknown: server:web1");
    redis.cli(["SET", "servers", "x"]);
    found(&examine(&redis, 2), "keys", "problem", "1 of the wrong type: servers");
}

#[test]
fn a_namespace_is_examined_alone() {
    let redis = Redis::start();
    redis.cli(["HSET", "server:{web1}:cpu", "usage", "1"]);
    redis.cli(["HSET", "prod:server:{web1}:cpu", "usage", "1"]);
    redis.cli(["EXPIRE", "prod:server:{web1}:cpu", "60"]);
    let ctl = Ctl::as_administrator(&redis);
    let prod = ctl.clone().env("REDFLEET_NAMESPACE", "prod").run(["doctor", "-o", "json"]).expect(0);
    found(&prod, "keys", "ok", "every key has a TTL or a cap (1 keys)");
    ctl.run(["doctor"]).expect(2);
}

#[test]
fn the_cost_of_a_restart_or_a_full_memory_is_reported() {
    let redis = Redis::options().aof(Aof::Off).start();
    found(&examine(&redis, 0), "persistence", "warning", "a restart loses everything");
    redis.cli(["CONFIG", "SET", "save", "3600 1"]);
    found(&examine(&redis, 0), "persistence", "warning", "snapshots only");
    redis.cli(["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    found(&examine(&redis, 0), "eviction", "warning", "noeviction");
    redis.cli(["CONFIG", "SET", "maxmemory", "1gb"]);
    found(&examine(&redis, 2), "eviction", "problem", "commands and results are lost");
    redis.cli(["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.cli(["CONFIG", "SET", "maxmemory", "1mb"]);
    found(&examine(&redis, 2), "memory", "problem", "of maxmemory (1.0 MiB)");

    let redis = Redis::options().aof(Aof::Always).start();
    found(&examine(&redis, 0), "persistence", "ok", "nothing acknowledged is lost");
}

#[test]
fn a_user_without_config_rights_is_served_all_the_same() {
    let redis = Redis::start();
    redis.cli(["ACL", "SETUSER", "default", "-config"]);
    found(&examine(&redis, 0), "persistence", "ok", "may not be read");
}

#[test]
fn whatever_a_user_may_not_ask_is_named_and_the_rest_is_reported() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    for (forbidden, check) in [
        ("ping", "redis"),
        ("info", "info"),
        ("time", "clock"),
        ("hgetall", "hosts"),
        ("scan", "keys"),
        ("xinfo", "keys"),
    ] {
        redis.cli(["ACL", "SETUSER", "default", &format!("-{forbidden}")]);
        // Without this one, `ctl` can follow no job.
        let code = if forbidden == "hgetall" { 2 } else { 0 };
        let output = examine(&redis, code);
        found(&output, check, "warning", "not checked");
        let sound =
            output.json()["checks"].as_array().expect("a list").iter().filter(|one| one["level"] == "ok").count();
        assert!(sound > 4, "{forbidden}: {output}");
        redis.cli(["ACL", "SETUSER", "default", &format!("+{forbidden}")]);
    }
}

#[test]
fn troubled_hosts_are_reported() {
    let redis = Redis::start();
    found(&examine(&redis, 0), "hosts", "warning", "none has ever reported");
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    raw.add("web1", &[("version", "1"), ("manifest", "nonsense")]);
    raw.wait_dropped("web1", "malformed", 1);
    found(&examine(&redis, 0), "drops", "warning", "web1: 1 malformed");

    // A host whose last heartbeat was three minutes ago; below, its clock differs.
    let long_ago = protocol::time::show_moment(raw.now() - 185_000);
    let status = ["HSET", "server:{web2}:status", "last_seen", &long_ago, "state", "up"];
    redis.cli(status);
    redis.cli(["EXPIRE", "server:{web2}:status", "60"]);
    redis.cli(["ZADD", "servers", &(raw.now() - 185_000).to_string(), "web2"]);
    found(&examine(&redis, 0), "hosts", "warning", "1 online, 1 offline (web2: 3 min ago)");

    let now = protocol::time::show_moment(raw.now() + 5_000);
    let ill = ["last_seen", &now, "clock_ahead_ms", "-90000", "read_age_ms", "60000", "refuses", "no journal"];
    redis.cli(["HSET", "server:{web2}:status", ill[0], ill[1], ill[2], ill[3], ill[4], ill[5], ill[6], ill[7]]);
    let output = examine(&redis, 2);
    found(&output, "host clocks", "warning", "web2: 90 s behind");
    found(&output, "readers", "problem", "web2: 60 s");
    found(&output, "refusals", "problem", "web2: no journal");
    // Problems come first.
    assert_eq!(output.json()["checks"][0]["level"], "problem");
}

#[test]
fn an_unreachable_redis_is_exit_code_1() {
    let mut redis = Redis::start();
    redis.kill9();
    let output = Ctl::as_administrator(&redis).run(["doctor"]).expect(1);
    assert!(output.stderr.contains("cannot reach Redis"), "{output}");
}

#[test]
fn what_redis_refuses_to_ctl_or_to_the_workers_is_a_problem() {
    let redis = Redis::start();
    redis.cli(["ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all"]);
    let worker = Worker::on(&redis).redis(&format!("{}?user=worker&pass=secret", redis.url())).start();
    worker.wait_online();
    Raw::on(&redis).wait_reading();
    found(&examine(&redis, 0), "rights", "ok", "ctl and the workers may send all");

    redis.cli(["ACL", "SETUSER", "worker", "-@scripting"]);
    let output = examine(&redis, 2);
    found(&output, "rights", "problem", "Redis refuses the workers' user worker: EVAL");
    redis.cli(["ACL", "SETUSER", "worker", "+@all", "resetkeys", "~server:*"]);
    found(&examine(&redis, 2), "rights", "problem", "Redis refuses the workers' user worker: ZADD, EVAL");
    redis.cli(["ACL", "SETUSER", "worker", "~*"]);

    redis.cli(["ACL", "SETUSER", "default", "-multi"]);
    found(&examine(&redis, 2), "rights", "problem", "Redis refuses ctl: MULTI");
    redis.cli(["ACL", "SETUSER", "default", "+multi", "-xpending"]);
    found(&examine(&redis, 2), "rights", "problem", "Redis refuses ctl: XPENDING");
    for pattern in ["*doctor*", "job*"] {
        assert_eq!(redis.cli(["KEYS", pattern]), "", "the doctor leaves nothing behind");
    }
}
