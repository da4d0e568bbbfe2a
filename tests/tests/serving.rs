//! `ctl serve` in operation: that one lives is known, systemd is told how it is, it ends in order, and its user in Redis can do
//! no more than it needs.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protocol::{acl::Role, keys::Keys, name::ScheduleName, time::Millis};
use serde_json::Value;
use tests::{Aof, Ctl, PATIENCE, Raw, Redis, Running, Worker, binary, eventually, skipped};

/// `ctl serve` with the rights of one, and no key.
fn serve(redis: &Redis, name: &str, environment: &[(&str, &str)]) -> Running {
    let mut ctl = Ctl::keyless().env("REDFLEET_REDIS", &redis.url_of(&Role::Serve, None));
    for (name, value) in environment {
        ctl = ctl.env(name, value);
    }
    // Nothing but the scheduler may be what waits for Redis.
    let aside = "[alerts]\nenabled = false\n[redis_status]\nevery = '10m'\n";
    let config = ctl.write("serve.toml", &format!("name = {name:?}\ninterval = '100ms'\n{aside}"));
    ctl.spawn(["serve", config.to_str().expect("text")])
}

fn ready(redis: &Redis, name: &str) -> Running {
    let running = serve(redis, name, &[]);
    running.wait_stderr(": ready");
    running
}

fn term(running: &Running) {
    kill(Pid::from_raw(running.pid().cast_signed()), Signal::SIGTERM).expect("a process");
}

fn serving(raw: &mut Raw) -> Vec<String> {
    raw.query(&["ZRANGE", &Keys::new(None).serving(), "0", "-1"])
}

/// What the doctor finds about `ctl serve`.
fn diagnosed(redis: &Redis) -> (String, String) {
    let found = Ctl::on(redis).run(["doctor", "-o", "json"]).json();
    let checks = found["checks"].as_array().expect("a list");
    let check = checks.iter().find(|check| check["check"] == "ctl serve").expect("it is looked for");
    let text = |name: &str| check[name].as_str().expect("text").to_owned();
    (text("level"), text("message"))
}

/// A worker that obeys standing orders, and a schedule that leaves evidence in the file that is returned.
fn scheduled(redis: &Redis, every: &str) -> (Worker, PathBuf) {
    let allowed = "[actions]\nallow = ['exec', 'standing-order']";
    let worker = Worker::on(redis).config(allowed).start();
    worker.wait_online();
    let evidence = redis.directory().join("ran");
    let script = format!("echo $REDFLEET_JOB >> {}", evidence.display());
    let add = ["schedule", "add", "tidy", "--all", "--every", every, "--grace", "10m", "--late", "--overlap", "allow"];
    Ctl::on(redis).run(add.into_iter().chain(["exec", "--", "sh", "-c", &script])).expect(0);
    (worker, evidence)
}

fn ran(evidence: &Path) -> usize {
    fs::read_to_string(evidence).unwrap_or_default().lines().count()
}

fn history(redis: &Redis) -> Vec<Value> {
    let told = Ctl::on(redis).run(["schedule", "history", "tidy", "-n", "1000", "-o", "json"]).expect(0).json();
    told.as_array().expect("a list").clone()
}

#[test]
fn a_fleet_without_ctl_serve_is_told_and_one_with_it_again() {
    let mut redis = Redis::options().aof(Aof::Always).start();
    let mut raw = Raw::on(&redis);
    let since: Millis = raw.now() - 300_000;
    // What one leaves behind that died five minutes ago.
    raw.query::<()>(&["ZADD", &Keys::new(None).serving(), &since.to_string(), "gone"]);
    let (worker, _) = scheduled(&redis, "1h");
    worker.wait_log("no ctl serve has been heard of since");
    let missing = || worker.status().map(|status| status.serve_missing_ms);
    eventually("the worker to publish it", || (missing()? == Some(since)).then_some(()));
    let (level, message) = diagnosed(&redis);
    assert!(level == "problem" && message.contains("none lives: gone was the last"), "{level}: {message}");

    let one = ready(&redis, "one");
    assert_eq!(diagnosed(&redis), ("ok".to_owned(), "1 live: one".to_owned()));
    // A worker looks at once when Redis is back, else once a minute.
    redis.restart();
    worker.wait_log("a ctl serve lives again");
    eventually("the field to be empty", || (worker.status()?.serve_missing_ms.is_none()).then_some(()));
    assert_eq!(worker.log().matches("no ctl serve has been heard of").count(), 1, "{}", worker.log());
    drop(one);
}

