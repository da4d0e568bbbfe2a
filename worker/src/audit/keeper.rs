//! The thread that writes the trail.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    AuditError, Counts, Line, Request,
    file::{Bounds, Trail},
    line::Lines,
};

/// How long a line may lie in the system's memory alone.
const SYNC_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Keeper {
    path: PathBuf,
    trail: Trail,
    lines: Lines,
    counts: Arc<Counts>,
    /// When what was written must be on disk.
    sync_at: Option<Instant>,
    pub(super) trouble: watch::Sender<Option<AuditError>>,
}

impl Keeper {
    pub(super) fn new(path: PathBuf, lines: Lines, counts: Arc<Counts>) -> Self {
        let trail = Trail::new(path.clone(), Bounds::default());
        Self { path, trail, lines, counts, sync_at: None, trouble: watch::Sender::default() }
    }

    /// Serves requests until all senders are gone.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let request = match self.sync_at {
                None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => requests.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match request {
                Ok(Request::Write(line)) => self.write(line),
                Ok(Request::Probe) => self.probe(),
                Ok(Request::Close(reply)) => {
                    self.probe();
                    self.sync();
                    let _ = reply.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.sync(),
                Err(RecvTimeoutError::Disconnected) => return self.sync(),
            }
            if self.sync_at.is_some_and(|at| at <= Instant::now()) {
                self.sync();
            }
        }
    }

    fn write(&mut self, Line { text, syncs, reply }: Line) {
        let written = self.report_loss().and_then(|()| self.append(&text));
        self.counts.waiting.fetch_sub(text.len(), Ordering::Relaxed);
        if written.is_err() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        } else if syncs {
            self.sync_at.get_or_insert_with(|| Instant::now() + SYNC_WITHIN);
        }
        // Where it is gone, the worker stops.
        let _ = reply.map(|reply| reply.send(written));
    }

    /// Tries whether a trail in trouble can be written again.
    fn probe(&mut self) {
        let _ = self.report_loss();
    }

    /// Writes how many lines were lost, if any were.
    fn report_loss(&mut self) -> Result<(), AuditError> {
        let lost = self.counts.lost.load(Ordering::Relaxed);
        if lost == 0 {
            return Ok(());
        }
        let cause =
            self.trouble.borrow().as_ref().map_or("the disk was too slow".into(), |trouble| trouble.cause.clone());
        self.append(&self.lines.of_loss(lost, &cause))?;
        self.counts.lost.fetch_sub(lost, Ordering::Relaxed);
        tracing::warn!("{lost} lines of the audit trail were lost: {cause}");
        Ok(())
    }

    fn append(&mut self, line: &str) -> Result<(), AuditError> {
        let written = self.trail.append(line);
        self.judge(written)
    }

    fn sync(&mut self) {
        self.sync_at = None;
        let synced = self.trail.sync();
        let _ = self.judge(synced);
    }

    /// Reports whether the trail can be written.
    fn judge(&self, done: io::Result<()>) -> Result<(), AuditError> {
        let done = done.map_err(|error| AuditError::new(&self.path, &error));
        let trouble = done.as_ref().err().cloned();
        if let Some(trouble) = trouble.as_ref().filter(|_| self.trouble.borrow().is_none()) {
            tracing::error!("{trouble}");
        }
        self.trouble.send_if_modified(|before| std::mem::replace(before, trouble) != *before);
        done
    }
}
