//! The audit trail: what this host decided about commands and orders to cancel, who had asked, and why.
//!
//! One line of JSON per decision, in a file that is only ever appended to. The line of a command that may change the
//! host is written before the command starts, and where it cannot be written the command does not start. All other
//! decisions stand even where their line is lost: a full disk stops no `ping`, and an order to cancel is obeyed. What
//! is lost is counted, and the count is written when lines can be written again.
//!
//! Whoever can write to Redis can cause refusals in any number. Of these some get a line of their own, and then they
//! are counted: a flood must not displace what matters from a trail that is bounded.
//!
//! [`line`] defines a line, [`file`] the files and their rotation. They are owned by a thread of their own
//! ([`keeper`]): a slow disk holds up only those who wait for it.

mod file;
mod keeper;
mod line;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use tokio::sync::{oneshot, watch};

pub(crate) use self::line::{About, Decision, Verdict};
use self::{
    keeper::Keeper,
    line::{Kind, Lines},
};
use crate::{identity::Identity, log::Floods};

/// Bytes of lines that wait for the disk before those that nothing waits for are lost.
const WAITING_BYTES: usize = 4 * 1024 * 1024;

/// Over how long the lines of a kind are counted.
const BUDGET_FOR: Duration = Duration::from_secs(600);

/// How many bytes of lines decisions of one kind get within [`BUDGET_FOR`].
const fn budget(kind: Kind) -> usize {
    match kind.verdict {
        Verdict::Dropped(_) => 8 * 1024,
        // Anybody can cause these.
        _ if !kind.verified => 32 * 1024,
        _ => 1024 * 1024,
    }
}

/// Why a line cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit trail {path} cannot be written: {cause}", path = path.display())]
pub(crate) struct AuditError {
    path: PathBuf,
    cause: String,
}

impl AuditError {
    fn new(path: &Path, cause: &dyn Display) -> Self {
        Self { path: path.into(), cause: cause.to_string() }
    }
}

/// A line for the keeper.
struct Line {
    text: String,
    /// Whether it is to be on disk soon.
    syncs: bool,
    /// For whoever must not go on before it is written.
    reply: Option<oneshot::Sender<Result<(), AuditError>>>,
}

enum Request {
    Write(Line),
    /// Try whether a trail in trouble can be written again.
    Probe,
    /// All is written that was asked for before.
    Close(oneshot::Sender<()>),
}

/// What the dispatcher and the keeper both count.
#[derive(Default)]
struct Counts {
    /// Bytes of lines that wait for the disk.
    waiting: AtomicUsize,
    /// Lines that were lost.
    lost: AtomicU64,
}

/// The promise of a line. A command that may change the host awaits it before it starts.
#[derive(Debug)]
pub(crate) struct Receipt {
    reply: oneshot::Receiver<Result<(), AuditError>>,
    path: PathBuf,
}

impl Receipt {
    /// Resolves when the line is written.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) async fn written(self) -> Result<(), AuditError> {
        self.reply.await.unwrap_or_else(|_| Err(AuditError::new(&self.path, &"the thread that writes it has ended")))
    }
}

/// The way to the audit trail.
pub(crate) struct Audit {
    path: PathBuf,
    lines: Lines,
    requests: Sender<Request>,
    counts: Arc<Counts>,
    trouble: watch::Receiver<Option<AuditError>>,
    floods: Floods<Kind>,
}

impl Audit {
    /// The trail at `path`. Trouble is reported by [`Self::trouble`], not here: a worker without a trail still reads.
    pub(crate) fn open(path: PathBuf, identity: Arc<Identity>) -> Self {
        let (requests, receiver) = channel();
        let lines = Lines::new(identity);
        let counts = Arc::<Counts>::default();
        let keeper = Keeper::new(path.clone(), lines.clone(), Arc::clone(&counts));
        let trouble = keeper.trouble.subscribe();
        let spawned = std::thread::Builder::new()
            .name("audit".into())
            .stack_size(256 * 1024)
            .spawn(move || keeper.run(&receiver));
        if let Err(error) = spawned {
            tracing::error!("the thread of the audit trail cannot start: {error}");
        }
        Self { path, lines, requests, counts, trouble, floods: Floods::over(BUDGET_FOR) }
    }

    /// Records a decision that stands even if its line is lost.
    pub(crate) fn record(&mut self, decision: &Decision<'_>) {
        let (kind, line) = (decision.kind(), || self.lines.of(decision));
        let line = if decision.must() { Some(line()) } else { self.floods.admit(kind, budget(kind), line) };
        if let Some(line) = line {
            self.send(line, decision.syncs(), None);
        }
    }

    /// Records that a command was accepted that must not start before its line is written.
    pub(crate) fn record_first(&self, decision: &Decision<'_>) -> Receipt {
        let (sender, reply) = oneshot::channel();
        self.send(self.lines.of(decision), true, Some(sender));
        Receipt { reply, path: self.path.clone() }
    }

    /// Writes the counts of floods, and tries whether a trail in trouble can be written again.
    pub(crate) fn tend(&mut self) {
        for (kind, count) in self.floods.due() {
            self.send(self.lines.of_count(kind, count), true, None);
        }
        let _ = self.requests.send(Request::Probe);
    }

    /// Why nothing is written and what may change the host is refused, where that is so.
    pub(crate) fn trouble(&self) -> Option<AuditError> {
        self.trouble.borrow().clone()
    }

    /// Writes what is left to write.
    pub(crate) async fn close(mut self) {
        for (kind, count) in self.floods.rest() {
            self.send(self.lines.of_count(kind, count), true, None);
        }
        let (sender, closed) = oneshot::channel();
        let _ = self.requests.send(Request::Close(sender));
        let _ = closed.await;
    }

    fn send(&self, text: String, syncs: bool, reply: Option<oneshot::Sender<Result<(), AuditError>>>) {
        let waiting = self.counts.waiting.fetch_add(text.len(), Ordering::Relaxed);
        // How many lines may wait with a reply, the queue of commands bounds.
        if waiting > WAITING_BYTES && reply.is_none() {
            self.counts.waiting.fetch_sub(text.len(), Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let _ = self.requests.send(Request::Write(Line { text, syncs, reply }));
    }
}
