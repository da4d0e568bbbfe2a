//! The centre: owns all of the worker's state in one `select!` and talks in messages.

mod recovery;
mod telling;

use std::{
    collections::{BTreeMap, HashMap},
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
    time::Millis,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use crate::{
    Config, Identity,
    actions::{Action, Catalogue},
    executor::{self, Finished, Stop, Task},
    fault::{self, Bug, Point},
    inbox::Inbox,
    journal::{Found, Journal},
    log::{self, excerpt},
    metrics::Collector,
    publisher::{Notice, Publisher, Write},
    reader::{Batch, Command, Reader},
    schedule::{Claim, Schedule},
};

/// How often facts and labels are said again, which also renews their time to live.
const FACTS_EVERY: Duration = Duration::from_secs(600);

/// How often the journal forgets what is too old.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// Answers that may wait for Redis before nothing more is taken.
const MOST_UNSETTLED: usize = 64;

/// How far a controller's idea of the time may be ahead.
const FUTURE_MARGIN: Duration = Duration::from_secs(3600);

/// How many cancelled jobs are remembered: those in the journal, and those it has no room for.
const CANCELLED_MOST: usize = limits::JOURNAL_CANCELLED + limits::CONTROL_ENTRIES;

/// How long the last outcomes may take to reach the journal when the worker stops.
const RECORD_WITHIN: Duration = Duration::from_secs(5);

/// How long the last outcomes may take to reach Redis when the worker stops.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Dispatcher {
    config: Config,
    identity: Arc<Identity>,
    collector: Arc<Collector>,
    catalogue: Catalogue,
    clock: FleetClock,
    started_at_ms: u64,
    inbox: Inbox,
    schedule: Schedule<Accepted>,
    running: HashMap<JobId, Running>,
    /// Jobs that must not start any more.
    cancelled: HashMap<JobId, Millis>,
    journal: Journal,
    executors: JoinSet<(JobId, Finished)>,
    sampling: JoinSet<()>,
    writes: mpsc::UnboundedSender<Write>,
    /// The reader waits on the control stream alone and must be woken when a slot is free.
    starved: bool,
    last_read: Instant,
    /// Nothing more is started.
    stopping: bool,
    /// Whether there may be commands that a process before this one had taken and that were not read yet.
    inherits: bool,
    /// Whether it is known what an earlier process left.
    recovered: bool,
    /// Whether the clock is Redis'.
    knows_time: bool,
    /// Where recoveries are told.
    recoveries: mpsc::UnboundedSender<Result<Found, String>>,
    dropped: BTreeMap<&'static str, u64>,
}

/// A command that has been found good and waits for its turn.
struct Accepted {
    entry: String,
    action: Arc<dyn Action>,
    manifest: Manifest,
    inherited: bool,
    published: Option<State>,
    announced: bool,
    span: Span,
}

struct Running {
    entry: String,
    claim: Claim,
    retention: Duration,
    stop: watch::Sender<Option<Stop>>,
    span: Span,
}

