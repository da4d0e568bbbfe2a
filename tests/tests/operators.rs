//! Several operators on one fleet: whose job `last` is, whose jobs are cancelled without a question, and how jobs are
//! listed and named.

use tests::{Ctl, Gate, Redis, Worker};

fn fleet() -> (Redis, [Worker; 2]) {
    let redis = Redis::start();
    let workers = ["web1", "db1"]
        .map(|host| Worker::on(&redis).host(host).config("[actions]\nallow = ['exec', 'cancel']").start());
    workers.iter().for_each(Worker::wait_online);
    (redis, workers)
}

/// Two operators, each with a home directory of his own.
fn operators(redis: &Redis) -> [Ctl; 2] {
    ["ann@desk", "bob@desk"].map(|name| Ctl::on(redis).env("REDFLEET_OPERATOR", name))
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn last_is_the_operators_own_job() {
    let (redis, _workers) = fleet();
    let [ann, bob] = operators(&redis);
    let none = ann.run(["job", "show", "last"]).expect(1);
    assert!(none.stderr.starts_with("error: ann@desk has run no job"), "{none}");
    let job = ann.run(["run", "--host", "web1", "--detach", "ping"]).expect(0).stdout;
    bob.run(["run", "--host", "web1", "--detach", "collect-cpu"]).expect(0);
    for (operator, action) in [(&ann, "ping"), (&bob, "collect-cpu")] {
        let shown = operator.run(["job", "show", "last", "-o", "json"]).expect(0).json();
        assert_eq!(shown["action"], action);
    }
    assert_eq!(ann.run(["job", "wait", "last", "-o", "json"]).expect(0).json()["job"], job.trim());
}

#[test]
fn after_a_run_that_was_not_sent_last_is_no_older_job() {
    let (redis, _workers) = fleet();
    let [ann, _] = operators(&redis);
    let mut gate = Gate::new(&redis, "gate");
    let job = ann.dispatch("web1", &gate.script());
    gate.reached();
    for (line, code, reason) in [
        ("run --host wbe1 exec -- reboot", 1, "no host is called wbe1"),
        ("run --hots web1 exec -- reboot", 64, "wrong usage"),
        ("--redis unix:///nowhere run --host web1 ping", 1, "there is no such file"),
        ("exec wbe1 -- reboot", 255, "no host is called wbe1"),
        ("sh web1 reboot now", 64, "wrong usage"),
    ] {
        ann.run(line.split(' ')).expect(code);
        for verb in ["cancel", "logs", "wait"] {
            let refused = ann.run(["job", verb, "last"]).expect(1);
            assert!(
                refused.stderr.contains("what you ran last was not sent (") && refused.stderr.contains(reason),
                "{refused}"
            );
            assert!(
                refused.stderr.contains(&format!("the job before it is {} (exec: sh -c ", &job[28..])),
                "{refused}"
            );
        }
    }
    assert_eq!(ann.host_states(&job), [("web1".to_owned(), "running".to_owned())]);
    gate.open();
    ann.run(["run", "--host", "web1", "ping"]).expect(0);
    assert_eq!(ann.run(["job", "show", "last", "-o", "json"]).expect(0).json()["action"], "ping");
}

#[test]
fn the_job_of_another_is_cancelled_only_by_intent() {
    let (redis, _workers) = fleet();
    let [ann, bob] = operators(&redis);
    let dispatch = || {
        let job =
            ann.run(["run", "--all", "--detach", "exec", "--", "sleep", "1000"]).expect(0).stdout.trim().to_owned();
        (job[28..].to_owned(), job)
    };
    let (short, job) = dispatch();
    let refused = bob.run(["job", "cancel", &job]).expect(1);
    let line = format!("job {short} (exec: sleep 1000) on 2 hosts, asked for by ann@desk ");
    assert!(refused.stderr.starts_with(&line) && refused.stderr.contains("is not yours (bob@desk)"), "{refused}");
    assert!(refused.stderr.contains(&format!("ctl job cancel {short} --yes")), "{refused}");

    for typed in ["n\n", "\n", "perhaps\n"] {
        let (code, shown) = bob.at_terminal(["job", "cancel", &job], typed);
        assert!(code == 1 && shown.contains("[y/N]") && shown.contains("not cancelled"), "{code}: {shown}");
    }
    assert!(ann.host_states(&job).iter().all(|(_, state)| state != "cancelled"));
    let (code, shown) = bob.at_terminal(["job", "cancel", &job], "y\n");
    assert!(code == 0 && shown.contains("web1: cancelled"), "{code}: {shown}");

    let (short, job) = dispatch();
    bob.run(["job", "cancel", &short, "--yes"]).expect(0);
    // His own he cancels without a question, at a terminal too.
    assert!(ann.host_states(&job).iter().all(|(_, state)| state == "cancelled"));
    let (short, _) = dispatch();
    let (code, shown) = ann.at_terminal(["job", "cancel", &short], "");
    assert!(code == 0 && !shown.contains("[y/N]"), "{code}: {shown}");
}

#[test]
fn an_order_to_cancel_that_a_host_refuses_is_reported_with_the_reason() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let [ann, bob] = operators(&redis);
    let mut gate = Gate::new(&redis, "gate");
    let job = ann.dispatch("web1", &gate.script());
    gate.reached();
    // Twice: what the host said to the first order is not the reply to the second.
    for _ in 0..2 {
        let refused = bob.run(["job", "cancel", &job, "--yes"]).expect(2);
        let reason = "web1: does not cancel it: the job is not bob@desk's own";
        assert!(refused.stderr.contains(reason) && !refused.stderr.contains("not replied"), "{refused}");
    }
    assert_eq!(ann.host_states(&job)[0].1, "running");
    let cancelled = ann.run(["job", "cancel", &job]).expect(0);
    assert!(
        cancelled.stderr.contains("web1: cancelled") && !cancelled.stderr.contains("does not cancel"),
        "{cancelled}"
    );
}

