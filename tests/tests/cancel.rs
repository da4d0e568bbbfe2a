//! `ctl job cancel`: what runs is ended, what has not started never does, and the order itself is never lost.

use std::fs;

use protocol::{
    control::Control,
    outcome::{Outcome, State},
};
use tests::{Ctl, Evidence, Gate, Raw, Redis, Worker, eventually, is_alive};

fn fleet(config: &str) -> (Redis, Worker, Raw, Ctl) {
    let redis = Redis::start();
    let worker = Worker::on(&redis).config(config).allow_exec().start();
    worker.wait_online();
    let (raw, ctl) = (Raw::on(&redis), Ctl::on(&redis));
    (redis, worker, raw, ctl)
}

/// One command at a time.
const NARROW: &str = "slots = 1";

/// Who stands how.
fn standing<const N: usize>(hosts: [(&str, &str); N]) -> Vec<(String, String)> {
    hosts.map(|(host, state)| (host.to_owned(), state.to_owned())).into()
}

/// Waits until the job has ended everywhere.
#[track_caller]
fn wait_standing<const N: usize>(ctl: &Ctl, job: &str, hosts: [(&str, &str); N]) {
    ctl.run(["job", "wait", job]);
    assert_eq!(ctl.standing(job), standing(hosts));
}

#[test]
fn a_running_command_is_ended_with_all_its_processes_and_its_output_is_kept() {
    let (redis, _worker, mut raw, ctl) = fleet("");
    let (pids, mut gate) = (redis.directory().join("pids"), Gate::new(&redis, "gate"));
    let evidence = Evidence::new(&redis, "evidence");
    let script = format!("echo begun; sleep 1000 & echo $$ $! > '{}'; {}", pids.display(), gate.script());
    let job = ctl.ask("web1", &format!("{script}; {}", evidence.script()));
    gate.reached();
    let cancelled = ctl.run(["job", "cancel", &job]).expect(0);
    assert_eq!(cancelled.stderr, "web1: cancelled: while it ran\n");
    let pids = fs::read_to_string(pids).expect("their pids");
    for pid in pids.split_whitespace() {
        assert!(!is_alive(pid.parse().expect("a pid")), "{pid}");
    }
    assert_eq!(ctl.standing(&job), standing([("web1", "cancelled")]));
    let waited = ctl.run(["job", "wait", &job]).expect(2);
    assert_eq!(waited.stdout, "begun\n", "{waited}");
    assert_eq!(evidence.count(), 0);
    raw.wait_control_settled("web1");
    raw.wait_settled("web1");
}

#[test]
fn a_program_that_will_not_end_is_killed() {
    let (redis, _worker, _, ctl) = fleet("");
    let mut gate = Gate::new(&redis, "gate");
    let job = ctl.ask("web1", &format!("trap '' TERM; echo begun; {}; while :; do sleep 1000; done", gate.script()));
    gate.reached();
    ctl.run(["job", "cancel", &job]).expect(0);
    let shown = ctl.run(["job", "wait", &job]).expect(2);
    assert_eq!(shown.stdout, "begun\n", "{shown}");
}

#[test]
fn what_waits_in_the_worker_never_starts_and_is_told_at_once() {
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
        (ctl.standing(&third) == standing([("web1", "delivered")])).then_some(())
    });
    let cancelled = ctl.run(["job", "cancel", &second]).expect(0);
    assert_eq!(cancelled.stderr, "web1: cancelled: before it started\n");
    assert_eq!(evidence.count(), 0);
    gate.open();
    ctl.run(["job", "wait", &first]).expect(0);
    ctl.run(["job", "wait", &third]).expect(0);
    assert_eq!(ctl.standing(&second), standing([("web1", "cancelled")]));
    assert_eq!(evidence.count(), 1);
    raw.wait_control_settled("web1");
    raw.wait_settled("web1");
}

