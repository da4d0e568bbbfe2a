//! The journal's records, and the tables that hold them.

use std::{ops::Bound, time::Duration};

use protocol::{
    clock::millis,
    limits,
    name::JobId,
    outcome::{Outcome, State},
    secret::Digest,
    time::Millis,
};
use redb::{Database, ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{Begin, BeginRequest, Bounds, Found, JournalFull, Prior, Unpublished};
use crate::{
    delivery::Delivery,
    fault::{self, Bug},
};

/// Job id → [`Record`].
const COMMANDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records-v1");

/// Id of a job that must not start any more → when that was ordered ([`Millis`]).
const CANCELLED: TableDefinition<&[u8], u64> = TableDefinition::new("cancelled-v1");

/// When the record was last changed, and its job id → the whole [`Outcome`] of a published command
/// that has output. The oldest come first and are dropped first.
const OUTCOMES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("outcomes-v1");

/// Facts about the journal itself.
const ITSELF: TableDefinition<&str, u64> = TableDefinition::new("itself-v1");

/// In [`ITSELF`]: when the journal was made, by this machine's clock.
const MADE_MS: &str = "made_ms";

/// In [`ITSELF`]: the latest issue of all jobs that were forgotten, by their ids. Nothing that was issued until then
/// starts any more, whatever Redis' clock says: a replay would run it twice.
const FORGOTTEN_MS: &str = "forgotten_ms";

/// In [`ITSELF`]: bytes in [`OUTCOMES`].
const OUTCOME_BYTES: &str = "outcome_bytes";

/// The key of the entry that [`Tables::probe`] writes; no job has it.
const PROBE: &[u8] = b"probe";

/// The record of a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// When the record was last changed, by the fleet's clock.
    at_ms: Millis,
    /// The command's stream entry.
    entry: String,
    /// How long the result is kept once published.
    retention_ms: u64,
    phase: Phase,
    /// The digest of the command's manifest, which the outcome is signed with.
    #[serde(default)]
    manifest: Option<Digest>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Started,
    /// The outcome has its output until it is published; then [`OUTCOMES`] has the output, as long as it is kept.
    Finished {
        outcome: Box<Outcome>,
        published: bool,
    },
}

impl Record {
    /// The record of an end that has still to be published.
    pub(super) fn finished(delivery: Delivery, outcome: Box<Outcome>) -> Self {
        Self::new(delivery, outcome.finished_at_ms, Phase::Finished { outcome, published: false })
    }

    fn new(Delivery { entry, retention, manifest, .. }: Delivery, at_ms: Millis, phase: Phase) -> Self {
        Self { at_ms, entry, retention_ms: millis(retention), phase, manifest }
    }

    /// A record that cannot be read may stand for a start: its command must not start again.
    fn read(bytes: &[u8]) -> Self {
        let unreadable =
            Self { at_ms: 0, entry: String::new(), retention_ms: 0, phase: Phase::Started, manifest: None };
        rmp_serde::from_slice(bytes).unwrap_or(unreadable)
    }

    /// A running command is kept, however long it runs, and so is an outcome that is not recorded as published.
    fn may_be_forgotten(&self, now: Millis) -> bool {
        let is_over = matches!(self.phase, Phase::Finished { published: true, .. });
        is_over && is_old(self.at_ms, now)
    }
}

