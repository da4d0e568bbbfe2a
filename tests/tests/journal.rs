//! The journal: what a worker knows of earlier commands after a restart, and what it refuses without a journal.

use std::fs::{self, OpenOptions};

use protocol::{
    command::Manifest,
    keys::Keys,
    outcome::{Outcome, State},
};
use tests::{
    Aof, Ctl, Evidence, Gate, Raw, Redis, Worker, WorkerOptions, chaos_worker, eventually, fill, fleet, is_alive,
};

/// Waits until the worker's status says why it refuses once actions; returns the reason.
#[track_caller]
fn refusal(worker: &Worker) -> String {
    eventually("the worker to report that it refuses once actions", || worker.status()?.refuses)
}

/// Outcome, status and `ctl doctor` say why programs are refused, and everything else goes on.
#[track_caller]
fn refuses(redis: &Redis, worker: &Worker, reason: &str) {
    let (ctl, evidence) = (Ctl::on(redis), Evidence::new(redis, "refused"));
    let exec = ctl.run(["run", "--host", "web1", "exec", "--", "sh", "-c", &evidence.script()]).expect(2);
    assert!(exec.stderr.contains("web1: rejected: 'exec' must not run twice, and the journal "), "{exec}");
    assert!(exec.stderr.contains(reason), "{exec}");
    for action in ["ping", "collect-cpu"] {
        ctl.run(["run", "--host", "web1", action]).expect(0);
    }
    let refusal = refusal(worker);
    assert!(refusal.contains("web1.journal") && refusal.contains(reason), "{refusal}");
    let doctor = ctl.run(["doctor"]).expect(2);
    assert!(doctor.stdout.contains(&format!("web1: {refusal}")), "{doctor}");
    assert_eq!(evidence.count(), 0);
}

/// The worker stops refusing, without a restart.
#[track_caller]
fn recovers(redis: &Redis, worker: &Worker) {
    eventually("the worker to refuse nothing", || worker.status()?.refuses.is_none().then_some(()));
    let (ctl, evidence) = (Ctl::on(redis), Evidence::new(redis, "recovered"));
    ctl.run(["run", "--host", "web1", "exec", "--", "sh", "-c", &evidence.script()]).expect(0);
    assert_eq!(evidence.count(), 1);
}

/// A copy of a command that Redis has lost gets the outcome that was recorded.
#[track_caller]
fn republishes(redis: &Redis, raw: &mut Raw, manifest: &Manifest, outcome: &Outcome) {
    redis.cli(["FLUSHALL"]);
    raw.send("web1", manifest);
    assert_eq!(raw.outcome("web1", manifest), *outcome);
    raw.wait_settled("web1");
}

