//! `ctl job cancel`: a running command is ended, a waiting one never starts, and the order itself is never lost.

use std::fs;

use protocol::outcome::{Outcome, State};
use tests::{Ctl, Evidence, Gate, Raw, Redis, Worker, eventually, is_alive};

fn fleet(config: &str) -> (Redis, Worker, Raw, Ctl) {
    let redis = Redis::start();
    let worker = Worker::on(&redis).config(config).allow_exec().start();
    worker.wait_online();
    let (raw, ctl) = (Raw::on(&redis), Ctl::on(&redis));
    (redis, worker, raw, ctl)
}

/// The configuration of a worker that runs one command at a time.
const NARROW: &str = "slots = 1";

/// The states of hosts, as owned text.
fn states<const N: usize>(hosts: [(&str, &str); N]) -> Vec<(String, String)> {
    hosts.map(|(host, state)| (host.to_owned(), state.to_owned())).into()
}

/// Waits until the job has ended everywhere.
#[track_caller]
fn wait_states<const N: usize>(ctl: &Ctl, job: &str, hosts: [(&str, &str); N]) {
    ctl.run(["job", "wait", job]);
    assert_eq!(ctl.host_states(job), states(hosts));
}

#[test]
fn a_running_command_is_ended_with_all_its_processes_and_its_output_is_kept() {
    let (redis, _worker, mut raw, ctl) = fleet("");
    let ctl = ctl.knowing_web1();
    let (pids, mut gate) = (redis.directory().join("pids"), Gate::new(&redis, "gate"));
    let evidence = Evidence::new(&redis, "evidence");
    let script = format!("echo begun; sleep 1000 & echo $$ $! > '{}'; {}", pids.display(), gate.script());
    let job = ctl.dispatch("web1", &format!("{script}; {}", evidence.script()));
    gate.reached();
    let cancelled = ctl.run(["job", "cancel", &job]).expect(0);
    let (first, rest) = cancelled.stderr.split_once('\n').expect("two lines");
    assert!(first.contains(&format!("job {} (exec: sh -c 'echo begun; ", &job[28..])), "{cancelled}");
    assert!(first.contains(") on 1 host, asked for by ") && first.ends_with(['o', 'w']), "{cancelled}");
    assert_eq!(rest, "web1: cancelled: while it ran\n");
    let pids = fs::read_to_string(pids).expect("their pids");
    for pid in pids.split_whitespace() {
        assert!(!is_alive(pid.parse().expect("a pid")), "{pid}");
    }
    assert_eq!(ctl.host_states(&job), states([("web1", "cancelled")]));
    let waited = ctl.run(["job", "wait", &job]).expect(2);
    assert_eq!(waited.stdout, "begun\n", "{waited}");
    assert_eq!(evidence.count(), 0);
    raw.wait_control_settled("web1");
    raw.wait_settled("web1");
}

#[test]
fn a_cancelled_program_that_ignores_term_is_killed() {
    let (redis, _worker, _, ctl) = fleet("");
    let mut gate = Gate::new(&redis, "gate");
    let job =
        ctl.dispatch("web1", &format!("trap '' TERM; echo begun; {}; while :; do sleep 1000; done", gate.script()));
    gate.reached();
    ctl.run(["job", "cancel", &job]).expect(0);
    let shown = ctl.run(["job", "wait", &job]).expect(2);
    assert_eq!(shown.stdout, "begun\n", "{shown}");
}

#[test]
fn a_waiting_command_never_starts_and_is_reported_as_cancelled_at_once() {
    let (redis, _worker, mut raw, ctl) = fleet("");
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let run = |script: &str| {
        let line = ["run", "-q", "-H", "web1", "--detach", "exec", "lock=app", "--", "sh", "-c", script];
        ctl.run(line).expect(0).stdout.trim().to_owned()
    };
    let first = run(&gate.script());
    gate.reached();
    let [second, third] = [(); 2].map(|()| run(&evidence.script()));
    eventually("the third to have arrived", || {
        (ctl.host_states(&third) == states([("web1", "delivered")])).then_some(())
    });
    let cancelled = ctl.run(["job", "cancel", &second]).expect(0);
    assert!(cancelled.stderr.ends_with("\nweb1: cancelled: before it started\n"), "{cancelled}");
    assert_eq!(evidence.count(), 0);
    gate.open();
    ctl.run(["job", "wait", &first]).expect(0);
    ctl.run(["job", "wait", &third]).expect(0);
    assert_eq!(ctl.host_states(&second), states([("web1", "cancelled")]));
    assert_eq!(evidence.count(), 1);
    raw.wait_control_settled("web1");
    raw.wait_settled("web1");
}

