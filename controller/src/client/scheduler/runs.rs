//! Runs that have begun: they are sent, looked after until they end, tried again, and taken over from schedulers that died.

use std::time::{Duration, Instant as Clock};

use protocol::{
    clock::millis,
    name::{HostName, JobId},
    outcome::State,
    scheduled::{End, Fate, Instant, Scheduled},
    targets::Targets,
    time::Millis,
};

use super::{
    Scheduler, Scheduling,
    step::{Retry, retry},
};
use crate::{
    client::{error::Error, events::HostResult, fleet::Fleet, follow::Follower, jobs::Job, verdict::Course},
    fault::{self, Bug, Point},
};

/// A claim of which nothing was heard for so long is taken over.
const TAKE_OVER: Duration = Duration::from_secs(15);

impl Scheduler {
    /// Sends a run that this scheduler has claimed, and says so.
    pub(super) async fn send(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        run: Instant,
        hosts: Vec<HostName>,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        // This process may have been frozen since it claimed the run, and another one may have sent it, to other hosts.
        if let Some(job) = recorded(run.job, fleet).await? {
            return self.send_again(scheduled, instant_ms, run, job, fleet).await;
        }
        if fleet.open_run(scheduled.name(), instant_ms).await?.as_ref() != Some(&run) {
            return Ok(());
        }
        let count = hosts.len();
        let sent = fleet.send_run(&scheduled.standing, instant_ms, run.attempt, hosts).await;
        fault::point(Point::Sent);
        self.settle(scheduled, instant_ms, run, sent, count, fleet).await
    }

    /// Sends a claimed run that was recorded, so that hosts may have it: the same goes to all of them once more. Those that
    /// have it know it.
    async fn send_again(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        claimed: Instant,
        job: Job,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let (hosts, in_time) = (job.targets().len(), fleet.now() <= job.manifest().start_by_ms);
        let sent = if in_time { fleet.send_out(job, |_| ()).await.map(drop) } else { Ok(()) };
        self.settle(scheduled, instant_ms, claimed, sent, hosts, fleet).await
    }

    /// Records whether a claimed run was sent.
    async fn settle(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        run: Instant,
        sent: Result<(), Error>,
        hosts: usize,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let name = scheduled.name().clone();
        let fate = run.becomes.unwrap_or(Fate::Ran);
        let failure = match sent {
            Ok(()) => None,
            // Some hosts may have it.
            Err(Error::Dispatch { asked, unclear, recorded, source, .. }) if asked > 0 || unclear || recorded => {
                Some((false, source.to_string()))
            }
            Err(error) => Some((true, error.to_string())),
        };
        match failure {
            Some((true, reason)) => {
                self.give_up(scheduled, instant_ms, &run, &reason, fleet).await?;
            }
            other => {
                let reason = other.map(|(_, reason)| reason);
                let ran = Instant { state: fate, becomes: None, reason, ..run.clone() };
                let mut pipeline = redis::pipe();
                pipeline.add_command(scheduled.update(fleet.keys(), instant_ms, &run, &ran));
                fleet.query::<(i64,)>(&pipeline).await?;
                if let Some(job) = run.job {
                    self.said.push(Scheduling::Sent { name, job, hosts, fate });
                }
            }
        }
        Ok(())
    }

    /// Ends a claimed run that cannot be sent.
    async fn give_up(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        claimed: &Instant,
        reason: &str,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let ended = unsent(scheduled, instant_ms, claimed, reason);
        let mut pipeline = redis::pipe();
        pipeline.add_command(scheduled.end(fleet.keys(), instant_ms, claimed, &ended));
        let (reply,): (i64,) = fleet.query(&pipeline).await?;
        if reply > 0 {
            let (name, Instant { state, job, end, reason, .. }, paused) = (scheduled.name().clone(), ended, reply == 2);
            self.said.push(Scheduling::Left { name: name.clone(), instant_ms, fate: state, reason });
            if paused || end.is_some() {
                self.said.push(Scheduling::Ended { name, job: end.and(job), end: end.unwrap_or(End::Failed), paused });
            }
        }
        Ok(())
    }

