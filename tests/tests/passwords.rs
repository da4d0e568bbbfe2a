//! The password for Redis: where it can be put, and where it is never shown.

use std::{
    fs,
    process::{Command, Stdio},
};

use protocol::environment;
use tests::{Ctl, Output, Redis, Stack, Worker, binary, eventually};

const SECRET: &str = "hunter2";

/// Runs the worker to its end.
fn worker(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary("worker"));
    for (name, _) in environment::ALL {
        command.env_remove(name);
    }
    let output = command.args(arguments).envs(variables.iter().copied()).output().expect("the worker starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: output.status.code().expect("a code"), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[test]
fn a_file_holds_the_password() {
    let redis = Redis::options().tcp().password(SECRET).start();
    let url = redis.tcp_url().replace(&format!(":{SECRET}@"), "");
    let file = redis.directory().join("password");
    fs::write(&file, format!("{SECRET}\n")).expect("a file");
    let file = file.to_str().expect("text");
    let variable = environment::REDIS_PASSWORD_FILE;
    let options = |host: &str| Worker::on(&redis).host(host).redis(&url);
    let _workers = [
        options("web1").config(&format!("redis_password_file = {file:?}")).start(),
        options("web2").arguments(["--redis-password-file", file]).start(),
        options("web3").env(variable, file).start(),
    ];
    for host in ["web1", "web2", "web3"] {
        let facts = format!("server:{{{host}}}:facts");
        eventually(&format!("{host} to be online"), || (redis.cli(["EXISTS", &facts]) == "1").then_some(()));
    }

    let ctl = Ctl::alone();
    let refused = ctl.run(["--redis", &url, "host", "list"]).expect(1);
    assert!(refused.stderr.contains("--redis-password-file"), "{refused}");
    let run = |ctl: &Ctl, flags: &[&str]| {
        let output = ctl.run([&["--redis", &url], flags, &["run", "--host", "web1", "ping"]].concat()).expect(0);
        assert!(!output.stderr.contains("warning"), "{output}");
    };
    run(&ctl, &["--redis-password-file", file]);
    run(&ctl.clone().env(variable, file), &[]);
    ctl.write(".config/redfleet/ctl.toml", &format!("redis_password_file = {file:?}"));
    run(&ctl, &[]);

    let missing = ctl.run(["--redis", &url, "--redis-password-file", "/no/such", "host", "list"]).expect(1);
    assert!(missing.stderr.contains("cannot read the password file /no/such: No such file"), "{missing}");
    let missing = worker(&["--redis", &url, "--redis-password-file", "/no/such", "--check-config"], &[]).expect(64);
    assert!(missing.stderr.contains("cannot read /no/such: No such file"), "{missing}");
}

#[test]
fn a_password_on_the_command_line_is_warned_of_and_not_repeated() {
    let redis = Redis::options().tcp().password(SECRET).start();
    let url = redis.tcp_url();
    let output = Ctl::alone().run(["--redis", &url, "host", "list"]).expect(0);
    assert!(output.stderr.contains("warning: other users of this machine can see the password"), "{output}");
    let worker = Worker::on(&redis).arguments(["--redis", &url]).start();
    worker.wait_online();
    assert!(worker.wait_log("other users of this machine can see the password").contains("WARN"));
    assert!(!output.stderr.contains(SECRET) && !worker.log().contains(SECRET));

    // From the environment it is no news for other users.
    let output = Ctl::alone().env(environment::REDIS, &url).run(["host", "list"]).expect(0);
    assert!(!output.stderr.contains("warning"), "{output}");
}

#[test]
fn no_refusal_repeats_a_password() {
    for url in ["redis://:hunter2@h:port", "redis://hunter2", "redis://h:hunter2", ":hunter2@h"] {
        // A host name is shown.
        let is_shown = url == "redis://hunter2";
        for output in [
            worker(&["--check-config", "--redis", url], &[]),
            worker(&["--check-config"], &[(environment::REDIS, url)]),
            Ctl::alone().run(["--redis", url, "host", "list"]),
            Ctl::alone().env(environment::REDIS, url).run(["host", "list"]),
        ] {
            assert!(is_shown || (output.code != 0 && !format!("{output}").contains(SECRET)), "{url}: {output}");
        }
    }
}

#[test]
fn what_ctl_up_starts_has_no_password_in_its_arguments() {
    let stack = Stack::new();
    let url = format!("redis://:{SECRET}@127.0.0.1:1");
    stack.ctl.run(["--redis", &url, "up", "--host", "web1"]).expect(0);
    let lines = ["redis.pid", "worker.pid"].map(|name| {
        let line = fs::read(format!("/proc/{}/cmdline", stack.pid(name))).expect("a command line");
        String::from_utf8_lossy(&line).into_owned()
    });
    assert!(lines[0].contains("redis.sock") && lines[1].contains("worker.toml"), "{lines:?}");
    assert!(!lines.concat().contains(SECRET), "{lines:?}");
}

#[test]
fn lists_of_processes_mask_passwords() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    // It uses a processor, so that it is high in the list.
    let mut busy = Command::new("sh");
    busy.args(["-c", "while :; do :; done", "redfleet-busy", "redis://ann:hunter2@h/1", "--password", SECRET]);
    let mut busy = busy.stdin(Stdio::null()).spawn().expect("a process");
    let output = Ctl::on(&redis).run(["run", "--all", "collect-processes", "by=cpu", "top=100"]);
    busy.kill().and_then(|()| busy.wait()).expect("one's own child");
    let output = output.expect(0);
    assert!(output.stdout.contains("redfleet-busy redis://ann:***@h/1 --password ***"), "{output}");
    assert!(!output.stdout.contains(SECRET), "{output}");
}