#[test]
fn a_fleet_that_never_had_a_ctl_serve_misses_none() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    eventually("a look", || (redis.calls("zrevrange") > 0).then_some(()));
    assert_eq!(worker.status().expect("a status").serve_missing_ms, None);
    let (level, message) = diagnosed(&redis);
    assert!(level == "ok" && message.contains("no schedule needs one"), "{level}: {message}");
}

#[test]
fn what_is_due_is_told_where_no_ctl_serve_lives() {
    let redis = Redis::start();
    let _scheduled = scheduled(&redis, "1s");
    eventually("a time to be due", || diagnosed(&redis).1.contains("due: tidy (since").then_some(()));
    assert_eq!(diagnosed(&redis).0, "problem");
}

#[test]
fn one_that_ends_in_order_leaves_and_the_last_one_stays_known() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let (one, two) = (ready(&redis, "one"), ready(&redis, "two"));
    assert_eq!(serving(&mut raw).len(), 2);
    term(&two);
    two.wait().expect(0);
    assert_eq!(serving(&mut raw), ["one"]);
    term(&one);
    one.wait().expect(0);
    assert_eq!(serving(&mut raw), ["one"], "the fleet knows that it had one");
}

/// A socket as systemd has one for a unit.
fn notified(directory: &Path) -> (UnixDatagram, String) {
    let path = directory.join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    (socket, path.to_str().expect("text").to_owned())
}

/// Waits until this is said.
#[track_caller]
fn wait_said(socket: &UnixDatagram, what: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let count = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{what} was not said: {error}"));
        let said = String::from_utf8_lossy(&buffer[..count]).into_owned();
        if said.contains(what) {
            return said;
        }
    }
}

#[test]
fn systemd_is_told_when_it_is_ready_that_it_works_and_when_it_stops() {
    let redis = Redis::start();
    let (socket, path) = notified(redis.directory());
    let one = serve(&redis, "one", &[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "300000")]);
    let said = wait_said(&socket, "READY=1");
    assert!(said.contains("STATUS=one runs"), "{said}");
    wait_said(&socket, "WATCHDOG=1");
    term(&one);
    wait_said(&socket, "STOPPING=1");
    one.wait().expect(0);
}

#[test]
fn systemd_is_not_told_that_it_is_ready_while_redis_is_away() {
    let mut redis = Redis::start();
    let (socket, path) = notified(redis.directory());
    redis.admit(&Role::Serve, None);
    redis.stop();
    serve(&redis, "one", &[("NOTIFY_SOCKET", &path)]).wait().expect(1);
    socket.set_nonblocking(true).expect("a socket");
    let mut buffer = [0; 4096];
    while let Ok(count) = socket.recv(&mut buffer) {
        let said = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(!said.contains("READY"), "{said}");
    }
}

