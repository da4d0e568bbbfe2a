//! The pending entries of the inbox: delivered to this worker, not acknowledged. None is handled twice.

use std::collections::{HashMap, HashSet};

use protocol::name::JobId;

/// A pending entry.
struct Entry {
    /// None where the entry names no job.
    job: Option<JobId>,
    /// Whether the journal records that the outcome is published.
    journaled: bool,
    /// Whether it gets no outcome.
    dropped: bool,
    /// Bytes of output that wait for Redis.
    output: usize,
}

/// The pending entries, and those just acknowledged.
#[derive(Default)]
pub(crate) struct Pending {
    entries: HashMap<String, Entry>,
    /// How many of them get no outcome.
    dropped: usize,
    /// Bytes of their output that wait for Redis.
    output: usize,
    jobs: HashSet<JobId>,
    /// Entries acknowledged since the reader began its current read: its reply may still list them.
    acknowledged: HashSet<String>,
    /// Their jobs: the published state of a copy that was read meanwhile was looked up too early.
    acknowledged_jobs: HashSet<JobId>,
}

impl Pending {
    /// Whether the entry is being handled, or has just been acknowledged.
    pub(crate) fn has(&self, entry: &str) -> bool {
        self.entries.contains_key(entry) || self.acknowledged.contains(entry)
    }

    /// Whether any entry of the job is being handled, or has just been acknowledged.
    pub(crate) fn has_job(&self, job: JobId) -> bool {
        self.jobs.contains(&job) || self.acknowledged_jobs.contains(&job)
    }

    /// How many commands are not acknowledged yet.
    pub(crate) fn commands(&self) -> usize {
        self.entries.len() - self.dropped
    }

    /// How many entries that get no outcome are not acknowledged yet.
    pub(crate) const fn dropped(&self) -> usize {
        self.dropped
    }

    /// How many bytes of their output wait for Redis.
    pub(crate) const fn output(&self) -> usize {
        self.output
    }

    /// Notes how many bytes of the entry's output wait for Redis.
    pub(crate) fn hold_output(&mut self, entry: &str, bytes: usize) {
        if let Some(pending) = self.entries.get_mut(entry) {
            self.output += bytes;
            self.output -= std::mem::replace(&mut pending.output, bytes);
        }
    }

    /// Adds a command's entry.
    pub(crate) fn add(&mut self, entry: String, job: JobId) {
        self.jobs.insert(job);
        self.insert(entry, Some(job), false);
    }

    /// Adds an entry that gets no outcome. It may be one of a job that has an outcome already.
    pub(crate) fn add_dropped(&mut self, entry: String, job: Option<JobId>) {
        self.jobs.extend(job);
        self.insert(entry, job, true);
    }

    fn insert(&mut self, entry: String, job: Option<JobId>, dropped: bool) {
        let prior = self.entries.insert(entry, Entry { job, journaled: false, dropped, output: 0 });
        self.dropped += usize::from(dropped);
        if let Some(prior) = prior {
            self.forget(&prior);
        }
    }

    /// Notes that the journal must record when the entry's outcome is published.
    pub(crate) fn mark_journaled(&mut self, entry: &str) {
        if let Some(pending) = self.entries.get_mut(entry) {
            pending.journaled = true;
        }
    }

    /// Removes an acknowledged entry; returns its job if the journal must record it.
    pub(crate) fn acknowledge(&mut self, entry: String) -> Option<JobId> {
        let removed = self.entries.remove(&entry);
        self.acknowledged.insert(entry);
        let removed = removed?;
        self.forget(&removed);
        let Entry { job, journaled, .. } = removed;
        let job = job?;
        self.jobs.remove(&job);
        self.acknowledged_jobs.insert(job);
        journaled.then_some(job)
    }

    /// An entry that was taken out counts no more.
    fn forget(&mut self, entry: &Entry) {
        self.dropped -= usize::from(entry.dropped);
        self.output -= entry.output;
    }

    /// The reader begins its next read.
    pub(crate) fn begin_read(&mut self) {
        self.acknowledged.clear();
        self.acknowledged_jobs.clear();
    }
}
