//! Schedules as operators and schedulers see them.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant as Clock,
};

use protocol::{
    connection::Backoff,
    job::{Creation, JobRecord},
    limits,
    name::{HostName, JobId, ScheduleName},
    scheduled::{Claims, Fate, Instant, Scheduled, ScheduledError},
    scripts::SET_BOUNDED,
    signed::Signed,
    standing::{Standing, StandingOrder, schedule::Schedule, selector::Selector},
    targets::Targets,
    time::{Millis, show_moment},
    trust::sshsig,
};
use redis::Cmd;

use super::{
    dispatch::DISPATCH_WITHIN,
    error::{Error, WrongType},
    fleet::{BLOCK, Fleet, RawHash, fields, text_fields},
    jobs::Job,
    signer::Signer,
};

/// Orders that end within this share of their life, or within this time, are warned of.
const ENDING_SHARE: u64 = 10;
const ENDING_MS: Millis = 7 * 24 * 3600 * 1000;

/// By less than this, clocks that are set in order may differ.
const AHEAD_MS: Millis = 60_000;

/// How often it is tried to replace a schedule of which runs are claimed all the while.
const REPLACINGS: usize = 20;

/// Whether an order ends so soon that its operator should sign another one.
pub fn ends_soon(order: &StandingOrder, now: Millis) -> bool {
    let life = order.valid_until_ms.saturating_sub(order.issued_at_ms);
    // What runs once, and has run, needs no other order. Times are made ready only for an order that is near its end.
    let is_over = || order.schedule.times().is_ok_and(|times| times.next_after(now).is_none());
    order.valid_until_ms.saturating_sub(now) < ENDING_MS.min(life / ENDING_SHARE) && !is_over()
}

/// Until when nothing of a schedule runs because Redis' clock was ahead: times that are still to come are accounted for.
pub fn silent_until(scheduled: &Scheduled, now: Millis) -> Option<Millis> {
    Some(scheduled.accounted_ms).filter(|accounted| *accounted > now.saturating_add(AHEAD_MS))
}

/// The next times at which a schedule runs, within its order's life.
pub fn next_times(order: &StandingOrder, after: Millis, count: usize) -> Vec<Millis> {
    let Ok(times) = order.schedule.times() else { return Vec::new() };
    let from = after.max(order.issued_at_ms.saturating_sub(1));
    times.after(from).take_while(|instant| *instant <= order.valid_until_ms).take(count).collect()
}

/// A schedule in words: `*/5 * * * * (Europe/Berlin)`, `every 10m`, `at 2026-12-01T12:00:00.000Z`.
pub fn in_words(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Cron { expression, zone, .. } => format!("{expression} ({zone})"),
        Schedule::Every { period_ms, .. } => {
            format!("every {}", protocol::time::show_duration(std::time::Duration::from_millis(*period_ms)))
        }
        Schedule::At { instant_ms } => format!("at {}", show_moment(*instant_ms)),
    }
}