#[test]
fn a_program_that_died_with_its_worker_is_interrupted_and_the_next_command_runs_at_once() {
    let (redis, mut worker, _) = fleet();
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let ctl = Ctl::on(&redis);
    let job = ctl.dispatch("web1", &format!("{}; {}; {}", evidence.script(), gate.script(), evidence.script()));
    gate.reached();
    worker.kill9();

    let _worker = worker.options().start();
    ctl.run(["run", "--host", "web1", "exec", "--", "true"]).expect(0);
    assert_eq!(ctl.host_states(&job), [("web1".into(), "interrupted".into())]);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn processes_of_a_dead_worker_are_ended_by_the_next_one() {
    let (redis, mut worker, mut raw) = fleet();
    let (pids, mut gate) = (redis.directory().join("pids"), Gate::new(&redis, "gate"));
    // The program itself, a child, and a child that has left the process group.
    let script = format!("sleep 1000 & first=$!; setsid sleep 1000 & echo $$ $first $! > '{}'", pids.display());
    let manifest = raw.shell("web1", &format!("{script}; {}", gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    worker.kill9();
    let pids = fs::read_to_string(pids).expect("their pids");
    let pids: Vec<u32> = pids.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect();
    assert!(pids.len() == 3 && pids.iter().all(|pid| is_alive(*pid)));

    let _worker = worker.options().start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Interrupted);
    eventually("all of them to be gone", || (!pids.iter().any(|pid| is_alive(*pid))).then_some(()));
}

#[test]
fn an_outcome_of_a_redis_outage_is_published_even_by_the_next_process() {
    for aof in [Aof::Always, Aof::Off] {
        let mut redis = Redis::options().aof(aof).start();
        let mut worker = Worker::on(&redis).allow_exec().start();
        let mut raw = Raw::on(&redis);
        let evidence = Evidence::new(&redis, "evidence");
        let mut gates: Vec<_> = (0..3).map(|number| Gate::new(&redis, &format!("gate{number}"))).collect();
        let mut run = |gate: &mut Gate| {
            let manifest = raw.shell("web1", &format!("{}; {}; echo done", evidence.script(), gate.script()));
            raw.send("web1", &manifest);
            gate.reached();
            manifest
        };
        let manifests: Vec<_> = gates.iter_mut().map(&mut run).collect();
        redis.kill9();
        worker.wait_log("is away");
        for (number, gate) in gates.iter_mut().enumerate() {
            gate.open();
            eventually("the end", || (worker.log().matches("succeeded in ").count() == number + 1).then_some(()));
        }
        worker.kill9();
        redis.restart();

        let _worker = worker.options().start();
        let mut raw = Raw::on(&redis);
        for manifest in &manifests {
            let outcome = raw.outcome("web1", manifest);
            assert_eq!((outcome.state, &*outcome.stdout.kept), (State::Succeeded, &b"done\n"[..]), "{aof:?}");
            assert_eq!(raw.states(manifest).iter().filter(|state| state.is_terminal()).count(), 1, "{aof:?}");
        }
        raw.ping("web1");
        raw.wait_settled("web1");
        assert_eq!(evidence.count(), 3, "{aof:?}");
    }
}

#[test]
fn a_finished_command_that_comes_again_never_runs_again() {
    let (redis, mut worker, mut raw) = fleet();
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &format!("{}; echo $$; exit 3", evidence.script()));
    let outcome = raw.run("web1", &manifest);
    for restarted in [false, true] {
        if restarted {
            worker.kill9();
            worker = worker.options().start();
        }
        raw.wait_settled("web1");
        raw.send("web1", &manifest);
        raw.wait_settled("web1");
        assert_eq!(raw.outcome("web1", &manifest), outcome);
        assert_eq!(raw.states(&manifest), [State::Running, State::Failed], "no state is reported twice");
    }
    // Redis has lost the outcome, but the journal has it: the worker publishes the same outcome again.
    for restarted in [false, true] {
        if restarted {
            worker.kill9();
            worker = worker.options().start();
        }
        republishes(&redis, &mut raw, &manifest, &outcome);
        assert_eq!(raw.states(&manifest), [State::Failed]);
    }
    assert_eq!(evidence.count(), 1);
}

#[test]
fn an_interrupted_command_that_comes_again_stays_interrupted() {
    let (redis, mut worker, mut raw) = fleet();
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    worker.kill9();
    redis.cli(["FLUSHALL"]);
    let _worker = worker.options().start();
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!(outcome.state, State::Interrupted);
    republishes(&redis, &mut raw, &manifest, &outcome);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_damaged_journal_is_reported_and_only_once_actions_are_refused() {
    let redis = Redis::start();
    let options = Worker::on(&redis).allow_exec();
    let state = options.directory().join("state");
    fs::create_dir(&state).expect("a directory");
    fs::write(state.join("web1.journal"), vec![0x5a; 10_000]).expect("a file");
    let worker = options.start();
    worker.wait_online();
    refuses(&redis, &worker, "web1.journal");
    // Once the damaged journal is removed, the worker starts a new one.
    fs::remove_file(state.join("web1.journal")).expect("a file");
    recovers(&redis, &worker);
}

#[test]
fn a_torn_journal_never_lets_a_program_run_twice() {
    for kept in [0, 100, 5000, 100_000] {
        let (redis, mut worker, mut raw) = fleet();
        let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
        let manifest = raw.shell("web1", &format!("{}; {}", evidence.script(), gate.script()));
        raw.send("web1", &manifest);
        gate.reached();
        worker.kill9();
        let path = worker.options().directory().join("state/web1.journal");
        OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(kept)).expect("a journal");

        let worker = worker.options().start();
        let outcome = raw.outcome("web1", &manifest);
        assert_eq!(outcome.state, State::Interrupted, "{outcome:?}");
        raw.ping("web1");
        raw.wait_settled("web1");
        assert_eq!(evidence.count(), 1);
        refusal(&worker);
    }
}

#[test]
fn a_lost_journal_never_lets_a_program_run_twice() {
    let (redis, mut worker, mut raw) = fleet();
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let script = format!("{}; {}; {}", evidence.script(), gate.script(), evidence.script());
    let manifest = raw.shell("web1", &script);
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    worker.kill9();
    // Only the pending entry is left. It shows that the command was delivered, not how far it came.
    let path = worker.options().directory().join("state/web1.journal");
    fs::remove_file(&path).expect("a journal");
    let _: u64 = raw.query(&["HDEL", &Keys::new(None).job_hosts(manifest.job), "web1"]);
    assert_eq!(raw.pending("web1"), 1);
    // The worker reads the order to cancel first. That must not make the command one that never started.
    let job = Keys::new(None).job(manifest.job);
    let _: u64 = raw.query(&["HSET", &job, "action", "exec"]);
    raw.cancel("web1", &manifest);

    let mut worker = worker.options().start();
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!(outcome.state, State::Interrupted);
    let reason = outcome.reason.clone().expect("a reason");
    assert!(reason.contains("it was delivered to the prior worker process"), "{reason}");
    gate.open();
    let other = raw.shell("web1", &evidence.script());
    assert_eq!(raw.run("web1", &other).state, State::Succeeded, "a command that no prior process had runs as usual");
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 2, "once each, and the rest of the first program was ended");

    // The new journal has recorded it.
    worker.kill9();
    let _worker = worker.options().start();
    republishes(&redis, &mut raw, &manifest, &outcome);
    assert_eq!(evidence.count(), 2);
}

