//! Alerts: what real workers report, what real instances of `ctl serve` tell, and what an operator types.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{Aof, Ctl, PATIENCE, Raw, Redis, Running, Worker, eventually, within};

/// A fleet whose alerts are written to a file, a line each, by a receiver that is a program.
struct Watched {
    redis: Redis,
    ctl: Ctl,
}

impl Watched {
    fn on(redis: Redis) -> Self {
        let ctl = Ctl::on(&redis);
        let told = redis.directory().join("told");
        // One write of one line, whoever else writes.
        let script = format!("#!/bin/sh\nread -r line\nprintf '%s\\n' \"$line\" >> {}\n", told.display());
        let program = ctl.write("tell", &script);
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("its mode");
        Self { redis, ctl }
    }

    /// Starts an instance with these rules in a file of its own.
    fn serve(&self, name: &str, rules: &str) -> Running {
        let ctl = Ctl::keyless().through(&self.redis, &self.redis.url());
        ctl.write("rules.toml", rules);
        let program = self.ctl.home().join("tell");
        let config = format!(
            "name = {name:?}\n[alerts]\ninterval = '300ms'\ndefaults = false\nrules = ['rules.toml']\n\
             [[receivers]]\nname = 'ops'\nkind = 'command'\ncommand = ['{}']\n",
            program.display()
        );
        let config = ctl.write("serve.toml", &config);
        let running = ctl.spawn(["serve", config.to_str().expect("text")]);
        running.wait_stderr(": ready");
        running
    }

    fn told_file(&self) -> PathBuf {
        self.redis.directory().join("told")
    }

    /// What was told, in order.
    fn told(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.told_file()).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    #[track_caller]
    fn wait_told(&self, what: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        // What an instance has taken that is frozen then, another one takes a minute later.
        let told = within(4 * PATIENCE, || Some(self.told()).filter(|told| is(told)));
        told.unwrap_or_else(|| panic!("waited in vain for {what}: {:#?}", self.told()))
    }

    fn list(&self) -> Vec<Value> {
        let list = self.ctl.run(["alert", "list", "-o", "json"]).expect(0).json();
        list.as_array().expect("a list").clone()
    }
}

fn id(notification: &Value) -> String {
    notification["id"].as_str().expect("text").to_owned()
}

fn phase(notification: &Value) -> &str {
    notification["phase"].as_str().or_else(|| notification["status"].as_str()).expect("text")
}

/// What a notification says: its phase, and its alerts with their beginnings and ends.
fn said(notification: &Value) -> String {
    let alerts = notification["alerts"].as_array().expect("a list").iter();
    let alert = |alert: &Value| {
        let text = |name: &str| alert.get(name).map(ToString::to_string).unwrap_or_default();
        ["rule", "host", "phase", "begins_ms", "begins_at", "ends_ms", "ends_at"].map(text).join(" ")
    };
    format!("{} {:?}", phase(notification), alerts.map(alert).collect::<Vec<_>>())
}

const OFFLINE: &str = "[[rule]]\nname = 'away'\nwhen = 'state != online'\ngroup_wait = '0s'\n";

/// A figure that nobody can have: each host has more than no memory.
const MEMORY: &str = "[[rule]]\nname = 'memory'\nwhen = 'memory.total_bytes > 1 and not label.calm = yes'\n\
                      group_wait = '0s'\ntext = '{host} has {memory.total_bytes} bytes'\n";

#[test]
fn a_figure_of_a_real_worker_begins_an_alert_and_it_ends() {
    let fleet = Watched::on(Redis::start());
    let worker = Worker::on(&fleet.redis).host("web1").start();
    worker.wait_online();
    let _serve = fleet.serve("one", MEMORY);
    let told = fleet.wait_told("the alert to be told", |told| !told.is_empty());
    assert_eq!(phase(&told[0]), "firing", "{told:#?}");
    assert_eq!(told[0]["alerts"][0]["host"], "web1", "{told:#?}");
    let text = told[0]["alerts"][0]["text"].as_str().expect("text");
    assert!(text.starts_with("web1 has ") && text.ends_with(" bytes"), "{text}");
    let listed = fleet.list();
    assert_eq!((&listed[0]["alert"], &listed[0]["state"]), (&"memory".into(), &"firing".into()), "{listed:#?}");

    fleet.ctl.run(["host", "label", "web1", "calm=yes"]).expect(0);
    let told = fleet.wait_told("the end to be told", |told| told.len() > 1);
    assert_eq!((told.len(), phase(&told[1])), (2, "resolved"), "{told:#?}");
    eventually("nothing to fire", || fleet.list().is_empty().then_some(()));
    let log = fleet.ctl.run(["alert", "log", "-o", "json"]).expect(0).json();
    let logged: Vec<_> = log.as_array().expect("a list").iter().map(id).collect();
    assert_eq!(logged, [id(&told[1]), id(&told[0])], "{log:#}");
}