/// Holds all writes up until a scheduler waits with its claim. Returns the run's instant once it does.
fn hold_a_claim(redis: &Redis, raw: &mut Raw, evidence: &Path) {
    eventually("a run", || (ran(evidence) > 0).then_some(()));
    raw.query::<()>(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    eventually("a claim to wait", || {
        let clients = redis.cli(["CLIENT", "LIST"]);
        // `cmd` is the last one also where a client does nothing; a client that is held has the flag `b`.
        let is_held = |client: &str| client.split(' ').any(|word| word.starts_with("flags=") && word.contains('b'));
        let claims = |client: &str| client.contains("user=serve") && client.contains(" cmd=eval") && is_held(client);
        clients.lines().any(claims).then_some(())
    });
}

/// An instance that was ordered to end while it waits with a claim, as all writes are held up.
fn ending_with_a_claim(redis: &Redis) -> (Worker, Running, Raw) {
    let (worker, evidence) = scheduled(redis, "1s");
    let one = ready(redis, "one");
    let mut raw = Raw::on(redis);
    hold_a_claim(redis, &mut raw, &evidence);
    term(&one);
    one.wait_stderr("finishes what it has begun");
    (worker, one, raw)
}

#[test]
fn what_was_begun_is_finished_before_it_ends() {
    let redis = Redis::start();
    let (_worker, one, mut raw) = ending_with_a_claim(&redis);
    raw.query::<()>(&["CLIENT", "UNPAUSE"]);
    one.wait().expect(0);
    let history = history(&redis);
    let claimed = history.iter().filter(|instant| instant["state"] == "claimed").count();
    assert_eq!(claimed, 0, "{history:#?}");
}

#[test]
fn the_second_signal_ends_it_at_once() {
    let redis = Redis::start();
    let (_worker, one, mut raw) = ending_with_a_claim(&redis);
    term(&one);
    let output = one.wait().expect(1);
    assert!(output.stderr.contains("one: ended at once"), "{output}");
    raw.query::<()>(&["CLIENT", "UNPAUSE"]);
}

#[test]
fn its_user_can_do_what_it_needs_and_no_more() {
    let redis = Redis::start();
    let (_worker, evidence) = scheduled(&redis, "1s");
    let _one = ready(&redis, "one");
    eventually("runs", || (ran(&evidence) >= 3).then_some(()));
    eventually("an end that it has seen", || {
        history(&redis).iter().any(|instant| instant["end"] == "succeeded").then_some(())
    });
    let (mut raw, keys) = (Raw::on(&redis), Keys::new(None));
    let web1: protocol::name::HostName = "web1".parse().expect("a name");
    let tidy: ScheduleName = "tidy".parse().expect("a name");
    let job = protocol::name::JobId::new();
    for words in [
        &["XADD", &keys.control(&web1), "*", "a", "b"][..],
        &["XREADGROUP", "GROUP", "worker", "worker", "STREAMS", &keys.commands(&web1), ">"],
        &["DEL", &keys.commands(&web1)],
        &["HSET", &keys.status(&web1), "state", "up"],
        &["HSET", &keys.set_labels(&web1), "role", "db"],
        &["ZREM", &keys.servers(), "web1"],
        &["HSET", &keys.job_hosts(job), "web1", "succeeded"],
        &["HSET", &keys.job_result(job, &web1), "status", "succeeded"],
        &["HSET", &keys.job_rollout(job), "plan", "x"],
        &["DEL", &keys.schedule(&tidy)],
        &["HSET", &keys.schedules(), "mine", "now"],
        &["HSET", &keys.groups(), "all", "*"],
        &["SET", "anything", "x"],
        &["FLUSHALL"],
        &["CONFIG", "SET", "appendonly", "no"],
    ] {
        let dry: Vec<&str> = ["ACL", "DRYRUN", "serve"].into_iter().chain(words.iter().copied()).collect();
        let reply: String = raw.query(&dry);
        assert!(reply.contains("no permissions"), "{words:?}: {reply}");
    }
}

#[test]
fn its_user_is_printed() {
    let printed = Ctl::keyless().run(["acl", "print", "--serve"]).expect(0);
    assert!(printed.stdout.starts_with("user serve reset on "), "{printed}");
    assert!(!printed.stdout.contains(":control"), "{printed}");
}

#[test]
fn its_unit_is_sound() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        skipped("serving::its_unit_is_sound", "systemd-analyze is not installed");
        return;
    };
    assert!(version.status.success());
    let home = tempfile::tempdir().expect("a directory");
    let unit = include_str!("../../contrib/ctl-serve.service");
    let ctl = binary("ctl").display().to_string();
    let copy = home.path().join("ctl-serve.service");
    fs::write(&copy, unit.replace("/usr/local/bin/ctl", &ctl)).expect("a file");
    let verified = Command::new("systemd-analyze").arg("verify").arg(&copy).output().expect("it runs");
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    // Other units of this machine are not our business.
    let ours: Vec<_> = said.lines().filter(|line| line.contains("ctl-serve")).collect();
    assert!(ours.is_empty(), "{said}");
}
