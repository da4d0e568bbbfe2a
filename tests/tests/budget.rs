//! The memory budget of the optimised worker. `make test` builds that worker and then runs these tests.

use std::path::PathBuf;

use protocol::outcome::State;
use tests::{Ctl, Raw, Redis, Served, Worker, eventually, optimised, optimised_static, own_kb, supervisor};

/// Resident memory in kB (units of 1024 bytes, as the kernel counts) of an idle worker that has executed one
/// command of each kind.
fn idle_kb(worker: PathBuf) -> u64 {
    let redis = Redis::start();
    let worker = Worker::on(&redis).program(worker).config("sample_interval = '1s'").allow_exec().start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    for action in ["ping", "collect-all", "collect-processes", "collect-facts"] {
        let manifest = raw.manifest(&["web1"], action);
        assert_eq!(raw.run("web1", &manifest).state, State::Succeeded, "{action}");
    }
    let program = raw.shell("web1", "seq 1 1000");
    assert_eq!(raw.run("web1", &program).state, State::Succeeded);
    let sampled_at = |raw: &mut Raw| -> String { raw.query(&["HGET", "server:{web1}:disk", "sampled_at"]) };
    for _ in 0..2 {
        let before = sampled_at(&mut raw);
        eventually("the next sample", || (sampled_at(&mut raw) != before).then_some(()));
    }
    worker.rss_kb()
}

/// The memory in kB that a supervisor has for itself, after it has restarted its service ten times and written its log
/// full. The pages of its program are those of the worker.
fn supervisor_kb(worker: PathBuf) -> u64 {
    let redis = Redis::start();
    let served = Served::new("web");
    let settings = served.settings("settle = '10ms'");
    let allow = "[actions]\nallow = ['start', 'restart']";
    let worker = Worker::on(&redis).program(worker).config(allow).config(&settings).start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    let run = |action: &str| ctl.run(["run", "--host", "web1", action, "service=web"]).expect(0);
    run("start");
    (0..10).for_each(|_| drop(run("restart")));
    served.behave("loud 100000");
    run("restart");
    let supervisor = supervisor(&served.supervised_in(&worker.options())).expect("a supervisor");
    own_kb(supervisor)
}

/// By how many kB a worker grows during 2000 pings.
fn growth_kb(worker: PathBuf) -> u64 {
    let redis = Redis::start();
    let worker = Worker::on(&redis).program(worker).start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    let ping = |raw: &mut Raw, count| (0..count).for_each(|_| raw.ping("web1"));
    // The first rounds fill caches that do not grow later.
    ping(&mut raw, 200);
    let before = worker.rss_kb();
    ping(&mut raw, 2000);
    worker.rss_kb().saturating_sub(before)
}

/// By how many kB a worker grows in 500 rounds of mixed load: programs, copies of known commands, orders to cancel
/// unknown jobs, and broken connections.
fn growth_under_mixed_load_kb(worker: PathBuf) -> u64 {
    let redis = Redis::start();
    let worker = Worker::on(&redis).program(worker).allow_exec().start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    let rounds = |raw: &mut Raw, count| {
        for number in 0..count {
            let (program, ping) = (raw.shell("web1", "seq 1 1000"), raw.manifest(&["web1"], "ping"));
            for manifest in [&program, &ping, &program, &ping] {
                raw.send("web1", manifest);
            }
            raw.cancel("web1", &Raw::unsent());
            if number % 10 == 0 {
                let _: u64 = raw.query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            }
            raw.wait_all("web1", &[program, ping]);
        }
    };
    // The first rounds fill caches that do not grow later.
    rounds(&mut raw, 100);
    let before = worker.rss_kb();
    rounds(&mut raw, 500);
    raw.wait_settled("web1");
    worker.rss_kb().saturating_sub(before)
}

#[track_caller]
fn assert_at_most(figure: u64, limit: u64, what: &str) {
    println!("{what}: {figure} kB, at most {limit} kB");
    assert!(figure <= limit, "{what}: {figure} kB, more than {limit} kB");
}

/// Tenths of a megabyte (10^6 bytes) in kB (1024 bytes).
const fn tenths(count: u64) -> u64 {
    count * 100_000 / 1024
}

/// Megabytes in kB.
const fn megabytes(count: u64) -> u64 {
    tenths(10 * count)
}

#[test]
#[ignore = "needs the optimised build (make test makes it)"]
fn idles_within_10_megabytes() {
    assert_at_most(idle_kb(optimised("worker")), megabytes(10), "an idle worker");
}

#[test]
#[ignore = "needs the optimised build (make test makes it)"]
fn does_not_grow() {
    assert_at_most(growth_kb(optimised("worker")), 512, "growth over 2000 pings");
}

#[test]
#[ignore = "needs the optimised build (make test makes it)"]
fn does_not_grow_under_mixed_load() {
    assert_at_most(
        growth_under_mixed_load_kb(optimised("worker")),
        512,
        "growth over 500 programs, copies and cancels",
    );
}

#[test]
#[ignore = "needs the optimised static build (make test makes it)"]
fn static_idles_within_6_5_megabytes() {
    assert_at_most(idle_kb(optimised_static("worker")), tenths(65), "an idle static worker");
}

#[test]
#[ignore = "needs the optimised static build (make test makes it)"]
fn static_does_not_grow() {
    assert_at_most(growth_kb(optimised_static("worker")), 512, "growth over 2000 pings, static");
}

#[test]
#[ignore = "needs the optimised build (make test makes it)"]
fn a_supervisor_is_small() {
    assert_at_most(supervisor_kb(optimised("worker")), megabytes(2), "a supervisor alone");
}

#[test]
#[ignore = "needs the optimised static build (make test makes it)"]
fn static_supervisor_is_small() {
    assert_at_most(supervisor_kb(optimised_static("worker")), megabytes(2), "a supervisor alone, static");
}
