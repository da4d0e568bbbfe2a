//! Plain use: deploy, look, roll back, and what is refused.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::Command,
    thread,
};

use protocol::artifact::Digester;
use serde_json::Value;

use super::{Done, One, release};

#[test]
fn a_release_is_deployed_seen_and_rolled_back() {
    let one = One::start("");
    let first = one.try_release("1", "").is("deployed");
    assert_eq!((first.changed(), first.text("running"), &first.data["prior"]), (Some(true), "1", &Value::Null));
    assert_eq!(one.host.answers(), "1");
    let pid = one.host.served.pid();
    let again = one.try_release("1", "").is("already");
    assert_eq!((again.changed(), again.text("running"), one.host.served.pid()), (Some(false), "1", pid));

    let second = one.try_release("2", "").is("deployed");
    assert_eq!((second.text("running"), second.text("prior")), ("2", "1"));
    assert_eq!(one.host.answers(), "2");
    // A version is one release for ever.
    let other = one.try_release("2", "loud 1");
    assert!(other.state == "failed" && other.reason.contains('2'), "{other:?}");
    assert_eq!(one.host.answers(), "2");

    let status = one.ask("status web web1");
    for (name, value) in [("running", "2"), ("current", "2"), ("proven", "2"), ("service_state", "up")] {
        assert_eq!(status.text(name), value, "{status:?}");
    }
    assert_eq!(status.data["releases"].as_array().map(Vec::len), Some(2), "{status:?}");
    let shown = one.ctl.run(["deploy", "status", "web", "web1"]).expect(0);
    let rows: Vec<Vec<_>> = shown.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["HOST", "RUNNING", "PROVEN", "SERVICE", "SINCE", "BY"]);
    assert_eq!(rows[1][..4], ["web1", "2", "2", "up"], "{shown}");

    let back = one.ask("rollback web web1 --dry-run");
    assert_eq!((back.state.as_str(), back.changed()), ("succeeded", Some(false)));
    assert!(back.data["would"].as_array().is_some_and(|steps| !steps.is_empty()), "{back:?}");
    assert_eq!(one.host.answers(), "2");
    let back = one.ask("rollback web web1").went_back();
    assert_eq!((back.text("running"), back.text("prior"), back.changed()), ("1", "2", Some(true)));
    assert_eq!(one.host.answers(), "1");
    one.ask("rollback web --to 2 web1").went_back();
    assert_eq!(one.host.answers(), "2");
    let unknown = one.ask("rollback web --to 7 web1");
    assert!(unknown.state == "failed" && unknown.reason.contains('7'), "{unknown:?}");

    let history = one.ctl.run(["deploy", "history", "web", "web1"]).expect(0);
    let rows: Vec<Vec<_>> = history.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["AT", "JOB", "BY", "VERSION", "FROM", "RESULT", "REASON"]);
    let data = one.ask("history web web1").data;
    let versions: Vec<_> = data["history"].as_array().expect("a list").iter().map(|entry| &entry["version"]).collect();
    // The newest first: forth and back, and what failed.
    assert_eq!(versions.last().copied(), Some(&Value::from("1")), "{versions:?}");
    assert!(versions.iter().filter(|version| **version == "1").count() >= 2, "{versions:?}");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let one = One::start("");
    let from = release(&one.ctl, "1", "");
    let dry = Done::of(&one.deploy("1", &from, &["--dry-run", "-o", "json"]));
    assert_eq!((dry.state.as_str(), dry.changed()), ("succeeded", Some(false)), "{dry:?}");
    assert!(dry.data["would"].as_array().is_some_and(|steps| steps.len() > 1), "{dry:?}");
    assert!(!one.host.has("1") && one.host.served.processes().is_empty());
    let output = one.deploy("1", &from, &["--dry-run"]).expect(0);
    assert!(output.stderr.contains(", would change\n") && output.stdout.contains("\nwould "), "{output}");
}

#[test]
fn what_fails_before_the_switch_leaves_all_as_it_was() {
    let one = One::start("");
    one.try_release("1", "").is("deployed");
    let pid = one.host.served.pid();
    let sick = one.try_release("2", "sick").is("failed");
    assert!(sick.reason.contains("/health: status 500"), "{sick:?}");
    assert_eq!((sick.text("running"), sick.changed()), ("1", Some(false)));
    let crashed = one.try_release("3", "crash").is("failed");
    assert!(crashed.reason.contains("exit code 3"), "{crashed:?}");
    assert!(crashed.stderr.contains("told to crash"), "its last lines: {crashed:?}");
    assert_eq!(one.host.served.pid(), pid, "nothing was switched");
    assert!(!one.host.has("2") && !one.host.has("3"));
    one.try_release("2", "").is("deployed");
}

