//! Going on from another machine.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protocol::{rollout::Plan, signed::Signed, targets::Targets};
use tests::{Ctl, Gate, Signatory, eventually};

use super::Hosts;

#[test]
fn what_failed_or_was_not_reached_is_gone_on_with() {
    let hosts = Hosts::start(5);
    hosts.fail("web2");
    let output = hosts.run("--batch 2").expect(2);
    hosts.expect_once([1, 2]);
    let line = output.stderr.lines().find(|line| line.contains("ctl job resume")).expect("a hint");
    let id = line.rsplit(' ').next().expect("an id");

    hosts.mend("web2");
    let output = hosts.elsewhere().run(["job", "resume", id]).expect(0);
    assert_eq!(
        hosts.ran(),
        [("web1", 1), ("web2", 2), ("web3", 1), ("web4", 1), ("web5", 1)]
            .map(|(host, count)| (host.to_owned(), count))
            .into()
    );
    assert!(output.stderr.contains("on 4 hosts: web[2-5]"), "{output}");
    assert!(output.stderr.contains("4 hosts in 2 waves, 2 at a time"), "{output}");

    // Whichever of the runs is named, all hosts count.
    let output = hosts.elsewhere().run(["job", "resume", id]).expect(0);
    assert!(output.stderr.contains("nothing to go on with: succeeded on 5 hosts"), "{output}");
}

#[test]
fn only_some_of_them_are_gone_on_with() {
    let hosts = Hosts::start(3);
    hosts.fail("web1");
    hosts.run("--batch 1").expect(2);
    hosts.mend("web1");
    let resume = |flags: &[&str]| hosts.elsewhere().run(["job", "resume", "last"].iter().chain(flags));
    // What is left for another time is not forgotten.
    resume(&["--only", "unreached", "--batch", "2"]).expect(4);
    hosts.expect_once(1..=3);
    let output = resume(&[]).expect(0);
    assert!(output.stderr.contains("on 1 host: web1"), "{output}");
    assert_eq!(hosts.ran()["web1"], 2);
    resume(&[]).expect(0);
}

#[test]
fn a_job_that_was_sent_at_once_is_gone_on_with_too() {
    let hosts = Hosts::start(3);
    hosts.fail("web3");
    hosts.run("").expect(2);
    hosts.mend("web3");
    let output = hosts.elsewhere().run(["job", "resume", "last"]).expect(0);
    assert!(output.stderr.contains("on 1 host: web3"), "{output}");
    assert_eq!(hosts.ran()["web3"], 2);
    let output = hosts.elsewhere().run(["job", "resume", "last"]).expect(0);
    assert!(output.stderr.contains("nothing to go on with: succeeded on 3 hosts"), "{output}");
    let output = hosts.elsewhere().run(["job", "rerun", "last", "--batch", "2"]).expect(0);
    assert!(output.stderr.contains("on 3 hosts: web[1-3]"), "{output}");
    assert_eq!(hosts.ran()["web3"], 3);
}

#[test]
fn whoever_resumes_a_run_takes_it_from_its_driver() {
    let hosts = Hosts::start(3);
    let running = hosts.spawn("--batch 1 --batch-wait 15s");
    running.wait_stderr("web1: succeeded");
    let refused = hosts.elsewhere().run(["job", "resume", "last"]).expect(1);
    assert!(refused.stderr.contains("a ctl has driven it within the last seconds"), "{refused}");
    hosts.elsewhere().run(["job", "resume", "last", "--yes", "--batch", "2"]).expect(0);
    hosts.expect_once(1..=3);
    let output = running.wait().expect(4);
    assert!(
        output.stderr.contains("stopped after wave 1 of 3: somebody has taken it over, or cancelled a wave of it"),
        "{output}"
    );
    hosts.expect_once(1..=3);
}

#[test]
fn what_another_key_has_signed_is_shown_and_asked_about() {
    let hosts = Hosts::start(2);
    hosts.fail("web1");
    hosts.run("--batch 1").expect(2);
    hosts.mend("web1");
    let job =
        hosts.ctl.run(["job", "list", "-o", "json"]).expect(0).json()[0]["job"].as_str().expect("an id").to_owned();
    let other = Ctl::on(&hosts.redis).with_key(&Signatory::new(7));
    let output = other.run(["job", "resume", &job]).expect(1);
    assert!(output.stderr.contains("it was not signed with your key"), "{output}");
    assert!(output.stderr.contains("asked by") && output.stderr.contains("web[1,2]"), "{output}");
    hosts.expect_once([1]);
}

