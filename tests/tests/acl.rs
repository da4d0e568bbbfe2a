//! What each user may do in Redis. The other tests show that it suffices: their programs run as these users.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    process::{Command, Stdio},
};

use protocol::{
    acl::Role,
    artifact::Artifact,
    keys::Keys,
    name::{HostName, JobId, ScheduleName},
};
use redis::{Connection, RedisError, Value};
use tests::{Ctl, Raw, Redis, Worker, eventually};

/// What Redis replies to a command that a user may not run, whatever its keys are.
const NOT_RUN: &str = "has no permissions to run";

fn host(name: &str) -> HostName {
    name.parse().expect("a valid host name")
}

/// Some content.
fn content() -> Artifact {
    format!("{}:5", "0".repeat(64)).parse().expect("an artifact")
}

/// A server, a connection of its administrator, and the user of a role.
fn server(role: &Role) -> (Redis, Raw, String) {
    let redis = Redis::start();
    redis.admit(role, None);
    let raw = Raw::on(&redis);
    (redis, raw, role.user(None))
}

/// All commands of the server, or those of a category; subcommands behind a bar. With each, how many arguments it
/// needs.
fn commands(raw: &mut Raw, category: Option<&str>) -> Vec<(String, usize)> {
    let mut about: Vec<Vec<Value>> = raw.query(&["COMMAND"]);
    let mut found = Vec::new();
    while let Some(mut command) = about.pop() {
        let subcommands: Vec<Vec<Value>> = read(command.remove(9));
        // What only holds subcommands is no command itself.
        if subcommands.is_empty() {
            let (name, words): (String, isize) = (read(command[0].clone()), read(command[1].clone()));
            let categories: Vec<String> = read(command[6].clone());
            let arguments = words.unsigned_abs() - name.split('|').count();
            if category.is_none_or(|category| categories.iter().any(|of| *of == format!("@{category}"))) {
                found.push((name, arguments));
            }
        }
        about.extend(subcommands);
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

fn read<T: redis::FromRedisValue>(value: Value) -> T {
    redis::from_redis_value(value).expect("as documented")
}

/// What Redis would reply to this user; `OK` where it may do that.
fn reply(raw: &mut Raw, user: &str, command: &str, arguments: &[&str]) -> String {
    let words = ["ACL", "DRYRUN", user].into_iter().chain(command.split('|')).chain(arguments.iter().copied());
    raw.query(&words.collect::<Vec<_>>())
}

/// The arguments of a command on one key. Where Redis looks for keys behind certain words, these are there.
fn on_key<'a>(command: &str, count: usize, key: &'a str) -> Vec<&'a str> {
    match command {
        "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro" => vec!["return 1", "1", key],
        "xread" => vec!["STREAMS", key, "0"],
        "xreadgroup" => vec!["GROUP", "worker", "worker", "STREAMS", key, ">"],
        _ => vec![key; count],
    }
}

/// Everything that belongs to another host, or to a job of another host, and what no worker reads.
fn foreign_keys() -> Vec<String> {
    let (keys, other, job) = (Keys::new(None), host("web2"), JobId::new());
    let namespaced = Keys::new(Some(&"prod".parse().expect("a namespace")));
    let mut foreign = keys.of_host(&other);
    foreign.extend([keys.job_result(job, &other), keys.job_output(job, &other), keys.job_cancels(job), keys.jobs()]);
    foreign.push(keys.groups());
    let tidy: ScheduleName = "tidy".parse().expect("a name");
    foreign.extend([keys.schedules(), keys.schedule(&tidy), keys.schedule_open(&tidy), keys.schedule_runs(&tidy)]);
    foreign.extend([keys.job_file(job, &other, 0), namespaced.artifact(&content(), 0)]);
    foreign.extend(namespaced.of_host(&host("web1")));
    foreign.extend([namespaced.job_result(job, &host("web1")), namespaced.servers()]);
    foreign.extend(["server:{web1", "server:{web1}", "server:{web11}:commands", "cart:17"].map(str::to_owned));
    foreign
}

#[test]
fn a_worker_can_use_no_key_of_another_host() {
    let (_redis, mut raw, user) = server(&Role::Worker(host("web1")));
    let foreign = foreign_keys();
    let mut without_keys = BTreeSet::new();
    for (command, count) in commands(&mut raw, None) {
        for key in &foreign {
            let reply = reply(&mut raw, &user, &command, &on_key(&command, count, key));
            if reply.contains(NOT_RUN) {
                break;
            }
            if reply == "OK" {
                without_keys.insert(command);
                break;
            }
            assert!(reply.contains("no permissions to access"), "{command} {key}: {reply}");
        }
    }
    // What needs no login, and the grant without keys.
    let harmless = ["auth", "exec", "hello", "multi", "quit", "reset", "time"];
    assert_eq!(without_keys, harmless.map(str::to_owned).into(), "these take no key");
}

