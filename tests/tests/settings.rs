//! The worker's settings and its log, as an operator sees them.

use std::{fs, process::Command};

use protocol::{action::Arguments, command::Manifest, environment, name::JobId};
use serde_json::Value;
use tests::{Ctl, Output, Raw, Redis, Worker, binary, renewed};

/// Runs the worker to its end, with no other settings than the given ones.
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
fn policy_test_says_what_the_rules_decide() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("worker.toml");
    let rules = "[groups]\nops = ['alice', 'bob']\n[[policy]]\nwho = ['@ops']\nactions = ['exec']\napprovals = 2\n\
                 arguments.argv = ['systemctl', 'restart', 'web*']";
    fs::write(&file, rules).expect("a file");
    let ask = |more: &[&str]| {
        let start = ["policy", "test", "--config", file.to_str().expect("text"), "--action", "exec"];
        worker(&[&start[..], more].concat(), &[])
    };

    let both = ask(&["--principal", "alice", "--approved-by", "bob", "--", "systemctl", "restart", "web1"]).expect(0);
    assert!(both.stdout.starts_with("granted by rule 1 (worker.toml, line 3)\n"), "{both}");
    let words = ["--arg", "argv=systemctl", "--arg", "argv=restart", "--arg", "argv=web1"];
    let alone = ask(&[&["--principal", "alice"], &words[..]].concat()).expect(1);
    assert!(alone.stdout.contains("needs 2 approvals, it has 1"), "{alone}");
    let other = ask(&["--principal", "alice", "--approved-by", "bob", "--", "rm", "-rf", "/"]).expect(1);
    assert!(other.stdout.contains("wants argv to be ['systemctl', 'restart', 'web*'], not [\"rm\", "), "{other}");
    let stranger = ask(&["--principal", "eve", "--", "id"]).expect(1);
    assert!(stranger.stdout.starts_with("denied: no rule lets 'eve' run exec\n"), "{stranger}");
    let misspelt = ask(&["--principal", "eve", "--arg", "args=1"]).expect(64);
    assert!(misspelt.stderr.contains("exec has no parameter 'args'"), "{misspelt}");
}

#[test]
fn check_config_reports_what_is_wrong_and_shows_no_password() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("worker.toml");
    let check = |text: &str| {
        fs::write(&file, text).expect("a file");
        worker(&["--check-config", "--host", "web1", "--config", file.to_str().expect("text")], &[])
    };
    let output = check("redis = 'redis://:hunter2@localhost'").expect(0);
    assert!(output.stdout.contains("redis://:***@localhost") && output.stderr.is_empty(), "{output}");
    let output = check("redis = 'redis://:hunter2@h'\nslot = 7\n[actions]\nallowed = ['exec']").expect(64);
    for words in [
        "error: ",
        "unknown key 'slot' (did you mean 'slots'?)",
        "unknown key 'actions.allowed' (did you mean 'allow'?)",
    ] {
        assert!(output.stderr.contains(words), "{words}: {output}");
    }
    for (text, words) in [
        ("", "no Redis is named"),
        ("redis = 'redis://:hunter2@h:port'", "is not a Redis URL"),
        ("redis = 'redis://h'\nhost = 'a b'", "'a b' is not a valid name"),
        ("redis = 'redis://h'\nslots = 2\nreserved = 2", "reserved = 2 must be less than slots = 2"),
        (
            "redis = 'redis://h'\n[[policy]]\nwho = ['ann']\nactions = ['pong']",
            "policy: rule 1 (worker.toml, line 2): actions: there is no action 'pong' (did you mean 'ping'?)",
        ),
        ("redis = 'redis://h'\n[[polcy]]\nwho = ['ann']", "unknown key 'polcy' (did you mean 'policy'?)"),
        ("redis = 'redis://h'\n[[policies]]\nwho = ['ann']", "unknown key 'policies'"),
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
fn an_unknown_setting_is_logged_and_the_rest_works() {
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
            let again = renewed(manifest.clone());
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
        (worker, Ctl::within(&redis, namespace))
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

#[test]
fn the_state_directory_can_be_a_flag_or_a_variable() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("worker.toml");
    fs::write(&file, "redis = 'redis://file'\nstate_dir = '/of/file'").expect("a file");
    let check = ["--check-config", "--config", file.to_str().expect("text")];
    let variable = [("REDFLEET_STATE_DIR", "/of/variable")];
    for (arguments, variables, expected) in [
        (&check[..], &[][..], "/of/file"),
        (&check, &variable, "/of/variable"),
        (&[&check[..], &["--state-dir", "/of/flag"]].concat(), &variable, "/of/flag"),
    ] {
        let output = worker(arguments, variables).expect(0);
        assert!(output.stdout.contains(&format!("state_dir        {expected}\n")), "{output}");
    }
}

#[test]
fn the_log_says_when_the_worker_is_ready_and_who_changes_the_host_by_what() {
    let redis = Redis::start();
    let reading = Worker::on(&redis).host("web2").config("slots = 3\nreserved = 2").start();
    let ready = reading.wait_log("ready: 3 slots, 2 of them for actions that only read; ");
    assert!(ready.ends_with("nothing that changes this host is allowed (actions.allow)"), "{ready}");
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_log("allowed to change this host: exec");
    worker.wait_online();
    let ctl = Ctl::on(&redis).env("REDFLEET_OPERATOR", "ann@desk");
    let exec =
        ["run", "--host", "web1", "exec", "cwd=/", "secret.TOKEN=hunter2", "--", "sh", "-c", "exit 0", "two words"];
    ctl.run(exec).expect(0);
    let line = worker.wait_log("starts for ann@desk: ");
    assert!(line.ends_with("starts for ann@desk: exec cwd=/ secret=*** -- sh -c exit 0 two words"), "{line}");
    ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    assert_eq!(worker.log().matches("starts for").count(), 1, "{}", worker.log());
}

#[test]
fn a_wrong_password_is_not_called_an_outage() {
    let redis = Redis::options().password("right").start();
    let socket = format!("unix://{}", redis.socket().display());
    let refused = |url: &str, remedy: &str| {
        let worker = Worker::on(&redis).redis(url).start();
        let line = worker.wait_log("refuses this worker: ");
        assert!(line.contains(remedy) && line.contains("redis_password_file"), "{line}");
        assert!(!worker.log().contains("is away"), "{}", worker.log());
        worker
    };
    refused(&format!("{socket}?pass=wrong"), "correct its user or password");
    let worker = refused(&socket, "it wants a password");
    redis.cli(["CONFIG", "SET", "requirepass", ""]);
    worker.wait_log("accepts this worker after ");
    assert_eq!(worker.log().matches("refuses this worker").count(), 1, "{}", worker.log());
}
