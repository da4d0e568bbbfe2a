//! Where `ctl` prints: on a terminal, which obeys what it is sent; into a pipe whose reader goes; on a full disk.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use tests::{Ctl, Gate, OnTerminal, Redis, Worker, binary, eventually, fleet_with_ctl};

fn fleet() -> (Redis, Worker, Ctl) {
    fleet_with_ctl("")
}

/// Sequences that a terminal would obey, and how they are shown.
const HOSTILE: &str = r"\033]0;title\007\033[2J\302\2332J\a\033[31mred";
const SHOWN: &str = r"\x1b]0;title\x07\x1b[2J\u{9b}2J\x07";

fn printf(text: &str) -> String {
    format!("printf '{text}'")
}

#[test]
fn on_a_terminal_only_colours_of_a_programs_output_are_obeyed() {
    let (_redis, _worker, ctl) = fleet();
    // The sequence is printed in two pieces.
    let split = format!(r"{}; printf '\033['; sleep 0.2; printf '2Jend\n'", printf(HOSTILE));
    for follow in [false, true] {
        let on_stderr = format!("{{ {split}; }} >&2");
        for script in [&split, &on_stderr] {
            let mut line = vec!["run", "-q", "--host", "web1"];
            line.extend(follow.then_some("--follow"));
            line.extend(["exec", "--", "sh", "-c", script]);
            let (code, shown) = OnTerminal::start(ctl.command(&line).env("TERM", "xterm")).wait();
            assert_eq!(code, Some(0), "{shown}");
            let plain = shown.replace("\x1b[31m", "").replace("\x1b[0m", "");
            assert_eq!(plain, format!("{SHOWN}red\\x1b[2Jend\r\n"), "{shown:?}");
            assert!(shown.contains("\x1b[31mred") && shown.ends_with("\x1b[0m\r\n"), "the colour ends: {shown:?}");
        }
    }
    let mut logs = ctl.command(["job", "logs", "-q", "last"]);
    let (_, logs) = OnTerminal::start(logs.env("NO_COLOR", "1").env("TERM", "xterm")).wait();
    assert_eq!(logs, format!("{SHOWN}red\\x1b[2Jend\r\n"), "no colour is wanted");
}

#[test]
fn raw_output_and_output_into_a_pipe_is_exact() {
    let (_redis, _worker, ctl) = fleet();
    let job = ctl.dispatch("web1", &printf(HOSTILE));
    let exact = "\x1b]0;title\x07\x1b[2J\u{9b}2J\x07\x1b[31mred";
    assert_eq!(ctl.run(["job", "wait", "-q", &job]).expect(0).stdout, exact);
    for verb in [["wait", "-q"].as_slice(), &["logs", "-q"], &["logs", "-q", "-f"]] {
        let line: Vec<_> = ["job"].iter().chain(verb).chain(&["--raw", &job]).copied().collect();
        let (_, shown) = OnTerminal::start(&mut ctl.command(&line)).wait();
        assert_eq!(shown, exact, "{verb:?}");
    }
}

#[test]
fn other_text_from_hosts_is_harmless_too() {
    let redis = Redis::start();
    let config = "[labels]\nrole = \"a\\u001b]0;x\\u0007\\u009b2J\"";
    let worker = Worker::on(&redis).config(config).allow_exec().start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    redis.cli(["HSET", "server:{web1}:facts", "os", "\x1b[2Jos", "ke\x1b[2Jy", "value"]);
    let hostile = |shown: &str| {
        let rest = shown.replace(['\r', '\n', '\t'], "");
        let without = without_colours(&rest);
        without.contains(char::is_control)
    };
    // A process of a hostile name.
    let name = redis.directory().join("a\u{9b}\x1b]0;b");
    std::fs::copy("/bin/sleep", &name).expect("a copy");
    let mut child = Command::new(&name).arg("100").spawn().expect("it runs");
    for line in [
        ["host", "show", "web1"].as_slice(),
        &["host", "show", "web1", "-o", "json"],
        &["run", "--host", "web1", "collect-processes", "top=100"],
        &["run", "--host", "web1", "collect-processes", "top=100", "-o", "jsonl"],
        &["run", "--host", "web1", "exec", "--", "/no/such\x1b]0;x\x07\u{9b}program"],
    ] {
        let (_, shown) = OnTerminal::start(ctl.command(line).env("TERM", "xterm")).wait();
        assert!(!hostile(&shown), "{line:?}: {shown:?}");
    }
    child.kill().and_then(|()| child.wait()).expect("it ends");
    let json = ctl.run(["host", "show", "web1", "-o", "json"]).expect(0);
    assert!(json.stdout.contains(r"\u009b2J"), "C1 controls are escaped for a pipe, too: {json}");
    assert_eq!(json.json()["labels"]["role"], "a\u{1b}]0;x\u{7}\u{9b}2J");
}

