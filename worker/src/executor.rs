//! One command at work: from its start to its outcome.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use protocol::{
    clock::FleetClock,
    command::Manifest,
    limits,
    outcome::{Outcome, State},
};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    actions::{Action, Failure, Invocation, Report},
    metrics::{Figures, Group},
    process,
};

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

/// How long an action may take to end after it was told to, before it is dropped.
const END_WITHIN: Duration = process::KILL_AFTER.saturating_add(Duration::from_secs(2));

/// What an executor ends with.
pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    pub(crate) metrics: Vec<(Group, Figures)>,
}

/// Runs the action to its end, or ends it: by its timeout, or by what `stop` says.
pub(crate) async fn execute(
    action: Arc<dyn Action>,
    manifest: Arc<Manifest>,
    invocation: Invocation,
    clock: FleetClock,
    mut stop: watch::Receiver<Option<Stop>>,
) -> Finished {
    let started_at_ms = clock.now();
    let token = invocation.stop.clone();
    let limit = Duration::from_millis(manifest.timeout_ms).min(limits::TIMEOUT_MAX);
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
            Ok(Report { remark: Some("it did not end when told to and was abandoned".into()), ..Report::default() })
        }
    };
    conclude(result, stopped, limit, started_at_ms, clock.now())
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
        () = tokio::time::sleep(limit) => Stop::TimedOut,
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
    let (state, reason) = match stopped {
        Some(Stop::TimedOut) => {
            (State::TimedOut, Some(format!("longer than {}", protocol::time::show_duration(limit))))
        }
        Some(Stop::Cancelled) => (State::Cancelled, None),
        Some(Stop::Shutdown) => (State::Interrupted, Some("the worker was stopped".into())),
        None if report.killed => (State::Failed, report.remark),
        None => match report.exit_code {
            None | Some(0) => (State::Succeeded, report.remark),
            Some(code) => (State::Failed, Some(report.remark.unwrap_or_else(|| format!("exit code {code}")))),
        },
    };
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
    Finished { outcome, metrics: report.metrics }
}

/// A token and a switch for a command that is about to start.
pub(crate) fn switch() -> (watch::Sender<Option<Stop>>, watch::Receiver<Option<Stop>>, CancellationToken) {
    let (sender, receiver) = watch::channel(None);
    (sender, receiver, CancellationToken::new())
}
