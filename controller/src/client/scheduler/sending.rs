//! A claimed run is sent, or given up. Its job's record decides which: of those who would record it and those who would withdraw
//! it, Redis lets one have its way, however long any of them was frozen.

use protocol::{
    job::Creation,
    name::HostName,
    scheduled::{End, Fate, Instant, Scheduled, Tally},
    time::Millis,
};

use super::{
    Scheduler, Scheduling,
    runs::{job_of, recorded},
    step::{begins, is_late},
};
use crate::{
    client::{error::Error, fleet::Fleet, jobs::Job},
    fault::{self, Bug, Point},
};

/// Nobody sends such a run.
const DAMAGED: &str = "the record of its job cannot be read";

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
        // This process may have been frozen since it claimed the run, and another one may go on with it.
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
        let mut run = claimed;
        fault::point(Point::Judged);

        let job = match fleet.record_run(&scheduled.standing, instant_ms, run.attempt, hosts).await {
            Ok(Ok(job)) => job,
            Ok(Err(Creation::Withdrawn)) => {
                let why = fleet.withdrawn_run(&scheduled.standing, instant_ms, run.attempt).await?;
                return self.close(scheduled, instant_ms, &run, (why.0, &why.1), fleet).await;
            }
            // It is another scheduler's, to whatever hosts, or this one's, where the reply was lost.
            Ok(Err(_)) => match recorded(run.job, fleet).await? {
                Some(job) => return self.send_again(scheduled, instant_ms, run, job, fleet).await,
                None => return self.close(scheduled, instant_ms, &run, (Fate::NotSent, DAMAGED), fleet).await,
            },
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                return self.give_up(scheduled, instant_ms, &run, (Fate::NotSent, &error.to_string()), fleet).await;
            }
        };
        fault::point(Point::Recorded);
        // This process may have been frozen again: what is sent late is called late.
        let read = run.clone();
        if run.attempt == 0 && is_late(scheduled.order(), instant_ms, fleet.now()) {
            run.becomes = Some(Fate::Late);
        }

        let count = job.targets().len();
        let sent = fleet.send_out(job, |_| ()).await.map(drop);
        fault::point(Point::Sent);
        self.settle(scheduled, instant_ms, (read, run), sent, count, fleet).await
    }

    /// Sends a claimed run that was recorded, so that hosts may have it: the same goes to all of them once more. Those that
    /// have it know it.
    pub(super) async fn send_again(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        claimed: Instant,
        job: Job,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let (hosts, in_time) = (job.targets().len(), fleet.now() <= job.manifest().start_by_ms);
        let sent = if in_time { fleet.send_out(job, |_| ()).await.map(drop) } else { Ok(()) };
        self.settle(scheduled, instant_ms, (claimed.clone(), claimed), sent, hosts, fleet).await
    }

    /// Records that a claimed run was sent. `run`: its record as it was read, and as it has become. Where that failed, some
    /// hosts may have it all the same.
    async fn settle(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        (read, run): (Instant, Instant),
        sent: Result<(), Error>,
        hosts: usize,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let reason = sent.err().map(|error| match error {
            Error::Dispatch { source, .. } => source.to_string(),
            other => other.to_string(),
        });
        let fate = run.becomes.unwrap_or(Fate::Ran);
        let ran = Instant { state: fate, becomes: None, reason, ..run };
        let is_ours = fleet.update_run(scheduled, instant_ms, &read, &ran).await?;
        if let (true, Some(job)) = (is_ours, ran.job) {
            self.said.push(Scheduling::Sent { name: scheduled.name().clone(), job, hosts, fate });
        }
        Ok(())
    }

    /// Sends a claimed run no more, unless it was recorded meanwhile: then hosts may have it.
    pub(super) async fn give_up(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        claimed: &Instant,
        why: (Fate, &str),
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let withdrawn = if fault::planted(Bug::NoFence) {
            Ok(Creation::Done)
        } else {
            fleet.withdraw_run(&scheduled.standing, instant_ms, claimed.attempt, why).await
        };
        fault::point(Point::Withdrawn);
        let why = match withdrawn {
            Ok(Creation::Withdrawn) => fleet.withdrawn_run(&scheduled.standing, instant_ms, claimed.attempt).await?,
            Ok(Creation::Recorded) => match recorded(claimed.job, fleet).await? {
                Some(job) => {
                    let (hosts, run) = (job.targets().len(), (claimed.clone(), claimed.clone()));
                    return self.settle(scheduled, instant_ms, run, Ok(()), hosts, fleet).await;
                }
                None => (Fate::NotSent, DAMAGED.to_owned()),
            },
            // What cannot be withdrawn, as the key is of another kind or not this user's, cannot be recorded either.
            Err(error) if !error.is_wrong_type() && !error.is_forbidden() => return Err(error),
            Ok(Creation::Done) | Err(_) => (why.0, why.1.to_owned()),
        };
        self.close(scheduled, instant_ms, claimed, (why.0, &why.1), fleet).await
    }

    /// Records that a claimed run is not sent. Of a retry, that it is the last one: how the run has ended depends on the
    /// attempts before it.
    async fn close(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        claimed: &Instant,
        why: (Fate, &str),
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let name = scheduled.name().clone();
        let closed = unsent(scheduled, instant_ms, claimed, why);
        if claimed.attempt > 0 {
            let is_ours = fleet.update_run(scheduled, instant_ms, claimed, &closed).await?;
            if let (true, Some(reason)) = (is_ours, closed.reason) {
                self.said.push(Scheduling::GivenUp { name, instant_ms, reason });
            }
            return Ok(());
        }

        let tally = if closed.state == Fate::Missed { Tally::Nothing } else { Tally::Failed };
        let mut pipeline = redis::pipe();
        pipeline.add_command(scheduled.end(fleet.keys(), instant_ms, claimed, &closed, tally));
        let (reply,): (i64,) = fleet.query(&pipeline).await?;
        if reply > 0 {
            self.said.push(Scheduling::Left {
                name: name.clone(),
                instant_ms,
                fate: closed.state,
                reason: closed.reason,
            });
        }
        if reply == 2 {
            self.said.push(Scheduling::Ended { name, job: None, end: End::Failed, paused: true });
        }
        Ok(())
    }
}

