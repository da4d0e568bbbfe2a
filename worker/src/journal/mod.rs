//! The journal: records what must be known after a crash, on disk, before the worker acts upon it.
//!
//! ```text
//! (nothing) ──begin──▶ started ──finish──▶ finished ──published──▶ finished, published
//!     ├──────refuse───────────────────────────▲
//!     └──────cancel──▶ cancelled
//! ```
//!
//! A `once` action is recorded as started, durably, before it starts; its outcome is recorded before
//! it is published. After a crash, *started* therefore means that it is not known how far it came, and
//! *nothing* that it never began. Records are kept longer than any command may wait, so that no copy
//! of a command can start it again.
//!
//! The store is owned by a thread of its own ([`keeper`]): a slow disk holds up only those who wait for
//! it. [`records`] defines what is in the store, [`file`] how it is opened and made.

mod error;
mod file;
mod keeper;
mod records;

use std::{
    path::PathBuf,
    sync::mpsc::{Sender, channel},
};

use protocol::{
    limits,
    name::JobId,
    outcome::{Outcome, State},
    time::Millis,
};
use tokio::sync::{oneshot, watch};

use crate::{delivery::Delivery, log::with_sources};
use error::Cause;
pub(crate) use error::{JournalError, JournalFull};
use keeper::Keeper;
use records::Record;

/// A command that is about to start.
#[derive(Debug)]
pub(crate) struct BeginRequest {
    pub(crate) delivery: Delivery,
    pub(crate) now: Millis,
    /// Whether it may start if the journal does not know it.
    pub(crate) allowed: bool,
    pub(crate) prior: Prior,
}

/// What Redis shows of a command and the prior worker processes of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prior {
    /// It was delivered to none of them.
    None,
    /// It was delivered to one, which may have started it.
    Delivered,
    /// One had started it.
    Running,
}

impl Prior {
    /// `state`: the command's published state. `delivered`: whether it was delivered to a prior process. A state alone does
    /// not count: other hosts can write it.
    pub(crate) fn of(state: Option<State>, delivered: bool) -> Self {
        match state {
            _ if !delivered => Self::None,
            Some(State::Running) => Self::Running,
            _ => Self::Delivered,
        }
    }
}

/// The journal's reply to a command that is about to start.
#[derive(Debug)]
pub(crate) enum Begin {
    /// It is recorded: start it.
    Go,
    /// It was started before. Its outcome, where that is known.
    Known(Option<Box<Outcome>>),
    /// Another command of the same job id was started before.
    Other,
    /// It was cancelled before it started.
    Cancelled,
    /// It is not known and may not start; nothing is recorded.
    NotAllowed,
    /// It is not known, but this journal was made after it may have run; nothing is recorded.
    Lost,
    /// It is not known, but neither is all else that was issued until this moment: it may have run, and been forgotten.
    Forgotten(Millis),
    /// It is not known, and there is no room to record it, so it must not start.
    Full(JournalFull),
    /// The journal cannot be used, so it must not start.
    Unavailable(JournalError),
}

/// What a worker finds at its start.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Outcomes to publish, oldest first: finished ones, and `interrupted` for those that had only started.
    pub(crate) unpublished: Vec<Unpublished>,
    /// Jobs that were cancelled before they started.
    pub(crate) cancelled: Vec<(JobId, Millis)>,
}

/// An outcome that may not have been published.
#[derive(Debug)]
pub(crate) struct Unpublished {
    pub(crate) delivery: Delivery,
    pub(crate) outcome: Box<Outcome>,
    /// Whether it was running when the prior process died.
    pub(crate) was_running: bool,
}

/// How much the journal holds.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Commands that may be known before none may start any more.
    commands: u64,
    /// Orders to cancel.
    cancelled: u64,
    /// Bytes of published outcomes that are kept with their output; beyond, the oldest keep only how they ended.
    outcome_bytes: u64,
    /// Records that are looked through at a time for what is too old.
    piece: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            commands: limits::JOURNAL_RECORDS as u64,
            cancelled: limits::JOURNAL_CANCELLED as u64,
            outcome_bytes: 8 * 1024 * 1024,
            piece: 1000,
        }
    }
}

enum Request {
    Reconcile { now: Millis, reply: oneshot::Sender<Result<Found, JournalError>> },
    Begin { start: BeginRequest, reply: oneshot::Sender<Begin> },
    Finish { job: JobId, end: Box<Record>, reply: oneshot::Sender<()> },
    Refuse { job: JobId, end: Box<Record>, reply: oneshot::Sender<()> },
    Published { job: JobId },
    Cancel { job: JobId, now: Millis, reply: oneshot::Sender<Option<bool>> },
    Probe,
    Prune { now: Millis },
}

