//! The writing side: everything that the worker publishes goes through here, in order.
//!
//! Writes that must not be lost (such as outcomes and acknowledgements) wait here while Redis is away or refuses them.
//! Of status, metrics and facts, only the newest of each waits, and of the history the newest steps.

mod write;

use std::{
    collections::{BTreeMap, HashMap},
    mem::discriminant,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use protocol::{
    clock::{FleetClock, millis},
    connection::{self, Address, Backoff, Connection, Transacted},
    keys::CONSUMER_GROUP,
    limits,
    name::JobId,
    scripts::TRIM_HANDLED,
    time::Millis,
};
use redis::{RedisError, pipe};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

pub(crate) use self::write::{Write, plain};
use crate::{
    fault::{self, Bug, Point},
    identity::Identity,
    metrics::{Topic, history},
};

/// How long before a key expires nobody asks any more whether it exists.
const ABOUT_TO_EXPIRE: Duration = Duration::from_secs(60);

/// So many entries at once are a flood: their stream is trimmed.
const MANY: usize = 100;

/// What the publisher and others report to the dispatcher.
pub(crate) enum Notice {
    /// The entries of the inbox are acknowledged and deleted.
    Acknowledged { entries: Vec<String> },
    /// Redis takes writes, for the first time or again: status, metrics and facts must be published anew.
    Open,
    /// The order to cancel this job could not be recorded.
    Unrecorded(JobId),
    /// Keys of this host that were published are gone.
    Vanished,
    /// The fleet's clock, read with a heartbeat.
    Clock(FleetClock),
    /// Since when no `ctl serve` lives, where the fleet had one.
    ServeMissing(Option<Millis>),
}

pub(crate) struct Publisher {
    identity: Arc<Identity>,
    address: Address,
    writes: mpsc::UnboundedReceiver<Write>,
    notices: mpsc::UnboundedSender<Notice>,
    /// The writes that wait, in order.
    queue: Vec<Write>,
    /// When the newest figures about each topic were taken (RFC 3339, so that text compares like time).
    newest: HashMap<Topic, String>,
    /// The keys that hold facts, labels and figures of this host, and when they expire. Until then each heartbeat asks
    /// whether they exist.
    kept: BTreeMap<String, Instant>,
    /// Whether the current refusal of Redis has been logged.
    complained: bool,
    /// When to look next whether a `ctl serve` lives.
    look_for_serve: Instant,
}

impl Publisher {
    pub(crate) fn new(
        identity: Arc<Identity>,
        address: Address,
        writes: mpsc::UnboundedReceiver<Write>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Self {
        Self {
            identity,
            address,
            writes,
            notices,
            queue: Vec::new(),
            newest: HashMap::new(),
            kept: BTreeMap::new(),
            complained: false,
            look_for_serve: Instant::now(),
        }
    }

    /// Writes until the sender has gone and all is written.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_secs(5));
        loop {
            if let Ok(mut redis) = self.address.connect().await {
                backoff.reset();
                self.look_for_serve = Instant::now();
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

    /// Writes over one connection. `Ok`: all is written and nothing more will come.
    async fn session(&mut self, redis: &mut Connection, backoff: &mut Backoff) -> Result<(), RedisError> {
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
                    // A Redis that still loads its data is away, as the reader reports.
                    if error.code() != Some("LOADING") {
                        self.complain(&error);
                    }
                    if self.pause(backoff.delay()).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Queues a write. Status, metrics and facts replace the queued write of their kind. A sample that began before a
    /// collect may arrive after it: older figures never replace newer ones.
    fn enqueue(&mut self, mut write: Write) {
        if let Write::History(new) = &mut write {
            let waiting = self.queue.iter_mut().find_map(|queued| match queued {
                Write::History(steps) => Some(steps),
                _ => None,
            });
            let mut steps = waiting.map(std::mem::take).unwrap_or_default();
            history::queue(&mut steps, std::mem::take(new));
            *new = steps;
        }
        if !write.must() {
            self.queue.retain(|queued| discriminant(queued) != discriminant(&write));
        }
        if let Write::Metrics(metrics) | Write::Outcome { metrics, .. } = &mut write {
            metrics.retain(|(topic, figures)| {
                let sampled_at = figures.get("sampled_at").and_then(Value::as_str).unwrap_or_default();
                let newest = self.newest.entry(topic.clone()).or_default();
                let newer = sampled_at >= newest.as_str();
                if newer {
                    sampled_at.clone_into(newest);
                }
                newer
            });
        }
        self.queue.push(write);
    }

    /// Waits, and queues the writes that come meanwhile. `true`: no queued write must be written, and no more come.
    async fn pause(&mut self, delay: Duration) -> bool {
        let end = Instant::now() + delay;
        while let Ok(write) = timeout_at(end, self.writes.recv()).await {
            match write {
                Some(write) => self.enqueue(write),
                None if !self.queue.iter().any(Write::must) => return true,
                None => {
                    sleep_until(end).await;
                    break;
                }
            }
        }
        false
    }

    /// Publishes the queue in one round trip, and acknowledges the entries of taken writes. Refused writes stay queued.
    ///
    /// # Errors
    /// The connection broke, or the first refusal. Every step may be repeated without harm: a state never
    /// replaces a terminal one, and output carries its offset. (Progress may be shown twice.)
    async fn flush(&mut self, redis: &mut Connection) -> Result<(), RedisError> {
        if fault::planted(Bug::AckBeforeResult) {
            let all: Vec<&Write> = self.queue.iter().collect();
            self.acknowledge(redis, &all).await?;
        }
        let refusals = self.publish(redis).await?;

        let mut first = None;
        let (mut written, mut refused) = (Vec::new(), Vec::new());
        for (write, refusal) in std::mem::take(&mut self.queue).into_iter().zip(refusals) {
            match refusal {
                None => written.push(write),
                Some(error) if is_permanent(&error) => {
                    // The rest of the write is done. Without an acknowledgement the entry would only come back.
                    tracing::error!("Redis will not take a write, it is given up: {error}");
                    written.push(write);
                }
                Some(error) => {
                    first.get_or_insert(error);
                    refused.push(write);
                }
            }
        }
        let kept = written.iter().flat_map(|write| write.kept_keys(&self.identity));
        self.kept.extend(kept.map(|(key, keep)| (key, Instant::now() + keep)));
        let acknowledged = self.acknowledge(redis, &written.iter().collect::<Vec<_>>()).await;
        if acknowledged.is_err() {
            // Publishing again does no harm, and a later acknowledgement needs it.
            refused.extend(written.into_iter().filter(|write| write.entries().is_some()));
        }
        self.queue = refused;
        acknowledged?;
        first.map_or(Ok(()), Err)
    }

    /// Publishes the whole queue. Returns for each write the error with which Redis refused it, if it did.
    async fn publish(&mut self, redis: &mut Connection) -> Result<Vec<Option<RedisError>>, RedisError> {
        // Figures come before the outcome that reports them. All writes about one job are one transaction: an output or
        // a state that was refused alone would come after the job's end when it is tried again.
        let (mut transactions, mut jobs, mut at) = (Vec::new(), Vec::new(), HashMap::new());
        let mut places = Vec::new();
        for write in &self.queue {
            let first = transactions.len();
            transactions.extend(write.host_transactions(&self.identity));
            let job = write.job().map(|job| *at.entry(job).or_insert(jobs.len()));
            if let Some(place) = job {
                if place == jobs.len() {
                    jobs.push(pipe());
                }
                write.job_commands(&self.identity, &mut jobs[place]);
            }
            places.push((first..transactions.len(), job));
        }
        let of_host = transactions.len();
        transactions.extend(jobs);
        let is_heartbeat = self.queue.iter().any(|write| matches!(write, Write::Status(_)));
        // What may be about to expire says nothing: figures that cannot be sampled any more are gone in time.
        let kept_until = Instant::now() + ABOUT_TO_EXPIRE;
        let kept: Vec<&String> =
            self.kept.iter().filter(|(_, expires)| **expires > kept_until).map(|(key, _)| key).collect();
        if is_heartbeat {
            let (mut exist, mut time) = (pipe(), pipe());
            let Identity { host, keys, .. } = &*self.identity;
            exist.cmd("EXISTS").arg(keys.status(host)).arg(&kept);
            time.cmd("TIME");
            transactions.extend([exist, time]);
        }
        let looks_for_serve = is_heartbeat && Instant::now() >= self.look_for_serve;
        if looks_for_serve {
            let mut newest = pipe();
            newest.zrevrange_withscores(self.identity.keys.serving(), 0, 0);
            transactions.push(newest);
            self.look_for_serve = Instant::now() + limits::SERVE_LOOK;
        }

        let mut results = redis.transact(&transactions).await?;
        // Where it may not be asked, nothing is known.
        let newest = looks_for_serve.then(|| results.pop().and_then(read::<Vec<(Vec<u8>, f64)>>)).flatten();
        if is_heartbeat {
            if let Some(time) = results.pop().and_then(read::<(u64, u64)>) {
                let clock = FleetClock::from_redis(time);
                self.notify(Notice::Clock(clock));
                if let Some(newest) = newest {
                    self.notify(Notice::ServeMissing(missing_since(&newest, clock.now())));
                }
            }
            let exist = results.pop().and_then(read::<usize>);
            if exist.is_some_and(|exist| exist < 1 + kept.len()) {
                self.notify(Notice::Vanished);
            }
        }
        let refusal = |(host, job): (Range<usize>, Option<usize>)| {
            let mut places = host.chain(job.map(|place| of_host + place));
            places.find_map(|place| results[place].as_ref().err().cloned())
        };
        let refusals = places.into_iter().map(refusal).collect();
        if self.queue.iter().any(|write| matches!(write, Write::Outcome { .. })) {
            fault::point(Point::Published);
        }
        Ok(refusals)
    }

    /// Acknowledges and deletes the entries of these writes.
    async fn acknowledge(&self, redis: &mut Connection, writes: &[&Write]) -> Result<(), RedisError> {
        let Identity { host, keys, .. } = &*self.identity;
        let entries = writes.iter().filter_map(|write| write.entries());
        let (control, commands): (Vec<_>, Vec<_>) = entries.partition(|(_, is_control)| *is_control);
        let mut pipe = pipe();
        for (key, entries) in [(keys.commands(host), &commands), (keys.control(host), &control)] {
            let entries: Vec<_> = entries.iter().flat_map(|(entries, _)| *entries).collect();
            let Some(last) = entries.len().checked_sub(1) else { continue };
            let (flood, rest) = entries.split_at(if last >= MANY { last } else { 0 });
            if !flood.is_empty() {
                // As the last one is still pending, Redis knows up to where all are handled.
                pipe.xack(&key, CONSUMER_GROUP, flood).ignore();
                pipe.cmd("EVAL").arg(TRIM_HANDLED).arg(1).arg(&key).arg(CONSUMER_GROUP).ignore();
            }
            pipe.xack(&key, CONSUMER_GROUP, rest).ignore();
            // An older command that still runs may have kept them from being trimmed.
            pipe.xdel(&key, &entries).ignore();
        }
        let done: Result<(), _> = if pipe.is_empty() { Ok(()) } else { pipe.query_async(redis).await };
        // Another type of key in the stream's place: there is nothing left to acknowledge.
        done.or_else(|error| if is_permanent(&error) { Ok(()) } else { Err(error) })?;

        if writes.iter().any(|write| matches!(write, Write::Outcome { .. })) {
            fault::point(Point::Settled);
        }
        if !commands.is_empty() {
            let entries = commands.into_iter().flat_map(|(entries, _)| entries).cloned().collect();
            self.notify(Notice::Acknowledged { entries });
        }
        Ok(())
    }

    fn notify(&self, notice: Notice) {
        // While the worker stops, nothing receives notices.
        let _ = self.notices.send(notice);
    }

    fn complain(&mut self, error: &RedisError) {
        if !std::mem::replace(&mut self.complained, true) {
            let waiting = self.queue.iter().filter(|write| write.must()).count();
            tracing::warn!("Redis refuses writes: {error}; {waiting} wait here and are tried again");
        }
    }
}

/// Whether no later attempt can cure the error: a key of another type stands where ours belongs.
fn is_permanent(error: &RedisError) -> bool {
    // A failed pipeline lists the errors of its commands.
    let errors = error.clone().into_server_errors().unwrap_or_default();
    error.code() == Some("WRONGTYPE") || errors.iter().any(|(_, error)| error.code() == "WRONGTYPE")
}

/// Since when no `ctl serve` lives, by the newest heartbeat of any. Where there was none, none is missing.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn missing_since(newest: &[(Vec<u8>, f64)], now: Millis) -> Option<Millis> {
    let seen_ms = newest.first()?.1 as Millis;
    (now >= seen_ms.saturating_add(millis(limits::SERVE_MISSING_AFTER))).then_some(seen_ms)
}

fn read<T: redis::FromRedisValue>(reply: Transacted) -> Option<T> {
    redis::from_redis_value(reply.ok()?.pop()?).ok()
}