impl Fleet {
    /// The names of all schedules, sorted.
    pub async fn schedule_names(&mut self) -> Result<Vec<ScheduleName>, Error> {
        let (hash,): (RawHash,) = self.query_with_time(redis::pipe().hgetall(self.keys().schedules())).await?;
        let mut names: Vec<ScheduleName> = text_fields(hash).keys().filter_map(|name| name.parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The schedules of these names that exist, with what is wrong with those that cannot be read.
    pub async fn schedules(
        &mut self,
        names: &[ScheduleName],
    ) -> Result<Vec<(ScheduleName, Result<Scheduled, ScheduledError>)>, Error> {
        let ask = |keys: &_, name: &ScheduleName| [hash(keys, name)];
        let read = |name: &ScheduleName, values: Vec<Option<Vec<u8>>>, damage: Option<WrongType>| {
            if damage.is_some() {
                return Some((name.clone(), Err(ScheduledError::Kind)));
            }
            let found =
                Scheduled::FIELDS.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
            let found: protocol::signed::Fields = found.collect();
            (!found.is_empty()).then(|| (name.clone(), Scheduled::from_fields(found, name)))
        };
        Ok(self.query_each(names, ask, read).await?.into_iter().flatten().collect())
    }

    /// The schedule of this name.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn schedule(&mut self, name: &ScheduleName) -> Result<Scheduled, Error> {
        match self.schedules(std::slice::from_ref(name)).await?.pop() {
            Some((_, Ok(scheduled))) => Ok(scheduled),
            Some((_, Err(error))) => Err(Error::DamagedSchedule(name.clone(), error)),
            None => Err(self.unknown_schedule(name).await?),
        }
    }

    async fn unknown_schedule(&mut self, name: &ScheduleName) -> Result<Error, Error> {
        let known = self.schedule_names().await?.iter().map(ToString::to_string).collect();
        Ok(Error::UnknownSchedule { name: name.clone(), known })
    }

    /// The moment at which a standing order is issued that is signed now.
    ///
    /// # Errors
    /// Redis' clock and that of this machine are too far apart.
    pub async fn order_moment(&mut self) -> Result<Millis, Error> {
        self.signing_moment().await
    }

    /// Signs a standing order.
    ///
    /// # Errors
    /// It is too large, or the key did not sign it.
    pub async fn sign_order(&self, order: &StandingOrder, signer: &Signer) -> Result<Standing, Error> {
        let document = Signed::unsigned(order);
        let (size, limit) = (document.bytes.len(), limits::STANDING_ORDER_BYTES);
        if size > limit {
            return Err(Error::TooLarge { what: "bytes with all arguments", size, limit });
        }
        let signature = signer.sign(sshsig::STANDING, &document.bytes).await?;
        Standing::open(document.with_signature(signature))
            .map_err(|error| Error::DamagedSchedule(order.name.clone(), error.into()))
    }

    /// Adds a schedule, or puts it in the place of the one of its name. Returns whether it was added: there may be one of
    /// that name.
    ///
    /// # Errors
    /// There are too many.
    pub async fn put_schedule(&mut self, scheduled: &Scheduled, replaces: bool) -> Result<bool, Error> {
        let (name, now) = (scheduled.name().clone(), self.now());
        let mut index = redis::pipe();
        index.cmd("EVAL").arg(SET_BOUNDED).arg(1).arg(self.keys().schedules());
        index.arg(name.as_str()).arg(show_moment(now)).arg(limits::SCHEDULES);
        let (has_room,): (bool,) = self.query(&index).await?;
        if !has_room {
            return Err(Error::ManySchedules);
        }
        for _ in 0..REPLACINGS {
            let mut put = redis::pipe();
            put.add_command(if replaces {
                let claims = self.settle_claims(&name).await?;
                scheduled.replace(self.keys(), &claims, now)
            } else {
                scheduled.add(self.keys(), now)
            });
            match self.query(&put).await? {
                (2,) => {}
                (is_put,) => return Ok(is_put == 1),
            }
        }
        Err(Error::BusySchedule(name))
    }

    /// Withdraws the claimed runs of a schedule that were not recorded: none of them is ever sent.
    async fn settle_claims(&mut self, name: &ScheduleName) -> Result<Claims, Error> {
        let before = self.schedules(std::slice::from_ref(name)).await?.pop();
        let open = self.open_runs(std::slice::from_ref(name)).await?.into_iter().flatten();
        let mut claims = Claims::new();
        for (instant_ms, run) in open.filter(|(_, run)| run.state == Fate::Claimed) {
            // Without the order before, nobody can tell which job it would be.
            let Some((_, Ok(before))) = &before else {
                claims.insert(instant_ms, None);
                continue;
            };
            let why = (Fate::NotSent, "replaced before it was sent");
            let withdrawn = match self.withdraw_run(&before.standing, instant_ms, run.attempt, why).await? {
                Creation::Recorded => None,
                Creation::Done => Some((why.0, why.1.to_owned())),
                Creation::Withdrawn => Some(self.withdrawn_run(&before.standing, instant_ms, run.attempt).await?),
            };
            claims.insert(instant_ms, withdrawn);
        }
        Ok(claims)
    }

    /// Keeps a schedule from running anything.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn pause_schedule(&mut self, name: &ScheduleName, why: &str) -> Result<(), Error> {
        let mut pause = redis::pipe();
        pause.add_command(Scheduled::pause(self.keys(), name, why));
        let (is_paused,): (bool,) = self.query(&pause).await?;
        if is_paused { Ok(()) } else { Err(self.unknown_schedule(name).await?) }
    }

    /// Lets a schedule go on. Returns false where it was not paused.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be read.
    pub async fn resume_schedule(&mut self, name: &ScheduleName) -> Result<bool, Error> {
        let scheduled = self.schedule(name).await?;
        let mut resume = redis::pipe();
        resume.add_command(scheduled.resume(self.keys(), self.now()));
        let (resumed,): (i64,) = self.query(&resume).await?;
        if resumed == 0 { Err(self.unknown_schedule(name).await?) } else { Ok(resumed > 0) }
    }

