//! The writing side: everything that the worker says goes through here, in order.
//!
//! What must not be lost (outcomes, acknowledgements) waits here while Redis is away; what is only
//! current (status, metrics, facts) is dropped then, as it will be said anew.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use protocol::{
    clock::FleetClock,
    connection::{self, Address, Backoff},
    control::Control,
    event::{Event, EventKind, Stream},
    keys::GROUP,
    limits,
    name::JobId,
    outcome::{Outcome, State},
    scripts::PUBLISH_STATE,
    status::Status,
};
use redis::{Pipeline, RedisError, ServerError, aio::MultiplexedConnection, pipe};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{
    Identity,
    fault::{self, Bug, Point},
    metrics::{Figures, Group},
};

/// Something to write.
pub(crate) enum Write {
    /// A command's state changed, but it has not ended.
    State { job: JobId, state: State, retention: Duration },
    /// A command ended: publish, then acknowledge and delete its entry, where that has been read.
    Outcome {
        entry: Option<String>,
        job: JobId,
        outcome: Box<Outcome>,
        metrics: Vec<(Group, Figures)>,
        retention: Duration,
    },
    /// A running command wrote something.
    Output { job: JobId, stream: Stream, offset: u64, data: Vec<u8>, retention: Duration },
    /// An entry needs no answer: acknowledge and delete it.
    Discard { entry: String },
    /// A control entry has been read: acknowledge and delete it.
    Control { entry: String },
    /// Wake the own reader.
    Wake,
    /// Fresh figures.
    Metrics(Vec<(Group, Figures)>),
    /// The heartbeat.
    Status(Box<Status>),
    /// Inventory, catalogue and labels.
    Facts { facts: Vec<(String, String)>, labels: Vec<(String, String)> },
}

impl Write {
    /// Whether it must be written however long it takes.
    fn must(&self) -> bool {
        !matches!(self, Self::Metrics(_) | Self::Status(_) | Self::Facts { .. })
    }

    /// The inbox entry that it settles.
    fn settles(&self) -> Option<&String> {
        match self {
            Self::Outcome { entry, .. } => entry.as_ref(),
            Self::Discard { entry } => Some(entry),
            _ => None,
        }
    }

    /// The job that it tells of: what is said of one job must be said in order.
    fn job(&self) -> Option<JobId> {
        match self {
            Self::State { job, .. } | Self::Outcome { job, .. } | Self::Output { job, .. } => Some(*job),
            _ => None,
        }
    }
}

/// What the dispatcher hears back.
pub(crate) enum Notice {
    /// The entry is acknowledged and deleted.
    Settled { entry: String },
    /// Redis takes writes, for the first time or again: what is current must be said anew.
    Open,
    /// The fleet's clock, read with a heartbeat.
    Clock(FleetClock),
}

pub(crate) struct Publisher {
    identity: Arc<Identity>,
    address: Address,
    writes: mpsc::UnboundedReceiver<Write>,
    notices: mpsc::UnboundedSender<Notice>,
    /// What is to be written next, in order.
    queue: Vec<Write>,
    /// When each group's newest figures were taken (RFC 3339, so that text compares like time).
    newest: HashMap<Group, String>,
    /// Whether the current refusal of Redis has been logged.
    complained: bool,
}

impl Publisher {
    pub(crate) fn new(
        identity: Arc<Identity>,
        address: Address,
        writes: mpsc::UnboundedReceiver<Write>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Self {
        Self { identity, address, writes, notices, queue: Vec::new(), newest: HashMap::new(), complained: false }
    }

    /// Writes until the sender has gone and all is written.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_secs(5));
        loop {
            if let Ok(mut redis) = self.address.connect().await {
                backoff.reset();
                self.notify(Notice::Open);
                if self.session(&mut redis, &mut backoff).await.is_ok() {
                    return;
                }
            }
            if self.pause(backoff.delay()).await {
                return;
            }
        }
    }

