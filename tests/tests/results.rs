//! The shapes of results: JSON that programs read, and the output of many hosts that people read.

use serde_json::{Value, json};
use tests::{Ctl, Gate, Redis, Worker};

fn fleet(hosts: &[&str]) -> (Redis, Vec<Worker>, Ctl) {
    let redis = Redis::start();
    let config = "[labels]\nrole = \"web\"\nrack = \"12\"";
    let start = |host: &&str| Worker::on(&redis).host(host).config(config).allow_exec().start();
    let workers: Vec<_> = hosts.iter().map(start).collect();
    workers.iter().for_each(Worker::wait_online);
    let ctl = Ctl::on(&redis);
    (redis, workers, ctl)
}

/// Each line of JSON lines.
#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// All text of the output events of a stream, and the other events.
fn output_and_others(events: &[Value], host: &str, stream: &str) -> (String, Vec<String>) {
    let of_host = || events.iter().filter(|event| event["host"] == host);
    let text = of_host().filter(|event| event["event"] == "output" && event["stream"] == stream);
    let text = text.filter_map(|event| event["text"].as_str()).collect();
    let others = of_host().filter_map(|event| event["event"].as_str()).filter(|event| *event != "output");
    (text, others.map(str::to_owned).collect())
}

#[test]
fn following_as_json_lines_streams_events() {
    let (redis, _workers, ctl) = fleet(&["web1", "web2"]);
    let mut gate = Gate::new(&redis, "gate");
    // A character is printed in two pieces.
    let script = format!(
        r"[ $REDFLEET_HOST = web1 ] || {{ echo quick; exit 3; }}; printf 'a\303'; {}; printf '\251\377\n'; echo err >&2",
        gate.script()
    );
    let line = ["run", "--all", "--follow", "-o", "jsonl", "exec", "--", "sh", "-c", &script];
    let running = ctl.spawn(line);
    let first = running.wait_stdout(r#""text":"a""#);
    gate.open();
    let events = lines(&running.wait().expect(2).stdout);
    let job = ctl.run(["job", "list", "-o", "json"]).expect(0).json()[0]["job"].clone();
    assert!(events.iter().all(|event| event["job"] == job), "{events:#?}");
    assert_eq!(lines(&first)[0]["stream"], "stdout");
    let (text, others) = output_and_others(&events, "web1", "stdout");
    assert_eq!((text.as_str(), others.as_slice()), ("aé\u{fffd}\n", &["state".to_owned(), "result".into()][..]));
    assert_eq!(output_and_others(&events, "web1", "stderr").0, "err\n");
    assert_eq!(output_and_others(&events, "web2", "stdout").0, "quick\n");
    let result = events.iter().find(|event| event["event"] == "result" && event["host"] == "web2").expect("a result");
    assert_eq!((&result["state"], &result["exit_code"]), (&json!("failed"), &json!(3)));
    // Without following, each line is a result.
    for line in lines(&ctl.run(["run", "--all", "-o", "jsonl", "ping"]).expect(0).stdout) {
        assert_eq!(line["event"], "result");
        assert_eq!(line["job"].as_str().map(str::len), Some(36), "{line}");
    }
}

#[test]
fn logs_are_json_too() {
    let (redis, _workers, ctl) = fleet(&["web1", "web2"]);
    let mut gate = Gate::new(&redis, "gate");
    let script = format!("echo first; [ $REDFLEET_HOST = web1 ] && {{ {}; echo second; }}; exit 0", gate.script());
    let job = ctl.run(["run", "-q", "--all", "--detach", "exec", "--", "sh", "-c", &script]).expect(0);
    let job = job.stdout.trim().to_owned();
    gate.reached();
    let logs = |format: &str| ctl.run(["job", "logs", &job, "-o", format]).expect(0);
    let so_far = tests::eventually("both to print", || {
        let hosts = logs("json").json()["hosts"].clone();
        (hosts[0]["stdout"] == "first\n" && hosts[1]["state"] == "succeeded").then_some(hosts)
    });
    assert_eq!((&so_far[0]["state"], &so_far[1]["stdout"]), (&json!("running"), &json!("first\n")));
    gate.open();
    ctl.run(["job", "wait", "-q", &job]).expect(0);
    let whole = logs("json").json();
    assert_eq!((&whole["hosts"][0]["stdout"], &whole["summary"]["succeeded"]), (&json!("first\nsecond\n"), &json!(2)));
    let events = lines(&logs("jsonl").stdout);
    assert_eq!(output_and_others(&events, "web1", "stdout"), ("first\nsecond\n".into(), vec!["result".into()]));
    assert!(events.iter().all(|event| event["job"] == job.as_str()));
}

#[test]
fn json_has_reasons_labels_and_numbers() {
    let (_redis, mut workers, ctl) = fleet(&["web1"]);
    let hosts = ctl.run(["host", "list", "-o", "json"]).expect(0).json();
    assert_eq!(hosts[0]["labels"], json!({ "rack": "12", "role": "web" }));
    let host = ctl.run(["host", "show", "web1", "-o", "json"]).expect(0).json();
    assert!(hosts[0]["trust"].is_null() && hosts[0]["trust_version"].is_u64(), "{hosts:#}");
    assert_eq!(host["trust_digest"].as_str().map(str::len), Some(16), "{host:#}");
    assert!(host["facts"]["cores"].is_u64() && host["facts"]["memory_bytes"].is_u64(), "{host:#}");
    assert_eq!(host["labels"]["rack"], "12", "a label is a text");

    workers[0].terminate();
    let output = ctl.run(["run", "--host", "web1", "--start-by", "1s", "--wait", "-o", "json", "ping"]);
    let host = &output.json()["hosts"][0];
    assert_eq!((&host["state"], &host["reason"]), (&json!("expired"), &json!("not started in time")), "{output}");
}

#[test]
fn equal_output_of_several_hosts_is_printed_once_sorted_by_host() {
    let (_redis, _workers, ctl) = fleet(&["web1", "web2", "web3", "db1"]);
    // The hosts end in the order opposite to that of their names.
    let script =
        "case $REDFLEET_HOST in db1) sleep 0.3; echo 5.10; echo more;; web2) echo 6.2;; *) echo 6.1;; esac; echo e >&2";
    let run = |more: &[&str]| {
        let words = ["exec", "--", "sh", "-c", script];
        let line = ["run", "--all"].iter().chain(more).chain(&words);
        ctl.run(line).expect(0)
    };
    // The keys of the hosts become known.
    ctl.run(["run", "--all", "ping"]).expect(0);
    let output = run(&[]);
    assert_eq!(output.stdout, "db1 | 5.10\ndb1 | more\nweb[1,3] | 6.1\nweb2 | 6.2\n", "{output}");
    assert!(
        output.stderr.starts_with("db1 | e\nweb[1,3] | e\nweb2 | e\n4 hosts: 4 succeeded (4 changed) in "),
        "{output}"
    );
    let each = "db1 | 5.10\ndb1 | more\nweb1 | 6.1\nweb2 | 6.2\nweb3 | 6.1\n";
    assert_eq!(run(&["--no-fold"]).stdout, each);
    assert_eq!(ctl.run(["job", "wait", "last"]).expect(0).stdout, output.stdout);
    let table = ctl.run(["run", "--all", "collect-cpu"]).expect(0).stdout;
    let hosts: Vec<_> = table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(hosts, ["db1", "web1", "web2", "web3"], "{table}");
}
