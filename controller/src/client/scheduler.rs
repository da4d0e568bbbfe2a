//! The scheduler: sends what standing orders ask for, and accounts for each instant once. Any number of them may run: what
//! one of them has claimed, the others leave alone, and what it has left half done, they finish.
//!
//! It needs no key. A host judges for itself whether a run is one that the order asks for, and knows a run that comes twice
//! by its id. So nothing that goes wrong here can run anything twice; a claim only saves work, and tells what became of an
//! instant.

mod ends;
mod runs;
mod sending;
mod step;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant as Clock},
};

use protocol::{
    clock::millis,
    limits,
    name::{JobId, ScheduleName},
    scheduled::{End, Fate, Instant, Scheduled},
    standing::schedule::Times,
    targets::Targets,
    time::Millis,
};
use sha2::{Digest, Sha256};

use self::step::{LOOK, Open, Step, step};
use super::{
    error::Error,
    fleet::Fleet,
    schedules::{ends_soon, silent_until},
    verdict::Course,
};
use crate::fault::{self, Bug, Point};

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
    /// A run that has failed is not tried again.
    GivenUp {
        /// The schedule.
        name: ScheduleName,
        /// The instant.
        instant_ms: Millis,
        /// Why.
        reason: String,
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
    /// Times that are still to come are accounted for: Redis' clock was ahead.
    Silent {
        /// The schedule.
        name: ScheduleName,
        /// Nothing runs until then.
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
    silent: HashSet<ScheduleName>,
    said: Vec<Scheduling>,
    /// Before that, Redis was away, and a missing heartbeat says nothing.
    heartbeats_from: Clock,
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
            silent: HashSet::new(),
            said: Vec::new(),
            heartbeats_from: Clock::now(),
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
        let ticked = self.work(fleet).await;
        if ticked.is_err() {
            self.heartbeats_from = Clock::now() + limits::OFFLINE_AFTER;
        }
        ticked
    }

    async fn work(&mut self, fleet: &mut Fleet) -> Result<Option<Millis>, Error> {
        let names = fleet.schedule_names().await?;
        self.times.retain(|name, _| names.binary_search(name).is_ok());
        self.broken.retain(|name| names.binary_search(name).is_ok());
        self.silent.retain(|name| names.binary_search(name).is_ok());
        let found = fleet.schedules(&names).await?;
        self.reminded.retain(|name, _| names.binary_search(name).is_ok());
        let mut readable = Vec::new();
        for (name, scheduled) in found {
            match scheduled.map_err(|error| error.to_string()).and_then(|found| self.ready(found)) {
                Ok(scheduled) => readable.push(scheduled),
                Err(reason) => self.breaks(&name, reason),
            }
        }
        // Several schedulers begin at different places, so that they share what is due at once.
        let begin = self.place(readable.len());
        readable.rotate_left(begin);
        let names: Vec<_> = readable.iter().map(|scheduled| scheduled.name().clone()).collect();
        let open = fleet.open_runs(&names).await?;
        let looks = fleet.now() >= self.looked_ms.saturating_add(millis(LOOK));
        if looks {
            self.looked_ms = fleet.now();
        }
        let mut next: Option<Millis> = None;
        for (scheduled, open) in readable.iter().zip(open) {
            self.remind(scheduled, fleet.now());
            match self.serve(scheduled, open, looks, fleet).await {
                Ok(due) => {
                    self.broken.remove(scheduled.name());
                    next = [next, due].into_iter().flatten().min();
                }
                Err(error) if error.is_transient() => return Err(error),
                // One that is damaged must not hold up the others.
                Err(error) => self.breaks(scheduled.name(), error.to_string()),
            }
        }
        Ok(next)
    }

    /// At which of so many schedules this scheduler begins.
    fn place(&self, count: usize) -> usize {
        let hash = Sha256::digest(self.name.as_bytes());
        let number = hash.iter().take(4).fold(0, |number, byte| number << 8 | usize::from(*byte));
        number.checked_rem(count).unwrap_or(0)
    }

    /// Says once what is wrong with a schedule, until that is over.
    fn breaks(&mut self, name: &ScheduleName, reason: String) {
        if self.broken.insert(name.clone()) {
            self.said.push(Scheduling::Broken { name: name.clone(), reason });
        }
    }

    /// Makes the times of a schedule ready, and looks whether it says which hosts are meant.
    fn ready(&mut self, scheduled: Scheduled) -> Result<Scheduled, String> {
        let bytes = &scheduled.standing.signed().bytes;
        if self.times.get(scheduled.name()).is_none_or(|(known, _)| known != bytes) {
            let times = scheduled.order().schedule.times().map_err(|error| error.to_string())?;
            scheduled.order().selector.selection().map_err(|error| error.to_string())?;
            self.times.insert(scheduled.name().clone(), (bytes.clone(), times));
        }
        Ok(scheduled)
    }

    fn remind(&mut self, scheduled: &Scheduled, now: Millis) {
        let (order, name) = (scheduled.order(), scheduled.name());
        match silent_until(scheduled, now) {
            Some(until_ms) if self.silent.insert(name.clone()) => {
                self.said.push(Scheduling::Silent { name: name.clone(), until_ms });
            }
            Some(_) => {}
            None => drop(self.silent.remove(name)),
        }
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
        // One moment for all that is decided: what falls due behind it is for the next look, which sees how the runs stand then.
        let now = fleet.now();
        let first = step(scheduled, times, Open::default(), now);
        // What holds a run up may have ended since the last look.
        let is_due = scheduled.paused.is_none() && !matches!(first, Step::Wait(_));
        if let (Step::Wait(until), false) = (first, looks) {
            return Ok(until.filter(|_| scheduled.paused.is_none()));
        }
        let mut unended = Open::default();
        for (instant_ms, run) in open {
            let mut course = Course::GoesOn;
            if looks || is_due {
                course = self.attend(scheduled, instant_ms, run, fleet).await?;
            }
            unended.all += usize::from(course != Course::Over);
            unended.at_work += usize::from(course == Course::GoesOn);
        }
        if scheduled.paused.is_some() {
            return Ok(None);
        }
        let Some((_, times)) = self.times.get(scheduled.name()) else { return Ok(None) };
        match step(scheduled, times, unended, now) {
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
        let record = |state| Instant::new(state, self.name.clone(), now);
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
        if fault::planted(Bug::ForgetMissed) {
            others.clear();
        }
        let claim = scheduled.account(fleet.keys(), until_ms, begun.as_ref().map(|(_, run)| run), &others);
        let mut pipeline = redis::pipe();
        pipeline.add_command(claim);
        let (is_ours,): (bool,) = fleet.query(&pipeline).await?;
        if !is_ours {
            return Ok(());
        }
        if begun.is_some() {
            fault::point(Point::Claimed);
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
}
