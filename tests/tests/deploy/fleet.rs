//! Many hosts, one of which cannot take the release.

use tests::{Ctl, Redis};

use super::{Host, release};

/// Hosts.
const HOSTS: usize = 30;

#[test]
fn of_thirty_hosts_the_one_that_fails_is_named_with_its_log_and_what_runs_there() {
    let redis = Redis::start();
    let hosts: Vec<_> = (1..=HOSTS).map(|number| Host::start(&format!("web{number}"), "", &redis)).collect();
    let ctl = Ctl::on(&redis);
    let first = release(&ctl, "1", "");
    let words = |version: &'static str, from: &std::path::Path| {
        let from = from.to_str().expect("text").to_owned();
        ["deploy", "web", "--version", version, "--from", &from, "web*"].map(str::to_owned)
    };
    let output = ctl.run(words("1", &first)).expect(0);
    assert!(output.stdout.contains("web[1-30]  deployed  1"), "{output}");
    assert!(output.stderr.contains("30 hosts: 30 succeeded (30 changed)"), "{output}");

    // Healthy on all hosts but one: where it listens at that port.
    let bad = &hosts[16];
    let second = release(&ctl, "2", &format!("turns {}", bad.served.address.port()));
    let output = ctl.run(words("2", &second)).expect(2);
    println!("{output}");
    let trouble: Vec<_> = output.stderr.lines().filter(|line| line.starts_with("web17")).collect();
    assert!(trouble.first().is_some_and(|line| line.starts_with("web17: failed: version 2 failed")), "{output}");
    assert!(trouble[0].contains("/health: status 500") && trouble[0].contains("rolled back to 1"), "{output}");
    assert!(trouble.contains(&"web17 | turns sick"), "{output}");
    assert!(trouble.last().is_some_and(|line| line.starts_with("web17: version 1 runs there now")), "{output}");
    assert!(output.stdout.contains("2        1"), "{output}");
    assert!(output.stderr.contains("30 hosts: 29 succeeded, 1 failed (29 changed, 1 unchanged)"), "{output}");
    for host in &hosts {
        assert_eq!(host.answers(), if std::ptr::eq(host, bad) { "1" } else { "2" });
    }

    let status = ctl.run(["deploy", "status", "web", "web*"]).expect(0);
    let rows: Vec<Vec<_>> = status.stdout.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), HOSTS);
    assert!(rows.iter().all(|row| row[1] == if row[0] == "web17" { "1" } else { "2" }), "{status}");
}

#[test]
fn in_waves_a_bad_release_reaches_no_more_than_the_first_hosts() {
    let redis = Redis::start();
    let hosts: Vec<_> = (1..=4).map(|number| Host::start(&format!("web{number}"), "", &redis)).collect();
    let ctl = Ctl::on(&redis);
    let deploy = |version: &str, behaviour: &str| {
        let from = release(&ctl, version, behaviour);
        let from = from.to_str().expect("text").to_owned();
        ctl.run(["deploy", "web", "--version", version, "--from", &from, "--canary", "1", "--batch", "2", "web*"])
    };
    let output = deploy("1", "").expect(0);
    assert!(output.stderr.contains("4 hosts: 4 succeeded"), "{output}");

    let output = deploy("2", "sick").expect(2);
    assert!(output.stderr.contains("stopped after wave 1 of 3: 1 failed"), "{output}");
    assert!(output.stderr.contains("not reached: web[2-4]"), "{output}");
    assert!(hosts.iter().all(|host| host.answers() == "1"), "{output}");
    assert!(!hosts[1].has("2"), "no other host has even fetched it");
    let again = ctl.run(["job", "resume", "last"]).expect(1);
    assert!(again.stderr.contains("give that command again, on web[1-4]"), "{again}");
    let content = redis.cli(["--scan", "--pattern", "artifact:*"]);
    assert_eq!(content.trim(), "", "nobody needs it any more");
}