    /// Writes over one connection. `Ok`: all is written and nobody will say more.
    async fn session(&mut self, redis: &mut MultiplexedConnection, backoff: &mut Backoff) -> Result<(), RedisError> {
        loop {
            if self.queue.is_empty() {
                match self.writes.recv().await {
                    Some(write) => self.enqueue(write),
                    None => return Ok(()),
                }
            }
            while let Ok(write) = self.writes.try_recv() {
                self.enqueue(write);
            }
            match self.flush(redis).await {
                Ok(()) => {
                    backoff.reset();
                    if std::mem::take(&mut self.complained) {
                        tracing::info!("Redis takes writes again");
                        self.notify(Notice::Open);
                    }
                }
                Err(error) if connection::is_broken(&error) => {
                    tracing::debug!("lost the writing connection: {error}");
                    return Err(error);
                }
                Err(error) => {
                    self.complain(&error);
                    if self.pause(backoff.delay()).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Queues a write. A sample that began before a collect may arrive after it: older figures never
    /// replace newer ones.
    fn enqueue(&mut self, mut write: Write) {
        if let Write::Metrics(metrics) | Write::Outcome { metrics, .. } = &mut write {
            metrics.retain(|(group, figures)| {
                let sampled_at = figures.get("sampled_at").and_then(Value::as_str).unwrap_or_default();
                let newest = self.newest.entry(*group).or_default();
                let newer = sampled_at >= newest.as_str();
                if newer {
                    sampled_at.clone_into(newest);
                }
                newer
            });
        }
        self.queue.push(write);
    }

    /// Waits; meanwhile keeps what must be written and drops the rest. `true`: nobody will say more
    /// and nothing is left.
    async fn pause(&mut self, delay: Duration) -> bool {
        self.queue.retain(Write::must);
        let end = tokio::time::Instant::now() + delay;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(end) => return false,
                write = self.writes.recv() => match write {
                    Some(write) if write.must() => self.enqueue(write),
                    Some(_) => {}
                    None if self.queue.is_empty() => return true,
                    None => {
                        tokio::time::sleep_until(end).await;
                        return false;
                    }
                },
            }
        }
    }

    /// Writes the whole queue at once; where Redis refuses that, one by one, so that one bad write
    /// does not hold up the others.
    async fn flush(&mut self, redis: &mut MultiplexedConnection) -> Result<(), RedisError> {
        match self.write(redis, 0..self.queue.len()).await {
            Ok(()) => {
                self.queue.clear();
                Ok(())
            }
            Err(error) if connection::is_broken(&error) => Err(error),
            Err(_) => {
                let (mut refused, mut held) = (None, HashSet::new());
                let mut at = 0;
                while at < self.queue.len() {
                    let job = self.queue[at].job();
                    if job.is_some_and(|job| held.contains(&job)) {
                        at += 1;
                        continue;
                    }
                    match self.write(redis, at..at + 1).await {
                        Ok(()) => drop(self.queue.remove(at)),
                        Err(error) if connection::is_broken(&error) => return Err(error),
                        Err(error) if is_permanent(&error) => self.abandon(redis, at, &error).await?,
                        Err(error) => {
                            refused = Some(error);
                            // Redis may take the next one, and a state must not come after the end.
                            held.extend(job);
                            at += 1;
                        }
                    }
                }
                refused.map_or(Ok(()), Err)
            }
        }
    }

    /// Gives up a write that Redis will never take: a key of another type stands where ours belongs.
    async fn abandon(
        &mut self,
        redis: &mut MultiplexedConnection,
        at: usize,
        error: &RedisError,
    ) -> Result<(), RedisError> {
        tracing::error!("Redis will not take a write, it is given up: {}", brief(error));
        if let Some(entry) = self.queue.remove(at).settles().cloned() {
            self.queue.insert(at, Write::Discard { entry });
            match self.write(redis, at..at + 1).await {
                Err(error) if connection::is_broken(&error) => return Err(error),
                // Where not even that can be written, nothing of the inbox is left to be settled.
                _ => drop(self.queue.remove(at)),
            }
        }
        Ok(())
    }

    /// Writes a part of the queue: first, in one transaction, all that is said; once Redis has taken
    /// that, the acknowledgements. Every step may be repeated without harm.
    async fn write(&self, redis: &mut MultiplexedConnection, range: Range<usize>) -> Result<(), RedisError> {
        let writes = &self.queue[range];
        if fault::planted(Bug::AckBeforeResult) {
            self.settle_all(redis, writes).await?;
        }
        self.say_all(redis, writes).await?;
        self.settle_all(redis, writes).await?;
        for entry in writes.iter().filter_map(Write::settles) {
            self.notify(Notice::Settled { entry: entry.clone() });
        }
        Ok(())
    }

    async fn say_all(&self, redis: &mut MultiplexedConnection, writes: &[Write]) -> Result<(), RedisError> {
        let mut pipe = pipe();
        pipe.atomic();
        for write in writes {
            self.say(&mut pipe, write);
        }
        if writes.iter().any(|write| matches!(write, Write::Status(_))) {
            pipe.cmd("TIME");
        }
        if !pipe.is_empty() {
            let times: Vec<(u64, u64)> = pipe.query_async(redis).await?;
            for time in times {
                self.notify(Notice::Clock(FleetClock::from_redis(time)));
            }
        }
        if writes.iter().any(|write| matches!(write, Write::Outcome { .. })) {
            fault::point(Point::Published);
        }
        Ok(())
    }

    async fn settle_all(&self, redis: &mut MultiplexedConnection, writes: &[Write]) -> Result<(), RedisError> {
        let mut pipe = pipe();
        for write in writes {
            self.settle(&mut pipe, write);
        }
        if !pipe.is_empty() {
            let () = pipe.query_async(redis).await?;
        }
        if writes.iter().any(|write| matches!(write, Write::Outcome { .. })) {
            fault::point(Point::Settled);
        }
        Ok(())
    }

    fn say(&self, pipe: &mut Pipeline, write: &Write) {
        let Identity { host, keys } = &*self.identity;
        match write {
            Write::State { job, state, retention } => self.say_state(pipe, *job, *state, *retention, "any", &[]),
            Write::Outcome { entry, job, outcome, metrics, retention } => {
                say_metrics(pipe, &self.identity, metrics);
                // Without an entry nothing vouches for the job.
                let jobs = if entry.is_some() { "any" } else { "known" };
                self.say_state(pipe, *job, outcome.state, *retention, jobs, &outcome.fields());
            }
            Write::Output { job, stream, offset, data, retention } => {
                let kind = EventKind::Output { stream: *stream, offset: *offset, data: data.clone() };
                self.say_event(pipe, *job, kind, *retention);
            }
            Write::Wake => {
                let maxlen = redis::streams::StreamMaxlen::Approx(limits::CONTROL_ENTRIES);
                pipe.xadd_maxlen(keys.control(host), maxlen, "*", &Control::Wake.fields()).ignore();
            }
            Write::Metrics(metrics) => say_metrics(pipe, &self.identity, metrics),
            Write::Status(status) => {
                let key = keys.status(host);
                pipe.hset_multiple(&key, &status.fields()).ignore();
                expire(pipe, &key, limits::HOST_RETENTION);
                pipe.zadd(keys.servers(), host.as_str(), status.last_seen_ms).ignore();
                if fault::planted(Bug::TrimLive) {
                    pipe.cmd("XTRIM").arg(keys.commands(host)).arg("MAXLEN").arg(0).ignore();
                }
            }
            Write::Facts { facts, labels } => {
                for (key, fields) in [(keys.facts(host), facts), (keys.labels(host), labels)] {
                    pipe.del(&key).ignore();
                    if !fields.is_empty() {
                        pipe.hset_multiple(&key, fields).ignore();
                        expire(pipe, &key, limits::HOST_RETENTION);
                    }
                }
                let oldest = -limits::HOSTS.cast_signed() - 1;
                pipe.zremrangebyrank(keys.servers(), 0, oldest).ignore();
            }
            Write::Discard { .. } | Write::Control { .. } => {}
        }
    }

    fn say_state(
        &self,
        pipe: &mut Pipeline,
        job: JobId,
        state: State,
        retention: Duration,
        jobs: &str,
        result: &[Field],
    ) {
        let Identity { host, keys } = &*self.identity;
        pipe.cmd("EVAL").arg(PUBLISH_STATE).arg(4);
        pipe.arg(keys.job_hosts(job)).arg(keys.job_events(job)).arg(keys.job_result(job, host)).arg(keys.job(job));
        pipe.arg(host.as_str()).arg(state.as_str()).arg(retention.as_secs().max(1)).arg(limits::EVENTS).arg(jobs);
        for (name, value) in result {
            pipe.arg(name).arg(value);
        }
        pipe.ignore();
    }

    fn say_event(&self, pipe: &mut Pipeline, job: JobId, kind: EventKind, retention: Duration) {
        let Identity { host, keys } = &*self.identity;
        let events = keys.job_events(job);
        let maxlen = redis::streams::StreamMaxlen::Approx(limits::EVENTS);
        pipe.xadd_maxlen(&events, maxlen, "*", &Event { host: host.clone(), kind }.fields()).ignore();
        // Where a state was said before, that has set it already.
        pipe.cmd("EXPIRE").arg(&events).arg(retention.as_secs().max(1)).arg("NX").ignore();
    }

    fn settle(&self, pipe: &mut Pipeline, write: &Write) {
        let Identity { host, keys } = &*self.identity;
        let mut settle = |key: String, entry: &String| {
            pipe.xack(&key, GROUP, &[entry]).ignore();
            pipe.xdel(&key, &[entry]).ignore();
        };
        if let Some(entry) = write.settles() {
            settle(keys.commands(host), entry);
        }
        if let Write::Control { entry } = write {
            settle(keys.control(host), entry);
        }
    }

    fn notify(&self, notice: Notice) {
        // Nobody listens any more once the worker is stopping.
        let _ = self.notices.send(notice);
    }

    fn complain(&mut self, error: &RedisError) {
        if !std::mem::replace(&mut self.complained, true) {
            let waiting = self.queue.iter().filter(|write| write.must()).count();
            tracing::warn!("Redis refuses writes: {}; {waiting} wait here and are tried again", brief(error));
        }
    }
}

/// A field of a result hash.
type Field = (&'static str, Vec<u8>);

/// Errors that no later attempt can cure.
fn is_permanent(error: &RedisError) -> bool {
    refusals(error).iter().any(|(_, refusal)| refusal.code() == "WRONGTYPE")
}

/// A transaction is mostly refused for one reason, which Redis gives for each of its commands.
fn brief(error: &RedisError) -> String {
    refusals(error).first().map_or_else(|| error.to_string(), |(_, refusal)| refusal.to_string())
}

/// What the server said to the commands of a transaction that it refused.
fn refusals(error: &RedisError) -> Arc<[(usize, ServerError)]> {
    error.clone().into_server_errors().unwrap_or_default()
}

fn expire(pipe: &mut Pipeline, key: &str, after: Duration) {
    pipe.expire(key, after.as_secs().try_into().unwrap_or(i64::MAX)).ignore();
}

/// Replaces each group's hash, so that a mount or interface that is gone leaves no old figures.
fn say_metrics(pipe: &mut Pipeline, identity: &Identity, metrics: &[(Group, Figures)]) {
    for (group, figures) in metrics {
        let key = identity.keys.metrics(&identity.host, *group);
        let fields: Vec<(&String, String)> = figures.iter().map(|(name, value)| (name, plain(value))).collect();
        pipe.del(&key).ignore();
        if !fields.is_empty() {
            pipe.hset_multiple(&key, &fields).ignore();
            expire(pipe, &key, limits::METRICS_RETENTION);
        }
    }
}

/// A figure as a hash field: text without quotes, everything else as JSON.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