    /// Removes a schedule and its history. What it has begun goes on.
    pub async fn remove_schedule(&mut self, name: &ScheduleName) -> Result<(), Error> {
        let keys = self.keys().clone();
        let mut remove = redis::pipe();
        remove.del(&[keys.schedule(name), keys.schedule_open(name), keys.schedule_runs(name)]).ignore();
        self.query::<()>(&remove).await?;
        self.query(redis::pipe().hdel(keys.schedules(), name.as_str()).ignore()).await
    }

    /// What became of the instants of a schedule, the newest first.
    pub async fn schedule_history(&mut self, name: &ScheduleName) -> Result<Vec<(Millis, Instant)>, Error> {
        let keys = self.keys();
        let mut ask = redis::pipe();
        // A run that ends in between is then read twice, instead of not at all.
        ask.hgetall(keys.schedule_open(name)).hgetall(keys.schedule_runs(name));
        let (open, runs): (RawHash, RawHash) = self.query_with_time(&ask).await?;
        let found: BTreeMap<_, _> = instants(open).into_iter().chain(instants(runs)).collect();
        Ok(found.into_iter().rev().collect())
    }

    /// What became of the last instant of a schedule.
    pub async fn last_instant(&mut self, scheduled: &Scheduled) -> Result<Option<(Millis, Instant)>, Error> {
        let (name, at_ms) = (scheduled.name(), scheduled.accounted_ms);
        if at_ms <= scheduled.order().issued_at_ms {
            return Ok(None);
        }
        let mut ask = redis::pipe();
        ask.hget(self.keys().schedule_open(name), at_ms).hget(self.keys().schedule_runs(name), at_ms);
        let (open, run): (Option<String>, Option<String>) = self.query(&ask).await?;
        match run.or(open).and_then(|record| Instant::read(&record)) {
            Some(last) => Ok(Some((at_ms, last))),
            // It was paused since: then the history is read, which may be long.
            None => Ok(self.schedule_history(name).await?.into_iter().next()),
        }
    }

    /// The runs of these schedules of which it is not known how they have ended, the oldest first.
    pub(super) async fn open_runs(&mut self, names: &[ScheduleName]) -> Result<Vec<Vec<(Millis, Instant)>>, Error> {
        let ask = |keys: &protocol::keys::Keys, name: &ScheduleName| [Cmd::hgetall(keys.schedule_open(name))];
        self.query_each(names, ask, |_, open: RawHash, _| instants(open).into_iter().collect()).await
    }

    /// The run of an instant, if it has not ended.
    pub(super) async fn open_run(&mut self, name: &ScheduleName, instant_ms: Millis) -> Result<Option<Instant>, Error> {
        let (record,): (Option<String>,) =
            // How late it is now counts.
            self.query_with_time(redis::pipe().hget(self.keys().schedule_open(name), instant_ms)).await?;
        Ok(record.and_then(|record| Instant::read(&record)))
    }

    /// The hosts that a selector means now, sorted, by what they publish: each judges for itself whether it is one of
    /// them.
    ///
    /// # Errors
    /// The selector cannot be used.
    pub async fn selected_hosts(&mut self, selector: &Selector) -> Result<Vec<HostName>, Error> {
        let selection = selector.selection().map_err(Error::Selector)?;
        let all = self.host_names().await?.into_iter().map(|(name, _)| name);
        let none = BTreeMap::new();
        if !selection.asks_for_labels() {
            let mut names: Vec<_> = all.filter(|name| selection.includes(name, &none)).collect();
            names.sort();
            return Ok(names);
        }
        let all: Vec<_> = all.collect();
        let ask = |keys: &protocol::keys::Keys, name: &HostName| [Cmd::hgetall(keys.labels(name))];
        let read = |name: &HostName, labels: RawHash, _: Option<WrongType>| {
            let labels = text_fields(labels).into_iter().collect();
            selection.includes(name, &labels).then(|| name.clone())
        };
        let mut names: Vec<_> = self.query_each(&all, ask, read).await?.into_iter().flatten().collect();
        names.sort();
        Ok(names)
    }

