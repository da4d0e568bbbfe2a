//! Trust files that cannot be read for a while.

use std::process::Command;

use protocol::{
    command::{Envelope, Manifest},
    outcome::{Outcome, State},
    targets::Targets,
};
use tests::{Raw, Redis, Signatory, Worker, eventually, renewed};

/// Lets a process have this many files open.
fn limit_files(worker: &Worker, limit: u32) {
    let (pid, limit) = (worker.pid().to_string(), format!("--nofile={limit}:"));
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(status.expect("prlimit of util-linux").success());
}

/// What comes of a ping that bob asks for.
fn ping(raw: &mut Raw, bob: &Signatory) -> Outcome {
    let manifest = renewed(Manifest { operator: "bob".into(), ..raw.manifest(&["web1"], "ping") });
    let targets = Targets::new(["web1".parse().expect("a name")]);
    let (_, proof) = targets.proofs().next().expect("one host");
    raw.add("web1", &Envelope { signed: bob.sign(&manifest), proof }.fields());
    raw.outcome("web1", &manifest)
}

/// It may be the list of what is revoked that cannot be read: that must not wait until somebody notices.
#[test]
fn a_file_that_cannot_be_read_is_tried_again() {
    let redis = Redis::start();
    let options = Worker::on(&redis);
    let (ann, bob) = (Signatory::new(10), Signatory::new(11));
    options.trust(&format!("# version: 1\n{}", ann.line("ann", "")));
    let worker = options.start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);

    limit_files(&worker, 3);
    worker.options().trust(&format!("# version: 2\n{}", bob.line("bob", "")));
    assert!(worker.wait_log("Too many open files").contains("what was in force before stays"));
    limit_files(&worker, 256);
    worker.wait_log("is in force: version 2");
    let ping = ping(&mut raw, &bob);
    assert_eq!(ping.state, State::Succeeded, "{ping:?}");
    let trouble = || worker.status().and_then(|status| status.trust);
    eventually("the status to be in order", || trouble().is_none().then_some(()));
}
