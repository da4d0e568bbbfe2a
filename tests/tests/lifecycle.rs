//! The life of a command: every state that a worker can bring it to, and that it is told truly.

use std::time::Duration;

use protocol::{
    action::{Argument, Arguments},
    clock::millis,
    command::Manifest,
    limits,
    outcome::{Outcome, State},
};
use tests::{Ctl, Evidence, Gate, Raw, Redis, Worker, eventually, fleet};

#[test]
fn a_command_runs_and_succeeds() {
    let (redis, _worker, mut raw) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let manifest = raw.shell("web1", &format!("echo begun; {}; echo done", gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    assert_eq!((raw.queued("web1"), raw.pending("web1")), (1, 1), "it stays in the inbox until it is answered");
    gate.open();
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!((outcome.state, outcome.exit_code, &outcome.reason), (State::Succeeded, Some(0), &None));
    assert_eq!(outcome.stdout.kept, b"begun\ndone\n");
    let started = outcome.started_at_ms.expect("it started");
    assert!(manifest.issued_at_ms <= started && started <= outcome.finished_at_ms, "{outcome:?}");
    assert_eq!(raw.states(&manifest), [State::Running, State::Succeeded]);
    raw.wait_settled("web1");
}

#[test]
fn a_program_that_fails_is_told_with_the_way_it_failed() {
    let (_redis, _worker, mut raw) = fleet();
    let mut ended = |argv: &[&str]| {
        let manifest = raw.exec(&["web1"], argv);
        let Outcome { state, exit_code, reason, .. } = raw.run("web1", &manifest);
        assert_eq!(state, State::Failed, "{argv:?}");
        (exit_code, reason.expect("a reason"))
    };
    assert_eq!(ended(&["sh", "-c", "exit 3"]), (Some(3), "exit code 3".into()));
    assert_eq!(ended(&["sh", "-c", "kill -9 $$"]), (None, "ended by signal 9".into()));
    let (code, reason) = ended(&["/no/such/program", "x"]);
    assert_eq!(code, None);
    assert!(reason.starts_with("cannot run '/no/such/program': "), "{reason}");
}

#[test]
fn a_command_that_takes_too_long_is_ended() {
    let (_redis, _worker, mut raw) = fleet();
    let slow = raw.shell("web1", "echo begun; exec sleep 1000");
    let outcome = raw.run("web1", &Manifest { timeout_ms: 200, ..slow });
    assert_eq!((outcome.state, outcome.exit_code), (State::TimedOut, None));
    assert_eq!(outcome.reason.as_deref(), Some("longer than 200ms"));
    assert!(outcome.duration_ms() >= Some(200), "{outcome:?}");
    // However it is asked, no figure makes the worker stumble.
    for timeout_ms in [0, u64::MAX] {
        let manifest = raw.shell("web1", "true");
        raw.run("web1", &Manifest { timeout_ms, ..manifest });
    }
    raw.ping("web1");
}

#[test]
fn what_cannot_be_done_is_rejected_with_the_reason() {
    let (redis, _worker, mut raw) = fleet();
    let evidence = Evidence::new(&redis, "evidence");
    let mut reason = |manifest: Manifest| {
        let outcome = raw.run("web1", &manifest);
        assert_eq!((outcome.state, outcome.started_at_ms), (State::Rejected, None), "{outcome:?}");
        assert_eq!(raw.states(&manifest), [State::Rejected]);
        outcome.reason.expect("a reason")
    };
    let arguments = |name: &str, value: Argument| Arguments::from([(name.to_owned(), value)]);
    let hand = &mut Raw::on(&redis);
    let mut asked = |action: &str, arguments| Manifest { arguments, ..hand.manifest(&["web1"], action) };

    assert_eq!(reason(asked("dance", Arguments::new())), "unknown action 'dance'");
    let endless = "x".repeat(10_000);
    assert_eq!(reason(asked(&endless, Arguments::new())), format!("unknown action '{}…'", &endless[..80]));
    assert_eq!(
        reason(asked("ping", arguments("colour", Argument::Boolean(true)))),
        "ping has no parameter 'colour' (it takes none)"
    );
    assert_eq!(
        reason(asked("exec", Arguments::new())),
        "exec needs -- ARGV…: the program and its arguments; no shell is involved"
    );
    for (name, value) in [("argv", Argument::List(vec![])), ("argv", Argument::Text("ls".into()))] {
        let reason = reason(asked("exec", arguments(name, value)));
        assert!(reason.starts_with("exec: argv must be one or more words, not "), "{reason}");
    }
    for top in [Argument::Integer(0), Argument::Integer(i64::MAX), Argument::Text("ten".into())] {
        let reason = reason(asked("collect-processes", arguments("top", top)));
        assert!(reason.starts_with("collect-processes: top must be a whole number from 1 to 100, not "), "{reason}");
    }

    let manifest = asked("exec", arguments("argv", Argument::List(vec!["sh".into(), "-c".into(), evidence.script()])));
    let week = millis(limits::START_BY_MAX);
    let too_late = Manifest { start_by_ms: manifest.issued_at_ms + week + 1, ..manifest.clone() };
    let never = Manifest { start_by_ms: u64::MAX, job: protocol::name::JobId::new(), ..manifest };
    for manifest in [too_late, never] {
        let limit = protocol::time::show_duration(limits::START_BY_MAX);
        assert_eq!(reason(manifest), format!("its start-by is later than {limit} after it was issued"));
    }
    assert_eq!(evidence.count(), 0);
}

#[test]
fn programs_run_only_where_the_configuration_allows_it() {
    let redis = Redis::start();
    let _worker = Worker::on(&redis).start();
    let mut raw = Raw::on(&redis);
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    let outcome = raw.run("web1", &manifest);
    assert_eq!(outcome.state, State::Rejected);
    assert_eq!(outcome.reason.as_deref(), Some("'exec' is not allowed by this worker's configuration (actions.allow)"));
    assert_eq!(evidence.count(), 0);
}

#[test]
fn a_command_whose_start_by_passed_while_the_worker_was_down_never_starts() {
    let (redis, mut worker, mut raw) = fleet();
    worker.wait_online();
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let soon = raw.now() + 50;
    let once = Manifest { start_by_ms: soon, ..raw.shell("web1", &evidence.script()) };
    let repeatable = Manifest { start_by_ms: soon, ..raw.manifest(&["web1"], "collect-cpu") };
    let long_ago = Manifest { start_by_ms: 0, issued_at_ms: 0, ..raw.shell("web1", &evidence.script()) };
    let jobs = [once, repeatable, long_ago];
    for manifest in &jobs {
        raw.send("web1", manifest);
    }
    tests::eventually("the deadline to pass", || (raw.now() > soon).then_some(()));
    let _worker = worker.options().start();
    for manifest in &jobs {
        let outcome = raw.outcome("web1", manifest);
        assert_eq!((outcome.state, outcome.started_at_ms), (State::Expired, None));
        let reason = outcome.reason.expect("a reason");
        assert!(reason.starts_with("its turn came ") && reason.ends_with(" after its start-by"), "{reason}");
        assert_eq!(raw.states(manifest), [State::Expired]);
    }
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 0);
}

#[test]
fn an_offline_host_does_on_return_what_was_asked_meanwhile() {
    let (redis, mut worker, mut raw) = fleet();
    worker.wait_online();
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    raw.send("web1", &manifest);
    assert_eq!(raw.state("web1", &manifest), None, "only the worker writes its host's state");
    let _worker = worker.options().start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_command_may_be_asked_before_the_host_is_first_heard_of() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let manifest = raw.manifest(&["web1"], "ping");
    raw.send("web1", &manifest);
    let _worker = Worker::on(&redis).start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
}

#[test]
fn an_answer_lives_as_long_as_was_asked_within_bounds() {
    let (_redis, _worker, mut raw) = fleet();
    let day = Duration::from_secs(24 * 3600);
    for (asked, kept) in [
        (day, day),
        (Duration::ZERO, Duration::from_secs(60)),
        (Duration::from_millis(u64::MAX), limits::RETENTION_MAX),
    ] {
        let manifest = Manifest { retention_ms: millis(asked), ..raw.manifest(&["web1"], "ping") };
        raw.run("web1", &manifest);
        let job = format!("job:{{{}}}", manifest.job);
        for key in [format!("{job}:hosts"), format!("{job}:events"), format!("{job}:result:web1")] {
            let left: i64 = raw.ask(&["PTTL", &key]);
            let gone = millis(kept).cast_signed() - left;
            assert!((0..60_000).contains(&gone), "{key}: {left} ms of {kept:?}");
        }
    }
}

#[test]
fn all_keys_of_a_job_end_together() {
    let redis = Redis::start();
    let workers = ["web1", "web2"].map(|host| Worker::on(&redis).host(host).allow_exec().start());
    workers.iter().for_each(Worker::wait_online);
    let mut gate = Gate::new(&redis, "web1");
    let ctl = Ctl::on(&redis);
    // One host answers at once, one is cancelled while it runs; both print.
    let script = format!("echo begun; [ $REDFLEET_HOST = web2 ] || {{ {}; }}", gate.script());
    let line =
        ["run", "-q", "--all", "--detach", "--retention", "1h", "--timeout", "10m", "exec", "--", "sh", "-c", &script];
    let job = ctl.run(line).expect(0).stdout.trim().to_owned();
    gate.reached();
    eventually("web2 to answer", || ctl.standing(&job).contains(&("web2".into(), "succeeded".into())).then_some(()));
    ctl.run(["job", "cancel", &job]).expect(0);
    let mut raw = Raw::on(&redis);
    let mut ends = |key: &str| -> u64 { raw.ask(&["PEXPIRETIME", &format!("job:{{{job}}}{key}")]) };
    let all = ["", ":hosts", ":events", ":result:web1", ":result:web2"].map(&mut ends);
    assert_eq!(all, [all[0]; 5]);
}