    /// Replaces the record of an open run. `false`: it is not what was read any more, and stays as another scheduler has it.
    pub(super) async fn update_run(
        &mut self,
        scheduled: &Scheduled,
        instant_ms: Millis,
        read: &Instant,
        next: &Instant,
    ) -> Result<bool, Error> {
        let mut pipeline = redis::pipe();
        pipeline.add_command(scheduled.update(self.keys(), instant_ms, read, next));
        let (is_replaced,): (bool,) = self.query(&pipeline).await?;
        Ok(is_replaced)
    }

    /// Records the run of an instant as a job for these hosts, and returns the job. `Err` says what there was before: another
    /// scheduler has recorded it, or it was withdrawn. Where Redis' reply was lost, the record may be that of this call.
    pub(super) async fn record_run(
        &mut self,
        standing: &Standing,
        instant_ms: Millis,
        attempt: u32,
        hosts: Vec<HostName>,
    ) -> Result<Result<Job, Creation>, Error> {
        let targets = Targets::new(hosts);
        let record = JobRecord::unsigned(standing.run(instant_ms, attempt, targets.root()), targets);
        let record = JobRecord { signed: record.signed.clone().with_signature(standing.voucher()), ..record };
        Ok(match self.create(record.create(self.keys())).await? {
            Creation::Done => Ok(Job::of_record(record, HashMap::new())),
            before => Err(before),
        })
    }

    /// Withdraws the run of an instant, unless it is recorded as a job: from then on no scheduler sends it. Whoever finds that
    /// asks with [`Self::withdrawn_run`] for what becomes of it.
    pub(super) async fn withdraw_run(
        &mut self,
        standing: &Standing,
        instant_ms: Millis,
        attempt: u32,
        why: (Fate, &str),
    ) -> Result<Creation, Error> {
        let record = of_nobody(standing, instant_ms, attempt);
        self.create(record.withdraw(self.keys(), &serde_json::to_string(&why).unwrap_or_default())).await
    }

    /// What becomes of a run that was withdrawn, and why.
    pub(super) async fn withdrawn_run(
        &mut self,
        standing: &Standing,
        instant_ms: Millis,
        attempt: u32,
    ) -> Result<(Fate, String), Error> {
        let mut ask = redis::pipe();
        ask.add_command(of_nobody(standing, instant_ms, attempt).withdrawn(self.keys()));
        let (why,): (Option<Vec<u8>>,) = self.query(&ask).await?;
        let why = why.and_then(|why| serde_json::from_slice(&why).ok());
        Ok(why.unwrap_or_else(|| (Fate::NotSent, "it was withdrawn, for an unknown reason".to_owned())))
    }

    /// Asks for a [`Creation`], again where Redis is away for a moment.
    async fn create(&mut self, command: Cmd) -> Result<Creation, Error> {
        let mut pipeline = redis::pipe();
        pipeline.add_command(command);
        let begun = Clock::now();
        let mut backoff = Backoff::new(BLOCK);
        loop {
            match self.query::<(i64,)>(&pipeline).await {
                Ok((reply,)) => return Ok(Creation::from_reply(reply)),
                Err(error) if !error.is_transient() || begun.elapsed() >= DISPATCH_WITHIN => return Err(error),
                Err(_) => {
                    tokio::time::sleep(backoff.delay()).await;
                    // Where there is no connection, the next attempt fails with the dead one.
                    let _ = self.reconnect().await;
                }
            }
        }
    }

    /// The job of that id, or `None` where there is none.
    pub(super) async fn job_if_any(&mut self, id: JobId) -> Result<Option<Job>, Error> {
        match self.job(id).await {
            Ok(job) => Ok(Some(job)),
            Err(Error::UnknownJob(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The record of a run that names no host: its id is the same.
fn of_nobody(standing: &Standing, instant_ms: Millis, attempt: u32) -> JobRecord {
    let targets = Targets::new([]);
    JobRecord::unsigned(standing.run(instant_ms, attempt, targets.root()), targets)
}

fn hash(keys: &protocol::keys::Keys, name: &ScheduleName) -> Cmd {
    Cmd::hmget(keys.schedule(name), &Scheduled::FIELDS)
}

fn instants(hash: RawHash) -> BTreeMap<Millis, Instant> {
    let read = |(instant, record): (String, Vec<u8>)| {
        Some((instant.parse().ok()?, Instant::read(std::str::from_utf8(&record).ok()?)?))
    };
    fields(hash).into_iter().filter_map(read).collect()
}