impl Dispatcher {
    pub(crate) fn new(config: Config, identity: Arc<Identity>) -> Self {
        let collector = Arc::new(Collector::new());
        let catalogue = Catalogue::new(&collector, &config.allow);
        let (writes, _) = mpsc::unbounded_channel();
        // A colon stands in no name, so no two fleets share a journal.
        let fleet = config.namespace.as_ref().map(|namespace| format!("{namespace}:")).unwrap_or_default();
        let journal = Journal::open(config.state_dir.join(format!("{fleet}{}.journal", config.host)));
        Self {
            schedule: Schedule::new(config.slots, config.reserved),
            cancelled: HashMap::new(),
            journal,
            config,
            identity,
            collector,
            catalogue,
            clock: FleetClock::local(),
            started_at_ms: 0,
            inbox: Inbox::default(),
            running: HashMap::new(),
            executors: JoinSet::new(),
            sampling: JoinSet::new(),
            writes,
            starved: false,
            last_read: Instant::now(),
            stopping: false,
            inherits: true,
            recovered: false,
            knows_time: false,
            recoveries: mpsc::unbounded_channel().0,
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
        let (recovery_sender, mut recoveries) = mpsc::unbounded_channel();
        self.recoveries = recovery_sender;
        let publisher = tokio::spawn(publisher.run());
        tokio::select! {
            () = self.first_recovery(&mut recoveries) => {}
            () = shutdown.cancelled() => return tracing::info!("stopped"),
        }
        let reader = tokio::spawn(reader.run());

        let mut heartbeat = Box::pin(sleep(Duration::ZERO));
        let mut sample = Box::pin(sleep(Duration::ZERO));
        let mut facts = Box::pin(sleep(FACTS_EVERY));
        let mut prune = Box::pin(sleep(PRUNE_EVERY));
        loop {
            tokio::select! {
                Some(batch) = batches.recv() => self.take(batch),
                Some(done) = self.executors.join_next() => self.finished(done),
                Some(_) = self.sampling.join_next() => {}
                Some(notice) = notices.recv() => self.hear(notice),
                Some(Ok(found)) = recoveries.recv() => self.resume(found),
                () = &mut heartbeat => {
                    self.try_journal();
                    self.expire_waiting();
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
                () = &mut prune => {
                    self.prune();
                    prune = Box::pin(sleep(PRUNE_EVERY));
                }
                () = shutdown.cancelled() => break,
            }
        }

        self.drain(&mut batches).await;
        // What the reader had taken but not handed over stays pending and is read after the next start.
        reader.abort();
        self.say_status(true);
        drop(self.writes);
        if tokio::time::timeout(FLUSH_WITHIN, publisher).await.is_err() {
            tracing::warn!("Redis is away: what was not published stays pending and is done again or reported");
        }
        tracing::info!("stopped");
    }

    /// Lets running commands end by themselves, then ends them. They can be cancelled meanwhile.
    async fn drain(&mut self, batches: &mut mpsc::Receiver<Batch>) {
        // What waits stays pending in Redis; it is read again at the next start.
        self.stopping = true;
        if !self.executors.is_empty() {
            // The reader, which may be waiting for commands, learns that there is no room any more.
            self.write(Write::Wake);
            tracing::info!(running = self.running.len(), "waiting up to {:?} for running commands", self.config.grace);
        }
        let grace = sleep(self.config.grace);
        tokio::pin!(grace);
        let give_up = sleep(self.config.grace + executor::END_WITHIN + RECORD_WITHIN);
        tokio::pin!(give_up);
        let mut told = false;
        let mut heartbeat = Box::pin(sleep(jittered(limits::HEARTBEAT)));
        while !self.executors.is_empty() {
            tokio::select! {
                Some(batch) = batches.recv() => self.take(batch),
                Some(done) = self.executors.join_next() => self.finished(done),
                () = &mut heartbeat => {
                    self.say_status(false);
                    heartbeat = Box::pin(sleep(jittered(limits::HEARTBEAT)));
                }
                () = &mut give_up => {
                    tracing::error!("{} commands do not end: the disk of the journal may hang", self.running.len());
                    break;
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
            self.knows_time = true;
        }
        if batch.gap {
            tracing::warn!(
                "the host's streams had vanished from Redis and were made again: commands queued until then are lost"
            );
            self.say_facts();
            self.say_status(false);
            self.sample();
        }
        for (entry, control) in batch.control {
            self.control(entry, control.as_ref());
        }
        for command in batch.commands {
            fault::point(Point::Taken);
            // A worker that stops leaves it pending, for the next one.
            if !self.stopping {
                self.accept(command, batch.inherited);
            }
        }
        self.inherits = batch.inherits;
        self.start_what_may();
        self.announce_waiting();
        let room = self.room();
        self.starved = room == 0;
        // The reader's next read begins now.
        self.inbox.next_read();
        // The reader has gone only when the worker is stopping.
        let _ = batch.taken.map(|taken| taken.send(room));
    }

    fn control(&mut self, entry: String, control: Option<&Control>) {
        match control {
            Some(Control::Wake) => {}
            Some(Control::Cancel(job)) => return self.cancel(entry, *job),
            None => self.count("malformed"),
        }
        self.write(Write::Control { entry });
    }

    /// How many more commands may be taken. Answers that Redis does not take must not pile up here.
    fn room(&self) -> usize {
        if self.stopping {
            return 0;
        }
        let unsettled = self.inbox.len().saturating_sub(self.running.len() + self.schedule.waits());
        if unsettled < MOST_UNSETTLED { self.schedule.room() } else { 0 }
    }

    /// Wakes a reader that waits for room.
    fn wake_reader(&mut self) {
        if self.starved && self.room() > 0 {
            self.starved = false;
            self.write(Write::Wake);
        }
    }

    /// Ends the job's command, or sees to it that it never starts: what has not even been read is told as
    /// cancelled, too. The order is acknowledged once it is on disk; until then it stays pending in Redis
    /// and is read again, now and then and at every start.
    fn cancel(&mut self, entry: String, job: JobId) {
        let now = self.clock.now();
        let recorded = self.journal.cancel(job, now);
        // What a process before this one had taken may have begun: it is judged when it is read.
        let unread = !self.inherits && !self.inbox.knows(job);
        let again = self.cancelled.contains_key(&job);
        if let Some(running) = self.running.get(&job) {
            running.span.in_scope(|| tracing::info!("is being cancelled"));
            running.stop.send_replace(Some(Stop::Cancelled));
        } else if self.cancelled.len() < CANCELLED_MOST {
            self.cancelled.insert(job, now);
        }
        if let Some((claim, waiting)) = self.schedule.take(|waiting| waiting.manifest.job == job) {
            self.start_or_refuse(claim, waiting);
        }
        self.wake_reader();
        let writes = self.writes.clone();
        tokio::spawn(async move {
            let Some(never_began) = recorded.await else {
                if !again {
                    tracing::warn!(%job, "the order to cancel cannot be recorded; it is tried again");
                }
                return;
            };
            if unread && never_began {
                // Where it ended long ago, its end stands: a terminal state never changes.
                let outcome = Box::new(Outcome::bare(State::Cancelled, Some(executor::BEFORE_START.into()), now));
                let (metrics, retention) = (Vec::new(), limits::RETENTION_DEFAULT);
                let _ = writes.send(Write::Outcome { entry: None, job, outcome, metrics, retention });
            }
            let _ = writes.send(Write::Control { entry });
        });
    }

    /// Ends the waiting for those whose start-by has passed.
    fn expire_waiting(&mut self) {
        let now = self.clock.now();
        while let Some((claim, waiting)) = self.schedule.take(|waiting| now > waiting.manifest.start_by_ms) {
            self.start_or_refuse(claim, waiting);
        }
        self.wake_reader();
    }

    fn accept(&mut self, command: Command, inherited: bool) {
        let Command { entry, content, published } = command;
        if self.inbox.has(&entry) {
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
            // The job itself may be meant for this host all the same, by another entry.
            return self.discard(entry, None);
        }
        if self.inbox.knows(job) && !fault::planted(Bug::NoDedup) {
            tracing::warn!("dropped a second entry of the same job");
            self.count("duplicate");
            return self.discard(entry, None);
        }
        if published.is_some_and(State::is_terminal) && !fault::planted(Bug::NoDedup) {
            tracing::info!("has been answered already");
            return self.discard(entry, Some(job));
        }
        self.inbox.take(entry.clone(), Some(job));
        match self.examine(&manifest) {
            Ok((action, manifest)) => {
                let repeatable = action.spec().repeat == Repeat::Repeatable;
                let claim = Claim { repeatable, exclusion: action.exclusion(&manifest.arguments) };
                let span = span.clone();
                let accepted = Accepted { entry, action, manifest, inherited, published, announced: false, span };
                self.schedule.push(claim, accepted, envelope.manifest.len());
            }
            Err((state, reason)) => self.refuse(entry, &manifest, state, &reason),
        }
    }

    /// Ends a command that never starts.
    fn refuse(&mut self, entry: String, manifest: &Manifest, state: State, reason: &str) {
        let reason = excerpt(reason, log::SENTENCE);
        tracing::warn!("{state}: {reason}");
        let outcome = Outcome::bare(state, Some(reason), self.clock.now());
        self.publish(entry, manifest.job, Box::new(outcome), retention(manifest));
    }

    /// Whether the command may start now: its action, and the manifest with its arguments completed.
    fn examine(&self, manifest: &Manifest) -> Result<(Arc<dyn Action>, Manifest), (State, String)> {
        let rejected = |reason: String| (State::Rejected, reason);
        let horizon = manifest.start_by_ms.saturating_sub(manifest.issued_at_ms);
        if horizon > millis(limits::START_BY_MAX) {
            return Err(rejected(format!(
                "its start-by is later than {} after it was issued",
                protocol::time::show_duration(limits::START_BY_MAX)
            )));
        }
        if manifest.start_by_ms.saturating_sub(self.clock.now()) > millis(limits::START_BY_MAX + FUTURE_MARGIN) {
            return Err(rejected("its start-by is too far in the future".into()));
        }
        let action = self.catalogue.find(&manifest.action).map_err(|refusal| rejected(refusal.to_string()))?;
        let arguments = action.spec().check(manifest.arguments.clone()).map_err(|error| rejected(error.to_string()))?;
        Ok((Arc::clone(action), Manifest { arguments, ..manifest.clone() }))
    }

    /// Starts every waiting command that has a lane.
    fn start_what_may(&mut self) {
        while !self.stopping
            && let Some((claim, accepted)) = self.schedule.next()
        {
            self.start_or_refuse(claim, accepted);
        }
    }

    /// Starts a command, or ends it if it may not start any more. What must not run twice is judged by
    /// the journal, as it may have run already: its task asks.
    fn start_or_refuse(&mut self, claim: Claim, accepted: Accepted) {
        let verdict = if claim.repeatable { self.too_late_or_cancelled(&accepted.manifest) } else { None };
        match verdict {
            None => self.start(claim, accepted),
            Some((state, reason)) => {
                self.schedule.ended(&claim);
                let _entered = accepted.span.clone().entered();
                self.refuse(accepted.entry, &accepted.manifest, state, &reason);
            }
        }
    }

    /// Says of those that have to wait that they have arrived.
    fn announce_waiting(&mut self) {
        for waiting in self.schedule.waiting().filter(|waiting| !waiting.announced) {
            waiting.announced = true;
            let (job, retention) = (waiting.manifest.job, retention(&waiting.manifest));
            let _ = self.writes.send(Write::State { job, state: State::Delivered, retention });
        }
    }

    fn too_late_or_cancelled(&self, manifest: &Manifest) -> Option<(State, String)> {
        if self.cancelled.contains_key(&manifest.job) {
            return Some((State::Cancelled, executor::BEFORE_START.into()));
        }
        executor::too_late(manifest, self.clock.now()).map(|reason| (State::Expired, reason))
    }

    fn start(&mut self, claim: Claim, accepted: Accepted) {
        let Accepted { entry, action, manifest, inherited, published, span, .. } = accepted;
        span.in_scope(|| tracing::debug!("starts"));
        let (stop, stopped) = watch::channel(None);
        let (job, retention) = (manifest.job, retention(&manifest));
        if !claim.repeatable {
            self.inbox.is_journaled(&entry);
        }
        self.running.insert(job, Running { entry: entry.clone(), claim, retention, stop, span: span.clone() });
        let task = Task {
            entry,
            action,
            manifest,
            host: self.identity.host.clone(),
            retention,
            inherited,
            published,
            cancelled: self.cancelled.contains_key(&job),
            clock: self.clock,
            stop: stopped,
            journal: self.journal.clone(),
            writes: self.writes.clone(),
        };
        self.executors.spawn(async move { (job, task.run().await) }.instrument(span));
    }

    fn finished(&mut self, done: Result<(JobId, Finished), tokio::task::JoinError>) {
        // Executors catch their action's panics and are never aborted.
        let (job, Finished { outcome, metrics }) = done.expect("an executor always ends with an outcome");
        let Some(Running { entry, claim, retention, span, .. }) = self.running.remove(&job) else { return };
        span.in_scope(|| {
            let took = outcome.duration_ms().unwrap_or(0);
            match (outcome.state, outcome.reason.as_deref().unwrap_or("no reason given")) {
                (State::Succeeded, _) => tracing::info!("succeeded in {took} ms"),
                (state, reason) => tracing::warn!("{state} after {took} ms: {reason}"),
            }
        });
        self.write(Write::Outcome { entry: Some(entry), job, outcome, metrics, retention });
        self.schedule.ended(&claim);
        self.start_what_may();
        self.wake_reader();
    }

    fn publish(&mut self, entry: String, job: JobId, outcome: Box<Outcome>, retention: Duration) {
        self.write(Write::Outcome { entry: Some(entry), job, outcome, metrics: Vec::new(), retention });
    }

    fn discard(&mut self, entry: String, job: Option<JobId>) {
        self.inbox.take(entry.clone(), job);
        self.write(Write::Discard { entry });
    }

    fn hear(&mut self, notice: Notice) {
        match notice {
            Notice::Settled { entry } => {
                if let Some(job) = self.inbox.settle(entry) {
                    self.journal.published(job);
                }
                self.wake_reader();
            }
            Notice::Open => {
                self.say_facts();
                self.say_status(false);
                self.sample();
            }
            Notice::Clock(clock) => (self.clock, self.knows_time) = (clock, true),
        }
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
