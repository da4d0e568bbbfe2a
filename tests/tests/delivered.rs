//! A command that a worker has taken is never called expired, even if nothing more is heard of it.

use tests::{Ctl, Evidence, Gate, Network, Raw, Redis, Worker, eventually};

/// Whatever asks `ctl` finds the job delivered, without an end.
#[track_caller]
fn expect_delivered(redis: &Redis, ctl: &Ctl, job: &str) {
    eventually("its start-by to pass", || {
        let listed = ctl.run(["job", "list", "-o", "json"]).expect(0).json();
        let states = &listed.as_array().expect("a list").iter().find(|listed| listed["job"] == job)?["states"];
        assert_eq!(states.get("expired"), None, "{listed:#}");
        (states["delivered"] == 1).then_some(())
    });
    eventually("it to be shown as delivered", || {
        let states = ctl.host_states(job);
        assert_ne!(states[0].1, "expired");
        (states[0].1 == "delivered").then_some(())
    });
    let shown = ctl.run(["job", "show", job]).expect(0);
    assert!(shown.stderr.contains("web1: delivered: no word since "), "{shown}");
    let waiting = ctl.spawn(["job", "wait", job]);
    // Behind its first look it waits for events.
    eventually("it to wait", || redis.cli(["CLIENT", "LIST"]).contains("cmd=xread ").then_some(()));
    waiting.interrupt();
    waiting.wait().expect(4);
}

#[test]
fn a_command_whose_result_cannot_be_written_is_delivered() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let (ctl, evidence, mut gate) = (Ctl::on(&redis), Evidence::new(&redis, "evidence"), Gate::new(&redis, "gate"));
    // The command is delivered to a worker that waits for it.
    Raw::on(&redis).wait_reading();
    worker.stop();
    let script = format!("{}; {}", evidence.script(), gate.script());
    let words = ["run", "--host", "web1", "--detach", "--start-by", "8s", "exec", "--", "sh", "-c", &script];
    let job = ctl.run(words).expect(0).stdout.trim().to_owned();
    // Less than an empty server needs.
    redis.cli(["CONFIG", "SET", "maxmemory", "1"]);
    worker.cont();
    gate.reached();
    gate.open();
    worker.wait_log("Redis refuses writes");
    expect_delivered(&redis, &ctl, &job);

    redis.cli(["CONFIG", "SET", "maxmemory", "0"]);
    ctl.run(["job", "wait", &job]).expect(0);
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_command_of_a_worker_that_may_not_run_scripts_is_delivered() {
    let redis = Redis::start();
    redis.cli(["ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", "-@scripting"]);
    let worker = Worker::on(&redis).redis(&format!("{}?user=worker&pass=secret", redis.url())).allow_exec().start();
    worker.wait_online();
    let (ctl, evidence) = (Ctl::on(&redis), Evidence::new(&redis, "evidence"));
    let words = ["run", "--host", "web1", "--detach", "--start-by", "8s", "exec", "--", "sh", "-c", &evidence.script()];
    let job = ctl.run(words).expect(0).stdout.trim().to_owned();
    evidence.wait();
    expect_delivered(&redis, &ctl, &job);

    redis.cli(["ACL", "SETUSER", "worker", "+@scripting"]);
    ctl.run(["job", "wait", &job]).expect(0);
    Raw::on(&redis).wait_settled("web1");
    assert_eq!(evidence.count(), 1);
}

#[test]
fn a_command_that_ends_between_two_looks_is_never_called_expired() {
    let words: [(&[&str], &str); 2] = [(&["job", "wait"], "EXISTS"), (&["job", "list", "-o", "json"], "HKEYS")];
    for (words, look) in words {
        let redis = Redis::start();
        redis.cli(["ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", "-@scripting"]);
        let worker = Worker::on(&redis).redis(&format!("{}?user=worker&pass=secret", redis.url())).allow_exec().start();
        worker.wait_online();
        let (ctl, evidence, network) = (Ctl::on(&redis), Evidence::new(&redis, "evidence"), Network::to(&redis));
        let script = evidence.script();
        let dispatch = ["run", "--host", "web1", "--detach", "--start-by", "8s", "exec", "--", "sh", "-c", &script];
        let job = ctl.run(dispatch).expect(0).stdout.trim().to_owned();
        evidence.wait();
        eventually("it to be shown as delivered", || (ctl.host_states(&job)[0].1 == "delivered").then_some(()));

        // `ctl` has read that the host has published nothing, and looks at its inbox only after it has.
        let asking = ctl.through(&redis, &network.url());
        network.hold(look);
        let words = words.iter().copied().chain((words[1] == "wait").then_some(job.as_str()));
        let asking = asking.spawn(words);
        network.wait_held();
        redis.cli(["ACL", "SETUSER", "worker", "+@scripting"]);
        Raw::on(&redis).wait_settled("web1");
        network.release();
        let said = asking.wait().expect(0);
        assert!(!said.stdout.contains("expired") && !said.stderr.contains("expired"), "{said}");
    }
}
