//! The dispatcher: owns the worker's state in one `select!` loop, and exchanges messages with the other tasks.

mod admit;
mod cancel;
mod decisions;
mod own;
mod recovery;
mod reports;
mod waiting;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{
    VERSION,
    clock::FleetClock,
    limits,
    name::JobId,
    outcome::{Captured, Outcome, State},
    time::Millis,
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use self::{own::Hangup, recovery::Recovery, reports::FACTS_EVERY, waiting::Waiting};
use crate::{
    actions::{Catalogue, Services, Subjects},
    admission::{self, Dropped, Refusal},
    apps::Apps,
    artifacts::Artifacts,
    audit::Audit,
    config::Config,
    delivery::Delivery,
    executor::{self, Finished, Stop, Task},
    fault::{self, Point},
    identity::Identity,
    journal::Journal,
    log::Floods,
    metrics::{
        Collector, Figures, Topic,
        history::{History, Sample},
    },
    pending::Pending,
    publisher::{Notice, Publisher, Write},
    reader::{Batch, LARGE_PAGE, Reader},
    schedule::{Claim, Schedule},
    services::Registry,
    trust::{Changes, Trusted},
};

/// How often the journal forgets records that are too old.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// How many outcomes may wait for Redis before no more commands are taken.
const MOST_UNPUBLISHED: usize = 64;

/// How many entries that get no outcome may wait for their acknowledgement before no more are read: two of the reader's
/// largest pages, so that one is read while another one is acknowledged.
const MOST_DROPPED: usize = 2 * LARGE_PAGE as usize;

/// How many cancelled jobs are remembered: those in the journal, and those it has no room for.
const CANCELLED_MOST: usize = limits::JOURNAL_CANCELLED + limits::CONTROL_ENTRIES;

/// The drop counter of orders to cancel that there is no room to remember. What runs or waits is ended all the same.
const FORGOTTEN: &str = "cancel_forgotten";

/// Kinds of lines that come in floods, besides the drops.
const ANSWERED: &str = "answered";
const UNRECORDED: &str = "unrecorded";
const VANISHED: &str = "vanished";

/// How long a reader may lag behind the output of a command that has ended.
const TRIM_OUTPUT_AFTER: Duration = Duration::from_secs(5);

/// How long the last outcomes may take to reach the journal when the worker stops.
const RECORD_WITHIN: Duration = Duration::from_secs(5);

/// How long the last outcomes may take to reach Redis when the worker stops.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Dispatcher {
    config: Config,
    identity: Arc<Identity>,
    /// Whose orders to cancel are obeyed.
    trusted: watch::Receiver<Trusted>,
    services: Arc<Services>,
    catalogue: Catalogue,
    clock: FleetClock,
    started_at_ms: u64,
    pending: Pending,
    schedule: Schedule<Waiting>,
    running: HashMap<JobId, Running>,
    /// Jobs that must not start any more.
    cancelled: HashMap<JobId, Millis>,
    journal: Journal,
    audit: Audit,
    executors: JoinSet<(JobId, Finished)>,
    sampling: JoinSet<Sample>,
    /// The history of figures, unless the settings say that there is none.
    history: Option<History>,
    writes: mpsc::UnboundedSender<Write>,
    /// The reader waits on the control stream alone and must be woken when a slot is free.
    reader_is_blocked: bool,
    last_read: Instant,
    /// Whether the worker is stopping: no more commands are started.
    stopping: bool,
    /// Whether there may be commands that were delivered to a prior process and have not been read yet.
    more_prior: bool,
    /// Whether the journal has reported what a prior process left.
    recovered: bool,
    /// Whether the clock is Redis'.
    knows_time: bool,
    recoveries: mpsc::UnboundedSender<Recovery>,
    rereads: mpsc::UnboundedSender<own::Reread>,
    /// Why the own actions could not be read anew.
    not_reread: Option<String>,
    notices: mpsc::UnboundedSender<Notice>,
    dropped: BTreeMap<&'static str, u64>,
    /// Commands by the state in which they have ended.
    ended: BTreeMap<State, u64>,
    floods: Floods<&'static str>,
    /// Whether it was logged that the worker is ready.
    ready: bool,
    /// How many commands run according to the published status.
    shown_running: usize,
    /// When to publish that another number runs.
    status_due: Option<tokio::time::Instant>,
    /// Since when no `ctl serve` lives, where the fleet had one.
    serve_missing_ms: Option<Millis>,
}

