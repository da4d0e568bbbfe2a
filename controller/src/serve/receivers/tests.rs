//! Notifications on their way, to real listeners and programs. Nothing that a host says of itself gets out of its place.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::client::alerts::{Alert, Phase, Severity};

const HOSTILE: &str = "a\r\nBcc: eve@example.com\r\n\r\n\u{1b}[2J\u{202e}<b>";

fn alert(phase: Phase) -> Alert {
    Alert {
        rule: "disk-full".into(),
        host: Some("web1".parse().unwrap()),
        severity: Severity::Critical,
        phase,
        labels: [("team".to_owned(), "ops".to_owned()), (HOSTILE.to_owned(), HOSTILE.to_owned())].into(),
        text: format!("web1 is full {HOSTILE}"),
        found: "disk.used = 97.1".into(),
        begins_ms: 1_790_000_000_000,
        ends_ms: (phase == Phase::Resolved).then_some(1_790_000_060_000),
    }
}

fn notification(phase: Phase) -> Notification {
    Notification {
        id: "0af1".into(),
        receiver: "ops".into(),
        group: BTreeMap::from([("rule".into(), "disk-full".into())]),
        phase,
        alerts: vec![alert(phase)],
        at_ms: 1_790_000_100_000,
    }
}

fn of(text: &str) -> anyhow::Result<Receivers> {
    #[derive(Deserialize)]
    struct File {
        receivers: Vec<Setting>,
    }
    Receivers::of(toml::from_str::<File>(&format!("[[receivers]]\nname = 'ops'\n{text}"))?.receivers)
}

fn wrong(text: &str) -> String {
    format!("{:#}", of(text).unwrap_err())
}

/// A web server that gives these answers, one for each connection, and keeps what it was asked.
async fn web(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = request(&mut stream).await;
            kept.lock().unwrap().push(asked);
            // Who has heard enough goes away.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, asked)
}

