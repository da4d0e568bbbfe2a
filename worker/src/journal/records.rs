//! What is recorded, and in which tables.

use std::{ops::Bound, time::Duration};

use protocol::{
    clock::millis,
    limits,
    name::JobId,
    outcome::{Outcome, State},
    time::Millis,
};
use redb::{
    Database, ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableError,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::{Before, Begin, Bounds, Found, Start, Unpublished};

/// Job id → [`Record`].
const COMMANDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records-v1");

/// Id of a job that must not start any more → when that was ordered ([`Millis`]).
const CANCELLED: TableDefinition<&[u8], u64> = TableDefinition::new("cancelled-v1");

/// When the record was last changed, and its job id → the whole [`Outcome`] of a published command
/// that has output. The oldest come first and are dropped first.
const OUTCOMES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("outcomes-v1");

/// What is known of the journal itself.
const ITSELF: TableDefinition<&str, u64> = TableDefinition::new("itself-v1");

/// In [`ITSELF`]: when it was made, by this machine's clock. Absent in those made by a worker that did not note it.
const MADE_MS: &str = "made_ms";

/// In [`ITSELF`]: bytes in [`OUTCOMES`].
const OUTCOME_BYTES: &str = "outcome_bytes";

/// The key of what is written only to see whether it can be; no job has it.
const PROBE: &[u8] = b"probe";

/// How long records are kept: no command may wait longer than the longest start-by, and the margin
/// covers clocks and long runs.
pub(super) const KEEP: Duration = limits::START_BY_MAX.saturating_add(Duration::from_secs(24 * 3600));

/// What is known of a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
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
    /// The outcome is whole until it is published; then its output is in [`OUTCOMES`], as long as it is kept.
    Finished {
        outcome: Box<Outcome>,
        published: bool,
    },
    /// Only read, never written: such orders have a table of their own now.
    Cancelled,
}

impl Record {
    /// The record of an end that has still to be published.
    pub(super) fn finished(entry: String, retention: Duration, outcome: Box<Outcome>) -> Self {
        let (at_ms, retention_ms) = (outcome.finished_at_ms, millis(retention));
        Self { at_ms, entry, retention_ms, phase: Phase::Finished { outcome, published: false } }
    }

    /// A record that cannot be read may stand for a start: it must not start again.
    fn read(bytes: &[u8]) -> Self {
        let unreadable = Self { at_ms: 0, entry: String::new(), retention_ms: 0, phase: Phase::Started };
        rmp_serde::from_slice(bytes).unwrap_or(unreadable)
    }

    /// What runs runs, however long; and what is not published may still have to be.
    fn may_be_forgotten(&self, now: Millis) -> bool {
        let is_over = matches!(self.phase, Phase::Cancelled | Phase::Finished { published: true, .. });
        is_over && is_old(self.at_ms, now)
    }
}

fn is_old(at_ms: Millis, now: Millis) -> bool {
    at_ms.saturating_add(millis(KEEP)) < now
}

/// The key in [`OUTCOMES`].
fn aged(at_ms: Millis, job: JobId) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&at_ms.to_be_bytes());
    key[8..].copy_from_slice(job.as_bytes());
    key
}

/// Makes the tables of a new journal.
pub(super) fn make(store: &Database, now: Millis) -> Result<(), redb::Error> {
    let transaction = store.begin_write()?;
    Tables::open(&transaction)?.itself.insert(MADE_MS, now)?;
    transaction.commit()?;
    Ok(())
}

