//! Several commands at once: as many as there are slots. None is lost, none runs twice.

use std::time::{Duration, Instant};

use protocol::{command::Manifest, outcome::State};
use tests::{Evidence, Gate, Raw, Redis, Worker, eventually};

fn fleet(slots: usize) -> (Redis, Worker, Raw) {
    let redis = Redis::start();
    let worker = Worker::on(&redis).config(&format!("slots = {slots}\nreserved = 0")).allow_exec().start();
    let raw = Raw::on(&redis);
    (redis, worker, raw)
}

#[test]
fn two_commands_run_at_once() {
    let (redis, _worker, mut raw) = fleet(2);
    // Each program goes on only when the other one has come.
    let gates = ["left", "right"].map(|name| Gate::new(&redis, name));
    let path = |name: &str| redis.directory().join(name).display().to_string();
    let (left, right) = (path("left"), path("right"));
    let scripts = [format!("echo > {left}; read _ < {right}"), format!("read _ < {left}; echo > {right}")];
    let manifests = scripts.map(|script| raw.shell("web1", &script));
    for manifest in &manifests {
        raw.send("web1", manifest);
    }
    for manifest in &manifests {
        assert_eq!(raw.outcome("web1", manifest).state, State::Succeeded);
    }
    drop(gates);
}

#[test]
fn a_worker_takes_only_what_it_can_start_and_the_rest_follows() {
    let (redis, _worker, mut raw) = fleet(2);
    let evidence = Evidence::new(&redis, "evidence");
    let mut gates: Vec<_> = (0..6).map(|number| Gate::new(&redis, &format!("gate{number}"))).collect();
    let manifests: Vec<_> =
        gates.iter().map(|gate| raw.shell("web1", &format!("{}; {}", evidence.script(), gate.script()))).collect();
    for manifest in &manifests {
        raw.send("web1", manifest);
    }
    for (number, gate) in gates.iter_mut().enumerate() {
        gate.reached();
        // They run in the order of their dispatch. The next one runs too; the one behind it is not even delivered.
        let pending = (6 - number).min(2) as u64;
        eventually("two to run", || {
            (evidence.count() == (number + 2).min(6) && raw.pending("web1") == pending).then_some(())
        });
        gate.open();
        assert_eq!(raw.outcome("web1", &manifests[number]).state, State::Succeeded);
    }
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 6);
}

#[test]
fn a_free_slot_is_used_at_once() {
    let (redis, worker, mut raw) = fleet(1);
    worker.wait_online();
    let evidence = Evidence::new(&redis, "evidence");
    // If the worker noticed a free slot only when its blocking read ends by itself (5 s), all these together would
    // exceed the test's deadline by far.
    let manifests: Vec<_> = (0..40).map(|_| raw.shell("web1", &evidence.script())).collect();
    for manifest in &manifests {
        raw.send("web1", manifest);
    }
    raw.wait_all("web1", &manifests);
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 40);
}

#[test]
fn control_is_read_while_all_slots_are_busy() {
    let (redis, _worker, mut raw) = fleet(1);
    let mut gate = Gate::new(&redis, "gate");
    let manifest = raw.shell("web1", &gate.script());
    raw.send("web1", &manifest);
    gate.reached();
    raw.cancel("web1", &manifest);
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!((outcome.state, outcome.exit_code), (State::Cancelled, None));
    eventually("the control stream to be emptied", || {
        (raw.query::<u64>(&["XLEN", "server:{web1}:control"]) == 0).then_some(())
    });
    raw.ping("web1");
}

#[test]
fn a_second_entry_of_a_job_that_runs_is_dropped() {
    let (redis, _worker, mut raw) = fleet(4);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    // A copy, and another command under the same id.
    raw.send("web1", &manifest);
    let other = Manifest { job: manifest.job, ..raw.shell("web1", &evidence.script()) };
    raw.send("web1", &other);
    raw.wait_dropped("web1", "duplicate", 2);
    assert_eq!(raw.queued("web1"), 1, "the copies are gone, the first is still there");
    gate.open();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
    assert_eq!(raw.states(&manifest), [State::Running, State::Succeeded]);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn two_entries_of_a_job_in_one_read_run_once() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    raw.send("web1", &manifest);
    raw.send("web1", &manifest);
    let _worker = Worker::on(&redis).config("slots = 4").allow_exec().start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
    raw.wait_dropped("web1", "duplicate", 1);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_job_for_many_hosts_runs_once_on_each() {
    let redis = Redis::start();
    let names: Vec<String> = (0..5).map(|number| format!("web{number}")).collect();
    let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
    let workers: Vec<_> = hosts.iter().map(|host| Worker::on(&redis).host(host).allow_exec().start()).collect();
    let mut raw = Raw::on(&redis);
    let evidence = Evidence::new(&redis, "evidence");
    let argv = ["sh", "-c", &evidence.script()];
    let manifest = raw.exec(&hosts, &argv);
    for host in &hosts {
        let others = hosts.iter().copied().filter(|other| other != host);
        let targets: Vec<&str> = std::iter::once(*host).chain(others).collect();
        raw.add(host, &Raw::envelope(&manifest, &targets).fields());
    }
    for host in &hosts {
        assert_eq!(raw.outcome(host, &manifest).state, State::Succeeded);
    }
    assert_eq!(evidence.count(), 5);
    drop(workers);
}

#[test]
fn the_status_shows_soon_how_many_commands_run() {
    let (redis, worker, mut raw) = fleet(2);
    worker.wait_online();
    let begun = Instant::now();
    let shows = |running: u64| {
        let shown = || (worker.status()?.running == running).then_some(());
        eventually(&format!("{running} to run according to the status"), shown);
    };
    for round in 0..4 {
        let mut gate = Gate::new(&redis, &format!("gate{round}"));
        let manifest = raw.shell("web1", &gate.script());
        raw.send("web1", &manifest);
        gate.reached();
        shows(1);
        gate.open();
        shows(0);
    }
    // By the heartbeats alone, eight changes take some 20 s.
    assert!(begun.elapsed() < Duration::from_secs(15), "after {:?}", begun.elapsed());
}
