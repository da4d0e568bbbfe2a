//! One command at work: from its start to its outcome.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use protocol::{
    action::Argument,
    clock::FleetClock,
    command::Manifest,
    event::EventKind,
    limits,
    name::HostName,
    outcome::{Outcome, State},
    time::{Millis, show_duration},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    actions::{Call, Context, Failure, Output, Requester, Services},
    admission::{self, BEFORE_START, Refusal, StartVerdict},
    audit::Receipt,
    delivery::Delivery,
    fault::{self, Bug, Point},
    identity::Identity,
    journal::{Begin, BeginRequest, Journal, Prior},
    live::{FLUSH_AFTER, Joiner, Live, Report},
    log::{self, excerpt, with_sources},
    metrics::{Figures, MetricGroup},
    program::{self, Owner},
    publisher::Write,
};

/// A command that ends sooner is not announced as running: the state would be visible too briefly, and the
/// announcement would cost Redis as much as the result.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(20);

/// How long an action may take to end after `stop` was cancelled, before it is dropped.
pub(crate) const END_WITHIN: Duration = program::KILL_AFTER.saturating_add(Duration::from_secs(2));

/// Why a running command must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It ran longer than it may.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// The worker stops and its grace period is over.
    Shutdown,
}

/// A command whose turn has come.
pub(crate) struct Task {
    pub(crate) delivery: Delivery,
    pub(crate) manifest: Manifest,
    pub(crate) call: Call,
    /// Whether it may run again after a crash: then the journal is not asked.
    pub(crate) repeatable: bool,
    /// Where it may not: its line in the audit trail, which must be written before it starts.
    pub(crate) receipt: Option<Receipt>,
    pub(crate) prior: Prior,
    /// When this process took it.
    pub(crate) taken_ms: Millis,
    /// Whether it was cancelled before its turn.
    pub(crate) cancelled: bool,
    /// Why it must not start although it was admitted: a signature does not count any more.
    pub(crate) distrusted: Option<Refusal>,
    pub(crate) clock: FleetClock,
    pub(crate) stop: watch::Receiver<Option<Stop>>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) services: Arc<Services>,
    pub(crate) journal: Journal,
    pub(crate) writes: mpsc::UnboundedSender<Write>,
}

/// A command that must not run twice, about which the journal is asked.
pub(crate) struct Ask<'a> {
    pub(crate) journal: &'a Journal,
    pub(crate) delivery: &'a Delivery,
    pub(crate) prior: Prior,
    pub(crate) action: &'a str,
    pub(crate) clock: &'a FleetClock,
    pub(crate) host: &'a HostName,
}

impl Ask<'_> {
    /// Records the start, or that the command is refused; returns how it ends if it must not start. `refusal`: why it must
    /// not, if the journal does not know it.
    pub(crate) async fn journal(self, refusal: Option<Refusal>) -> Option<Box<Outcome>> {
        let Self { journal, delivery, prior, action, clock, host } = self;
        let start = BeginRequest { delivery: delivery.clone(), now: clock.now(), allowed: refusal.is_none(), prior };
        let reply = journal.begin(start).await;
        let is_unknown = matches!(reply, Begin::NotAllowed);
        match admission::start(reply, prior, refusal, action) {
            StartVerdict::Go => None,
            StartVerdict::Ended(outcome) => Some(outcome),
            StartVerdict::Refused(refusal) => {
                let outcome = refusal.outcome(clock.now());
                // The reported outcome must be final: a copy that comes later, when it might be allowed, must not run.
                if is_unknown && !fault::planted(Bug::NoLastWord) {
                    journal.refuse(delivery.clone(), outcome.clone()).await;
                }
                Some(outcome)
            }
            StartVerdict::Interrupted(refusal) => {
                // The reported outcome must be final, so leftover processes of the command are ended first.
                program::end_leftovers(&[delivery.job], host).await;
                let outcome = refusal.outcome(clock.now());
                journal.finish(delivery.clone(), outcome.clone()).await;
                Some(outcome)
            }
        }
    }
}

/// The end of a command.
pub(crate) struct Finished {
    pub(crate) outcome: Box<Outcome>,
    /// Fresh figures.
    pub(crate) metrics: Vec<(MetricGroup, Figures)>,
    /// Whether it was run now, rather than refused at its turn.
    pub(crate) ran: bool,
}

impl Finished {
    const fn refused(outcome: Box<Outcome>) -> Self {
        Self { outcome, metrics: Vec::new(), ran: false }
    }
}