#[test]
fn a_worker_can_neither_read_nor_replace_what_was_asked_and_never_the_whole_index() {
    let (_redis, mut raw, user) = server(&Role::Worker(host("web1")));
    let (keys, job) = (Keys::new(None), JobId::new());
    for (command, count) in commands(&mut raw, None) {
        for (key, permitted) in [
            (keys.job(job), &["eval", "pexpiretime"][..]),
            (keys.job_hosts(job), &["eval", "expire", "hdel", "hget", "hset", "pexpireat"]),
            (keys.job_events(job), &["eval", "expire", "pexpireat", "xadd"]),
            (keys.servers(), &["zadd", "zremrangebyrank"]),
            (keys.artifact(&content(), 0), &["getrange"]),
            (keys.job_file(job, &host("web1"), 0), &["exists", "set"]),
            // What controllers set says nothing to a host: no policy can go by it.
            (keys.set_labels(&host("web1")), &["del", "exists", "expire", "hset"]),
        ] {
            if ["auth", "exec", "hello", "multi", "quit", "reset", "time"].contains(&command.as_str()) {
                continue;
            }
            let reply = reply(&mut raw, &user, &command, &on_key(&command, count, &key));
            assert_eq!(reply == "OK", permitted.contains(&command.as_str()), "{command} {key}: {reply}");
        }
    }
}

#[test]
fn a_script_of_a_worker_has_no_more_rights() {
    let (redis, mut raw, _) = server(&Role::Worker(host("web1")));
    let mut web1 = log_in(&redis, &Role::Worker(host("web1")));
    raw.query::<()>(&["HSET", "server:{web2}:status", "state", "up"]);
    let job = Keys::new(None).job_hosts(JobId::new());
    for (script, key) in [
        ("return redis.call('HGETALL', ARGV[1])", "server:{web2}:status"),
        ("return redis.call('HSET', ARGV[1], 'state', 'down')", "server:{web2}:status"),
        ("return redis.call('DEL', KEYS[1])", "any"),
        ("return redis.call('CONFIG', 'GET', ARGV[1])", "*"),
    ] {
        let error = query(&mut web1, &["EVAL", script, "1", &job, key]).expect_err(script).to_string();
        assert!(error.contains("can't") || error.contains("not allowed"), "{error}");
    }
    let error = query(&mut web1, &["EVAL", "return 1", "1", "server:{web2}:status"]).expect_err("a foreign key");
    assert_eq!(error.code(), Some("NOPERM"), "{error}");
    assert_eq!(raw.query::<String>(&["HGET", "server:{web2}:status", "state"]), "up");
}

#[test]
fn no_program_can_administer_the_server() {
    for (role, needed) in
        [(Role::Worker(host("web1")), &[][..]), (Role::Controller, &["info"][..]), (Role::Reader, &[][..])]
    {
        let (_redis, mut raw, user) = server(&role);
        for category in ["admin", "dangerous"] {
            for (command, count) in commands(&mut raw, Some(category)) {
                let reply = reply(&mut raw, &user, &command, &on_key(&command, count, "x"));
                let permitted = !reply.contains(NOT_RUN);
                assert_eq!(permitted, needed.contains(&command.as_str()), "{user}: {command}: {reply}");
            }
        }
    }
}

#[test]
fn a_reader_sees_all_but_the_inboxes_and_changes_nothing() {
    let (redis, mut raw, user) = server(&Role::Reader);
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let controller = Ctl::on(&redis);
    let job = controller.run(["run", "--host", "web1", "-q", "-o", "json", "exec", "--", "echo", "hello"]).expect(0);
    let id = job.json()["job"].as_str().expect("an id").to_owned();
    let reader = Ctl::alone().env("REDFLEET_REDIS", &redis.url_of(&Role::Reader, None));
    for line in ["host list", "host show web1", "action list", "job list", "top --once"] {
        reader.run(line.split(' ')).expect(0);
    }
    for verb in ["show", "wait", "logs"] {
        let output = reader.run(["job", verb, &id]).expect(0);
        assert!(output.stdout.contains("hello"), "{output}");
    }
    let refused = reader.run(["run", "--host", "web1", "ping"]).expect(1);
    assert!(refused.stderr.contains("does not permit this user"), "{refused}");

    for (command, count) in commands(&mut raw, Some("write")) {
        let reply = reply(&mut raw, &user, &command, &on_key(&command, count, "servers"));
        assert!(reply.contains(NOT_RUN), "{command}: {reply}");
    }
    for key in ["server:{web1}:commands", "server:{web1}:control"] {
        for (command, count) in commands(&mut raw, Some("read")) {
            let reply = reply(&mut raw, &user, &command, &on_key(&command, count, key));
            assert_ne!(reply, "OK", "{command} {key}");
        }
    }
}

#[test]
fn a_controller_sets_labels_but_not_those_of_a_host_itself() {
    let (_redis, mut raw, user) = server(&Role::Controller);
    let keys = Keys::new(None);
    for (command, count) in commands(&mut raw, Some("write")) {
        for (key, permitted) in [
            (keys.labels(&host("web1")), &["del"][..]),
            (keys.set_labels(&host("web1")), &["del", "expire", "hdel", "hset"]),
            (keys.groups(), &["hdel", "hset"]),
        ] {
            let reply = reply(&mut raw, &user, &command, &on_key(&command, count, &key));
            assert_eq!(reply == "OK", permitted.contains(&command.as_str()), "{command} {key}: {reply}");
        }
    }
}