/// What commands can be about.
fn subjects(config: &Config) -> Arc<Subjects> {
    Arc::new(Subjects { services: config.services.clone(), apps: config.apps.clone() })
}

struct Running {
    delivery: Delivery,
    claim: Claim,
    stop: watch::Sender<Option<Stop>>,
    span: Span,
}

impl Dispatcher {
    pub(crate) fn new(
        config: Config,
        identity: Arc<Identity>,
        trusted: watch::Receiver<Trusted>,
        changes: Changes,
        registry: Registry,
        apps: Apps,
    ) -> Self {
        let (keys, host) = (identity.keys.clone(), identity.host.clone());
        let services = Services {
            state_dir: config.state_dir.clone(),
            collector: Collector::default(),
            artifacts: Artifacts::new(config.redis.clone(), keys, host, config.kept("content")),
            files: config.files.clone(),
            registry,
            apps,
            trust: changes,
        };
        Self {
            services: Arc::new(services),
            catalogue: Catalogue::new(&config.policy, &config.own, &subjects(&config)),
            history: config.history_step.map(History::new),
            schedule: Schedule::new(config.slots, config.reserved),
            journal: Journal::open(config.kept("journal")),
            audit: Audit::open(config.audit.clone(), Arc::clone(&identity)),
            config,
            identity,
            trusted,
            clock: FleetClock::local(),
            started_at_ms: 0,
            pending: Pending::default(),
            running: HashMap::new(),
            cancelled: HashMap::new(),
            executors: JoinSet::new(),
            sampling: JoinSet::new(),
            writes: mpsc::unbounded_channel().0,
            reader_is_blocked: false,
            last_read: Instant::now(),
            stopping: false,
            more_prior: true,
            recovered: false,
            knows_time: false,
            recoveries: mpsc::unbounded_channel().0,
            rereads: mpsc::unbounded_channel().0,
            not_reread: None,
            notices: mpsc::unbounded_channel().0,
            dropped: Dropped::reasons().chain([FORGOTTEN]).map(|reason| (reason, 0)).collect(),
            ended: BTreeMap::new(),
            floods: Floods::default(),
            ready: false,
            shown_running: 0,
            status_due: None,
            serve_missing_ms: None,
        }
    }

    /// Works until `shutdown`, then ends in order.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        tracing::info!(host = %self.identity.host, redis = %self.config.redis, "worker {VERSION} starts");
        let (batch_sender, mut batches) = mpsc::channel(1);
        let (writes, write_receiver) = mpsc::unbounded_channel();
        let (notice_sender, mut notices) = mpsc::unbounded_channel();
        (self.writes, self.notices) = (writes, notice_sender.clone());
        let reader =
            Reader::new(Arc::clone(&self.identity), self.trusted.clone(), self.config.redis.clone(), batch_sender);
        let publisher =
            Publisher::new(Arc::clone(&self.identity), self.config.redis.clone(), write_receiver, notice_sender);
        let (recovery_sender, mut recoveries) = mpsc::unbounded_channel();
        self.recoveries = recovery_sender;
        let (reread_sender, mut rereads) = mpsc::unbounded_channel();
        self.rereads = reread_sender;
        let mut hangup = Hangup::listen();
        let publisher = tokio::spawn(publisher.run());
        tokio::select! {
            () = self.first_recovery(&mut recoveries) => {}
            () = shutdown.cancelled() => return tracing::info!("stopped"),
        }
        // No other process of this host works now.
        self.services.artifacts.clear();
        self.services.artifacts.prune();
        let reader = tokio::spawn(reader.run());

