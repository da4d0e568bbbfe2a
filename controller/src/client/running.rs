//! The jobs that run now, for a reader that looks again and again: each look reads the jobs that have come, and those that
//! had not ended.

use std::collections::{BTreeSet, HashSet};

use protocol::{clock::millis, job::JobHeadline, keys::Keys, limits, name::JobId, outcome::State};
use redis::Cmd;

use super::{
    error::Error,
    fleet::Fleet,
    jobs::{RecentJob, states},
};

/// Jobs that are looked through in one look, and the most that are read in full.
const PAGE: usize = 500;

/// Which jobs have ended, as far as that is known.
#[derive(Debug, Default)]
pub struct Running {
    /// All jobs that were ever met.
    met: HashSet<JobId>,
    /// Those of them that were not looked at yet, the oldest first.
    unread: Vec<JobId>,
    /// Those that have not ended, or may yet be sent. Ids sort by time.
    open: BTreeSet<JobId>,
}

impl Running {
    /// How many older jobs were not looked at yet. Each look takes some of them.
    pub const fn unread(&self) -> usize {
        self.unread.len()
    }

    /// Takes note of these jobs, the newest first. Returns whether one of them was met before.
    fn meet(&mut self, newest_first: &[JobId]) -> bool {
        let new: Vec<_> = newest_first.iter().rev().filter(|id| self.met.insert(**id)).copied().collect();
        let is_old = new.len() < newest_first.len();
        self.unread.extend(new);
        is_old
    }
}

impl Fleet {
    /// The jobs that run now, the newest first. A screen that shows more than five hundred shows old states of the rest.
    pub async fn running_jobs(&mut self, running: &mut Running) -> Result<Vec<RecentJob>, Error> {
        // A reader that runs for long forgets what it has met before this takes much memory.
        if running.met.len() > 10 * limits::JOBS {
            *running = Running::default();
        }
        let newest = self.job_ids(PAGE).await?;
        if !running.meet(&newest) && newest.len() == PAGE {
            running.meet(&self.job_ids(limits::JOBS).await?);
        }
        let page = running.unread.split_off(running.unread.len().saturating_sub(PAGE));
        let open = match self.possibly_open(&page).await {
            Ok(open) => open,
            Err(error) => {
                running.unread.extend(page);
                return Err(error);
            }
        };
        running.open.extend(open);

        let newest: Vec<_> = running.open.iter().rev().take(PAGE).copied().collect();
        let mut jobs = self.read_jobs(&newest).await?;
        let is_open = |job: &RecentJob| job.is_running() || job.proposal.is_some();
        let still: HashSet<_> = jobs.iter().filter(|job| is_open(job)).map(|job| job.id).collect();
        running.open.retain(|id| still.contains(id) || !newest.contains(id));
        jobs.retain(RecentJob::is_running);
        Ok(jobs)
    }

    /// Those of these jobs that may not have ended. What has ended by Redis' own word is not read in full.
    async fn possibly_open(&mut self, ids: &[JobId]) -> Result<Vec<JobId>, Error> {
        let ask =
            |keys: &Keys, &id: &JobId| [Cmd::hmget(keys.job(id), &JobHeadline::FIELDS), Cmd::hvals(keys.job_hosts(id))];
        let now = self.now();
        // A worker may have taken a command in time that it could not say so.
        let taken = millis(limits::QUEUE_MAX.saturating_add(limits::TIMEOUT_DEFAULT));
        let read = |&id: &JobId, (headline, published): (Vec<Option<String>>, Vec<Option<String>>), _: Option<_>| {
            let headline = JobHeadline::from_values(&headline)?;
            let is_young = now < headline.start_by_ms.saturating_add(taken);
            let states = states(&headline, &published, now);
            let is_open = states.keys().any(|state| !state.is_terminal());
            let is_silent = is_young && states.contains_key(&State::Expired);
            (is_open || is_silent || headline.proposed.is_some()).then_some(id)
        };
        Ok(self.query_each(ids, ask, read).await?.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_is_looked_at_once_and_the_newest_first() {
        let mut running = Running::default();
        let [first, second, third] = [JobId::new(), JobId::new(), JobId::new()];
        assert!(!running.meet(&[second, first]));
        assert_eq!(running.unread, [first, second]);
        assert!(running.meet(&[third, second, first]));
        assert_eq!(running.unread, [first, second, third]);
        assert_eq!(running.unread(), 3);
    }
}
