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
//! The store is owned by a thread of its own: a slow disk holds up only those who wait for it. What
//! is asked for while it syncs shares the next sync.

use std::{
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use protocol::{
    clock::millis,
    limits,
    name::JobId,
    outcome::{Outcome, State},
    time::Millis,
};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::fault;

/// Job id → [`Record`], `MessagePack` with named fields.
const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records-v1");

/// The key of what is written only to see whether it can be; no job has it.
const PROBE: &[u8] = b"probe";

/// How long records are kept: no command may wait longer than the longest start-by, and the margin
/// covers clocks and long runs.
const KEEP: Duration = limits::START_BY_MAX.saturating_add(Duration::from_secs(24 * 3600));

/// Bytes of finished outcomes that are kept with their output; beyond, the oldest keep only how they ended.
const OUTPUT_BUDGET: usize = 8 * 1024 * 1024;

/// The store's page cache.
const CACHE: usize = 256 * 1024;

/// How long a journal that failed is left alone before it is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    /// When it was last changed, by the fleet's clock.
    at_ms: Millis,
    /// The stream entry that asked.
    entry: String,
    /// How long the result is kept once published.
    retention_ms: u64,
    phase: Phase,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Started,
    Finished { outcome: Box<Outcome>, published: bool },
    Cancelled,
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

enum Request {
    Reconcile {
        now: Millis,
        reply: oneshot::Sender<Result<Found, String>>,
    },
    Begin {
        job: JobId,
        entry: String,
        retention: Duration,
        now: Millis,
        may_start: bool,
        reply: oneshot::Sender<Begin>,
    },
    Finish {
        job: JobId,
        entry: String,
        retention: Duration,
        outcome: Box<Outcome>,
        reply: oneshot::Sender<()>,
    },
    Published {
        job: JobId,
    },
    Cancel {
        job: JobId,
        now: Millis,
        reply: oneshot::Sender<Option<bool>>,
    },
    Probe,
    Prune {
        now: Millis,
    },
}

/// The way to the journal's thread.
#[derive(Clone)]
pub(crate) struct Journal {
    requests: Sender<Request>,
    trouble: watch::Receiver<Option<String>>,
}

impl Journal {
    /// Opens the journal at `path`, or makes it. Trouble is told by [`Self::trouble`], not here: a worker
    /// without a journal still answers.
    pub(crate) fn open(path: PathBuf) -> Self {
        let (requests, receiver) = channel();
        let (say, trouble) = watch::channel(None);
        let keeper = Keeper {
            path,
            store: None,
            failed: None,
            trouble: say,
            reconciled: false,
            unwritten: Vec::new(),
            unpruned: 0,
        };
        let spawned = std::thread::Builder::new()
            .name("journal".into())
            .stack_size(512 * 1024)
            .spawn(move || keeper.run(&receiver));
        if let Err(error) = spawned {
            tracing::error!("the journal's thread cannot start: {error}");
        }
        Self { requests, trouble }
    }

    /// Why actions that must not run twice are refused, where they are.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
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
    pub(crate) async fn begin(
        &self,
        job: JobId,
        entry: String,
        retention: Duration,
        now: Millis,
        may_start: bool,
    ) -> Begin {
        let answer = self.ask(|reply| Request::Begin { job, entry, retention, now, may_start, reply }).await;
        answer.unwrap_or_else(|| Begin::Unavailable("the journal failed".into()))
    }

    /// Records, durably where the disk allows it, how the command ended.
    pub(crate) async fn finish(&self, job: JobId, entry: String, retention: Duration, outcome: Box<Outcome>) {
        self.ask(|reply| Request::Finish { job, entry, retention, outcome, reply }).await;
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

    /// Forgets what is older than any command may be.
    pub(crate) fn prune(&self, now: Millis) {
        let _ = self.requests.send(Request::Prune { now });
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).ok()?;
        answer.await.ok()
    }
}

/// An answer that is given once the transaction it stems from is on disk.
type Answer = Box<dyn FnOnce(Result<(), &str>)>;

/// The thread's side.
struct Keeper {
    path: PathBuf,
    store: Option<Database>,
    /// When and why it could not be used.
    failed: Option<(Instant, String)>,
    trouble: watch::Sender<Option<String>>,
    /// Whether it has been read what an earlier process left.
    reconciled: bool,
    /// Outcomes that could not be recorded, for the next time it can be written.
    unwritten: Vec<(JobId, Record)>,
    /// Bytes of output recorded since the last pruning.
    unpruned: usize,
}

impl Keeper {
    fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut batch: Vec<Request> = std::iter::once(first).chain(requests.try_iter()).collect();
            batch.extend(self.prune_when_due(&batch));
            for request in batch.extract_if(.., |request| matches!(request, Request::Reconcile { .. })) {
                if let Request::Reconcile { now, reply } = request {
                    tell(reply, self.reconcile(now));
                }
            }
            if !batch.is_empty() {
                self.serve(batch);
            }
        }
        // An orderly end makes the last unsynced notes durable.
        if let Some(store) = self.store.take() {
            let _ = store.begin_write().map(redb::WriteTransaction::commit);
        }
    }

    /// A pruning of its own accord, so that the file is bounded however fast outcomes come.
    fn prune_when_due(&mut self, batch: &[Request]) -> Option<Request> {
        let mut now = 0;
        for request in batch {
            if let Request::Finish { outcome, .. } = request {
                self.unpruned += outcome.stdout.kept.len() + outcome.stderr.kept.len();
                now = now.max(outcome.finished_at_ms);
            }
        }
        (self.unpruned > OUTPUT_BUDGET / 2).then(|| {
            self.unpruned = 0;
            Request::Prune { now }
        })
    }

    /// Reads what an earlier process left. Needs no room on the disk.
    fn reconcile(&mut self, now: Millis) -> Result<Found, String> {
        let read = catch_unwind(AssertUnwindSafe(|| {
            let transaction = self.store()?.begin_read().map_err(|error| error.to_string())?;
            match transaction.open_table(RECORDS) {
                Ok(table) => found(&table, now).map_err(|error| error.to_string()),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(Found::default()),
                Err(error) => Err(error.to_string()),
            }
        }));
        let read = read.unwrap_or_else(|_| Err(PANICKED.into()));
        match &read {
            Ok(_) => self.reconciled = true,
            Err(reason) => drop(self.fail(reason.clone())),
        }
        read
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

    /// One transaction for all that is asked; one sync at most.
    fn serve(&mut self, batch: Vec<Request>) {
        let mut answers = Vec::new();
        let durable = batch.iter().any(|request| !matches!(request, Request::Published { .. }));
        // What cannot be recorded now is recorded when it can.
        let finishes: Vec<(JobId, Record)> = batch.iter().filter_map(Request::finished).collect();
        // A damaged file may make the store panic; that must not end the worker.
        let done = catch_unwind(AssertUnwindSafe(|| self.transact(batch, durable, &mut answers)));
        let result = done.unwrap_or_else(|_| Err(PANICKED.into()));
        let trouble = match result {
            Err(reason) => {
                self.unwritten.extend(finishes);
                let excess = self.unwritten.len().saturating_sub(MOST_UNWRITTEN);
                self.unwritten.drain(..excess);
                Some(self.fail(reason))
            }
            // Nothing was written that would show that its trouble is over.
            Ok(()) if !durable => return,
            Ok(()) => {
                self.unwritten.clear();
                self.trouble.send_if_modified(|current| current.take().is_some());
                None
            }
        };
        let verdict = trouble.as_deref().map_or(Ok(()), Err);
        for answer in answers {
            answer(verdict);
        }
    }

    fn transact(&mut self, batch: Vec<Request>, durable: bool, answers: &mut Vec<Answer>) -> Result<(), String> {
        let troubled = self.trouble.borrow().is_some();
        let (reconciled, unwritten) = (self.reconciled, self.unwritten.clone());
        let store = match self.store() {
            Ok(store) => store,
            Err(reason) => {
                // Everyone gets the answer of a journal that knows nothing.
                answers.extend(batch.into_iter().filter_map(refused));
                return Err(reason);
            }
        };
        let work = || -> Result<(), redb::Error> {
            let mut transaction = store.begin_write()?;
            transaction.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
            {
                let mut table = Records(transaction.open_table(RECORDS)?);
                for (job, record) in &unwritten {
                    table.put(*job, record)?;
                }
                for request in batch {
                    match request {
                        Request::Begin { reply, .. } if !reconciled => {
                            let reason = "the journal has not been read yet";
                            answers.push(Box::new(|_| tell(reply, Begin::Unavailable(reason.into()))));
                        }
                        request => table.apply(request, answers)?,
                    }
                }
                if troubled && durable {
                    // A transaction that changes nothing succeeds on a full disk too.
                    table.0.insert(PROBE, PROBE)?;
                }
            }
            if durable {
                fault::slow_sync();
            }
            transaction.commit()?;
            Ok(())
        };
        work().map_err(|error| error.to_string())
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
            self.store = Some(open(&self.path)?);
        }
        self.store.as_ref().ok_or_else(|| "it is not open".into())
    }
}

