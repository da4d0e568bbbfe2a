//! A fleet to draw in tests.

use std::collections::BTreeMap;

use protocol::{job::JobHeadline, name::JobId, outcome::State, status::Status};
use serde_json::json;

use crate::client::{Figure, Figures, Host, Overview, RecentJob, Vitals};

/// The moment of the sample.
pub const NOW: u64 = 1_795_000_000_000;

fn vitals(name: &str, running: u64, seen_ago: u64, figures: Figures) -> Vitals {
    let status = Status {
        last_seen_ms: NOW - seen_ago,
        started_at_ms: NOW - 180_000,
        running,
        slots: 4,
        version: "0.1.0".into(),
        ..Status::default()
    };
    let host = Host {
        name: name.parse().unwrap(),
        seen_ms: Some(NOW - seen_ago),
        status: Some(status),
        actions: None,
        damage: None,
    };
    Vitals { host, figures }
}

/// Five hosts: three with figures, one whose figures are old and whose version is hostile, one offline.
pub fn overview() -> Overview {
    use Figure::{Known, Missing, Old};
    let uptime = Known(5.0 * 86_400.0);
    let web1 = Figures {
        cpu: Known(45.1),
        memory: Known(30.0),
        load: [Known(0.5), Known(0.4), Known(0.3)],
        disk: Known(91.0),
        uptime,
    };
    let web2 = Figures {
        cpu: Known(99.5),
        memory: Known(12.0),
        load: [Known(12.0), Missing, Missing],
        uptime,
        ..Figures::default()
    };
    let db1 = Figures { cpu: Known(3.0), memory: Known(77.0), ..web1 };
    let mut old1 = vitals("old1", 1, 1000, Figures { cpu: Old, memory: Old, ..Figures::default() });
    if let Some(status) = &mut old1.host.status {
        status.version = "\u{1b}[2J".into();
        status.refuses = Some("its disk is full".into());
    }
    let dead1 = vitals("dead1", 3, 180_000, Figures { cpu: Old, ..Figures::default() });
    let hosts =
        vec![vitals("db1", 1, 1000, db1), dead1, old1, vitals("web1", 2, 0, web1), vitals("web2", 0, 2000, web2)];
    Overview { now: NOW, considered: hosts.len(), hosts, jobs: vec![job()], ..Overview::default() }
}

/// A job whose texts are hostile.
fn job() -> RecentJob {
    let headline = JobHeadline {
        action: "exec".into(),
        operator: "ann@desk\u{1b}]0;x\u{7}".into(),
        issued_at_ms: NOW - 12_000,
        start_by_ms: NOW + 60_000,
        target_count: 5,
        arguments: json!({ "argv": ["sleep", "\u{202e}9"] }).as_object().cloned().unwrap(),
        proposed: None,
    };
    RecentJob {
        id: JobId::new(),
        headline: Some(headline),
        states: BTreeMap::from([(State::Queued, 1), (State::Running, 3), (State::Succeeded, 1)]),
        cancel_ordered: 0,
        proposal: None,
        damage: None,
    }
}
