//! Hosts that are offline: `ctl run` waits for them only with `--wait`.

use protocol::limits;
use tests::{Ctl, Gate, Raw, Redis, Worker, eventually};

/// `web1` is online, `web2` has stopped.
fn fleet() -> (Redis, Worker, Worker, Ctl) {
    let redis = Redis::start();
    let [online, mut away] = ["web1", "web2"].map(|name| Worker::on(&redis).host(name).allow_exec().start());
    online.wait_online();
    away.wait_online();
    // Whoever replies has made its streams, which a worker that is merely online may not have yet.
    Raw::on(&redis).ping("web2");
    away.terminate();
    let ctl = Ctl::on(&redis);
    (redis, online, away, ctl)
}

#[test]
fn a_run_ends_once_only_offline_hosts_remain() {
    let (_redis, _online, away, ctl) = fleet();
    let output = ctl.run(["run", "--all", "collect-cpu"]).expect(4);
    assert!(output.stdout.contains("web1"), "the results of the others are printed: {output}");
    assert!(output.stderr.contains("web2: offline, last seen "), "{output}");
    let (_, job) = output.stderr.split_once("1 host still queued: ctl job wait ").expect("what to do about it");
    let job = job.trim();

    let waiting = ctl.spawn(["job", "wait", job, "-o", "json"]);
    waiting.wait_stderr("web2: offline");
    let _back = away.options().start();
    assert_eq!(waiting.wait().expect(0).json()["summary"]["succeeded"], 2);
}

#[test]
fn a_run_on_offline_hosts_alone_ends_at_once() {
    let (_redis, _online, _away, ctl) = fleet();
    let output = ctl.run(["run", "--host", "web2", "--follow", "ping"]).expect(4);
    assert!(output.stderr.contains("1 host still queued: ctl job wait "), "{output}");
}

#[test]
fn a_host_that_returns_while_others_are_awaited_is_awaited_too() {
    let (redis, _online, away, ctl) = fleet();
    let [mut first, mut second] = ["web1", "web2"].map(|name| Gate::new(&redis, name));
    let script = format!("case $REDFLEET_HOST in web1) {};; *) {};; esac", first.script(), second.script());
    let running = ctl.spawn(["run", "--all", "-o", "json", "exec", "--", "sh", "-c", &script]);
    first.reached();
    let _back = away.options().start();
    second.reached();
    first.open();
    eventually("the first end", || (!redis.cli(["KEYS", "job:*:result:web1"]).is_empty()).then_some(()));
    second.open();
    assert_eq!(running.wait().expect(0).json()["summary"]["succeeded"], 2);
}

#[test]
fn a_run_can_wait_for_offline_hosts() {
    let (_redis, _online, away, ctl) = fleet();
    let running = ctl.spawn(["run", "--all", "--wait", "ping"]);
    running.wait_stderr("web2: offline");
    let _back = away.options().start();
    running.wait().expect(0);
}

#[test]
fn offline_hosts_can_be_left_out() {
    let (redis, _online, _away, ctl) = fleet();
    let output = ctl.run(["run", "--all", "--online", "ping"]).expect(0);
    assert!(output.stderr.contains("left out: web2 is offline\n"), "{output}");
    assert_eq!(redis.cli(["XLEN", "server:{web2}:commands"]), "0");
    let output = ctl.run(["run", "--host", "web2", "--online", "ping"]).expect(1);
    assert!(output.stderr.contains("nothing was sent: web2 is offline"), "{output}");
}

#[test]
fn a_host_that_is_gone_for_good_can_be_forgotten() {
    let (redis, _online, mut away, ctl) = fleet();
    let refused = ctl.run(["host", "forget", "web2", "web1"]).expect(1);
    assert!(refused.stderr.contains("web1 is online") && refused.stderr.contains("nothing was removed"), "{refused}");
    ctl.run(["run", "--host", "web2", "ping"]).expect(4);
    ctl.run(["run", "--host", "web2", "ping"]).expect(4);

    let forgotten = ctl.run(["host", "forget", "web2"]).expect(0);
    assert!(forgotten.stderr.contains("web2: forgotten, with 2 queued commands ("), "{forgotten}");
    // What was thrown away is not awaited, and not taken for lost.
    let waited = ctl.run(["job", "wait", "last"]).expect(3);
    assert!(waited.stderr.contains("web2: expired: the host was forgotten"), "{waited}");
    assert_eq!(redis.cli(["KEYS", "server:{web2}:*"]), "");
    assert_eq!(redis.cli(["ZRANGE", "servers", "0", "-1"]), "web1");
    ctl.run(["host", "forget", "web2"]).expect(1);
    ctl.run(["run", "--all", "ping"]).expect(0);

    // A worker makes its host known again, and what was thrown away does not run.
    away = away.options().start();
    away.wait_online();
    ctl.run(["run", "--all", "ping"]).expect(0);
}

#[test]
fn the_streams_of_a_host_expire_after_its_last_sign_of_life_and_the_last_command_for_it() {
    let (redis, _online, _away, ctl) = fleet();
    let streams = ["commands", "control"].map(|part| format!("server:{{web2}}:{part}"));
    let expires = || streams.iter().map(|key| redis.cli(["TTL", key]).parse().expect("a number")).collect::<Vec<i64>>();
    let longest = i64::try_from(limits::HOST_RETENTION.as_secs()).expect("seconds");
    let renewed = || expires().iter().all(|ttl| (longest - 300..=longest).contains(ttl));
    assert!(renewed(), "{:?}", expires());
    // It was last seen 29 days ago.
    for key in &streams {
        redis.cli(["EXPIRE", key, "86400"]);
    }
    ctl.run(["run", "--host", "web2", "--start-by", "7d", "ping"]).expect(4);
    ctl.run(["job", "cancel", "last"]).expect(0);
    assert!(renewed(), "{:?}", expires());
}
