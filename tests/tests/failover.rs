//! A failover loses the newest writes: a waiting `ctl` still gets its result, and nothing runs twice.

use protocol::{acl::Role, outcome::State};
use tests::{Ctl, Evidence, Gate, Network, Raw, Redis, Running, Worker, eventually};

/// A primary, its replica, and a network that leads all clients to the current primary.
struct Pair {
    primary: Redis,
    replica: Redis,
    network: Network,
}

impl Pair {
    fn start() -> Self {
        // Else the primary waits some seconds for further replicas before it sends its data.
        let primary = Redis::options().tcp().set("repl-diskless-sync-delay", "0").start();
        let replica = Redis::options().replica_of(&primary).start();
        let network = Network::to(&primary);
        Self { primary, replica, network }
    }

    /// Waits until the replica has this key.
    #[track_caller]
    fn wait_replicated(&self, key: &str) {
        eventually(&format!("{key} on the replica"), || (self.replica.cli(["EXISTS", key]) == "1").then_some(()));
    }

    /// Promotes the replica without the primary's knowledge: whatever the primary acknowledges from now on will be
    /// lost with it.
    fn promote(&self) {
        self.replica.cli(["REPLICAOF", "NO", "ONE"]);
    }

    /// Kills the primary and leads all clients to the new one.
    fn fail_over(&mut self) {
        self.primary.kill9();
        self.network.lead_to(&self.replica);
    }
}

/// A pair with an online worker whose keys have reached the replica.
fn fleet() -> (Pair, Worker, Ctl) {
    let pair = Pair::start();
    let worker = Worker::on(&pair.primary).redis(&pair.network.url()).allow_exec().start();
    worker.wait_online();
    pair.replica.admit(&Role::Worker("web1".parse().expect("a valid host name")), None);
    pair.wait_replicated("server:{web1}:facts");
    let ctl = Ctl::alone().through(&pair.primary, &pair.network.url());
    (pair, worker, ctl)
}

fn run(ctl: &Ctl, script: &str) -> Running {
    ctl.spawn(["run", "--host", "web1", "--wait", "exec", "--", "sh", "-c", script])
}

/// The program has printed `done` and has run once; the new primary has the outcome, and the inbox is empty.
#[track_caller]
fn expect_done(pair: &Pair, ctl: &Ctl, running: Running, evidence: &Evidence) {
    let output = running.wait().expect(0);
    assert_eq!(output.stdout, "done\n", "{output}");
    Raw::on(&pair.replica).wait_settled("web1");
    assert_eq!(ctl.host_states("last"), [("web1".into(), State::Succeeded.to_string())]);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_command_that_only_the_dead_primary_had_is_redispatched() {
    let (mut pair, mut worker, ctl) = fleet();
    worker.terminate();
    pair.promote();
    let evidence = Evidence::new(&pair.primary, "evidence");
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    eventually("the dispatch", || (pair.primary.cli(["XLEN", "server:{web1}:commands"]) == "1").then_some(()));
    pair.fail_over();
    running.wait_stderr("the job is gone from Redis");
    running.wait_stderr("dispatched again under the same id");
    let _worker = worker.options().start();
    expect_done(&pair, &ctl, running, &evidence);
}

#[test]
fn a_command_that_runs_while_its_primary_dies_goes_on_and_its_result_arrives() {
    let (mut pair, worker, ctl) = fleet();
    pair.promote();
    let (evidence, mut gate) = (Evidence::new(&pair.primary, "evidence"), Gate::new(&pair.primary, "gate"));
    let running = run(&ctl, &format!("{}; {}; echo done", evidence.script(), gate.script()));
    gate.reached();
    pair.fail_over();
    // The new primary delivers the command a second time.
    running.wait_stderr("dispatched again under the same id");
    worker.wait_log("Redis is back");
    Raw::on(&pair.replica).wait_dropped("web1", "duplicate", 1);
    gate.open();
    expect_done(&pair, &ctl, running, &evidence);
}

#[test]
fn an_outcome_that_only_the_dead_primary_had_is_published_from_the_journal() {
    let (mut pair, _worker, ctl) = fleet();
    pair.promote();
    let evidence = Evidence::new(&pair.primary, "evidence");
    // Redis' replies with the events reach `ctl` too late. (The worker reads by XREADGROUP.)
    pair.network.hold("XREAD\r\n");
    let running = run(&ctl, &format!("{}; echo done", evidence.script()));
    pair.network.wait_held();
    evidence.wait();
    Raw::on(&pair.primary).wait_settled("web1");
    pair.fail_over();
    running.wait_stderr("dispatched again under the same id");
    expect_done(&pair, &ctl, running, &evidence);
}

#[test]
fn an_ended_command_that_the_new_primary_has_as_unread_is_published_from_the_journal() {
    let (mut pair, mut worker, ctl) = fleet();
    worker.terminate();
    let evidence = Evidence::new(&pair.primary, "evidence");
    let job = ctl.dispatch("web1", &format!("{}; echo done", evidence.script()));
    eventually("its entry on the replica", || {
        (pair.replica.cli(["XLEN", "server:{web1}:commands"]) == "1").then_some(())
    });
    pair.promote();
    let mut worker = worker.options().start();
    evidence.wait();
    Raw::on(&pair.primary).wait_settled("web1");
    assert_eq!(ctl.host_states(&job), [("web1".into(), State::Succeeded.to_string())]);
    worker.terminate();
    pair.fail_over();
    assert_eq!(ctl.host_states(&job), [("web1".into(), State::Queued.to_string())]);
    let waiting = ctl.spawn(["job", "wait", &job]);
    let _worker = worker.options().start();
    expect_done(&pair, &ctl, waiting, &evidence);
}
