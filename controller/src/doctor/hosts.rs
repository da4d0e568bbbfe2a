//! Checks of the hosts: who is there, and whether what they say of themselves is sound.

use std::time::Duration;

use protocol::{clock::millis, status::Status, time::Millis};

use super::{Finding, server::CLOCK_MS, some};
use crate::{
    fleet::{Fleet, Host},
    moments,
};

/// A reader that has not come back from Redis for this long does not read: three of its blocking reads.
const READ_AGE: Duration = Duration::from_secs(15);

pub(super) async fn check(fleet: &mut Fleet) -> anyhow::Result<Vec<Finding>> {
    let hosts = fleet.all_hosts().await?;
    Ok(judge(&hosts, fleet.clock.now()))
}

fn judge(hosts: &[Host], now: Millis) -> Vec<Finding> {
    let mut findings = vec![presence(hosts, now)];
    let online: Vec<_> = hosts.iter().filter(|host| host.is_online(now)).collect();
    if online.is_empty() {
        return findings;
    }
    findings.extend([clocks(&online), readers(&online), drops(&online)]);
    findings.extend(refusals(&online));
    findings
}

fn presence(hosts: &[Host], now: Millis) -> Finding {
    if hosts.is_empty() {
        return Finding::warning("hosts", "none has ever been heard of; start one: worker --redis URL --host NAME");
    }
    let stopped = |host: &&Host| host.status.as_ref().is_some_and(|status| status.stopped);
    let (stopped, others): (Vec<&Host>, Vec<&Host>) = hosts.iter().partition(stopped);
    let (online, offline): (Vec<&Host>, Vec<&Host>) = others.into_iter().partition(|host| host.is_online(now));
    let mut parts = vec![format!("{} online", online.len())];
    if !stopped.is_empty() {
        let names: Vec<_> = stopped.iter().map(|host| host.name.to_string()).collect();
        parts.push(format!("{} stopped in order ({})", names.len(), some(&names)));
    }
    if offline.is_empty() {
        return Finding::ok("hosts", parts.join(", "));
    }
    let seen = |host: &&Host| {
        let ago = host.last_seen_ms().map_or_else(|| "never heard of".into(), |seen| moments::ago(seen, now));
        format!("{}: {ago}", host.name)
    };
    let names: Vec<_> = offline.iter().map(seen).collect();
    parts.push(format!("{} offline ({})", names.len(), some(&names)));
    Finding::warning("hosts", parts.join(", "))
}

fn clocks(online: &[&Host]) -> Finding {
    let ahead = |host: &&Host| status(host).clock_ahead_ms;
    let span = |ms: u64| moments::span(Duration::from_millis(ms));
    let wrong: Vec<_> = online
        .iter()
        .filter(|host| ahead(host).unsigned_abs() >= CLOCK_MS)
        .map(|host| {
            let way = if ahead(host) < 0 { "behind" } else { "ahead" };
            format!("{}: {} {way}", host.name, span(ahead(host).unsigned_abs()))
        })
        .collect();
    if wrong.is_empty() {
        let most = online.iter().map(|host| ahead(host).unsigned_abs()).max().unwrap_or(0);
        return Finding::ok("host clocks", format!("at most {} from Redis'", span(most)));
    }
    let message = format!("{}; deadlines go by Redis' clock, but times in logs will not agree", some(&wrong));
    Finding::warning("host clocks", message)
}

fn readers(online: &[&Host]) -> Finding {
    let stuck: Vec<_> = online
        .iter()
        .filter(|host| status(host).read_age_ms > millis(READ_AGE))
        .map(|host| format!("{}: {}", host.name, moments::span(Duration::from_millis(status(host).read_age_ms))))
        .collect();
    if stuck.is_empty() {
        return Finding::ok("readers", "every worker that is online reads its inbox");
    }
    Finding::problem("readers", format!("workers that live but have not read their inbox for long ({})", some(&stuck)))
}

fn drops(online: &[&Host]) -> Finding {
    let dropped = |host: &&Host| {
        let counts: Vec<_> = status(host)
            .dropped
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{count} {}", crate::style::plain(reason)))
            .collect();
        (!counts.is_empty()).then(|| format!("{}: {}", host.name, counts.join(", ")))
    };
    let dropped: Vec<_> = online.iter().filter_map(dropped).collect();
    if dropped.is_empty() {
        return Finding::ok("drops", "no worker has dropped an entry since it started");
    }
    let message = format!("entries that were no commands were dropped ({}); who writes them?", some(&dropped));
    Finding::warning("drops", message)
}

fn refusals(online: &[&Host]) -> Option<Finding> {
    let refusal = |host: &&Host| status(host).refuses.map(|reason| format!("{}: {reason}", host.name));
    let refusing: Vec<_> = online.iter().filter_map(refusal).collect();
    let message = || format!("workers that refuse actions that may not be repeated ({})", some(&refusing));
    (!refusing.is_empty()).then(|| Finding::problem("refusals", message()))
}

/// An online host has a status.
fn status(host: &Host) -> Status {
    host.status.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    const NOW: Millis = 1_790_000_000_000;

    fn host(name: &str, status: Status) -> Host {
        let last_seen_ms = if status.last_seen_ms == 0 { NOW } else { status.last_seen_ms };
        let status = Some(Status { last_seen_ms, ..status });
        Host { name: name.parse().unwrap(), seen_ms: Some(last_seen_ms), status, actions: None }
    }

    fn levels(hosts: &[Host]) -> Vec<(&'static str, Level)> {
        judge(hosts, NOW).into_iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn a_sound_host_raises_nothing() {
        let expected = ["hosts", "host clocks", "readers", "drops"].map(|check| (check, Level::Ok));
        assert_eq!(levels(&[host("web1", Status::default())]), expected);
    }

    #[test]
    fn each_trouble_is_found() {
        let found = |status: Status| {
            let of = |(check, level)| (level != Level::Ok).then_some(check);
            levels(&[host("web1", status)]).into_iter().filter_map(of).collect::<Vec<_>>()
        };
        assert_eq!(found(Status { clock_ahead_ms: -5000, ..Status::default() }), ["host clocks"]);
        assert_eq!(found(Status { read_age_ms: 20_000, ..Status::default() }), ["readers"]);
        assert_eq!(found(Status { dropped: vec![("oversize".into(), 2)], ..Status::default() }), ["drops"]);
        assert_eq!(found(Status { refuses: Some("no journal".into()), ..Status::default() }), ["refusals"]);
        assert_eq!(found(Status { last_seen_ms: NOW - 60_000, ..Status::default() }), ["hosts"]);
        assert_eq!(levels(&[]), [("hosts", Level::Warning)]);
    }

    #[test]
    fn a_host_that_stopped_in_order_is_no_trouble() {
        let hosts = [
            host("web1", Status::default()),
            host("web2", Status { stopped: true, ..Status::default() }),
            host("web3", Status { last_seen_ms: NOW - 180_000, ..Status::default() }),
        ];
        assert_eq!(presence(&hosts[..2], NOW).message, "1 online, 1 stopped in order (web2)");
        assert_eq!(presence(&hosts[..2], NOW).level, Level::Ok);
        let message = "1 online, 1 stopped in order (web2), 1 offline (web3: 3 min ago)";
        assert_eq!(presence(&hosts, NOW).message, message);
    }
}
