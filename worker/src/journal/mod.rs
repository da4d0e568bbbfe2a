//! The journal: what must be known after a crash, on disk before it is acted upon.
//!
//! ```text
//! (nothing) ──begin──▶ started ──finish──▶ finished ──published──▶ finished, published
//!     └──────cancel──▶ cancelled
//! ```
//!
//! A `once` action is recorded as started, durably, before it starts; its outcome is recorded before
//! it is published. After a crash, *started* therefore means that nobody knows how far it came, and
//! *nothing* that it never began. Records are kept longer than any command may wait, so that no copy
//! of a command can start it again.
//!
//! The store is owned by a thread of its own ([`keeper`]): a slow disk holds up only those who wait for
//! it. [`records`] says what is in the store, [`file`] how it is opened and made.

mod file;
mod keeper;
mod records;

use std::{
    path::PathBuf,
    sync::mpsc::{Sender, channel},
    time::Duration,
};

use protocol::{limits, name::JobId, outcome::Outcome, time::Millis};
use tokio::sync::{oneshot, watch};

pub(crate) use file::is_locked;
use keeper::Keeper;
use records::Record;

/// A command that is about to start.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) job: JobId,
    /// The stream entry that asks.
    pub(crate) entry: String,
    /// How long its result is to be kept.
    pub(crate) retention: Duration,
    pub(crate) now: Millis,
    /// Whether it may start if nothing is known of it.
    pub(crate) allowed: bool,
    pub(crate) before: Before,
}

/// What Redis shows of a command and the processes before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// None has had it.
    Nothing,
    /// One had taken it, and may have started it.
    Taken,
    /// One had started it.
    Ran,
}

/// What the journal says to a command that is about to start.
#[derive(Debug)]
pub(crate) enum Begin {
    /// It is recorded: start it.
    Go,
    /// It was started before. Its outcome, where that is known.
    Known(Option<Box<Outcome>>),
    /// It was cancelled before it started.
    Cancelled,
    /// Nothing is known of it and it may not start; nothing is recorded.
    MayNot,
    /// Nothing is known of it, but this journal came into being after it may have run; nothing is recorded.
    Lost,
    /// Nothing is known of it, and there is no room to record it, so it must not start. Says what to do.
    Full(String),
    /// The journal cannot be used, so it must not start.
    Unavailable(String),
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
    pub(crate) job: JobId,
    pub(crate) entry: String,
    pub(crate) retention: Duration,
    pub(crate) outcome: Box<Outcome>,
    /// Whether it was running when the process before this one died.
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

impl Bounds {
    /// Why nothing more may start at the bound, and what to do.
    fn full(&self) -> String {
        format!(
            "the journal is full: it knows {} commands and may forget none within {} days, as a copy of it could then \
             run again; put more work into fewer commands, or wait until the oldest are that old",
            self.commands,
            records::KEEP.as_secs() / (24 * 3600)
        )
    }
}

enum Request {
    Reconcile { now: Millis, reply: oneshot::Sender<Result<Found, String>> },
    Begin { start: Start, reply: oneshot::Sender<Begin> },
    Finish { job: JobId, end: Box<Record>, reply: oneshot::Sender<()> },
    Published { job: JobId },
    Cancel { job: JobId, now: Millis, reply: oneshot::Sender<Option<bool>> },
    Probe,
    Prune { now: Millis },
}

/// The way to the journal's thread.
#[derive(Clone)]
pub(crate) struct Journal {
    requests: Sender<Request>,
    trouble: watch::Receiver<Option<String>>,
    full: watch::Receiver<Option<String>>,
}

impl Journal {
    /// Opens the journal at `path`, or makes it. Trouble is told by [`Self::trouble`], not here: a worker
    /// without a journal still answers.
    pub(crate) fn open(path: PathBuf) -> Self {
        Self::bounded(path, Bounds::default())
    }

    fn bounded(path: PathBuf, bounds: Bounds) -> Self {
        let (requests, receiver) = channel();
        let ((say_trouble, trouble), (say_full, full)) = (watch::channel(None), watch::channel(None));
        let keeper = Keeper::new(path, bounds, say_trouble, say_full);
        let spawned = std::thread::Builder::new()
            .name("journal".into())
            .stack_size(512 * 1024)
            .spawn(move || keeper.run(&receiver));
        if let Err(error) = spawned {
            tracing::error!("the journal's thread cannot start: {error}");
        }
        Self { requests, trouble, full }
    }

    /// Why the journal cannot be used, where it cannot.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Why actions that must not run twice are refused, where they are.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.trouble().or_else(|| self.full.borrow().clone())
    }

    /// Reads what an earlier process left; until that has been possible nothing begins. Changes nothing.
    ///
    /// # Errors
    /// Why it cannot be read; see [`is_locked`].
    pub(crate) async fn reconcile(&self, now: Millis) -> Result<Found, String> {
        let answer = self.ask(|reply| Request::Reconcile { now, reply }).await;
        answer.unwrap_or_else(|| Err("the journal failed".into()))
    }

    /// Records, durably, that the command starts; or says what is known of it, or why it must not.
    pub(crate) async fn begin(&self, start: Start) -> Begin {
        let answer = self.ask(|reply| Request::Begin { start, reply }).await;
        answer.unwrap_or_else(|| Begin::Unavailable("the journal failed".into()))
    }

    /// Records, durably where the disk allows it, how the command ended.
    pub(crate) async fn finish(&self, job: JobId, entry: String, retention: Duration, outcome: Box<Outcome>) {
        let end = Box::new(Record::finished(entry, retention, outcome));
        self.ask(|reply| Request::Finish { job, end, reply }).await;
    }

    /// Remembers that the outcome is published; not durable by itself, as publishing again does no harm.
    pub(crate) fn published(&self, job: JobId) {
        let _ = self.requests.send(Request::Published { job });
    }

    /// Records, durably, that the job must not start any more. `Some(false)`: it has started already;
    /// `None`: it could not be recorded. The order is given at once, so that whatever begins later hears of it.
    pub(crate) fn cancel(&self, job: JobId, now: Millis) -> impl Future<Output = Option<bool>> + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send(Request::Cancel { job, now, reply });
        async move {
            sent.ok()?;
            answer.await.ok().flatten()
        }
    }

    /// Tries whether it can be used again.
    pub(crate) fn probe(&self) {
        let _ = self.requests.send(Request::Probe);
    }

    /// Begins to forget what is older than any command may be.
    pub(crate) fn prune(&self, now: Millis) {
        let _ = self.requests.send(Request::Prune { now });
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests;