/// Why a journal cannot be opened that another process has.
const LOCKED: &str = "another worker of this host is running";

const PANICKED: &str = "it is damaged (the store panicked)";

/// Outcomes that are remembered while they cannot be recorded.
const MOST_UNWRITTEN: usize = 100;

/// Whether another worker of this host has the journal: then its commands are that one's business.
pub(crate) fn is_locked(reason: &str) -> bool {
    reason.contains(LOCKED)
}

impl Request {
    /// The record of an end.
    fn finished(&self) -> Option<(JobId, Record)> {
        let Self::Finish { job, entry, retention, outcome, .. } = self else { return None };
        let phase = Phase::Finished { outcome: outcome.clone(), published: false };
        let (at_ms, retention_ms) = (outcome.finished_at_ms, millis(*retention));
        Some((*job, Record { at_ms, entry: entry.clone(), retention_ms, phase }))
    }
}

fn open(path: &Path) -> Result<Database, String> {
    if !path.try_exists().map_err(|error| error.to_string())? {
        make(path).map_err(|error| error.to_string())?;
    }
    Database::builder().set_cache_size(CACHE).open(path).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => LOCKED.into(),
        error => error.to_string(),
    })
}

/// Makes an empty journal under another name first: one that a crash left half made would be taken
/// for a damaged one, for ever.
fn make(path: &Path) -> Result<(), redb::Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let fresh = path.with_extension("new");
    std::fs::create_dir_all(directory)?;
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => drop(Database::builder().create(&fresh)?),
    }
    // Unlike a renaming, this never replaces one that has come to be meanwhile.
    match std::fs::hard_link(&fresh, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    std::fs::remove_file(&fresh)?;
    std::fs::File::open(directory)?.sync_all()?;
    Ok(())
}