async fn request(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let from = head.len();
        reader.read_line(&mut head).await.unwrap();
        let line = head[from..].trim().to_ascii_lowercase();
        if let Some(written) = line.strip_prefix("content-length: ") {
            length = written.parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.unwrap();
    head + &String::from_utf8(body).unwrap()
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn secret(directory: &Path, mode: u32) -> String {
    let path = directory.join("secret");
    fs::write(&path, "s3cret\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_webhook_is_posted_json_with_an_id_that_makes_repeats_known() {
    let directory = tempfile::tempdir().unwrap();
    let file = secret(directory.path(), 0o600);
    let (url, asked) = web(vec![answer("204 No Content", "")]).await;
    let setting = format!(
        "kind = 'webhook'\nurl = '{url}/hook/k3y'\nbearer_token_file = '{file}'\nheaders = {{ X-Team = 'ops' }}"
    );
    let receivers = of(&setting).unwrap();
    receivers.send(&notification(Phase::Firing)).await.unwrap();
    let asked = asked.lock().unwrap().remove(0);
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    for line in ["POST /hook/k3y HTTP/1.1", "idempotency-key: 0af1", "authorization: Bearer s3cret", "x-team: ops"] {
        assert!(head.lines().any(|found| found == line), "{line}: {head}");
    }
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["version"], &body["id"], &body["phase"]), (&1.into(), &"0af1".into(), &"firing".into()));
    assert_eq!(body["summary"], "critical: disk-full on web1");
    assert_eq!(body["alerts"][0]["labels"]["team"], "ops");
    // What is shown of it has none of its secrets.
    let shown = format!("{receivers:?} {:?}", receivers.shown().collect::<Vec<_>>());
    assert!(shown.contains(&url) && !shown.contains("k3y") && !shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn an_id_cannot_end_its_header() {
    let (url, asked) = web(vec![answer("200 OK", "")]).await;
    let receivers = of(&format!("kind = 'webhook'\nurl = '{url}'")).unwrap();
    receivers.send(&Notification { id: HOSTILE.into(), ..notification(Phase::Firing) }).await.unwrap();
    let asked = asked.lock().unwrap().remove(0);
    let (head, _) = asked.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("idempotency-key: a__Bcc__eve_example.com"), "{head}");
    assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
}

#[tokio::test]
async fn an_answer_says_whether_another_attempt_makes_sense() {
    let flood = "x\u{1b}".repeat(4_000_000);
    let redirect = "HTTP/1.1 302 Found\r\nLocation: http://example.com/k3y\r\nContent-Length: 0\r\n\r\n".to_owned();
    let answers = vec![
        answer("500 Internal Server Error", "sorry"),
        answer("400 Bad Request", "no\r\nsuch \u{1b}[2Jroom"),
        answer("429 Too Many Requests", ""),
        answer("408 Request Timeout", ""),
        redirect,
        answer("503 Service Unavailable", &flood),
        // The connection is closed without an answer.
        String::new(),
        answer("200 OK", &flood),
    ];
    let (url, asked) = web(answers).await;
    let receivers = of(&format!("kind = 'webhook'\nurl = '{url}/k3y'")).unwrap();
    for (again, part) in [
        (true, "500 Internal Server Error: sorry"),
        (false, "400 Bad Request: no"),
        (true, "429"),
        (true, "408"),
        (false, "at http://example.com: name that one"),
        (true, "503"),
        (true, "127.0.0.1"),
    ] {
        let failure = receivers.send(&notification(Phase::Firing)).await.unwrap_err();
        assert!(failure.again == again && failure.reason.contains(part), "{part}: {failure:?}");
        let reason = &failure.reason;
        assert!(reason.len() < 3000 && !reason.contains(char::is_control) && !reason.contains("k3y"), "{reason}");
    }
    receivers.send(&notification(Phase::Firing)).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 8);
}

#[tokio::test]
async fn an_alertmanager_is_told_labels_that_it_takes_and_when_alerts_end() {
    let (url, asked) = web(vec![answer("200 OK", ""), answer("200 OK", "")]).await;
    let receivers = of(&format!("kind = 'alertmanager'\nurl = '{url}/am/'\nhold = '1h'")).unwrap();
    receivers.send(&notification(Phase::Firing)).await.unwrap();
    receivers.send(&notification(Phase::Resolved)).await.unwrap();
    let asked = asked.lock().unwrap();
    let told: Vec<Value> = asked
        .iter()
        .map(|asked| {
            assert!(asked.starts_with("POST /am/api/v2/alerts HTTP/1.1\r\n"), "{asked}");
            serde_json::from_str(asked.split_once("\r\n\r\n").unwrap().1).unwrap()
        })
        .collect();
    let labels = &told[0][0]["labels"];
    for (name, value) in [("alertname", "disk-full"), ("severity", "critical"), ("instance", "web1"), ("team", "ops")] {
        assert_eq!(labels[name], value);
    }
    let safe = |name: &String| name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    assert!(labels.as_object().unwrap().keys().all(safe), "{labels}");
    assert_eq!(told[0][0]["labels"], told[1][0]["labels"], "the same alert");
    assert_eq!(told[0][0]["startsAt"], protocol::time::show_moment(1_790_000_000_000));
    assert_eq!(told[0][0]["endsAt"], protocol::time::show_moment(1_790_000_100_000 + 3_600_000));
    assert_eq!(told[1][0]["endsAt"], protocol::time::show_moment(1_790_000_060_000));
}

/// A mail server that gives these answers to the steps that it knows, and keeps the whole dialogue.
async fn mail(refusal: Option<(&'static str, &'static str)>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let dialogue = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut lines = Vec::new();
        stream.write_all(b"220 mail.test ESMTP\r\n").await.unwrap();
        let mut in_data = false;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return lines;
            }
            let line = line.trim_end_matches("\r\n").to_owned();
            lines.push(line.clone());
            let step = line.split([' ', ':']).next().unwrap_or_default().to_owned();
            let answer = match step.as_str() {
                _ if in_data && line != "." => continue,
                _ if in_data => {
                    in_data = false;
                    "250 kept"
                }
                _ if refusal.is_some_and(|(refused, _)| refused == step) => refusal.unwrap().1,
                "EHLO" => "250-mail.test\r\n250 AUTH PLAIN",
                "AUTH" => "235 welcome",
                "MAIL" | "RCPT" | "RSET" => "250 fine",
                "DATA" => {
                    in_data = true;
                    "354 go on"
                }
                _ => "221 bye",
            };
            if stream.write_all(format!("{answer}\r\n").as_bytes()).await.is_err() || step == "QUIT" {
                return lines;
            }
        }
    });
    (port, dialogue)
}

