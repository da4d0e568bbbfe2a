//! The scheduler: sends what standing orders ask for, and accounts for each instant once. Any number of them may run: what
//! one of them has claimed, the others leave alone, and what it has left half done, they finish.
//!
//! It needs no key. A host judges for itself whether a run is one that the order asks for, and knows a run that comes twice
//! by its id. So nothing that goes wrong here can run anything twice; a claim only saves work, and tells what became of an
//! instant.

mod step;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use protocol::{
    clock::millis,
    name::{HostName, JobId, ScheduleName},
    outcome::State,
    scheduled::{End, Fate, Instant, Scheduled},
    standing::schedule::Times,
    targets::Targets,
    time::Millis,
};

use self::step::{LOOK, Step, retries_at, step};
use super::{error::Error, fleet::Fleet, follow::Follower, schedules::ends_soon};

/// A claim of which nothing was heard for so long is taken over.
const TAKE_OVER: Duration = Duration::from_secs(15);

/// How often it is said that an order ends.
const REMIND: Duration = Duration::from_secs(24 * 3600);

/// Something that a scheduler has done, or found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Scheduling {
    /// A run was sent.
    Sent {
        /// The schedule.
        name: ScheduleName,
        /// Its job.
        job: JobId,
        /// On how many hosts.
        hosts: usize,
        /// In time, or late.
        fate: Fate,
    },
    /// Nothing runs at an instant, or it could not be sent.
    Left {
        /// The schedule.
        name: ScheduleName,
        /// The instant.
        instant_ms: Millis,
        /// What became of it.
        fate: Fate,
        /// Why.
        reason: Option<String>,
    },
    /// A run has ended.
    Ended {
        /// The schedule.
        name: ScheduleName,
        /// Its job.
        job: Option<JobId>,
        /// How.
        end: End,
        /// Whether the schedule was paused, as too many have failed.
        paused: bool,
    },
    /// A run that another scheduler had claimed, and not sent, is sent by this one.
    TakenOver {
        /// The schedule.
        name: ScheduleName,
        /// The instant.
        instant_ms: Millis,
        /// Who had claimed it.
        from: String,
    },
    /// A standing order ends soon, or has ended.
    Ends {
        /// The schedule.
        name: ScheduleName,
        /// When.
        until_ms: Millis,
    },
    /// A schedule cannot be read, or its order cannot be used.
    Broken {
        /// The schedule.
        name: ScheduleName,
        /// Why.
        reason: String,
    },
}

/// A scheduler. It keeps nothing that another one would have to know.
#[derive(Debug)]
pub struct Scheduler {
    /// What others know it by.
    name: String,
    /// The times of orders that were read, by their bytes.
    times: HashMap<ScheduleName, (Vec<u8>, Times)>,
    looked_ms: Millis,
    reminded: HashMap<ScheduleName, Millis>,
    broken: HashSet<ScheduleName>,
    said: Vec<Scheduling>,
}

impl Scheduler {
    /// A scheduler that others know by this name.
    pub fn new(name: String) -> Self {
        Self {
            name,
            times: HashMap::new(),
            looked_ms: 0,
            reminded: HashMap::new(),
            broken: HashSet::new(),
            said: Vec::new(),
        }
    }

    /// What happened since this was asked last.
    pub fn take(&mut self) -> Vec<Scheduling> {
        std::mem::take(&mut self.said)
    }

    /// Does all that is due. Returns when something is due next, as far as that is known.
    ///
    /// # Errors
    /// Redis cannot be asked. What was begun is gone on with at the next call, or by another scheduler.
    pub async fn tick(&mut self, fleet: &mut Fleet) -> Result<Option<Millis>, Error> {
        let names = fleet.schedule_names().await?;
        self.times.retain(|name, _| names.binary_search(name).is_ok());
        let found = fleet.schedules(&names).await?;
        let mut readable = Vec::new();
        for (name, scheduled) in found {
            match scheduled.map_err(|error| error.to_string()).and_then(|found| self.ready(found)) {
                Ok(scheduled) => {
                    self.broken.remove(&name);
                    readable.push(scheduled);
                }
                Err(reason) if self.broken.insert(name.clone()) => self.said.push(Scheduling::Broken { name, reason }),
                Err(_) => {}
            }
        }
        let names: Vec<_> = readable.iter().map(|scheduled| scheduled.name().clone()).collect();
        let open = fleet.open_runs(&names).await?;
        let looks = fleet.now() >= self.looked_ms.saturating_add(millis(LOOK));
        if looks {
            self.looked_ms = fleet.now();
        }
        let mut next: Option<Millis> = None;
        for (scheduled, open) in readable.iter().zip(open) {
            self.remind(scheduled, fleet.now());
            let due = self.serve(scheduled, open, looks, fleet).await?;
            next = [next, due].into_iter().flatten().min();
        }
        Ok(next)
    }

