//! The centre: owns all of the worker's state in one `select!` and talks in messages.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{
    VERSION,
    action::Repeat,
    clock::{FleetClock, millis},
    command::{EntryError, Manifest},
    control::Control,
    limits,
    name::JobId,
    outcome::{Outcome, State},
    status::Status,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use crate::{
    Config, Identity,
    actions::{Action, Catalogue, Invocation},
    executor::{self, Finished, Stop},
    log::{self, excerpt},
    metrics::{Collector, Group},
    publisher::{Notice, Publisher, Write, plain},
    reader::{Batch, Command, Reader},
};

/// A command that ends sooner is not announced as running: nobody could have seen it, and the
/// announcement would cost Redis as much as the answer.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(20);

/// How often facts and labels are said again, which also renews their time to live.
const FACTS_EVERY: Duration = Duration::from_secs(600);

/// How long the last outcomes may take to reach Redis when the worker stops.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Dispatcher {
    config: Config,
    identity: Arc<Identity>,
    collector: Arc<Collector>,
    catalogue: Catalogue,
    clock: FleetClock,
    started_at_ms: u64,
    /// Entries taken and not settled yet, with their jobs (none for entries without content).
    in_hand: HashMap<String, Option<JobId>>,
    /// Entries settled since the reader began its current read, whose reply may still list them as pending.
    settled: HashSet<String>,
    running: HashMap<JobId, Running>,
    executors: JoinSet<(JobId, Finished)>,
    sampling: JoinSet<()>,
    writes: mpsc::UnboundedSender<Write>,
    /// The reader waits on the control stream alone and must be woken when a slot is free.
    starved: bool,
    last_read: Instant,
    dropped: BTreeMap<&'static str, u64>,
}

struct Running {
    entry: String,
    retention: Duration,
    stop: watch::Sender<Option<Stop>>,
    span: Span,
}

impl Dispatcher {
    pub(crate) fn new(config: Config, identity: Arc<Identity>) -> Self {
        let collector = Arc::new(Collector::new());
        let catalogue = Catalogue::new(&collector, &config.allow);
        let (writes, _) = mpsc::unbounded_channel();
        Self {
            config,
            identity,
            collector,
            catalogue,
            clock: FleetClock::local(),
            started_at_ms: 0,
            in_hand: HashMap::new(),
            settled: HashSet::new(),
            running: HashMap::new(),
            executors: JoinSet::new(),
            sampling: JoinSet::new(),
            writes,
            starved: false,
            last_read: Instant::now(),
            dropped: EntryError::REASONS
                .into_iter()
                .chain(["not_for_this_host", "duplicate"])
                .map(|reason| (reason, 0))
                .collect(),
        }
    }

    /// Works until `shutdown`, then ends in order.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        tracing::info!(host = %self.identity.host, redis = %self.config.redis, "worker {VERSION} starts");
        let (batch_sender, mut batches) = mpsc::channel(1);
        let (writes, write_receiver) = mpsc::unbounded_channel();
        let (notice_sender, mut notices) = mpsc::unbounded_channel();
        self.writes = writes;
        let reader = Reader::new(Arc::clone(&self.identity), self.config.redis.clone(), batch_sender);
        let publisher =
            Publisher::new(Arc::clone(&self.identity), self.config.redis.clone(), write_receiver, notice_sender);
        let reader = tokio::spawn(reader.run());
        let publisher = tokio::spawn(publisher.run());

