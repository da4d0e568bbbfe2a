//! What a worker publishes about its host: figures, facts, labels, the catalogue.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use protocol::{
    action::{ActionSpec, Argument, Arguments, Repeat},
    clock::millis,
    command::Manifest,
    limits,
    metrics::MetricGroup,
    outcome::State,
    time::read_moment,
};
use serde_json::Value;
use tests::{Raw, Redis, Worker, eventually};

const GROUPS: [&str; 5] = ["cpu", "memory", "load", "disk", "network"];

/// A worker that has sampled once and takes its next sample in an hour.
fn fleet() -> (Redis, Worker, Raw) {
    let redis = Redis::start();
    let worker = Worker::on(&redis).config("sample_interval = '1h'\nlabels = { role = 'web', zone = 'a b' }").start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    for group in GROUPS {
        eventually("a first sample", || (!hash(&mut raw, group).is_empty()).then_some(()));
    }
    (redis, worker, raw)
}

fn hash(raw: &mut Raw, part: &str) -> BTreeMap<String, String> {
    raw.query(&["HGETALL", &format!("server:{{web1}}:{part}")])
}

/// What a collect returns, as the fields of a hash.
#[track_caller]
fn collected(raw: &mut Raw, action: &str) -> BTreeMap<String, String> {
    let manifest = raw.manifest(&["web1"], action);
    let outcome = raw.run("web1", &manifest);
    assert_eq!(outcome.state, State::Succeeded, "{outcome:?}");
    outcome.data.expect("data").into_iter().map(|(name, value)| (name, plain(&value))).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[track_caller]
fn number(hash: &BTreeMap<String, String>, name: &str) -> f64 {
    let text = hash.get(name).unwrap_or_else(|| panic!("no {name} in {hash:?}"));
    text.parse().unwrap_or_else(|_| panic!("{name} is '{text}'"))
}

#[track_caller]
fn assert_percent(hash: &BTreeMap<String, String>, names: &[&str]) {
    for name in names {
        assert!((0.0..=100.0).contains(&number(hash, name)), "{name}: {hash:?}");
        assert!(hash[*name].split_once('.').is_some_and(|(_, decimals)| decimals.len() == 1), "{name}: {hash:?}");
    }
}

#[test]
fn figures_are_sane_and_carry_their_units() {
    let (_redis, _worker, mut raw) = fleet();
    let now = raw.now();
    for group in GROUPS {
        let sampled_at = read_moment(&hash(&mut raw, group)["sampled_at"]).expect("a moment");
        assert!(sampled_at <= now + 1000 && sampled_at > now - 60_000, "{group}: {sampled_at} at {now}");
    }
    let cpu = hash(&mut raw, "cpu");
    let parts = ["user_percent", "system_percent", "iowait_percent", "steal_percent", "idle_percent"];
    assert_percent(&cpu, &[&["usage"], &parts[..]].concat());
    let sum: f64 = parts.iter().map(|part| number(&cpu, part)).sum();
    assert!((99.0..=101.0).contains(&sum), "{cpu:?}");
    assert!((number(&cpu, "usage") + number(&cpu, "idle_percent")) <= 100.2, "{cpu:?}");
    assert!(number(&cpu, "cores") >= 1.0 && number(&cpu, "window_seconds") > 0.0, "{cpu:?}");

    let memory = hash(&mut raw, "memory");
    assert_percent(&memory, &["usage"]);
    let (total, used) = (number(&memory, "total_bytes"), number(&memory, "used_bytes"));
    assert!(total > 16e6 && used > 1e6 && used < total, "{memory:?}");
    let share = 100.0 * used / total;
    assert!((share - number(&memory, "usage")).abs() < 0.1, "{memory:?}");

    let load = hash(&mut raw, "load");
    assert!(number(&load, "uptime_seconds") > 0.0 && number(&load, "total_tasks") > 1.0, "{load:?}");
    assert_eq!(load["cores"], cpu["cores"]);

    let disk = hash(&mut raw, "disk");
    assert_percent(&disk, &["usage", "usage:/"]);
    assert!(number(&disk, "total_bytes:/") >= number(&disk, "used_bytes:/"), "{disk:?}");
    assert!(number(&disk, "mounts") >= 1.0 && disk.contains_key("fullest_mount"), "{disk:?}");

    let network = hash(&mut raw, "network");
    for name in ["receive_bytes_per_second", "transmit_bytes_per_second", "receive_bytes_total"] {
        assert!(number(&network, name) >= 0.0, "{network:?}");
    }
}

#[test]
fn a_collect_returns_what_it_leaves_in_redis() {
    let (_redis, _worker, mut raw) = fleet();
    for group in GROUPS {
        let before = hash(&mut raw, group);
        // A worker that has just started may take a sample of its own between the two reads.
        let (data, left) = eventually("a collect without a later sample", || {
            let data = collected(&mut raw, &format!("collect-{group}"));
            let left = hash(&mut raw, group);
            (data["sampled_at"] == left["sampled_at"]).then_some((data, left))
        });
        assert_eq!(data, left, "{group}");
        assert_ne!(data["sampled_at"], before["sampled_at"], "{group} is fresh");
    }
    let manifest = raw.manifest(&["web1"], "collect-all");
    let data = raw.run("web1", &manifest).data.expect("data");
    assert_eq!(data.keys().collect::<Vec<_>>(), MetricGroup::ALL.map(MetricGroup::name));
    for group in GROUPS {
        let figures = data[group].as_object().expect("figures");
        let figures: BTreeMap<_, _> = figures.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
        assert_eq!(figures, hash(&mut raw, group), "{group}");
    }
}

#[test]
fn outdated_figures_vanish_with_the_next_sample() {
    let (_redis, _worker, mut raw) = fleet();
    for group in GROUPS {
        let key = format!("server:{{web1}}:{group}");
        let _: u64 = raw.query(&["HSET", &key, "usage:/mnt/gone", "99.9"]);
        collected(&mut raw, &format!("collect-{group}"));
        assert!(!hash(&mut raw, group).contains_key("usage:/mnt/gone"), "{group}");
    }
}

#[test]
fn figures_are_sampled_without_a_command() {
    let redis = Redis::start();
    let _worker = Worker::on(&redis).config("sample_interval = '1s'").start();
    let mut raw = Raw::on(&redis);
    let mut seen: HashMap<&str, BTreeSet<String>> = HashMap::new();
    eventually("three samples of each group", || {
        for group in GROUPS {
            seen.entry(group).or_default().extend(hash(&mut raw, group).remove("sampled_at"));
        }
        seen.values().all(|samples| samples.len() >= 3).then_some(())
    });
}

/// Keeps processors busy until dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn with(threads: usize) -> Self {
        let on = Arc::new(AtomicBool::new(true));
        for _ in 0..threads {
            let on = Arc::clone(&on);
            thread::spawn(move || while on.load(Ordering::Relaxed) {});
        }
        Self(on)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn the_use_of_the_processors_is_measured() {
    let (_redis, _worker, mut raw) = fleet();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    // The host's processors, which may be more than this process may use.
    let cores = number(&hash(&mut raw, "cpu"), "cores");
    let busy = 100.0 * (threads as f64 / cores).min(1.0);
    let _busy = Busy::with(threads);
    eventually("the processors to be seen busy", || {
        let cpu = collected(&mut raw, "collect-cpu");
        (number(&cpu, "usage") > 0.8 * busy && number(&cpu, "user_percent") > 0.4 * busy).then_some(())
    });
    // The process that uses the processors is listed first.
    eventually("this process to lead", || {
        let manifest = raw.manifest(&["web1"], "collect-processes");
        let data = raw.run("web1", &manifest).data.expect("data");
        (data["processes"][0]["pid"] == std::process::id()).then_some(())
    });
}

#[test]
fn processes_are_listed_as_requested() {
    let (_redis, worker, mut raw) = fleet();
    let list = |raw: &mut Raw, by: &str, top: i64| {
        let arguments = [("by", Argument::Text(by.into())), ("top", Argument::Integer(top))];
        let arguments: Arguments = arguments.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let manifest = Manifest { arguments, ..raw.manifest(&["web1"], "collect-processes") };
        let data = raw.run("web1", &manifest).data.expect("data");
        assert_eq!(data["by"], by);
        data["processes"].as_array().expect("a list").clone()
    };
    assert_eq!(list(&mut raw, "cpu", 1).len(), 1);
    let by_memory = list(&mut raw, "memory", 100);
    let sizes: Vec<_> = by_memory.iter().map(|row| row["memory_bytes"].as_u64().expect("bytes")).collect();
    assert!(sizes.is_sorted_by(|more, less| more >= less), "{sizes:?}");
    let me = by_memory.iter().find(|row| row["pid"] == worker.pid());
    assert!(me.is_none_or(|row| row["name"] == "worker"), "{me:?}");
}

#[test]
fn facts_and_labels_describe_the_host() {
    let (_redis, worker, mut raw) = fleet();
    let facts = hash(&mut raw, "facts");
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
    assert_eq!(facts["boot_id"], boot_id.trim());
    assert_eq!(facts["version"], protocol::VERSION);
    assert_eq!(facts["architecture"], std::env::consts::ARCH);
    assert_eq!(facts["memory_bytes"], hash(&mut raw, "memory")["total_bytes"]);
    assert_eq!(facts["cores"], hash(&mut raw, "cpu")["cores"]);
    for fact in ["os", "kernel", "hostname", "addresses", "booted_at"] {
        assert!(!facts[fact].is_empty(), "{fact}: {facts:?}");
    }
    serde_json::from_str::<Vec<std::net::IpAddr>>(&facts["addresses"]).expect("addresses");
    let labels = hash(&mut raw, "labels");
    assert_eq!(labels, BTreeMap::from([("role".into(), "web".into()), ("zone".into(), "a b".into())]));

    let status = worker.status().expect("a status");
    assert_eq!((status.pid, status.boot_id.as_str()), (worker.pid(), boot_id.trim()));
    assert_eq!((status.version.as_str(), status.running), (protocol::VERSION, 0));
    assert!(status.read_age_ms < 10_000 && status.clock_ahead_ms.abs() < 1000, "{status:?}");
    let score: f64 = raw.query(&["ZSCORE", "servers", "web1"]);
    assert!((score - status.last_seen_ms as f64).abs() < 10_000.0, "{score}");
    let data = collected(&mut raw, "collect-facts");
    assert_eq!((&data["kernel"], &data["boot_id"]), (&facts["kernel"], &facts["boot_id"]));
}

#[test]
fn the_catalogue_describes_all_actions_and_which_are_allowed() {
    let (redis, mut worker, mut raw) = fleet();
    let catalogue = |raw: &mut Raw| -> BTreeMap<String, ActionSpec> {
        let specs: Vec<ActionSpec> = serde_json::from_str(&hash(raw, "facts")["actions"]).expect("a catalogue");
        specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect()
    };
    let locked = catalogue(&mut raw);
    assert!(!locked["exec"].allowed, "an action that may change the host is off");
    assert_eq!(locked["ping"].repeat, Repeat::Repeatable);
    // Every allowed action has no required parameter and succeeds without arguments.
    for spec in locked.values().filter(|spec| spec.allowed) {
        assert!(spec.parameters.iter().all(|parameter| !parameter.required), "{spec:?}");
        let manifest = raw.manifest(&["web1"], &spec.name);
        assert_eq!(raw.run("web1", &manifest).state, State::Succeeded, "{}", spec.name);
    }
    worker.terminate();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    eventually("a new catalogue", || catalogue(&mut raw)["exec"].allowed.then_some(()));
    let exec = &catalogue(&mut raw)["exec"];
    assert_eq!(exec.repeat, Repeat::Once);
    assert!(exec.parameter("argv").is_some_and(|argv| argv.required && argv.trailing));
    assert!(exec.parameter("secret").is_some_and(|secret| secret.secret));
    assert_eq!(hash(&mut raw, "labels"), BTreeMap::new(), "labels that were taken away are gone");
}

#[test]
fn the_keys_of_a_host_expire_after_its_last_refresh() {
    let (_redis, _worker, mut raw) = fleet();
    let kept = |part: &str| if GROUPS.contains(&part) { limits::METRICS_RETENTION } else { limits::HOST_RETENTION };
    for part in GROUPS.into_iter().chain(["facts", "labels", "status"]) {
        let left: i64 = raw.query(&["PTTL", &format!("server:{{web1}}:{part}")]);
        let gone = millis(kept(part)).cast_signed() - left;
        assert!((0..millis(Duration::from_secs(60)).cast_signed()).contains(&gone), "{part}: {left} ms left");
    }
}
