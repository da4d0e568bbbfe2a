use std::collections::BTreeMap;

use protocol::{
    action::Arguments,
    name::{JobId, Salt},
    signed::Signed,
    standing::{Conduct, Standing, schedule::Schedule, selector::Selector},
    targets::Targets,
};

use super::*;

const MINUTE: Millis = 60_000;

/// Every minute, for an hour.
pub(in crate::client::scheduler) fn order(change: impl FnOnce(&mut StandingOrder)) -> Scheduled {
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
    beside(scheduled, Open { all: running, at_work: running }, now)
}

fn beside(scheduled: &Scheduled, open: Open, now: Millis) -> Step {
    step(scheduled, &scheduled.order().schedule.times().unwrap(), open, now)
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

/// Redis' clock was set, and is right again.
#[test]
fn times_that_are_accounted_for_before_they_come_are_noticed() {
    use crate::client::schedules::silent_until;
    let ahead = Scheduled { accounted_ms: 30 * MINUTE, ..order(|_| ()) };
    assert_eq!(at(&ahead, 0, 3 * MINUTE), Step::Wait(Some(31 * MINUTE)));
    assert_eq!(silent_until(&ahead, 3 * MINUTE), Some(30 * MINUTE));
    assert_eq!(silent_until(&ahead, 29 * MINUTE), None, "clocks may differ a little");
    assert_eq!(silent_until(&ahead, 31 * MINUTE), None);
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
fn what_waits_for_hosts_that_are_offline_holds_nothing_up_but_is_bounded() {
    let left = |all| Open { all, at_work: 0 };
    for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Allow, Overlap::Cancel] {
        let scheduled = order(|order| order.conduct.overlap = overlap);
        assert_eq!(told(beside(&scheduled, left(1), MINUTE)), (1, vec![(1, "ran")]), "{overlap:?}");
        let full = beside(&scheduled, left(limits::OPEN_RUNS), MINUTE);
        match overlap {
            Overlap::Queue => assert_eq!(full, Step::Wait(Some(MINUTE + 1000))),
            _ => assert_eq!(told(full), (1, vec![(1, "skipped: overlap")]), "{overlap:?}"),
        }
    }
}

#[test]
fn each_has_its_own_delay_which_all_schedulers_know() {
    let delayed = order(|order| order.conduct.jitter_ms = 30_000);
    let delays: Vec<_> = (1..20).map(|minute| jitter(delayed.order(), minute * MINUTE)).collect();
    assert!(delays.iter().all(|delay| *delay <= 30_000) && delays.iter().any(|delay| *delay != delays[0]));
    assert_eq!(at(&delayed, 0, MINUTE), Step::Wait(Some(MINUTE + delays[0])));
    assert_eq!(told(at(&delayed, 0, MINUTE + delays[0])), (1, vec![(1, "ran")]));
}

fn run(attempt: u32, failed_ms: Option<Millis>) -> Instant {
    Instant { job: Some(JobId::new()), attempt, failed_ms, ..Instant::new(Fate::Ran, "one".into(), MINUTE) }
}

#[test]
fn a_paused_schedule_tries_nothing_again_nor_does_one_whose_next_run_has_come_to_end_it() {
    let tried = |overlap, paused: Option<&str>, accounted_ms| {
        let scheduled = order(|order| (order.conduct.retries, order.conduct.overlap) = (3, overlap));
        let scheduled = Scheduled { paused: paused.map(str::to_owned), accounted_ms, ..scheduled };
        retry(&scheduled, MINUTE, &run(0, Some(MINUTE)), MINUTE + 5_000)
    };
    assert_eq!(tried(Overlap::Cancel, None, MINUTE), Retry::Now);
    assert_eq!(tried(Overlap::Cancel, None, 2 * MINUTE), Retry::Never);
    assert_eq!(tried(Overlap::Allow, None, 2 * MINUTE), Retry::Now);
    assert_eq!(tried(Overlap::Allow, Some("by ann"), MINUTE), Retry::Never);
}

/// Between a claim and sending, its scheduler may have died, or been frozen.
#[test]
fn what_was_claimed_in_time_and_is_sent_late_is_late_or_not_sent() {
    let claimed = |attempt| Instant { state: Fate::Claimed, becomes: Some(Fate::Ran), ..run(attempt, None) };
    let begun = |late, attempt, now| {
        let scheduled = order(|order| order.conduct.late = late);
        begins(scheduled.order(), MINUTE, &claimed(attempt), now)
    };
    assert_eq!(begun(false, 0, MINUTE + 5_000), Ok(Fate::Ran));
    assert_eq!(begun(false, 0, MINUTE + 5_001), Err(NOT_LATE));
    assert_eq!(begun(true, 0, MINUTE + 5_001), Ok(Fate::Late));
    assert_eq!(begun(true, 0, 2 * MINUTE + 1), Err(MISSED));
    assert_eq!(begun(false, 1, MINUTE + 5_001), Ok(Fate::Ran), "a retry is always later");
    assert_eq!(begun(true, 1, 2 * MINUTE + 1), Err(MISSED));
}

#[test]
fn retries_come_slower_and_slower_as_long_as_the_run_may_start() {
    let tried = order(|order| order.conduct.retries = 3);
    let retried = |attempt, failed_ms, now| retry(&tried, MINUTE, &run(attempt, failed_ms), now);
    // However long it took to fail, a pause follows.
    assert_eq!(retried(0, None, MINUTE + 40_000), Retry::Pause);
    assert_eq!(retried(0, Some(MINUTE + 40_000), MINUTE + 44_999), Retry::Later);
    assert_eq!(retried(0, Some(MINUTE + 40_000), MINUTE + 45_000), Retry::Now);
    assert_eq!(retried(2, Some(MINUTE), MINUTE + 19_999), Retry::Later);
    assert_eq!(retried(2, Some(MINUTE), MINUTE + 20_000), Retry::Now);
    assert_eq!(retried(2, None, MINUTE + 40_000), Retry::Never, "it may not start any more behind the pause");
    // No scheduler was there when the pause was over.
    assert_eq!(retried(0, Some(MINUTE), MINUTE + 59_999), Retry::Now);
    assert_eq!(retried(0, Some(MINUTE), 2 * MINUTE), Retry::Never, "it may not start any more");
    assert_eq!(retried(3, None, MINUTE), Retry::Never);
    // One that could not be sent was the last one.
    let given_up = Instant { given_up: true, ..run(0, Some(MINUTE + 40_000)) };
    assert_eq!(retry(&tried, MINUTE, &given_up, MINUTE + 45_000), Retry::Never);
}

/// A scheduler: what it has decided, and from where, if it was frozen before it could say so.
type Frozen = Option<(Millis, Step)>;

/// Two years in a zone, with three schedulers that are frozen and killed at random, and all away now and then. Returns what
/// became of each instant.
fn two_years(mut scheduled: Scheduled, random: &mut fastrand::Rng) -> BTreeMap<Millis, Fate> {
    let times = scheduled.order().schedule.times().unwrap();
    let (mut fates, mut frozen): (BTreeMap<_, _>, [Frozen; 3]) = (BTreeMap::new(), [None, None, None]);
    let mut now = scheduled.order().issued_at_ms;
    loop {
        let at = random.usize(..3);
        let (read_ms, step) = match frozen[at].take() {
            Some(decided) => decided,
            None => (scheduled.accounted_ms, step(&scheduled, &times, Open::default(), now)),
        };
        match step {
            Step::Wait(None) => break,
            // Mostly somebody is there in time.
            Step::Wait(Some(next)) => now = next + [0, 0, 0, 30_000, 20 * MINUTE, 50 * 60 * MINUTE][random.usize(..6)],
            step @ Step::Account { .. } if random.u8(..4) == 0 => frozen[at] = Some((read_ms, step)),
            // It dies.
            Step::Account { .. } if random.u8(..8) == 0 => {}
            // As the script does: only who has read the newest state may move it on.
            Step::Account { .. } if read_ms != scheduled.accounted_ms => {}
            Step::Account { until_ms, begins, others } => {
                let begun = begins.map(|fate| (until_ms, fate));
                for (instant, fate) in others.into_iter().map(|(instant, fate, _)| (instant, fate)).chain(begun) {
                    assert_eq!(fates.insert(instant, fate), None, "{instant} is accounted for twice");
                }
                if begins.is_some() {
                    let run = scheduled.standing.run(until_ms, 0, Targets::new(["web1".parse().unwrap()]).root());
                    scheduled.standing.founds(&run).unwrap();
                }
                scheduled.accounted_ms = until_ms;
            }
        }
    }
    fates
}

#[test]
fn in_two_years_of_four_zones_each_instant_is_accounted_for_once_whoever_dies() {
    let zones: [(&str, &[u8]); 4] = [
        ("Europe/Berlin", include_bytes!("../../../../../protocol/fixtures/zones/Europe-Berlin")),
        ("America/New_York", include_bytes!("../../../../../protocol/fixtures/zones/America-New_York")),
        ("Australia/Lord_Howe", include_bytes!("../../../../../protocol/fixtures/zones/Australia-Lord_Howe")),
        ("Asia/Kolkata", include_bytes!("../../../../../protocol/fixtures/zones/Asia-Kolkata")),
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for ((name, tzif), expression) in
        zones.into_iter().flat_map(|zone| [(zone, "30 2 * * *"), (zone, "*/30 1-3 * * *")])
    {
        // An order lives for a year at most: the second year is that of the next one.
        for year in [0, 366] {
            let begin = 1_798_761_600_000 + year * 24 * 60 * MINUTE;
            let scheduled = order(|order| {
                let (expression, zone, tzif) = (expression.to_owned(), name.to_owned(), tzif.to_vec());
                order.schedule = Schedule::Cron { expression, zone, tzif };
                (order.issued_at_ms, order.valid_until_ms) = (begin, begin + 366 * 24 * 60 * MINUTE);
                order.start_within_ms = 10 * MINUTE;
            });
            let times = scheduled.order().schedule.times().unwrap();
            let until_ms = scheduled.order().valid_until_ms;
            let expected: Vec<_> = times.after(begin).take_while(|instant| *instant <= until_ms).collect();
            let fates = two_years(scheduled, &mut random);
            assert_eq!(fates.keys().copied().collect::<Vec<_>>(), expected, "{name} {expression}");
            let count = |fate| fates.values().filter(|found| **found == fate).count();
            assert!(count(Fate::Ran) > 0 && count(Fate::Late) > 0 && count(Fate::Missed) > 0, "{name} {expression}");
        }
    }
}
