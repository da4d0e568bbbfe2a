//! Waves follow one another, and stop in time.

use tests::{Ctl, Signatory};

use super::Hosts;

#[test]
fn hosts_are_reached_in_waves_and_each_once() {
    let hosts = Hosts::start(5);
    let output = hosts.run("--canary 1 --batch 2").expect(0);
    hosts.expect_once(1..=5);
    let lines = |begin: &str| output.stderr.lines().filter(|line| line.starts_with(begin)).count();
    let foretold = "5 hosts in 3 waves, 1 first, then 2 at a time; it stops at the first failure: at most 2 can fail";
    assert_eq!(lines(foretold), 1, "{output}");
    for wave in ["wave 1 of 3: web1", "wave 2 of 3: web[2,3]", "wave 3 of 3: web[4,5]"] {
        assert_eq!(lines(wave), 1, "{output}");
    }
    assert!(output.stderr.contains("5 hosts: 5 succeeded"), "{output}");
    // One job for each wave: what is not signed yet cannot be sent by whoever can write to Redis.
    let jobs = hosts.ctl.run(["job", "list", "-o", "json"]).expect(0).json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(3), "{jobs}");
}

#[test]
fn a_run_stops_once_more_have_failed_than_may() {
    let hosts = Hosts::start(6);
    for host in ["web1", "web3"] {
        hosts.fail(host);
    }
    let output = hosts.run("--batch 2 --max-fail 1").expect(2);
    hosts.expect_once(1..=4);
    assert!(output.stderr.contains("at most 3 can fail (1 + 2 in flight)"), "{output}");
    assert!(output.stderr.contains("stopped after wave 2 of 3: 2 failed, more than the 1 that may"), "{output}");
    assert!(output.stderr.contains("not reached: web[5,6]"), "{output}");
    assert!(output.stderr.contains("ctl job resume "), "{output}");
    // Failures of several waves count together.
    let output = hosts.run("--batch 1 --max-fail 50%").expect(2);
    assert!(output.stderr.contains("6 hosts: 4 succeeded, 2 failed"), "{output}");
}

#[test]
fn a_host_that_is_offline_is_sent_nothing_and_counts_as_failed() {
    let mut hosts = Hosts::start(3);
    hosts.workers[1].terminate();
    let output = hosts.run("--batch 1").expect(4);
    hosts.expect_once([1]);
    assert!(output.stderr.contains("web2: offline, and sent nothing: counts as failed"), "{output}");
    assert!(output.stderr.contains("not reached: web3"), "{output}");
    let output = hosts.run("--batch 1 --max-fail 1").expect(4);
    assert!(output.stderr.contains("3 hosts: 2 succeeded, 1 offline"), "{output}");
    hosts.workers[1] = hosts.workers[1].options().start();
    hosts.workers[1].wait_online();
    hosts.ctl.run(["run", "--host", "web2", "ping"]).expect(0);
    assert_eq!(hosts.ran().get("web2"), None, "nothing was queued for it");
}

#[test]
fn a_run_is_aborted_by_what_hosts_report() {
    let hosts = Hosts::start(3);
    let output = hosts.ctl.run(["run", "--all", "--batch", "1", "--abort-if", "label.bad = yes", "ping"]).expect(0);
    assert!(output.stderr.contains("3 hosts: 3 succeeded"), "{output}");
    let output = hosts.ctl.run(["run", "--all", "--batch", "1", "--abort-if", "cores > 0", "ping"]).expect(4);
    assert!(output.stderr.contains("stopped after wave 1 of 3: cores > 0 holds for web1"), "{output}");
    // What is not known is no reason to go on.
    let output = hosts.ctl.run(["run", "--all", "--batch", "1", "--abort-if", "fact.x > 0", "ping"]).expect(4);
    assert!(output.stderr.contains("whether fact.x > 0 holds for web1 is not known: it has no fact.x"), "{output}");
    let output = hosts.ctl.run(["run", "--all", "--batch", "1", "--abort-if", "cores >> 0", "ping"]).expect(64);
    assert!(output.stderr.contains('^'), "{output}");
}

#[test]
fn flags_that_do_not_fit_are_refused() {
    let ctl = Ctl::alone();
    for (flags, reason) in [
        ("--batch 0", "neither a number of hosts"),
        ("--batch 2 --max-fail x", "such as 0 or 3"),
        ("--batch 2 --detach", "cannot be used with"),
        ("--batch 2 --propose", "cannot be used with"),
        ("--batch 2 --max-fail 1 --fail-fast", "cannot be used with"),
    ] {
        let words = ["run", "--all"].into_iter().chain(flags.split(' ')).chain(["ping"]);
        let output = ctl.run(words).expect(64);
        assert!(output.stderr.contains(reason), "{flags}: {output}");
    }
    let hosts = Hosts::start(1);
    let output = hosts.run("--max-fail 3").expect(1);
    assert!(output.stderr.contains("--max-fail is for hosts that are reached in waves"), "{output}");
    assert!(hosts.ran().is_empty());
}

#[test]
fn one_document_has_all_waves() {
    let hosts = Hosts::start(3);
    hosts.fail("web2");
    let whole = hosts.run("--batch 1 -o json").expect(2).json();
    assert_eq!(whole["waves"].as_array().map(Vec::len), Some(2), "{whole}");
    assert_eq!(whole["waves"][1]["hosts"][0]["state"], "failed", "{whole}");
    assert_eq!((&whole["not_reached"][0], &whole["stopped"]), (&"web3".into(), &"1 failed".into()), "{whole}");
    assert_eq!(whole["summary"]["states"]["succeeded"], 1, "{whole}");
    let output = hosts.run("--batch 1 --max-fail 1 -o jsonl").expect(2);
    let lines: Vec<serde_json::Value> =
        output.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let events = lines.iter().filter(|line| line["event"] == "result").count();
    assert_eq!((events, lines.len()), (3, 4), "{output}");
    assert!(lines[3]["stopped"].is_null() && lines[3]["rollout"].is_string(), "{output}");
}

#[test]
fn ctrl_c_ends_a_run_between_its_waves() {
    let hosts = Hosts::start(2);
    let running = hosts.spawn("--batch 1 --batch-wait 1h");
    running.wait_stderr("wave 1 of 2");
    tests::eventually("the first host", || (hosts.ran().len() == 1).then_some(()));
    // Its result has been printed: now it waits.
    running.wait_stderr("web1: succeeded");
    running.interrupt();
    let output = running.wait().expect(4);
    assert!(output.stderr.contains("stopped after wave 1 of 2: interrupted"), "{output}");
    hosts.expect_once([1]);
    hosts.elsewhere().run(["job", "resume", "last"]).expect(0);
    hosts.expect_once([1, 2]);
}

#[test]
fn what_the_first_hosts_refuse_goes_no_further() {
    let hosts = Hosts::start(2);
    // A key that no host trusts: the canary refuses it, and nothing else is sent.
    let stranger = Ctl::on(&hosts.redis).with_key(&Signatory::new(7));
    let output = stranger.run(hosts.words("--canary 1")).expect(2);
    assert!(output.stderr.contains("not reached: web2"), "{output}");
    assert!(hosts.ran().is_empty());
}
