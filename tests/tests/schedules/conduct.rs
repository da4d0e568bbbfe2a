//! What schedulers do where a run cannot go as it was meant.

use tests::{Gate, Raw, eventually};

use super::{Hosts, begun, count, ended, is_settled, moment};

#[test]
fn what_is_due_while_no_scheduler_runs_is_missed_and_the_next_runs() {
    let hosts = Hosts::start(1);
    hosts.add("--every 1s", &hosts.script());
    hosts.wait_ms(4000);
    assert_eq!(hosts.history().len(), 0);
    let _one = hosts.serve("one");
    let history = hosts.wait("a run", |history| ended(history, "succeeded") > 0);
    let missed = history.iter().take_while(|at| at["state"] == "missed: grace").count();
    assert!(missed >= 2, "{history:#?}");
    assert!(history.windows(2).all(|pair| moment(&pair[1]) - moment(&pair[0]) == 1000), "{history:#?}");
}

#[test]
fn what_may_change_a_host_runs_late_only_if_it_was_asked_to() {
    let hosts = Hosts::start(1);
    let at = |hosts: &Hosts| {
        // Far enough to be signed in time on a busy machine.
        let at = Raw::on(&hosts.redis).now() + 10_000;
        (at, format!("--at {} --grace 10m", protocol::time::show_moment(at)))
    };
    let (instant, flags) = at(&hosts);
    hosts.add(&flags, &hosts.script());
    // It is late 5 s behind its time.
    let now = Raw::on(&hosts.redis).now();
    hosts.wait_ms((instant + 6000).saturating_sub(now));
    let _one = hosts.serve("one");
    let history = hosts.wait("the instant to be accounted for", |history| !history.is_empty());
    assert_eq!(history[0]["state"], "missed: grace");
    assert!(history[0]["reason"].as_str().expect("text").contains("must not run late"), "{history:#?}");

    hosts.add(&format!("{} --late --replace", at(&hosts).1), &hosts.script());
    let history = hosts.wait("a run", |history| ended(history, "succeeded") == 1);
    let run = &history.last().expect("an instant")["state"];
    assert!(run == "ran" || run == "late", "{history:#?}");
    assert_eq!(hosts.ran("web1").len(), 1);
}

#[test]
fn what_overlaps_is_skipped_and_the_next_runs() {
    let hosts = Hosts::start(1);
    let mut gate = Gate::new(&hosts.redis, "gate");
    let _one = hosts.serve("one");
    hosts.add("--every 1s --grace 10s --overlap skip", &format!("{}; {}", gate.script(), hosts.script()));
    gate.reached();
    hosts.wait("two to be skipped", |history| count(history, "skipped: overlap") >= 2);
    assert!(hosts.ran("web1").is_empty());
    gate.open();
    eventually("the first to go on", || (hosts.ran("web1").len() == 1).then_some(()));
    gate.open();
    hosts.wait("another run", |history| ended(history, "succeeded") >= 2);
}

#[test]
fn one_waits_for_the_prior_run_and_no_more() {
    let hosts = Hosts::start(1);
    let mut gate = Gate::new(&hosts.redis, "gate");
    let _one = hosts.serve("one");
    hosts.add("--every 1s --grace 60s --overlap queue", &format!("{}; {}", gate.script(), hosts.script()));
    gate.reached();
    let history = hosts.wait("one to wait", |history| count(history, "skipped: overlap") >= 1);
    assert_eq!(begun(&history), 1, "{history:#?}");
    gate.open();
    eventually("the first to go on", || (hosts.ran("web1").len() == 1).then_some(()));
    gate.reached();
    let history = hosts.wait("the one that has waited", |history| ended(history, "succeeded") == 1);
    assert_eq!(begun(&history), 2, "{history:#?}");
}

#[test]
fn runs_that_may_overlap_do() {
    let hosts = Hosts::start(1);
    let gate = Gate::new(&hosts.redis, "gate");
    let _one = hosts.serve("one");
    hosts.add("--every 1s --grace 10s --overlap allow", &format!("{}; {}", hosts.script(), gate.script()));
    eventually("two that run", || (hosts.ran("web1").len() >= 2).then_some(()));
    assert_eq!(ended(&hosts.history(), "succeeded"), 0);
}

#[test]
fn the_next_run_ends_the_prior_one_where_the_order_says_so() {
    let hosts = Hosts::start(1);
    let gate = Gate::new(&hosts.redis, "gate");
    let _one = hosts.serve("one");
    hosts.add("--every 2s --grace 10s --overlap cancel", &format!("{}; {}", hosts.script(), gate.script()));
    let history = hosts.wait("two to be ended", |history| ended(history, "failed") >= 2);
    let prior = history.iter().find(|at| at["end"] == "failed").expect("a run that was ended");
    let job = prior["job"].as_str().expect("a job");
    assert_eq!(hosts.ctl.host_states(job), [("web1".into(), "cancelled".into())]);
    // On a busy machine some are missed. None is held up.
    assert_eq!(count(&history, "skipped: overlap"), 0, "{history:#?}");
}

