//! Following a job until every host has answered, or cannot be expected to any more.
//!
//! The events stream says *that* something happened, soon; what happened is read from the job's
//! hashes. These are also read every few seconds and after every reconnect, so an event that was
//! trimmed or lost delays an answer but never hides it.

use std::{
    collections::{BTreeMap, HashSet},
    time::Instant,
};

use protocol::{
    clock::{FleetClock, millis},
    connection::Backoff,
    event::{Event, EventKind},
    name::HostName,
    outcome::{Outcome, State},
    status::Status,
    time::Millis,
};
use redis::RedisError;

pub use crate::verdict::Answer;
use crate::{
    absence::{self, Absent},
    dispatch::{self, Job},
    fleet::{BLOCK, CHUNK, Fleet, RawHash, fields, passes, text_fields},
    printer::Printer,
    tail::Piece,
    verdict::{self, Progress, Verdict},
};

/// How often a job is asked again in all.
const MOST_ASKED_AGAIN: u32 = 20;

/// Follows one job.
pub struct Follower<'a> {
    job: &'a Job,
    printer: &'a Printer,
    hosts: BTreeMap<HostName, Progress>,
    /// Hosts that are not done.
    waiting: usize,
    /// The last event that was read.
    cursor: String,
    next_look: Instant,
    /// When the job was first found to be gone from Redis.
    vanished_ms: Option<Millis>,
    /// Attempts to reach Redis again, while it is away.
    away: Option<Backoff>,
    /// Output that has arrived and was not taken.
    pieces: Vec<Piece>,
    /// Whether anybody wants the output.
    keeps_output: bool,
    /// Whether what Redis has lost is asked again, and how often that was done.
    asks_again: bool,
    times_asked_again: u32,
    /// Hosts that are done and were not taken: kept here so that an error in between loses none.
    finished: Vec<HostName>,
    /// Of how many of them all output has been read.
    caught_up: usize,
    /// Hosts whose command was not in the inbox at the last look, though nothing was heard of it.
    missed: HashSet<HostName>,
}

/// What `XREAD` of one stream replies: its name, then entries of id and fields.
type Entries = Option<Vec<(Vec<u8>, Vec<(String, Vec<Vec<u8>>)>)>>;

impl<'a> Follower<'a> {
    /// Follows a job that was just sent: it listens at once.
    pub fn of_new(job: &'a Job, printer: &'a Printer) -> Self {
        let hosts: BTreeMap<_, _> =
            job.targets.hosts().map(|host| (host.clone(), Progress::new(host.clone()))).collect();
        Self {
            job,
            printer,
            waiting: hosts.len(),
            hosts,
            cursor: "0".into(),
            next_look: Instant::now() + BLOCK,
            vanished_ms: None,
            away: None,
            pieces: Vec::new(),
            keeps_output: false,
            asks_again: true,
            times_asked_again: 0,
            finished: Vec::new(),
            caught_up: 0,
            missed: HashSet::new(),
        }
    }

    /// Follows a job of some time ago: it looks before it listens.
    pub fn of_old(job: &'a Job, printer: &'a Printer) -> Self {
        Self { next_look: Instant::now(), ..Self::of_new(job, printer) }
    }

    /// The operator knows already that these hosts are not there.
    pub fn told_absent(&mut self, absent: &[Absent]) {
        for absent in absent {
            if let Some(progress) = self.hosts.get_mut(&absent.host) {
                progress.told_absent = true;
            }
        }
    }

    /// How many hosts are not awaited any more.
    pub fn done(&self) -> usize {
        self.hosts.len() - self.waiting
    }

    /// Whether there is nothing more to wait for.
    pub fn is_done(&self) -> bool {
        self.waiting == 0 && !self.is_behind()
    }

    /// Whether hosts have ended whose output may not have been read to its end.
    fn is_behind(&self) -> bool {
        self.keeps_output && self.caught_up < self.finished.len()
    }

    /// Where a host stands.
    pub fn answer(&self, host: &HostName) -> Option<&Answer> {
        self.hosts.get(host).map(|progress| &progress.answer)
    }

    /// Where every host stands.
    pub fn answers(self) -> Vec<Answer> {
        self.hosts.into_values().map(|progress| progress.answer).collect()
    }

    /// Keeps output as it arrives, for [`Self::take_output`].
    pub const fn keep_output(&mut self) {
        self.keeps_output = true;
    }

    /// Never asks again, whatever Redis has lost: for one who wants the job to end.
    pub const fn only_look(&mut self) {
        self.asks_again = false;
    }

