//! The whole way of a command: from `ctl` through Redis to a worker and back.

use std::collections::BTreeMap;

use protocol::{
    keys::{Keys, Retention},
    limits,
    name::JobId,
};
use serde_json::Value;
use tests::{Aof, Ctl, Evidence, Gate, Output, Raw, Redis, Worker, eventually, fleet_with_ctl};

fn fleet() -> (Redis, Worker, Ctl) {
    fleet_with_ctl("sample_interval = '1h'")
}

/// The state of the only host of a job.
#[track_caller]
fn state(output: &Output) -> String {
    output.json()["hosts"][0]["state"].as_str().unwrap_or_else(|| panic!("no state: {output}")).to_owned()
}

/// Dispatches a line of shell without waiting, and returns the job's id.
#[track_caller]
fn dispatch(ctl: &Ctl, more: &[&str], script: &str) -> String {
    let words = [&["run", "--host", "web1", "--detach", "-q", "exec"], more, &["--", "sh", "-c", script]];
    ctl.run(words.concat()).expect(0).stdout.trim().to_owned()
}

#[test]
fn the_main_job() {
    let (redis, _worker, ctl) = fleet();
    let usage = eventually("a collect with no sample after it", || {
        let output = ctl.run(["run", "--host", "web1", "collect-cpu", "-o", "json"]).expect(0);
        let data = output.json()["hosts"][0]["data"].clone();
        let sampled_at = redis.cli(["HGET", "server:{web1}:cpu", "sampled_at"]);
        (data["sampled_at"] == sampled_at.as_str()).then(|| data["usage"].clone())
    });
    assert!(usage.is_number(), "{usage}");
    assert_eq!(usage.to_string(), redis.cli(["HGET", "server:{web1}:cpu", "usage"]));
    let table = ctl.run(["run", "--host", "web1", "collect-cpu"]).expect(0);
    assert!(table.stdout.contains("usage") && table.stderr.contains("web1: succeeded in "), "{table}");
}