#[test]
fn jobs_are_listed_short_and_filtered() {
    let (redis, _workers) = fleet();
    let [ann, bob] = operators(&redis);
    ann.run(["run", "--host", "web1", "exec", "--", "apt-get", "-y", "upgrade", "--no-such-option"]).expect(2);
    ann.run(["run", "--all", "ping"]).expect(0);
    bob.run(["run", "--host", "db1", "exec", "cwd=/tmp", "secret.TOKEN=hunter2", "--", "sh", "-c", "exit 0"]).expect(0);
    let mut gate = Gate::new(&redis, "gate");
    let running = bob.dispatch("db1", &gate.script());
    gate.reached();

    let listed = ann.run(["job", "list"]).expect(0).stdout;
    let rows = lines(&listed);
    assert!(rows[0].starts_with("JOB       AGE") && rows[0].ends_with("COMMAND"), "{listed}");
    assert!(
        rows[1].starts_with(&running[28..]) && rows[1].contains("bob@desk") && rows[1].contains("running"),
        "{listed}"
    );
    assert!(rows[2].ends_with("exec: sh -c 'exit 0' (cwd=/tmp secret='***')"), "{listed}");
    assert!(rows[3].contains("2 succeeded") && rows[3].ends_with("  ping"), "{listed}");
    assert!(rows[4].contains("failed") && rows[4].ends_with("exec: apt-get -y upgrade --no-such-option"), "{listed}");
    assert!(!listed.contains("hunter2"), "{listed}");
    for (filter, commands) in [
        ("--mine", ["ping", "exec: apt-get"].as_slice()),
        ("--failed", &["exec: apt-get"]),
        ("--running", &["exec: sh -c"]),
        ("--host web1", &["ping", "exec: apt-get"]),
        ("--host w*,mail", &["ping", "exec: apt-get"]),
        ("--mine --failed --host web1", &["exec: apt-get"]),
        ("--mine --limit 1", &["ping"]),
    ] {
        let listed = ann.run(format!("job list {filter}").split(' ')).expect(0).stdout;
        let rows = &lines(&listed)[1..];
        assert_eq!(rows.len(), commands.len(), "{filter}: {listed}");
        assert!(rows.iter().zip(commands).all(|(row, command)| row.contains(command)), "{filter}: {listed}");
    }
    assert_eq!(ann.run(["job", "list", "-o", "json"]).expect(0).json()[0]["job"], running);
    gate.open();
}

