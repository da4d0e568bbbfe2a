//! Whoever can write to Redis can write anything there.

use std::fs;

use tests::{Raw, Redis, own_kb};

use super::{Serving, complaints, of, publish, set};

/// The most memory that a process has had for itself besides its program's files, about, in kB.
fn peak_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a figure");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn hostile_hashes_break_no_page_and_take_no_memory() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    for host in ["web1", "bad1", "bad2", "bad3", "bad4"] {
        publish(&mut raw, host);
    }
    let huge = "9".repeat(10 * 1024 * 1024);
    // Numbers that are none, and texts without an end.
    for (name, value) in [("load1", "NaN"), ("load5", "inf"), ("load15", "1e999"), ("total_tasks", &*huge)] {
        set(&mut raw, "server:{bad1}:load", &[(name, value)]);
    }
    set(&mut raw, "server:{bad1}:facts", &[("kernel", &huge), ("hostname", "a\u{7}\u{1b}[31m\nb"), ("actions", &huge)]);
    set(&mut raw, "server:{bad1}:status", &[("version", &huge), ("running", "-7"), ("ended_failed", "x")]);
    // More items than any host has, and names that would end a line.
    for chunk in (0..100_000).collect::<Vec<_>>().chunks(10_000) {
        let fields: Vec<_> = chunk.iter().map(|number| format!("total_bytes:/{number}\n\"}} 1")).collect();
        set(&mut raw, "server:{bad2}:disk", &fields.iter().map(|name| (&**name, "1000")).collect::<Vec<_>>());
        set(&mut raw, "server:{bad2}:labels", &fields.iter().map(|name| (&**name, "\\\"")).collect::<Vec<_>>());
    }
    let long = format!("total_bytes:/{huge}");
    set(&mut raw, "server:{bad3}:disk", &[(&long, "1"), ("total_bytes:/a\u{1}", "1"), ("total_bytes:/a\u{2}", "2")]);
    set(&mut raw, "server:{bad3}:labels", &[("a.b", "1"), ("a-b", "2"), ("", "3")]);
    set(
        &mut raw,
        "server:{bad3}:facts",
        &[("actions", r#"[{"name":"x:y","metrics":true},{"name":"ok","metrics":true}]"#)],
    );
    set(&mut raw, "server:{bad3}:custom:ok", &[("f\u{1}", "1"), ("f\u{2}", "2"), ("f:\u{1}", "3"), ("f:\u{2}", "4")]);
    for part in ["load", "disk", "status", "facts", "labels"] {
        raw.query::<()>(&["DEL", &format!("server:{{bad4}}:{part}")]);
        raw.query::<()>(&["SET", &format!("server:{{bad4}}:{part}"), "a string"]);
    }
    raw.query::<()>(&["ZADD", "servers", "1", "no host's name"]);

    let serving = Serving::on(&redis);
    let page = serving.page("");
    let samples = super::samples(&page);
    assert_eq!(samples[&of("node_load1", "web1")], 0.5);
    assert_eq!(samples[&of("redfleet_host_up", "bad1")], 1.0);
    assert_eq!(samples[&of("redfleet_host_up", "bad4")], 0.0);
    assert!(!samples.contains_key(&of("node_load1", "bad1")));
    let items = |host: &str, family: &str| {
        samples.keys().filter(|series| series.starts_with(&format!("{family}{{host=\"{host}\""))).count()
    };
    assert_eq!(items("bad2", "node_filesystem_size_bytes"), 128);
    assert_eq!(items("bad3", "node_filesystem_size_bytes"), 2, "one of two that cannot be told apart");
    assert!(samples["redfleet_exporter_left_out{reason=\"beyond a bound\"}"] > 99_000.0);
    assert!(samples["redfleet_exporter_left_out{reason=\"unreadable\"}"] >= 4.0);
    assert!(page.len() < 1024 * 1024, "{}", page.len());
    if let Some(complaints) = complaints(&page) {
        assert_eq!(complaints, Vec::<String>::new());
    }
    serde_json::from_str::<serde_json::Value>(&serving.get("/sd").1).expect("JSON");

    // Each page reads it all again; nothing is kept.
    let pid = serving.running.pid();
    for _ in 0..5 {
        serving.page("");
    }
    let (kept, peak) = (own_kb(pid), peak_kb(pid));
    assert!(kept < 100 * 1024, "{kept} kB");
    assert!(peak < 250 * 1024, "{peak} kB");
}