        let mut heartbeat = Box::pin(sleep(Duration::ZERO));
        let mut sample = Box::pin(sleep(Duration::ZERO));
        let mut facts = Box::pin(sleep(FACTS_EVERY));
        let mut prune = Box::pin(sleep(PRUNE_EVERY));
        loop {
            let status_due = self.status_due();
            tokio::select! {
                Some(batch) = batches.recv() => self.take(batch),
                Some(done) = self.executors.join_next() => self.finished(done),
                () = sleep_until(status_due.unwrap_or_else(tokio::time::Instant::now)), if status_due.is_some() => {
                    self.publish_running();
                }
                Some(sampled) = self.sampling.join_next() => self.sampled(sampled),
                Some(notice) = notices.recv() => self.handle_notice(notice),
                Some(Ok(found)) = recoveries.recv() => self.publish_found(found),
                () = hangup.came() => self.reread_actions(),
                Some(reread) = rereads.recv() => self.use_reread(reread),
                () = &mut heartbeat => {
                    self.try_journal();
                    self.audit.tend();
                    self.expire_waiting();
                    self.report_floods();
                    self.publish_status(false);
                    heartbeat = Box::pin(sleep(jittered(limits::HEARTBEAT)));
                }
                () = &mut sample => {
                    self.sample();
                    sample = Box::pin(sleep(self.config.sample_interval));
                }
                () = &mut facts => {
                    self.publish_facts();
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
        // Entries that the reader has not handed over stay pending and are read after the next start.
        reader.abort();
        self.publish_status(true);
        if tokio::time::timeout(RECORD_WITHIN, self.audit.close()).await.is_err() {
            tracing::error!("the last lines of the audit trail may be lost: its disk may hang");
        }
        drop(self.writes);
        if tokio::time::timeout(FLUSH_WITHIN, publisher).await.is_err() {
            tracing::warn!("Redis is away: what was not published stays pending and is done again or reported");
        }
        tracing::info!("stopped");
    }

    /// Lets running commands end by themselves, then ends them. They can be cancelled meanwhile.
    async fn drain(&mut self, batches: &mut mpsc::Receiver<Batch>) {
        // Commands that wait stay pending in Redis and are read again after the next start.
        self.stopping = true;
        if !self.executors.is_empty() {
            // The reader may be waiting for commands. The wake ends its read, so that it takes no more of them.
            self.write(Write::Wake);
            tracing::info!(running = self.running.len(), "waiting up to {:?} for running commands", self.config.grace);
        }
        let grace = sleep(self.config.grace);
        tokio::pin!(grace);
        let give_up = sleep(self.config.grace + executor::END_WITHIN + RECORD_WITHIN);
        tokio::pin!(give_up);
        let mut stopped = false;
        let mut heartbeat = Box::pin(sleep(jittered(limits::HEARTBEAT)));
        while !self.executors.is_empty() {
            tokio::select! {
                Some(batch) = batches.recv() => self.take(batch),
                Some(done) = self.executors.join_next() => self.finished(done),
                () = &mut heartbeat => {
                    self.publish_status(false);
                    heartbeat = Box::pin(sleep(jittered(limits::HEARTBEAT)));
                }
                () = &mut give_up => {
                    tracing::error!("{} commands do not end: the disk of the journal may hang", self.running.len());
                    break;
                }
                () = &mut grace, if !stopped => {
                    stopped = true;
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
            self.report_ready();
        }
        if batch.recreated {
            tracing::warn!(
                "the host's streams had vanished from Redis and were made again: commands queued until then are lost"
            );
            self.publish_facts();
            self.publish_status(false);
            self.sample();
        }
        for (entry, control) in batch.control {
            self.control(entry, control);
        }
        let mut dropped = Vec::new();
        for command in batch.commands {
            fault::point(Point::Taken);
            // A worker that stops leaves the command pending, for the next process.
            if !self.stopping {
                dropped.extend(self.admit(command, batch.prior));
            }
        }
        if !dropped.is_empty() {
            self.write(Write::Acknowledge { entries: dropped });
        }
        self.more_prior = batch.more_prior;
        self.start_waiting();
        self.announce_waiting();
        let room = self.room();
        self.reader_is_blocked = room == 0;
        // The reader's next read begins now.
        self.pending.begin_read();
        // The reader has gone only when the worker is stopping.
        let _ = batch.taken.map(|taken| taken.send(room));
    }

    /// How many more commands may be taken. Outcomes that Redis does not take must not pile up here.
    fn room(&self) -> usize {
        if self.stopping {
            return 0;
        }
        let unpublished = self.pending.commands().saturating_sub(self.running.len() + self.schedule.waits());
        let is_full = unpublished >= MOST_UNPUBLISHED || self.pending.dropped() >= MOST_DROPPED;
        if is_full || self.holds_much_output() { 0 } else { self.schedule.room() }
    }

    /// Whether so much output waits for Redis that no more may be added.
    fn holds_much_output(&self) -> bool {
        self.pending.output() > limits::UNPUBLISHED_BYTES
    }

    /// Wakes a reader that waits for room.
    fn wake_reader(&mut self) {
        if self.reader_is_blocked && self.room() > 0 {
            self.reader_is_blocked = false;
            self.write(Write::Wake);
        }
    }

    /// Starts every waiting command that has a lane. Thousands may wait, and each may leave megabytes of output.
    fn start_waiting(&mut self) {
        while !self.stopping
            && !self.holds_much_output()
            && let Some((claim, waiting)) = self.schedule.next()
        {
            self.start_or_refuse(claim, waiting, false);
        }
    }

    /// Starts a command, or ends it if it must not start any more. A command that must not run twice may have run
    /// already: its executor asks the journal first.
    fn start_or_refuse(&mut self, claim: Claim, waiting: Waiting, cancelled: bool) {
        let cancelled = cancelled || self.cancelled.contains_key(&waiting.delivery.job);
        let refusal = admission::may_start(&waiting.manifest, cancelled, waiting.taken_ms, self.clock.now());
        let distrusted = self.distrusted(&waiting);
        match refusal.or_else(|| distrusted.clone()).filter(|_| claim.repeatable) {
            None => self.start(claim, waiting, cancelled, distrusted),
            Some(refusal) => {
                self.schedule.ended(&claim);
                self.refused_later(&waiting.delivery, refusal.state, Some(&refusal.reason));
                self.refuse(waiting.delivery, &waiting.span, refusal);
            }
        }
    }

    fn start(&mut self, claim: Claim, waiting: Waiting, cancelled: bool, distrusted: Option<Refusal>) {
        let Waiting { delivery, manifest, call, receipt, prior, taken_ms, span, .. } = waiting;
        span.in_scope(|| tracing::debug!("starts"));
        let (stop, stopped) = watch::channel(None);
        let (job, repeatable) = (delivery.job, claim.repeatable);
        if !repeatable {
            self.pending.mark_journaled(&delivery.entry);
        }
        self.running.insert(job, Running { delivery: delivery.clone(), claim, stop, span: span.clone() });
        let task = Task {
            delivery,
            manifest,
            call,
            repeatable,
            receipt,
            prior,
            taken_ms,
            cancelled,
            distrusted,
            clock: self.clock,
            stop: stopped,
            identity: Arc::clone(&self.identity),
            services: Arc::clone(&self.services),
            journal: self.journal.clone(),
            writes: self.writes.clone(),
        };
        self.executors.spawn(async move { (job, task.run().await) }.instrument(span));
    }

    fn finished(&mut self, done: Result<(JobId, Finished), JoinError>) {
        // Executors catch their action's panics and are never aborted.
        let (job, Finished { outcome, metrics, ran }) = done.expect("an executor always ends with an outcome");
        let Some(Running { delivery, claim, span, .. }) = self.running.remove(&job) else { return };
        span.in_scope(|| {
            let took = outcome.duration_ms().unwrap_or(0);
            match (outcome.state, outcome.reason.as_deref().unwrap_or("no reason given")) {
                (State::Succeeded, _) => tracing::info!("succeeded in {took} ms"),
                (state, reason) => tracing::warn!("{state} after {took} ms: {reason}"),
            }
        });

        if ran {
            self.count_end(outcome.state);
        } else {
            self.kept_from_running(&delivery, &outcome);
        }
        self.publish_end(delivery, outcome, metrics);
        self.schedule.ended(&claim);
        self.start_waiting();
        self.announce_waiting();
        self.wake_reader();
    }

    /// Publishes the outcome of a command that has run. Its output waits for Redis here.
    fn publish_end(&mut self, delivery: Delivery, outcome: Box<Outcome>, metrics: Vec<(Topic, Figures)>) {
        let live = |captured: &Captured| usize::try_from(captured.written_bytes).unwrap_or(usize::MAX);
        let live = live(&outcome.stdout).saturating_add(live(&outcome.stderr)).min(limits::LIVE_LAG_BYTES);
        let kept = outcome.stdout.kept.len() + outcome.stderr.kept.len();
        if live > limits::LIVE_BYTES / 2 {
            self.trim_output_later(delivery.clone());
        }
        self.pending.hold_output(&delivery.entry, kept + live);
        self.write(Write::Outcome { delivery, outcome, metrics });
    }

    /// Drops the output that was kept for readers that lag behind a running command.
    fn trim_output_later(&self, delivery: Delivery) {
        // A worker that stops does not wait for that. The bytes then stay as long as the job does.
        let writes = self.writes.downgrade();
        tokio::spawn(async move {
            sleep(TRIM_OUTPUT_AFTER).await;
            if let Some(writes) = writes.upgrade() {
                let _ = writes.send(Write::TrimOutput { delivery });
            }
        });
    }

    fn handle_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Acknowledged { entries } => {
                let held_up = self.holds_much_output();
                for entry in entries {
                    if let Some(job) = self.pending.acknowledge(entry) {
                        self.journal.published(job);
                    }
                }
                if held_up {
                    self.start_waiting();
                }
                self.wake_reader();
            }
            Notice::Open => {
                self.publish_facts();
                self.publish_status(false);
                self.sample();
            }
            Notice::Vanished => {
                if self.floods.admits(VANISHED) {
                    tracing::warn!("keys of this host had vanished from Redis; they are published again");
                }
                self.publish_facts();
                self.sample();
            }
            Notice::Unrecorded(job) => {
                if self.floods.admits(UNRECORDED) {
                    tracing::warn!(%job, "the order to cancel cannot be recorded; it is tried again");
                }
            }
            Notice::Clock(clock) => (self.clock, self.knows_time) = (clock, true),
            Notice::ServeMissing(since_ms) => self.judge_serve(since_ms),
        }
    }

    /// Counts an entry that is dropped. Returns whether to log it: of a flood, only its size is logged.
    fn drops(&mut self, reason: &'static str) -> bool {
        *self.dropped.entry(reason).or_default() += 1;
        self.floods.admits(reason)
    }

    /// Logs the sizes of floods.
    fn report_floods(&mut self) {
        for (kind, count) in self.floods.due() {
            match kind {
                ANSWERED => tracing::info!("{count} more entries have an outcome already"),
                UNRECORDED => tracing::warn!("{count} more orders to cancel cannot be recorded"),
                VANISHED => tracing::warn!("keys of this host vanished from Redis {count} more times"),
                reason => tracing::warn!("dropped {count} more entries: {}", reason.replace('_', " ")),
            }
        }
    }

    fn write(&self, write: Write) {
        // The publisher outlives the dispatcher; it cannot have gone.
        let _ = self.writes.send(write);
    }
}

fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.9 + fastrand::f64() * 0.2)
}
