//! How a run stands on its hosts: on each of them by the last attempt that was made there.

use std::collections::BTreeMap;

use protocol::{
    name::HostName,
    outcome::State,
    scheduled::{End, Tally},
};

use crate::client::{error::Error, events::HostResult, fleet::Fleet, follow::Follower, jobs::Job, verdict::Course};

/// How a run stands on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stand {
    Succeeded,
    /// It has ended in another way, and is tried again.
    Failed,
    /// Somebody has cancelled it, or the next run.
    Cancelled,
    /// It came too late to start.
    NotBegun,
    /// It may still run: no end of it is known.
    Silent,
    /// Its result is not known to be its host's. It may have succeeded.
    Untrusted(String),
}

impl Stand {
    fn of(result: &HostResult) -> Self {
        if let Some(damage) = &result.damage {
            return Self::Untrusted(damage.to_string());
        }
        match result.state {
            State::Expired => Self::NotBegun,
            _ if !result.has_ended() => Self::Silent,
            State::Succeeded => Self::Succeeded,
            State::Cancelled => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}

/// How a run stands on all of its hosts.
#[derive(Debug)]
pub(super) struct Ends {
    hosts: BTreeMap<HostName, Stand>,
    /// Whether there is no record of some attempt: of hosts that it had, nothing is known.
    is_lost: bool,
    /// How it goes on.
    pub(super) course: Course,
}

impl Ends {
    /// Looks at the jobs of all attempts, the oldest first. `None`: there is no record of it that can be used.
    pub(super) async fn read(attempts: &[Option<Job>], fleet: &mut Fleet) -> Result<Self, Error> {
        let is_lost = attempts.iter().any(Option::is_none);
        let mut ends = Self { hosts: BTreeMap::new(), is_lost, course: Course::Over };
        for job in attempts.iter().flatten() {
            let mut follower = Follower::of_old(job);
            follower.only_look();
            follower.look(fleet).await?;
            ends.course = ends.course.max(follower.course(fleet.now()));
            ends.note(follower.results());
        }
        Ok(ends)
    }

    /// Notes what came of an attempt. One that never began changes nothing about the one before.
    fn note<'a>(&mut self, results: impl Iterator<Item = &'a HostResult>) {
        for result in results {
            match Stand::of(result) {
                // What it came to before counts.
                Stand::NotBegun => {
                    self.hosts.entry(result.host.clone()).or_insert(Stand::NotBegun);
                }
                stand => {
                    self.hosts.insert(result.host.clone(), stand);
                }
            }
        }
    }

    /// The hosts on which the run is tried again: where it has failed, and is known to have.
    pub(super) fn failed(&self) -> Vec<HostName> {
        self.of(|stand| *stand == Stand::Failed).cloned().collect()
    }

    /// Whether hosts may still be at work of which nothing is heard.
    pub(super) fn is_silent(&self) -> bool {
        self.of(|stand| *stand == Stand::Silent).next().is_some()
    }

    /// How the run has ended.
    pub(super) fn end(&self) -> End {
        match self.hosts.values().all(|stand| *stand == Stand::Succeeded) {
            false => End::Failed,
            true if self.is_lost => End::Unknown,
            true => End::Succeeded,
        }
    }

    /// How it counts: a host that was not there is no failure of what runs.
    pub(super) fn tally(&self) -> Tally {
        let begun: Vec<_> = self.hosts.values().filter(|stand| **stand != Stand::NotBegun).collect();
        match begun.iter().all(|stand| **stand == Stand::Succeeded) {
            _ if begun.is_empty() => Tally::Nothing,
            false => Tally::Failed,
            true if self.is_lost => Tally::Nothing,
            true => Tally::Succeeded,
        }
    }

    /// Why it has not succeeded, where the hosts' results do not say so.
    pub(super) fn reason(&self) -> Option<String> {
        let untrusted = self.hosts.iter().find_map(|(host, stand)| match stand {
            Stand::Untrusted(why) => Some(format!("{host}: {why}")),
            _ => None,
        });
        let silent = || {
            self.counted(&Stand::Silent).map(|(host, others)| match others {
                0 => format!("{host} has told no result, and none is awaited any more"),
                _ => format!("{host} and {others} more have told no results, and none are awaited any more"),
            })
        };
        let not_begun = || {
            self.counted(&Stand::NotBegun).map(|(host, others)| match others {
                0 => format!("{host} did not begin in time"),
                _ => format!("{host} and {others} more did not begin in time"),
            })
        };
        let lost = || self.is_lost.then(|| "an attempt before is gone from Redis".to_owned());
        untrusted.or_else(silent).or_else(not_begun).or_else(lost)
    }

    /// The first host that stands like this, and how many others do.
    fn counted(&self, like: &Stand) -> Option<(&HostName, usize)> {
        let mut hosts = self.of(|stand| stand == like);
        Some((hosts.next()?, hosts.count()))
    }

    fn of(&self, which: impl Fn(&Stand) -> bool) -> impl Iterator<Item = &HostName> {
        self.hosts.iter().filter(move |(_, stand)| which(stand)).map(|(host, _)| host)
    }
}

#[cfg(test)]
mod tests {
    use protocol::outcome::Outcome;

