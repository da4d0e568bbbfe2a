//! The trust file is reread when the worker is told to.

use std::process::Command;

use protocol::{
    command::{Envelope, Manifest},
    outcome::{Outcome, State},
    targets::Targets,
};
use tests::{Raw, Redis, Signatory, Worker, renewed};

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

/// A changed file is reread by itself, so a hangup makes a difference only where that has failed: the worker may open no
/// more files when the file changes, and looks at it no more until it changes again.
#[test]
fn a_hangup_brings_a_file_into_force_that_could_not_be_read() {
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
    let before = ping(&mut raw, &bob);
    assert_eq!(before.state, State::Rejected, "{before:?}");
    worker.hangup();
    worker.wait_log("is in force: version 2");
    let after = ping(&mut raw, &bob);
    assert_eq!(after.state, State::Succeeded, "{after:?}");
    assert_eq!(worker.status().and_then(|status| status.trust), None);
}