#[test]
fn an_unread_command_never_starts_and_is_reported_as_cancelled_at_once() {
    let (redis, _worker, mut raw, ctl) = fleet(NARROW);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let first = ctl.dispatch("web1", &gate.script());
    gate.reached();
    let second = ctl.dispatch("web1", &evidence.script());
    let ping = ctl.run(["run", "-q", "--host", "web1", "--detach", "ping"]).expect(0).stdout.trim().to_owned();
    for job in [&second, &ping] {
        let cancelled = ctl.run(["job", "cancel", job]).expect(0);
        assert!(cancelled.stderr.ends_with("\nweb1: cancelled: before it started\n"), "{cancelled}");
    }
    assert_eq!(raw.pending("web1"), 1, "both are still unread");
    gate.open();
    ctl.run(["job", "wait", &first]).expect(0);
    raw.wait_control_settled("web1");
    raw.wait_settled("web1");
    for job in [&second, &ping] {
        assert_eq!(ctl.host_states(job), states([("web1", "cancelled")]));
    }
    assert_eq!(evidence.count(), 0);
}

#[test]
fn the_command_that_keeps_all_slots_busy_can_be_cancelled() {
    let (redis, _worker, _, ctl) = fleet(NARROW);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let first = ctl.dispatch("web1", &gate.script());
    gate.reached();
    let second = ctl.dispatch("web1", &evidence.script());
    ctl.run(["job", "cancel", &first]).expect(0);
    ctl.run(["job", "wait", &second]).expect(0);
    assert_eq!(ctl.host_states(&first), states([("web1", "cancelled")]));
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_command_of_an_offline_host_never_starts_when_the_host_returns() {
    let (redis, mut worker, mut raw, ctl) = fleet("");
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let jobs: Vec<_> = (0..10).map(|_| ctl.dispatch("web1", &evidence.script())).collect();
    for job in &jobs {
        let cancelled = ctl.run(["job", "cancel", job]).expect(0);
        let note = "web1: offline; once it is back the command ends there, or never starts\n";
        assert!(cancelled.stderr.ends_with(note), "{cancelled}");
        assert_eq!(ctl.host_states(job), states([("web1", "queued")]), "only the worker writes its host's state");
    }
    let _worker = worker.options().start();
    for job in &jobs {
        wait_states(&ctl, job, [("web1", "cancelled")]);
    }
    raw.wait_control_settled("web1");
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 0);
}

#[test]
fn an_ended_command_cannot_be_cancelled_and_ctl_says_so() {
    let (redis, _worker, mut raw, ctl) = fleet("");
    let ctl = ctl.knowing_web1();
    let job = ctl.dispatch("web1", "echo done; exit 3");
    let waited = ctl.run(["job", "wait", &job]).expect(2);
    let refused = ctl.run(["job", "cancel", &job]).expect(1);
    assert!(refused.stderr.contains("\nweb1: already ended (failed: exit code 3)\n"), "{refused}");
    assert!(refused.stderr.contains("error: nothing to cancel: the job has already ended on 1 host"), "{refused}");
    assert_eq!(redis.cli(["XLEN", "server:{web1}:control"]), "0", "no order was sent");
    // An order that arrives too late changes nothing either.
    let manifest = raw.manifest_of(&job);
    raw.cancel("web1", &manifest);
    raw.wait_control_settled("web1");
    raw.ping("web1");
    assert_eq!(ctl.run(["job", "wait", &job]).expect(2).stderr, waited.stderr);
}