    use super::*;
    use crate::client::{error::WrongType, events::Damage};

    fn result(host: &str, state: State) -> HostResult {
        let outcome = state.is_terminal().then(|| Outcome::bare(state, None, 0));
        HostResult { state, outcome, ..HostResult::new(host.parse().unwrap()) }
    }

    fn ends(attempts: &[&[(&str, State)]]) -> Ends {
        let mut ends = Ends { hosts: BTreeMap::new(), is_lost: false, course: Course::Over };
        for attempt in attempts {
            let results: Vec<_> = attempt.iter().map(|(host, state)| result(host, *state)).collect();
            ends.note(results.iter());
        }
        ends
    }

    #[test]
    fn what_failed_is_tried_again_and_nothing_else() {
        let is_tried = |state| !ends(&[&[("web1", state)]]).failed().is_empty();
        assert!(is_tried(State::Failed) && is_tried(State::TimedOut));
        assert!(!is_tried(State::Succeeded) && !is_tried(State::Cancelled) && !is_tried(State::Expired));
        for state in [State::Queued, State::Running, State::Expired] {
            let open = HostResult { state, ..HostResult::new("web1".parse().unwrap()) };
            assert!(Stand::of(&open) != Stand::Failed, "{state} without an outcome");
        }
    }

    /// It may have succeeded, and what changes a host must not run twice.
    #[test]
    fn what_has_a_result_that_cannot_be_trusted_has_failed_and_is_not_tried_again() {
        let mut damaged = HostResult::new("web1".parse().unwrap());
        damaged.damage_with(Damage::from(WrongType("job:1:result:web1".into())));
        assert_eq!(damaged.state, State::Failed);
        let mut ends = ends(&[&[("web2", State::Succeeded)]]);
        ends.note([damaged].iter());
        assert_eq!((ends.failed(), ends.end(), ends.tally()), (Vec::new(), End::Failed, Tally::Failed));
        assert!(ends.reason().unwrap().starts_with("web1: "), "{:?}", ends.reason());
    }

    #[test]
    fn a_retry_that_succeeds_does_not_hide_other_hosts() {
        let first: &[_] = &[("web1", State::Failed), ("web2", State::Cancelled), ("web3", State::Succeeded)];
        assert_eq!(ends(&[first, &[("web1", State::Succeeded)]]).end(), End::Failed);
        let first: &[_] = &[("web1", State::Failed), ("web3", State::Succeeded)];
        let retried = ends(&[first, &[("web1", State::Succeeded)]]);
        assert_eq!((retried.end(), retried.tally()), (End::Succeeded, Tally::Succeeded));
        assert_eq!(ends(&[first, &[("web1", State::Failed)]]).failed().len(), 1);
        assert_eq!(ends(&[first, &[("web1", State::Expired)]]).tally(), Tally::Failed, "it failed at first");
    }

    #[test]
    fn a_host_that_never_began_is_no_failure_that_counts() {
        let away = ends(&[&[("web1", State::Succeeded), ("web2", State::Expired)]]);
        assert_eq!((away.end(), away.tally()), (End::Failed, Tally::Succeeded));
        assert_eq!(away.reason().as_deref(), Some("web2 did not begin in time"));
        assert_eq!(ends(&[&[("web1", State::Expired)]]).tally(), Tally::Nothing);
        assert_eq!(ends(&[&[("web1", State::Failed), ("web2", State::Expired)]]).tally(), Tally::Failed);
    }

    #[test]
    fn a_run_of_which_an_attempt_is_lost_has_not_succeeded() {
        let lost = |state| Ends { is_lost: true, ..ends(&[&[("web1", state)]]) };
        let ends = lost(State::Succeeded);
        assert_eq!((ends.end(), ends.tally()), (End::Unknown, Tally::Nothing));
        assert_eq!(ends.reason().as_deref(), Some("an attempt before is gone from Redis"));
        assert_eq!((lost(State::Failed).end(), lost(State::Failed).tally()), (End::Failed, Tally::Failed));
    }
}
