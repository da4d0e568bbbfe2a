//! Schedulers that are killed, frozen, or lose Redis.

use std::collections::BTreeMap;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::{Aof, Redis, eventually};

use super::{Hosts, count, ended, is_settled, jobs, moment};

/// Each instant up to the last one is there once, a second behind the one before.
#[track_caller]
fn expect_all_accounted(history: &[serde_json::Value]) {
    for pair in history.windows(2) {
        assert_eq!(moment(&pair[1]) - moment(&pair[0]), 1000, "{pair:#?}");
    }
    let known = ["ran", "late", "missed: grace", "skipped: overlap", "failed to dispatch"];
    let strange: Vec<_> =
        history.iter().filter(|at| !known.contains(&at["state"].as_str().unwrap_or_default())).collect();
    assert!(strange.is_empty(), "{strange:#?}");
}

/// What has run on the hosts is what the history says: each job once on each host, and no other.
#[track_caller]
fn expect_evidence(hosts: &Hosts, history: &[serde_json::Value]) {
    let known = jobs(history);
    for host in ["web1", "web2"] {
        let mut ran: BTreeMap<String, usize> = BTreeMap::new();
        hosts.ran(host).into_iter().for_each(|job| *ran.entry(job).or_default() += 1);
        let doubles: Vec<_> = ran.iter().filter(|(_, count)| **count > 1).collect();
        assert!(doubles.is_empty(), "ran twice on {host}: {doubles:?}");
        for job in ran.keys() {
            assert!(known.contains_key(job), "{host} ran {job}, of which the history knows nothing");
        }
        for (job, instant) in known.iter().filter(|(_, instant)| instant["end"] == "succeeded") {
            assert!(ran.contains_key(job), "{host} did not run {job}: {instant}");
        }
    }
    assert_eq!(ended(history, "failed") + ended(history, "unknown"), 0, "{history:#?}");
}

#[test]
fn three_schedulers_that_are_killed_and_frozen_account_for_each_instant_once() {
    let hosts = Hosts::start(2);
    let mut schedulers: Vec<_> = (0..3).map(|number| hosts.serve(&format!("s{number}"))).collect();
    hosts.add("--every 1s --grace 30s --late --overlap allow", &hosts.script());
    let mut frozen: Option<usize> = None;
    for round in 0..16 {
        let ran = hosts.ran("web1").len();
        eventually("another run", || (hosts.ran("web1").len() > ran).then_some(()));
        let victim = fastrand::usize(..3);
        let pid = |victim: usize| Pid::from_raw(i32::try_from(schedulers[victim].pid()).expect("a process id"));
        match frozen.take() {
            Some(sleeper) => kill(pid(sleeper), Signal::SIGCONT).expect("a process"),
            None if round % 3 == 2 => {
                kill(pid(victim), Signal::SIGSTOP).expect("a process");
                frozen = Some(victim);
                continue;
            }
            None => {}
        }
        assert!(schedulers[victim].kill9(), "it was alive");
        schedulers[victim] = hosts.serve(&format!("s{victim}r{round}"));
    }
    hosts.ctl.run(["schedule", "pause", "tidy"]).expect(0);
    // Runs of those that were killed are taken over.
    let history = hosts.wait("all runs to end", |history| history.iter().all(is_settled));
    assert!(count(&history, "ran") + count(&history, "late") >= 16, "{history:#?}");
    expect_all_accounted(&history);
    expect_evidence(&hosts, &history);
}

#[test]
fn a_scheduler_goes_on_when_redis_comes_back() {
    let mut hosts = Hosts::with(2, Redis::options().aof(Aof::Always).start());
    let one = hosts.serve("one");
    hosts.add("--every 1s --grace 30s --late --overlap allow", &hosts.script());
    hosts.wait("a run", |history| ended(history, "succeeded") > 0);
    hosts.redis.restart();
    let before = hosts.ran("web1").len();
    eventually("runs after the restart", || (hosts.ran("web1").len() > before + 2).then_some(()));
    hosts.ctl.run(["schedule", "pause", "tidy"]).expect(0);
    let history = hosts.wait("all runs to end", |history| history.iter().all(is_settled));
    expect_all_accounted(&history);
    expect_evidence(&hosts, &history);
    drop(one);
}

#[test]
fn a_scheduler_that_is_told_to_stop_does() {
    let hosts = Hosts::start(1);
    let one = hosts.serve("one");
    kill(Pid::from_raw(i32::try_from(one.pid()).expect("a process id")), Signal::SIGTERM).expect("a process");
    let output = one.wait().expect(0);
    assert!(output.stderr.ends_with("one: ended\n"), "{output}");
}
