//! The journal's thread. Requests that arrive during a sync share the next sync.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
    vec::IntoIter,
};

use protocol::{name::JobId, time::Millis};
use redb::{Database, Durability, ReadableDatabase};
use tokio::sync::{oneshot, watch};

use super::{
    Begin, Bounds, Cause, Found, JournalError, JournalFull, Request, file,
    records::{self, Record, Tables},
};
use crate::{fault, file_id::FileId, log::with_sources};

/// How long a journal that failed is left alone before it is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Outcomes that are remembered while they cannot be recorded.
const MOST_UNWRITTEN: usize = 100;

/// Sends a reply once its transaction is on disk. After a failure it is dropped unsent.
type Reply = Box<dyn FnOnce()>;

#[derive(Default)]
pub(super) struct Keeper {
    path: PathBuf,
    bounds: Bounds,
    store: Option<Database>,
    /// The file that is open.
    file: Option<FileId>,
    /// Whether this process made the file.
    fresh: bool,
    /// When and why it could not be used.
    failed: Option<(Instant, Cause)>,
    pub(super) trouble: watch::Sender<Option<JournalError>>,
    pub(super) full: watch::Sender<Option<JournalFull>>,
    /// Whether what a prior process left has been read.
    reconciled: bool,
    /// Outcomes that could not be recorded, to be recorded when the journal can be written again.
    unwritten: Vec<(JobId, Record)>,
    sweep: Option<Sweep>,
}

/// A search for records that are too old, piece by piece.
struct Sweep {
    now: Millis,
    /// The key that the search has reached.
    after: Vec<u8>,
}

impl Keeper {
    pub(super) fn new(path: PathBuf, bounds: Bounds) -> Self {
        Self { path, bounds, ..Self::default() }
    }

