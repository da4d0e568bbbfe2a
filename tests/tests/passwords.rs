//! The password for Redis: where it can be put, and where it is never shown.

use std::{
    fs,
    process::{Command, Stdio},
};

use protocol::{acl::Role, environment};
use tests::{
    Ctl, Gate, OnTerminal, Output, Raw, Redis, Stack, Worker, binary, descendants, eventually,
    search::{assert_hidden, command_lines_of, contains, files, kept},
};

const SECRET: &str = "hunter2";

/// Passwords and a passphrase that stand in no other test, so that whoever shows them has them from here.
const IN_URL: &str = "lamp-oil-and-wick";
const IN_FILE: &str = "walnut-hinge-brass";
const WRONG: &str = "salted-hazel-twig";
const PASSPHRASE: &str = "seven-grey-herons";

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

/// Waits for a worker whose own login may not read what it publishes.
#[track_caller]
fn wait_online(redis: &Redis, host: &str) {
    let facts = format!("server:{{{host}}}:facts");
    eventually(&format!("{host} to be online"), || (redis.cli(["EXISTS", &facts]) == "1").then_some(()));
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
        wait_online(&redis, host);
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

/// A server on which the users of these roles have these passwords.
fn server(users: &[(&Role, &[&str])]) -> Redis {
    // What is compressed could not be searched.
    let redis = Redis::options().set("rdbcompression", "no").start();
    let mut raw = Raw::on(&redis);
    for (role, passwords) in users {
        redis.admit(role, None);
        let (user, passwords) = (role.user(None), passwords.iter().map(|password| format!(">{password}")));
        let words: Vec<_> =
            ["ACL".into(), "SETUSER".into(), user, "resetpass".into()].into_iter().chain(passwords).collect();
        raw.query::<()>(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    redis
}

/// Runs `ctl` on a terminal, where it asks for the passphrase of the key.
fn unlock(ctl: &Ctl, arguments: &[&str]) -> OnTerminal {
    let mut terminal = ctl.start_at_terminal(arguments);
    terminal.answer("passphrase of ", &format!("{PASSPHRASE}\n"));
    terminal
}

#[test]
fn no_password_and_no_passphrase_is_kept_shown_or_logged_anywhere() {
    let [web1, web2] = ["web1", "web2"].map(|host| Role::Worker(host.parse().expect("a name")));
    let redis = server(&[(&web1, &[IN_URL]), (&web2, &[IN_FILE]), (&Role::Controller, &[IN_URL, IN_FILE])]);
    let url = |role: &Role, password: &str| format!("{}?user={}&pass={password}", redis.url(), role.user(None));
    let secrets = tempfile::tempdir().expect("a directory");
    let file = secrets.path().join("password");
    fs::write(&file, format!("{IN_FILE}\n")).expect("a file");
    let file = file.to_str().expect("text");

    // The operator's key, of which nobody but its owner knows the passphrase.
    let ctl = Ctl::keyless().env(environment::REDIS, &url(&Role::Controller, IN_URL));
    let mut made = ctl.start_at_terminal(["key", "init"]);
    for question in ["new passphrase (empty for none): ", "the same again: "] {
        made.answer(question, &format!("{PASSPHRASE}\n"));
    }
    let (code, made) = made.wait();
    assert_eq!(code, Some(0), "{made}");
    let public = fs::read_to_string(ctl.home().join(".config/redfleet/key.pub")).expect("a key");

    let start = |host: &str| Worker::on(&redis).host(host).config("[log]\nlevel = 'trace'").allow_exec();
    let workers = [start("web1").redis(&url(&web1, IN_URL)), start("web2").env(environment::REDIS_PASSWORD_FILE, file)];
    let workers = workers.map(|options| {
        options.trust(&format!("* {public}"));
        options.start()
    });
    for host in ["web1", "web2"] {
        wait_online(&redis, host);
    }
    let stranger = Worker::on(&redis).host("web3").redis(&url(&web1, WRONG)).config("[log]\nlevel = 'trace'").start();

    // The program shows its environment, which may have what the worker's own has.
    let mut gate = Gate::new(&redis, "gate");
    let held = format!(": x-x-x; {}; env", gate.script());
    let mut first = unlock(&ctl, &["run", "--host", "web1", "--follow", "exec", "--", "sh", "-c", &held]);
    gate.reached();
    let (inside, ps) = (kept(&redis), command_lines_of(descendants(std::process::id())));
    redis.cli(["SAVE"]);
    gate.open();
    let by_file = ctl.clone().env(environment::REDIS, &url(&Role::Controller, WRONG));
    let by_file = by_file.env(environment::REDIS_PASSWORD_FILE, file);
    let mut second = unlock(&by_file, &["run", "--host", "web2", "exec", "--", "sh", "-c", ": x-x-x; env"]);
    let mut shown = made;
    for terminal in [&mut first, &mut second] {
        let (code, output) = terminal.wait();
        assert!(code == Some(0) && output.contains("PATH="), "{output}");
        shown.push_str(&output);
    }
    let written = ctl.home().join("written");
    let written = written.to_str().expect("text");
    let refused = Ctl::keyless().env(environment::REDIS, &url(&Role::Controller, WRONG)).run(["host", "list"]);
    for output in [
        refused.clone().expect(1),
        ctl.run(["job", "show", "last"]).expect(0),
        ctl.run(["job", "show", "last", "-o", "json"]).expect(0),
        ctl.run(["job", "show", "last", "--raw", written]).expect(0),
        ctl.run(["host", "show", "web1"]).expect(0),
        ctl.run(["key", "show"]).expect(0),
        ctl.run(["acl", "print", "--host", "web2", "--password-file", file]).expect(0),
        ctl.run(["doctor"]),
        by_file.run(["doctor"]),
        worker(&["--redis", &url(&web1, IN_URL), "--check-config"], &[]),
        worker(&["--redis-password-file", file, "--check-config"], &[(environment::REDIS, &url(&web2, WRONG))]),
    ] {
        shown.push_str(&output.to_string());
    }
    stranger.wait_log("refuses this worker");

    assert!(contains(&fs::read(redis.directory().join("dump.rdb")).expect("a dump"), "x-x-x"), "a dump was written");
    let [one, two] = workers;
    let state = |worker: &Worker| files(&worker.options().directory().join("state"));
    let places = [
        ("Redis while a command ran", inside),
        ("Redis afterwards", kept(&redis)),
        ("the append-only file", files(&redis.directory().join("appendonlydir"))),
        ("the files of Redis", files(redis.directory())),
        ("the state of the worker with the URL", state(&one)),
        ("the state of the worker with the file", state(&two)),
        ("the log of the worker with the URL", one.log().into_bytes()),
        ("the log of the worker with the file", two.log().into_bytes()),
        ("what ctl keeps", files(ctl.home())),
        ("what was printed", shown.into_bytes()),
        ("ps", ps),
    ];
    assert_hidden(&places, "x-x-x", &[IN_URL, IN_FILE, WRONG, PASSPHRASE]);
    assert_hidden(
        &[("the log of the worker with the wrong password", stranger.log().into_bytes())],
        "refuses this worker",
        &[WRONG],
    );
}