fn smtp(port: u16, more: &str) -> String {
    format!(
        "kind = 'smtp'\nserver = '127.0.0.1'\nport = {port}\ntls = 'none'\nfrom = 'Redfleet <fleet@example.com>'\n\
         to = ['ann@example.com', 'Bob <bob@example.com>']\n{more}"
    )
}

#[tokio::test]
async fn mail_tells_all_addressees_and_is_the_same_mail_when_it_comes_twice() {
    let directory = tempfile::tempdir().unwrap();
    let login = format!("user = 'fleet'\npassword_file = '{}'", secret(directory.path(), 0o600));
    let mut mails = Vec::new();
    for _ in 0..2 {
        let (port, dialogue) = mail(None).await;
        of(&smtp(port, &login)).unwrap().send(&notification(Phase::Firing)).await.unwrap();
        mails.push(dialogue.await.unwrap());
    }
    assert_eq!(mails[0], mails[1]);
    let has = |line: &str| assert!(mails[0].iter().any(|found| found == line), "{line}: {:#?}", mails[0]);
    has("MAIL FROM:<fleet@example.com>");
    has("RCPT TO:<ann@example.com>");
    has("RCPT TO:<bob@example.com>");
    has("Message-ID: <0af1@example.com>");
    has("Subject: critical: disk-full on web1");
    // `\0fleet\0s3cret`: the login, and no more of it.
    has("AUTH PLAIN AGZsZWV0AHMzY3JldA==");
    assert!(!mails[0].iter().any(|line| line.contains("s3cret")), "{:#?}", mails[0]);
}

#[tokio::test]
async fn hostile_texts_add_no_line_to_the_head_of_a_mail() {
    let (port, dialogue) = mail(None).await;
    let mut hostile = notification(Phase::Firing);
    hostile.alerts[0].rule = format!("{HOSTILE}\r\n.\r\nQUIT");
    hostile.id = HOSTILE.into();
    of(&smtp(port, "")).unwrap().send(&hostile).await.unwrap();
    let lines = dialogue.await.unwrap();
    assert!(!lines.iter().any(|line| line.to_ascii_lowercase().starts_with("bcc")), "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("RCPT")).count(), 2, "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| *line == ".").count(), 1, "{lines:#?}");
}

#[tokio::test]
async fn a_mail_server_that_refuses_for_now_is_tried_again() {
    for (refusal, again) in
        [(("RCPT", "450 later"), true), (("RCPT", "550 nobody"), false), (("MAIL", "421 busy"), true)]
    {
        let (port, dialogue) = mail(Some(refusal)).await;
        let failure = of(&smtp(port, "")).unwrap().send(&notification(Phase::Firing)).await.unwrap_err();
        assert_eq!(failure.again, again, "{failure:?}");
        assert!(failure.reason.starts_with(&format!("127.0.0.1:{port}: ")), "{failure:?}");
        dialogue.await.unwrap();
    }
    // Nobody listens there any more.
    let (port, dialogue) = mail(None).await;
    dialogue.abort();
    let _ = dialogue.await;
    assert!(of(&smtp(port, "")).unwrap().send(&notification(Phase::Firing)).await.unwrap_err().again);
}

fn command(script: &str, more: &str) -> Receivers {
    of(&format!("kind = 'command'\ncommand = ['sh', '-c', {}]\n{more}", Value::from(script))).unwrap()
}

#[tokio::test]
async fn a_command_is_given_json_and_little_environment() {
    let directory = tempfile::tempdir().unwrap();
    let shown = directory.path().display();
    let receivers = command(&format!("env > {shown}/env; cat > {shown}/json"), "");
    receivers.send(&notification(Phase::Firing)).await.unwrap();
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    let document: Value = serde_json::from_str(&read("json")).unwrap();
    assert_eq!(document["alerts"][0]["rule"], "disk-full");
    let environment = read("env");
    for line in ["REDFLEET_NOTIFICATION=0af1", "REDFLEET_PHASE=firing", "REDFLEET_SEVERITY=critical"] {
        assert!(environment.lines().any(|found| found == line), "{line}: {environment}");
    }
    assert!(!environment.contains("HOME=") && !environment.contains("CARGO"), "{environment}");
}

#[tokio::test]
async fn a_command_need_not_read_and_may_print_much() {
    command("exit 0", "").send(&notification(Phase::Firing)).await.unwrap();
    let failure = command("yes bad | head -c 3000000 >&2; exit 3", "").send(&notification(Phase::Firing)).await;
    let failure = failure.unwrap_err();
    assert!(failure.again && failure.reason.contains("exit status: 3: bad"), "{failure:?}");
    assert!(failure.reason.len() < 2000 && !failure.reason.contains('\n'), "{}", failure.reason.len());
}

