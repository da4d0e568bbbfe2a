//! What each time must have come to, and whether it has.

use std::collections::BTreeMap;

use protocol::{
    name::JobId,
    time::{Millis, read_moment, show_moment},
};
use serde_json::Value;

use super::fleet::{Fleet, HOSTS};

/// The grace of all schedules.
const GRACE_MS: Millis = 600_000;

/// A run that is sent so much later than it was due is late.
const LATE_MS: Millis = 5_000;

const RAN: &str = "ran";
const LATE: &str = "late";
const MISSED: &str = "missed: grace";

/// The states of which a time must be in one.
pub(super) type Allowed = Vec<&'static str>;

/// What the newest time of a schedule comes to, if the clock jumps to so long behind it, and all is settled so long behind it.
/// `late`: its runs may be sent late. One of another schedule is late as well where its scheduler was frozen while it sent it.
pub(super) fn after(jump_ms: Millis, settled_ms: Millis, late: bool) -> Allowed {
    let (ends_ms, is_in_time) = (if late { GRACE_MS } else { LATE_MS }, jump_ms <= LATE_MS);
    let mut allowed = Vec::new();
    if is_in_time {
        allowed.push(RAN);
    }
    if settled_ms > LATE_MS && jump_ms <= ends_ms {
        allowed.push(LATE);
    }
    if settled_ms > ends_ms {
        allowed.push(MISSED);
    }
    allowed
}

/// What a time comes to over which the clock jumps, if a later one of its schedule is due then, too.
pub(super) fn passed() -> Allowed {
    vec![MISSED]
}

/// What a time comes to of which it is not known whether the clock has jumped over it.
pub(super) fn open() -> Allowed {
    vec![RAN, LATE, MISSED]
}

/// The times of a schedule that have come.
pub(super) type Expected = BTreeMap<Millis, Allowed>;

/// Compares what `ctl` reports of the times until a moment, and what has run on the hosts, with what is expected. `counts`: how
/// many times came to each state. Returns what is wrong. What comes behind that moment may be under way, and is judged later.
pub(super) fn judge(
    fleet: &Fleet,
    expected: &BTreeMap<String, Expected>,
    until: Millis,
    counts: &mut BTreeMap<String, usize>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut jobs: BTreeMap<String, String> = BTreeMap::new();
    counts.clear();
    for (name, expected) in expected {
        let mut told: BTreeMap<Millis, Value> = BTreeMap::new();
        for instant in fleet.history(name) {
            let at = read_moment(instant["at"].as_str().unwrap_or_default()).unwrap_or(0);
            if at > until {
                continue;
            }
            if told.insert(at, instant).is_some() {
                wrong.push(format!("{name}: {} is told twice", show_moment(at)));
            }
        }
        for at in told.keys().filter(|at| !expected.contains_key(at)) {
            wrong.push(format!("{name}: {} was never due: {}", show_moment(*at), told[at]));
        }
        for (at, allowed) in expected {
            let moment = show_moment(*at);
            let Some(instant) = told.get(at) else {
                wrong.push(format!("{name}: {moment} is not accounted for"));
                continue;
            };
            let state = instant["state"].as_str().unwrap_or_default();
            *counts.entry(state.to_owned()).or_default() += 1;
            if !allowed.contains(&state) {
                wrong.push(format!("{name}: {moment} should be one of {allowed:?}: {instant}"));
            }
            if [RAN, LATE].contains(&state) {
                if instant["end"] != "succeeded" {
                    wrong.push(format!("{name}: {moment} did not succeed: {instant}"));
                }
                let job = instant["job"].as_str().unwrap_or_default().to_owned();
                if let Some(other) = jobs.insert(job.clone(), format!("{name} at {moment}")) {
                    wrong.push(format!("{name}: {moment} has the job of {other}: {job}"));
                }
            }
        }
    }
    for host in HOSTS {
        let mut ran = fleet.evidence(host);
        // A run is issued at its instant.
        ran.retain(|job, _| job.parse::<JobId>().map_or(0, |job| job.issued_at_ms()) <= until);
        wrong.extend(ran.iter().filter(|(_, count)| **count > 1).map(|(job, count)| {
            let what = jobs.get(job).map_or("a job that nobody knows", String::as_str);
            format!("{host}: {what} ran {count} times: {job}")
        }));
        let unknown = ran.keys().filter(|job| !jobs.contains_key(*job));
        wrong.extend(unknown.map(|job| format!("{host}: {job} ran, of which no history knows")));
        let missing = jobs.iter().filter(|(job, _)| !ran.contains_key(*job));
        wrong.extend(missing.map(|(job, what)| format!("{host}: {what} left no evidence: {job}")));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_time_comes_to_follows_from_the_jump() {
        let late = |jump, settled| after(jump, settled, true);
        assert_eq!(late(0, 1000), [RAN]);
        assert_eq!(late(0, 20_000), [RAN, LATE]);
        assert_eq!(late(60_000, 80_000), [LATE]);
        assert_eq!(late(590_000, 601_000), [LATE, MISSED]);
        assert_eq!(late(600_001, 601_000), [MISSED]);
        let in_time = |jump, settled| after(jump, settled, false);
        assert_eq!(in_time(0, 1000), [RAN]);
        assert_eq!(in_time(0, 20_000), [RAN, LATE, MISSED]);
        assert_eq!(in_time(60_000, 80_000), [MISSED]);
    }
}
