//! What operators type about schedules, and what they are told.

use tests::{Ctl, Raw, Signatory};

use super::{Hosts, ended};

#[test]
fn a_schedule_is_added_shown_listed_run_and_removed() {
    let hosts = Hosts::start(2);
    let add = |more: &[&str]| {
        let words = ["schedule", "add", "night", "--cron", "30 2 * * *", "--tz", "UTC", "--host", "web*"];
        hosts.ctl.run(words.iter().chain(more).copied())
    };
    let script = hosts.script();
    let added = add(&["exec", "--", "sh", "-c", &script]).expect(0);
    assert!(added.stderr.contains("on web* (2 hosts now: web[1,2]); next:"), "{added}");
    let again = add(&["ping"]).expect(1);
    assert!(
        again.stderr.contains("there is a schedule 'night' already") && again.stderr.contains("--replace"),
        "{again}"
    );

    let shown = hosts.ctl.run(["schedule", "show", "night", "-o", "json"]).expect(0).json();
    assert_eq!((&shown["when"], &shown["action"]), (&"30 2 * * * (UTC)".into(), &"exec".into()));
    let next = shown["next"].as_array().expect("a list");
    assert!(
        next.len() == 10 && next.iter().all(|at| at.as_str().expect("text").ends_with("T02:30:00.000Z")),
        "{shown}"
    );
    assert_eq!(shown["start_within_ms"], 600_000);
    let text = hosts.ctl.run(["schedule", "show", "night"]).expect(0).stdout;
    assert!(text.contains("if the prior run goes on") && text.contains("ordered by"), "{text}");
    let listed = hosts.ctl.run(["schedule", "list"]).expect(0).stdout;
    assert!(listed.starts_with("SCHEDULE") && listed.contains("night"), "{listed}");
    let times = hosts.ctl.run(["schedule", "list", "--times"]).expect(0).stdout;
    assert_eq!(times.lines().filter(|line| line.starts_with("night")).count(), 10, "{times}");

    hosts.ctl.run(["schedule", "run-now", "night"]).expect(0);
    assert_eq!((hosts.ran("web1").len(), hosts.ran("web2").len()), (1, 1));
    add(&["--replace", "ping"]).expect(0);
    let shown = hosts.ctl.run(["schedule", "show", "night", "-o", "json"]).expect(0).json();
    assert_eq!(shown["action"], "ping");
    hosts.ctl.run(["schedule", "rm", "night", "--yes"]).expect(0);
    let gone = hosts.ctl.run(["schedule", "show", "night"]).expect(1);
    assert!(gone.stderr.contains("there is no schedule night"), "{gone}");
    let keys: Vec<String> = Raw::on(&hosts.redis).query(&["KEYS", "schedule:*"]);
    assert!(keys.is_empty(), "{keys:?}");
}

/// Whoever can write to Redis can put another order there. It must not become a job of the operator's unseen.
#[test]
fn what_stands_in_redis_is_not_signed_unseen() {
    let hosts = Hosts::start(1);
    hosts.add("--every 10h", "true");
    let mallory = Ctl::on(&hosts.redis).with_key(&Signatory::new(66));
    let words = ["schedule", "add", "tidy", "--replace", "--every", "10h", "--all", "exec", "--", "sh", "-c"];
    mallory.run(words.into_iter().chain([hosts.script().as_str()])).expect(0);
    let refused = hosts.ctl.run(["schedule", "run-now", "tidy"]).expect(1);
    assert!(refused.stderr.contains("it was not signed with your key"), "{refused}");
    assert!(refused.stderr.contains("$REDFLEET_JOB"), "what it would do is shown: {refused}");
    assert!(hosts.ran("web1").is_empty());
    hosts.ctl.run(["schedule", "run-now", "tidy", "--yes"]).expect(0);
    assert_eq!(hosts.ran("web1").len(), 1);
}

#[test]
fn a_job_of_a_schedule_says_by_which_order_it_came() {
    let hosts = Hosts::start(1);
    let _one = hosts.serve("one");
    hosts.add("--every 1s --grace 10s --late", &hosts.script());
    let history = hosts.wait("a run", |history| ended(history, "succeeded") > 0);
    let job =
        history.iter().find(|at| at["end"] == "succeeded").expect("a run")["job"].as_str().expect("text").to_owned();
    let shown = hosts.ctl.run(["job", "show", &job]).expect(0).stdout;
    assert!(shown.contains("the standing order 'tidy'"), "{shown}");
    let directory = hosts.ctl.home().join("raw");
    hosts.ctl.run(["job", "show", &job, "--raw", directory.to_str().expect("text")]).expect(0);
    assert!(directory.join("standing-order.sig").exists() && directory.join("standing-order").exists());
    let audit =
        std::fs::read_to_string(hosts.workers[0].options().directory().join("state/audit.jsonl")).expect("a trail");
    assert!(audit.contains("\"standing_order\":\"tidy\""), "{audit}");
}

#[test]
fn what_no_standing_order_can_say_is_refused_with_what_to_do() {
    let hosts = Hosts::start(1);
    let refused = |words: &[&str]| {
        let words = ["schedule", "add", "night"].iter().chain(words).copied();
        hosts.ctl.run(words).expect(1).stderr
    };
    for (words, expected) in [
        (&["--cron", "0 2 * *", "--host", "web1", "ping"][..], "is no cron expression"),
        (&["--cron", "0 2 30 2 *", "--host", "web1", "ping"], "it would never run"),
        (&["--cron", "0 2 * * *", "--tz", "Europe/Berln", "--host", "web1", "ping"], "--tz Europe/Berlin"),
        (&["--every", "10ms", "--host", "web1", "ping"], "it must be at least 1s"),
        (&["--at", "2020-01-01T00:00:00Z", "--host", "web1", "ping"], "is over"),
        (&["--at", "soon", "--host", "web1", "ping"], "is no time"),
        (&["--every", "1h", "--host", "@web", "ping"], "is a group"),
        (&["--every", "1h", "--host", "db*", "ping"], "no host is meant now"),
        (&["--every", "1h", "-l", "role=db", "ping"], "no host is meant now"),
        (&["--every", "1h", "--host", "web1", "exec", "secret.TOKEN=x", "--", "true"], "is a secret"),
        (&["--every", "1h", "--host", "web1", "--jitter", "1h", "ping"], "could come too late"),
        (&["--every", "1h", "--host", "web1", "--jitter", "1h", "--grace", "2h", "ping"], "behind the next one"),
    ] {
        let told = refused(words);
        assert!(told.contains(expected), "{words:?}: {told}");
    }
    let listed = hosts.ctl.run(["schedule", "list"]).expect(0);
    assert!(listed.stderr.contains("there is no schedule"), "{listed}");
}

#[test]
fn the_settings_of_a_scheduler_are_checked() {
    let ctl = Ctl::keyless();
    let check = |text: &str| {
        let file = ctl.write("serve.toml", text);
        ctl.run(["serve", "--check-config", file.to_str().expect("text")])
    };
    let good = check("name = 'one'\ninterval = '500ms'\n").expect(0);
    assert!(good.stdout.contains("one") && good.stdout.contains("500 ms"), "{good}");
    assert!(check("nmae = 'one'\n").expect(1).stderr.contains("nmae"));
    // Whoever looks less often sends everything late.
    assert!(check("interval = '5s'\n").expect(1).stderr.contains("from 100ms to 4s"));
}
