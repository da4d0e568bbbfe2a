//! `ctl host watch`: which hosts come and go.

use tests::{Ctl, Raw, Redis, Running, Worker, eventually};

/// The events of a watch in JSON lines: host and event.
fn events(text: &str) -> Vec<(String, String)> {
    let event = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        for moment in ["at", "last_seen", "started_at"] {
            assert!(event[moment].is_string(), "{event}");
        }
        let text = |name: &str| event[name].as_str().expect("text").to_owned();
        (text("host"), text("event"))
    };
    text.lines().map(event).collect()
}

/// Starts to watch, and waits until it has begun.
fn watch(ctl: &Ctl, flags: &[&str]) -> Running {
    let watching = ctl.spawn([&["host", "watch"], flags].concat());
    watching.wait_stderr("; Ctrl-C ends it");
    watching
}

/// Waits until the watch has looked so often from now on. Nobody else reads the index of hosts.
#[track_caller]
fn wait_looks(redis: &Redis, looks: u64) {
    let before = redis.calls("zrevrange");
    eventually("the next looks", || (redis.calls("zrevrange") >= before + looks).then_some(()));
}

#[test]
fn hosts_that_join_stop_return_restart_go_offline_and_are_forgotten_are_told() {
    let redis = Redis::start();
    let web1 = Worker::on(&redis).start();
    web1.wait_online();
    let ctl = Ctl::on(&redis);
    ctl.run(["group", "set", "db", "-l", "role=db"]).expect(0);
    let watching = watch(&ctl, &[]);
    let some = watch(&ctl, &["--group", "db", "-o", "jsonl"]);

    let mut db1 = Worker::on(&redis).host("db1").config("[labels]\nrole = 'db'").start();
    watching.wait_stdout("db1 joined");
    db1.terminate();
    // Each looks at moments of its own.
    watching.wait_stdout("db1 stopped");
    some.wait_stdout(r#""event":"stopped""#);
    db1 = db1.options().start();
    watching.wait_stdout("db1 returned, restarted");
    some.wait_stdout(r#""event":"returned""#);
    db1.kill9();
    db1 = db1.options().start();
    watching.wait_stdout("db1 restarted");
    some.wait_stdout(r#""event":"restarted""#);
    web1.stop();
    watching.wait_stdout("web1 offline: last seen ");
    web1.cont();
    watching.wait_stdout("web1 returned");
    db1.terminate();
    ctl.run(["host", "forget", "db1"]).expect(0);
    watching.wait_stdout("db1 forgotten");
    some.wait_stdout("forgotten");

    watching.interrupt();
    let all = watching.wait().expect(0);
    assert!(all.stderr.contains("watching 1 host, all online; Ctrl-C ends it"), "{all}");
    let has_time = |line: &str| line.split(' ').next().is_some_and(|time| time.len() == "14:03:27".len());
    assert!(all.stdout.lines().all(has_time), "{all}");
    some.interrupt();
    let some = some.wait().expect(0);
    assert!(some.stderr.contains("watching 0 hosts"), "{some}");
    // Between two looks a host may stop and be forgotten.
    let told: Vec<_> = events(&some.stdout).into_iter().filter(|(_, event)| event != "stopped").collect();
    let expected = ["joined", "returned", "restarted", "forgotten"].map(|event| ("db1".to_owned(), event.to_owned()));
    assert_eq!(told, expected);
}

#[test]
fn an_outage_of_redis_is_reported_and_makes_no_host_go_away() {
    let mut redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    let watching = watch(&ctl, &["--host", "web1,web9"]);
    redis.kill9();
    watching.wait_stderr("trying again …");
    redis.restart();
    watching.wait_stderr("Redis is back");
    let new = Worker::on(&redis).host("web9").start();
    watching.wait_stdout("web9 joined");
    // Redis has lost all keys of hosts that live: that is no change of theirs.
    worker.stop();
    new.stop();
    redis.cli(["FLUSHALL"]);
    wait_looks(&redis, 2);
    worker.cont();
    new.cont();
    eventually("the hosts", || (redis.cli(["ZCARD", "servers"]) == "2").then_some(()));
    wait_looks(&redis, 2);
    watching.interrupt();
    let told = watching.wait().expect(0);
    assert!(told.stderr.contains("no host is called web9 yet"), "{told}");
    assert_eq!(told.stdout.lines().count(), 1, "{told}");
}

#[test]
fn it_ends_when_nobody_reads_it_and_what_redis_has_harms_no_terminal() {
    let redis = Redis::start();
    let ctl = Ctl::on(&redis);
    let mut child = ctl.command(["host", "watch"]).spawn().expect("ctl starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("an end").code(), Some(141));

    let watching = watch(&ctl, &[]);
    let mut raw = Raw::on(&redis);
    let now = raw.now().to_string();
    raw.query::<u64>(&["SADD", "server:{web8}:status", "x"]);
    raw.query::<u64>(&["HSET", "server:{web9}:status", "last_seen", "\x1b[2J", "state", "up"]);
    raw.query::<u64>(&["ZADD", "servers", &now, "\x1b[2J", &now, "web7", "1e300", "web8", "-inf", "web9"]);
    for host in ["web7", "web8", "web9"] {
        watching.wait_stdout(&format!("{host} joined"));
        watching.wait_stdout(&format!("{host} offline"));
    }
    watching.interrupt();
    let told = watching.wait().expect(0);
    assert!(!told.stdout.contains('\x1b') && told.stdout.lines().count() == 6, "{told}");
}

#[test]
fn of_a_thousand_hosts_only_those_that_were_heard_of_are_read() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let beat = "for i = ARGV[1], ARGV[2] do
        redis.call('HSET', 'server:{h' .. i .. '}:status', 'last_seen', ARGV[3], 'state', 'up')
        redis.call('ZADD', 'servers', ARGV[4], 'h' .. i)
    end";
    let mut heard = |from: &str, to: &str| {
        let now = raw.now();
        // Nobody goes offline meanwhile.
        let moment = protocol::time::show_moment(now + 60_000);
        raw.query::<()>(&["EVAL", beat, "0", from, to, &moment, &now.to_string()]);
    };
    heard("1", "1000");
    let watching = watch(&Ctl::on(&redis), &[]);
    assert_eq!(redis.calls("hmget"), 1000);
    wait_looks(&redis, 3);
    assert_eq!(redis.calls("hmget"), 1000, "nobody was heard of");
    heard("1", "200");
    wait_looks(&redis, 2);
    assert_eq!(redis.calls("hmget"), 1200);
    let begun = watching.wait_stderr("watching 1000 hosts");
    assert!(begun.contains("all online"), "{begun}");
}
