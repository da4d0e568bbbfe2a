//! The history of figures: of hosts by their workers, and of Redis itself by `ctl serve`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use protocol::{acl::Role, history, limits};
use serde_json::Value;
use tests::{Ctl, Raw, Redis, Running, Worker, eventually};

/// Samples and steps of a second.
const SHORT: &str = "sample_interval = '1s'\nhistory_step = '1s'";

const HISTORY: &str = "server:{web1}:history";
const REDIS_HISTORY: &str = "redis:history";

type Entries = Vec<(String, BTreeMap<String, String>)>;

fn entries(raw: &mut Raw, key: &str) -> Entries {
    raw.query(&["XRANGE", key, "-", "+"])
}

/// The moments of the entries, in seconds; each is the beginning of a step, and stands there once.
#[track_caller]
fn moments(entries: &Entries) -> Vec<u64> {
    let moment = |id: &String| {
        let millis: u64 = id.strip_suffix("-0").expect("the first of its moment").parse().expect("a moment");
        assert_eq!(millis % 1000, 0, "{id}");
        millis / 1000
    };
    entries.iter().map(|(id, _)| moment(id)).collect()
}

/// Waits until there are so many entries.
#[track_caller]
fn wait_entries(raw: &mut Raw, key: &str, count: usize) -> Entries {
    eventually("entries of a history", || Some(entries(raw, key)).filter(|entries| entries.len() >= count))
}

#[track_caller]
fn assert_expires(raw: &mut Raw, key: &str, after: Duration) {
    let seconds: u64 = raw.query(&["TTL", key]);
    assert!((1..=after.as_secs()).contains(&seconds), "{key} expires after {seconds} s");
}

fn fleet(config: &str) -> (Redis, Worker, Raw) {
    let redis = Redis::start();
    let worker = Worker::on(&redis).config(config).start();
    worker.wait_online();
    let raw = Raw::on(&redis);
    (redis, worker, raw)
}

#[test]
fn a_worker_keeps_its_figures_and_ctl_draws_them() {
    let (redis, _worker, mut raw) = fleet(SHORT);
    let kept = wait_entries(&mut raw, HISTORY, 3);
    moments(&kept);
    for (_, fields) in &kept {
        assert_eq!(fields["step_seconds"], "1");
        for name in ["cpu_usage", "memory_usage", "load1", "disk_usage"] {
            assert!(fields[name].parse::<f64>().is_ok_and(|figure| figure >= 0.0), "{name}: {fields:?}");
        }
    }
    assert_expires(&mut raw, HISTORY, limits::HISTORY_RETENTION);

    // Who only looks may see it, too.
    let reader = Ctl::alone().env("REDFLEET_REDIS", &redis.url_of(&Role::Reader, None));
    for ctl in [Ctl::on(&redis), reader] {
        let shown = ctl.run(["host", "show", "web1", "--since", "5m", "-o", "json"]).expect(0).json();
        assert!(shown["points"].as_array().is_some_and(|points| points.len() >= 3), "{shown}");
        assert!(shown["points"][0]["memory_usage"].is_f64() && shown["host"] == "web1", "{shown}");
    }
    let ctl = Ctl::on(&redis);
    let lines = ctl.run(["host", "show", "web1", "--since", "5m", "-o", "jsonl"]).expect(0).stdout;
    assert!(lines.lines().count() >= 3 && lines.contains("\"cpu_usage\":"), "{lines}");
    let drawn = ctl.run(["host", "show", "web1", "--since", "1m"]).expect(0).stdout;
    let memory = drawn.lines().find(|line| line.starts_with("memory usage")).unwrap_or_else(|| panic!("{drawn}"));
    assert!(memory.contains('█') && memory.contains(" %"), "{drawn}");
    assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
    let ascii = ctl.clone().env("LC_ALL", "C").run(["host", "show", "web1", "--since", "1m"]).expect(0).stdout;
    assert!(ascii.is_ascii() && ascii.contains('#'), "{ascii}");
    for since in ["30s", "25h", "soon"] {
        let refused = ctl.run(["host", "show", "web1", "--since", since]).expect(64);
        assert!(refused.stderr.contains("write a"), "{refused}");
    }
}

