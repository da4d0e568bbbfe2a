//! Following a job until every host has ended, or cannot be expected to any more.
//!
//! The events stream reports early *that* something happened; the details are read from the job's hashes. These are
//! also read every few seconds and after every reconnect, so an event that was trimmed or lost delays a result but
//! never hides it.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Instant,
};

use protocol::{
    clock::millis,
    connection::Backoff,
    event::{self, EventKind},
    keys::{self, Keys},
    limits,
    name::HostName,
    outcome::State,
    statement::Report,
    status::Status,
    time::{Millis, read_moment},
};
use redis::Cmd;

use super::{
    dispatch::Redispatch,
    error::{Error, WrongType},
    events::{Absent, Damage, Event, HostResult},
    fleet::{BLOCK, CHUNK, Fleet, RawHash, fields, text_fields},
    jobs::Job,
    outputs::{Outputs, by_key, has_everything},
    verdict::{self, Awaited, Course},
    witness::{Names, Strangers, Testimony},
};

/// Follows one job. It keeps its place over lost connections and dropped futures.
#[derive(Debug)]
pub struct Follower<'a> {
    job: &'a Job,
    /// What the hosts' statements may name the command by.
    names: Names,
    hosts: BTreeMap<HostName, Awaited>,
    /// How many hosts are not done.
    waiting: usize,
    /// The last entry of the event stream that was read.
    cursor: String,
    next_look: Instant,
    /// Attempts to reach Redis again, while it is away.
    away: Option<Backoff>,
    redispatch: Redispatch<'a>,
    watches_output: bool,
    /// What becomes of the keys of hosts of which none is known.
    strangers: Strangers,
    outputs: Outputs,
    /// Whether hosts that are offline and have not begun are left.
    leaves_offline: bool,
    /// Whether hosts that have begun and went offline are left, too, and none is awaited beyond the last moment.
    leaves_silent: bool,
    /// How many hosts were offline at the last look, and have not begun.
    offline: usize,
    /// Before that, Redis was away, and a missing heartbeat says nothing.
    heartbeats_from: Instant,
    /// Events that were not delivered yet.
    events: VecDeque<Event>,
    /// Hosts that are done and whose [`Event::Finished`] was not delivered yet.
    finished: VecDeque<HostName>,
    /// How many of these, counted from the front, have no output left to read.
    caught_up: usize,
}

/// The reply to `XREAD`: each stream's name, then entries of id and fields.
type Streams = Option<Vec<(Vec<u8>, Vec<(String, RawHash)>)>>;

impl<'a> Follower<'a> {
    /// Follows a job that was just dispatched: waits for events at once.
    pub fn of_new(job: &'a Job) -> Self {
        let mut hosts: BTreeMap<_, _> =
            job.targets().hosts().map(|host| (host.clone(), Awaited::new(host.clone()))).collect();
        let finished: VecDeque<_> = job.damaged.keys().cloned().collect();
        for (host, key) in &job.damaged {
            if let Some(awaited) = hosts.get_mut(host) {
                awaited.result.damage_with(key.clone().into());
                awaited.done = true;
            }
        }
        Self {
            job,
            names: Names::of(&job.record.signed.bytes, &job.record.signed.signature),
            waiting: hosts.len() - finished.len(),
            hosts,
            cursor: "0".into(),
            next_look: Instant::now() + BLOCK,
            away: None,
            redispatch: Redispatch::new(job),
            watches_output: false,
            strangers: Strangers::Meet,
            outputs: Outputs::default(),
            leaves_offline: false,
            leaves_silent: false,
            offline: 0,
            heartbeats_from: Instant::now(),
            events: VecDeque::new(),
            finished,
            caught_up: 0,
        }
    }

    /// Follows a job of some time ago: reads its states before it waits for events.
    pub fn of_old(job: &'a Job) -> Self {
        Self { next_look: Instant::now(), ..Self::of_new(job) }
    }

    /// The caller knows already that these hosts are absent: they are not reported.
    pub fn known_absent(&mut self, absent: &[Absent]) {
        for absent in absent {
            if let Some(awaited) = self.hosts.get_mut(&absent.host).filter(|awaited| !awaited.done) {
                awaited.absence_reported = true;
                self.offline += usize::from(!std::mem::replace(&mut awaited.offline, true));
            }
        }
    }

