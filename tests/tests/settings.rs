//! The worker's settings and its log, as whoever runs it sees them.

use std::{fs, process::Command};

use protocol::{action::Arguments, command::Manifest, environment, name::JobId};
use serde_json::Value;
use tests::{Ctl, Output, Raw, Redis, Worker, binary};

/// Runs the worker to its end, with nothing set but what is given.
fn worker(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary("worker"));
    for (name, _) in environment::ALL {
        command.env_remove(name);
    }
    let output = command.args(arguments).envs(variables.iter().copied()).output().expect("the worker starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    Output {
        code: output.status.code().expect("an exit code"),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

#[test]
fn the_version_names_the_wire_version() {
    let output = worker(&["--version"], &[]).expect(0);
    assert_eq!(output.stdout, format!("worker {}\n", protocol::VERSION));
    assert!(output.stdout.contains("(wire 1)"));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("worker.toml");
    fs::write(&file, "redis = 'redis://file'\nhost = 'file'\nnamespace = 'file'\nslots = 7").expect("a file");
    let file = file.to_str().expect("text");
    let variables = [("REDFLEET_CONFIG", file), ("REDFLEET_HOST", "variable"), ("REDFLEET_NAMESPACE", "variable")];
    let output = worker(&["--check-config", "--namespace", "flag"], &variables).expect(0);
    let value = |name: &str| {
        let line = output.stdout.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {output}")).trim().to_owned()
    };
    assert_eq!(["redis", "host", "namespace", "slots"].map(value), ["redis://file", "variable", "flag", "7"]);
}

#[test]
fn a_check_says_what_is_wrong_and_shows_no_password() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("worker.toml");
    let check = |text: &str| {
        fs::write(&file, text).expect("a file");
        worker(&["--check-config", "--host", "web1", "--config", file.to_str().expect("text")], &[])
    };
    let output = check("redis = 'redis://:hunter2@redis.example'").expect(0);
    assert!(output.stdout.contains("redis://:***@redis.example") && output.stderr.is_empty(), "{output}");
    let output = check("redis = 'redis://:hunter2@h'\nslot = 7\n[actions]\nallowed = ['exec']").expect(64);
    for words in ["unknown key 'slot'", "unknown key 'actions.allowed'"] {
        assert!(output.stderr.contains(words), "{words}: {output}");
    }
    for (text, words) in [
        ("", "no Redis is named"),
        ("redis = 'redis://:hunter2@h:port'", "is not a Redis URL"),
        ("redis = 'redis://h'\nhost = 'a b'", "'a b' is not a valid name"),
        ("redis = 'redis://h'\nslots = 0", "slots must be from 1 to 1024"),
        ("redis = 'redis://h'\nsample_interval = '10'", "'10' is not a duration"),
        ("redis = 'redis://h'\nsample_interval = '10ms'", "sample_interval must be at least 1s"),
        ("slots = 1\nredis = 'redis://:hunter2@h' #\n x", "worker.toml, line 3: "),
        ("slots = 1\nredis = 'redis://:hunter2@h' x", "worker.toml, line 2: "),
    ] {
        let output = check(text).expect(64);
        assert!(output.stderr.contains(words) && output.stdout.is_empty(), "{text}: {output}");
        assert!(!output.stderr.contains("hunter2"), "{output}");
    }
    worker(&["--check-config", "--config", "/no/such/file"], &[]).expect(64);
    worker(&["--no-such-flag"], &[]).expect(64);
}

#[test]
fn what_is_not_understood_is_said_and_the_rest_works() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).config("slot = 7").start();
    assert!(worker.wait_log("unknown key 'slot'").contains("WARN"));
    Raw::on(&redis).ping("web1");
}

#[test]
fn every_line_about_a_command_names_job_host_and_action() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let jobs = [("ping", "succeeded"), ("exec", "failed"), ("dance", "rejected")].map(|(action, end)| {
        let manifest = raw.exec(&["web1"], &["false"]);
        let empty = Manifest { arguments: Arguments::default(), ..manifest.clone() };
        (Manifest { action: action.into(), ..if action == "exec" { manifest } else { empty } }, end)
    });
    let mut run = |json: bool| {
        let options = Worker::on(&redis).allow_exec();
        let mut worker = if json { options.arguments(["--log-format", "json"]) } else { options }.start();
        for (manifest, _) in &jobs {
            let again = Manifest { job: JobId::new(), ..manifest.clone() };
            raw.run("web1", &again);
        }
        worker.terminate();
        worker.log()
    };

    let log = run(true);
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    for (manifest, end) in &jobs {
        let about = |line: &&Value| line["message"].as_str().is_some_and(|message| message.starts_with(end));
        let line = lines.iter().find(about).unwrap_or_else(|| panic!("nothing {end} in\n{log}"));
        assert_eq!(
            (&line["span"]["action"], &line["span"]["host"]),
            (&manifest.action.as_str().into(), &"web1".into())
        );
        line["span"]["job"].as_str().expect("text").parse::<JobId>().expect("a job");
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }

    let log = run(false);
    for (manifest, end) in &jobs {
        let line = log.lines().find(|line| line.contains(&format!(": {end}"))).unwrap_or_else(|| panic!("{log}"));
        for words in ["job=0", "host=web1", &format!("action={:?}", manifest.action)] {
            assert!(line.contains(words), "{words}: {line}");
        }
    }
}

#[test]
fn redis_is_reached_by_tcp_with_a_password_and_in_another_database() {
    let redis = Redis::options().tcp().password("open sesame").start();
    let url = format!("{}/3", redis.tcp_url().replace(' ', "%20"));
    let worker = Worker::on(&redis).redis(&url).start();
    worker.wait_online();
    let output = Ctl::alone().env("REDFLEET_REDIS", &url).run(["run", "--host", "web1", "ping"]).expect(0);
    assert!(!output.stderr.contains("sesame") && !worker.log().contains("sesame"), "{output}");
    assert_eq!(redis.cli(["DBSIZE"]), "0", "database 0 is not touched");
}

#[test]
fn fleets_in_one_redis_do_not_meet() {
    let redis = Redis::start();
    let fleet = |namespace: &str| {
        let worker = Worker::on(&redis).env("REDFLEET_NAMESPACE", namespace).start();
        worker.wait_online();
        (worker, Ctl::on(&redis).env("REDFLEET_NAMESPACE", namespace))
    };
    let (_red, red) = fleet("red");
    let (mut blue_worker, blue) = fleet("blue");
    red.run(["run", "--all", "ping"]).expect(0);
    blue.run(["run", "--all", "ping"]).expect(0);
    Ctl::on(&redis).run(["run", "--all", "ping"]).expect(1);
    blue_worker.terminate();
    red.run(["run", "--host", "web1", "collect-cpu"]).expect(0);
    assert_eq!(blue.run(["job", "list", "-o", "jsonl"]).expect(0).stdout.lines().count(), 1);
    assert_eq!(red.run(["job", "list", "-o", "jsonl"]).expect(0).stdout.lines().count(), 2);
    let keys = redis.cli(["KEYS", "*"]);
    assert!(keys.lines().all(|key| key.starts_with("red:") || key.starts_with("blue:")), "{keys}");
}