fn is_old(at_ms: Millis, now: Millis) -> bool {
    at_ms.saturating_add(millis(limits::JOURNAL_KEEP)) < now
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

/// What a prior process left, and how many commands are known. Commands that had only started are `interrupted`.
pub(super) fn found(transaction: &ReadTransaction, now: Millis) -> Result<(Found, u64), redb::Error> {
    let mut found = Found::default();
    for item in transaction.open_table(CANCELLED)?.iter()? {
        let (key, at_ms) = item?;
        found.cancelled.extend(JobId::from_bytes(key.value()).map(|job| (job, at_ms.value())));
    }

    let commands = transaction.open_table(COMMANDS)?;
    // One at a time: all of them may be more than memory should hold.
    for item in commands.iter()? {
        let (key, value) = item?;
        if let (Some(job), Ok(record)) = (JobId::from_bytes(key.value()), rmp_serde::from_slice(value.value())) {
            found.add(job, record, now);
        }
    }
    found.unpublished.sort_by_key(|unpublished| unpublished.outcome.finished_at_ms);
    Ok((found, commands.len()?))
}

impl Found {
    fn add(&mut self, job: JobId, record: Record, now: Millis) {
        let Record { at_ms, entry, retention_ms, phase, manifest } = record;
        let (outcome, was_running) = match phase {
            Phase::Finished { published: true, .. } => return,
            Phase::Finished { outcome, .. } => (outcome, false),
            Phase::Started => {
                let reason = "the worker died while it ran; how far it came is not known";
                let outcome = Outcome::bare(State::Interrupted, Some(reason.into()), now.max(at_ms));
                (Box::new(Outcome { started_at_ms: Some(at_ms), ..outcome }), true)
            }
        };
        let retention = Duration::from_millis(retention_ms);
        let delivery = Delivery { job, manifest, entry, retention, asker: None };
        self.unpublished.push(Unpublished { delivery, outcome, was_running });
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

    /// Writes an entry, to find out whether the journal can be written: a transaction without changes succeeds even on
    /// a full disk.
    pub(super) fn probe(&mut self) -> Result<(), redb::Error> {
        self.commands.insert(PROBE, PROBE)?;
        Ok(())
    }

    /// Records a start, or replies why there must be none. `fresh`: this process made the journal.
    pub(super) fn begin(&mut self, start: BeginRequest, fresh: bool, bounds: &Bounds) -> Result<Begin, redb::Error> {
        let BeginRequest { delivery, now, allowed, prior } = start;
        let job = delivery.job;
        let lost = match prior {
            Prior::None => false,
            Prior::Delivered => fresh || added_at(&delivery.entry) <= self.itself(MADE_MS)?,
            Prior::Running => true,
        };
        let forgotten = self.itself(FORGOTTEN_MS)?;
        let known = self.get(job)?;
        let is_other = |manifest: Digest| Some(manifest) != delivery.manifest;
        if known.as_ref().and_then(|record| record.manifest).is_some_and(is_other) {
            return Ok(Begin::Other);
        }
        Ok(match known.map(|record| (record.at_ms, record.phase)) {
            Some((_, Phase::Started)) => Begin::Known(None),
            Some((at_ms, Phase::Finished { outcome, .. })) => Begin::Known(Some(self.whole(at_ms, job, outcome)?)),
            // The command may have started, even where it was cancelled since.
            None if lost => Begin::Lost,
            None if self.cancelled.get(job.as_bytes().as_slice())?.is_some() => Begin::Cancelled,
            None if !allowed => Begin::NotAllowed,
            None if job.issued_at_ms() <= forgotten && !fault::planted(Bug::NoFloor) => Begin::Forgotten(forgotten),
            None if self.known()? >= bounds.commands => Begin::Full(JournalFull(bounds.commands)),
            None => {
                self.put(job, &Record::new(delivery, now, Phase::Started))?;
                Begin::Go
            }
        })
    }

    /// Records an end, whether or not there is room for a start. A recorded end stays: a caller with another end could
    /// not read it.
    pub(super) fn finish(&mut self, job: JobId, end: &Record) -> Result<(), redb::Error> {
        match self.get(job)?.map(|record| record.phase) {
            Some(Phase::Finished { .. }) => Ok(()),
            _ => self.put(job, end),
        }
    }

    /// Records the end of a command that was never started. Refusals take half of the room at most: whoever is trusted, but
    /// may run nothing, must not keep others from running anything.
    pub(super) fn refuse(&mut self, job: JobId, end: &Record, bounds: &Bounds) -> Result<(), redb::Error> {
        if self.get(job)?.is_some() || self.known()? >= bounds.commands / 2 {
            return Ok(());
        }
        self.put(job, end)
    }

    /// Records that the outcome is published. The output of published outcomes is kept as long as there is room for it.
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

    /// Records that the job must not start any more. `Some(false)`: it has started already; `None`: there is no room
    /// for another order.
    pub(super) fn cancel(&mut self, job: JobId, now: Millis, bounds: &Bounds) -> Result<Option<bool>, redb::Error> {
        if self.get(job)?.is_some() {
            return Ok(Some(false));
        }
        let key = job.as_bytes().as_slice();
        if self.orders()? >= bounds.cancelled && self.cancelled.get(key)?.is_none() {
            return Ok(None);
        }
        self.cancelled.insert(key, now)?;
        Ok(Some(true))
    }

    /// Forgets the orders to cancel that are too old.
    pub(super) fn forget_cancelled(&mut self, now: Millis) -> Result<(), redb::Error> {
        let mut forgotten = 0;
        self.cancelled.retain(|job, at_ms| {
            let is_old = is_old(at_ms, now);
            if is_old {
                forgotten = forgotten.max(JobId::from_bytes(job).map_or(0, |job| job.issued_at_ms()));
            }
            !is_old
        })?;
        self.raise_forgotten(forgotten)
    }

    /// Looks at the next `most` commands behind the key `after` and forgets those that are too old. Returns the key
    /// behind which there may be more.
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
        self.raise_forgotten(old.iter().map(|(job, _)| job.issued_at_ms()).max().unwrap_or(0))?;
        for (job, at_ms) in old {
            self.commands.remove(job.as_bytes().as_slice())?;
            let removed = self.outcomes.remove(aged(at_ms, job).as_slice())?.map(|value| value.value().len());
            self.count(0, removed.unwrap_or(0))?;
        }
        Ok((seen == most).then_some(last))
    }

    /// Records that all jobs which were issued until then may be forgotten.
    fn raise_forgotten(&mut self, until: Millis) -> Result<(), redb::Error> {
        if until > self.itself(FORGOTTEN_MS)? {
            self.itself.insert(FORGOTTEN_MS, until)?;
        }
        Ok(())
    }

    /// Keeps an outcome with its output, and drops the oldest ones beyond the budget.
    fn keep(&mut self, at_ms: Millis, job: JobId, outcome: &Outcome, bounds: &Bounds) -> Result<(), redb::Error> {
        let value = encode(outcome);
        // One that is as large as all others would drop them, and itself.
        if value.len() as u64 > bounds.outcome_bytes / 2 {
            return Ok(());
        }
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

    /// The outcome with its output where that is kept; else the outcome in its record.
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

/// `MessagePack` without field names, which were two thirds of a record. Records with field names can be read too.
fn encode(value: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec(value).expect("plain data always encodes")
}

/// When a stream entry was added, by Redis' clock: the first part of its id.
fn added_at(entry: &str) -> Millis {
    entry.split('-').next().and_then(|at_ms| at_ms.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use protocol::{outcome::Captured, secret::digest};

    use super::*;

    const NOW: Millis = 1_790_000_000_000;

    /// A record as existing journals hold it.
    const WRITTEN: &str = "94cf000001a0c4506c00af313739303030303030303030302d30ce0036ee8081a866696e69736865649298a9737563636565646564c000cf000001a0c4506bfbcf000001a0c4506c0093c405646f6e650a050093c4066e6f7465640a0600c0c3";

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

    /// Written records stay readable: the order of the fields must never change.
    #[test]
    fn records_stay_readable() {
        let phase = Phase::Finished { outcome: outcome(), published: true };
        let (entry, manifest) = ("1790000000000-0".into(), digest(b"manifest"));
        let record = Record { at_ms: NOW, entry, retention_ms: 3_600_000, phase, manifest: None };
        assert_eq!(format!("{:?}", Record::read(&bytes(WRITTEN))), format!("{record:?}"));

        // The manifest came later: one more field, 32 bytes.
        let record = Record { manifest: Some(manifest), ..record };
        let mut written = [&bytes(WRITTEN)[..], &[0xc4, 32], &manifest[..]].concat();
        written[0] += 1;
        assert_eq!(encode(&record), written);
        assert_eq!(format!("{:?}", Record::read(&written)), format!("{record:?}"));
    }

    #[test]
    fn a_record_that_cannot_be_read_may_stand_for_a_start() {
        assert!(matches!(Record::read(&[0xc1]).phase, Phase::Started));
    }
}
