//! Runs that have begun: they are looked after until they end, tried again, and taken over from schedulers that died.

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
    step::{Retry, retry},
};
use crate::{
    client::{error::Error, fleet::Fleet, jobs::Job, verdict::Course},
    fault::{self, Bug},
};

/// A claim of which nothing was heard for so long is taken over.
const TAKE_OVER: Duration = Duration::from_secs(15);

const PAUSED: &str = "the schedule was paused before it was sent";

impl Scheduler {
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
                    Some(_) => self.give_up(scheduled, instant_ms, &run, (Fate::Missed, PAUSED), fleet).await?,
                }
            }
            return Ok(Course::GoesOn);
        }
        // Without the last attempt, nothing can be learnt any more.
        let ends = match recorded(run.job, fleet).await? {
            Some(last) => {
                let mut attempts = earlier(scheduled, instant_ms, run.attempt, fleet).await?;
                attempts.push(Some(last));
                Some(Ends::read(&attempts, fleet).await?)
            }
            None => None,
        };
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
pub(super) async fn recorded(job: Option<JobId>, fleet: &mut Fleet) -> Result<Option<Job>, Error> {
    let Some(job) = job else { return Ok(None) };
    match fleet.job_if_any(job).await {
        Err(error) if error.is_of_record() => Ok(None),
        found => found,
    }
}

/// The jobs of the attempts before this one, the oldest first: `None` for each of which there is no record that can be used.
async fn earlier(
    scheduled: &Scheduled,
    instant_ms: Millis,
    attempt: u32,
    fleet: &mut Fleet,
) -> Result<Vec<Option<Job>>, Error> {
    let mut jobs = Vec::new();
    let most = u32::try_from(limits::STANDING_RETRIES).unwrap_or(0);
    for attempt in 0..attempt.min(most) {
        jobs.push(recorded(Some(job_of(scheduled, instant_ms, attempt)), fleet).await?);
    }
    Ok(jobs)
}

/// The job of an attempt. Its id does not depend on the hosts.
pub(super) fn job_of(scheduled: &Scheduled, instant_ms: Millis, attempt: u32) -> JobId {
    scheduled.standing.run(instant_ms, attempt, Targets::new([]).root()).job
}