    /// Makes the times of a schedule ready.
    fn ready(&mut self, scheduled: Scheduled) -> Result<Scheduled, String> {
        let bytes = &scheduled.standing.signed().bytes;
        if self.times.get(scheduled.name()).is_none_or(|(known, _)| known != bytes) {
            let times = scheduled.order().schedule.times().map_err(|error| error.to_string())?;
            self.times.insert(scheduled.name().clone(), (bytes.clone(), times));
        }
        Ok(scheduled)
    }

    fn remind(&mut self, scheduled: &Scheduled, now: Millis) {
        let (order, name) = (scheduled.order(), scheduled.name());
        if !ends_soon(order, now) || scheduled.paused.is_some() {
            return;
        }
        let reminded = self.reminded.entry(name.clone()).or_default();
        if now >= reminded.saturating_add(millis(REMIND)) {
            *reminded = now;
            self.said.push(Scheduling::Ends { name: name.clone(), until_ms: order.valid_until_ms });
        }
    }

    /// Does what is due about one schedule.
    async fn serve(
        &mut self,
        scheduled: &Scheduled,
        open: Vec<(Millis, Instant)>,
        looks: bool,
        fleet: &mut Fleet,
    ) -> Result<Option<Millis>, Error> {
        let Some((_, times)) = self.times.get(scheduled.name()) else { return Ok(None) };
        // What holds a run up may have ended since the last look.
        let is_due = scheduled.paused.is_none() && !matches!(step(scheduled, times, 0, fleet.now()), Step::Wait(_));
        let mut running = 0;
        for (instant_ms, run) in open {
            let goes_on = !(looks || is_due) || self.attend(scheduled, instant_ms, run, fleet).await?;
            running += usize::from(goes_on);
        }
        if scheduled.paused.is_some() {
            return Ok(None);
        }
        let Some((_, times)) = self.times.get(scheduled.name()) else { return Ok(None) };
        match step(scheduled, times, running, fleet.now()) {
            Step::Wait(until) => Ok(until),
            Step::Account { until_ms, begins, others } => {
                self.account(scheduled, until_ms, begins, &others, fleet).await?;
                // There may be more.
                Ok(Some(fleet.now()))
            }
        }
    }

    async fn account(
        &mut self,
        scheduled: &Scheduled,
        until_ms: Millis,
        begins: Option<Fate>,
        others: &[(Millis, Fate, &'static str)],
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let now = fleet.now();
        let record = |state| Instant {
            state,
            becomes: None,
            job: None,
            attempt: 0,
            by: self.name.clone(),
            at_ms: now,
            end: None,
            reason: None,
        };
        let mut others: Vec<_> = others
            .iter()
            .map(|(instant, fate, why)| (*instant, Instant { reason: Some((*why).to_owned()), ..record(*fate) }))
            .collect();
        let hosts = match begins {
            Some(_) => fleet.selected_hosts(&scheduled.order().selector).await?,
            None => Vec::new(),
        };
        let begun = match begins {
            Some(_) if hosts.is_empty() => {
                let nobody = Some("no host is meant".to_owned());
                others.push((until_ms, Instant { reason: nobody, ..record(Fate::NotSent) }));
                None
            }
            Some(fate) => {
                let run = scheduled.standing.run(until_ms, 0, Targets::new(hosts.iter().cloned()).root());
                Some((fate, Instant { becomes: Some(fate), job: Some(run.job), ..record(Fate::Claimed) }))
            }
            None => None,
        };
        let claim = scheduled.account(fleet.keys(), until_ms, begun.as_ref().map(|(_, run)| run), &others);
        let mut pipeline = redis::pipe();
        pipeline.add_command(claim);
        let (is_ours,): (bool,) = fleet.query(&pipeline).await?;
        if !is_ours {
            return Ok(());
        }
        let name = scheduled.name();
        for (instant_ms, Instant { state: fate, reason, .. }) in others {
            self.said.push(Scheduling::Left { name: name.clone(), instant_ms, fate, reason });
        }
        match begun {
            Some((_, run)) => self.send(scheduled, until_ms, run, hosts, fleet).await,
            None => Ok(()),
        }
    }

    /// Sends a run that this scheduler has claimed, and says so.
    async fn send(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        run: Instant,
        hosts: Vec<HostName>,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let count = hosts.len();
        let sent = fleet.send_run(&scheduled.standing, instant_ms, run.attempt, hosts).await;
        self.settle(scheduled, instant_ms, run, sent, count, fleet).await
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
        let mut pipeline = redis::pipe();
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
                let failed =
                    Instant { state: Fate::NotSent, becomes: None, reason: Some(reason.clone()), ..run.clone() };
                pipeline.add_command(scheduled.end(fleet.keys(), instant_ms, &run, &failed));
                fleet.query::<(i64,)>(&pipeline).await?;
                self.said.push(Scheduling::Left { name, instant_ms, fate: Fate::NotSent, reason: Some(reason) });
            }
            other => {
                let reason = other.map(|(_, reason)| reason);
                let ran = Instant { state: fate, becomes: None, reason, ..run.clone() };
                pipeline.add_command(scheduled.update(fleet.keys(), instant_ms, &run, &ran));
                fleet.query::<(i64,)>(&pipeline).await?;
                if let Some(job) = run.job {
                    self.said.push(Scheduling::Sent { name, job, hosts, fate });
                }
            }
        }
        Ok(())
    }