/// What an earlier process left, and how many commands are known. What had only started is `interrupted`.
pub(super) fn found(transaction: &ReadTransaction, now: Millis) -> Result<(Found, u64), redb::Error> {
    let (mut found, mut known) = (Found::default(), 0);
    if let Some(cancelled) = existing(transaction.open_table(CANCELLED))? {
        for item in cancelled.iter()? {
            let (key, at_ms) = item?;
            found.cancelled.extend(JobId::from_bytes(key.value()).map(|job| (job, at_ms.value())));
        }
    }
    let commands = existing(transaction.open_table(COMMANDS))?;
    if let Some(commands) = &commands {
        known = commands.len()?;
        // One at a time: all of them may be more than memory should hold.
        for item in commands.iter()? {
            let (key, value) = item?;
            if let (Some(job), Ok(record)) = (JobId::from_bytes(key.value()), rmp_serde::from_slice(value.value())) {
                found.add(job, record, now);
            }
        }
    }
    found.unpublished.sort_by_key(|unpublished| unpublished.outcome.finished_at_ms);
    Ok((found, known))
}

impl Found {
    fn add(&mut self, job: JobId, record: Record, now: Millis) {
        let Record { at_ms, entry, retention_ms, phase } = record;
        let (outcome, was_running) = match phase {
            Phase::Cancelled => return self.cancelled.push((job, at_ms)),
            Phase::Finished { published: true, .. } => return,
            Phase::Finished { outcome, .. } => (outcome, false),
            Phase::Started => {
                let reason = "the worker died while it ran; how far it came is not known";
                let outcome = Outcome::bare(State::Interrupted, Some(reason.into()), now.max(at_ms));
                (Box::new(Outcome { started_at_ms: Some(at_ms), ..outcome }), true)
            }
        };
        let retention = Duration::from_millis(retention_ms);
        self.unpublished.push(Unpublished { job, entry, retention, outcome, was_running });
    }
}