/// Answers; whoever asked may have gone meanwhile.
fn tell<T>(reply: oneshot::Sender<T>, answer: T) {
    let _ = reply.send(answer);
}

/// The answer to a request while there is no journal.
fn refused(request: Request) -> Option<Answer> {
    match request {
        Request::Begin { reply, .. } => Some(Box::new(|verdict| {
            let reason = verdict.err().unwrap_or_default().to_owned();
            tell(reply, Begin::Unavailable(reason));
        })),
        Request::Finish { reply, .. } => Some(Box::new(|_| tell(reply, ()))),
        Request::Cancel { reply, .. } => Some(Box::new(|_| tell(reply, None))),
        Request::Reconcile { .. } | Request::Published { .. } | Request::Probe | Request::Prune { .. } => None,
    }
}

/// What an earlier process left: what had only started is `interrupted`.
fn found(table: &impl ReadableTable<&'static [u8], &'static [u8]>, now: Millis) -> Result<Found, redb::Error> {
    let mut found = Found::default();
    each(table, |job, record| {
        let retention = Duration::from_millis(record.retention_ms);
        let (outcome, was_running) = match record.phase {
            Phase::Cancelled => return found.cancelled.push((job, record.at_ms)),
            Phase::Finished { published: true, .. } => return,
            Phase::Finished { outcome, .. } => (outcome, false),
            Phase::Started => {
                let reason = "the worker died while it ran; how far it came is not known";
                let outcome = Outcome::bare(State::Interrupted, Some(reason.into()), now.max(record.at_ms));
                (Box::new(Outcome { started_at_ms: Some(record.at_ms), ..outcome }), true)
            }
        };
        found.unpublished.push(Unpublished { job, entry: record.entry, retention, outcome, was_running });
    })?;
    found.unpublished.sort_by_key(|unpublished| unpublished.outcome.finished_at_ms);
    Ok(found)
}

