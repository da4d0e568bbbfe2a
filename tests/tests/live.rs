//! Output while it is produced: `ctl run --follow` and `ctl job logs`, each byte once and in order.

use protocol::{limits, outcome::State};
use tests::{Ctl, Gate, Network, Raw, Redis, Running, Worker, eventually};

fn fleet() -> (Redis, Worker, Ctl) {
    let redis = Redis::start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    (redis, worker, ctl)
}

fn follow(ctl: &Ctl, host: &str, script: &str) -> Running {
    ctl.spawn(["run", "--follow", "--host", host, "exec", "--", "sh", "-c", script])
}

fn lines(texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().map(|text| text + "\n").collect()
}

/// What `seq FIRST LAST` prints.
fn numbers(first: u32, last: u32) -> String {
    lines((first..=last).map(|number| number.to_string()))
}

#[test]
fn output_is_printed_while_the_program_runs() {
    let (redis, _worker, ctl) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let script = format!("echo out; printf half >&2; {}; echo er >&2; printf end; exit 3", gate.script());
    let running = follow(&ctl, "web1", &script);
    // The program cannot go on before this was seen.
    running.wait_stdout("out");
    running.wait_stderr("half");
    gate.open();
    let output = running.wait().expect(2);
    assert_eq!(output.stdout, "out\nend");
    assert!(output.stderr.starts_with("halfer\nweb1: failed after "), "{output}");
}

#[test]
fn what_ends_at_once_is_printed_as_well() {
    let (_redis, _worker, ctl) = fleet();
    let output = follow(&ctl, "web1", "echo out; echo err >&2").wait().expect(0);
    assert_eq!(output.stdout, "out\n");
    assert!(output.stderr.starts_with("err\n"), "{output}");
    let output = ctl.run(["run", "--follow", "--host", "web1", "ping"]).expect(0);
    assert_eq!(output.stdout, "", "{output}");
}

#[test]
fn who_attaches_late_or_twice_sees_everything_from_the_start() {
    let (redis, _worker, ctl) = fleet();
    let mut gates = ["one", "two"].map(|name| Gate::new(&redis, name));
    let [one, two] = [&gates[0], &gates[1]].map(Gate::script);
    let first = follow(&ctl, "web1", &format!("seq 1 2000; {one}; seq 2001 4000; {two}; seq 4001 6000"));
    first.wait_stdout("2000");
    let second = ctl.spawn(["job", "logs", "-f", "last"]);
    second.wait_stdout("2000");
    gates[0].open();
    for running in [&first, &second] {
        running.wait_stdout("4000");
    }
    let third = ctl.spawn(["job", "logs", "-f", "last"]);
    third.wait_stdout("4000");
    assert_eq!(ctl.run(["job", "logs", "last"]).expect(0).stdout, numbers(1, 4000), "what is there so far");
    gates[1].open();
    for running in [first, second, third] {
        assert_eq!(running.wait().expect(0).stdout, numbers(1, 6000));
    }
    // And when all is over.
    for arguments in [["logs", "last"].as_slice(), &["logs", "-f", "last"], &["wait", "last"]] {
        let output = ctl.run(["job"].iter().chain(arguments)).expect(0);
        assert_eq!(output.stdout, numbers(1, 6000), "{arguments:?}");
    }
}

#[test]
fn several_hosts_are_told_apart_line_by_line() {
    let (redis, _worker, ctl) = fleet();
    let other = Worker::on(&redis).host("web2").allow_exec().start();
    other.wait_online();
    let mut gates = ["web1", "web2"].map(|host| Gate::new(&redis, host));
    let wait = format!("read _ < '{}'/$REDFLEET_HOST || :", redis.directory().display());
    let script = format!("echo first of $REDFLEET_HOST; printf 'se'; {wait}; printf 'cond\\nlast'; echo err >&2");
    let running = follow(&ctl, "web1,web2", &script);
    for host in ["web1", "web2"] {
        assert_eq!(running.wait_stdout(&format!("first of {host}")), format!("{host} | first of {host}"));
    }
    gates.iter_mut().for_each(Gate::open);
    let output = running.wait().expect(0);
    for host in ["web1", "web2"] {
        let lines: Vec<_> = output.stdout.lines().filter_map(|line| line.strip_prefix(&format!("{host} | "))).collect();
        assert_eq!(lines, [&format!("first of {host}"), "second", "last"], "{output}");
        assert!(output.stderr.lines().any(|line| line == format!("{host} | err")), "{output}");
    }
    assert_eq!(output.stdout.lines().count(), 6, "{output}");
    let logs = ctl.run(["job", "logs", "last"]).expect(0);
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&logs.stdout), sorted(&output.stdout));
}

#[test]
fn hosts_that_end_one_right_after_the_other_lose_nothing() {
    let (redis, _worker, ctl) = fleet();
    let other = Worker::on(&redis).host("web2").allow_exec().start();
    other.wait_online();
    let network = Network::to(&redis);
    let mut gate = Gate::new(&redis, "web2");
    let wait = format!("test $REDFLEET_HOST = web1 || read _ < '{}' || :", redis.directory().join("web2").display());
    // `ctl` begins to listen when all is over, and between the two ends is more than it reads at once.
    network.hold("XADD");
    let through = ctl.env("REDFLEET_REDIS", &network.url());
    let running = follow(&through, "web1,web2", &format!("{wait}; printf \"end of $REDFLEET_HOST\""));
    network.wait_held();
    gate.reached();
    let mut raw = Raw::on(&redis);
    raw.wait_settled("web1");
    let fill = "for i = 1, 600 do redis.call('XADD', KEYS[1], '*', 'kind', 'unknown') end";
    redis.cli(["EVAL", fill, "1", &redis.cli(["KEYS", "job:*:events"])]);
    gate.open();
    raw.wait_settled("web2");
    network.release();
    let output = running.wait().expect(0);
    assert_eq!(output.stdout, "web1 | end of web1\nweb2 | end of web2\n", "{output}");
}