/// A table that is not there yet is an empty one.
fn existing<T>(opened: Result<T, TableError>) -> Result<Option<T>, redb::Error> {
    match opened {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// The tables within a transaction that writes.
pub(super) struct Tables<'a> {
    commands: Table<'a, &'static [u8], &'static [u8]>,
    cancelled: Table<'a, &'static [u8], u64>,
    outcomes: Table<'a, &'static [u8], &'static [u8]>,
    itself: Table<'a, &'static str, u64>,
}

impl<'a> Tables<'a> {
    pub(super) fn open(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            commands: transaction.open_table(COMMANDS)?,
            cancelled: transaction.open_table(CANCELLED)?,
            outcomes: transaction.open_table(OUTCOMES)?,
            itself: transaction.open_table(ITSELF)?,
        })
    }

    /// How many commands are known.
    pub(super) fn known(&self) -> Result<u64, redb::Error> {
        Ok(self.commands.len()?)
    }

    /// How many orders to cancel are recorded.
    pub(super) fn orders(&self) -> Result<u64, redb::Error> {
        Ok(self.cancelled.len()?)
    }

    /// Changes something, to see whether it can be: a transaction that changes nothing succeeds on a
    /// full disk too.
    pub(super) fn probe(&mut self) -> Result<(), redb::Error> {
        self.commands.insert(PROBE, PROBE)?;
        Ok(())
    }

    /// Records a start, or says why there must be none. `fresh`: the journal was made by this very process.
    pub(super) fn begin(&mut self, start: Start, fresh: bool, bounds: &Bounds) -> Result<Begin, redb::Error> {
        let Start { job, entry, retention, now, allowed, before } = start;
        let known = self.get(job)?;
        let lost = match before {
            Before::Nothing => false,
            Before::Taken => fresh || asked_at(&entry) <= self.itself(MADE_MS)?,
            Before::Ran => true,
        };
        Ok(match known.map(|record| (record.at_ms, record.phase)) {
            Some((_, Phase::Started)) => Begin::Known(None),
            Some((at_ms, Phase::Finished { outcome, .. })) => Begin::Known(Some(self.whole(at_ms, job, outcome)?)),
            // That it never started is more than anybody knows, even where it was cancelled since.
            _ if lost => Begin::Lost,
            Some((_, Phase::Cancelled)) => Begin::Cancelled,
            None if self.cancelled.get(job.as_bytes().as_slice())?.is_some() => Begin::Cancelled,
            None if !allowed => Begin::MayNot,
            None if self.known()? >= bounds.commands => Begin::Full(bounds.full()),
            None => {
                let record = Record { at_ms: now, entry, retention_ms: millis(retention), phase: Phase::Started };
                self.put(job, &record)?;
                Begin::Go
            }
        })
    }

    /// Records an end, whether or not there is room for a start. An end that is known stands, as whoever
    /// brings another one could not read it.
    pub(super) fn finish(&mut self, job: JobId, end: &Record) -> Result<(), redb::Error> {
        match self.get(job)?.map(|record| record.phase) {
            Some(Phase::Finished { .. }) => Ok(()),
            _ => self.put(job, end),
        }
    }

    /// Remembers that the outcome is published. Of what is published the output is kept as long as
    /// there is room for it.
    pub(super) fn published(&mut self, job: JobId, bounds: &Bounds) -> Result<(), redb::Error> {
        let Some(mut record) = self.get(job)? else { return Ok(()) };
        let Phase::Finished { outcome, published } = &mut record.phase else { return Ok(()) };
        if std::mem::replace(published, true) {
            return Ok(());
        }
        if !outcome.stdout.kept.is_empty() || !outcome.stderr.kept.is_empty() || outcome.data.is_some() {
            self.keep(record.at_ms, job, outcome, bounds)?;
            for captured in [&mut outcome.stdout, &mut outcome.stderr] {
                captured.kept = Vec::new();
                captured.cut_bytes = captured.written_bytes;
            }
            outcome.data = None;
        }
        self.put(job, &record)
    }

    /// Records that the job must not start any more. `Some(false)`: it has started already; `None`:
    /// there is no room for one more order.
    pub(super) fn cancel(&mut self, job: JobId, now: Millis, bounds: &Bounds) -> Result<Option<bool>, redb::Error> {
        if let Some(record) = self.get(job)? {
            return Ok(Some(matches!(record.phase, Phase::Cancelled)));
        }
        let key = job.as_bytes().as_slice();
        if self.orders()? >= bounds.cancelled && self.cancelled.get(key)?.is_none() {
            return Ok(None);
        }
        self.cancelled.insert(key, now)?;
        Ok(Some(true))
    }

    /// Forgets what is too old among the orders to cancel.
    pub(super) fn forget_cancelled(&mut self, now: Millis) -> Result<(), redb::Error> {
        Ok(self.cancelled.retain(|_, at_ms| !is_old(at_ms, now))?)
    }

    /// Looks at the next `most` commands behind the key `after` and forgets those that are too old. Says
    /// behind which key there may be more.
    pub(super) fn forget(&mut self, now: Millis, after: &[u8], most: usize) -> Result<Option<Vec<u8>>, redb::Error> {
        let (mut old, mut seen, mut last) = (Vec::new(), 0, Vec::new());
        for item in self.commands.range::<&[u8]>((Bound::Excluded(after), Bound::Unbounded))?.take(most) {
            let (key, value) = item?;
            let record = Record::read(value.value());
            if record.may_be_forgotten(now) {
                old.extend(JobId::from_bytes(key.value()).map(|job| (job, record.at_ms)));
            }
            (seen, last) = (seen + 1, key.value().to_vec());
        }
        for (job, at_ms) in old {
            self.commands.remove(job.as_bytes().as_slice())?;
            let removed = self.outcomes.remove(aged(at_ms, job).as_slice())?.map(|value| value.value().len());
            self.count(0, removed.unwrap_or(0))?;
        }
        Ok((seen == most).then_some(last))
    }

    /// Keeps an outcome with its output, and drops the oldest ones beyond the budget.
    fn keep(&mut self, at_ms: Millis, job: JobId, outcome: &Outcome, bounds: &Bounds) -> Result<(), redb::Error> {
        let value = encode(outcome);
        let replaced = self.outcomes.insert(aged(at_ms, job).as_slice(), value.as_slice())?;
        let replaced = replaced.map_or(0, |value| value.value().len());
        self.count(value.len(), replaced)?;
        while self.itself(OUTCOME_BYTES)? > bounds.outcome_bytes {
            let Some(dropped) = self.outcomes.pop_first()?.map(|(_, value)| value.value().len()) else { break };
            self.count(0, dropped)?;
        }
        Ok(())
    }

    /// Keeps account of the bytes in [`OUTCOMES`].
    fn count(&mut self, added: usize, removed: usize) -> Result<(), redb::Error> {
        let bytes = self.itself(OUTCOME_BYTES)?.saturating_add(added as u64).saturating_sub(removed as u64);
        self.itself.insert(OUTCOME_BYTES, bytes)?;
        Ok(())
    }

    /// The outcome with its output where that is kept; else what its record says.
    fn whole(&self, at_ms: Millis, job: JobId, outcome: Box<Outcome>) -> Result<Box<Outcome>, redb::Error> {
        let kept = self.outcomes.get(aged(at_ms, job).as_slice())?;
        Ok(kept.and_then(|value| rmp_serde::from_slice(value.value()).ok()).unwrap_or(outcome))
    }

    fn itself(&self, name: &str) -> Result<u64, redb::Error> {
        Ok(self.itself.get(name)?.map_or(0, |value| value.value()))
    }

    fn get(&self, job: JobId) -> Result<Option<Record>, redb::Error> {
        let value = self.commands.get(job.as_bytes().as_slice())?;
        Ok(value.map(|value| Record::read(value.value())))
    }

    fn put(&mut self, job: JobId, record: &Record) -> Result<(), redb::Error> {
        self.commands.insert(job.as_bytes().as_slice(), encode(record).as_slice())?;
        Ok(())
    }
}