#[test]
fn what_is_not_even_read_as_all_slots_are_busy_never_starts_and_is_told_at_once() {
    let (redis, _worker, mut raw, ctl) = fleet(NARROW);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let first = ctl.ask("web1", &gate.script());
    gate.reached();
    let second = ctl.ask("web1", &evidence.script());
    let ping = ctl.run(["run", "-q", "--host", "web1", "--detach", "ping"]).expect(0).stdout.trim().to_owned();
    for job in [&second, &ping] {
        let cancelled = ctl.run(["job", "cancel", job]).expect(0);
        assert_eq!(cancelled.stderr, "web1: cancelled: before it started\n");
    }
    assert_eq!(raw.pending("web1"), 1, "they are still unread");
    gate.open();
    ctl.run(["job", "wait", &first]).expect(0);
    raw.wait_control_settled("web1");
    raw.wait_settled("web1");
    for job in [&second, &ping] {
        assert_eq!(ctl.standing(job), standing([("web1", "cancelled")]));
    }
    assert_eq!(evidence.count(), 0);
}

#[test]
fn the_command_that_keeps_all_slots_busy_can_be_cancelled() {
    let (redis, _worker, _, ctl) = fleet(NARROW);
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let first = ctl.ask("web1", &gate.script());
    gate.reached();
    let second = ctl.ask("web1", &evidence.script());
    ctl.run(["job", "cancel", &first]).expect(0);
    ctl.run(["job", "wait", &second]).expect(0);
    assert_eq!(ctl.standing(&first), standing([("web1", "cancelled")]));
    assert_eq!(evidence.count(), 1);
}

#[test]
fn on_a_host_that_is_away_it_never_starts_once_it_is_back() {
    let (redis, mut worker, mut raw, ctl) = fleet("");
    worker.terminate();
    let evidence = Evidence::new(&redis, "evidence");
    let jobs: Vec<_> = (0..10).map(|_| ctl.ask("web1", &evidence.script())).collect();
    for job in &jobs {
        let cancelled = ctl.run(["job", "cancel", job]).expect(0);
        let said = "web1: offline; once it is back the command ends there, or never starts\n";
        assert!(cancelled.stderr.ends_with(said), "{cancelled}");
        assert_eq!(ctl.standing(job), standing([("web1", "queued")]), "only the worker writes its host's state");
    }
    let _worker = worker.options().start();
    for job in &jobs {
        wait_standing(&ctl, job, [("web1", "cancelled")]);
    }
    raw.wait_control_settled("web1");
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 0);
}

#[test]
fn what_has_ended_cannot_be_cancelled_and_that_is_said() {
    let (redis, _worker, mut raw, ctl) = fleet("");
    let job = ctl.ask("web1", "echo done; exit 3");
    let waited = ctl.run(["job", "wait", &job]).expect(2);
    let refused = ctl.run(["job", "cancel", &job]).expect(1);
    assert!(refused.stderr.starts_with("web1: has ended already: failed: exit code 3\n"), "{refused}");
    assert!(refused.stderr.contains("error: nothing to cancel: the job has ended on 1 host"), "{refused}");
    assert_eq!(redis.cli(["XLEN", "server:{web1}:control"]), "0", "nobody is bothered");
    // Even an order that comes too late changes nothing.
    raw.add_control("web1", &Control::Cancel(job.parse().expect("an id")).fields());
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
    let job = ctl.ask("web1,web2", &wait);
    gates.iter_mut().for_each(Gate::reached);
    let stranger = ctl.run(["job", "cancel", &job, "--host", "web3"]).expect(1);
    assert!(stranger.stderr.contains("error: web3 is not among the hosts of job "), "{stranger}");
    let cancelled = ctl.run(["job", "cancel", &job, "--host", "web1"]).expect(0);
    assert_eq!(cancelled.stderr, "web1: cancelled: while it ran\n");
    assert_eq!(ctl.standing(&job), standing([("web1", "cancelled"), ("web2", "running")]));
    gates[1].open();
    wait_standing(&ctl, &job, [("web1", "cancelled"), ("web2", "succeeded")]);
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
    raw.add_control("web1", &Control::Cancel(manifest.job).fields());
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
fn an_order_outlives_the_worker_that_was_just_given_it() {
    let (redis, mut worker, mut raw, _) = fleet("");
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    raw.wait_reading();
    worker.stop();
    // Redis hands over the order first; that reader takes nothing else.
    raw.add_control("web1", &Control::Cancel(manifest.job).fields());
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
    raw.add_control("web1", &Control::Cancel(manifest.job).fields());
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