#[test]
fn a_run_that_was_changed_in_redis_is_not_gone_on_with() {
    let hosts = Hosts::start(3);
    hosts.fail("web1");
    hosts.run_on("web1,web2", "--batch 1").expect(2);
    let key = hosts.redis.cli(["--scan", "--pattern", "job:*:rollout"]);
    let job =
        hosts.ctl.run(["job", "list", "-o", "json"]).expect(0).json()[0]["job"].as_str().expect("an id").to_owned();
    // Another host is slipped in.
    hosts.redis.cli(["HSET", &key, "targets", "web1 web2 web3"]);
    let output = hosts.elsewhere().run(["job", "resume", &job]).expect(1);
    assert!(output.stderr.contains("cannot be read: the field 'targets' does not belong to the plan"), "{output}");
    hosts.redis.cli(["HSET", &key, "targets", "web1 web2", "wave:2", &format!("{job} web3")]);
    let output = hosts.elsewhere().run(["job", "resume", &job]).expect(1);
    assert!(output.stderr.contains("the field 'wave:2' is malformed"), "{output}");
    hosts.expect_once([1]);
}

#[test]
fn secrets_are_given_once_more() {
    let hosts = Hosts::start(2);
    let script = format!("test ${{#TOKEN}} = 7 && {}", hosts.script());
    hosts.fail("web1");
    let words = ["run", "--all", "--batch", "1", "exec", "secret.TOKEN=hunter2", "--", "sh", "-c", &script];
    hosts.ctl.run(words).expect(2);
    hosts.mend("web1");
    let output = hosts.elsewhere().run(["job", "resume", "last"]).expect(1);
    assert!(output.stderr.contains("it has secrets, which Redis does not have: secret"), "{output}");
    hosts.elsewhere().run(["job", "resume", "last", "secret.TOKEN=hunter2"]).expect(0);
    assert_eq!(hosts.ran()["web2"], 1);
    let stored = hosts.redis.cli(["--scan", "--pattern", "*:rollout"]);
    for key in stored.lines() {
        assert!(!hosts.redis.cli(["HGETALL", key]).contains("hunter2"), "{key}");
    }
}

#[test]
fn a_driver_that_was_frozen_sends_nothing_more() {
    let hosts = Hosts::start(4);
    let running = hosts.spawn("--batch 1 --batch-wait 3s");
    running.wait_stderr("web1: succeeded");
    let driver = Pid::from_raw(running.pid().cast_signed());
    kill(driver, Signal::SIGSTOP).expect("a signal");
    // Wherever it was frozen: what it has claimed is sent by the other, under the same id.
    hosts.elsewhere().run(["job", "resume", "last", "--yes"]).expect(0);
    kill(driver, Signal::SIGCONT).expect("a signal");
    running.wait().expect(4);
    hosts.expect_once(1..=4);
}

#[test]
fn of_several_who_resume_a_run_one_does() {
    let hosts = Hosts::start(6);
    hosts.fail("web1");
    hosts.run("--batch 1").expect(2);
    hosts.mend("web1");
    // So many that some do it in the same millisecond.
    let all: Vec<_> = (0..6).map(|_| hosts.elsewhere()).collect();
    let all: Vec<_> = all.iter().map(|ctl| ctl.spawn(["job", "resume", "last", "--yes"])).collect();
    for output in all.into_iter().map(tests::Running::wait) {
        let refused = output.stderr.contains("has been begun already") || output.stderr.contains("taken it over");
        // A later one may take it from another.
        assert!(output.code == 0 || refused, "{output}");
    }
    hosts.elsewhere().run(["job", "resume", "last", "--yes"]).expect(0);
    for (host, times) in hosts.ran() {
        assert_eq!(times, if host == "web1" { 2 } else { 1 }, "{host}");
    }
    assert_eq!(hosts.ran().len(), 6);
}

#[test]
fn a_run_that_redis_has_lost_stops() {
    let hosts = Hosts::start(3);
    let running = hosts.spawn("--batch 1 --batch-wait 5s");
    running.wait_stderr("web1: succeeded");
    hosts.redis.cli(["FLUSHALL"]);
    let output = running.wait();
    // Until the hosts have sent a heartbeat, they are unknown.
    assert_ne!(output.code, 0, "{output}");
    assert!(output.stderr.contains("not reached: web"), "{output}");
    assert!(output.stderr.contains("Redis has lost the record of the run"), "{output}");
    assert!(output.stderr.contains("do not resume it"), "{output}");
    hosts.expect_once([1]);
}

#[test]
fn a_wave_of_which_redis_has_lost_the_claim_is_not_repeated() {
    let hosts = Hosts::start(4);
    hosts.fail("web3");
    let running = hosts.spawn("--batch 1 --batch-wait 5s");
    running.wait_stderr("web1: succeeded");
    // As a failover does that loses the newest writes.
    let key = hosts.redis.cli(["--scan", "--pattern", "job:*:rollout"]);
    assert_eq!(hosts.redis.cli(["HDEL", &key, "wave:1"]), "1");
    running.wait_stderr("wave 2 of 4");
    running.wait().expect(2);
    hosts.expect_once(1..=3);
    hosts.mend("web3");
    hosts.elsewhere().run(["job", "resume", "last"]).expect(0);
    let ran: Vec<_> = hosts.ran().into_values().collect();
    assert_eq!(ran, [1, 1, 2, 1]);
}

