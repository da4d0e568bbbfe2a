//! The journal's thread: what is asked for while it syncs shares the next sync.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, Instant},
};

use protocol::{name::JobId, time::Millis};
use redb::{Database, Durability, ReadableDatabase};
use tokio::sync::{oneshot, watch};

use super::{
    Begin, Bounds, Found, Request, file,
    records::{self, Record, Tables},
};
use crate::fault;

/// How long a journal that failed is left alone before it is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Outcomes that are remembered while they cannot be recorded.
const MOST_UNWRITTEN: usize = 100;

const PANICKED: &str = "it is damaged (the store panicked)";

/// An answer that is given once the transaction it stems from is on disk.
type Answer = Box<dyn FnOnce(Result<(), &str>)>;

pub(super) struct Keeper {
    path: PathBuf,
    bounds: Bounds,
    store: Option<Database>,
    /// Whether this process made the file.
    fresh: bool,
    /// When and why it could not be used.
    failed: Option<(Instant, String)>,
    trouble: watch::Sender<Option<String>>,
    full: watch::Sender<Option<String>>,
    /// Whether it has been read what an earlier process left.
    reconciled: bool,
    /// Outcomes that could not be recorded, for the next time it can be written.
    unwritten: Vec<(JobId, Record)>,
    sweep: Option<Sweep>,
}

/// A search for what is too old, piece by piece.
struct Sweep {
    now: Millis,
    /// The key it has come to.
    after: Vec<u8>,
}

impl Keeper {
    pub(super) fn new(
        path: PathBuf,
        bounds: Bounds,
        trouble: watch::Sender<Option<String>>,
        full: watch::Sender<Option<String>>,
    ) -> Self {
        Self {
            path,
            bounds,
            store: None,
            fresh: false,
            failed: None,
            trouble,
            full,
            reconciled: false,
            unwritten: Vec::new(),
            sweep: None,
        }
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Some(batch) = self.next(requests) {
            let mut rest = Vec::new();
            for request in batch {
                match request {
                    Request::Reconcile { now, reply } => tell(reply, self.reconcile(now)),
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

    /// What is asked by now; waits for that unless there is something to do meanwhile.
    fn next(&self, requests: &Receiver<Request>) -> Option<Vec<Request>> {
        let first = if self.sweep.is_none() {
            Some(requests.recv().ok()?)
        } else {
            match requests.try_recv() {
                Err(TryRecvError::Disconnected) => return None,
                first => first.ok(),
            }
        };
        Some(first.into_iter().chain(requests.try_iter()).collect())
    }

    /// Reads what an earlier process left. Needs no room on the disk.
    fn reconcile(&mut self, now: Millis) -> Result<Found, String> {
        let read = caught(|| {
            let transaction = self.store()?.begin_read().map_err(|error| error.to_string())?;
            records::found(&transaction, now).map_err(|error| error.to_string())
        });
        match read {
            Ok((found, known)) => {
                self.reconciled = true;
                self.tell_full(known);
                Ok(found)
            }
            Err(reason) => {
                self.fail(reason.clone());
                Err(reason)
            }
        }
    }

    /// Forgets what is too old in the next piece, so that whoever asks meanwhile waits for that at most.
    fn sweep_on(&mut self) {
        let Some(Sweep { now, after }) = self.sweep.take() else { return };
        let most = self.bounds.piece;
        let swept = caught(|| {
            let store = self.store()?;
            let work = || -> Result<_, redb::Error> {
                let transaction = store.begin_write()?;
                let mut tables = Tables::open(&transaction)?;
                let (orders, commands) = (tables.orders()?, tables.known()?);
                if after.is_empty() {
                    tables.forget_cancelled(now)?;
                }
                let next = tables.forget(now, &after, most)?;
                let known = tables.known()?;
                let forgotten = known < commands || tables.orders()? < orders;
                drop(tables);
                // Only what is on disk makes room in the file; a transaction that changed nothing is given up.
                if forgotten {
                    transaction.commit()?;
                }
                Ok((next, known))
            };
            work().map_err(|error| error.to_string())
        });
        match swept {
            Ok((next, known)) => {
                self.sweep = next.map(|after| Sweep { now, after });
                self.tell_full(known);
            }
            Err(reason) => drop(self.fail(reason)),
        }
    }

    /// One transaction for all that is asked; one sync at most.
    fn serve(&mut self, batch: Vec<Request>) {
        let mut answers = Vec::new();
        let durable = batch.iter().any(|request| !matches!(request, Request::Published { .. }));
        // What cannot be recorded now is recorded when it can.
        let ends: Vec<(JobId, Record)> = batch.iter().filter_map(Request::end).collect();
        let trouble = match caught(|| self.transact(batch, durable, &mut answers)) {
            Err(reason) => {
                self.unwritten.extend(ends);
                let excess = self.unwritten.len().saturating_sub(MOST_UNWRITTEN);
                self.unwritten.drain(..excess);
                Some(self.fail(reason))
            }
            // Nothing was written that would show that its trouble is over.
            Ok(_) if !durable => return,
            Ok(known) => {
                self.unwritten.clear();
                self.trouble.send_if_modified(|current| current.take().is_some());
                self.tell_full(known);
                None
            }
        };
        let verdict = trouble.as_deref().map_or(Ok(()), Err);
        for answer in answers {
            answer(verdict);
        }
    }

    /// Does what is asked and says how many commands are known then.
    fn transact(&mut self, batch: Vec<Request>, durable: bool, answers: &mut Vec<Answer>) -> Result<u64, String> {
        let troubled = self.trouble.borrow().is_some();
        if let Err(reason) = self.store() {
            // Everyone gets the answer of a journal that knows nothing.
            answers.extend(batch.into_iter().filter_map(Request::refused));
            return Err(reason);
        }
        let this = &*self;
        let work = || -> Result<u64, redb::Error> {
            let mut transaction = this.store.as_ref().expect("it is open").begin_write()?;
            transaction.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
            let mut tables = Tables::open(&transaction)?;
            for (job, end) in &this.unwritten {
                tables.finish(*job, end)?;
            }
            for request in batch {
                answers.extend(this.apply(request, &mut tables)?);
            }
            if troubled && durable {
                tables.probe()?;
            }
            let known = tables.known()?;
            drop(tables);
            if durable {
                fault::slow_sync();
            }
            transaction.commit()?;
            Ok(known)
        };
        work().map_err(|error| error.to_string())
    }

    fn apply(&self, request: Request, tables: &mut Tables) -> Result<Option<Answer>, redb::Error> {
        Ok(match request {
            Request::Begin { reply, .. } if !self.reconciled => {
                let reason = "the journal has not been read yet";
                Some(Box::new(|_| tell(reply, Begin::Unavailable(reason.into()))))
            }
            Request::Begin { start, reply } => {
                let begin = tables.begin(start, self.fresh, &self.bounds)?;
                Some(Box::new(|verdict| {
                    tell(reply, verdict.map_or_else(|reason| Begin::Unavailable(reason.into()), |()| begin));
                }))
            }
            Request::Finish { job, end, reply } => {
                tables.finish(job, &end)?;
                Some(Box::new(|_| tell(reply, ())))
            }
            Request::Cancel { job, now, reply } => {
                let cancelled = tables.cancel(job, now, &self.bounds)?;
                Some(Box::new(move |verdict| tell(reply, cancelled.filter(|_| verdict.is_ok()))))
            }
            Request::Published { job } => {
                tables.published(job, &self.bounds)?;
                None
            }
            Request::Probe | Request::Reconcile { .. } | Request::Prune { .. } => None,
        })
    }

    /// Says whether there is room for another command.
    fn tell_full(&self, known: u64) {
        let is_full = known >= self.bounds.commands;
        if is_full == self.full.borrow().is_some() {
            return;
        }
        if is_full {
            tracing::error!("{}", self.bounds.full());
        } else {
            tracing::info!("the journal has room again");
        }
        self.full.send_replace(is_full.then(|| self.bounds.full()));
    }

    /// Closes the store and tells why; says the whole sentence.
    fn fail(&mut self, reason: String) -> String {
        let trouble = format!("the journal {} cannot be used: {reason}", self.path.display());
        if self.trouble.borrow().is_none() {
            tracing::error!("{trouble}");
        }
        self.store = None;
        if !self.rests() {
            self.failed = Some((Instant::now(), reason));
        }
        self.trouble.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&trouble);
            *current = Some(trouble.clone());
            changed
        });
        trouble
    }

    /// Whether it failed just now and is left alone.
    fn rests(&self) -> bool {
        self.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < REOPEN_AFTER)
    }

