//! What is shipped for Prometheus and Grafana is sound: `promtool` says so, and a real Prometheus understands it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::{Ctl, Redis, Worker, eventually};

use super::{
    UP,
    prometheus::{Prometheus, has, promtool},
    serve, term,
};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib").join(name)
}

#[test]
fn rules_and_settings_pass_the_checks_of_prometheus() {
    if !has("promtool", "rules_and_settings_pass_the_checks_of_prometheus") {
        return;
    }
    let directory = shipped("prometheus");
    promtool(&directory, &["check", "rules", "redfleet.rules.yml"]);
    promtool(&directory, &["check", "config", "prometheus.yml"]);
    promtool(&directory, &["test", "rules", "redfleet.test.yml"]);
    // What is commented out is sound, too.
    let own = tempfile::tempdir().expect("a directory");
    fs::write(own.path().join("prometheus.yml"), all_settings()).expect("a file");
    fs::copy(directory.join("redfleet.rules.yml"), own.path().join("redfleet.rules.yml")).expect("a file");
    promtool(own.path(), &["check", "config", "prometheus.yml"]);
}

/// The settings for Prometheus, with those that are commented out.
fn all_settings() -> String {
    let text = fs::read_to_string(shipped("prometheus/prometheus.yml")).expect("a file");
    let of = |line: &str| match line.strip_prefix("  # ").filter(|line| is_setting(line)) {
        Some(setting) => format!("  {setting}\n"),
        None => format!("{line}\n"),
    };
    let all: String = text.lines().map(of).collect();
    assert!(all.contains("\n  - job_name: redfleet-shards\n") && all.contains("\n  - job_name: node\n"), "{all}");
    all
}

/// Whether a line that is commented out is a setting, and no remark.
fn is_setting(line: &str) -> bool {
    line.starts_with([' ', '-'])
}

/// All expressions of the dashboard, with its variables replaced.
fn expressions() -> Vec<String> {
    fn collect(document: &Value, found: &mut Vec<String>) {
        match document {
            Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
            Value::Object(object) => {
                found.extend(object.get("expr").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| collect(value, found));
            }
            _ => {}
        }
    }
    let text = fs::read_to_string(shipped("grafana/redfleet.json")).expect("a file");
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text).expect("JSON"), &mut found);
    let replaced = |text: String| text.replace("$__rate_interval", "1m").replace("$host", "web1");
    found.into_iter().map(replaced).collect()
}

#[test]
fn a_real_prometheus_understands_the_dashboard_and_the_rules() {
    let rules = fs::read_to_string(shipped("prometheus/redfleet.rules.yml")).expect("a file");
    let settings = "global: { scrape_interval: 1s, evaluation_interval: 1s }\nrule_files: [redfleet.rules.yml]\n";
    let name = "a_real_prometheus_understands_the_dashboard_and_the_rules";
    let Some(prometheus) = Prometheus::with(name, settings, &[("redfleet.rules.yml", &rules)]) else { return };
    let redis = Redis::start();
    let worker = Worker::on(&redis).host("web1").start();
    worker.wait_online();
    let running = serve(&redis, "one", prometheus.address, "");
    eventually("the host in Prometheus", || prometheus.query(&format!("{UP}{{host=\"web1\"}}")).pop());
    // Rules are evaluated over what is there.
    let online = eventually("a recorded figure", || {
        prometheus.query("redfleet:hosts_online:count").pop().filter(|(_, value)| value == "1")
    });
    assert_eq!(online.0["__name__"], "redfleet:hosts_online:count");
    eventually("the memory of the host", || prometheus.query("redfleet:host_memory_usage:ratio{host=\"web1\"}").pop());
    let groups = prometheus.ask("/api/v1/rules")["groups"].clone();
    let sick: Vec<_> = groups
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("a list"))
        .filter(|rule| !rule["lastError"].as_str().unwrap_or_default().is_empty())
        .collect();
    assert!(sick.is_empty(), "{sick:#?}");
    // Each panel of a fleet with one host can be drawn; what needs more than that is named here.
    let absent = [
        "ALERTS",
        "dropped",
        "custom",
        "scheduled_runs",
        "schedule_lag",
        "dispatch_duration",
        "replica",
        "master_link",
        "max_bytes > 0",
        "left_out",
        "rate(",
    ];
    for expression in expressions() {
        let found = prometheus.query(&expression);
        let may_be_empty = absent.iter().any(|part| expression.contains(part));
        assert!(may_be_empty || !found.is_empty(), "nothing is known of {expression}");
    }
    term(&running);
    running.wait().expect(0);
}

#[test]
fn a_real_prometheus_scrapes_ctl_serve_as_the_settings_say() {
    let name = "a_real_prometheus_scrapes_ctl_serve_as_the_settings_say";
    let redis = Redis::start();
    let workers: Vec<_> = ["web1", "web2"].map(|host| Worker::on(&redis).host(host).start()).into();
    workers.iter().for_each(Worker::wait_online);
    Ctl::on(&redis).run(["host", "label", "web1", "role=db"]).expect(0);
    let ctl = Ctl::keyless().through(&redis, &redis.url());
    let config = ctl.write("serve.toml", "name = 'one'\n[http]\nlisten = '127.0.0.1:0'\n");
    let running = ctl.spawn(["serve", config.to_str().expect("text")]);
    let listens = running.wait_stderr("listens on ");
    running.wait_stderr(": ready");
    let address = listens.rsplit("listens on ").next().expect("an address").trim().to_owned();

    let mut settings = all_settings().replace("15s", "1s").replace("refresh_interval: 1m", "refresh_interval: 1s");
    for place in ["127.0.0.1:9321", "serve1.example.org:9321", "serve2.example.org:9321"] {
        assert!(settings.contains(place), "{settings}");
        settings = settings.replace(place, &address);
    }
    let rules = fs::read_to_string(shipped("prometheus/redfleet.rules.yml")).expect("a file");
    let Some(prometheus) = Prometheus::with(name, &settings, &[("redfleet.rules.yml", &rules)]) else { return };
    for job in ["redfleet", "redfleet-shards"] {
        for host in ["web1", "web2"] {
            // Each host is in one of the shards.
            let up = format!("{UP}{{job={job:?},host={host:?},instance={host:?}}}");
            let found = eventually("a host", || Some(prometheus.query(&up)).filter(|found| !found.is_empty()));
            assert_eq!(found.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["1"], "{up}");
        }
    }
    // No page was refused, in any of its parts.
    let targets = prometheus.ask("/api/v1/targets")["activeTargets"].as_array().expect("a list").clone();
    let of = |job: &'static str| targets.iter().filter(move |target| target["scrapePool"] == job);
    assert_eq!((of("redfleet").count(), of("redfleet-shards").count()), (1, 2), "{targets:#?}");
    for target in of("redfleet").chain(of("redfleet-shards")) {
        assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()), "{target:#}");
    }
    // The fleet is a list of targets. Nothing listens at them here.
    eventually("the hosts as targets", || {
        let targets = prometheus.ask("/api/v1/targets")["activeTargets"].as_array().expect("a list").clone();
        let own: Vec<_> = targets.into_iter().filter(|target| target["scrapePool"] == "node").collect();
        let is_labelled = |target: &Value| target["labels"]["role"] == "db";
        (own.len() == 2 && own.iter().any(is_labelled)).then_some(())
    });
    term(&running);
    running.wait().expect(0);
}