#[test]
fn a_worker_that_was_killed_goes_on_and_no_step_stands_there_twice() {
    let (_redis, mut worker, mut raw) = fleet(SHORT);
    wait_entries(&mut raw, HISTORY, 2);
    worker.kill9();
    let before = moments(&entries(&mut raw, HISTORY));
    let worker = worker.options().start();
    worker.wait_online();
    let after = moments(&wait_entries(&mut raw, HISTORY, before.len() + 2));
    assert!(after.starts_with(&before), "{before:?} {after:?}");
}

#[test]
fn what_comes_while_redis_is_away_is_kept() {
    let (mut redis, _worker, mut raw) = fleet(SHORT);
    let last = *moments(&wait_entries(&mut raw, HISTORY, 2)).last().expect("an entry");
    redis.stop();
    // Steps pass.
    let begun = Instant::now();
    eventually("steps to pass", || (begun.elapsed() > Duration::from_secs(4)).then_some(()));
    redis.restart();
    let mut raw = Raw::on(&redis);
    let back = raw.now() / 1000;
    let kept = eventually("what came meanwhile", || {
        let moments = moments(&entries(&mut raw, HISTORY));
        Some(moments).filter(|moments| moments.iter().any(|moment| *moment >= back))
    });
    let meanwhile = kept.iter().filter(|moment| (last + 1..back).contains(*moment)).count();
    assert!(meanwhile >= 2, "{last} {kept:?} {back}");
}

#[test]
fn a_host_without_a_history_says_why() {
    let (redis, _worker, mut raw) = fleet("sample_interval = '1s'\nhistory_step = 'off'");
    let sampled = |raw: &mut Raw| -> Option<String> { raw.query(&["HGET", "server:{web1}:cpu", "sampled_at"]) };
    let first = eventually("a sample", || sampled(&mut raw));
    let second = eventually("a second one", || sampled(&mut raw).filter(|next| *next != first));
    eventually("a third one", || sampled(&mut raw).filter(|next| *next != second));
    assert_eq!(redis.cli(["EXISTS", HISTORY]), "0");
    let shown = Ctl::on(&redis).run(["host", "show", "web1", "--since", "1h"]).expect(0);
    assert!(shown.stdout.is_empty() && shown.stderr.contains("history_step"), "{shown}");
}

#[test]
fn what_is_damaged_is_left_out_and_named() {
    let (redis, _worker, mut raw) = fleet("history_step = 'off'");
    let ctl = Ctl::on(&redis);
    let now = raw.now() / 1000 * 1000;
    let at = |seconds: u64| format!("{}-7", now - seconds * 1000);
    for (id, fields) in [
        (at(500), &["step_seconds", "60", "cpu_usage", "50", "\u{1b}[2Jx", "\u{1b}[31m"][..]),
        (at(400), &["step_seconds", "1e308", "cpu_usage", "1"]),
        (at(300), &["cpu_usage", "1"]),
        (at(200), &["step_seconds", "60", "cpu_usage", "NaN", "load1", "-1e308"]),
        (at(100), &["step_seconds", "60", "cpu_usage", "\u{1b}]0;x\u{7}", "load1", "2"]),
    ] {
        let words: Vec<_> = ["XADD", HISTORY, &id].into_iter().chain(fields.iter().copied()).collect();
        let _: String = raw.query(&words);
    }
    let shown = ctl.run(["host", "show", "web1", "--since", "1h", "-o", "json"]).expect(0).json();
    let of = |name: &str| -> Vec<&Value> {
        shown["points"].as_array().expect("points").iter().filter_map(|point| point.get(name)).collect()
    };
    assert_eq!((of("cpu_usage"), of("load1")), (vec![&Value::from(50.0)], vec![&Value::from(2.0)]), "{shown}");
    let drawn = ctl.run(["host", "show", "web1", "--since", "1h"]).expect(0);
    assert!(!drawn.stdout.contains('\u{1b}') && drawn.stdout.lines().count() == 3, "{drawn}");

    redis.cli(["DEL", HISTORY]);
    redis.cli(["SET", HISTORY, "x"]);
    let refused = ctl.run(["host", "show", "web1", "--since", "1h"]);
    assert!(refused.code != 0 && refused.stderr.contains(HISTORY), "{refused}");
}