/// The command as it may be typed, for the log. A manifest has no values of secrets.
fn shown(manifest: &Manifest) -> String {
    let mut words = vec![manifest.action.clone()];
    let mut trailing = Vec::new();
    for (name, argument) in &manifest.arguments {
        match argument {
            Argument::List(list) => trailing.extend(list.iter().map(|word| excerpt(word, log::NAME))),
            Argument::Map(map) => words.extend(map.keys().map(|key| format!("{name}.{key}=…"))),
            Argument::Text(text) => words.push(format!("{name}={}", excerpt(text, log::NAME))),
            other => words.push(format!("{name}={other}")),
        }
    }
    words.extend(manifest.secret_names().map(|name| format!("{name}=***")));
    if !trailing.is_empty() {
        words.push("--".into());
        words.extend(trailing);
    }
    excerpt(&words.join(" "), log::SENTENCE)
}

impl Task {
    /// Runs the command to its end. A command that must not run twice is journaled before and after.
    pub(crate) async fn run(mut self) -> Finished {
        if self.repeatable {
            return self.execute().await;
        }
        if !fault::planted(Bug::JournalAfterStart)
            && let Some(outcome) = self.begin().await
        {
            return Finished::refused(outcome);
        }
        fault::point(Point::Begun);
        let (journal, delivery, clock) = (self.journal.clone(), self.delivery.clone(), self.clock);
        if let Some(outcome) = self.stopped_meanwhile() {
            journal.finish(delivery, outcome.clone()).await;
            return Finished::refused(outcome);
        }

        tracing::info!("starts for {}: {}", excerpt(&self.manifest.operator, log::NAME), shown(&self.manifest));
        let _ = self.writes.send(self.announcement());
        let finished = self.execute().await;
        fault::point(Point::Ended);
        if fault::planted(Bug::JournalAfterStart) {
            let start =
                BeginRequest { delivery: delivery.clone(), now: clock.now(), allowed: true, prior: Prior::None };
            journal.begin(start).await;
        }
        journal.finish(delivery, finished.outcome.clone()).await;
        fault::point(Point::Recorded);
        finished
    }

    /// Records the start; returns how the command ends if it must not start.
    async fn begin(&mut self) -> Option<Box<Outcome>> {
        let audited = match self.receipt.take() {
            Some(receipt) => receipt.written().await,
            None => Ok(()),
        };
        fault::point(Point::Audited);
        let refusal = admission::may_start(&self.manifest, self.cancelled, self.taken_ms, self.clock.now());
        let refusal = refusal.or_else(|| self.distrusted.take());
        let refusal = refusal.or_else(|| Some(admission::unrecorded(&self.manifest.action, &audited.err()?)));
        let Self { journal, delivery, prior, manifest, clock, identity, .. } = self;
        let ask = Ask { journal, delivery, prior: *prior, action: &manifest.action, clock, host: &identity.host };
        ask.journal(refusal).await
    }

    /// How the command ends if it was stopped, or its wait became too long, while its start was being recorded:
    /// a disk may take its time.
    fn stopped_meanwhile(&self) -> Option<Box<Outcome>> {
        let now = self.clock.now();
        let (state, reason) = match *self.stop.borrow() {
            Some(Stop::Cancelled) => (State::Cancelled, BEFORE_START),
            Some(_) => (State::Interrupted, "the worker was stopped before it started"),
            None => return Some(admission::may_start(&self.manifest, false, self.taken_ms, now)?.outcome(now)),
        };
        Some(Box::new(Outcome::bare(state, Some(reason.into()), now)))
    }

    /// How long it may run.
    fn limit(&self) -> Duration {
        Duration::from_millis(self.manifest.timeout_ms).min(limits::TIMEOUT_MAX)
    }

    fn announcement(&self) -> Write {
        // The keys must outlive the run; the outcome sets their time to live anew.
        let retention = self.delivery.retention + self.limit();
        Write::State { delivery: Delivery { retention, ..self.delivery.clone() }, state: State::Running }
    }

