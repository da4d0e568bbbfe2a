//! `ctl top` at work: keys, filters, ends, a Redis that goes away, texts from hosts.

use nix::sys::signal::Signal;
use tests::{Ctl, Gate, OnTerminal, Raw, Redis, Worker, fleet_with_ctl};

use super::{SIZES, screen, wait_figures, wait_screen};

/// Leaves the alternate screen.
const LEAVES: &str = "\x1b[?1049l";

/// Workers `web1` and `db1`, and `ctl top` on a terminal of 80 columns.
fn start() -> (Redis, [Worker; 2], Ctl, OnTerminal) {
    let redis = Redis::start();
    let workers = ["web1", "db1"].map(|host| Worker::on(&redis).host(host).allow_exec().start());
    workers.iter().for_each(Worker::wait_online);
    let ctl = Ctl::on(&redis);
    wait_figures(&ctl, 2);
    let terminal = OnTerminal::start_sized(&mut ctl.command(["top"]), SIZES[0]);
    wait_screen(&terminal, SIZES[0], "both hosts", |screen| screen.contains("web1") && screen.contains("db1"));
    (redis, workers, ctl, terminal)
}

/// Whether a line of the table begins with this host.
fn lists(screen: &str, host: &str) -> bool {
    screen.lines().any(|line| line.starts_with(&format!("{host} ")))
}

#[test]
fn a_filter_is_typed_and_its_mistakes_are_pointed_at() {
    let (_redis, _workers, _ctl, mut terminal) = start();
    let size = SIZES[0];
    terminal.type_text("/hostt ~ web*");
    let mistake = "/hostt ~ web*\n ^^^^^\nthere is no 'hostt': did you mean host?";
    let shown = wait_screen(&terminal, size, "what is wrong and where", |screen| screen.contains(mistake));
    assert!(lists(&shown, "db1") && lists(&shown, "web1"), "{shown}");

    // It holds as soon as it can be read.
    terminal.type_text("\x15host ~ web*");
    wait_screen(&terminal, size, "web1 alone", |screen| lists(screen, "web1") && !lists(screen, "db1"));
    terminal.type_text("\r");
    let shown = wait_screen(&terminal, size, "the filter", |screen| screen.contains("host ~ web*: 1 of 2"));
    assert!(shown.starts_with("1 host: 1 online"), "{shown}");
    terminal.type_text("/\x15\r");
    wait_screen(&terminal, size, "both again", |screen| lists(screen, "db1") && lists(screen, "web1"));
    terminal.type_text("q");
    assert_eq!(terminal.wait().0, Some(0));
}

#[test]
fn the_terminal_is_given_back_whichever_way_it_ends() {
    let (_redis, _workers, ctl, mut first) = start();
    let ends: [&dyn Fn(&mut OnTerminal); 5] = [
        &|terminal| terminal.type_text("q"),
        &|terminal| terminal.type_text("\x1b"),
        &|terminal| terminal.type_text("\x03"),
        &|terminal| terminal.signal(Signal::SIGTERM),
        &|terminal| terminal.signal(Signal::SIGHUP),
    ];
    first.type_text("q");
    first.wait();
    for end in ends {
        let mut terminal = OnTerminal::start_sized(&mut ctl.command(["top"]), SIZES[0]);
        wait_screen(&terminal, SIZES[0], "the hosts", |screen| lists(screen, "web1"));
        assert!(!terminal.echoes());
        end(&mut terminal);
        let (code, shown) = terminal.wait();
        assert_eq!(code, Some(0), "{shown:?}");
        assert!(shown.contains(LEAVES) && shown.trim_end().ends_with("\x1b[?25h"), "{shown:?}");
        assert!(terminal.echoes(), "what is typed is shown again");
        assert_eq!(screen(&terminal, SIZES[0]).trim(), "");
    }
}

#[test]
fn while_redis_is_away_the_last_figures_stay_and_are_marked() {
    let (mut redis, _workers, _ctl, mut terminal) = start();
    let size = SIZES[0];
    redis.kill9();
    let shown =
        wait_screen(&terminal, size, "that Redis is away", |screen| screen.contains("Redis is away, figures are "));
    assert!(lists(&shown, "web1") && shown.contains("2 online") && shown.contains("as of "), "{shown}");
    redis.restart();
    wait_screen(&terminal, size, "that Redis is back", |screen| {
        !screen.contains("Redis is away") && lists(screen, "web1")
    });
    terminal.type_text("q");
    assert_eq!(terminal.wait().0, Some(0));
}

