//! Which jobs the reader has read.

use std::collections::{HashSet, VecDeque};

use protocol::{name::JobId, time::Millis};

/// The jobs that were read lately.
#[derive(Default)]
pub(super) struct Seen {
    jobs: HashSet<JobId>,
    order: VecDeque<(JobId, Millis)>,
    /// Some of the jobs that were issued up to this moment are forgotten.
    pub(super) forgotten_ms: Millis,
}

impl Seen {
    /// How many jobs are remembered: that many take about 5 MB.
    const MOST: usize = 65_536;

    /// Adds a job. Returns whether it is new, as far as is remembered.
    pub(super) fn add(&mut self, job: JobId, issued_at_ms: Millis) -> bool {
        if !self.jobs.insert(job) {
            return false;
        }
        self.order.push_back((job, issued_at_ms));
        if self.order.len() > Self::MOST
            && let Some((oldest, issued_at_ms)) = self.order.pop_front()
        {
            self.jobs.remove(&oldest);
            self.forgotten_ms = self.forgotten_ms.max(issued_at_ms);
        }
        true
    }
}