    /// Looks after a run whose end is not known. Returns how it goes on.
    pub(super) async fn attend(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        run: Instant,
        fleet: &mut Fleet,
    ) -> Result<Course, Error> {
        let now = fleet.now();
        if run.state == Fate::Claimed {
            if now >= run.at_ms.saturating_add(millis(TAKE_OVER)) && !fault::planted(Bug::NoTakeOver) {
                self.take_over(scheduled, instant_ms, run, fleet).await?;
            }
            return Ok(Course::GoesOn);
        }
        let (end, failed, silent) = match recorded(run.job, fleet).await? {
            // Nothing can be learnt of it any more.
            None => (End::Unknown, Vec::new(), Vec::new()),
            Some(job) => {
                let mut follower = Follower::of_old(&job);
                follower.only_look();
                follower.look(fleet).await?;
                let is_silent = |result: &HostResult| !result.has_ended() && result.state != State::Expired;
                let course = follower.course(fleet.now());
                let is_heard = Clock::now() >= self.heartbeats_from || !follower.results().any(is_silent);
                if course != Course::Over || !is_heard {
                    return Ok(if is_heard { course } else { Course::GoesOn });
                }
                let good = follower.results().all(|result| result.state == State::Succeeded);
                let hosts_where = |which: &dyn Fn(&HostResult) -> bool| -> Vec<HostName> {
                    follower.results().filter(|result| which(result)).map(|result| result.host.clone()).collect()
                };
                let (failed, silent) = (hosts_where(&is_tried_again), hosts_where(&is_silent));
                (if good { End::Succeeded } else { End::Failed }, failed, silent)
            }
        };
        let retry = match failed[..] {
            [] => Retry::Never,
            _ => retry(scheduled.order(), instant_ms, &run, fleet.now()),
        };
        match retry {
            Retry::Never => {}
            Retry::Later => return Ok(Course::GoesOn),
            Retry::Pause => {
                let paused = Instant { failed_ms: Some(fleet.now()), ..run.clone() };
                let mut pipeline = redis::pipe();
                pipeline.add_command(scheduled.update(fleet.keys(), instant_ms, &run, &paused));
                fleet.query::<(i64,)>(&pipeline).await?;
                return Ok(Course::GoesOn);
            }
            Retry::Now => {
                self.retry(scheduled, instant_ms, run, failed, fleet).await?;
                return Ok(Course::GoesOn);
            }
        }
        let reason = run.reason.clone().or_else(|| unheard(&silent));
        let ended = Instant { failed_ms: None, end: Some(end), reason, ..run.clone() };
        let mut pipeline = redis::pipe();
        pipeline.add_command(scheduled.end(fleet.keys(), instant_ms, &run, &ended));
        let (reply,): (i64,) = fleet.query(&pipeline).await?;
        if reply > 0 {
            let (name, paused) = (scheduled.name().clone(), reply == 2);
            self.said.push(Scheduling::Ended { name, job: run.job, end, paused });
        }
        Ok(Course::Over)
    }

    /// Tries a run again on the hosts where it has failed.
    async fn retry(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        run: Instant,
        hosts: Vec<HostName>,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let attempt = run.attempt + 1;
        let job = scheduled.standing.run(instant_ms, attempt, Targets::new(hosts.iter().cloned()).root()).job;
        let claimed = Instant {
            state: Fate::Claimed,
            becomes: Some(run.state),
            job: Some(job),
            attempt,
            by: self.name.clone(),
            at_ms: fleet.now(),
            failed_ms: None,
            ..run.clone()
        };
        let mut pipeline = redis::pipe();
        pipeline.add_command(scheduled.update(fleet.keys(), instant_ms, &run, &claimed));
        let (is_ours,): (bool,) = fleet.query(&pipeline).await?;
        if is_ours { self.send(scheduled, instant_ms, claimed, hosts, fleet).await } else { Ok(()) }
    }

    /// Goes on with a run that another scheduler has claimed and not sent, or has sent and not said so.
    async fn take_over(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        run: Instant,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let claimed = Instant { by: self.name.clone(), at_ms: fleet.now(), ..run.clone() };
        let mut pipeline = redis::pipe();
        pipeline.add_command(scheduled.update(fleet.keys(), instant_ms, &run, &claimed));
        let (is_ours,): (bool,) = fleet.query(&pipeline).await?;
        if !is_ours {
            return Ok(());
        }
        self.said.push(Scheduling::TakenOver { name: scheduled.name().clone(), instant_ms, from: run.by });
        if let Some(job) = recorded(claimed.job, fleet).await? {
            return self.send_again(scheduled, instant_ms, claimed, job, fleet).await;
        }
        let hosts = self.hosts_of(scheduled, instant_ms, claimed.attempt, fleet).await?;
        let start_by_ms = instant_ms.saturating_add(scheduled.order().start_within_ms);
        if fleet.now() > start_by_ms || hosts.is_empty() {
            let reason = if hosts.is_empty() { "no host is meant" } else { "the scheduler that claimed it has ended" };
            return self.give_up(scheduled, instant_ms, &claimed, reason, fleet).await;
        }
        self.send(scheduled, instant_ms, claimed, hosts, fleet).await
    }