#[test]
fn a_schedule_whose_runs_fail_is_paused() {
    let hosts = Hosts::start(1);
    let one = hosts.serve("one");
    hosts.add("--every 1s --grace 10s --pause-after 2", &format!("{}; false", hosts.script()));
    one.wait_stderr("tidy: paused, as too many runs have failed in a row");
    let shown = hosts.show();
    assert_eq!(shown["paused"], "after 2 failed runs in a row");
    assert_eq!(ended(&hosts.history(), "failed"), 2);
    let listed = hosts.ctl.run(["schedule", "list"]).expect(0);
    assert!(listed.stderr.contains("tidy: paused after 2 failed runs in a row"), "{listed}");
}

#[test]
fn a_failed_run_is_tried_again_where_it_failed() {
    let hosts = Hosts::start(2);
    let _one = hosts.serve("one");
    let mark = hosts.redis.directory().join("mark");
    let script = format!(
        "{}; test $REDFLEET_HOST = web1 || test -e {1} || {{ touch {1}; false; }}",
        hosts.script(),
        mark.display()
    );
    let at = protocol::time::show_moment(Raw::on(&hosts.redis).now() + 20_000);
    hosts.add(&format!("--at {at} --grace 10m --late --retries 2"), &script);
    let history = hosts.wait("the end", |history| ended(history, "succeeded") == 1);
    assert_eq!((history.len(), &history[0]["attempt"]), (1, &serde_json::json!(1)));
    assert_eq!((hosts.ran("web1").len(), hosts.ran("web2").len()), (1, 2));
}

/// The host that is away could come back for ten minutes.
#[test]
fn a_host_that_is_offline_keeps_no_other_from_trying_again() {
    let mut hosts = Hosts::start(2);
    assert!(hosts.workers[1].terminate().success());
    let _one = hosts.serve("one");
    let at = protocol::time::show_moment(Raw::on(&hosts.redis).now() + 20_000);
    hosts.add(&format!("--at {at} --grace 10m --late --retries 1"), &format!("{}; false", hosts.script()));
    eventually("a second attempt", || (hosts.ran("web1").len() == 2).then_some(()));
    assert!(hosts.history()[0]["end"].is_null(), "the other host may still come back");
}

#[test]
fn an_order_that_has_ended_runs_nothing_more() {
    let hosts = Hosts::start(1);
    let _one = hosts.serve("one");
    hosts.add("--every 1s --valid-for 3s --grace 10s --late", &hosts.script());
    let history = hosts.wait("the end of the order", |history| history.len() == 3);
    hosts.wait_ms(2000);
    assert_eq!(hosts.history().len(), history.len());
    let listed = hosts.ctl.run(["schedule", "list"]).expect(0);
    assert!(listed.stderr.contains("tidy: its standing order ended at"), "{listed}");
    assert!(listed.stdout.contains("never again"), "{listed}");
}

#[test]
fn a_paused_schedule_runs_nothing_until_it_is_resumed() {
    let hosts = Hosts::start(1);
    let _one = hosts.serve("one");
    hosts.add("--every 1s --grace 10s --late", &hosts.script());
    hosts.wait("a run", |history| ended(history, "succeeded") > 0);
    hosts.ctl.run(["schedule", "pause", "tidy"]).expect(0);
    let paused = hosts.wait("all to end", |history| history.iter().all(is_settled)).len();
    hosts.wait_ms(2500);
    assert_eq!(hosts.history().len(), paused);
    hosts.ctl.run(["schedule", "resume", "tidy"]).expect(0);
    let history = hosts.wait("another run", |history| history.len() > paused);
    let pause = moment(&history[paused]) - moment(&history[paused - 1]);
    assert!(pause > 2500, "nothing was due in the pause: {history:#?}");
}

#[test]
fn a_schedule_that_is_replaced_keeps_its_history_and_runs_by_the_new_order() {
    let hosts = Hosts::start(1);
    let mut gate = Gate::new(&hosts.redis, "gate");
    let _one = hosts.serve("one");
    hosts.add("--every 1s --grace 10s", &gate.script());
    gate.reached();
    hosts.wait("the run to be sent", |history| count(history, "ran") == 1);
    hosts.add("--every 1s --grace 10s --replace", &hosts.script());
    let history = hosts.wait("a run by the new order", |history| ended(history, "succeeded") > 0);
    assert_eq!((&history[0]["state"], &history[0]["end"]), (&"ran".into(), &"unknown".into()), "{history:#?}");
    gate.open();
}