    /// Serves requests until all senders are gone.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Some(batch) = self.next(requests) {
            let mut rest = Vec::new();
            for request in batch {
                match request {
                    Request::Reconcile { now, reply } => send(reply, self.reconcile(now)),
                    Request::Probe if self.trouble.borrow().is_none() => self.look(),
                    Request::Prune { now } => drop(self.sweep.get_or_insert(Sweep { now, after: Vec::new() })),
                    request => rest.push(request),
                }
            }
            self.sweep_on();
            if !rest.is_empty() {
                self.serve(rest);
            }
        }
        // An orderly end makes the last unsynced notes durable.
        if let Some(store) = self.store.take() {
            let _ = store.begin_write().map(redb::WriteTransaction::commit);
        }
    }

    /// The requests that have arrived. Waits for the first one unless a sweep is under way.
    fn next(&self, requests: &Receiver<Request>) -> Option<Vec<Request>> {
        let patience = if self.sweep.is_some() { Duration::ZERO } else { Duration::MAX };
        match requests.recv_timeout(patience) {
            Err(RecvTimeoutError::Disconnected) => None,
            first => Some(first.into_iter().chain(requests.try_iter()).collect()),
        }
    }

    /// Reads what a prior process left. Needs no room on the disk.
    fn reconcile(&mut self, now: Millis) -> Result<Found, JournalError> {
        let read = caught(|| Ok(records::found(&self.store()?.begin_read()?, now)?));
        let (found, known) = read.map_err(|cause| self.fail(cause))?;
        self.reconciled = true;
        self.trouble.send_if_modified(|trouble| trouble.take_if(|trouble| trouble.is_locked()).is_some());
        self.report_room(known);
        Ok(found)
    }

    /// Forgets the records in the next piece that are too old. A request that arrives meanwhile waits for one piece.
    fn sweep_on(&mut self) {
        let Some(Sweep { now, after }) = self.sweep.take() else { return };
        let most = self.bounds.piece;
        let swept = caught(|| {
            let transaction = self.store()?.begin_write()?;
            let mut tables = Tables::open(&transaction)?;
            let (orders, commands) = (tables.orders()?, tables.known()?);
            if after.is_empty() {
                tables.forget_cancelled(now)?;
            }
            let next = tables.forget(now, &after, most)?;
            let known = tables.known()?;
            let forgotten = known < commands || tables.orders()? < orders;
            drop(tables);

            // Only a commit makes room in the file. A transaction that changed nothing is dropped.
            if forgotten {
                transaction.commit()?;
            }
            Ok((next, known))
        });
        match swept {
            Ok((next, known)) => {
                self.sweep = next.map(|after| Sweep { now, after });
                self.report_room(known);
            }
            Err(cause) => drop(self.fail(cause)),
        }
    }

    /// Handles all requests in one transaction, with one sync at most.
    fn serve(&mut self, batch: Vec<Request>) {
        let durable = batch.iter().any(|request| !matches!(request, Request::Published { .. }));
        // Outcomes that cannot be recorded now are recorded later.
        let ends: Vec<(JobId, Record)> = batch.iter().filter_map(Request::end).collect();
        // Both are dropped only after a failure is reported: a caller without a reply reads the reason there.
        let (mut requests, mut replies) = (batch.into_iter(), Vec::new());
        match caught(|| self.transact(&mut requests, durable, &mut replies)) {
            Err(cause) => {
                self.unwritten.extend(ends);
                let excess = self.unwritten.len().saturating_sub(MOST_UNWRITTEN);
                self.unwritten.drain(..excess);
                drop(self.fail(cause));
            }
            // No durable write has shown that the journal works again.
            Ok(_) if !durable => {}
            Ok(known) => {
                self.unwritten.clear();
                self.trouble.send_if_modified(|current| current.take().is_some());
                self.report_room(known);
                for reply in replies {
                    reply();
                }
            }
        }
    }

    /// Handles the requests and returns how many commands are known then.
    fn transact(
        &mut self,
        requests: &mut IntoIter<Request>,
        durable: bool,
        replies: &mut Vec<Reply>,
    ) -> Result<u64, Cause> {
        let mut transaction = self.store()?.begin_write()?;
        transaction.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        let mut tables = Tables::open(&transaction)?;
        for (job, end) in &self.unwritten {
            tables.finish(*job, end)?;
        }
        for request in requests {
            replies.extend(self.apply(request, &mut tables)?);
        }
        if durable && self.trouble.borrow().is_some() {
            tables.probe()?;
        }
        let known = tables.known()?;
        drop(tables);

        if durable {
            fault::slow_sync();
        }
        transaction.commit()?;
        Ok(known)
    }

    fn apply(&self, request: Request, tables: &mut Tables) -> Result<Option<Reply>, redb::Error> {
        Ok(match request {
            Request::Begin { reply, .. } if !self.reconciled => {
                Some(after(reply, Begin::Unavailable(JournalError::new(&self.path, Cause::NotRead))))
            }
            Request::Begin { start, reply } => Some(after(reply, tables.begin(start, self.fresh, &self.bounds)?)),
            Request::Finish { job, end, reply } => Some(after(reply, tables.finish(job, &end)?)),
            Request::Refuse { job, end, reply } => Some(after(reply, tables.refuse(job, &end, &self.bounds)?)),
            Request::Cancel { job, now, reply } => Some(after(reply, tables.cancel(job, now, &self.bounds)?)),
            Request::Published { job } => {
                tables.published(job, &self.bounds)?;
                None
            }
            Request::Probe | Request::Reconcile { .. } | Request::Prune { .. } => None,
        })
    }

    /// Reports whether there is room for another command.
    fn report_room(&self, known: u64) {
        let full = (known >= self.bounds.commands).then_some(JournalFull(self.bounds.commands));
        if full.is_some() == self.full.borrow().is_some() {
            return;
        }
        if let Some(full) = &full {
            tracing::error!("{full}");
        } else {
            tracing::info!("the journal has room again");
        }
        self.full.send_replace(full);
    }

    /// Closes the store and reports why.
    fn fail(&mut self, cause: Cause) -> JournalError {
        let error = JournalError::new(&self.path, cause.clone());
        // Who waits for the other worker says so.
        if self.trouble.send_replace(Some(error.clone())).is_none() && !error.is_locked() {
            tracing::error!("{}", with_sources(&error));
        }
        // A file that comes back is the same one.
        if !matches!(cause, Cause::Gone) {
            self.store = None;
            if !self.rests() {
                self.failed = Some((Instant::now(), cause));
            }
        }
        error
    }

    /// Notices whether the file is gone.
    fn look(&mut self) {
        if self.is_gone() {
            drop(self.fail(Cause::Gone));
        }
    }

    /// Whether the file that is open is not the journal's any more: what it records, no later process finds.
    fn is_gone(&self) -> bool {
        self.store.is_some() && FileId::of(&self.path) != self.file
    }

    /// Whether the journal failed just now and is left alone.
    fn rests(&self) -> bool {
        self.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < REOPEN_AFTER)
    }

    fn store(&mut self) -> Result<&Database, Cause> {
        if self.is_gone() {
            return Err(Cause::Gone);
        }
        if self.store.is_none() {
            if let Some((_, cause)) = self.failed.as_ref().filter(|_| self.rests()) {
                return Err(cause.clone());
            }
            let (store, made) = file::open(&self.path)?;
            self.fresh |= made;
            self.store = Some(store);
            self.file = FileId::of(&self.path);
        }
        Ok(self.store.as_ref().expect("it has just been opened"))
    }
}

impl Request {
    /// The record of an end.
    fn end(&self) -> Option<(JobId, Record)> {
        let Self::Finish { job, end, .. } = self else { return None };
        Some((*job, (**end).clone()))
    }
}

/// A damaged file may make the store panic; that must not end the worker.
fn caught<T>(work: impl FnOnce() -> Result<T, Cause>) -> Result<T, Cause> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Cause::Panicked))
}

/// A reply that waits for its transaction.
fn after<T: 'static>(reply: oneshot::Sender<T>, value: T) -> Reply {
    Box::new(|| send(reply, value))
}

/// Replies. The receiver may have gone meanwhile.
fn send<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}