/// `MessagePack` without the names of fields, which were two thirds of a record; with them it reads as well.
fn encode(value: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("plain data always encodes")
}

/// When a stream entry was added, by Redis' clock: the first part of its id.
fn asked_at(entry: &str) -> Millis {
    entry.split('-').next().and_then(|at_ms| at_ms.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use protocol::outcome::Captured;
    use redb::ReadableDatabase;

    use super::*;

    const NOW: Millis = 1_790_000_000_000;

    /// Records as they were written when the output stood in them and no other table was.
    const STARTED: &str = "84a561745f6d73cf000001a0c4506c00a5656e747279af313739303030303030303030302d30ac726574656e74696f6e5f6d73ce0036ee80a57068617365a773746172746564";
    const CANCELLED_ONE: &str = "84a561745f6d73cf000001a0c4506c00a5656e747279af313739303030303030303030302d30ac726574656e74696f6e5f6d73ce0036ee80a57068617365a963616e63656c6c6564";
    const UNPUBLISHED: &str = "84a561745f6d73cf000001a0c4506c00a5656e747279af313739303030303030303030302d30ac726574656e74696f6e5f6d73ce0036ee80a5706861736581a866696e697368656482a76f7574636f6d6588a57374617465a9737563636565646564a6726561736f6ec0a9657869745f636f646500ad737461727465645f61745f6d73cf000001a0c4506bfbae66696e69736865645f61745f6d73cf000001a0c4506c00a67374646f757483a46b657074c405646f6e650aad7772697474656e5f627974657305a96375745f627974657300a673746465727283a46b657074c4066e6f7465640aad7772697474656e5f627974657306a96375745f627974657300a464617461c0a97075626c6973686564c2";

    const SECOND_FORM: &str = "94cf000001a0c4506c00af313739303030303030303030302d30ce0036ee8081a866696e69736865649298a9737563636565646564c000cf000001a0c4506bfbcf000001a0c4506c0093c405646f6e650a050093c4066e6f7465640a0600c0c3";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn outcome() -> Box<Outcome> {
        let captured = |text: &str| Captured { kept: text.into(), written_bytes: text.len() as u64, cut_bytes: 0 };
        Box::new(Outcome {
            exit_code: Some(0),
            started_at_ms: Some(NOW - 5),
            stdout: captured("done\n"),
            stderr: captured("noted\n"),
            ..Outcome::bare(State::Succeeded, None, NOW)
        })
    }

    /// What is written stays readable: the order of the fields must never change.
    #[test]
    fn records_of_the_second_form_are_understood() {
        let phase = Phase::Finished { outcome: outcome(), published: true };
        let record = Record { at_ms: NOW, entry: "1790000000000-0".into(), retention_ms: 3_600_000, phase };
        assert_eq!(encode(&record), bytes(SECOND_FORM));
        assert_eq!(format!("{:?}", Record::read(&bytes(SECOND_FORM))), format!("{record:?}"));
    }

    #[test]
    fn a_journal_of_the_first_form_is_understood() {
        let directory = tempfile::tempdir().unwrap();
        let store = Database::create(directory.path().join("web1.journal")).unwrap();
        let [started, cancelled, unpublished, published, unreadable] = [(); 5].map(|()| JobId::new());
        let transaction = store.begin_write().unwrap();
        {
            let mut commands = transaction.open_table(COMMANDS).unwrap();
            let mut put = |job: JobId, value: Vec<u8>| {
                commands.insert(job.as_bytes().as_slice(), value.as_slice()).unwrap();
            };
            put(started, bytes(STARTED));
            put(cancelled, bytes(CANCELLED_ONE));
            put(unpublished, bytes(UNPUBLISHED));
            // Its last byte says whether it is published.
            put(published, bytes(&UNPUBLISHED.replace("6564c2", "6564c3")));
            put(unreadable, vec![0xc1]);
        }
        transaction.commit().unwrap();

        let (found, known) = found(&store.begin_read().unwrap(), NOW).unwrap();
        assert_eq!((known, found.cancelled), (5, vec![(cancelled, NOW)]));
        let states: Vec<_> = found.unpublished.iter().map(|one| (one.job, one.outcome.state)).collect();
        assert_eq!(states, [(started, State::Interrupted), (unpublished, State::Succeeded)]);
        assert_eq!(found.unpublished[1].outcome, outcome());
        assert_eq!(found.unpublished[1].entry, "1790000000000-0");

        let bounds = Bounds::default();
        let start = |job, before| {
            let (entry, retention) = (format!("{NOW}-0"), Duration::from_secs(3600));
            Start { job, entry, retention, now: NOW, allowed: true, before }
        };
        let transaction = store.begin_write().unwrap();
        let mut tables = Tables::open(&transaction).unwrap();
        for _ in 0..2 {
            let mut begin = |job| tables.begin(start(job, Before::Nothing), false, &bounds).unwrap();
            assert!(matches!(begin(started), Begin::Known(None)));
            assert!(matches!(begin(unreadable), Begin::Known(None)));
            assert!(matches!(begin(cancelled), Begin::Cancelled));
            for job in [unpublished, published] {
                assert!(matches!(begin(job), Begin::Known(Some(known)) if known == outcome()));
            }
            assert_eq!(tables.cancel(cancelled, NOW, &bounds).unwrap(), Some(true));
            assert_eq!(tables.cancel(started, NOW, &bounds).unwrap(), Some(false));
            tables.published(unpublished, &bounds).unwrap();
            tables.published(published, &bounds).unwrap();
        }
        let begin = tables.begin(start(JobId::new(), Before::Taken), false, &bounds).unwrap();
        assert!(matches!(begin, Begin::Go), "such a journal is older than what is asked today");
        assert_eq!(tables.forget(NOW + 2 * millis(KEEP), &[], 100).unwrap(), None);
        assert_eq!(tables.known().unwrap(), 3, "what had started is never forgotten");
        assert_eq!(tables.itself(OUTCOME_BYTES).unwrap(), 0);
    }
}