#[test]
fn an_unwritable_journal_is_reported_and_only_once_actions_are_refused() {
    let redis = Redis::start();
    let options = Worker::on(&redis).allow_exec().key_apart();
    let state = options.directory().join("state");
    fs::write(&state, "no directory").expect("a file");
    let worker = options.start();
    worker.wait_online();
    refuses(&redis, &worker, "Not a directory");
    fs::remove_file(&state).expect("a file");
    recovers(&redis, &worker);
}

#[test]
fn a_state_directory_that_is_deleted_or_replaced_is_noticed_and_only_once_actions_are_refused() {
    let (redis, worker, mut raw) = fleet();
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    let outcome = raw.run("web1", &manifest);
    let [state, aside] = ["state", "aside"].map(|name| worker.options().directory().join(name));
    fs::rename(&state, &aside).expect("a directory");
    refuses(&redis, &worker, "was deleted or replaced while this worker ran");
    let list = Ctl::on(&redis).run(["host", "list"]).expect(0);
    assert!(list.stdout.contains("refuses") && list.stderr.contains("web1.journal"), "{list}");
    let shown = Ctl::on(&redis).run(["host", "show", "web1"]).expect(0);
    assert!(shown.stdout.contains("was deleted or replaced"), "{shown}");

    // Another journal in its place does not know what ran.
    fs::create_dir(&state).expect("a directory");
    fs::copy(aside.join("web1.journal"), state.join("web1.journal")).expect("a copy");
    refuses(&redis, &worker, "was deleted or replaced while this worker ran");
    fs::remove_dir_all(&state).expect("a directory");
    fs::rename(&aside, &state).expect("a directory");
    recovers(&redis, &worker);
    republishes(&redis, &mut raw, &manifest, &outcome);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_second_worker_of_the_same_host_waits_until_the_first_has_ended() {
    let (redis, mut first, mut raw) = fleet();
    let second = first.options().start();
    second.wait_log("another worker of this host is running: this one waits until that one has ended");
    let evidence = Evidence::new(&redis, "evidence");
    for _ in 0..3 {
        let manifest = raw.shell("web1", &evidence.script());
        assert_eq!(raw.run("web1", &manifest).state, State::Succeeded);
    }
    assert!(raw.readers() <= 1, "only the first one reads");
    first.kill9();
    second.wait_log("the other worker of this host has ended: this one takes over");
    second.wait_online();
    assert_eq!(second.status().and_then(|status| status.refuses), None);
    assert!(!second.log().contains("ERROR"), "{}", second.log());
    let manifest = raw.shell("web1", &evidence.script());
    assert_eq!(raw.run("web1", &manifest).state, State::Succeeded);
    assert_eq!(evidence.count(), 4);
}

/// A worker whose state is on a small disk of its own, on which a line of shell ran before. `None` where this machine
/// permits no mounts.
fn on_a_small_disk(redis: &Redis, script: &str) -> Option<WorkerOptions> {
    Worker::on(redis).allow_exec().key_apart().small_disk("state", script)
}

#[test]
fn on_a_full_disk_only_once_actions_are_refused_until_there_is_space() {
    let redis = Redis::start();
    let Some(options) = on_a_small_disk(&redis, "cat /dev/zero >filler 2>/dev/null || :") else { return };
    let worker = options.start();
    worker.wait_online();
    refuses(&redis, &worker, "No space left");
    fs::remove_file(worker.on_its_disk("filler")).expect("a file");
    recovers(&redis, &worker);
}

#[test]
fn a_disk_that_fills_up_loses_nothing() {
    let redis = Redis::start();
    let Some(options) = on_a_small_disk(&redis, ":") else { return };
    let worker = options.start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let running = raw.shell("web1", &format!("{}; {}; echo done", evidence.script(), gate.script()));
    raw.send("web1", &running);
    gate.reached();
    let filler = worker.on_its_disk("filler");
    fill(&filler);

    // The journal's file has some free room. Once that is used up, the worker rejects what it cannot record.
    let mut succeeded = vec![running.clone()];
    let rejected = eventually("a refusal", || {
        let manifest = raw.shell("web1", &format!("{}; head -c 60000 /dev/zero", evidence.script()));
        let outcome = raw.run("web1", &manifest);
        if outcome.state == State::Rejected {
            return outcome.reason;
        }
        assert_eq!((outcome.state, outcome.stdout.written_bytes), (State::Succeeded, 60_000), "{outcome:?}");
        succeeded.push(manifest);
        None
    });
    assert!(rejected.contains("No space left"), "{rejected}");
    assert!(refusal(&worker).contains("No space left"));
    raw.ping("web1");
    // The running program ends as usual.
    gate.open();
    let outcome = raw.outcome("web1", &running);
    assert_eq!((outcome.state, &*outcome.stdout.kept), (State::Succeeded, &b"done\n"[..]));

    fs::remove_file(filler).expect("a file");
    recovers(&redis, &worker);
    for manifest in &succeeded {
        raw.send("web1", manifest);
    }
    raw.wait_settled("web1");
    for manifest in &succeeded {
        assert_eq!(raw.states(manifest), [State::Running, State::Succeeded]);
    }
    assert_eq!(evidence.count(), succeeded.len());
}

#[test]
#[ignore = "needs the worker built with its feature chaos (make test builds it)"]
fn a_slow_disk_delays_only_once_actions() {
    let redis = Redis::start();
    let options = Worker::on(&redis).program(chaos_worker()).allow_exec();
    let worker = options.env("REDFLEET_CHAOS_SLOW_SYNC", "2000").start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    raw.send("web1", &manifest);
    let ping = raw.manifest(&["web1"], "ping");
    let pinged = raw.run("web1", &ping).finished_at_ms;
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!(outcome.state, State::Succeeded);
    let started = outcome.started_at_ms.expect("it started");
    assert!(pinged < started, "the ping ended at {pinged}, the program started at {started}");
    assert_eq!(evidence.count(), 1);
}