/// A day of a host in Redis, at the step of the settings and at the shortest.
#[test]
fn a_history_is_bounded() {
    let redis = Redis::start();
    let mut connection = redis.blocking();
    for (seconds, days, most, bytes) in [(300, 3, 288, 40_000), (1, 1, limits::HISTORY_ENTRIES, 200_000)] {
        let step = Duration::from_secs(seconds);
        let steps = if seconds == 1 { 2_000 } else { days * 86_400 / seconds };
        let key = format!("server:{{web{seconds}}}:history");
        for at in 0..steps {
            let wave = 100.0 * ((at as f64) / 50.0).sin().abs();
            let rate = wave * 123_456.7;
            let figures = history::FIGURES
                .iter()
                .map(|(_, _, name)| (*name, if name.ends_with("_second") { rate } else { wave }));
            let append = history::append(&key, 1_800_000_000_000 + at * seconds * 1000, step, figures);
            let added: u64 = append.query(&mut connection).expect("it is added");
            assert_eq!(added, 1);
        }
        let length: usize = redis::cmd("XLEN").arg(&key).query(&mut connection).expect("a length");
        assert_eq!(length, most, "{key}");
        let used: u64 = redis::cmd("MEMORY").arg("USAGE").arg(&key).query(&mut connection).expect("its memory");
        println!("a host's history of {length} steps of {seconds} s: {used} bytes of Redis' memory");
        assert!(used < bytes, "{key}: {used} bytes");

        // Whoever comes second, or too late, changes nothing.
        let last = 1_800_000_000_000 + (steps - 1) * seconds * 1000;
        for at in [last, last - 5_000] {
            let again = history::append(&key, at, step, [("cpu_usage", 77.77)].into_iter());
            assert_eq!(again.query::<u64>(&mut connection).expect("a reply"), 0);
        }
        let newest: Entries = redis::cmd("XREVRANGE")
            .arg(&key)
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(1)
            .query(&mut connection)
            .expect("one");
        assert!(newest[0].0 == format!("{last}-0") && newest[0].1["cpu_usage"] != "77.77", "{newest:?}");
    }
}

/// A `ctl serve` that looks at Redis every second.
fn serve(redis: &Redis, name: &str) -> Running {
    let ctl = Ctl::keyless().env("REDFLEET_REDIS", &redis.url_of(&Role::Serve, None));
    let config = ctl.write("serve.toml", &format!("name = {name:?}\n[redis_status]\nevery = '1s'\n"));
    let running = ctl.spawn(["serve", config.to_str().expect("text")]);
    running.wait_stderr(": ready");
    running
}

fn status(raw: &mut Raw) -> BTreeMap<String, String> {
    raw.query(&["HGETALL", "redis:status"])
}