#[test]
fn a_command_that_waits_for_its_host_is_shown_as_queued_and_then_done() {
    let (redis, mut worker, ctl) = fleet();
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let job = dispatch(&ctl, &[], &evidence.script());
    let show = || ctl.run(["job", "show", &job, "-o", "json"]);
    assert_eq!(state(&show()), "queued");
    let written = redis.cli(["KEYS", &format!("job:{{{job}}}:*")]);
    assert_eq!(written, "", "the state is derived: only the worker writes it");
    let waiting = ctl.spawn(["job", "wait", &job, "-o", "json"]);
    let _worker = worker.options().start();
    assert_eq!(state(&waiting.wait().expect(0)), "succeeded");
    assert_eq!(state(&show()), "succeeded");
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_command_that_never_started_in_time_is_expired_for_ctl_and_worker() {
    let (redis, mut worker, ctl) = fleet();
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let job = dispatch(&ctl, &["--start-by", "100ms"], &evidence.script());
    let output = ctl.run(["job", "wait", &job, "-o", "json"]).expect(3);
    assert_eq!(state(&output), "expired");
    assert_eq!(redis.cli(["HGETALL", &format!("job:{{{job}}}:hosts")]), "", "a derived state is not written");
    let _worker = worker.options().start();
    eventually("the state from the worker", || {
        (redis.cli(["HGET", &format!("job:{{{job}}}:hosts"), "web1"]) == "expired").then_some(())
    });
    assert_eq!(state(&ctl.run(["job", "show", &job, "-o", "json"])), "expired");
    assert_eq!(evidence.count(), 0);
}

#[test]
fn a_later_job_wait_prints_the_same_result() {
    let (redis, _worker, ctl) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let job = dispatch(&ctl, &[], &format!("{}; echo done; exit 3", gate.script()));
    gate.reached();
    eventually("it to be shown as running", || {
        (state(&ctl.run(["job", "show", &job, "-o", "json"])) == "running").then_some(())
    });
    let waiting = [(); 2].map(|()| ctl.spawn(["job", "wait", &job, "-o", "json"]));
    gate.open();
    let results = waiting.map(|waiting| waiting.wait().expect(2).json());
    assert_eq!(results[0], results[1]);
    assert_eq!(
        (&results[0]["hosts"][0]["stdout"], &results[0]["hosts"][0]["exit_code"]),
        (&"done\n".into(), &3.into())
    );
    assert_eq!(ctl.run(["job", "wait", &job, "-o", "json"]).expect(2).json(), results[0]);
}

#[test]
fn every_terminal_state_has_its_exit_code() {
    let (redis, mut worker, ctl) = fleet();
    let run = |more: &[&str], code: i32| {
        let words = ["run", "--host", "web1", "-o", "json"].iter().chain(more);
        state(&ctl.run(words).expect(code))
    };
    assert_eq!(run(&["exec", "--", "true"], 0), "succeeded");
    assert_eq!(run(&["exec", "--", "sh", "-c", "exit 9"], 2), "failed");
    assert_eq!(run(&["--timeout", "100ms", "exec", "--", "sleep", "1000"], 2), "timed_out");

    let mut gate = Gate::new(&redis, "gate");
    let job = dispatch(&ctl, &[], &gate.script());
    gate.reached();
    worker.kill9();
    let worker = worker.options().start();
    assert_eq!(state(&ctl.run(["job", "wait", &job, "-o", "json"]).expect(2)), "interrupted");

    let mut gate = Gate::new(&redis, "next gate");
    let job = dispatch(&ctl, &[], &gate.script());
    gate.reached();
    let mut raw = Raw::on(&redis);
    let manifest = raw.manifest_of(&job);
    raw.cancel("web1", &manifest);
    assert_eq!(state(&ctl.run(["job", "wait", &job, "-o", "json"]).expect(2)), "cancelled");
    drop(worker);
}

#[test]
fn redis_may_crash_while_ctl_waits() {
    let mut redis = Redis::options().aof(Aof::Always).start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let script = format!("{}; {}; echo done", evidence.script(), gate.script());
    let running = ctl.spawn(["run", "--host", "web1", "exec", "-q", "--", "sh", "-c", &script]);
    gate.reached();
    redis.kill9();
    redis.restart();
    gate.open();
    let output = running.wait().expect(0);
    assert_eq!(output.stdout, "done\n", "{output}");
    assert_eq!(evidence.count(), 1);
}

/// The keys of the server that break their bounds, with the reason.
fn unbounded(redis: &Redis) -> BTreeMap<String, String> {
    let (mut raw, keys) = (Raw::on(redis), Keys::new(None));
    let all: Vec<String> = raw.query(&["KEYS", "*"]);
    let mut wrong = |key: &String| {
        let ttl_ms: i64 = raw.query(&["PTTL", key]);
        match keys.retention(key) {
            None => Some("is not one of Redfleet's".to_owned()),
            Some(Retention::Expires(longest)) => {
                let longest = i64::try_from(longest.as_millis()).expect("a TTL");
                (!(1..=longest).contains(&ttl_ms)).then(|| format!("expires in {ttl_ms} ms of {longest}"))
            }
            Some(Retention::Members(most)) => {
                let members: usize = raw.query(&["ZCARD", key]);
                (members > most).then(|| format!("has {members} members"))
            }
            Some(Retention::Fields(most)) => {
                let fields: usize = raw.query(&["HLEN", key]);
                (fields > most).then(|| format!("has {fields} fields"))
            }
            Some(Retention::Entries(most)) => {
                let entries: usize = raw.query(&["XLEN", key]);
                (entries > most).then(|| format!("has {entries} entries"))
            }
            Some(Retention::Age(_)) => {
                let entries: usize = raw.query(&["XLEN", key]);
                (entries > 0).then(|| format!("has {entries} entries, though every command has ended"))
            }
        }
    };
    all.iter().filter_map(|key| Some((key.clone(), wrong(key)?))).collect()
}

#[test]
fn after_much_has_happened_every_key_still_has_its_bound() {
    let (redis, mut worker, ctl) = fleet();
    let mut raw = Raw::on(&redis);
    for spec in ["ping", "collect-all", "collect-processes", "collect-facts", "no-such-action"] {
        let manifest = raw.manifest(&["web1"], spec);
        raw.run("web1", &manifest);
        ctl.run(["run", "--host", "web1", spec]);
    }
    for script in ["true", "false", "kill -9 $$", "seq 1 100000", "sleep 1000 &"] {
        ctl.run(["run", "--host", "web1", "exec", "--", "sh", "-c", script]);
    }
    ctl.run(["run", "--host", "web1", "--timeout", "50ms", "exec", "--", "sleep", "1000"]).expect(2);
    // An interrupted command, an expired one, one that Redis lost while it ran, and garbage.
    let mut gate = Gate::new(&redis, "gate");
    let job = dispatch(&ctl, &[], &gate.script());
    gate.reached();
    worker.kill9();
    let late = dispatch(&ctl, &["--start-by", "1ms"], "true");
    let mut worker = worker.options().start();
    for job in [&job, &late] {
        ctl.run(["job", "wait", job]);
    }
    let mut gate = Gate::new(&redis, "next gate");
    let lost = dispatch(&ctl, &[], &gate.script());
    gate.reached();
    redis.cli(["FLUSHALL"]);
    gate.open();
    raw.add("web1", &[("garbage", "x")]);
    raw.add_control("web1", &[("garbage", "x")]);
    raw.ping("web1");
    eventually("the result of the lost command", || {
        (!redis.cli(["KEYS", &format!("job:{{{lost}}}:result:*")]).is_empty()).then_some(())
    });
    worker.wait_online();
    ctl.run(["run", "--host", "web1", "collect-all"]).expect(0);
    raw.wait_settled("web1");
    assert_eq!(unbounded(&redis), BTreeMap::new());
    let report: Value = ctl.run(["doctor", "-o", "json"]).json();
    assert_eq!(report["problems"], 0, "{report:#}");

    // The keys that a stopped worker leaves behind are bounded, too.
    worker.terminate();
    assert_eq!(unbounded(&redis), BTreeMap::new());
}

#[test]
fn the_indices_are_capped_by_whoever_writes_them() {
    let (redis, _worker, ctl) = fleet();
    let fill = "for i = 1, ARGV[1] do redis.call('ZADD', KEYS[1], i, ARGV[2] .. i) end";
    redis.cli(["EVAL", fill, "1", "jobs", &limits::JOBS.to_string(), "old"]);
    ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    assert_eq!(redis.cli(["ZCARD", "jobs"]), limits::JOBS.to_string());
    let newest: JobId = redis.cli(["ZREVRANGE", "jobs", "0", "0"]).parse().expect("the new one stays");
    assert_eq!(redis.cli(["EXISTS", &format!("job:{{{newest}}}")]), "1");
    assert_eq!(redis.cli(["ZSCORE", "jobs", "old1"]), "", "the oldest goes");
}