#[test]
fn beyond_the_bound_the_cut_is_stated_and_the_tail_follows() {
    let (redis, _worker, ctl) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let running = follow(&ctl, "web1", &format!("echo 1; {}; seq 2 200000", gate.script()));
    running.wait_stdout("1");
    gate.open();
    let output = running.wait().expect(0).stdout;
    let written = numbers(1, 200_000);
    let (live, tail) = (limits::LIVE_BYTES, limits::OUTPUT_BYTES / 2);
    let cut = protocol::outcome::cut_line((written.len() - live - tail) as u64);
    let expected = [&written[..live], &cut, &written[written.len() - tail..]].concat();
    assert!(output == expected, "{} bytes instead of {}", output.len(), expected.len());
    let logs = ctl.run(["job", "logs", "last"]).expect(0).stdout;
    assert!(logs == expected, "{} bytes instead of {}", logs.len(), expected.len());
    // What is kept for so long has its bounds.
    let events: u64 = Raw::on(&redis).ask(&["MEMORY", "USAGE", &redis.cli(["KEYS", "job:*:events"])]);
    assert!(events < 2 * live as u64, "{events} bytes");
}

#[test]
fn broken_connections_lose_nothing_and_repeat_nothing() {
    let (redis, _worker, ctl) = fleet();
    let script = "for line in $(seq 1 400); do echo $line; echo $line >&2; sleep 0.005; done";
    let running = follow(&ctl, "web1", script);
    let mut raw = Raw::on(&redis);
    for round in 1..=12 {
        // Broken while it prints: the worker's connections and those of `ctl`.
        running.wait_stdout(&format!("{}", round * 30));
        let _: u64 = raw.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    let output = running.wait().expect(0);
    assert_eq!(output.stdout, numbers(1, 400), "{output}");
    let told = lines(output.stderr.lines().filter(|line| line.parse::<u32>().is_ok()).map(str::to_owned));
    assert_eq!(told, numbers(1, 400), "{output}");
    assert_eq!(ctl.run(["job", "logs", "last"]).expect(0).stdout, numbers(1, 400));
}

#[test]
fn a_connection_that_breaks_after_the_end_is_known_loses_no_output() {
    let (redis, _worker, ctl) = fleet();
    let job = ctl.ask("web1", "seq 1 30000");
    ctl.run(["job", "wait", "-q", &job]).expect(0);
    let network = Network::to(&redis);
    let through = ctl.env("REDFLEET_REDIS", &network.url());
    network.hold("XREAD");
    let running = through.spawn(["job", "logs", "-f", &job]);
    network.wait_held();
    network.cut();
    // More than the result keeps: the rest is in the events alone.
    let output = running.wait().expect(0);
    assert!(output.stdout == numbers(1, 30000), "{} bytes; {}", output.stdout.len(), output.stderr);
}

#[test]
fn what_an_interrupted_program_had_printed_is_still_there() {
    let (redis, mut worker, ctl) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let running = follow(&ctl, "web1", &format!("seq 1 3000; {}", gate.script()));
    gate.reached();
    running.wait_stdout("3000");
    worker.kill9();
    let _worker = worker.options().start();
    let output = running.wait().expect(2);
    assert_eq!(output.stdout, numbers(1, 3000), "{output}");
    assert!(output.stderr.contains("web1: interrupted"), "{output}");
    assert_eq!(ctl.run(["job", "logs", "last"]).expect(0).stdout, numbers(1, 3000));
}

#[test]
fn what_a_cancelled_program_had_printed_is_still_there() {
    let (redis, _worker, ctl) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let running = follow(&ctl, "web1", &format!("trap 'echo bye; exit 1' TERM; seq 1 3000; {}", gate.script()));
    gate.reached();
    running.wait_stdout("3000");
    ctl.run(["job", "cancel", "last"]).expect(0);
    let expected = format!("{}bye\n", numbers(1, 3000));
    assert_eq!(running.wait().expect(2).stdout, expected);
    assert_eq!(ctl.run(["job", "logs", "last"]).expect(0).stdout, expected);
}

#[test]
fn who_stops_following_does_not_stop_the_program() {
    let (redis, _worker, ctl) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let running = follow(&ctl, "web1", &format!("echo begun; {}; echo done", gate.script()));
    running.wait_stdout("begun");
    running.interrupt();
    let output = running.wait();
    assert!(output.stderr.contains("detached; the job goes on"), "{output}");
    gate.open();
    assert_eq!(ctl.run(["job", "logs", "-f", "last"]).expect(0).stdout, "begun\ndone\n");
}

#[test]
fn output_waits_for_redis_like_everything_else() {
    let mut redis = Redis::options().aof(tests::Aof::Always).start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let ctl = Ctl::on(&redis);
    let mut gates = ["one", "two"].map(|name| Gate::new(&redis, name));
    let [one, two] = [&gates[0], &gates[1]].map(Gate::script);
    let running = follow(&ctl, "web1", &format!("seq 1 100; {one}; seq 101 200; {two}; seq 201 300"));
    running.wait_stdout("100");
    redis.kill9();
    worker.wait_log("is away");
    gates[0].open();
    gates[1].reached();
    redis.restart();
    running.wait_stdout("200");
    let state = eventually("the state", || {
        let shown = ctl.standing("last");
        shown.into_iter().next().map(|(_, state)| state)
    });
    assert_eq!(state, State::Running.as_str());
    gates[1].open();
    assert_eq!(running.wait().expect(0).stdout, numbers(1, 300));
}
