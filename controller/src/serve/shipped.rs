//! The rules for Prometheus and the dashboard for Grafana that are shipped name no metric that there is not.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use super::exporter::samples::{FAMILIES, Kind};

/// What Prometheus itself tells.
const OTHERS: [&str; 2] = ["ALERTS", "up"];

/// Words of the language that stand where a metric could.
const WORDS: [&str; 9] = ["and", "or", "unless", "by", "without", "on", "ignoring", "offset", "bool"];

fn shipped(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib").join(path)).expect("a file")
}

/// The metrics that an expression names: what is no function, word, label or number.
fn metrics(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let end = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        if matches!(first, '{' | '[') {
            // Labels and spans of time.
            let close = if first == '{' { '}' } else { ']' };
            rest = rest.split_once(close).expect("it is closed").1;
            continue;
        }
        if !(first.is_ascii_alphabetic() || first == '_') {
            let length = if first.is_ascii_digit() { end(rest).unwrap_or(rest.len()) } else { first.len_utf8() };
            rest = &rest[length..];
            continue;
        }
        let (word, behind) = rest.split_at(end(rest).unwrap_or(rest.len()));
        let behind = behind.trim_start();
        rest = behind;
        if matches!(word, "by" | "without" | "on" | "ignoring") {
            // Names of labels.
            rest = behind.split_once(')').expect("it is closed").1;
        } else if !["(", "by ", "without "].iter().any(|next| behind.starts_with(next)) && !WORDS.contains(&word) {
            found.insert(word.to_owned());
        }
    }
    found
}

/// The names of all samples.
fn known() -> BTreeSet<String> {
    let names = FAMILIES.iter().flat_map(|family| match family.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"].map(|suffix| format!("{}{suffix}", family.name)).to_vec(),
        Kind::Gauge | Kind::Counter => vec![family.name.to_owned()],
    });
    names.chain(OTHERS.map(str::to_owned)).collect()
}

/// The values of a key, wherever it stands.
fn values<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match document {
        Value::Array(list) => list.iter().for_each(|value| values(value, key, found)),
        Value::Object(object) => {
            found.extend(object.get(key).and_then(Value::as_str));
            object.values().for_each(|value| values(value, key, found));
        }
        _ => {}
    }
}

#[test]
fn rules_name_metrics_that_there_are() {
    let text = shipped("prometheus/redfleet.rules.yml");
    let of = |key: &'static str| text.lines().filter_map(move |line| line.trim_start().strip_prefix(key));
    let recorded = of("- record: ").map(str::to_owned);
    let known: BTreeSet<_> = known().into_iter().chain(recorded).collect();
    let expressions: Vec<_> = of("expr: ").collect();
    assert!(expressions.len() > 20 && expressions.iter().all(|expression| !metrics(expression).is_empty()));
    for expression in expressions {
        let unknown: Vec<_> = metrics(expression).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in {expression}");
    }
}

#[test]
fn the_dashboard_names_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&shipped("grafana/redfleet.json")).expect("JSON");
    let mut expressions = Vec::new();
    values(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() > 60, "{}", expressions.len());
    let known = known();
    for expression in expressions {
        let unknown: Vec<_> = metrics(expression).difference(&known).cloned().collect();
        assert!(unknown.is_empty() && !metrics(expression).is_empty(), "{unknown:?} in {expression}");
    }
    // Each panel has a place and a number of its own.
    let panels = dashboard["panels"].as_array().expect("a list");
    let numbers: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(numbers.len(), panels.len());
    let place = |panel: &Value| ["x", "y"].map(|name| panel["gridPos"][name].as_u64());
    let places: BTreeSet<_> = panels.iter().map(place).collect();
    assert_eq!(places.len(), panels.len());
}

#[test]
fn a_metric_is_told_from_all_else() {
    let expression = r#"sum by (le) (rate(a_bucket{b="c d"}[5m])) / on (x) (e:f > 0.5e3) or vector(0) and time() - g unless h offset 5m"#;
    let expected = ["a_bucket", "e:f", "g", "h"].map(str::to_owned);
    assert_eq!(metrics(expression), BTreeSet::from(expected));
    let sound = known();
    assert!(sound.contains("redfleet_host_up") && !sound.contains("redfleet_host_upp"));
}