/// The way to the journal's thread.
#[derive(Clone)]
pub(crate) struct Journal {
    requests: Sender<Request>,
    path: PathBuf,
    trouble: watch::Receiver<Option<JournalError>>,
    full: watch::Receiver<Option<JournalFull>>,
}

impl Journal {
    /// Opens the journal at `path`, or makes it. Trouble is reported by [`Self::trouble`], not here: a worker
    /// without a journal still works.
    pub(crate) fn open(path: PathBuf) -> Self {
        Self::bounded(path, Bounds::default())
    }

    fn bounded(path: PathBuf, bounds: Bounds) -> Self {
        let (requests, receiver) = channel();
        let keeper = Keeper::new(path.clone(), bounds);
        let (trouble, full) = (keeper.trouble.subscribe(), keeper.full.subscribe());
        let spawned = std::thread::Builder::new()
            .name("journal".into())
            .stack_size(512 * 1024)
            .spawn(move || keeper.run(&receiver));
        if let Err(error) = spawned {
            tracing::error!("the journal's thread cannot start: {error}");
        }
        Self { requests, path, trouble, full }
    }

    /// Why the journal cannot be used, where it cannot.
    pub(crate) fn trouble(&self) -> Option<JournalError> {
        self.trouble.borrow().clone()
    }

    /// Why actions that must not run twice are refused, where they are.
    pub(crate) fn refusal(&self) -> Option<String> {
        let full = || self.full.borrow().as_ref().map(ToString::to_string);
        self.trouble().map(|trouble| with_sources(&trouble)).or_else(full)
    }

    /// Reads what a prior process left; until that has succeeded nothing begins. Changes nothing.
    ///
    /// # Errors
    /// Why it cannot be read; see [`JournalError::is_locked`].
    pub(crate) async fn reconcile(&self, now: Millis) -> Result<Found, JournalError> {
        self.ask(|reply| Request::Reconcile { now, reply }).await.unwrap_or_else(|_| Err(self.no_reply()))
    }

    /// Records, durably, that the command starts; or replies its outcome, or why it must not start.
    pub(crate) async fn begin(&self, start: BeginRequest) -> Begin {
        self.ask(|reply| Request::Begin { start, reply }).await.unwrap_or_else(|_| Begin::Unavailable(self.no_reply()))
    }

    /// Records, durably where the disk allows it, how the command ended.
    pub(crate) async fn finish(&self, delivery: Delivery, outcome: Box<Outcome>) {
        let job = delivery.job;
        let end = Box::new(Record::finished(delivery, outcome));
        let _ = self.ask(|reply| Request::Finish { job, end, reply }).await;
    }

    /// Records, durably where there is room, that a command which was never started is refused and never starts.
    pub(crate) async fn refuse(&self, delivery: Delivery, outcome: Box<Outcome>) {
        let job = delivery.job;
        let end = Box::new(Record::finished(delivery, outcome));
        let _ = self.ask(|reply| Request::Refuse { job, end, reply }).await;
    }

    /// Records that the outcome is published; not durable by itself, as publishing again does no harm.
    pub(crate) fn published(&self, job: JobId) {
        let _ = self.requests.send(Request::Published { job });
    }

    /// Records, durably, that the job must not start any more. `Some(false)`: it has started already;
    /// `None`: it could not be recorded. The request is queued at once, before whatever begins later.
    pub(crate) fn cancel(&self, job: JobId, now: Millis) -> impl Future<Output = Option<bool>> + use<> {
        let reply = self.ask(|reply| Request::Cancel { job, now, reply });
        async { reply.await.ok().flatten() }
    }

    /// Looks whether the journal is still there; tries whether one in trouble can be used again.
    pub(crate) fn probe(&self) {
        let _ = self.requests.send(Request::Probe);
    }

    /// Begins to forget records that are older than any command may be.
    pub(crate) fn prune(&self, now: Millis) {
        let _ = self.requests.send(Request::Prune { now });
    }

    /// Queues a request at once. If the request fails, its reply is dropped.
    fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> oneshot::Receiver<T> {
        let (sender, reply) = oneshot::channel();
        let _ = self.requests.send(request(sender));
        reply
    }

    /// Why there was no reply: the journal failed, or its thread has ended.
    fn no_reply(&self) -> JournalError {
        self.trouble().unwrap_or_else(|| JournalError::new(&self.path, Cause::NoReply))
    }
}

#[cfg(test)]
mod tests;