    fn store(&mut self) -> Result<&Database, String> {
        if self.store.is_none() {
            if let Some((_, reason)) = self.failed.as_ref().filter(|_| self.rests()) {
                return Err(reason.clone());
            }
            let (store, made) = file::open(&self.path)?;
            self.fresh |= made;
            self.store = Some(store);
        }
        self.store.as_ref().ok_or_else(|| "it is not open".into())
    }
}

impl Request {
    /// The record of an end.
    fn end(&self) -> Option<(JobId, Record)> {
        let Self::Finish { job, end, .. } = self else { return None };
        Some((*job, (**end).clone()))
    }

    /// The answer while there is no journal.
    fn refused(self) -> Option<Answer> {
        match self {
            Self::Begin { reply, .. } => Some(Box::new(|verdict| {
                let reason = verdict.err().unwrap_or_default().to_owned();
                tell(reply, Begin::Unavailable(reason));
            })),
            Self::Finish { reply, .. } => Some(Box::new(|_| tell(reply, ()))),
            Self::Cancel { reply, .. } => Some(Box::new(|_| tell(reply, None))),
            Self::Reconcile { .. } | Self::Published { .. } | Self::Probe | Self::Prune { .. } => None,
        }
    }
}

/// A damaged file may make the store panic; that must not end the worker.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(PANICKED.into()))
}

/// Answers; whoever asked may have gone meanwhile.
fn tell<T>(reply: oneshot::Sender<T>, answer: T) {
    let _ = reply.send(answer);
}