#[test]
fn a_wave_that_redis_has_lost_is_claimed_before_it_is_sent_once_more() {
    let hosts = Hosts::start(2);
    let mut gate = Gate::new(&hosts.redis, "gate");
    let script = format!("{}; test $REDFLEET_HOST != web1 || {}", hosts.script(), gate.script());
    let mut running = hosts.ctl.spawn(["run", "--all", "--batch", "1", "exec", "--", "sh", "-c", &script]);
    gate.reached();
    // All of the wave is lost, but not that the run was begun.
    let rollout = hosts.redis.cli(["--scan", "--pattern", "job:*:rollout"]);
    let job = hosts.redis.cli(["HGET", &rollout, "wave:1"]).split(' ').next().expect("a job").to_owned();
    hosts.redis.cli(["HDEL", &rollout, "wave:1"]);
    hosts.redis.cli(["DEL", &format!("job:{{{job}}}"), &format!("job:{{{job}}}:hosts")]);
    running.wait_stderr("dispatched again under the same id");
    running.kill9();
    gate.open();
    hosts.elsewhere().run(["job", "resume", "last", "--yes"]).expect(0);
    hosts.expect_once(1..=2);
}

#[test]
fn a_run_whose_first_plan_was_replaced_is_asked_about() {
    let hosts = Hosts::start(3);
    hosts.fail("web1");
    hosts.run_on("web1,web2", "--batch 1").expect(2);
    let first = hosts.redis.cli(["--scan", "--pattern", "job:*:rollout"]);
    hosts.elsewhere().run(["job", "resume", "last"]).expect(2);
    // Its own plan names a host more than the one that was signed; the newest run is as it was.
    let mut redis = hosts.redis.blocking();
    let plan: Vec<u8> = redis::cmd("HGET").arg(&first).arg("plan").query(&mut redis).expect("a plan");
    let plan = Signed::<Plan>::of_bytes(plan, Vec::new()).open().expect("a plan");
    let targets = Targets::new(["web1", "web2", "web3"].map(|name| name.parse().expect("a name")));
    let forged = Signed::unsigned(&Plan { targets: targets.root(), ..plan }).bytes;
    let mut set = redis::cmd("HSET");
    set.arg(&first).arg("plan").arg(forged).arg("targets").arg("web1 web2 web3");
    set.query::<u64>(&mut redis).expect("Redis");
    hosts.mend("web1");
    let output = hosts.elsewhere().run(["job", "resume", "last"]).expect(1);
    assert!(output.stderr.contains("it was not signed with your key"), "{output}");
    assert!(!hosts.ran().contains_key("web3"));
}

#[test]
fn a_host_that_dies_does_not_hold_the_others_up() {
    let mut hosts = Hosts::start(2);
    let mut gate = Gate::new(&hosts.redis, "gate");
    let script = format!("test $REDFLEET_HOST = web2 || {}", gate.script());
    let words = ["run", "--all", "--batch", "1", "--max-fail", "1", "exec", "--", "sh", "-c", &script];
    let running = hosts.ctl.spawn(words);
    gate.reached();
    hosts.workers[0].kill9();
    // Its command may run for an hour. Once it is offline, the next wave begins.
    let output = running.wait().expect(4);
    assert!(output.stderr.contains("wave 2 of 2: web2"), "{output}");
    assert!(output.stderr.contains("1 succeeded, 1 running"), "{output}");
    let output = hosts.elsewhere().run(["job", "resume", "last"]).expect(4);
    assert!(output.stderr.contains("web1: left out: its command is running and may still run"), "{output}");
}

#[test]
fn whoever_cancels_a_wave_stops_the_run() {
    let hosts = Hosts::start(2);
    let mut gate = Gate::new(&hosts.redis, "gate");
    let words = ["run", "--all", "--batch", "1", "--max-fail", "2", "exec", "--", "sh", "-c", &gate.script()];
    let running = hosts.ctl.spawn(words);
    gate.reached();
    let job = eventually("the first wave", || {
        let jobs = hosts.ctl.run(["job", "list", "-o", "json"]).expect(0).json();
        jobs[0]["job"].as_str().map(str::to_owned)
    });
    hosts.elsewhere().run(["job", "cancel", &job]).expect(0);
    let output = running.wait().expect(2);
    assert!(output.stderr.contains("not reached: web2"), "{output}");
}
