//! What is to be done about a schedule now: it knows neither Redis nor hosts, so that all courses can be tried.

use std::time::Duration;

use protocol::{
    clock::millis,
    limits,
    scheduled::{Fate, Instant, Scheduled},
    standing::{Overlap, StandingOrder, schedule::Times},
    time::Millis,
};
use sha2::{Digest, Sha256};

use crate::fault::{self, Bug};

/// A run that was sent this much later than it was due is late.
const LATE: Duration = Duration::from_secs(5);

/// The first pause before a run is tried again; it doubles each time.
const BACKOFF: Duration = Duration::from_secs(5);

/// Instants that are accounted for at once.
const BATCH: usize = 500;

/// Between two looks at runs that have not ended.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// What is to be done about a schedule now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing until this moment.
    Wait(Option<Millis>),
    /// Account for the instants up to this one: those of the list do not run; the last one begins where there is a fate.
    Account { until_ms: Millis, begins: Option<Fate>, others: Vec<(Millis, Fate, &'static str)> },
}

/// Runs that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    /// All of them.
    pub(super) all: usize,
    /// Those that the next one must wait for: on some host that is online, or has begun.
    pub(super) at_work: usize,
}

/// What is to be done about a run that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// It is not tried again.
    Never,
    /// It is to be recorded that it was seen now: from then on the pause counts.
    Pause,
    /// It is tried again later.
    Later,
    /// It is tried again now.
    Now,
}

/// Whether a run that has failed is tried again now. Not while its schedule is paused, nor where it would end a newer one, nor
/// where a retry could not be sent.
pub(super) fn retry(scheduled: &Scheduled, instant_ms: Millis, run: &Instant, now: Millis) -> Retry {
    let order = scheduled.order();
    let is_over = order.conduct.overlap == Overlap::Cancel && scheduled.accounted_ms > instant_ms;
    let most = order.conduct.retries.min(u32::try_from(limits::STANDING_RETRIES).unwrap_or(0));
    let pause = millis(BACKOFF).saturating_mul(1 << run.attempt.min(10));
    let at_ms = run.failed_ms.unwrap_or(now).saturating_add(pause);
    let start_by_ms = instant_ms.saturating_add(order.start_within_ms);
    match run.failed_ms {
        _ if is_over || run.given_up || scheduled.paused.is_some() => Retry::Never,
        _ if run.attempt >= most || now.max(at_ms) >= start_by_ms => Retry::Never,
        None => Retry::Pause,
        Some(_) if now < at_ms => Retry::Later,
        Some(_) => Retry::Now,
    }
}

/// How long behind its instant a run is due: the same for all schedulers.
fn jitter(order: &StandingOrder, instant_ms: Millis) -> Millis {
    let most = order.conduct.jitter_ms;
    if most == 0 {
        return 0;
    }
    let hash = Sha256::new().chain_update(order.salt.as_slice()).chain_update(instant_ms.to_be_bytes()).finalize();
    let number = hash.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    number % (most + 1)
}

/// As what a run that was claimed begins now, or why it does not any more. A retry is no other run, however late it is.
pub(super) fn begins(
    order: &StandingOrder,
    instant_ms: Millis,
    run: &Instant,
    now: Millis,
) -> Result<Fate, &'static str> {
    match run.becomes {
        _ if run.attempt == 0 => first(order, instant_ms, now),
        _ if !may_start(order, instant_ms, now) => Err(MISSED),
        fate => Ok(fate.unwrap_or(Fate::Ran)),
    }
}

/// As what the run of an instant begins at `now`, or why it does not.
fn first(order: &StandingOrder, instant_ms: Millis, now: Millis) -> Result<Fate, &'static str> {
    match is_late(order, instant_ms, now) {
        _ if !may_start(order, instant_ms, now) => Err(MISSED),
        true if !order.conduct.late => Err(NOT_LATE),
        true => Ok(Fate::Late),
        false => Ok(Fate::Ran),
    }
}

/// Whether a run that is sent now is late.
pub(super) fn is_late(order: &StandingOrder, instant_ms: Millis, now: Millis) -> bool {
    let due_ms = instant_ms.saturating_add(jitter(order, instant_ms));
    now.saturating_sub(due_ms) > millis(LATE)
}

fn may_start(order: &StandingOrder, instant_ms: Millis, now: Millis) -> bool {
    now <= instant_ms.saturating_add(order.start_within_ms) || fault::planted(Bug::NoGrace)
}

/// What is to be done about a schedule of which these runs are open.
pub(super) fn step(scheduled: &Scheduled, times: &Times, open: Open, now: Millis) -> Step {
    let order = scheduled.order();
    let due_ms = |instant: &Millis| instant.saturating_add(jitter(order, *instant));
    let from_ms = scheduled.accounted_ms.max(order.issued_at_ms.saturating_sub(1));
    let mut ahead = times.after(from_ms).take_while(|instant| *instant <= order.valid_until_ms).peekable();
    let mut due = Vec::new();
    while let Some(instant) = ahead.next_if(|instant| due_ms(instant) <= now) {
        due.push(instant);
        if due.len() > BATCH {
            break;
        }
    }
    let Some(last) = due.pop() else { return Step::Wait(ahead.peek().map(due_ms)) };
    // Of several that are due one runs, the newest.
    let is_full = open.all >= limits::OPEN_RUNS;
    let waits = open.at_work > 0 && order.conduct.overlap == Overlap::Queue;
    let passed = if waits { (Fate::Overlap, OVERLAP) } else { (Fate::Missed, COLLAPSED) };
    let mut others: Vec<_> = due.iter().map(|instant| (*instant, passed.0, passed.1)).collect();
    if others.len() >= BATCH {
        let until_ms = due.last().copied().unwrap_or(last);
        return Step::Account { until_ms, begins: None, others };
    }
    let overlaps = match order.conduct.overlap {
        Overlap::Skip | Overlap::Queue => open.at_work > 0 || is_full,
        Overlap::Allow | Overlap::Cancel => is_full,
    };
    let fate = match order.conduct.overlap {
        Overlap::Queue if overlaps && may_start(order, last, now) => {
            // It waits. Those before it do not.
            return match due.last() {
                Some(until_ms) => Step::Account { until_ms: *until_ms, begins: None, others },
                None => Step::Wait(Some(now.saturating_add(millis(LOOK)))),
            };
        }
        _ if overlaps => Err((Fate::Overlap, OVERLAP)),
        _ => first(order, last, now).map_err(|why| (Fate::Missed, why)),
    };
    let begins = match fate {
        Ok(fate) => Some(fate),
        Err((fate, why)) => {
            others.push((last, fate, why));
            None
        }
    };
    Step::Account { until_ms: last, begins, others }
}

const OVERLAP: &str = "the prior run had not ended";
const COLLAPSED: &str = "a later run stands for it";
const MISSED: &str = "no scheduler was there in time";
const NOT_LATE: &str = "it may change the hosts, and must not run late (--late)";

#[cfg(test)]
pub(super) mod tests;