#[test]
fn what_fails_after_the_switch_is_rolled_back_and_told() {
    let one = One::start("");
    one.try_release("1", "").is("deployed");
    let port = one.host.served.address.port();
    let bad = one.try_release("2", &format!("turns {port}")).is("rolled_back");
    assert!(bad.reason.contains("/health: status 500") && bad.reason.contains("rolled back to 1"), "{bad:?}");
    assert!(bad.stderr.contains("turns sick"), "its last lines: {bad:?}");
    assert_eq!((bad.text("running"), bad.text("prior"), one.host.answers().as_str()), ("1", "1", "1"));

    // What a person reads.
    let from = release(&one.ctl, "3", &format!("leaves {port}"));
    let output = one.deploy("3", &from, &[]).expect(2);
    assert!(output.stderr.contains("web1 | leaves\n"), "{output}");
    assert!(output.stderr.contains("web1: version 1 runs there now"), "{output}");
    assert!(output.stderr.contains("web1: failed after ") && output.stderr.contains("rolled back to 1"), "{output}");
    let again = one.ctl.run(["job", "wait", "last"]).expect(2);
    assert!(again.stderr.contains("web1: version 1 runs there now"), "{again}");
    assert_eq!(one.host.answers(), "1");
}

#[test]
fn the_same_files_are_the_same_release_however_they_are_packed_here() {
    let one = One::start("");
    let from = release(&one.ctl, "1", "");
    let first = Done::of(&one.deploy("1", &from, &["-o", "json"])).is("deployed");
    assert_eq!(first.text("running"), "1");
    // Other times, another order in the directory.
    let copy = one.ctl.home().join("copy");
    let copied = Command::new("cp").arg("-r").args([&from, &copy]).status().expect("cp");
    assert!(copied.success());
    Done::of(&one.deploy("1", &copy, &["-o", "json"])).is("already");

    // Archives of other makers.
    for (version, form, name) in [("2", "-czf", "web.tgz"), ("3", "-cf", "web.tar")] {
        let directory = release(&one.ctl, version, "");
        let archive = one.ctl.home().join(name);
        let tar = Command::new("tar").arg(form).arg(&archive).arg("-C").arg(&directory).arg(".").status();
        assert!(tar.expect("tar").success());
        Done::of(&one.deploy(version, &archive, &["-o", "json"])).is("deployed");
        assert_eq!(one.host.answers(), version);
    }
}

#[test]
fn hosts_fetch_a_release_by_its_url() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let base = format!("http://{}/", listener.local_addr().expect("an address"));
    let one = One::start(&format!("urls = ['{base}']"));
    let archive = one.ctl.home().join("web.tgz");
    let directory = release(&one.ctl, "1", "");
    let tar = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&directory).arg(".").status();
    assert!(tar.expect("tar").success());
    let bytes = fs::read(&archive).expect("an archive");
    let (digest, size) = (digest(&bytes), bytes.len().to_string());
    serve(listener, bytes);

    let deploy = |url: &str, sha256: &str| {
        let words = ["deploy", "web", "--version", "1", "--from", url, "--sha256", sha256, "--size", &size, "web1"];
        Done::of(&one.ctl.run(words.into_iter().chain(["-o", "json"])))
    };
    let foreign = deploy("http://127.0.0.1:1/web.tgz", &digest);
    assert!(foreign.state == "failed" && foreign.reason.contains("http://127.0.0.1:1/web.tgz"), "{foreign:?}");
    let altered = deploy(&format!("{base}web.tgz"), &"ab".repeat(32));
    assert_eq!(altered.state, "failed", "{altered:?}");
    assert!(!one.host.has("1"));
    deploy(&format!("{base}web.tgz"), &digest).is("deployed");
    assert_eq!(one.host.answers(), "1");
}

fn digest(bytes: &[u8]) -> String {
    let mut digester = Digester::default();
    digester.update(bytes);
    digester.artifact().sha256()
}

/// Answers each request with these bytes.
fn serve(listener: TcpListener, bytes: Vec<u8>) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes));
        }
    });
}

#[test]
fn bad_input_is_refused_with_what_to_do() {
    let one = One::start("");
    let from = release(&one.ctl, "1", "");
    let refused = |words: &[&str], code: i32, parts: &[&str]| {
        let output = one.ctl.run(["deploy"].iter().chain(words)).expect(code);
        for part in parts {
            assert!(output.stderr.contains(part), "'{part}' is not in {output}");
        }
    };
    let from = from.to_str().expect("text");
    let file = one.ctl.write("x.zip", "PK\x03\x04");
    let file = file.to_str().expect("text");
    refused(&[], 64, &["--version <V>", "<APP>"]);
    refused(&["web", "--version", "1", "--from", from], 64, &["<HOSTS>"]);
    refused(&["web", "--version", "../1", "--from", from, "web1"], 64, &["letters, digits and"]);
    refused(&["web", "--version", "1", "--from", "ftp://a/b", "web1"], 64, &["https:// and http:// alone"]);
    refused(&["web", "--version", "1", "--from", "no-such", "web1"], 1, &["cannot read no-such"]);
    refused(&["web", "--version", "1", "--from", file, "web1"], 1, &["is no archive", "--from DIR"]);
    let url = ["web", "--version", "1", "--from", "https://a/b.tgz", "web1"];
    refused(&url, 1, &["needs --sha256 and --size", "sha256sum"]);
    refused(&["web", "--version", "1", "--from", from, "web9"], 1, &["web9"]);
    refused(&["wbe", "--version", "1", "--from", from, "web1"], 2, &["wbe", "web"]);
    refused(&["status", "wbe", "web1"], 2, &["wbe"]);
    refused(&["rollback", "web", "web1"], 2, &[]);
    assert!(fs::read_dir(one.host.releases()).map_or(0, Iterator::count) == 0);
    assert!(!Path::new(from).join("../current").exists());
}
