//! Screens as snapshots. After an intended change, `INSTA_UPDATE=always cargo test -p tests --test screens` rewrites them;
//! read the difference before you keep it.

use insta::assert_snapshot;
use tests::{Crowd, Ctl, OnTerminal, Redis, eventually};

use super::{SIZES, Size, masked::masked, screen, wait_figures, wait_screen};

/// Names of so many hosts, as a fleet might have them.
fn names(count: usize) -> Vec<String> {
    let name = |number: usize| match number % 10 {
        0..6 => format!("web{}", number / 10 * 6 + number % 10 + 1),
        6..9 => format!("db-{}", number / 10 * 3 + number % 10 - 5),
        _ => format!("cache-eu-west-{}", number / 10 + 1),
    };
    (0..count).map(name).collect()
}

fn show(count: usize) {
    let redis = Redis::start();
    let crowd = Crowd::start(&redis, names(count));
    crowd.wait_online(&redis);
    let ctl = Ctl::on(&redis).env("REDFLEET_OPERATOR", "ann@desk");
    // `ctl` meets the keys of the hosts, which it reports once.
    ctl.run(["run", "--all", "ping"]).expect(0);
    let job = ctl.dispatch("web1", "sleep 300");
    wait_figures(&ctl, count);
    for size in SIZES {
        let columns = size.0;
        wait_running(&ctl);
        assert_snapshot!(format!("top-{columns}-{count}"), top(&ctl, size, count));
        assert_snapshot!(format!("list-{columns}-{count}"), printed(&ctl, size, &["host", "list"]));
        assert_snapshot!(format!("ping-{columns}-{count}"), printed(&ctl, size, &["run", "--all", "ping"]));
    }
    ctl.run(["job", "cancel", &job, "--yes"]).expect(0);
}

/// Waits until the last heartbeat of web1 says that it runs a command, and those of the others that they run none: not the
/// ping that has just ended.
fn wait_running(ctl: &Ctl) {
    eventually("web1 alone to say that it runs a command", || {
        let hosts = ctl.run(["host", "list", "-o", "json"]).expect(0).json();
        let hosts = hosts.as_array().expect("a list");
        hosts.iter().all(|host| host["running"] == u64::from(host["host"] == "web1")).then_some(())
    });
}

/// `ctl top`, sorted by name: where the busiest host stands is not known.
fn top(ctl: &Ctl, size: Size, count: usize) -> String {
    let mut terminal = OnTerminal::start_sized(&mut ctl.command(["top"]), size);
    wait_screen(&terminal, size, "the hosts", |screen| screen.contains("CPU %▼"));
    terminal.type_text("n");
    let shown = wait_screen(&terminal, size, "all hosts by name, and the job", |screen| {
        let is_settled = screen.contains(&format!(": {count} online")) && screen.contains("1 running");
        // Nor does a figure become old in that moment.
        let is_known = screen.lines().all(|line| !line.contains("online") || !line.contains(" ? "));
        is_settled && is_known && screen.contains("HOST▲")
    });
    terminal.type_text("q");
    assert_eq!(terminal.wait().0, Some(0));
    masked(&shown, true)
}

/// What is on the screen when a command has ended.
fn printed(ctl: &Ctl, size: Size, words: &[&str]) -> String {
    let mut terminal = OnTerminal::start_sized(&mut ctl.command(words), size);
    assert_eq!(terminal.wait().0, Some(0));
    masked(&screen(&terminal, size), false)
}

#[test]
fn one_host() {
    show(1);
}

#[test]
fn thirty_hosts() {
    show(30);
}

#[test]
#[ignore = "a thousand workers keep a machine busy"]
fn a_thousand_hosts() {
    show(1000);
}