#[test]
fn every_table_fits_a_terminal_of_80_columns() {
    let (redis, _workers) = fleet();
    let ann = Ctl::on(&redis).env("REDFLEET_OPERATOR", "a-long-operator-name@a-long-machine-name.example.org");
    ann.run(["run", "--all", "exec", "--", "sh", "-c", "[ -e /etc/hostname ] && echo of this machine; exit 3"])
        .expect(2);
    let long = "x".repeat(90);
    ann.run(["run", "--host", "web1", "exec", "--", &format!("/usr/bin/{long}"), "-y"]).expect(2);
    let lines =
        ["job list", "job show last", "action list", "action show exec", "doctor", "host list", "run --all ping"];
    for line in lines {
        let (code, shown) = ann.at_terminal(line.split(' '), "");
        assert_eq!(code, 0, "{line}: {shown}");
        // What was erased, the progress of a job, stands there no more.
        for row in shown.lines().filter_map(|row| row.rsplit("\u{1b}[2K").next()) {
            // A word that is wider by itself, such as a path, stays whole.
            assert!(
                row.chars().count() <= 80 || row.contains(&long[..20]) || row.contains("unix:///"),
                "{line}: {row}"
            );
        }
    }
    let (_, shown) = ann.at_terminal(["doctor"], "");
    assert!(shown.contains("noeviction: a full Redis refuses writes and loses nothing\n"), "{shown}");
}

#[test]
fn a_job_is_named_by_its_last_digits_wherever_an_id_is_taken() {
    let (redis, _workers) = fleet();
    let [ann, _] = operators(&redis);
    let output = ann.run(["run", "--all", "--detach", "exec", "--", "sh", "-c", "echo $0"]).expect(0);
    let job = output.stdout.trim().to_owned();
    let short = &job[28..];
    assert!(output.stderr.contains(&format!("ctl job wait {short}\n")), "{output}");
    for typed in [short, &short[..6], &job, &job[..30], &short.to_uppercase()] {
        assert_eq!(ann.run(["job", "wait", typed, "-o", "json"]).expect(0).json()["job"], job, "{typed}");
    }
    for arguments in [["show", short].as_slice(), &["logs", short], &["logs", "-f", short]] {
        ann.run([["job"].as_slice(), arguments].concat()).expect(0);
    }
    let refused = ann.run(["job", "cancel", short]).expect(1);
    assert!(refused.stderr.contains("already ended"), "{refused}");
}

#[test]
fn the_logs_of_one_host_are_its_output_alone() {
    let (redis, _workers) = fleet();
    let [ann, _] = operators(&redis);
    ann.run(["run", "--all", "exec", "--", "echo", "hello"]).expect(0);
    assert_eq!(ann.run(["job", "logs", "last"]).expect(0).stdout, "db1 | hello\nweb1 | hello\n");
    for arguments in [["--host", "web1"].as_slice(), &["-f", "--host", "web1"]] {
        let one = ann.run([["job", "logs", "last"].as_slice(), arguments].concat()).expect(0);
        assert_eq!(one.stdout, "hello\n", "{one}");
    }
    let both = ann.run(["job", "logs", "last", "--host", "web1,db1"]).expect(0);
    assert_eq!(both.stdout, "db1 | hello\nweb1 | hello\n", "{both}");
    let stranger = ann.run(["job", "logs", "last", "--host", "mail"]).expect(1);
    assert!(stranger.stderr.contains("mail is not among the hosts of job "), "{stranger}");
}

#[test]
fn a_ping_shows_how_long_each_host_took_to_answer() {
    let (redis, _workers) = fleet();
    let output = Ctl::on(&redis).run(["run", "--all", "ping"]).expect(0);
    let rows = lines(&output.stdout);
    assert_eq!(rows[0].split_whitespace().collect::<Vec<_>>(), ["HOST", "AFTER", "STATE"], "{output}");
    for row in &rows[1..] {
        let cells: Vec<_> = row.split_whitespace().collect();
        assert!(cells[1].parse::<f64>().is_ok() && ["ms", "s"].contains(&cells[2]) && cells[3] == "succeeded", "{row}");
    }
}