        let mut heartbeat = Box::pin(sleep(Duration::ZERO));
        let mut sample = Box::pin(sleep(Duration::ZERO));
        let mut facts = Box::pin(sleep(FACTS_EVERY));
        loop {
            tokio::select! {
                Some(batch) = batches.recv() => self.take(batch),
                Some(done) = self.executors.join_next() => self.finished(done),
                Some(_) = self.sampling.join_next() => {}
                Some(notice) = notices.recv() => self.hear(notice),
                () = &mut heartbeat => {
                    self.say_status(false);
                    heartbeat = Box::pin(sleep(jittered(limits::HEARTBEAT)));
                }
                () = &mut sample => {
                    self.sample();
                    sample = Box::pin(sleep(self.config.sample_interval));
                }
                () = &mut facts => {
                    self.say_facts();
                    facts = Box::pin(sleep(jittered(FACTS_EVERY)));
                }
                () = shutdown.cancelled() => break,
            }
        }

        // What the reader had taken but not handed over stays pending and is read after the next start.
        reader.abort();
        drop(batches);
        self.drain().await;
        self.say_status(true);
        drop(self.writes);
        if tokio::time::timeout(FLUSH_WITHIN, publisher).await.is_err() {
            tracing::warn!("Redis is away: what was not published stays pending and is done again or reported");
        }
        tracing::info!("stopped");
    }

    /// Lets running commands end by themselves, then ends them.
    async fn drain(&mut self) {
        if !self.executors.is_empty() {
            tracing::info!(running = self.running.len(), "waiting up to {:?} for running commands", self.config.grace);
        }
        let grace = sleep(self.config.grace);
        tokio::pin!(grace);
        let mut told = false;
        let mut heartbeat = Box::pin(sleep(jittered(limits::HEARTBEAT)));
        while !self.executors.is_empty() {
            tokio::select! {
                Some(done) = self.executors.join_next() => self.finished(done),
                () = &mut heartbeat => {
                    self.say_status(false);
                    heartbeat = Box::pin(sleep(jittered(limits::HEARTBEAT)));
                }
                () = &mut grace, if !told => {
                    told = true;
                    for running in self.running.values() {
                        running.stop.send_replace(Some(Stop::Shutdown));
                    }
                }
            }
        }
    }

    fn take(&mut self, batch: Batch) {
        self.last_read = Instant::now();
        if let Some(clock) = batch.clock {
            self.clock = clock;
        }
        if batch.gap {
            tracing::warn!(
                "the host's streams had vanished from Redis and were made again: commands queued until then are lost"
            );
            self.say_facts();
            self.say_status(false);
            self.sample();
        }
        let entries: Vec<String> = batch.control.iter().map(|(entry, _)| entry.clone()).collect();
        for (_, control) in &batch.control {
            self.control(control.as_ref());
        }
        if !entries.is_empty() {
            self.write(Write::Control { entries });
        }
        for command in batch.commands {
            self.accept(command, batch.inherited);
        }
        self.answer(batch.taken);
    }

    fn answer(&mut self, taken: Option<oneshot::Sender<usize>>) {
        let free = self.config.slots.saturating_sub(self.running.len());
        self.starved = free == 0;
        // The reader's next read begins now.
        self.settled.clear();
        // The reader has gone only when the worker is stopping.
        let _ = taken.map(|taken| taken.send(free));
    }

    fn control(&mut self, control: Option<&Control>) {
        match control {
            Some(Control::Wake) => {}
            Some(Control::Cancel(job)) => {
                if let Some(running) = self.running.get(job) {
                    running.stop.send_replace(Some(Stop::Cancelled));
                }
            }
            None => self.count("malformed"),
        }
    }

    fn accept(&mut self, command: Command, inherited: bool) {
        let Command { entry, content, published } = command;
        if self.in_hand.contains_key(&entry) || self.settled.contains(&entry) {
            return; // Read again after a reconnect; it is being worked on, or has just been answered.
        }
        let (envelope, manifest) = match content {
            Ok(content) => content,
            Err(error) => {
                tracing::warn!(entry, "dropped an entry: {}", excerpt(&error.to_string(), log::SENTENCE));
                self.count(error.reason());
                return self.discard(entry, None);
            }
        };
        let job = manifest.job;
        let span =
            info_span!("command", %job, host = %self.identity.host, action = excerpt(&manifest.action, log::NAME));
        let _entered = span.clone().entered();
        if !envelope.is_for(&manifest, &self.identity.host) {
            tracing::warn!("dropped a command that is not meant for this host");
            self.count("not_for_this_host");
            return self.discard(entry, Some(job));
        }
        if self.running.contains_key(&job) || self.in_hand.values().any(|taken| *taken == Some(job)) {
            tracing::warn!("dropped a second entry of the same job");
            self.count("duplicate");
            return self.discard(entry, None);
        }
        if published.is_some_and(State::is_terminal) {
            tracing::info!("was answered before the worker restarted");
            return self.discard(entry, Some(job));
        }
        self.in_hand.insert(entry.clone(), Some(job));
        match self.examine(&manifest, inherited) {
            Ok((action, manifest)) => self.start(entry, action, manifest, span.clone()),
            Err((state, reason)) => {
                let reason = excerpt(&reason, log::SENTENCE);
                tracing::warn!("{state}: {reason}");
                let outcome = Outcome::bare(state, Some(reason), self.clock.now());
                self.publish(entry, job, outcome, Vec::new(), retention(&manifest));
            }
        }
    }

    /// Whether the command may start now: its action, and the manifest with its arguments completed.
    fn examine(&self, manifest: &Manifest, inherited: bool) -> Result<(Arc<dyn Action>, Manifest), (State, String)> {
        let rejected = |reason: String| (State::Rejected, reason);
        let now = self.clock.now();
        let horizon = manifest.start_by_ms.saturating_sub(manifest.issued_at_ms);
        if horizon > millis(limits::START_BY_MAX) {
            return Err(rejected(format!(
                "its start-by is later than {} after it was issued",
                protocol::time::show_duration(limits::START_BY_MAX)
            )));
        }
        let action = self.catalogue.find(&manifest.action).map_err(|refusal| rejected(refusal.to_string()))?;
        if inherited && action.spec().repeat == Repeat::Once {
            return Err((
                State::Interrupted,
                "the worker stopped before it answered; how far it came is not known".into(),
            ));
        }
        if now > manifest.start_by_ms {
            let late = Duration::from_millis(now - manifest.start_by_ms);
            return Err((State::Expired, format!("read {} after its start-by", protocol::time::show_duration(late))));
        }
        let arguments = action.spec().check(manifest.arguments.clone()).map_err(|error| rejected(error.to_string()))?;
        Ok((Arc::clone(action), Manifest { arguments, ..manifest.clone() }))
    }

    fn start(&mut self, entry: String, action: Arc<dyn Action>, manifest: Manifest, span: Span) {
        tracing::debug!("starts");
        let (stop, stopped, token) = executor::switch();
        let (job, retention) = (manifest.job, retention(&manifest));
        let invocation =
            Invocation { job, host: self.identity.host.clone(), arguments: manifest.arguments.clone(), stop: token };
        let announce_after = match action.spec().repeat {
            Repeat::Repeatable => ANNOUNCE_AFTER,
            Repeat::Once => Duration::ZERO,
        };
        let (writes, clock) = (self.writes.clone(), self.clock);
        self.running.insert(job, Running { entry, retention, stop, span: span.clone() });
        let work = async move {
            let mut execution = Box::pin(executor::execute(action, Arc::new(manifest), invocation, clock, stopped));
            let announcement = sleep(announce_after);
            tokio::select! {
                biased;
                finished = &mut execution => return (job, finished),
                () = announcement => {}
            }
            let _ = writes.send(Write::State { job, state: State::Running, retention });
            (job, execution.await)
        };
        self.executors.spawn(work.instrument(span));
    }

    fn finished(&mut self, done: Result<(JobId, Finished), tokio::task::JoinError>) {
        // Executors catch their action's panics and are never aborted.
        let (job, Finished { mut outcome, metrics }) = done.expect("an executor always ends with an outcome");
        outcome.reason = outcome.reason.map(|reason| excerpt(&reason, log::SENTENCE));
        let Some(Running { entry, retention, span, .. }) = self.running.remove(&job) else { return };
        span.in_scope(|| {
            let took = outcome.duration_ms().unwrap_or(0);
            match (&outcome.state, &outcome.reason) {
                (State::Succeeded, _) => tracing::info!("{} in {took} ms", outcome.state),
                (state, Some(reason)) => tracing::warn!("{state} after {took} ms: {reason}"),
                (state, None) => tracing::warn!("{state} after {took} ms"),
            }
        });
        self.publish(entry, job, outcome, metrics, retention);
        if std::mem::take(&mut self.starved) {
            self.write(Write::Wake);
        }
    }

    fn publish(
        &mut self,
        entry: String,
        job: JobId,
        outcome: Outcome,
        metrics: Vec<(Group, crate::metrics::Figures)>,
        retention: Duration,
    ) {
        self.write(Write::Outcome { entry, job, outcome: Box::new(outcome), metrics, retention });
    }

    fn discard(&mut self, entry: String, job: Option<JobId>) {
        self.in_hand.insert(entry.clone(), job);
        self.write(Write::Discard { entry });
    }

    fn hear(&mut self, notice: Notice) {
        match notice {
            Notice::Settled { entry } => {
                self.in_hand.remove(&entry);
                self.settled.insert(entry);
            }
            Notice::Open => {
                self.say_facts();
                self.say_status(false);
                self.sample();
            }
            Notice::Clock(clock) => self.clock = clock,
        }
    }

    fn say_status(&mut self, stopped: bool) {
        let now = self.clock.now();
        if self.started_at_ms == 0 {
            self.started_at_ms = now;
        }
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let status = Status {
            last_seen_ms: now,
            stopped,
            version: VERSION.into(),
            boot_id: boot_id.trim().into(),
            started_at_ms: self.started_at_ms,
            pid: std::process::id(),
            running: self.running.len() as u64,
            slots: self.config.slots as u64,
            read_age_ms: millis(self.last_read.elapsed()),
            clock_ahead_ms: self.clock.local_ahead_ms(),
            refuses: None,
            dropped: self.dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        };
        self.write(Write::Status(Box::new(status)));
    }

    fn say_facts(&self) {
        let mut facts: Vec<(String, String)> =
            self.collector.facts().into_iter().map(|(name, value)| (name, plain(&value))).collect();
        facts.push(("version".into(), VERSION.into()));
        let catalogue = serde_json::to_string(&self.catalogue.specs()).expect("plain data always encodes");
        facts.push(("actions".into(), catalogue));
        let labels = self.config.labels.clone().into_iter().collect();
        self.write(Write::Facts { facts, labels });
    }

    /// Reads all groups in a task of its own; a slow disk delays nothing else.
    fn sample(&mut self) {
        while self.sampling.try_join_next().is_some() {}
        if !self.sampling.is_empty() {
            return;
        }
        let (collector, writes) = (Arc::clone(&self.collector), self.writes.clone());
        self.sampling.spawn(async move {
            let mut metrics = Vec::new();
            for group in Group::ALL {
                match collector.collect(group).await {
                    Ok(figures) => metrics.push((group, figures)),
                    Err(error) => tracing::debug!("cannot sample {}: {error}", group.name()),
                }
            }
            let _ = writes.send(Write::Metrics(metrics));
        });
    }

    fn count(&mut self, reason: &'static str) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    fn write(&self, write: Write) {
        // The publisher outlives the dispatcher; it cannot have gone.
        let _ = self.writes.send(write);
    }
}

/// How long a job's results are kept, within bounds.
fn retention(manifest: &Manifest) -> Duration {
    Duration::from_millis(manifest.retention_ms).clamp(Duration::from_secs(60), limits::RETENTION_MAX)
}

fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.9 + fastrand::f64() * 0.2)
}
