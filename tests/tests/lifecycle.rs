//! The life of a command: every state that it can reach, and that the worker reports it truly.

use std::time::Duration;

use protocol::{
    action::{Argument, Arguments},
    clock::millis,
    command::Manifest,
    limits,
    outcome::{Outcome, State},
};
use tests::{Ctl, Evidence, Gate, Raw, Redis, Worker, eventually, fleet, renewed};

#[test]
fn a_command_runs_and_succeeds() {
    let (redis, _worker, mut raw) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let manifest = raw.shell("web1", &format!("echo begun; {}; echo done", gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    assert_eq!(
        (raw.queued("web1"), raw.pending("web1")),
        (1, 1),
        "it stays in the inbox until its outcome is published"
    );
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
fn a_failed_program_is_reported_with_its_exit_code_or_signal() {
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
    let outcome = raw.run("web1", &Manifest { timeout_ms: 3000, ..slow });
    assert_eq!((outcome.state, outcome.exit_code), (State::TimedOut, None));
    assert_eq!(outcome.reason.as_deref(), Some("longer than 3s"));
    assert!(outcome.duration_ms() >= Some(3000), "{outcome:?}");
    // No timeout, however extreme, harms the worker.
    for timeout_ms in [0, u64::MAX] {
        let manifest = raw.shell("web1", "true");
        raw.run("web1", &Manifest { timeout_ms, ..manifest });
    }
    raw.ping("web1");
}

#[test]
fn an_invalid_command_is_rejected_with_the_reason() {
    let (redis, _worker, mut raw) = fleet();
    let evidence = Evidence::new(&redis, "evidence");
    let mut reason = |manifest: Manifest| {
        let outcome = raw.run("web1", &manifest);
        assert_eq!((outcome.state, outcome.started_at_ms), (State::Rejected, None), "{outcome:?}");
        assert_eq!(raw.states(&manifest), [State::Rejected]);
        outcome.reason.expect("a reason")
    };
    let arguments = |name: &str, value: Argument| Arguments::from([(name.to_owned(), value)]);
    let other = &mut Raw::on(&redis);
    let mut command = |action: &str, arguments| Manifest { arguments, ..other.manifest(&["web1"], action) };

    assert_eq!(reason(command("dance", Arguments::new())), "unknown action 'dance'");
    let endless = "x".repeat(10_000);
    assert_eq!(reason(command(&endless, Arguments::new())), format!("unknown action '{}…'", &endless[..80]));
    assert_eq!(
        reason(command("ping", arguments("colour", Argument::Boolean(true)))),
        "ping has no parameter 'colour' (it takes none)"
    );
    assert_eq!(
        reason(command("exec", Arguments::new())),
        "exec needs -- ARGV…: the program and its arguments; no shell is involved"
    );
    for (name, value) in [("argv", Argument::List(vec![])), ("argv", Argument::Text("ls".into()))] {
        let reason = reason(command("exec", arguments(name, value)));
        assert!(reason.starts_with("exec: argv must be one or more words, not "), "{reason}");
    }
    for top in [Argument::Integer(0), Argument::Integer(i64::MAX), Argument::Text("ten".into())] {
        let reason = reason(command("collect-processes", arguments("top", top)));
        assert!(reason.starts_with("collect-processes: top must be a whole number from 1 to 100, not "), "{reason}");
    }

    let manifest =
        command("exec", arguments("argv", Argument::List(vec!["sh".into(), "-c".into(), evidence.script()])));
    let week = millis(limits::START_BY_MAX);
    let too_late = Manifest { start_by_ms: manifest.issued_at_ms + week + 1, ..manifest.clone() };
    let never = renewed(Manifest { start_by_ms: u64::MAX, ..manifest });
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
    let long_ago = renewed(Manifest { start_by_ms: 0, issued_at_ms: 0, ..raw.shell("web1", &evidence.script()) });
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
        assert!(reason.starts_with("the worker took it ") && reason.ends_with(" after its start-by"), "{reason}");
        assert_eq!(raw.states(manifest), [State::Expired]);
    }
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 0);
}

#[test]
fn an_offline_host_executes_its_queued_commands_on_return() {
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
fn a_command_can_be_queued_before_the_hosts_first_heartbeat() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let manifest = raw.manifest(&["web1"], "ping");
    raw.send("web1", &manifest);
    let _worker = Worker::on(&redis).start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
}

#[test]
fn a_result_is_kept_as_long_as_requested_within_bounds() {
    let (_redis, _worker, mut raw) = fleet();
    let day = Duration::from_secs(24 * 3600);
    for (requested, kept) in [
        (day, day),
        (Duration::ZERO, Duration::from_secs(60)),
        (Duration::from_millis(u64::MAX), limits::RETENTION_MAX),
    ] {
        let manifest = Manifest { retention_ms: millis(requested), ..raw.manifest(&["web1"], "ping") };
        raw.run("web1", &manifest);
        let job = format!("job:{{{}}}", manifest.job);
        for key in [format!("{job}:hosts"), format!("{job}:events"), format!("{job}:result:web1")] {
            let left: i64 = raw.query(&["PTTL", &key]);
            let gone = millis(kept).cast_signed() - left;
            assert!((0..60_000).contains(&gone), "{key}: {left} ms of {kept:?}");
        }
    }
}

#[test]
fn all_keys_of_a_job_expire_together() {
    let redis = Redis::start();
    let workers = ["web1", "web2"].map(|host| Worker::on(&redis).host(host).allow_exec().start());
    workers.iter().for_each(Worker::wait_online);
    let mut gate = Gate::new(&redis, "web1");
    let ctl = Ctl::on(&redis);
    // The command ends at once on one host and is cancelled while it runs on the other. Both print.
    let script = format!("echo begun; [ $REDFLEET_HOST = web2 ] || {{ {}; }}", gate.script());
    let line =
        ["run", "-q", "--all", "--detach", "--retention", "1h", "--timeout", "10m", "exec", "--", "sh", "-c", &script];
    let job = ctl.run(line).expect(0).stdout.trim().to_owned();
    gate.reached();
    eventually("web2 to end", || ctl.host_states(&job).contains(&("web2".into(), "succeeded".into())).then_some(()));
    // What ends within milliseconds leaves no live output, as its result holds all of it.
    let output = format!("job:{{{job}}}:output:web1");
    eventually("output of web1", || (redis.cli(["EXISTS", &output]) == "1").then_some(()));
    ctl.run(["job", "cancel", &job]).expect(0);
    let mut raw = Raw::on(&redis);
    let mut expires = |key: &str| -> u64 { raw.query(&["PEXPIRETIME", &format!("job:{{{job}}}{key}")]) };
    let all = ["", ":hosts", ":events", ":output:web1", ":result:web1", ":result:web2"].map(&mut expires);
    assert_eq!(all, [all[0]; 6]);
}
