//! One command at work: from its start to its outcome.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use protocol::{
    action::Repeat,
    clock::FleetClock,
    command::Manifest,
    limits,
    name::HostName,
    outcome::{Outcome, State},
    time::Millis,
};
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    actions::{Action, Failure, Invocation, Report},
    fault::{self, Bug, Point},
    journal::{Before, Begin, Journal, Start},
    live::{FLUSH_AFTER, Joiner, Live, Piece},
    log::{self, excerpt},
    metrics::{Figures, Group},
    process,
    publisher::Write,
};

/// A command that ends sooner is not announced as running: nobody could have seen it, and the
/// announcement would cost Redis as much as the answer.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(20);

/// How long an action may take to end after it was told to, before it is dropped.
pub(crate) const END_WITHIN: Duration = process::KILL_AFTER.saturating_add(Duration::from_secs(2));

/// Why a cancelled command has nothing to show.
pub(crate) const BEFORE_START: &str = "before it started";

/// Why a command may not start any more at `now`, where it may not.
pub(crate) fn too_late(manifest: &Manifest, now: Millis) -> Option<String> {
    let late = Duration::from_millis(now.checked_sub(manifest.start_by_ms).filter(|late| *late > 0)?);
    Some(format!("its turn came {} after its start-by", protocol::time::show_duration(late)))
}

/// Why a running command is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It ran longer than it may.
    TimedOut,
    /// Somebody cancelled it.
    Cancelled,
    /// The worker stops and its grace period is over.
    Shutdown,
}

/// A command that may start.
pub(crate) struct Task {
    pub(crate) entry: String,
    pub(crate) action: Arc<dyn Action>,
    pub(crate) manifest: Manifest,
    pub(crate) host: HostName,
    pub(crate) retention: Duration,
    /// Whether a process before this one had taken it.
    pub(crate) inherited: bool,
    /// The state that was published for it, as far as is known.
    pub(crate) published: Option<State>,
    /// Whether it was cancelled before its turn.
    pub(crate) cancelled: bool,
    pub(crate) clock: FleetClock,
    pub(crate) stop: watch::Receiver<Option<Stop>>,
    pub(crate) journal: Journal,
    pub(crate) writes: mpsc::UnboundedSender<Write>,
}

/// What an executor ends with.
pub(crate) struct Finished {
    pub(crate) outcome: Box<Outcome>,
    pub(crate) metrics: Vec<(Group, Figures)>,
}

impl Finished {
    fn bare(state: State, reason: Option<String>, clock: &FleetClock) -> Self {
        let outcome = Box::new(Outcome::bare(state, reason, clock.now()));
        Self { outcome, metrics: Vec::new() }
    }
}

impl Task {
    /// Runs the command to its end. What must not run twice is journaled before and after.
    pub(crate) async fn run(self) -> Finished {
        if self.action.spec().repeat == Repeat::Repeatable {
            return self.execute().await;
        }
        if !fault::planted(Bug::JournalAfterStart)
            && let Some(finished) = self.begin().await
        {
            return finished;
        }
        fault::point(Point::Begun);
        if let Some((state, reason)) = self.stopped_meanwhile() {
            let finished = Finished::bare(state, Some(reason), &self.clock);
            let (job, entry) = (self.manifest.job, self.entry.clone());
            self.journal.finish(job, entry, self.retention, finished.outcome.clone()).await;
            return finished;
        }
        let _ = self.writes.send(self.announcement());
        let (entry, journal) = (self.entry.clone(), self.journal.clone());
        let (job, retention, clock) = (self.manifest.job, self.retention, self.clock);
        let finished = self.execute().await;
        fault::point(Point::Ended);
        if fault::planted(Bug::JournalAfterStart) {
            let (entry, now) = (entry.clone(), clock.now());
            journal.begin(Start { job, entry, retention, now, allowed: true, before: Before::Nothing }).await;
        }
        journal.finish(job, entry, retention, finished.outcome.clone()).await;
        fault::point(Point::Recorded);
        finished
    }

    /// Records the start; says how the command ends if it must not start.
    async fn begin(&self) -> Option<Finished> {
        let now = self.clock.now();
        let (verdict, before) = (self.may_not_start(now), self.before());
        let (job, entry, allowed) = (self.manifest.job, self.entry.clone(), verdict.is_none());
        let start = Start { job, entry, retention: self.retention, now, allowed, before };
        let bare = |state, reason: String| Some(Finished::bare(state, Some(reason), &self.clock));
        match self.journal.begin(start).await {
            Begin::Go => None,
            Begin::Known(_) if fault::planted(Bug::NoDedup) => None,
            Begin::Known(Some(outcome)) => Some(Finished { outcome, metrics: Vec::new() }),
            Begin::Known(None) => bare(State::Interrupted, "it was started before; how it ended is not known".into()),
            Begin::Cancelled => bare(State::Cancelled, BEFORE_START.into()),
            Begin::MayNot => verdict.and_then(|(state, reason)| bare(state, reason)),
            Begin::Lost => Some(self.nobody_knows(before, "the journal that knew more is gone").await),
            Begin::Unavailable(reason) if before != Before::Nothing => Some(self.nobody_knows(before, &reason).await),
            Begin::Full(reason) | Begin::Unavailable(reason) => {
                let reason = format!("'{}' must not run twice, and {reason}", self.action.spec().name);
                bare(State::Rejected, reason)
            }
        }
    }

    /// What Redis shows of the command and the worker before this one.
    fn before(&self) -> Before {
        match self.published {
            Some(State::Running) => Before::Ran,
            _ if self.inherited => Before::Taken,
            _ => Before::Nothing,
        }
    }

