//! Checks of the hosts: whether they are online, and whether their status is sound.

use std::time::Duration;

use protocol::{clock::millis, name::HostName, status::Status, time::Millis};

use super::{CLOCK_MS, Finding, Level, WRONG_CLOCK};
use crate::{
    client::{Error, Fleet, Host, shorten},
    output::{moments, summary::dropped},
};

/// A reader that has not come back from Redis for this long does not read: three of its blocking reads.
const READ_AGE: Duration = Duration::from_secs(15);
/// A host that has not been seen for this long may be gone for good.
const GONE_AFTER: Duration = Duration::from_secs(7 * 86_400);

pub async fn check(fleet: &mut Fleet) -> Result<Vec<Finding>, Error> {
    let hosts = fleet.all_hosts().await?;
    Ok(judge(&hosts, fleet.now()))
}

fn judge(hosts: &[Host], now: Millis) -> Vec<Finding> {
    let mut findings = vec![presence(hosts, now)];
    let online = hosts.iter().filter(|host| host.is_online(now));
    let online: Vec<_> = online.filter_map(|host| Some((&host.name, host.status.as_ref()?))).collect();
    if online.is_empty() {
        return findings;
    }

    // `remark`: what is out of the ordinary about a host; `level` and `meaning` are those of any such remark.
    let mut check = |name, level, sound: &str, meaning: &str, remark: fn(&Status) -> Option<String>| {
        let of_host = |(host, status): &(&HostName, &Status)| Some(format!("{host}: {}", remark(status)?));
        let remarks: Vec<_> = online.iter().filter_map(of_host).collect();
        findings.push(match &remarks[..] {
            [] => Finding::new(name, Level::Ok, sound),
            remarks => Finding::new(name, level, format!("{}; {meaning}", shorten(remarks))),
        });
    };
    check("host clocks", Level::Warning, "all agree with Redis'", WRONG_CLOCK, |status| {
        (status.clock_ahead_ms.unsigned_abs() >= CLOCK_MS).then(|| moments::offset(status.clock_ahead_ms))
    });
    check("readers", Level::Problem, "all read their inbox", "the inbox has not been read for that long", |status| {
        let age = Duration::from_millis(status.read_age_ms);
        (age > READ_AGE).then(|| moments::span(age))
    });
    check("drops", Level::Warning, "no entry was dropped", "dropped: see the audit trail of the host", |status| {
        let counts = status.dropped.iter().filter(|(_, count)| *count > 0);
        let counts: Vec<_> = counts.map(|(reason, count)| format!("{count} {}", dropped(reason))).collect();
        (!counts.is_empty()).then(|| counts.join(", "))
    });
    check(
        "refusals",
        Level::Problem,
        "no action is refused",
        "actions that may not be repeated are refused",
        |status| status.refuses.clone(),
    );
    check(
        "trust",
        Level::Problem,
        "all trust files are in order",
        "whom it obeys is not what its files say",
        |status| status.trust.clone(),
    );
    findings
}

fn presence(hosts: &[Host], now: Millis) -> Finding {
    if hosts.is_empty() {
        let message = "none has ever reported; start one: worker --redis URL --host NAME";
        return Finding::new("hosts", Level::Warning, message);
    }
    let (online, away): (Vec<&Host>, Vec<&Host>) = hosts.iter().partition(|host| host.is_online(now));
    let is_gone = |host: &&&Host| host.last_seen_ms().is_some_and(|seen| now.saturating_sub(seen) > millis(GONE_AFTER));
    let gone: Vec<_> = away.iter().filter(is_gone).map(|host| &host.name).collect();
    let gone = match &gone[..] {
        [] => String::new(),
        [name] => format!("; if {name} is gone for good: ctl host forget {name}"),
        names => format!("; {} of them have been away for over a week: ctl host forget NAME…", names.len()),
    };
    let is_stopped = |host: &&Host| host.status.as_ref().is_some_and(|status| status.stopped);
    let (stopped, offline): (Vec<_>, Vec<_>) = away.into_iter().partition(is_stopped);
    let mut parts = vec![format!("{} online", online.len())];
    if !stopped.is_empty() {
        let names: Vec<_> = stopped.iter().map(|host| &host.name).collect();
        parts.push(format!("{} stopped ({})", names.len(), shorten(&names)));
    }
    if !offline.is_empty() {
        let seen =
            |host: &Host| host.last_seen_ms().map_or_else(|| "never seen".into(), |seen| moments::ago(seen, now));
        let names: Vec<_> = offline.iter().map(|host| format!("{}: {}", host.name, seen(host))).collect();
        parts.push(format!("{} offline ({})", names.len(), shorten(&names)));
    }
    let level = if offline.is_empty() { Level::Ok } else { Level::Warning };
    Finding::new("hosts", level, parts.join(", ") + &gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_790_000_000_000;

    fn host(name: &str, status: Status) -> Host {
        let last_seen_ms = if status.last_seen_ms == 0 { NOW } else { status.last_seen_ms };
        let status = Some(Status { last_seen_ms, ..status });
        Host { name: name.parse().unwrap(), seen_ms: Some(last_seen_ms), status, actions: None, damage: None }
    }

    fn levels(hosts: &[Host]) -> Vec<(&'static str, Level)> {
        judge(hosts, NOW).into_iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn a_sound_host_raises_nothing() {
        let expected =
            ["hosts", "host clocks", "readers", "drops", "refusals", "trust"].map(|check| (check, Level::Ok));
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
        assert_eq!(found(Status { trust: Some("trust: gone".into()), ..Status::default() }), ["trust"]);
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
        assert_eq!(presence(&hosts[..2], NOW).message, "1 online, 1 stopped (web2)");
        assert_eq!(presence(&hosts[..2], NOW).level, Level::Ok);
        let message = "1 online, 1 stopped (web2), 1 offline (web3: 3 min ago)";
        assert_eq!(presence(&hosts, NOW).message, message);
        let gone = host("old", Status { last_seen_ms: NOW - 8 * 86_400_000, ..Status::default() });
        let message = "0 online, 1 offline (old: 8 days ago); if old is gone for good: ctl host forget old";
        assert_eq!(presence(&[gone], NOW).message, message);
    }

    #[test]
    fn drops_are_named_in_words() {
        let dropped = ["untrusted", "not_for_this_host", "duplicate", "unknown_version"].map(|why| (why.to_owned(), 2));
        let findings = judge(&[host("web1", Status { dropped: dropped.into(), ..Status::default() })], NOW);
        let message = &findings.iter().find(|finding| finding.check == "drops").unwrap().message;
        let expected = "2 orders to cancel that nobody with that right has signed, 2 meant for another host or namespace, \
                        2 that it had already, 2 unknown version; dropped: see the audit trail of the host";
        assert!(message.ends_with(expected), "{message}");
    }
}
