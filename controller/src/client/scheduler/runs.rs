//! Runs that have begun: they are sent, looked after until they end, tried again, and taken over from schedulers that died.

use std::time::{Duration, Instant as Clock};

use protocol::{
    clock::millis,
    limits,
    name::{HostName, JobId},
    scheduled::{End, Fate, Instant, Scheduled, Tally},
    targets::Targets,
    time::Millis,
};

use super::{
    Scheduler, Scheduling,
    ends::Ends,
    step::{Retry, begins, retry},
};
use crate::{
    client::{error::Error, fleet::Fleet, jobs::Job, verdict::Course},
    fault::{self, Bug, Point},
};

/// A claim of which nothing was heard for so long is taken over.
const TAKE_OVER: Duration = Duration::from_secs(15);

const PAUSED: &str = "the schedule was paused before it was sent";

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
        // Time has passed since it was claimed.
        let fate = match begins(scheduled.order(), instant_ms, &run, fleet.now()) {
            Ok(fate) => fate,
            Err(why) => return self.give_up(scheduled, instant_ms, &run, (Fate::Missed, why), fleet).await,
        };
        let claimed = Instant { becomes: Some(fate), ..run.clone() };
        if claimed != run {
            let is_ours = fleet.update_run(scheduled, instant_ms, &run, &claimed).await?;
            if !is_ours {
                return Ok(());
            }
        }
        let run = claimed;
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
                self.give_up(scheduled, instant_ms, &run, (Fate::NotSent, &reason), fleet).await?;
            }
            other => {
                let reason = other.map(|(_, reason)| reason);
                let ran = Instant { state: fate, becomes: None, reason, ..run.clone() };
                fleet.update_run(scheduled, instant_ms, &run, &ran).await?;
                if let Some(job) = run.job {
                    self.said.push(Scheduling::Sent { name, job, hosts, fate });
                }
            }
        }
        Ok(())
    }

    /// Ends a claimed run that is not sent.
    async fn give_up(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        claimed: &Instant,
        why: (Fate, &str),
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let ended = unsent(scheduled, instant_ms, claimed, why);
        let tally = if ended.state == Fate::Missed { Tally::Nothing } else { Tally::Failed };
        let mut pipeline = redis::pipe();
        pipeline.add_command(scheduled.end(fleet.keys(), instant_ms, claimed, &ended, tally));
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
                match scheduled.paused {
                    None => self.take_over(scheduled, instant_ms, run, fleet).await?,
                    Some(_) => self.leave(scheduled, instant_ms, run, fleet).await?,
                }
            }
            return Ok(Course::GoesOn);
        }
        let attempts = attempts(scheduled, instant_ms, &run, fleet).await?;
        // Without the last one, nothing can be learnt any more.
        let ends = if attempts.is_empty() { None } else { Some(Ends::read(&attempts, fleet).await?) };
        let course = ends.as_ref().map_or(Course::Over, |ends| ends.course);
        let is_heard = Clock::now() >= self.heartbeats_from || !ends.as_ref().is_some_and(Ends::is_silent);
        if course == Course::GoesOn || !is_heard {
            return Ok(Course::GoesOn);
        }
        // A host that is offline does not keep the others from trying again.
        let failed = ends.as_ref().map(Ends::failed).unwrap_or_default();
        let retry = match failed[..] {
            [] => Retry::Never,
            _ => retry(scheduled, instant_ms, &run, fleet.now()),
        };
        match retry {
            Retry::Never => {}
            Retry::Later => return Ok(Course::GoesOn),
            Retry::Pause => {
                let paused = Instant { failed_ms: Some(fleet.now()), ..run.clone() };
                fleet.update_run(scheduled, instant_ms, &run, &paused).await?;
                return Ok(Course::GoesOn);
            }
            Retry::Now => {
                self.retry(scheduled, instant_ms, run, failed, fleet).await?;
                return Ok(Course::GoesOn);
            }
        }
        if course == Course::Left {
            return Ok(course);
        }
        let (end, tally) = ends.as_ref().map_or((End::Unknown, Tally::Nothing), |ends| (ends.end(), ends.tally()));
        let reason = run.reason.clone().or_else(|| ends.as_ref().and_then(Ends::reason));
        let ended = Instant { failed_ms: None, end: Some(end), reason, ..run.clone() };
        let mut pipeline = redis::pipe();
        pipeline.add_command(scheduled.end(fleet.keys(), instant_ms, &run, &ended, tally));
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
        let job = job_of(scheduled, instant_ms, attempt);
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
        let is_ours = fleet.update_run(scheduled, instant_ms, &run, &claimed).await?;
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
        let is_ours = fleet.update_run(scheduled, instant_ms, &run, &claimed).await?;
        if !is_ours {
            return Ok(());
        }
        self.said.push(Scheduling::TakenOver { name: scheduled.name().clone(), instant_ms, from: run.by });
        if let Some(job) = recorded(claimed.job, fleet).await? {
            return self.send_again(scheduled, instant_ms, claimed, job, fleet).await;
        }
        let hosts = self.hosts_of(scheduled, instant_ms, claimed.attempt, fleet).await?;
        if hosts.is_empty() {
            return self.give_up(scheduled, instant_ms, &claimed, (Fate::NotSent, "no host is meant"), fleet).await;
        }
        self.send(scheduled, instant_ms, claimed, hosts, fleet).await
    }

    /// Sends nothing more of a run that was claimed before its schedule was paused. Hosts may have one that was recorded.
    async fn leave(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        run: Instant,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        match recorded(run.job, fleet).await? {
            Some(job) => self.settle(scheduled, instant_ms, run, Ok(()), job.targets().len(), fleet).await,
            None => self.give_up(scheduled, instant_ms, &run, (Fate::Missed, PAUSED), fleet).await,
        }
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
        if recorded(Some(job_of(scheduled, instant_ms, before)), fleet).await?.is_none() {
            return Ok(Vec::new());
        }
        let earlier = earlier(scheduled, instant_ms, attempt, fleet).await?;
        Ok(Ends::read(&earlier, fleet).await?.failed())
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

/// The jobs of all attempts of a run, the oldest first. None where there is no record of the last one.
async fn attempts(
    scheduled: &Scheduled,
    instant_ms: Millis,
    run: &Instant,
    fleet: &mut Fleet,
) -> Result<Vec<Job>, Error> {
    let Some(last) = recorded(run.job, fleet).await? else { return Ok(Vec::new()) };
    let mut jobs = earlier(scheduled, instant_ms, run.attempt, fleet).await?;
    jobs.push(last);
    Ok(jobs)
}

/// The jobs of the attempts before this one, as far as there are records of them, the oldest first.
async fn earlier(
    scheduled: &Scheduled,
    instant_ms: Millis,
    attempt: u32,
    fleet: &mut Fleet,
) -> Result<Vec<Job>, Error> {
    let mut jobs = Vec::new();
    let most = u32::try_from(limits::STANDING_RETRIES).unwrap_or(0);
    for attempt in 0..attempt.min(most) {
        jobs.extend(recorded(Some(job_of(scheduled, instant_ms, attempt)), fleet).await?);
    }
    Ok(jobs)
}

/// The job of an attempt. Its id does not depend on the hosts.
fn job_of(scheduled: &Scheduled, instant_ms: Millis, attempt: u32) -> JobId {
    scheduled.standing.run(instant_ms, attempt, Targets::new([]).root()).job
}

/// What becomes of a claimed run that cannot be sent. A retry changes nothing about that the run has run, and failed.
fn unsent(scheduled: &Scheduled, instant_ms: Millis, claimed: &Instant, (fate, reason): (Fate, &str)) -> Instant {
    let becomes = claimed.becomes.unwrap_or(Fate::Ran);
    let claimed = Instant { becomes: None, ..claimed.clone() };
    match claimed.attempt.checked_sub(1) {
        None => Instant { state: fate, reason: Some(reason.to_owned()), ..claimed },
        Some(attempt) => {
            let job = Some(job_of(scheduled, instant_ms, attempt));
            let reason = Some(format!("it could not be tried again: {reason}"));
            Instant { state: becomes, job, attempt, end: Some(End::Failed), reason, ..claimed }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::step::tests::order, *};

    #[test]
    fn a_retry_that_cannot_be_sent_leaves_a_run_that_failed() {
        let scheduled = order(|_| ());
        let job = |attempt| job_of(&scheduled, 60_000, attempt);
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
        let ended = unsent(&scheduled, 60_000, &claimed(0), (Fate::NotSent, "Redis is full"));
        assert_eq!((ended.state, ended.becomes, ended.end), (Fate::NotSent, None, None));
        assert_eq!(ended.reason.as_deref(), Some("Redis is full"));
        let ended = unsent(&scheduled, 60_000, &claimed(2), (Fate::NotSent, "Redis is full"));
        assert_eq!((ended.state, ended.becomes, ended.end), (Fate::Late, None, Some(End::Failed)));
        assert_eq!((ended.attempt, ended.job), (1, Some(job(1))), "the last one that ran");
        assert_eq!(ended.reason.as_deref(), Some("it could not be tried again: Redis is full"));
    }
}
