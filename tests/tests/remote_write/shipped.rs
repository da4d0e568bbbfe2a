//! What is shipped for Prometheus and Grafana is sound: `promtool` says so, and a real Prometheus understands it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::{Redis, Worker, eventually};

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
    let text = fs::read_to_string(directory.join("prometheus.yml")).expect("a file");
    let all: Vec<_> = text.lines().map(|line| line.strip_prefix("  # ").filter(|line| is_setting(line)).map_or_else(|| line.to_owned(), |line| format!("  {line}"))).collect();
    assert!(all.iter().any(|line| line == "  - job_name: redfleet-shards") && all.iter().any(|line| line == "  - job_name: node"));
    let own = tempfile::tempdir().expect("a directory");
    fs::write(own.path().join("prometheus.yml"), all.join("\n") + "\n").expect("a file");
    fs::copy(directory.join("redfleet.rules.yml"), own.path().join("redfleet.rules.yml")).expect("a file");
    promtool(own.path(), &["check", "config", "prometheus.yml"]);
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
    let online = eventually("a recorded figure", || prometheus.query("redfleet:hosts_online:count").pop().filter(|(_, value)| value == "1"));
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
    let absent = ["ALERTS", "dropped", "custom", "scheduled_runs", "schedule_lag", "dispatch_duration", "replica", "master_link", "max_bytes > 0", "left_out", "rate("];
    for expression in expressions() {
        let found = prometheus.query(&expression);
        let may_be_empty = absent.iter().any(|part| expression.contains(part));
        assert!(may_be_empty || !found.is_empty(), "nothing is known of {expression}");
    }
    term(&running);
    running.wait().expect(0);
}