#[test]
fn a_reader_awaits_a_command_that_is_queued() {
    let redis = Redis::start();
    let mut worker = Worker::on(&redis).start();
    worker.wait_online();
    worker.terminate();
    let reader = Ctl::alone().env("REDFLEET_REDIS", &redis.url_of(&Role::Reader, None));
    let controller = Ctl::on(&redis);
    let id = controller.run(["run", "--host", "web1", "--detach", "-q", "ping"]).expect(0).stdout;
    let waiting = reader.spawn(["job", "wait", id.trim()]);
    let worker = worker.options().start();
    worker.wait_online();
    waiting.wait().expect(0);
}

#[test]
fn the_doctor_serves_a_controller() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    Raw::on(&redis).wait_reading();
    // On a busy machine it may find that Redis replies slowly.
    eventually("no warning", || {
        let report = Ctl::on(&redis).run(["doctor", "-o", "json"]).expect(0).json();
        (report["warnings"] == 0).then_some(())
    });
    // An administrator may ask what the worker's user may do: all that it needs, on its own keys.
    let output = Ctl::as_administrator(&redis).run(["doctor", "-o", "json"]).expect(0);
    assert!(output.stdout.contains("ctl and the workers may send all that they need"), "{output}");
    redis.cli(["ACL", "SETUSER", "worker-web1", "clearselectors"]);
    let output = Ctl::as_administrator(&redis).run(["doctor", "-o", "json"]).expect(2);
    assert!(output.stdout.contains("the workers' user worker-web1: "), "{output}");
}

#[test]
fn what_acl_print_prints_makes_a_user_that_suffices() {
    let redis = Redis::start();
    let ctl = Ctl::alone();
    let file = ctl.write("web1.password", "open sesame\nsecond line");
    let print = ["acl", "print", "--host", "web9", "--password-file", file.to_str().expect("text")];
    let line = ctl.run([&print[..], &["--setuser"]].concat()).expect(0);
    assert!(!line.stdout.contains("sesame") && line.stdout.ends_with("\nACL SAVE\n"), "{line}");
    assert!(line.stderr.contains("name an `aclfile`"), "{line}");
    let mut cli = Command::new("redis-cli");
    cli.arg("-s").arg(redis.socket()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut cli = cli.spawn().expect("redis-cli starts");
    cli.stdin.take().expect("piped").write_all(line.stdout.as_bytes()).expect("redis-cli reads");
    let said = cli.wait_with_output().expect("redis-cli ends").stdout;
    assert_eq!(String::from_utf8_lossy(&said).trim(), "OK\nOK");
    let saved = fs::read_to_string(redis.directory().join("users.acl")).expect("a file");
    assert!(saved.contains("user worker-web9 on "), "{saved}");
    let url = format!("{}?user=worker-web9&pass=open%20sesame", redis.url());
    let worker = Worker::on(&redis).host("web9").redis(&url).start();
    worker.wait_log("ready: ");
    Ctl::on(&redis).run(["run", "--host", "web9", "ping"]).expect(0);

    // The same as a file, on another server.
    let lines = [&print[2..4], &["--controller"], &["--reader"]].map(|whom| {
        let password = ["--password-file", file.to_str().expect("text")];
        ctl.run([&["acl", "print"], whom, &password].concat()).expect(0).stdout
    });
    let acl = redis.directory().join("printed.acl");
    fs::write(&acl, lines.concat()).expect("a file");
    let other = Redis::options().set("aclfile", acl.to_str().expect("text")).start();
    let users = other.cli(["ACL", "USERS"]);
    assert_eq!(users.lines().collect::<Vec<_>>(), ["controller", "default", "reader", "worker-web9"]);
}

#[test]
fn a_namespace_and_a_database_are_respected() {
    let ctl = Ctl::alone().env("REDFLEET_NAMESPACE", "prod").env("REDFLEET_REDIS", "redis://h/3");
    let printed = ctl.run(["acl", "print", "--host", "web1", "-o", "json"]).expect(0);
    assert!(printed.stderr.contains("without a password nobody can log in as prod-worker-web1"), "{printed}");
    let printed = printed.json();
    let rules = printed["rules"].as_str().expect("text");
    assert_eq!(printed["user"], "prod-worker-web1");
    assert!(rules.contains("+select") && rules.contains("~prod:server:{web1}:*"), "{rules}");
    let explained = ctl.run(["acl", "print", "--host", "web1", "--explain"]).expect(0);
    assert!(explained.stdout.contains("publish its own results"), "{explained}");
}

fn log_in(redis: &Redis, role: &Role) -> Connection {
    let client = redis::Client::open(redis.url_of(role, None)).expect("a URL");
    client.get_connection().expect("a connection")
}

fn query(connection: &mut Connection, words: &[&str]) -> Result<Value, RedisError> {
    redis::cmd(words[0]).arg(&words[1..]).query(connection)
}