    /// The hosts of an attempt that was not sent.
    async fn hosts_of(
        &self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        attempt: u32,
        fleet: &mut Fleet,
    ) -> Result<Vec<HostName>, Error> {
        let Some(before) = attempt.checked_sub(1) else {
            return fleet.selected_hosts(&scheduled.order().selector).await;
        };
        // The id does not depend on the hosts.
        let prior = scheduled.standing.run(instant_ms, before, Targets::new([]).root()).job;
        let Some(job) = recorded(Some(prior), fleet).await? else { return Ok(Vec::new()) };
        let mut follower = Follower::of_old(&job);
        follower.only_look();
        follower.look(fleet).await?;
        let failed = follower.results().filter(|result| is_tried_again(result));
        Ok(failed.map(|result| result.host.clone()).collect())
    }
}

/// A job, where there is a record of it that can be used. One that is damaged must not hold up its schedule.
async fn recorded(job: Option<JobId>, fleet: &mut Fleet) -> Result<Option<Job>, Error> {
    let Some(job) = job else { return Ok(None) };
    match fleet.job_if_any(job).await {
        Err(error) if error.is_of_record() => Ok(None),
        found => found,
    }
}

/// Whether a run that ended like this is tried again there. Not what was cancelled, by somebody or by the next run; nor what
/// came too late to start; nor what may still run.
fn is_tried_again(result: &HostResult) -> bool {
    result.has_ended() && !matches!(result.state, State::Succeeded | State::Cancelled | State::Expired)
}

/// That hosts have begun, and are not heard of any more.
fn unheard(hosts: &[HostName]) -> Option<String> {
    match hosts {
        [] => None,
        [host] => Some(format!("{host} has told no result, and none is awaited any more")),
        [host, others @ ..] => {
            Some(format!("{host} and {} more have told no results, and none are awaited any more", others.len()))
        }
    }
}

/// What becomes of a claimed run that cannot be sent. A retry changes nothing about that the run has run, and failed.
fn unsent(scheduled: &Scheduled, instant_ms: Millis, claimed: &Instant, reason: &str) -> Instant {
    let becomes = claimed.becomes.unwrap_or(Fate::Ran);
    let claimed = Instant { becomes: None, ..claimed.clone() };
    match claimed.attempt.checked_sub(1) {
        None => Instant { state: Fate::NotSent, reason: Some(reason.to_owned()), ..claimed },
        Some(attempt) => {
            // The id does not depend on the hosts.
            let job = Some(scheduled.standing.run(instant_ms, attempt, Targets::new([]).root()).job);
            let reason = Some(format!("it could not be tried again: {reason}"));
            Instant { state: becomes, job, attempt, end: Some(End::Failed), reason, ..claimed }
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::outcome::Outcome;

    use super::{super::step::tests::order, *};

    #[test]
    fn what_failed_is_tried_again_and_nothing_else() {
        let ended = |state| {
            let outcome = Some(Outcome::bare(state, None, 0));
            is_tried_again(&HostResult { state, outcome, ..HostResult::new("web1".parse().unwrap()) })
        };
        assert!(ended(State::Failed) && ended(State::TimedOut));
        assert!(!ended(State::Succeeded) && !ended(State::Cancelled) && !ended(State::Expired));
        for state in [State::Queued, State::Running, State::Expired] {
            let open = HostResult { state, ..HostResult::new("web1".parse().unwrap()) };
            assert!(!is_tried_again(&open), "{state} without an outcome");
        }
    }

    #[test]
    fn a_retry_that_cannot_be_sent_leaves_a_run_that_failed() {
        let scheduled = order(|_| ());
        let job = |attempt| scheduled.standing.run(60_000, attempt, Targets::new([]).root()).job;
        let claimed = |attempt| Instant {
            state: Fate::Claimed,
            becomes: Some(Fate::Late),
            job: Some(job(attempt)),
            attempt,
            by: "one".into(),
            at_ms: 60_000,
            failed_ms: None,
            end: None,
            reason: None,
        };
        let ended = unsent(&scheduled, 60_000, &claimed(0), "Redis is full");
        assert_eq!((ended.state, ended.becomes, ended.end), (Fate::NotSent, None, None));
        assert_eq!(ended.reason.as_deref(), Some("Redis is full"));
        let ended = unsent(&scheduled, 60_000, &claimed(2), "Redis is full");
        assert_eq!((ended.state, ended.becomes, ended.end), (Fate::Late, None, Some(End::Failed)));
        assert_eq!((ended.attempt, ended.job), (1, Some(job(1))), "the last one that ran");
        assert_eq!(ended.reason.as_deref(), Some("it could not be tried again: Redis is full"));
    }
}
