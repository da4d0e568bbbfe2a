//! The network between worker and Redis is slow, or breaks so that one end does not notice.

use protocol::{
    keys::Keys,
    outcome::{Outcome, State},
};
use tests::{Evidence, Gate, Network, Raw, Redis, Worker, eventually};

fn fleet() -> (Redis, Network, Worker, Raw) {
    let redis = Redis::start();
    let network = Network::to(&redis);
    let config = "sample_interval = '1s'\ngrace = '100ms'";
    let worker = Worker::on(&redis).redis(&network.url()).config(config).allow_exec().start();
    let raw = Raw::on(&redis);
    (redis, network, worker, raw)
}

#[test]
fn an_entry_delivered_to_a_dead_connection_is_found() {
    let (redis, network, _worker, mut raw) = fleet();
    raw.wait_reading();
    network.cut();
    // The old reader still blocks in Redis and was first: Redis delivers the next entry to it.
    eventually("the next reader", || (raw.readers() == 2).then_some(()));
    let evidence = Evidence::new(&redis, "evidence");
    let manifest = raw.shell("web1", &evidence.script());
    raw.send("web1", &manifest);
    assert_eq!((raw.pending("web1"), raw.readers()), (1, 1));
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_late_reply_that_lists_an_ended_command_as_pending_does_not_start_it_again() {
    let (redis, network, mut worker, mut raw) = fleet();
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    // A reader that reconnects first reads what is pending. The reply lists the running command, and is late.
    network.hold_on_new("XREADGROUP");
    let _: u64 = raw.query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    network.wait_held();
    gate.open();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
    // Once the worker has written something else, it has also processed the reply to the outcome.
    for _ in 0..2 {
        let sampled = |raw: &mut Raw| raw.query::<Option<String>>(&["HGET", "server:{web1}:load", "sampled_at"]);
        let before = sampled(&mut raw);
        eventually("the next sample", || (sampled(&mut raw) != before).then_some(()));
    }
    network.release();
    raw.ping("web1");
    worker.terminate();
    let mut states = raw.states(&manifest);
    // The killed connection may have been about to confirm the first state, which is then published twice.
    states.dedup();
    assert_eq!(states, [State::Running, State::Succeeded]);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn an_outcome_whose_reply_was_lost_is_published_again_without_harm() {
    let (redis, network, _worker, mut raw) = fleet();
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}; echo done", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    // Only the publisher writes this field; the job's id may occur in the reader's requests too.
    network.hold("finished_at");
    gate.open();
    let Outcome { state, stdout, .. } = raw.outcome("web1", &manifest);
    assert_eq!((state, &*stdout.kept), (State::Succeeded, &b"done\n"[..]));
    network.wait_held();
    assert_eq!(raw.pending("web1"), 1, "not acknowledged before Redis has confirmed the outcome");
    network.cut();
    raw.wait_settled("web1");
    let again = raw.outcome("web1", &manifest);
    assert_eq!((again.state, &*again.stdout.kept), (State::Succeeded, &b"done\n"[..]));
    let hosts: Vec<(String, String)> = raw.query(&["HGETALL", &Keys::new(None).job_hosts(manifest.job)]);
    assert_eq!(hosts, [("web1".to_owned(), "succeeded".to_owned())]);
    assert_eq!(evidence.count(), 1);
}
