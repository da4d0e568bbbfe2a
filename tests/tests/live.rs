//! Live output: `ctl run --follow` and `ctl job logs` print each byte once and in order.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use protocol::{limits, outcome::State};
use tests::{Ctl, Gate, Network, Raw, Redis, Running, Worker, eventually, fleet_with_ctl};

fn fleet() -> (Redis, Worker, Ctl) {
    let (redis, worker, ctl) = fleet_with_ctl("");
    (redis, worker, ctl.knowing_web1())
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
    // The program cannot go on before this was printed.
    running.wait_stdout("out");
    running.wait_stderr("half");
    gate.open();
    let output = running.wait().expect(2);
    assert_eq!(output.stdout, "out\nend");
    assert!(output.stderr.starts_with("halfer\nweb1: failed after "), "{output}");
}

#[test]
fn output_of_a_program_that_ends_at_once_is_printed() {
    let (_redis, _worker, ctl) = fleet();
    let output = follow(&ctl, "web1", "echo out; echo err >&2").wait().expect(0);
    assert_eq!(output.stdout, "out\n");
    assert!(output.stderr.starts_with("err\n"), "{output}");
    let output = ctl.run(["run", "--follow", "--host", "web1", "ping"]).expect(0);
    assert_eq!(output.stdout, "", "{output}");
}

#[test]
fn a_late_or_second_reader_sees_all_output_from_the_start() {
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
    assert_eq!(ctl.run(["job", "logs", "last"]).expect(0).stdout, numbers(1, 4000), "the output so far");
    gates[1].open();
    for running in [first, second, third] {
        assert_eq!(running.wait().expect(0).stdout, numbers(1, 6000));
    }
    // And after the end.
    for arguments in [["logs", "last"].as_slice(), &["logs", "-f", "last"], &["wait", "last"]] {
        let output = ctl.run(["job"].iter().chain(arguments)).expect(0);
        assert_eq!(output.stdout, numbers(1, 6000), "{arguments:?}");
    }
}

