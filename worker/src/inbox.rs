//! Which entries of the inbox have been taken, so that none is worked on twice.

use std::collections::{HashMap, HashSet};

use protocol::name::JobId;

/// An entry on its way to being settled.
struct Taken {
    /// None for an entry without content.
    job: Option<JobId>,
    /// Whether the journal must hear that its outcome is published.
    journaled: bool,
}

/// The entries in hand, and those just settled.
#[derive(Default)]
pub(crate) struct Inbox {
    in_hand: HashMap<String, Taken>,
    jobs: HashSet<JobId>,
    /// Entries settled since the reader began its current read, whose reply may still list them as pending.
    settled: HashSet<String>,
    /// Their jobs: for a copy read meanwhile it was asked too early whether there is an answer.
    settled_jobs: HashSet<JobId>,
}

impl Inbox {
    /// Whether the entry is being worked on, or has just been settled.
    pub(crate) fn has(&self, entry: &str) -> bool {
        self.in_hand.contains_key(entry) || self.settled.contains(entry)
    }

    /// The same of a job, by whatever entry.
    pub(crate) fn knows(&self, job: JobId) -> bool {
        self.jobs.contains(&job) || self.settled_jobs.contains(&job)
    }

    /// How many entries are not settled yet.
    pub(crate) fn len(&self) -> usize {
        self.in_hand.len()
    }

    /// Takes an entry in hand.
    pub(crate) fn take(&mut self, entry: String, job: Option<JobId>) {
        self.jobs.extend(job);
        self.in_hand.insert(entry, Taken { job, journaled: false });
    }

    /// Notes that the journal must hear when the entry is settled.
    pub(crate) fn is_journaled(&mut self, entry: &str) {
        if let Some(taken) = self.in_hand.get_mut(entry) {
            taken.journaled = true;
        }
    }

    /// Notes that an entry is settled; says its job if the journal must hear of it.
    pub(crate) fn settle(&mut self, entry: String) -> Option<JobId> {
        let taken = self.in_hand.remove(&entry);
        self.settled.insert(entry);
        let Taken { job: Some(job), journaled } = taken? else { return None };
        self.jobs.remove(&job);
        self.settled_jobs.insert(job);
        journaled.then_some(job)
    }

    /// The reader begins its next read.
    pub(crate) fn next_read(&mut self) {
        self.settled.clear();
        self.settled_jobs.clear();
    }
}