    /// Ends the waiting once only hosts remain that are offline and have not begun: see [`Self::left`]. A host that
    /// returns while others are awaited is awaited again.
    pub const fn leave_offline(&mut self) {
        self.leaves_offline = true;
    }

    /// As [`Self::leave_offline`]. Also leaves hosts that went offline after they had begun, and those that hold a command
    /// back for longer than its start-by and timeout: for a caller that must go on.
    pub const fn leave_silent(&mut self) {
        self.leaves_offline = true;
        self.leaves_silent = true;
    }

    /// Since when heartbeats can be relied on: Redis may have been away.
    pub const fn heartbeats_from(&self) -> Instant {
        self.heartbeats_from
    }

    /// Reads the results of all hosts that have published no end: Redis may have lost the state, and not the result.
    pub async fn look_for_results(&mut self, fleet: &mut Fleet) -> Result<(), Error> {
        let silent = self.hosts.values().filter(|awaited| !awaited.result.has_ended());
        let silent = silent.map(|awaited| awaited.result.host.clone()).collect();
        self.read_outcomes(fleet, silent, false).await
    }

    /// How many hosts were left: their commands stay queued.
    pub fn left(&self) -> usize {
        if self.leaves_offline && Instant::now() >= self.heartbeats_from { self.offline } else { 0 }
    }

    /// Follows the job on these hosts alone, unless there are none.
    ///
    /// # Errors
    /// One of them is no host of the job. To be called before anything is read.
    pub fn only(&mut self, hosts: &[HostName]) -> Result<(), Error> {
        if let Some(stranger) = hosts.iter().find(|host| !self.hosts.contains_key(*host)) {
            return Err(Error::NotATarget(stranger.clone(), self.job.id()));
        }
        if !hosts.is_empty() {
            let hosts: HashSet<_> = hosts.iter().collect();
            self.hosts.retain(|host, _| hosts.contains(host));
            self.waiting = self.hosts.len();
        }
        Ok(())
    }

    /// Delivers output, from its beginning. To be called before anything is read.
    pub const fn watch_output(&mut self) {
        self.watches_output = true;
    }

    /// Redispatches also a wave that this process has not claimed: for a caller who has closed its run.
    pub(super) const fn redispatch_wave(&mut self) {
        self.redispatch.permit();
    }

    /// Never redispatches, whatever Redis has lost: for a caller that wants the job to end.
    pub const fn never_redispatch(&mut self) {
        self.redispatch.forbid();
    }

    /// Records no keys of hosts, and sends nothing again: for a caller that only looks at the job.
    pub const fn only_look(&mut self) {
        self.never_redispatch();
        self.strangers = Strangers::Overlook;
    }

    /// Whether all that was read has been delivered.
    pub fn is_drained(&self) -> bool {
        self.events.is_empty() && self.finished.is_empty()
    }

    /// How the job stands on every host, by name.
    pub fn results(&self) -> impl Iterator<Item = &HostResult> {
        self.hosts.values().map(|awaited| &awaited.result)
    }

    /// How the job goes on after a [look](Self::look) at this moment: as where it goes on longest.
    pub(super) fn course(&self, now: Millis) -> Course {
        let courses = self.hosts.values().map(|awaited| awaited.course(self.job.manifest(), now));
        courses.max().unwrap_or(Course::Over)
    }

    /// How the job stands on a host.
    pub fn result(&self, host: &HostName) -> Option<&HostResult> {
        self.hosts.get(host).map(|awaited| &awaited.result)
    }