    /// Runs the action. If it takes longer than [`ANNOUNCE_AFTER`], announces it and publishes its reports.
    async fn execute(self) -> Finished {
        let (live, mut pieces) = Live::channel();
        let (delivery, writes) = (self.delivery.clone(), self.writes.clone());
        let announcement = self.repeatable.then(|| self.announcement());
        let mut ending = Box::pin(self.end(live));
        let send = |reports: Vec<Report>| {
            for report in reports {
                let delivery = delivery.clone();
                let _ = writes.send(match report {
                    Report::Output(unsent) => Write::Output { delivery, unsent },
                    Report::Progress(text) => Write::Event { delivery, kind: EventKind::Progress(text) },
                });
            }
        };
        let (mut joiner, mut flush_at) = (Joiner::default(), Instant::now());

        let finished = match timeout(ANNOUNCE_AFTER, &mut ending).await {
            Ok(finished) if !finished.outcome.is_cut() => return finished,
            // The program printed more in this short time than its result keeps.
            Ok(finished) => finished,
            Err(_) => {
                if let Some(announcement) = announcement {
                    let _ = writes.send(announcement);
                }
                loop {
                    tokio::select! {
                        biased;
                        Some(piece) = pieces.recv() => {
                            if joiner.is_empty() {
                                flush_at = Instant::now() + FLUSH_AFTER;
                            }
                            if joiner.add(piece) {
                                send(joiner.take());
                            }
                        }
                        () = sleep_until(flush_at), if !joiner.is_empty() => send(joiner.take()),
                        finished = &mut ending => break finished,
                    }
                }
            }
        };
        while let Ok(piece) = pieces.try_recv() {
            if joiner.add(piece) {
                send(joiner.take());
            }
        }
        send(joiner.take());
        finished
    }

    /// Runs the action to its end, or ends it: at its timeout, or when `stop` holds a reason.
    async fn end(self, live: Live) -> Finished {
        let limit = self.limit();
        let Self { delivery, call, manifest, clock, identity, services, mut stop, .. } = self;
        let started_at_ms = clock.now();
        let token = CancellationToken::new();
        let owner = Owner { job: manifest.job, host: identity.host.clone() };
        let keep_output = manifest.kept_output();
        let signer = delivery.asker.map(|asker| asker.signer.clone()).unwrap_or_default();
        let requester = Requester { principal: manifest.operator, signer };
        let context = Context { owner, requester, keep_output, stop: token.clone(), live, services };
        let mut running = Box::pin(AssertUnwindSafe(call.run(context)).catch_unwind());

        let (result, stopped) = tokio::select! {
            result = &mut running => (Some(result), None),
            reason = stopped(&mut stop, limit) => {
                token.cancel();
                (timeout(END_WITHIN, &mut running).await.ok(), Some(reason))
            }
        };
        let result = match result {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Unfinished::Panicked.into()),
            None => Err(Unfinished::Abandoned.into()),
        };
        conclude(result, stopped, limit, started_at_ms, clock.now())
    }
}

/// The end of an action that does not return.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error("internal error: the action panicked; the worker's log says where")]
    Panicked,
    #[error("it did not end when it had to and was abandoned")]
    Abandoned,
}

/// Resolves when the command must end.
async fn stopped(stop: &mut watch::Receiver<Option<Stop>>, limit: Duration) -> Stop {
    let told = async {
        let told = stop.wait_for(Option::is_some).await.map(|reason| *reason);
        match told {
            Ok(Some(reason)) => reason,
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        reason = told => reason,
        () = sleep(limit) => Stop::TimedOut,
    }
}

fn conclude(
    result: Result<Output, Failure>,
    stopped: Option<Stop>,
    limit: Duration,
    started_at_ms: Millis,
    finished_at_ms: Millis,
) -> Finished {
    let (failure, output) = match result {
        Ok(output) => (None, output),
        Err(Failure { error, output }) => (Some(with_sources(&*error)), *output),
    };
    let failed = failure.is_some();
    let remarks: Vec<String> = failure.into_iter().chain(output.remark).collect();
    let because = |reason: String| [vec![reason], remarks.clone()].concat();
    let (state, reasons) = match stopped {
        Some(Stop::TimedOut) => (State::TimedOut, because(format!("longer than {}", show_duration(limit)))),
        Some(Stop::Cancelled) => (State::Cancelled, because("while it ran".into())),
        Some(Stop::Shutdown) => (State::Interrupted, because("the worker was stopped".into())),
        None if failed => (State::Failed, remarks),
        None => (State::Succeeded, remarks),
    };
    let reason = (!reasons.is_empty()).then(|| excerpt(&reasons.join("; "), log::SENTENCE));

    let mut outcome = Outcome {
        exit_code: output.exit_code,
        signal: output.signal,
        started_at_ms: Some(started_at_ms),
        stdout: output.stdout,
        stderr: output.stderr,
        ..Outcome::bare(state, reason, finished_at_ms)
    };
    match output.data {
        Some(data) if serde_json::to_vec(&data).map_or(0, |text| text.len()) > limits::DATA_BYTES => {
            outcome.state = State::Failed;
            outcome.reason = Some(format!("its data is larger than {} bytes", limits::DATA_BYTES));
        }
        data => outcome.data = data,
    }
    Finished { outcome: Box::new(outcome), metrics: output.metrics, ran: true }
}
