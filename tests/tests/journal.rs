//! The journal: what a worker knows of its past when it starts again, and what it refuses to do without one.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use protocol::{
    command::Manifest,
    control::Control,
    keys::Keys,
    outcome::{Outcome, State},
};
use tests::{Aof, Ctl, Evidence, Gate, Raw, Redis, Worker, WorkerOptions, chaos_worker, eventually, fleet, is_alive};

/// Waits until the worker says that it refuses what must not run twice, and why; returns that.
#[track_caller]
fn refusal(worker: &Worker) -> String {
    eventually("the worker to say that it refuses", || worker.status()?.refuses)
}

/// Everyone is told why programs are refused, and everything else goes on.
#[track_caller]
fn refuses(redis: &Redis, worker: &Worker, reason: &str) {
    let (ctl, evidence) = (Ctl::on(redis), Evidence::new(redis, "refused"));
    let exec = ctl.run(["run", "--host", "web1", "exec", "--", "sh", "-c", &evidence.script()]).expect(2);
    assert!(exec.stderr.contains("web1: rejected: 'exec' must not run twice, and the journal "), "{exec}");
    assert!(exec.stderr.contains(reason), "{exec}");
    for action in ["ping", "collect-cpu"] {
        ctl.run(["run", "--host", "web1", action]).expect(0);
    }
    let said = refusal(worker);
    assert!(said.contains("web1.journal") && said.contains(reason), "{said}");
    let doctor = ctl.run(["doctor"]).expect(2);
    assert!(doctor.stdout.contains(&format!("web1: {said}")), "{doctor}");
    assert_eq!(evidence.count(), 0);
}

/// Nothing is refused any more, without a restart.
#[track_caller]
fn recovers(redis: &Redis, worker: &Worker) {
    eventually("the worker to refuse nothing", || worker.status()?.refuses.is_none().then_some(()));
    let (ctl, evidence) = (Ctl::on(redis), Evidence::new(redis, "recovered"));
    ctl.run(["run", "--host", "web1", "exec", "--", "sh", "-c", &evidence.script()]).expect(0);
    assert_eq!(evidence.count(), 1);
}

