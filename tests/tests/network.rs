//! The network between worker and Redis is late, or breaks without telling both ends.

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
fn what_redis_gave_to_a_dead_connection_is_found() {
    let (redis, network, _worker, mut raw) = fleet();
    raw.wait_reading();
    network.cut();
    // The old reader still blocks in Redis, and came first: it is given what comes.
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
fn what_was_told_already_is_not_begun_again_when_a_late_answer_still_lists_it() {
    let (redis, network, mut worker, mut raw) = fleet();
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    // A reader that connects anew first asks what is pending; the answer names what runs, and is late.
    network.hold_on_new("XREADGROUP");
    let _: u64 = raw.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    network.wait_held();
    gate.open();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
    // The worker knows that it is settled once it has written something else.
    for _ in 0..2 {
        let sampled = |raw: &mut Raw| raw.ask::<Option<String>>(&["HGET", "server:{web1}:load", "sampled_at"]);
        let before = sampled(&mut raw);
        eventually("the next sample", || (sampled(&mut raw) != before).then_some(()));
    }
    network.release();
    raw.ping("web1");
    worker.terminate();
    assert_eq!(raw.states(&manifest), [State::Running, State::Succeeded]);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn an_answer_whose_receipt_was_lost_is_written_again_without_harm() {
    let (redis, network, _worker, mut raw) = fleet();
    let (evidence, mut gate) = (Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}; echo done", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    // A field of results: the job's id alone may stand in what the reader asks, too.
    network.hold("finished_at");
    gate.open();
    let Outcome { state, stdout, .. } = raw.outcome("web1", &manifest);
    assert_eq!((state, &*stdout.kept), (State::Succeeded, &b"done\n"[..]));
    network.wait_held();
    assert_eq!(raw.pending("web1"), 1, "not acknowledged before it is known to be written");
    network.cut();
    raw.wait_settled("web1");
    let again = raw.outcome("web1", &manifest);
    assert_eq!((again.state, &*again.stdout.kept), (State::Succeeded, &b"done\n"[..]));
    let hosts: Vec<(String, String)> = raw.ask(&["HGETALL", &Keys::new(None).job_hosts(manifest.job)]);
    assert_eq!(hosts, [("web1".to_owned(), "succeeded".to_owned())]);
    assert_eq!(evidence.count(), 1);
}