#[test]
fn several_instances_keep_how_redis_is_and_each_step_stands_there_once() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let mut serves: Vec<_> = ["one", "two", "three"].map(|name| serve(&redis, name)).into();
    let before = wait_entries(&mut raw, REDIS_HISTORY, 4).len();
    // One that is killed is not missed.
    serves.remove(0).kill9();
    let kept = wait_entries(&mut raw, REDIS_HISTORY, before + 3);
    moments(&kept);
    assert!(kept.iter().all(|(_, fields)| fields["used_memory"].parse::<f64>().is_ok()), "{kept:?}");
    let seen = status(&mut raw);
    for name in ["used_memory", "memory_usage", "ping_ms", "keys", "evicted_keys", "persistence_failing"] {
        assert!(seen[name].parse::<f64>().is_ok(), "{name}: {seen:?}");
    }
    assert_eq!((&*seen["role"], &*seen["replication_broken"]), ("master", "0"));
    assert_expires(&mut raw, "redis:status", limits::REDIS_STATUS_RETENTION);
    assert_expires(&mut raw, REDIS_HISTORY, limits::HISTORY_RETENTION);

    let reader = Ctl::alone().env("REDFLEET_REDIS", &redis.url_of(&Role::Reader, None));
    for ctl in [Ctl::on(&redis), reader] {
        let shown = ctl.run(["redis", "status", "-o", "json"]).expect(0).json();
        assert!(shown["used_memory"].is_u64() && shown["is_stale"] == false, "{shown}");
        assert!(shown["history"]["points"].as_array().is_some_and(|points| points.len() >= 3), "{shown}");
        let shown = ctl.run(["redis", "status"]).expect(0).stdout;
        assert!(shown.contains("maxmemory policy") && shown.contains('█'), "{shown}");
    }
    let found = |code| {
        let checks = Ctl::on(&redis).run(["doctor", "-o", "json"]).expect(code).json();
        let checks = checks["checks"].as_array().expect("checks").clone();
        checks.into_iter().find(|check| check["check"] == "redis:status").expect("it is checked")
    };
    assert_eq!(found(0)["level"], "ok");

    // Nobody looks any more.
    for mut serve in serves {
        assert!(serve.kill9());
    }
    let _: u64 = raw.query(&["HSET", "redis:status", "checked_at", "2026-01-01T00:00:00.000Z"]);
    assert_eq!(found(0)["level"], "warning");
    let _: u64 = raw.query(&["DEL", "redis:status"]);
    assert_eq!(found(0)["level"], "warning");
    let refused = Ctl::on(&redis).run(["redis", "status"]);
    assert!(refused.code != 0 && refused.stderr.contains("ctl serve"), "{refused}");
}

#[test]
fn how_far_a_replica_is_behind_is_shown() {
    let primary = Redis::options().tcp().set("repl-diskless-sync-delay", "0").start();
    let mut raw = Raw::on(&primary);
    let _serve = serve(&primary, "one");
    assert_eq!(eventually("a look", || status(&mut raw).remove("connected_slaves")), "0");
    let mut replica = Redis::options().replica_of(&primary).start();
    let seen = eventually("a replica that is online", || {
        Some(status(&mut raw)).filter(|seen| {
            seen.contains_key("replica_lag_seconds") && seen.get("replication_broken").is_some_and(|is| is == "0")
        })
    });
    for name in ["replica_lag_seconds", "replica_lag_bytes"] {
        assert!(seen[name].parse::<f64>().is_ok_and(|lag| lag >= 0.0), "{seen:?}");
    }
    // What is frozen falls behind.
    replica.freeze();
    eventually("a lag", || {
        let lag: f64 = status(&mut raw).remove("replica_lag_bytes")?.parse().ok()?;
        (lag > 0.0).then_some(())
    });
    replica.thaw();
    replica.stop();
    eventually("no replica", || (status(&mut raw).get("connected_slaves")? == "0").then_some(()));
}

#[test]
fn a_redis_that_comes_back_is_looked_at_again() {
    let mut redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let _serve = serve(&redis, "one");
    wait_entries(&mut raw, REDIS_HISTORY, 1);
    redis.stop();
    redis.restart();
    let mut raw = Raw::on(&redis);
    let back = raw.now() / 1000;
    eventually("a step behind the restart", || {
        moments(&entries(&mut raw, REDIS_HISTORY)).into_iter().find(|moment| *moment > back)
    });
}