    /// Ends a command that may have run, where nothing says how far it came. It may be running still:
    /// what is told of it must be the end, and must be remembered as such.
    async fn nobody_knows(&self, before: Before, why: &str) -> Finished {
        let (job, entry) = (self.manifest.job, self.entry.clone());
        process::end_leftovers(&[job], &self.host).await;
        let known = match before {
            Before::Ran => "it was running when the worker before this one ended",
            _ => "the worker before this one had taken it, and whether it ran is not known",
        };
        let finished = Finished::bare(State::Interrupted, Some(format!("{known}: {why}")), &self.clock);
        self.journal.finish(job, entry, self.retention, finished.outcome.clone()).await;
        finished
    }

    /// How the command ends if it has not begun yet, where it may not start any more.
    fn may_not_start(&self, now: Millis) -> Option<(State, String)> {
        if self.cancelled {
            return Some((State::Cancelled, BEFORE_START.into()));
        }
        too_late(&self.manifest, now).map(|reason| (State::Expired, reason))
    }

    /// What has come between while the start was being recorded: a disk may take its time.
    fn stopped_meanwhile(&self) -> Option<(State, String)> {
        match *self.stop.borrow() {
            Some(Stop::Cancelled) => Some((State::Cancelled, BEFORE_START.into())),
            Some(_) => Some((State::Interrupted, "the worker was stopped before it started".into())),
            None => too_late(&self.manifest, self.clock.now()).map(|reason| (State::Expired, reason)),
        }
    }

    fn announcement(&self) -> Write {
        // The keys must outlive the run; the outcome counts anew.
        let retention = self.retention + Duration::from_millis(self.manifest.timeout_ms);
        Write::State { job: self.manifest.job, state: State::Running, retention }
    }

    /// Runs the action, announces it and sends on its output if it takes longer.
    async fn execute(self) -> Finished {
        let (live, mut pieces) = Live::channel();
        let (job, retention, writes) = (self.manifest.job, self.retention, self.writes.clone());
        let announcement = (self.action.spec().repeat == Repeat::Repeatable).then(|| self.announcement());
        let mut ending = Box::pin(self.end(live));
        let send = |pieces: Vec<Piece>| {
            for Piece { stream, offset, data } in pieces {
                let _ = writes.send(Write::Output { job, stream, offset, data, retention });
            }
        };
        let (mut joiner, mut flush_at) = (Joiner::default(), Instant::now());
        let finished = match timeout(ANNOUNCE_AFTER, &mut ending).await {
            Ok(finished) if !finished.outcome.is_cut() => return finished,
            // It printed more in this short time than its result keeps.
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

    /// Runs the action to its end, or ends it: by its timeout, or by what `stop` says.
    async fn end(self, live: Live) -> Finished {
        let Self { action, manifest, host, clock, mut stop, .. } = self;
        let started_at_ms = clock.now();
        let token = CancellationToken::new();
        let limit = Duration::from_millis(manifest.timeout_ms).min(limits::TIMEOUT_MAX);
        let invocation =
            Invocation { job: manifest.job, host, arguments: manifest.arguments, stop: token.clone(), live };
        let mut running = Box::pin(AssertUnwindSafe(action.run(invocation)).catch_unwind());
        let (result, stopped) = tokio::select! {
            result = &mut running => (Some(result), None),
            reason = stopped(&mut stop, limit) => {
                token.cancel();
                (timeout(END_WITHIN, &mut running).await.ok(), Some(reason))
            }
        };
        let result = match result {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Failure("internal error: the action panicked; the worker's log says where".into())),
            None => {
                let remark = Some("it did not end when told to and was abandoned".into());
                Ok(Report { remark, ..Report::default() })
            }
        };
        conclude(result, stopped, limit, started_at_ms, clock.now())
    }
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
    result: Result<Report, Failure>,
    stopped: Option<Stop>,
    limit: Duration,
    started_at_ms: u64,
    finished_at_ms: u64,
) -> Finished {
    let report = match result {
        Ok(report) => report,
        Err(Failure(reason)) => Report { remark: Some(reason), killed: true, ..Report::default() },
    };
    let remarked = |reason: String| match &report.remark {
        Some(remark) => Some(format!("{reason}; {remark}")),
        None => Some(reason),
    };
    let (state, reason) = match stopped {
        Some(Stop::TimedOut) => {
            (State::TimedOut, remarked(format!("longer than {}", protocol::time::show_duration(limit))))
        }
        Some(Stop::Cancelled) => (State::Cancelled, remarked("while it ran".into())),
        Some(Stop::Shutdown) => (State::Interrupted, remarked("the worker was stopped".into())),
        None if report.killed => (State::Failed, report.remark),
        None => match report.exit_code {
            None | Some(0) => (State::Succeeded, report.remark),
            Some(code) => (State::Failed, Some(report.remark.unwrap_or_else(|| format!("exit code {code}")))),
        },
    };
    let reason = reason.map(|reason| excerpt(&reason, log::SENTENCE));
    let mut outcome = Outcome {
        exit_code: report.exit_code,
        started_at_ms: Some(started_at_ms),
        stdout: report.stdout,
        stderr: report.stderr,
        ..Outcome::bare(state, reason, finished_at_ms)
    };
    match report.data {
        Some(data) if Value::Object(data.clone()).to_string().len() > limits::DATA_BYTES => {
            outcome.state = State::Failed;
            outcome.reason = Some(format!("its data is larger than {} bytes", limits::DATA_BYTES));
        }
        data => outcome.data = data,
    }
    Finished { outcome: Box::new(outcome), metrics: report.metrics }
}
