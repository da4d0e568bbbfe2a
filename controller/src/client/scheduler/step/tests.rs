use protocol::{
    action::Arguments,
    name::{JobId, Salt},
    signed::Signed,
    standing::{Conduct, Standing, schedule::Schedule, selector::Selector},
};

use super::*;

const MINUTE: Millis = 60_000;

/// Every minute, for an hour.
fn order(change: impl FnOnce(&mut StandingOrder)) -> Scheduled {
    let mut order = StandingOrder {
        name: "tidy".parse().unwrap(),
        action: "ping".into(),
        arguments: Arguments::new(),
        operator: "ann".into(),
        salt: Salt::new([7; 16]),
        issued_at_ms: 0,
        valid_until_ms: 60 * MINUTE,
        start_within_ms: MINUTE,
        timeout_ms: 1000,
        retention_ms: 1000,
        keep_output: None,
        namespace: None,
        selector: Selector::default(),
        schedule: Schedule::Every { period_ms: MINUTE, anchor_ms: 0 },
        conduct: Conduct { overlap: Overlap::Skip, late: true, jitter_ms: 0, pause_after: 0, retries: 0 },
    };
    change(&mut order);
    Scheduled::new(Standing::open(Signed::unsigned(&order)).unwrap())
}

fn at(scheduled: &Scheduled, running: usize, now: Millis) -> Step {
    step(scheduled, &scheduled.order().schedule.times().unwrap(), running, now)
}

/// Up to which instant is accounted for, and the words for what becomes of each.
fn told(step: Step) -> (Millis, Vec<(Millis, &'static str)>) {
    let Step::Account { until_ms, begins, others } = step else { panic!("{step:?}") };
    let others = others.into_iter().map(|(instant, fate, _)| (instant / MINUTE, fate.word()));
    let begun = begins.map(|fate| (until_ms / MINUTE, fate.word()));
    (until_ms / MINUTE, others.chain(begun).collect())
}

#[test]
fn an_instant_begins_when_it_is_due_and_not_before() {
    let every = order(|_| ());
    assert_eq!(at(&every, 0, MINUTE - 1), Step::Wait(Some(MINUTE)));
    assert_eq!(told(at(&every, 0, MINUTE)), (1, vec![(1, "ran")]));
    assert_eq!(told(at(&every, 0, MINUTE + 6_000)), (1, vec![(1, "late")]));
    let accounted = Scheduled { accounted_ms: 60 * MINUTE, ..order(|_| ()) };
    assert_eq!(at(&accounted, 0, 61 * MINUTE), Step::Wait(None), "the order has ended");
}

#[test]
fn of_several_that_are_due_the_newest_runs() {
    assert_eq!(
        told(at(&order(|_| ()), 0, 3 * MINUTE)),
        (3, vec![(1, "missed: grace"), (2, "missed: grace"), (3, "ran")])
    );
    let short = order(|order| order.start_within_ms = 10_000);
    assert_eq!(told(at(&short, 0, MINUTE + 10_001)), (1, vec![(1, "missed: grace")]));
    let never_late = order(|order| order.conduct.late = false);
    assert_eq!(told(at(&never_late, 0, MINUTE + 5_001)), (1, vec![(1, "missed: grace")]));
    assert_eq!(told(at(&never_late, 0, MINUTE + 4_999)), (1, vec![(1, "ran")]));
}

#[test]
fn many_are_accounted_for_piece_by_piece() {
    let seconds = order(|order| {
        order.schedule = Schedule::Every { period_ms: 1000, anchor_ms: 0 };
        order.start_within_ms = 1000;
    });
    let Step::Account { until_ms, begins: None, others } = at(&seconds, 0, 2_000_000) else { panic!("nothing") };
    assert_eq!((until_ms, others.len()), (500_000, 500));
}

#[test]
fn what_overlaps_is_skipped_waits_or_runs_beside() {
    let with = |overlap| order(|order| order.conduct.overlap = overlap);
    assert_eq!(told(at(&with(Overlap::Skip), 1, MINUTE)), (1, vec![(1, "skipped: overlap")]));
    assert_eq!(told(at(&with(Overlap::Allow), 1, MINUTE)), (1, vec![(1, "ran")]));
    assert_eq!(told(at(&with(Overlap::Allow), limits::OPEN_RUNS, MINUTE)), (1, vec![(1, "skipped: overlap")]));
    let queue = with(Overlap::Queue);
    assert_eq!(at(&queue, 1, MINUTE), Step::Wait(Some(MINUTE + 1000)));
    assert_eq!(told(at(&queue, 0, MINUTE + 30_000)), (1, vec![(1, "late")]));
    // One waits at most.
    let long = order(|order| {
        order.conduct.overlap = Overlap::Queue;
        order.start_within_ms = 10 * MINUTE;
    });
    assert_eq!(told(at(&long, 1, 2 * MINUTE)), (1, vec![(1, "skipped: overlap")]));
    assert_eq!(told(at(&queue, 1, MINUTE + 60_001)), (1, vec![(1, "skipped: overlap")]));
}

#[test]
fn each_has_its_own_delay_which_all_schedulers_know() {
    let delayed = order(|order| order.conduct.jitter_ms = 30_000);
    let delays: Vec<_> = (1..20).map(|minute| jitter(delayed.order(), minute * MINUTE)).collect();
    assert!(delays.iter().all(|delay| *delay <= 30_000) && delays.iter().any(|delay| *delay != delays[0]));
    assert_eq!(at(&delayed, 0, MINUTE), Step::Wait(Some(MINUTE + delays[0])));
    assert_eq!(told(at(&delayed, 0, MINUTE + delays[0])), (1, vec![(1, "ran")]));
}

#[test]
fn retries_come_slower_and_slower_as_long_as_the_run_may_start() {
    let tried = order(|order| order.conduct.retries = 3);
    let run = |attempt, at_ms| Instant {
        state: Fate::Ran,
        becomes: None,
        job: Some(JobId::new()),
        attempt,
        by: "one".into(),
        at_ms,
        end: None,
        reason: None,
    };
    let retried = |attempt, at_ms| retries_at(tried.order(), MINUTE, &run(attempt, at_ms));
    assert_eq!(retried(0, MINUTE), Some(MINUTE + 5_000));
    assert_eq!(retried(2, MINUTE + 20_000), Some(MINUTE + 40_000));
    assert_eq!(retried(2, MINUTE + 40_000), None, "it may not start any more");
    assert_eq!(retried(3, MINUTE), None);
}