#[test]
fn hosts_that_are_gone_stay_and_their_figures_are_no_zeros() {
    let (_redis, [mut web1, _db1], _ctl, mut terminal) = start();
    web1.terminate();
    let shown = wait_screen(&terminal, SIZES[0], "that web1 has stopped", |screen| screen.contains("stopped"));
    assert!(shown.contains("2 hosts: 1 online, 1 offline, 0 unknown"), "{shown}");
    let line = shown.lines().find(|line| line.starts_with("web1 ")).expect("its line");
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[1..4], ["stopped", "?", "?"], "{shown}");
    assert!(!words.contains(&"0.0") && line.contains("gone "), "{shown}");
    terminal.type_text("q");
    terminal.wait();
}

#[test]
fn what_hosts_and_jobs_say_is_shown_and_never_obeyed() {
    let (redis, _worker, ctl) = fleet_with_ctl("");
    let mut gate = Gate::new(&redis, "gate");
    // The worker's version is whatever stands in Redis, and so is the command of a job.
    let mut raw = Raw::on(&redis);
    let job = ctl.dispatch("web1", &format!(": \x1b]0;title\x07\u{202e}; {}", gate.script()));
    gate.reached();
    let mut terminal = OnTerminal::start_sized(ctl.command(["top"]).env("NO_COLOR", "1"), SIZES[1]);
    wait_screen(&terminal, SIZES[1], "the job", |screen| screen.contains("]0;title") && screen.contains(&job[28..]));
    wait_screen(&terminal, SIZES[1], "the version", |screen| {
        // The worker's next heartbeat has the true one.
        raw.query::<u64>(&["HSET", "server:{web1}:status", "version", "\x1b]0;version\x07"]);
        screen.contains("]0;version")
    });
    gate.open();
    wait_screen(&terminal, SIZES[1], "its end", |screen| screen.contains("No job runs now"));
    terminal.type_text("q");
    let (code, shown) = terminal.wait();
    assert_eq!(code, Some(0));
    assert!(!shown.contains("\x1b]0;") && !shown.contains('\u{202e}') && !shown.contains('\x07'), "{shown:?}");
    // Bold, dim and reversed text is no colour.
    let colours = (30..38).chain(40..48).chain(90..98).map(|code| format!("\x1b[{code}m"));
    assert!(!colours.into_iter().any(|colour| shown.contains(&colour)) && !shown.contains("[38;"), "{shown:?}");
}

#[test]
fn without_a_terminal_it_is_printed_once() {
    let (_redis, worker, ctl) = fleet_with_ctl("");
    wait_figures(&ctl, 1);
    let refused = ctl.run(["top"]).expect(1);
    assert!(
        refused.stderr.contains("a live screen needs a terminal") && refused.stderr.contains("ctl top --once"),
        "{refused}"
    );
    let once = ctl.run(["top", "--once"]).expect(0);
    assert!(once.stdout.starts_with("HOST ") && once.stdout.contains("\nweb1  online"), "{once}");
    assert!(once.stderr.contains("1 host: 1 online; jobs that run: 0"), "{once}");

    let job = ctl.dispatch("web1", "sleep 300");
    let top = tests::eventually("the job to run", || {
        let top = ctl.run(["top", "--once", "-o", "json"]).expect(0).json();
        (top["jobs"][0]["states"]["running"] == 1).then_some(top)
    });
    assert_eq!((&top["jobs"][0]["job"], &top["hosts"][0]["host"]), (&job.as_str().into(), &"web1".into()));
    let lines = ctl.run(["top", "--once", "-o", "jsonl"]).expect(0).stdout;
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let none = ctl.run(["top", "--once", "--where", "cpu.usage > 101"]).expect(0);
    assert!(!none.stdout.contains("web1  ") && none.stderr.contains("no such host"), "{none}");
    ctl.run(["top", "--once", "--host", "web9"]).expect(1);
    drop(worker);
}

#[test]
fn a_fleet_without_hosts_is_shown_too() {
    let redis = Redis::start();
    let mut terminal = OnTerminal::start_sized(&mut Ctl::on(&redis).command(["top"]), SIZES[0]);
    wait_screen(&terminal, SIZES[0], "how to begin", |screen| screen.contains("no worker has reported yet"));
    let _worker = Worker::on(&redis).start();
    wait_screen(&terminal, SIZES[0], "the first host", |screen| lists(screen, "web1"));
    terminal.type_text("q");
    assert_eq!(terminal.wait().0, Some(0));
}