    /// Looks after a run whose end is not known. Returns whether it goes on.
    async fn attend(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        run: Instant,
        fleet: &mut Fleet,
    ) -> Result<bool, Error> {
        let now = fleet.now();
        if run.state == Fate::Claimed {
            if now >= run.at_ms.saturating_add(millis(TAKE_OVER)) {
                self.take_over(scheduled, instant_ms, run, fleet).await?;
            }
            return Ok(true);
        }
        let job = match run.job {
            Some(job) => fleet.job_if_any(job).await,
            None => Ok(None),
        };
        let (end, failed) = match job {
            // Nothing can be learnt of it any more.
            Ok(None) | Err(Error::DamagedJob(..) | Error::ForeignJob { .. }) => (End::Unknown, Vec::new()),
            Err(error) => return Err(error),
            Ok(Some(job)) => {
                let mut follower = Follower::of_old(&job);
                follower.only_look();
                follower.look(fleet).await?;
                if !follower.results().all(|result| result.has_ended() || result.state == State::Expired) {
                    return Ok(true);
                }
                let good = follower.results().all(|result| result.state == State::Succeeded);
                // What was cancelled, by somebody or by the next run, is not tried again.
                let is_bad = |state| !matches!(state, State::Succeeded | State::Cancelled);
                let failed = follower.results().filter(|result| is_bad(result.state));
                let failed: Vec<_> = failed.map(|result| result.host.clone()).collect();
                (if good { End::Succeeded } else { End::Failed }, failed)
            }
        };
        if !failed.is_empty()
            && let Some(at_ms) = retries_at(scheduled.order(), instant_ms, &run)
        {
            if now >= at_ms {
                self.retry(scheduled, instant_ms, run, failed, fleet).await?;
            }
            return Ok(true);
        }
        let ended = Instant { end: Some(end), ..run.clone() };
        let mut pipeline = redis::pipe();
        pipeline.add_command(scheduled.end(fleet.keys(), instant_ms, &run, &ended));
        let (reply,): (i64,) = fleet.query(&pipeline).await?;
        if reply > 0 {
            let (name, paused) = (scheduled.name().clone(), reply == 2);
            self.said.push(Scheduling::Ended { name, job: run.job, end, paused });
        }
        Ok(false)
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
        let known = match claimed.job {
            Some(job) => fleet.job_if_any(job).await?,
            None => None,
        };
        if let Some(job) = known {
            // It was recorded, so hosts may have it: the same goes to all of them once more. Those that have it know it.
            let (hosts, in_time) = (job.targets().len(), fleet.now() <= job.manifest().start_by_ms);
            let sent = if in_time { fleet.send_out(job, |_| ()).await.map(drop) } else { Ok(()) };
            return self.settle(scheduled, instant_ms, claimed, sent, hosts, fleet).await;
        }
        let hosts = self.hosts_of(scheduled, instant_ms, claimed.attempt, fleet).await?;
        let start_by_ms = instant_ms.saturating_add(scheduled.order().start_within_ms);
        if fleet.now() > start_by_ms || hosts.is_empty() {
            let reason = if hosts.is_empty() { "no host is meant" } else { "the scheduler that claimed it has ended" };
            let failed =
                Instant { state: Fate::NotSent, becomes: None, reason: Some(reason.to_owned()), ..claimed.clone() };
            let mut pipeline = redis::pipe();
            pipeline.add_command(scheduled.end(fleet.keys(), instant_ms, &claimed, &failed));
            fleet.query::<(i64,)>(&pipeline).await?;
            let (name, reason) = (scheduled.name().clone(), Some(reason.to_owned()));
            self.said.push(Scheduling::Left { name, instant_ms, fate: Fate::NotSent, reason });
            return Ok(());
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
        let Some(job) = fleet.job_if_any(prior).await? else { return Ok(Vec::new()) };
        let mut follower = Follower::of_old(&job);
        follower.only_look();
        follower.look(fleet).await?;
        let failed = follower.results().filter(|result| result.state != State::Succeeded);
        Ok(failed.map(|result| result.host.clone()).collect())
    }
}