    /// Waits for the next event; `None` where there is nothing more to wait for. Where Redis is away, it is
    /// tried again for as long as a result can be awaited. Cancel-safe.
    ///
    /// # Errors
    /// An error of Redis that does not pass.
    pub async fn next(&mut self, fleet: &mut Fleet) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.take() {
                return Ok(Some(event));
            }
            if self.waiting == self.left() && self.finished.is_empty() {
                return Ok(None);
            }
            match self.advance(fleet).await {
                Ok(()) if self.away.take().is_some() => {
                    self.heartbeats_from = Instant::now() + limits::OFFLINE_AFTER;
                    self.events.push_front(Event::Reconnected);
                }
                Ok(()) => {}
                Err(error) if error.is_transient() && self.is_awaited(fleet.now()) => {
                    self.next_look = Instant::now();
                    if self.away.is_none() {
                        self.away = Some(Backoff::new(BLOCK));
                        self.events.push_back(Event::Disconnected(error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next event that is there already.
    pub fn take(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if self.watches_output {
            self.caught_up = self.caught_up.checked_sub(1)?;
        }
        let host = self.finished.pop_front()?;
        self.result(&host).cloned().map(|result| Event::Finished(Box::new(result)))
    }

    /// Reads the state of every host, and the available output, without waiting for more. [`Self::take`] delivers the
    /// events.
    pub async fn look(&mut self, fleet: &mut Fleet) -> Result<(), Error> {
        self.read_states(fleet).await?;
        if self.watches_output { self.catch_up(fleet, |_| true).await } else { Ok(()) }
    }

    /// Reads something new from Redis, or waits a while for it.
    async fn advance(&mut self, fleet: &mut Fleet) -> Result<(), Error> {
        if let Some(backoff) = &mut self.away {
            tokio::time::sleep(backoff.delay()).await;
            fleet.reconnect().await?;
        }

        if self.watches_output && !self.finished.is_empty() {
            self.catch_up(fleet, |awaited| awaited.done).await
        } else if Instant::now() < self.next_look {
            let wait = self.next_look.saturating_duration_since(Instant::now());
            // BLOCK 0 would wait for ever.
            self.read_events(fleet, Some(millis(wait).max(1))).await.map(drop)
        } else {
            self.read_states(fleet).await
        }
    }

    /// Reads all events, and all output of the hosts that are `wanted`, so that the output of the hosts that have ended
    /// by now is complete. Another that prints faster than can be read does not hold that up.
    async fn catch_up(&mut self, fleet: &mut Fleet, wanted: impl Fn(&Awaited) -> bool) -> Result<(), Error> {
        let finished = self.finished.len();
        loop {
            let mut more = self.read_events(fleet, None).await?.into_iter();
            if !more.any(|stream| stream.is_none_or(|host| self.hosts.get(&host).is_some_and(&wanted))) {
                break;
            }
        }
        self.finished.iter().take(finished).for_each(|host| self.outputs.close(host));
        self.caught_up = finished;
        Ok(())
    }

    /// Reads the states of all hosts, and judges those that are silent.
    async fn read_states(&mut self, fleet: &mut Fleet) -> Result<(), Error> {
        let id = self.job.id();
        let mut pipeline = redis::pipe();
        let keys = fleet.keys();
        pipeline.exists(keys.job(id)).hgetall(keys.job_hosts(id)).hgetall(keys.job_cancels(id));
        let (exists, states, cancels): (bool, RawHash, RawHash) = fleet.query_with_time(&pipeline).await?;
        let now = fleet.now();
        self.next_look = Instant::now() + verdict::pause(self.job.manifest(), now, BLOCK);

        let mut ended = Vec::new();
        let mut states = text_fields(states);
        let hosts: Vec<HostName> = states.keys().filter_map(|host| host.parse().ok()).collect();
        for host in hosts {
            let waits_for = states.remove(&keys::waits_for_field(&host));
            if let Some(Ok(state)) = states.get(host.as_str()).map(|state| state.parse()) {
                self.observe(host, state, waits_for, None, &mut ended);
            }
        }
        self.read_outcomes(fleet, ended, exists).await?;

        let open = self.hosts.values().filter(|awaited| !awaited.done);
        let open: Vec<_> = open.map(|awaited| &awaited.result).collect();
        self.redispatch.check(fleet, exists, &open, &mut self.events).await?;
        self.judge(fleet, now).await?;
        self.observe_cancels(cancels);
        Ok(())
    }

    /// Records which hosts were ordered to cancel the command.
    fn observe_cancels(&mut self, cancels: RawHash) {
        let (mut online, mut offline) = (Vec::new(), Vec::new());
        for (host, moment) in text_fields(cancels) {
            let Ok(host) = host.parse::<HostName>() else { continue };
            let Some(awaited) = self.hosts.get_mut(&host) else { continue };
            let known = awaited.result.cancel_ordered_ms;
            awaited.result.cancel_ordered_ms = read_moment(&moment);
            if known.is_none() && !awaited.result.has_ended() {
                if awaited.offline { offline.push(host) } else { online.push(host) }
            }
        }
        if !online.is_empty() || !offline.is_empty() {
            online.sort();
            offline.sort();
            self.events.push_back(Event::CancelOrdered { online, offline });
        }
    }

    /// Reads what has come since, or waits for it. Returns the streams that had more than one reading takes: of the
    /// output of a host, or `None` for the events.
    async fn read_events(&mut self, fleet: &mut Fleet, block: Option<Millis>) -> Result<Vec<Option<HostName>>, Error> {
        let job = self.job.id();
        let mut pipeline = redis::pipe();
        pipeline.cmd("XREAD").arg("COUNT").arg(CHUNK);
        if let Some(block) = block {
            pipeline.arg("BLOCK").arg(block);
        }
        let places = self.outputs.places(fleet.keys(), job);
        pipeline.arg("STREAMS").arg(fleet.keys().job_events(job));
        pipeline.arg(places.iter().map(|(key, ..)| key).collect::<Vec<_>>()).arg(&self.cursor);
        pipeline.arg(places.iter().map(|(_, _, last)| last).collect::<Vec<_>>());
        let hosts = by_key(&places);
        let (streams,): (Streams,) = fleet.query_blocking(&pipeline).await?;

        let streams = streams.unwrap_or_default();
        let more = streams.iter().filter(|(_, entries)| entries.len() >= CHUNK);
        let more = more.map(|(key, _)| hosts.get(key).cloned()).collect();
        let (mut events, mut ended) = (Vec::new(), Vec::new());
        for (key, entries) in streams {
            match hosts.get(&key) {
                Some(host) => self.events.extend(self.outputs.take(host, entries)),
                None => events = entries,
            }
        }
        for (id, values) in events {
            let at = id.split('-').next().and_then(|moment| moment.parse().ok());
            let event = event::Event::from_fields(&fields(values));
            if let Some(event::Event { host, kind, decision }) =
                event.filter(|event| self.hosts.contains_key(&event.host))
            {
                match kind {
                    EventKind::State(state) => self.observe(host, state, None, at, &mut ended),
                    EventKind::Waits(what) => self.observe(host, State::Delivered, Some(what), at, &mut ended),
                    EventKind::Progress(text) => self.events.push_back(Event::Progress { host, text }),
                    EventKind::CancelOrdered => self.events.extend(refusal(host, decision, at)),
                }
            }
            self.cursor = id;
        }
        self.read_outcomes(fleet, ended, false).await?;
        Ok(more)
    }

    /// Whether a result can be awaited at `now`, though Redis is away.
    fn is_awaited(&self, now: Millis) -> bool {
        let mut open = self.hosts.values().filter(|awaited| !awaited.done);
        now < verdict::last_moment(self.job.manifest()) || open.any(|awaited| awaited.result.waits_for.is_some())
    }

    /// Records a state, with what the command waits for, and by when it was in this state. Adds the host to `ended` if
    /// it has ended and its outcome was not read yet.
    fn observe(
        &mut self,
        host: HostName,
        state: State,
        waits_for: Option<String>,
        at: Option<Millis>,
        ended: &mut Vec<HostName>,
    ) {
        let Some(awaited) = self.hosts.get_mut(&host) else { return };
        // Whoever reports is there.
        self.offline -= usize::from(std::mem::take(&mut awaited.offline));
        let is_news = awaited.observe(state, waits_for.clone(), at);
        if self.watches_output && state != State::Delivered && !awaited.done {
            self.outputs.open(&host);
        }
        if !state.is_terminal() && is_news {
            self.events.push_back(Event::State { host, state, waits_for });
        } else if state.is_terminal() && !awaited.result.has_ended() {
            ended.push(host);
        }
    }

    /// Reads the outcomes of hosts that have ended. `must_exist`: the job is in Redis, so each must be there.
    async fn read_outcomes(&mut self, fleet: &mut Fleet, ended: Vec<HostName>, must_exist: bool) -> Result<(), Error> {
        let job = self.job.id();
        let ask = |keys: &Keys, host: &HostName| [Cmd::hgetall(keys.job_result(job, host))];
        // An event may be of a job that Redis has lost since: the next look decides.
        let read = |host: &HostName, hash: RawHash, damage: Option<WrongType>| match damage {
            Some(key) => Some((host.clone(), Err(Damage::from(key)))),
            None if hash.is_empty() && !must_exist => None,
            None => Some((host.clone(), Report::take(fields(hash)).map_err(Damage::from))),
        };
        let mut outcomes = Vec::new();
        let mut reports = Vec::new();
        for (host, report) in fleet.query_each(&ended, ask, read).await?.into_iter().flatten() {
            match report {
                Ok(report) => reports.push((host, report)),
                Err(damage) => outcomes.push((host, Err(damage))),
            }
        }
        let testimony = |(host, report)| Testimony { host, job, names: self.names, report };
        let (hosts, reports): (Vec<_>, Vec<_>) = reports.into_iter().unzip();
        let testimonies = hosts.iter().zip(reports).map(testimony).collect();
        let believed = fleet.believe(testimonies, self.strangers, Report::open);
        outcomes.extend(hosts.into_iter().zip(believed));
        self.events.extend(fleet.take_notices());
        for (host, outcome) in outcomes {
            // The end of a host is reported once, even if it was published twice.
            let open = self.hosts.get_mut(&host).filter(|awaited| !awaited.result.has_ended());
            let Some(awaited) = open else { continue };
            match outcome {
                Ok(outcome) => {
                    if has_everything(&outcome) {
                        self.outputs.close(&host);
                    }
                    awaited.result.state = outcome.state;
                    awaited.result.outcome = Some(outcome);
                }
                // A result that cannot be trusted is no success.
                Err(damage) => awaited.result.damage_with(damage),
            }
            self.waiting -= usize::from(!awaited.done);
            awaited.done = true;
            self.finished.push_back(host);
        }
        Ok(())
    }

    /// Ends the waiting for hosts that cannot be expected to report, and reports others that are absent.
    async fn judge(&mut self, fleet: &mut Fleet, now: Millis) -> Result<(), Error> {
        let waiting: Vec<_> = self.hosts.values_mut().filter(|awaited| !awaited.done).collect();
        let ask = |keys: &Keys, awaited: &&mut Awaited| [Cmd::hgetall(keys.status(&awaited.result.host))];
        let mut unknown = Vec::new();
        let read = |awaited: &&mut Awaited, status: RawHash, damage: Option<WrongType>| {
            let status = Status::from_fields(&text_fields(status));
            if status.is_none() && damage.is_none() && awaited.result.state == State::Queued {
                unknown.push(awaited.result.host.clone());
            }
            status
        };
        let statuses = fleet.query_each(&waiting, ask, read).await?;
        // A Redis that has lost the job may have lost the hosts with it.
        let keeps = self.redispatch.lost_since_ms.is_none();
        let gone = if keeps { fleet.forgotten(&unknown).await? } else { HashSet::new() };
        let (mut absent, mut silent) = (Vec::new(), Vec::new());
        self.offline = 0;
        for (awaited, status) in waiting.into_iter().zip(statuses) {
            let online = status.as_ref().is_some_and(|status| status.is_online(now));
            let host = awaited.result.host.clone();
            let was_offline = std::mem::take(&mut awaited.offline);
            awaited.online = online;
            awaited.stands_at(now);
            if gone.contains(&host) {
                // [`Fleet::forget`] has thrown the command away.
                awaited.result.forgotten = true;
                silent.push((host, self.job.manifest().issued_at_ms));
                continue;
            }
            let is_late = self.leaves_silent && now > verdict::last_moment(self.job.manifest());
            let verdict = awaited.judge(self.job.manifest(), online, self.redispatch.lost_since_ms, now);
            match verdict.or(is_late.then_some(awaited.result.state)) {
                Some(State::Expired) => {
                    silent.push((host, self.job.manifest().issued_at_ms));
                    continue;
                }
                Some(state) => {
                    awaited.result.state = state;
                    awaited.done = true;
                    self.waiting -= 1;
                    self.finished.push_back(host);
                    continue;
                }
                None => {}
            }

            // Without a status, a host was never seen, or Redis has lost it: nothing is known.
            let is_offline = if status.is_some() { !online } else { was_offline };
            awaited.offline = is_offline && (awaited.result.state == State::Queued || self.leaves_silent);
            self.offline += usize::from(awaited.offline);
            // A host that was never seen may just be starting.
            if let Some(status) = status.filter(|_| !online && !awaited.absence_reported) {
                awaited.absence_reported = true;
                absent.push(Absent { host, seen_ms: Some(status.last_seen_ms), state: awaited.result.state });
            }
        }
        if !absent.is_empty() {
            self.events.push_back(Event::Absent(absent));
        }
        self.judge_silent(fleet, silent).await
    }

    /// Ends the waiting for hosts that have published nothing in time, unless their workers have taken the command.
    async fn judge_silent(&mut self, fleet: &mut Fleet, silent: Vec<(HostName, Millis)>) -> Result<(), Error> {
        let taken = fleet.taken_commands(&silent).await?;
        // A worker may have published and acknowledged since the states were read.
        let id = self.job.id();
        let ask = |keys: &Keys, (host, _): &(HostName, Millis)| [Cmd::hget(keys.job_hosts(id), host.as_str())];
        let heard = fleet.query_each(&silent, ask, |_, state: Option<String>, _| state.is_some()).await?;

        for (((host, _), taken), heard) in silent.into_iter().zip(taken).zip(heard) {
            let Some(awaited) = self.hosts.get_mut(&host) else { continue };
            if heard {
                self.next_look = Instant::now();
            } else if let Some(since) = taken.get(&id) {
                awaited.observe(State::Delivered, None, Some(*since));
                self.events.push_back(Event::State { host, state: State::Delivered, waits_for: None });
            } else {
                awaited.result.state = State::Expired;
                awaited.done = true;
                self.waiting -= 1;
                self.finished.push_back(host);
            }
        }
        Ok(())
    }
}

/// That the host does not obey an order to cancel, if that is what it decided.
fn refusal(host: HostName, decision: Option<event::Decision>, at_ms: Option<Millis>) -> Option<Event> {
    let event::Decision { operator, reason, .. } = decision.filter(|decision| !decision.accepted)?;
    Some(Event::CancelRefused { host, operator, reason: reason.unwrap_or_default(), at_ms })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::{action::Arguments, event::Stream, targets::Targets};

    use super::*;
    use crate::client::jobs::Request;

    fn job() -> Job {
        let request = Request {
            action: "exec".into(),
            arguments: Arguments::new(),
            secrets: Arguments::new(),
            targets: Targets::new(["web1".parse().unwrap()]),
            timeout: Duration::from_secs(60),
            start_by: Duration::from_secs(300),
            retention: Duration::from_secs(3600),
            keep_output: None,
            operator: "ann@desk".into(),
            trace: None,
        };
        Job::new(request, &[], None, 1_790_000_000_000).unwrap()
    }

    #[test]
    fn an_end_is_delivered_behind_all_output() {
        let (job, host) = (job(), "web1".parse::<HostName>().unwrap());
        let mut follower = Follower::of_new(&job);
        follower.watch_output();
        follower.finished.push_back(host.clone());
        assert!(follower.take().is_none(), "its output may not have been read");

        let (stream, offset) = (Stream::Stdout, 0);
        follower.events.push_back(Event::Output { host: host.clone(), stream, offset, data: b"x".to_vec() });
        follower.caught_up = 1;
        assert!(matches!(follower.take(), Some(Event::Output { .. })));
        assert!(matches!(follower.take(), Some(Event::Finished(result)) if result.host == host));
        assert!(follower.take().is_none());
    }

    #[test]
    fn states_are_reported_once_and_ends_are_left_to_the_outcome() {
        let (job, host) = (job(), "web1".parse::<HostName>().unwrap());
        let mut follower = Follower::of_new(&job);
        let mut ended = Vec::new();
        for state in [State::Running, State::Running, State::Succeeded] {
            follower.observe(host.clone(), state, None, None, &mut ended);
        }
        assert!(matches!(follower.take(), Some(Event::State { state: State::Running, .. })));
        assert!(follower.take().is_none());
        assert_eq!((ended, follower.waiting), (vec![host], 1));
    }
}