#[test]
fn a_host_that_dies_is_told_once_by_three_instances_that_are_killed_and_frozen() {
    let redis = Redis::options().aof(Aof::Always).start();
    let mut fleet = Watched::on(redis);
    let mut worker = Worker::on(&fleet.redis).host("web1").start();
    worker.wait_online();
    let mut instances: Vec<Running> = ["a", "b", "c"].into_iter().map(|name| fleet.serve(name, OFFLINE)).collect();
    let mut frozen: Option<usize> = None;
    let mut expected = 0;
    for round in 0..6_usize {
        if round % 2 == 0 {
            worker.kill9();
        } else {
            worker = worker.options().start();
            worker.wait_online();
        }
        // Whoever is at it is disturbed: one is killed and comes back, another one freezes and wakes up later.
        if let Some(at) = frozen.take() {
            kill(pid(&instances[at]), Signal::SIGCONT).expect("it lives");
        }
        let victim = fastrand::usize(..3);
        if fastrand::bool() {
            instances[victim].kill9();
            instances[victim] = fleet.serve(["a", "b", "c"][victim], OFFLINE);
        } else {
            kill(pid(&instances[victim]), Signal::SIGSTOP).expect("it lives");
            frozen = Some(victim);
        }
        if round == 2 {
            fleet.redis.restart();
        }
        expected += 1;
        let wanted = if round % 2 == 0 { "firing" } else { "resolved" };
        fleet.wait_told(&format!("round {round} to be told"), |told| {
            let ids: BTreeSet<_> = told.iter().map(id).collect();
            ids.len() >= expected && told.iter().any(|last| phase(last) == wanted)
        });
    }
    if let Some(at) = frozen {
        kill(pid(&instances[at]), Signal::SIGCONT).expect("it lives");
    }
    // Nothing is on its way any more, and each evaluates again.
    let mut raw = Raw::on(&fleet.redis);
    within(4 * PATIENCE, || (raw.query::<usize>(&["HLEN", "alert:{fleet}:outbox"]) == 0).then_some(()))
        .expect("the outbox becomes empty");
    let told = fleet.told();
    let mut by_id: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut by_text: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for notification in &told {
        by_id.entry(id(notification)).or_default().insert(said(notification));
        by_text.entry(said(notification)).or_default().insert(id(notification));
    }
    assert!(by_id.values().all(|said| said.len() == 1), "one id, two messages: {by_id:#?}");
    assert!(by_text.values().all(|ids| ids.len() == 1), "one message, two ids: {by_text:#?}");
    assert_eq!(by_id.len(), expected, "each change is told, and nothing else: {told:#?}");
}

fn pid(running: &Running) -> Pid {
    Pid::from_raw(running.pid().try_into().expect("a process id"))
}

#[test]
fn who_was_frozen_overwrites_nothing() {
    let fleet = Watched::on(Redis::start());
    let mut raw = Raw::on(&fleet.redis);
    let script = protocol::scripts::COMMIT_ALERTS;
    let keys = ["evaluation", "states", "groups", "outbox", "deliveries"].map(|part| format!("alert:{{fleet}}:{part}"));
    let mut commit = |before: &str, after: &str, state: &str| {
        let mut words = vec!["EVAL", script, "5"];
        words.extend(keys.iter().map(String::as_str));
        words.extend([before, "1", "version", after, "1", "r/web1", state, "0", "0", "0", "0", "0", "0", "0"]);
        raw.query::<i64>(&words)
    };
    assert_eq!(commit("", "1", "first"), 1);
    assert_eq!(commit("1", "2", "second"), 1);
    assert_eq!(commit("1", "3", "late"), 0);
    let state: String = raw.query(&["HGET", "alert:{fleet}:states", "r/web1"]);
    assert_eq!(state, "second");
}

/// An instance that was frozen gives up what another one is delivering, or has delivered.
#[test]
fn who_was_frozen_gives_up_nothing_that_another_one_has_taken() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let keys = ["outbox", "deliveries", "log"].map(|part| format!("alert:{{fleet}}:{part}"));
    for (key, value) in [(&keys[0], "what is to be sent"), (&keys[1], "taken by two")] {
        raw.query::<i64>(&["HSET", key, "id", value]);
    }
    let mut end = |taken: &str| -> i64 {
        let script = protocol::scripts::END_DELIVERY;
        let words = ["EVAL", script, "3", &keys[0], &keys[1], &keys[2], "id", "10", taken, "state", "given up"];
        raw.query(&words)
    };
    assert_eq!(end("taken by one"), 0);
    assert_eq!(end("taken by two"), 1, "it was still there");
    assert_eq!(end("taken by two"), 0, "it has ended");
    assert_eq!(Raw::on(&redis).query::<u64>(&["XLEN", &keys[2]]), 1);
}