    /// The output that has arrived since the last call.
    pub fn take_output(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    /// The hosts that are not awaited any more since the last call; where output is kept, only once all
    /// of theirs has arrived.
    pub fn take_finished(&mut self) -> Vec<HostName> {
        if self.is_behind() {
            return Vec::new();
        }
        self.caught_up = 0;
        std::mem::take(&mut self.finished)
    }

    /// Reads all events that are there, without waiting for more.
    pub async fn catch_up(&mut self, fleet: &mut Fleet) -> Result<(), RedisError> {
        loop {
            let before = self.cursor.clone();
            self.read_events(fleet, None).await?;
            if self.cursor == before {
                self.caught_up = self.finished.len();
                return Ok(());
            }
        }
    }

    /// Waits a while for news.
    pub async fn next(&mut self, fleet: &mut Fleet) -> anyhow::Result<()> {
        let news = if self.is_behind() {
            self.catch_up(fleet).await
        } else if Instant::now() < self.next_look {
            self.listen(fleet).await
        } else {
            self.look(fleet).await
        };
        match news {
            Ok(()) => {
                if self.away.take().is_some() {
                    self.printer.note("Redis is back");
                }
                Ok(())
            }
            Err(error) if passes(&error) && fleet.clock.now() < verdict::last_moment(&self.job.manifest) => {
                self.recover(fleet, &error).await
            }
            Err(error) => Err(fleet.explain(&error).into()),
        }
    }

    /// Reads where all hosts stand, and judges those that are silent.
    pub async fn look(&mut self, fleet: &mut Fleet) -> Result<(), RedisError> {
        let id = self.job.id();
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME").cmd("EXISTS").arg(fleet.keys.job(id)).cmd("HGETALL").arg(fleet.keys.job_hosts(id));
        let (time, exists, states): (_, bool, RawHash) = fleet.query(&pipeline).await?;
        fleet.clock = FleetClock::from_redis(time);
        let now = fleet.clock.now();
        self.next_look = Instant::now() + verdict::pause(&self.job.manifest, now, BLOCK);
        self.ask_again(fleet, exists, now).await?;
        let mut ended = Vec::new();
        for (host, state) in text_fields(states) {
            if let (Ok(host), Ok(state)) = (host.parse(), state.parse()) {
                self.heard(host, state, None, &mut ended);
            }
        }
        self.read_outcomes(fleet, ended).await?;
        self.judge(fleet, now).await
    }

    /// Waits for events.
    async fn listen(&mut self, fleet: &mut Fleet) -> Result<(), RedisError> {
        let wait = self.next_look.saturating_duration_since(Instant::now());
        // BLOCK 0 would wait for ever.
        self.read_events(fleet, Some(millis(wait).max(1))).await
    }

    async fn read_events(&mut self, fleet: &mut Fleet, block: Option<Millis>) -> Result<(), RedisError> {
        let key = fleet.keys.job_events(self.job.id());
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(CHUNK);
        if let Some(block) = block {
            read.arg("BLOCK").arg(block);
        }
        read.arg("STREAMS").arg(key).arg(&self.cursor);
        let entries: Entries = read.query_async(&mut fleet.connection).await?;
        let mut ended = Vec::new();
        for (id, values) in entries.into_iter().flatten().flat_map(|(_, entries)| entries) {
            let at = id.split('-').next().and_then(|moment| moment.parse().ok());
            let mut values = values.into_iter();
            let pairs = std::iter::from_fn(|| Some((values.next()?, values.next()?)));
            match Event::from_fields(&fields(pairs.collect())) {
                Some(Event { host, kind: EventKind::State(state) }) => self.heard(host, state, at, &mut ended),
                Some(Event { host, kind: EventKind::Output { stream, offset, data } })
                    if self.keeps_output && self.hosts.contains_key(&host) =>
                {
                    self.pieces.push(Piece { host, stream, offset, data });
                }
                _ => {}
            }
            self.cursor = id;
        }
        self.read_outcomes(fleet, ended).await
    }

    /// Notes a state, and in `ended` a host that is new among those that have ended.
    fn heard(&mut self, host: HostName, state: State, at: Option<Millis>, ended: &mut Vec<HostName>) {
        let Some(progress) = self.hosts.get_mut(&host) else { return };
        progress.heard(state, at);
        if state.is_terminal() && !progress.ended {
            ended.push(host);
        }
    }

    /// Reads the outcomes of hosts that have ended.
    async fn read_outcomes(&mut self, fleet: &mut Fleet, ended: Vec<HostName>) -> Result<(), RedisError> {
        for chunk in ended.chunks(CHUNK) {
            let mut pipeline = redis::pipe();
            for host in chunk {
                pipeline.cmd("HGETALL").arg(fleet.keys.job_result(self.job.id(), host));
            }
            let results: Vec<RawHash> = fleet.query(&pipeline).await?;
            for (host, result) in chunk.iter().zip(results) {
                // An end that was written twice is still one.
                let Some(progress) = self.hosts.get_mut(host).filter(|progress| !progress.ended) else { continue };
                if let Some(outcome) = Outcome::from_fields(&fields(result)) {
                    progress.answer.state = outcome.state;
                    progress.answer.outcome = Some(outcome);
                }
                progress.ended = true;
                self.waiting -= usize::from(!progress.done);
                progress.done = true;
                self.finished.push(host.clone());
            }
        }
        Ok(())
    }

    /// Ends the waiting for hosts that cannot be expected to answer, and tells of others that are not there.
    async fn judge(&mut self, fleet: &mut Fleet, now: Millis) -> Result<(), RedisError> {
        let job = &self.job.manifest;
        let mut waiting: Vec<_> = self.hosts.values_mut().filter(|progress| !progress.done).collect();
        let mut absent = Vec::new();
        for chunk in waiting.chunks_mut(CHUNK) {
            let mut pipeline = redis::pipe();
            for progress in &*chunk {
                pipeline.cmd("HGETALL").arg(fleet.keys.status(&progress.answer.host));
            }
            let statuses: Vec<RawHash> = fleet.query(&pipeline).await?;
            for (progress, status) in chunk.iter_mut().zip(statuses) {
                let status = Status::from_fields(&text_fields(status));
                let online = status.as_ref().is_some_and(|status| status.is_online(now));
                let host = progress.answer.host.clone();
                match progress.judge(job, online, self.vanished_ms, now) {
                    Verdict::Wait => {
                        // A host that was never seen may just be starting.
                        if let Some(status) = status.filter(|_| !online && !progress.told_absent) {
                            progress.told_absent = true;
                            absent.push(Absent {
                                host,
                                seen_ms: Some(status.last_seen_ms),
                                state: progress.answer.state,
                            });
                        }
                        continue;
                    }
                    Verdict::Expired => progress.answer.state = State::Expired,
                    Verdict::Unanswered => {}
                }
                progress.done = true;
                self.waiting -= 1;
                self.finished.push(host);
            }
        }
        absence::tell(&absent, job.start_by_ms, now, self.printer);
        Ok(())
    }

    /// Asks again, under the same id, where Redis has lost the question: the whole job (FLUSHALL, a restart
    /// without persistence, a failover), or a host's command that is neither in its inbox nor answered.
    /// A worker that had got it knows the id and answers as before.
    async fn ask_again(&mut self, fleet: &mut Fleet, exists: bool, now: Millis) -> Result<(), RedisError> {
        let silent: Vec<HostName> = self
            .hosts
            .values()
            .filter(|progress| !progress.done)
            .map(|progress| progress.answer.host.clone())
            .collect();
        if !exists {
            if self.vanished_ms.is_none() {
                self.vanished_ms = Some(now);
                self.printer.warn("the job is gone from Redis: it was flushed, or lost its memory in a restart");
            }
            if !silent.is_empty() && now < verdict::last_moment(&self.job.manifest) {
                self.resend(fleet, &silent).await?;
            }
            return Ok(());
        }
        self.vanished_ms = None;
        let queued =
            |host: &HostName| self.hosts.get(host).is_some_and(|progress| progress.answer.state == State::Queued);
        let known = silent.into_iter().filter(|host| queued(host)).take(CHUNK);
        let known: Vec<_> = known.filter_map(|host| self.job.entry(&host).map(|entry| (host, entry))).collect();
        if known.is_empty() || now > self.job.manifest.start_by_ms {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for (host, entry) in &known {
            pipeline.cmd("XRANGE").arg(fleet.keys.commands(host)).arg(entry).arg(entry);
        }
        let found: Vec<Vec<redis::Value>> = fleet.query(&pipeline).await?;
        let gone = known.into_iter().zip(found).filter(|(_, found)| found.is_empty());
        let gone: HashSet<HostName> = gone.map(|((host, _), _)| host).collect();
        // A worker acknowledges after it has answered, so the answer may just have come: look once more.
        let lost: Vec<HostName> = gone.intersection(&self.missed).cloned().collect();
        self.missed = gone;
        if !lost.is_empty() {
            self.printer.warn(&format!("Redis has lost the command of {}", crate::summary::hosts(lost.len())));
            self.resend(fleet, &lost).await?;
        }
        Ok(())
    }

    async fn resend(&mut self, fleet: &mut Fleet, hosts: &[HostName]) -> Result<(), RedisError> {
        // What a worker drops again and again is not lost.
        if !self.asks_again || self.times_asked_again >= MOST_ASKED_AGAIN {
            return Ok(());
        }
        self.times_asked_again += 1;
        dispatch::send(fleet, self.job, hosts).await.map_err(|unsent| unsent.error)?;
        self.missed.clear();
        self.printer.note("asked again under the same id");
        Ok(())
    }

    /// One attempt to reach Redis again, after a pause.
    async fn recover(&mut self, fleet: &mut Fleet, error: &RedisError) -> anyhow::Result<()> {
        if self.away.is_none() {
            self.printer.note(&format!("{}; trying again …", fleet.explain(error)));
        }
        let pause = self.away.get_or_insert(Backoff::new(BLOCK)).delay();
        tokio::time::sleep(pause).await;
        self.next_look = Instant::now();
        match fleet.reconnect().await {
            Err(error) if !passes(&error) => Err(fleet.explain(&error).into()),
            // Still away: the next attempt follows, as the old connection is dead.
            _ => Ok(()),
        }
    }
}