#[tokio::test]
async fn nothing_of_a_command_outlives_it() {
    let directory = tempfile::tempdir().unwrap();
    let children = directory.path().join("children");
    let script = |rest: &str| format!("sleep 1000 & echo $! >> {}; {rest}", children.display());
    command(&script("exit 0"), "").send(&notification(Phase::Firing)).await.unwrap();
    let failure = command(&script("wait"), "timeout = '1s'").send(&notification(Phase::Firing)).await.unwrap_err();
    assert!(failure.again && failure.reason.contains("was killed"), "{failure:?}");
    let children = fs::read_to_string(&children).unwrap();
    assert_eq!(children.lines().count(), 2);
    for child in children.lines() {
        let is_alive = || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while is_alive() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_receiver_that_does_not_exist_is_told() {
    let failure = Receivers::default().send(&notification(Phase::Firing)).await.unwrap_err();
    assert!(!failure.again && failure.reason.contains("no receiver 'ops'"), "{failure:?}");
}

#[test]
fn settings_that_cannot_be_used_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = secret(directory.path(), 0o644);
    let token = format!("bearer_token_file = '{file}'");
    for (text, part) in [
        ("kind = 'pigeon'", "pigeon"),
        ("kind = 'webhook'", "url is missing"),
        ("kind = 'webhook'\nurl = 'https://example.com'\nurls = 'x'", "urls"),
        ("kind = 'webhook'\nurl = 'example.com/s3cret'", "it is no address"),
        ("kind = 'webhook'\nurl = 'ftp://example.com/s3cret'", "https://"),
        ("kind = 'webhook'\nurl = 'https://ann:s3cret@example.com'", "bearer_token_file"),
        (&format!("kind = 'webhook'\nurl = 'https://example.com'\n{token}"), "chmod 600"),
        ("kind = 'webhook'\nurl_file = '/nowhere'", "cannot read the secret in /nowhere"),
        ("kind = 'webhook'\nurl = 'http://x'\nheaders = { A = \"s3cret\\r\\nB: c\" }", "'A' is no header"),
        ("kind = 'webhook'\nurl = 'http://x'\nheaders = { Authorization = 's3cret' }", "bearer_token_file"),
        ("kind = 'webhook'\nurl = 'http://x'\nca = '/nowhere'", "ca is for TLS"),
        ("kind = 'webhook'\nurl = 'https://x'\nca = '/nowhere'", "cannot read /nowhere"),
        ("kind = 'alertmanager'\nurl = 'http://x'\nhold = '1s'", "hold"),
        ("kind = 'command'\ncommand = []", "name a program"),
        ("kind = 'command'\ncommand = ['no-such-program']", "there is no program 'no-such-program'"),
        ("kind = 'command'\ncommand = ['/etc/passwd']", "there is no program"),
        ("kind = 'command'\ncommand = ['bin/sh']", "there is no program"),
        ("kind = 'smtp'\nserver = 'x'\ntls = 'none'\nfrom = 'a@b.c'\nto = ['a@b.c']", "insecure = true"),
        ("kind = 'smtp'\nserver = 'localhost'\ntls = 'none'\nfrom = 'a'\nto = ['a@b.c']", "from: 'a'"),
        ("kind = 'smtp'\nserver = 'localhost'\ntls = 'none'\nfrom = 'a@b.c'\nto = []", "to: name"),
        ("kind = 'smtp'\nserver = 'localhost'\ntls = 'none'\nfrom = 'a@b.c'\nto = [\"a@b.c\\r\\nBcc: d@e.f\"]", "to: "),
        (
            "kind = 'smtp'\nserver = 'localhost'\ntls = 'none'\nuser = 'a'\nfrom = 'a@b.c'\nto = ['a@b.c']",
            "password_file",
        ),
    ] {
        let error = wrong(text);
        assert!(error.contains(part) && !error.contains("s3cret"), "{text}: {error}");
    }
    let text = "kind = 'command'\ncommand = ['sh']\n[[receivers]]\nname = 'ops'\nkind = 'command'\ncommand = ['sh']";
    assert!(wrong(text).contains("two are called 'ops'"));
}