#[test]
fn output_of_several_hosts_is_marked_line_by_line() {
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
fn a_host_that_prints_without_pause_does_not_hold_up_the_end_of_another() {
    let (redis, _worker, ctl) = fleet();
    let other = Worker::on(&redis).host("web2").allow_exec().start();
    other.wait_online();
    let mut gates = ["web1", "web2"].map(|host| Gate::new(&redis, host));
    let script = format!("read _ < '{}'/$REDFLEET_HOST || :", redis.directory().display());
    let running = ctl.spawn(["run", "--follow", "-o", "jsonl", "--all", "exec", "--", "sh", "-c", &script]);
    gates.iter_mut().for_each(Gate::reached);
    let job = eventually("the job", || Raw::on(&redis).query::<Vec<String>>(&["ZRANGE", "jobs", "-1", "-1"]).pop());
    let output = format!("job:{{{job}}}:output:web2");

    let (ended, mut writers) = (AtomicBool::new(false), [(); 3].map(|()| Raw::on(&redis)));
    thread::scope(|scope| {
        for writer in &mut writers {
            let piece = ["XADD", &output, "MAXLEN", "~", "1000", "*", "stream", "stdout", "offset", "0", "data", "x"];
            let ended = &ended;
            scope.spawn(move || {
                // At last, so that a failed test ends.
                let begun = Instant::now();
                while !ended.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(60) {
                    writer.query::<String>(&piece);
                }
            });
        }
        eventually("the flood", || (Raw::on(&redis).query::<usize>(&["XLEN", &output]) > 1000).then_some(()));
        gates[0].open();
        let result = running.wait_stdout(r#""event":"result""#);
        ended.store(true, Ordering::Relaxed);
        assert!(result.contains(r#""host":"web1""#), "{result}");
    });
    gates[1].open();
    // What was printed as web2's was not its own.
    let output = running.wait().expect(2);
    assert!(output.stderr.contains("LIVE OUTPUT OF web2 WAS FORGED!"), "{output}");
}

#[test]
fn hosts_that_end_in_quick_succession_lose_no_output() {
    let (redis, _worker, ctl) = fleet();
    let other = Worker::on(&redis).host("web2").allow_exec().start();
    other.wait_online();
    let network = Network::to(&redis);
    let mut gate = Gate::new(&redis, "web2");
    let wait = format!("test $REDFLEET_HOST = web1 || read _ < '{}' || :", redis.directory().join("web2").display());
    // `ctl` begins to read events after both ends, and between the two are more events than it reads at once.
    network.hold("XADD");
    let through = ctl.through(&redis, &network.url());
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

/// The lengths of the parts between the cuts of `text`, which must be `written` but for what they say is cut.
#[track_caller]
fn parts_of(text: &str, written: &str) -> Vec<usize> {
    let (mut parts, mut rest, mut left) = (Vec::new(), text, written);
    loop {
        let (part, behind) = rest.split_once("\n[... ").unwrap_or((rest, ""));
        assert!(left.starts_with(part), "part {} is not what was written", parts.len());
        left = &left[part.len()..];
        parts.push(part.len());
        let Some((cut, next)) = behind.split_once(" bytes cut ...]\n") else { break };
        left = &left[cut.parse::<usize>().expect("a number")..];
        rest = next;
    }
    assert_eq!(left, "");
    parts
}

#[test]
fn however_much_is_printed_it_can_be_followed_to_the_end() {
    let (redis, _worker, ctl) = fleet();
    let mut gates = ["one", "two"].map(|name| Gate::new(&redis, name));
    let [one, two] = [&gates[0], &gates[1]].map(Gate::script);
    let running = follow(&ctl, "web1", &format!("echo 1; {one}; seq 2 200000; {two}; seq 200001 300000"));
    running.wait_stdout("1");
    let other = ctl.spawn(["job", "logs", "-f", "last"]);
    for (gate, last) in gates.iter_mut().zip(["1", "200000"]) {
        running.wait_stdout(last);
        other.wait_stdout(last);
        gate.open();
    }
    let written = numbers(1, 300_000);
    for output in [running.wait().expect(0), other.wait().expect(0)] {
        let same = output.stdout.bytes().zip(written.bytes()).take_while(|(one, other)| one == other).count();
        assert!(
            output.stdout == written,
            "{} bytes instead of {}; differs at {same}",
            output.stdout.len(),
            written.len()
        );
        let note = "web1: the result keeps 64.0 KiB of the 1.9 MiB of stdout (see --keep-output)";
        assert!(output.stderr.contains(note), "{}", output.stderr);
    }

    // Who comes late gets the beginning and the newest; `ctl` reports what lies between.
    let key = redis.cli(["KEYS", "job:*:output:web1"]);
    let mut raw = Raw::on(&redis);
    let most = 2 * limits::LIVE_BYTES as u64;
    eventually("its end", || (raw.query::<u64>(&["MEMORY", "USAGE", &key]) < most).then_some(()));
    let logs = ctl.run(["job", "logs", "last"]).expect(0).stdout;
    let half = limits::LIVE_BYTES / 2;
    let parts = parts_of(&logs, &written);
    assert!(parts.len() == 2 && parts.iter().all(|part| (half * 9 / 10..=half * 11 / 10).contains(part)), "{parts:?}");
}

#[test]
fn a_reader_that_lags_too_far_behind_is_told_what_it_has_missed() {
    let (redis, _worker, ctl) = fleet();
    let mut gate = Gate::new(&redis, "gate");
    let network = Network::to(&redis);
    let through = ctl.through(&redis, &network.url());
    let pause = "sleep 0.2";
    let script =
        format!("echo 1; {}; seq 2 500000; {pause}; seq 500001 1000000; {pause}; seq 1000001 1500000", gate.script());
    let running = follow(&through, "web1", &script);
    running.wait_stdout("1");
    network.hold("XREAD");
    network.wait_held();
    gate.open();
    Raw::on(&redis).wait_settled("web1");
    network.release();
    let output = running.wait().expect(0);
    let written = numbers(1, 1_500_000);
    let parts = parts_of(&output.stdout, &written);
    assert!(parts.len() > 1 && parts.iter().sum::<usize>() > limits::LIVE_LAG_BYTES, "{parts:?}");
}

#[test]
fn a_program_is_not_held_up_by_a_redis_that_hangs() {
    let (redis, worker, ctl) = fleet();
    let mut gates = ["one", "two"].map(|name| Gate::new(&redis, name));
    let [one, two] = [&gates[0], &gates[1]].map(Gate::script);
    let job = ctl.dispatch("web1", &format!("echo 1; {one}; seq 2 2000000; {two}; echo end"));
    gates[0].reached();
    let before = memory(&worker);
    redis.freeze();
    gates[0].open();
    // It has printed 15 MB.
    gates[1].reached();
    let grown = memory(&worker).saturating_sub(before);
    redis.thaw();
    gates[1].open();
    assert!(grown < 3 * limits::LIVE_LAG_BYTES as u64, "{grown} bytes");
    let output = ctl.run(["job", "logs", "-f", &job]).expect(0).stdout;
    assert!(output.starts_with("1\n2\n") && output.contains(" bytes cut ...]\n") && output.ends_with("\nend\n"));
}

/// The bytes of memory that a worker occupies.
fn memory(worker: &Worker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn a_result_keeps_as_much_output_as_is_asked_for() {
    let (_redis, _worker, ctl) = fleet();
    let written = numbers(1, 2_000_000);
    let run = |keep: &str| {
        let line = ["run", "--host", "web1", "--keep-output", keep, "exec", "--", "seq", "2000000"];
        ctl.run(line).expect(0)
    };
    let output = run("16MiB");
    assert!(output.stdout == written, "{} bytes", output.stdout.len());
    assert!(!output.stderr.contains("--keep-output"), "{}", output.stderr);
    // Nothing needs live output that is known from the result.
    assert!(ctl.run(["job", "logs", "last"]).expect(0).stdout == written);
    let output = run("2k");
    let cut = protocol::outcome::cut_line((written.len() - 2048) as u64);
    let expected = [&written[..1024], &cut, &written[written.len() - 1024..]].concat();
    assert_eq!(output.stdout, expected);
    assert!(output.stderr.contains("web1: the result keeps 2.0 KiB of the 14.2 MiB of stdout"), "{}", output.stderr);
}

#[test]
fn broken_connections_lose_nothing_and_repeat_nothing() {
    let (redis, _worker, ctl) = fleet();
    let script = "for line in $(seq 1 400); do echo $line; echo $line >&2; sleep 0.005; done";
    let running = follow(&ctl, "web1", script);
    let mut raw = Raw::on(&redis);
    for round in 1..=12 {
        // While the program prints, the connections of the worker and of `ctl` break.
        running.wait_stdout(&format!("{}", round * 30));
        let _: u64 = raw.query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
    let output = running.wait().expect(0);
    assert_eq!(output.stdout, numbers(1, 400), "{output}");
    let errors = lines(output.stderr.lines().filter(|line| line.parse::<u32>().is_ok()).map(str::to_owned));
    assert_eq!(errors, numbers(1, 400), "{output}");
    assert_eq!(ctl.run(["job", "logs", "last"]).expect(0).stdout, numbers(1, 400));
}

#[test]
fn a_connection_that_breaks_after_the_end_is_known_loses_no_output() {
    let (redis, _worker, ctl) = fleet();
    let job = ctl.dispatch("web1", "seq 1 30000");
    ctl.run(["job", "wait", "-q", &job]).expect(0);
    let network = Network::to(&redis);
    let through = ctl.through(&redis, &network.url());
    network.hold("XREAD");
    let running = through.spawn(["job", "logs", "-f", &job]);
    network.wait_held();
    network.cut();
    // The program prints more than the outcome keeps: only the events have the rest.
    let output = running.wait().expect(0);
    assert!(output.stdout == numbers(1, 30000), "{} bytes; {}", output.stdout.len(), output.stderr);
}

#[test]
fn output_of_an_interrupted_program_is_kept() {
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
fn output_of_a_cancelled_program_is_kept() {
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
fn interrupting_ctl_does_not_stop_the_program() {
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
fn output_printed_while_redis_is_away_arrives_afterwards() {
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
        let shown = ctl.host_states("last");
        shown.into_iter().next().map(|(_, state)| state)
    });
    assert_eq!(state, State::Running.as_str());
    gates[1].open();
    assert_eq!(running.wait().expect(0).stdout, numbers(1, 300));
}

#[test]
fn progress_is_shown_to_whoever_follows() {
    let (_redis, _worker, ctl) = fleet();
    let running = follow(&ctl, "web1", "trap '' TERM; echo begun; while :; do sleep 0.05; done");
    running.wait_stdout("begun");
    let cancel = ctl.spawn(["job", "cancel", "last"]);
    running.wait_stderr("web1: got SIGTERM; gets SIGKILL in 5 s");
    cancel.wait().expect(0);
    let output = running.wait().expect(2);
    assert!(output.stderr.contains("cancelled"), "{output}");
}

/// Whoever writes to Redis has a program seem to print what it has not printed.
#[test]
fn forged_live_output_is_an_alarm_once_the_result_has_come() {
    let (redis, _worker, ctl) = fleet();
    let ctl = ctl.knowing_web1();
    for (place, (words, code)) in
        [(&["exec", "web1", "--"][..], 255), (&["run", "-f", "--host", "web1", "exec", "--"], 2)]
            .into_iter()
            .enumerate()
    {
        let mut gate = Gate::new(&redis, &format!("gate{place}"));
        let script = format!("echo truth; {}", gate.script());
        let running = ctl.spawn([words, &["sh", "-c", &script]].concat());
        gate.reached();
        running.wait_stdout("truth");
        let mut raw = Raw::on(&redis);
        let job = raw.query::<Vec<String>>(&["ZRANGE", "jobs", "-1", "-1"]).pop().expect("a job");
        let output = format!("job:{{{job}}}:output:web1");
        let piece = ["XADD", &output, "*", "stream", "stdout", "offset", "6", "data", "all is well\n"];
        raw.query::<String>(&piece);
        running.wait_stdout("all is well");
        // An offset beyond all others is no more than that.
        let most = u64::MAX.to_string();
        raw.query::<String>(&["XADD", &output, "*", "stream", "stdout", "offset", &most, "data", "more\n"]);
        running.wait_stdout("more");
        gate.open();
        let output = running.wait().expect(code);
        assert!(output.stderr.contains("@ WARNING: LIVE OUTPUT OF web1 WAS FORGED! @"), "{output}");
        assert!(output.stderr.contains(&format!("ctl job wait {}", &job[28..])), "{output}");
        // Who looks later is shown what the host has signed.
        assert_eq!(ctl.run(["job", "logs", &job]).expect(0).stdout, "truth\n");
        let json = ctl.run(["job", "logs", &job, "-o", "json"]).expect(0);
        assert_eq!(json.json()["hosts"][0]["stdout"], "truth\n");
        assert_eq!(ctl.run(["job", "wait", &job]).expect(0).stdout, "truth\n");
    }
}