/// A copy of a command that Redis has forgotten is answered as before.
#[track_caller]
fn tells_again(redis: &Redis, raw: &mut Raw, manifest: &Manifest, outcome: &Outcome) {
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
    let job = ctl.ask("web1", &format!("{}; {}; {}", evidence.script(), gate.script(), evidence.script()));
    gate.reached();
    worker.kill9();

    let _worker = worker.options().start();
    ctl.run(["run", "--host", "web1", "exec", "--", "true"]).expect(0);
    assert_eq!(ctl.standing(&job), [("web1".into(), "interrupted".into())]);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn what_a_dead_worker_left_running_is_ended_by_the_next_one() {
    let (redis, mut worker, mut raw) = fleet();
    let (pids, mut gate) = (redis.directory().join("pids"), Gate::new(&redis, "gate"));
    // A child, one that has left the process group, and the program itself.
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
fn what_ended_while_redis_was_away_is_told_by_the_next_process_if_need_be() {
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
        assert_eq!(raw.states(&manifest), [State::Running, State::Failed], "nothing is said twice");
    }
    // Redis does not know of it any more, but the journal does: it is told again, and the same.
    for restarted in [false, true] {
        if restarted {
            worker.kill9();
            worker = worker.options().start();
        }
        tells_again(&redis, &mut raw, &manifest, &outcome);
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
    tells_again(&redis, &mut raw, &manifest, &outcome);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_damaged_journal_is_named_and_only_what_must_not_run_twice_is_refused() {
    let redis = Redis::start();
    let options = Worker::on(&redis).allow_exec();
    let state = options.directory().join("state");
    fs::create_dir(&state).expect("a directory");
    fs::write(state.join("web1.journal"), vec![0x5a; 10_000]).expect("a file");
    let worker = options.start();
    worker.wait_online();
    refuses(&redis, &worker, "web1.journal");
    // Once it is out of the way, a new one is begun.
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
    // Nothing is left but the pending entry: it says that the command was taken, not how far it came.
    let path = worker.options().directory().join("state/web1.journal");
    fs::remove_file(&path).expect("a journal");
    let _: u64 = raw.ask(&["HDEL", &Keys::new(None).job_hosts(manifest.job), "web1"]);
    assert_eq!(raw.pending("web1"), 1);
    // An order to cancel it is read first: it does not make it one that never began.
    let job = Keys::new(None).job(manifest.job);
    let _: u64 = raw.ask(&["HSET", &job, "action", "exec"]);
    raw.add_control("web1", &Control::Cancel(manifest.job).fields());

    let mut worker = worker.options().start();
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!(outcome.state, State::Interrupted);
    let reason = outcome.reason.clone().expect("a reason");
    assert!(reason.contains("the worker before this one had taken it"), "{reason}");
    gate.open();
    let other = raw.shell("web1", &evidence.script());
    assert_eq!(raw.run("web1", &other).state, State::Succeeded, "what nobody had taken before runs as usual");
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 2, "once each, and what was left of the first was ended");

    // It is in the new journal.
    worker.kill9();
    let _worker = worker.options().start();
    tells_again(&redis, &mut raw, &manifest, &outcome);
    assert_eq!(evidence.count(), 2);
}

#[test]
fn a_journal_that_cannot_be_written_is_named_and_only_what_must_not_run_twice_is_refused() {
    let redis = Redis::start();
    let options = Worker::on(&redis).allow_exec();
    let state = options.directory().join("state");
    fs::write(&state, "no directory").expect("a file");
    let worker = options.start();
    worker.wait_online();
    refuses(&redis, &worker, "Not a directory");
    fs::remove_file(&state).expect("a file");
    recovers(&redis, &worker);
}

#[test]
fn a_second_worker_of_the_same_host_waits_until_the_first_has_ended() {
    let (redis, mut first, mut raw) = fleet();
    let second = first.options().start();
    second.wait_log("another worker of this host is running");
    let evidence = Evidence::new(&redis, "evidence");
    for _ in 0..3 {
        let manifest = raw.shell("web1", &evidence.script());
        assert_eq!(raw.run("web1", &manifest).state, State::Succeeded);
    }
    assert!(raw.readers() <= 1, "only the first one reads");
    first.kill9();
    second.wait_online();
    let manifest = raw.shell("web1", &evidence.script());
    assert_eq!(raw.run("web1", &manifest).state, State::Succeeded);
    assert_eq!(evidence.count(), 4);
}

/// A worker whose state is on a disk of its own, of 8 MB, after a line of shell. `None` where this machine permits
/// no mounts; the test is then reported as skipped.
fn on_a_small_disk(redis: &Redis, script: &str) -> Option<WorkerOptions> {
    let flags = if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" };
    let permitted = Command::new("unshare").args([flags, "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !permitted.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED {}: this machine permits no mounts", std::thread::current().name().unwrap_or_default());
        return None;
    }
    let options = Worker::on(redis).allow_exec();
    let state = options.directory().join("state");
    fs::create_dir(&state).expect("a directory");
    let mount = format!("mount -t tmpfs -o size=8m none '{0}'; cd '{0}'; {script}; exec \"$@\"", state.display());
    Some(options.through(&["unshare", flags, "sh", "-ec", &mount, "sh"]))
}

/// A file on that disk, as it is seen from outside: the worker's own directory.
fn beside_the_journal(worker: &Worker, name: &str) -> PathBuf {
    Path::new(&format!("/proc/{}/cwd", worker.pid())).join(name)
}

/// Takes all space that is left where the file is.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[test]
fn on_a_full_disk_only_what_must_not_run_twice_is_refused_until_there_is_space() {
    let redis = Redis::start();
    let Some(options) = on_a_small_disk(&redis, "cat /dev/zero >filler 2>/dev/null || :") else { return };
    let worker = options.start();
    worker.wait_online();
    refuses(&redis, &worker, "No space left");
    fs::remove_file(beside_the_journal(&worker, "filler")).expect("a file");
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
    let filler = beside_the_journal(&worker, "filler");
    fill(&filler);

    // The journal has some room of its own; then it is refused what it cannot hold, and nobody is told otherwise.
    let mut told = vec![running.clone()];
    let rejected = eventually("a refusal", || {
        let manifest = raw.shell("web1", &format!("{}; head -c 60000 /dev/zero", evidence.script()));
        let outcome = raw.run("web1", &manifest);
        if outcome.state == State::Rejected {
            return outcome.reason;
        }
        assert_eq!((outcome.state, outcome.stdout.written_bytes), (State::Succeeded, 60_000), "{outcome:?}");
        told.push(manifest);
        None
    });
    assert!(rejected.contains("No space left"), "{rejected}");
    assert!(refusal(&worker).contains("No space left"));
    raw.ping("web1");
    // What was running ends as it would have.
    gate.open();
    let outcome = raw.outcome("web1", &running);
    assert_eq!((outcome.state, &*outcome.stdout.kept), (State::Succeeded, &b"done\n"[..]));

    fs::remove_file(filler).expect("a file");
    recovers(&redis, &worker);
    for manifest in &told {
        raw.send("web1", manifest);
    }
    raw.wait_settled("web1");
    for manifest in &told {
        assert_eq!(raw.states(manifest), [State::Running, State::Succeeded]);
    }
    assert_eq!(evidence.count(), told.len());
}

#[test]
#[ignore = "needs the worker built with its feature chaos (make test builds it)"]
fn a_slow_disk_holds_up_only_what_must_be_on_it() {
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
    assert!(pinged < started, "the ping was answered at {pinged}, the program started at {started}");
    assert_eq!(evidence.count(), 1);
}