/// The text without the colours of `ctl` itself.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| match part.split_once('m') {
        Some((digits, rest)) if digits.chars().all(|digit| digit.is_ascii_digit() || digit == ';') => rest.to_owned(),
        _ => format!("\x1b[{part}"),
    });
    first + &rest.collect::<String>()
}

#[test]
fn a_closed_pipe_ends_following_at_once() {
    let (redis, _worker, ctl) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    // It prints three lines and then nothing: `ctl` has nothing to write when the reader goes.
    let script = format!("echo 1; echo 2; echo 3; {}", gate.script());
    let line = ["run", "--follow", "--host", "web1", "exec", "--", "sh", "-c", &script];
    let ends = |arguments: &[&str]| {
        let mut child = ctl.command(arguments).spawn().expect("ctl starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut text = String::new();
        for _ in 0..3 {
            lines.read_line(&mut text).expect("a line");
        }
        assert_eq!(text, "1\n2\n3\n");
        drop(lines);
        let status = eventually("ctl to end", || child.try_wait().expect("one's own child"));
        let mut stderr = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut stderr).expect("text");
        assert_eq!((status.code(), stderr.as_str()), (Some(141), ""));
    };
    ends(&line);
    gate.reached();
    ends(&["job", "logs", "-f", "last"]);
    assert_eq!(ctl.host_states("last")[0].1, "running", "the job goes on");
    gate.open();
}

#[test]
fn a_full_disk_does_not_hide_how_the_hosts_ended() {
    let (_redis, _worker, ctl) = fleet();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("/dev/full"));
    let run = |arguments: &[&str]| {
        let output = ctl.command(arguments).stdout(full()).output().expect("ctl runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    for (options, script, code) in [
        (["-q"].as_slice(), "echo out", 0),
        (&["-q", "--follow"], "echo out; exit 3", 2),
        (&["-q", "-o", "json"], "exit 3", 2),
    ] {
        let line: Vec<_> = ["run", "--host", "web1"]
            .iter()
            .chain(options)
            .chain(&["exec", "--", "sh", "-c", script])
            .copied()
            .collect();
        let (exit, stderr) = run(&line);
        assert_eq!(exit, Some(code), "{line:?}: {stderr}");
        assert_eq!(
            stderr.matches("output is lost: cannot write to standard output: No space left").count(),
            1,
            "{stderr}"
        );
        assert!(stderr.contains("ctl job wait "), "{stderr}");
    }
    let (code, stderr) = run(&["run", "-q", "--host", "web1", "--detach", "ping"]);
    let id = &ctl.run(["job", "list", "-o", "json", "-n", "1"]).expect(0).json()[0]["job"];
    assert!(stderr.contains(id.as_str().expect("an id")), "{stderr}");
    assert_eq!(code, Some(3), "{stderr}");
    assert_eq!(run(&["host", "list"]).0, Some(1));
}

#[test]
fn help_that_cannot_be_written_is_no_success() {
    for program in ["ctl", "worker"] {
        for flag in ["--help", "--version"] {
            let run = |stdout: Stdio| {
                let output = Command::new(binary(program)).arg(flag).stdout(stdout).output().expect("it runs");
                (output.status.code(), String::from_utf8(output.stderr).expect("text"))
            };
            let (code, stderr) = run(File::options().write(true).open("/dev/full").expect("/dev/full").into());
            assert_eq!(code, Some(1), "{program} {flag}");
            assert!(stderr.contains("No space left on device"), "{program} {flag}: {stderr}");
            assert_eq!(run(Stdio::null()), (Some(0), String::new()));
        }
    }
}