#[test]
fn rules_and_silences_are_typed_and_what_is_wrong_is_said_with_its_place() {
    let fleet = Watched::on(Redis::start());
    let worker = Worker::on(&fleet.redis).host("web1").start();
    worker.wait_online();
    let add = |when: &str| {
        fleet.ctl.run([
            "alert",
            "add",
            "--name",
            "memory",
            "--when",
            when,
            "--text",
            "{host}: {found}",
            "--group-wait",
            "0s",
        ])
    };
    let refused = add("memory.usage >").expect(1);
    assert!(refused.stderr.contains("rule memory: when: after >, a value is missing\n  memory.usage >\n"), "{refused}");
    add("memory.total_bytes > 1").expect(0);
    let tried = eventually("its figures", || {
        let tried = fleet.ctl.run(["alert", "test", "memory", "--host", "web1", "-o", "json"]).expect(0).json();
        (tried[0]["holds"] == true).then_some(tried)
    });
    assert!(tried[0]["text"].as_str().expect("text").starts_with("web1: memory.total_bytes = "), "{tried:#}");
    let list = fleet.ctl.run(["alert", "list"]).expect(0);
    assert!(list.stderr.contains("nobody evaluates alerts yet: start ctl serve"), "{list}");

    let words = ["alert", "silence", "--rule", "memory", "--host", "web*", "--for", "2h", "--why", "known"];
    fleet.ctl.run(words).expect(0);
    let silences = fleet.ctl.run(["alert", "silence", "list", "-o", "json"]).expect(0).json();
    assert_eq!((&silences[0]["rule"], &silences[0]["why"]), (&"memory".into(), &"known".into()), "{silences:#}");
    let _serve = fleet.serve("one", "");
    let listed = eventually("it to fire", || {
        Some(fleet.list()).filter(|list| list.iter().any(|alert| alert["state"] == "firing"))
    });
    assert_eq!(listed[0]["silenced"], true, "{listed:#?}");
    // A test is sent all the same: it is no alert.
    fleet.ctl.run(["alert", "test", "memory", "--send"]).expect(0);
    let told = fleet.wait_told("the test to be told", |told| !told.is_empty());
    let text = told[0]["alerts"][0]["text"].as_str().expect("text");
    assert!(text.starts_with("TEST by ") && told.len() == 1, "{told:#?}");

    let silence = silences[0]["id"].as_str().expect("text");
    fleet.ctl.run(["alert", "silence", "rm", silence]).expect(0);
    fleet.wait_told("the alert to be told", |told| told.len() > 1);
    fleet.ctl.run(["alert", "rm", "memory", "--yes"]).expect(0);
    let told = fleet.wait_told("its end to be told", |told| told.len() > 2);
    assert_eq!(phase(&told[2]), "resolved", "{told:#?}");
    let unknown = fleet.ctl.run(["alert", "show", "memory"]).expect(1);
    assert!(unknown.stderr.contains("there is no rule memory"), "{unknown}");
}

#[test]
fn damage_in_redis_holds_up_nothing() {
    let fleet = Watched::on(Redis::start());
    let worker = Worker::on(&fleet.redis).host("web1").start();
    worker.wait_online();
    let mut raw = Raw::on(&fleet.redis);
    for (part, field, value) in [
        ("rules", "bad", "{"),
        ("states", "memory/web1", "[]"),
        ("states", "no key", "{}"),
        ("groups", "x", "{\"receiver\":1}"),
        ("silences", "x", "\u{1b}[2J"),
        ("deliveries", "x", "?"),
        ("outbox", "x", "?"),
        ("evaluation", "at_ms", "99999999999999999999"),
    ] {
        raw.query::<i64>(&["HSET", &format!("alert:{{fleet}}:{part}"), field, value]);
    }
    let _serve = fleet.serve("one", MEMORY);
    let told = fleet.wait_told("the alert to be told", |told| !told.is_empty());
    assert_eq!(phase(&told[0]), "firing");
    let list = fleet.ctl.run(["alert", "list"]).expect(0);
    assert!(list.stderr.contains("bad: cannot be used"), "{list}");
}