#[test]
fn one_of_several_hosts_can_be_cancelled_alone() {
    let (redis, _worker, _, ctl) = fleet("");
    let other = Worker::on(&redis).host("web2").allow_exec().start();
    other.wait_online();
    let mut gates = ["web1", "web2"].map(|host| Gate::new(&redis, host));
    let wait = format!("read _ < '{}'/$REDFLEET_HOST || :; echo done", redis.directory().display());
    let job = ctl.dispatch("web1,web2", &wait);
    gates.iter_mut().for_each(Gate::reached);
    let stranger = ctl.run(["job", "cancel", &job, "--host", "web3"]).expect(1);
    assert!(stranger.stderr.contains("error: web3 is not among the hosts of job "), "{stranger}");
    let cancelled = ctl.run(["job", "cancel", &job, "--host", "web1"]).expect(0);
    assert!(cancelled.stderr.contains(") on 1 of 2 hosts, asked for by "), "{cancelled}");
    assert!(cancelled.stderr.ends_with("\nweb1: cancelled: while it ran\n"), "{cancelled}");
    assert_eq!(ctl.host_states(&job), states([("web1", "cancelled"), ("web2", "running")]));
    gates[1].open();
    wait_states(&ctl, &job, [("web1", "cancelled"), ("web2", "succeeded")]);
}

#[test]
fn an_order_outlives_the_worker_that_has_acknowledged_it() {
    let (redis, mut worker, mut raw, ctl) = fleet(NARROW);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let busy = raw.shell("web1", &gate.script());
    raw.send("web1", &busy);
    gate.reached();
    let manifest = raw.shell("web1", &evidence.script());
    raw.send("web1", &manifest);
    raw.cancel("web1", &manifest);
    raw.wait_control_settled("web1");
    worker.kill9();
    let _worker = worker.options().start();
    let Outcome { state, reason, .. } = raw.outcome("web1", &manifest);
    assert_eq!((state, reason.as_deref()), (State::Cancelled, Some("before it started")));
    ctl.run(["run", "--host", "web1", "exec", "--", "true"]).expect(0);
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 0);
}

#[test]
fn an_order_outlives_the_worker_that_had_just_received_it() {
    let (redis, mut worker, mut raw, _) = fleet("");
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    raw.wait_reading();
    worker.stop();
    // Redis delivers the order first; that reader takes nothing else.
    raw.cancel("web1", &manifest);
    raw.send("web1", &manifest);
    worker.kill9();
    assert_eq!(redis.cli(["XPENDING", "server:{web1}:control", "worker"]).lines().next(), Some("1"));
    let _worker = worker.options().start();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Cancelled);
    raw.wait_control_settled("web1");
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 0);
}

#[test]
fn a_cancelled_command_that_comes_again_never_starts() {
    let (redis, mut worker, mut raw, _) = fleet("");
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    raw.cancel("web1", &manifest);
    raw.wait_control_settled("web1");
    for restarted in [false, true] {
        if restarted {
            worker.kill9();
            worker = worker.options().start();
            redis.cli(["FLUSHALL"]);
        }
        raw.send("web1", &manifest);
        assert_eq!(raw.outcome("web1", &manifest).state, State::Cancelled);
        raw.wait_settled("web1");
    }
    assert_eq!(evidence.count(), 0);
}

#[test]
fn an_order_that_an_offline_host_has_yet_to_see_is_shown() {
    let (redis, mut worker, _, ctl) = fleet("");
    worker.terminate();
    let running = ctl.spawn(["run", "--host", "web1", "--wait", "exec", "--", "true"]);
    running.wait_stderr("web1: offline");
    ctl.run(["job", "cancel", "last"]).expect(0);
    running.wait_stderr("cancel ordered; web1 is offline");
    let shown = ctl.run(["job", "show", "last"]).expect(0);
    assert!(shown.stdout.contains("queued: cancel ordered"), "{shown}");
    let shown = ctl.run(["job", "show", "last", "-o", "json"]).expect(0).json();
    assert!(shown["hosts"][0]["cancel_ordered_at"].is_string(), "{shown:#}");
    let listed = ctl.run(["job", "list"]).expect(0);
    assert!(listed.stdout.contains("1 to be cancelled"), "{listed}");
    let job = redis.cli(["ZREVRANGE", "jobs", "0", "0"]);
    let ends = |key: &str| redis.cli(["PEXPIRETIME", &format!("job:{{{job}}}{key}")]);
    assert_eq!(ends(":cancels"), ends(""), "all keys of a job expire at one time");

    let _worker = worker.options().start();
    running.wait().expect(2);
    let listed = ctl.run(["job", "list"]).expect(0);
    assert!(listed.stdout.contains("cancelled") && !listed.stdout.contains("to be cancelled"), "{listed}");
}