/// What becomes of a claimed run that is not sent. A retry changes nothing about that the run has run, and failed.
fn unsent(scheduled: &Scheduled, instant_ms: Millis, claimed: &Instant, (fate, reason): (Fate, &str)) -> Instant {
    let becomes = claimed.becomes.unwrap_or(Fate::Ran);
    let claimed = Instant { becomes: None, ..claimed.clone() };
    match claimed.attempt.checked_sub(1) {
        None => Instant { state: fate, job: None, reason: Some(reason.to_owned()), ..claimed },
        Some(attempt) => {
            let job = Some(job_of(scheduled, instant_ms, attempt));
            let reason = Some(format!("it could not be tried again: {reason}"));
            Instant { state: becomes, job, attempt, given_up: true, reason, ..claimed }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::step::tests::order, *};

    #[test]
    fn a_retry_that_cannot_be_sent_leaves_a_run_whose_end_is_that_of_the_attempts_before() {
        let scheduled = order(|_| ());
        let job = |attempt| job_of(&scheduled, 60_000, attempt);
        let claimed = |attempt| Instant {
            becomes: Some(Fate::Late),
            job: Some(job(attempt)),
            attempt,
            ..Instant::new(Fate::Claimed, "one".into(), 60_000)
        };
        let closed = unsent(&scheduled, 60_000, &claimed(0), (Fate::NotSent, "Redis is full"));
        assert_eq!((closed.state, closed.becomes, closed.job, closed.end), (Fate::NotSent, None, None, None));
        assert_eq!(closed.reason.as_deref(), Some("Redis is full"));
        let closed = unsent(&scheduled, 60_000, &claimed(2), (Fate::NotSent, "Redis is full"));
        assert_eq!((closed.state, closed.becomes, closed.end, closed.given_up), (Fate::Late, None, None, true));
        assert_eq!((closed.attempt, closed.job), (1, Some(job(1))), "the last one that ran");
        assert_eq!(closed.reason.as_deref(), Some("it could not be tried again: Redis is full"));
    }
}