/// Shows all readable records, one at a time: all of them may be more than memory should hold.
fn each(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    mut show: impl FnMut(JobId, Record),
) -> Result<(), redb::Error> {
    for item in table.iter()? {
        let (key, value) = item?;
        if let (Some(job), Ok(record)) = (JobId::from_bytes(key.value()), rmp_serde::from_slice(value.value())) {
            show(job, record);
        }
    }
    Ok(())
}

struct Records<'a>(redb::Table<'a, &'static [u8], &'static [u8]>);

impl Records<'_> {
    fn apply(&mut self, request: Request, answers: &mut Vec<Answer>) -> Result<(), redb::Error> {
        match request {
            Request::Begin { job, entry, retention, now, may_start, reply } => {
                let known = self.get(job)?;
                let answer = match known.map(|record| record.phase) {
                    Some(Phase::Cancelled) => Begin::Cancelled,
                    None if !may_start => Begin::MayNot,
                    None => {
                        self.put(
                            job,
                            &Record { at_ms: now, entry, retention_ms: millis(retention), phase: Phase::Started },
                        )?;
                        Begin::Go
                    }
                    Some(Phase::Started) => Begin::Known(None),
                    Some(Phase::Finished { outcome, .. }) => Begin::Known(Some(outcome)),
                };
                answers.push(Box::new(|verdict| {
                    let answer = match verdict {
                        Ok(()) => answer,
                        Err(reason) => Begin::Unavailable(reason.into()),
                    };
                    tell(reply, answer);
                }));
            }
            Request::Finish { .. } => {
                if let Some((job, record)) = request.finished() {
                    self.put(job, &record)?;
                }
                answers.extend(refused(request));
            }
            Request::Published { job } => {
                if let Some(mut record) = self.get(job)?
                    && let Phase::Finished { published, .. } = &mut record.phase
                {
                    *published = true;
                    self.put(job, &record)?;
                }
            }
            Request::Cancel { job, now, reply } => {
                let fresh = self.get(job)?.is_none_or(|record| matches!(record.phase, Phase::Cancelled));
                if fresh {
                    self.put(
                        job,
                        &Record { at_ms: now, entry: String::new(), retention_ms: 0, phase: Phase::Cancelled },
                    )?;
                }
                answers.push(Box::new(move |verdict| tell(reply, verdict.is_ok().then_some(fresh))));
            }
            Request::Prune { now } => self.prune(now)?,
            Request::Probe | Request::Reconcile { .. } => {}
        }
        Ok(())
    }

    /// Forgets old records, and the output of the oldest published ones beyond the budget.
    fn prune(&mut self, now: Millis) -> Result<(), redb::Error> {
        let (mut old, mut with_output) = (Vec::new(), Vec::new());
        each(&self.0, |job, record| match record.phase {
            // What runs runs, however long; and what is not published may still have to be.
            Phase::Started | Phase::Finished { published: false, .. } => {}
            _ if record.at_ms.saturating_add(millis(KEEP)) < now => old.push(job),
            Phase::Finished { outcome, published: true } => {
                let bytes = outcome.stdout.kept.len() + outcome.stderr.kept.len();
                if bytes > 0 {
                    with_output.push((record.at_ms, job, bytes));
                }
            }
            _ => {}
        })?;
        for job in old {
            self.0.remove(job.as_bytes().as_slice())?;
        }
        with_output.sort_unstable_by_key(|(at_ms, ..)| std::cmp::Reverse(*at_ms));
        let mut kept = 0;
        for (_, job, bytes) in with_output {
            kept += bytes;
            if kept > OUTPUT_BUDGET
                && let Some(mut record) = self.get(job)?
                && let Phase::Finished { outcome, .. } = &mut record.phase
            {
                for captured in [&mut outcome.stdout, &mut outcome.stderr] {
                    captured.kept = Vec::new();
                    captured.cut_bytes = captured.written_bytes;
                }
                outcome.data = None;
                self.put(job, &record)?;
            }
        }
        Ok(())
    }

    fn get(&self, job: JobId) -> Result<Option<Record>, redb::Error> {
        let Some(value) = self.0.get(job.as_bytes().as_slice())? else { return Ok(None) };
        // A record that cannot be read may stand for a start: it must not start again.
        let unreadable = |_| Record { at_ms: 0, entry: String::new(), retention_ms: 0, phase: Phase::Started };
        Ok(Some(rmp_serde::from_slice(value.value()).unwrap_or_else(unreadable)))
    }

    fn put(&mut self, job: JobId, record: &Record) -> Result<(), redb::Error> {
        let bytes = rmp_serde::to_vec_named(record).expect("plain data always encodes");
        self.0.insert(job.as_bytes().as_slice(), bytes.as_slice())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use protocol::outcome::Captured;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Millis = 1_790_000_000_000;

    fn outcome(state: State) -> Box<Outcome> {
        Box::new(Outcome::bare(state, None, NOW))
    }

    fn journal(directory: &tempfile::TempDir) -> Journal {
        Journal::open(directory.path().join("journal.redb"))
    }

    async fn begin(journal: &Journal, job: JobId) -> Begin {
        let ask = || journal.begin(job, "1-1".into(), HOUR, NOW, true);
        match ask().await {
            Begin::Unavailable(reason) if reason.contains("not been read") => {
                let _ = journal.reconcile(NOW).await;
                ask().await
            }
            begin => begin,
        }
    }

    /// The journal and what it finds, once the thread of an earlier one has let go of the file.
    async fn reopen(directory: &tempfile::TempDir) -> (Journal, Found) {
        loop {
            let journal = journal(directory);
            if let Ok(found) = journal.reconcile(NOW).await {
                return (journal, found);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_command_begins_once() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, job) = (journal(&directory), JobId::new());
        assert!(matches!(begin(&journal, job).await, Begin::Go));
        assert!(matches!(begin(&journal, job).await, Begin::Known(None)));
        journal.finish(job, "1-1".into(), HOUR, outcome(State::Succeeded)).await;
        assert!(matches!(begin(&journal, job).await, Begin::Known(Some(outcome)) if outcome.state == State::Succeeded));
        assert_eq!(journal.cancel(job, NOW).await, Some(false));
    }

    #[tokio::test]
    async fn a_cancelled_command_never_begins() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, job) = (journal(&directory), JobId::new());
        assert_eq!(journal.cancel(job, NOW).await, Some(true));
        assert!(matches!(begin(&journal, job).await, Begin::Cancelled));
    }
    #[tokio::test]
    async fn what_was_running_is_interrupted_and_what_was_not_published_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let [running, done, told] = [JobId::new(), JobId::new(), JobId::new()];
        {
            let journal = journal(&directory);
            for job in [running, done, told] {
                assert!(matches!(begin(&journal, job).await, Begin::Go));
            }
            for job in [done, told] {
                journal.finish(job, "1-1".into(), HOUR, outcome(State::Failed)).await;
            }
            journal.published(told);
            assert_eq!(journal.cancel(JobId::new(), NOW).await, Some(true));
        }
        let (journal, found) = reopen(&directory).await;
        let unpublished: Vec<_> =
            found.unpublished.iter().map(|one| (one.job, one.outcome.state, one.was_running)).collect();
        assert_eq!(unpublished.len(), 2);
        assert!(unpublished.contains(&(running, State::Interrupted, true)));
        assert!(unpublished.contains(&(done, State::Failed, false)));
        assert_eq!(found.cancelled.len(), 1);
        assert!(matches!(begin(&journal, running).await, Begin::Known(None)), "reading changes nothing");
    }

    #[tokio::test]
    async fn records_outlive_the_longest_wait_and_then_go() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, job) = (journal(&directory), JobId::new());
        begin(&journal, job).await;
        journal.finish(job, "1-1".into(), HOUR, outcome(State::Succeeded)).await;
        journal.prune(NOW + millis(KEEP) + 1);
        assert!(matches!(begin(&journal, job).await, Begin::Known(Some(_))), "it is not published yet");
        journal.published(job);
        journal.prune(NOW + millis(limits::START_BY_MAX));
        assert!(matches!(begin(&journal, job).await, Begin::Known(Some(_))));
        journal.prune(NOW + millis(KEEP) + 1);
        assert!(matches!(begin(&journal, job).await, Begin::Go));
        // Running ones are not forgotten, however long they run.
        journal.prune(NOW + 2 * millis(KEEP));
        assert!(matches!(begin(&journal, job).await, Begin::Known(None)));
    }

    #[tokio::test]
    async fn its_size_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(&directory);
        let full = || Captured {
            kept: vec![7; limits::OUTPUT_BYTES],
            written_bytes: limits::OUTPUT_BYTES as u64,
            cut_bytes: 0,
        };
        for round in 0..300 {
            let job = JobId::new();
            begin(&journal, job).await;
            let outcome =
                Outcome { stdout: full(), stderr: full(), finished_at_ms: NOW + round, ..*outcome(State::Succeeded) };
            journal.finish(job, "1-1".into(), HOUR, Box::new(outcome)).await;
            journal.published(job);
        }
        drop(journal);
        let (_journal, _) = reopen(&directory).await;
        let size = std::fs::metadata(directory.path().join("journal.redb")).unwrap().len();
        // The store rounds each value up to a power of two pages, writes anew before it frees, and
        // keeps freed pages for later: eight times the budget is what that may come to.
        assert!(size < 8 * OUTPUT_BUDGET as u64, "{size}");
    }

    #[tokio::test]
    async fn a_crash_while_it_was_being_made_does_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("journal.new"), vec![0; 10_000]).unwrap();
        let journal = journal(&directory);
        assert!(matches!(begin(&journal, JobId::new()).await, Begin::Go));
        assert!(!directory.path().join("journal.new").exists());
    }

    #[tokio::test]
    async fn a_damaged_or_unwritable_journal_refuses_and_says_why() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("journal.redb"), vec![0x5a; 10_000]).unwrap();
        let journal = journal(&directory);
        for _ in 0..3 {
            let Begin::Unavailable(reason) = begin(&journal, JobId::new()).await else { panic!("it is damaged") };
            assert!(reason.len() < 200, "{reason}");
        }
        assert!(journal.trouble().unwrap().contains("journal.redb"));
        let journal = Journal::open("/proc/nowhere/journal.redb".into());
        assert!(matches!(begin(&journal, JobId::new()).await, Begin::Unavailable(_)));
        assert_eq!(journal.cancel(JobId::new(), NOW).await, None);
        journal.finish(JobId::new(), "1-1".into(), HOUR, outcome(State::Failed)).await;
    }
}
