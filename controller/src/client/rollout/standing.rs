//! How a run that has ended, or was left, stands on each of its hosts: which of them are still to be reached.

use std::collections::BTreeMap;

use protocol::{name::HostName, outcome::State};

use super::Rollout;
use crate::client::{
    error::Error,
    events::{Event, HostResult},
    fleet::Fleet,
    follow::Follower,
    jobs::Job,
};

/// How a run stands on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Standing {
    /// It has succeeded there.
    Succeeded,
    /// It ended there without success, and that is final.
    Failed,
    /// It was not begun there in time, and never will be.
    Expired,
    /// It was sent nothing.
    Unreached,
    /// Its command may still run, or may have run without anybody knowing how it ended.
    Open,
}

/// A host on which the run is not known to have ended.
#[derive(Clone, Debug)]
pub struct Left {
    /// The host.
    pub host: HostName,
    /// Why that is so.
    pub reason: String,
}

/// How a run stands.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    /// By host.
    pub hosts: BTreeMap<HostName, Standing>,
    /// Those that stand at [`Standing::Open`], with the reason.
    pub open: Vec<Left>,
}

impl Standings {
    /// The hosts that stand so, sorted.
    pub fn at(&self, standing: Standing) -> impl Iterator<Item = &HostName> {
        self.hosts.iter().filter(move |(_, at)| **at == standing).map(|(host, _)| host)
    }

    /// Adds what a job has come to on its hosts.
    fn add(&mut self, results: impl IntoIterator<Item = HostResult>) {
        for result in results {
            let standing = standing(&result);
            if standing == Standing::Open {
                let reason = match result.damage {
                    Some(damage) => damage.to_string(),
                    None => format!("its command is {} and may still run", result.state),
                };
                self.open.push(Left { host: result.host.clone(), reason });
            }
            self.hosts.insert(result.host, standing);
        }
    }
}

fn standing(result: &HostResult) -> Standing {
    match result.state {
        // It may have run: whose word that it failed is, is not known.
        _ if result.damage.is_some() => Standing::Open,
        State::Succeeded => Standing::Succeeded,
        State::Failed | State::TimedOut | State::Cancelled | State::Interrupted | State::Rejected => Standing::Failed,
        State::Expired => Standing::Expired,
        State::Queued | State::Delivered | State::Running | State::Unverified => Standing::Open,
    }
}

impl Fleet {
    /// How a run stands that nobody drives any more ([`Fleet::close_rollout`]). What is under way is awaited, and what was
    /// claimed and not sent is sent, except on hosts that are offline.
    ///
    /// # Errors
    /// An error of Redis that does not pass.
    pub async fn standings(
        &mut self,
        rollout: &Rollout,
        mut report: impl FnMut(&Job, Event, &Self),
    ) -> Result<Standings, Error> {
        let unreached = rollout.targets().hosts().map(|host| (host.clone(), Standing::Unreached));
        let mut standings = Standings { hosts: unreached.collect(), open: Vec::new() };
        for wave in rollout.waves() {
            match self.find_job(&wave.job.to_string()).await {
                Ok(job) => {
                    let results = self.ends(&job, &mut report).await?;
                    standings.add(results.into_iter().filter(|result| wave.hosts.contains(&result.host)));
                }
                Err(Error::UnknownJob(_)) => {
                    for host in &wave.hosts {
                        let reason = "Redis has lost the job that it was sent".to_owned();
                        standings.open.push(Left { host: host.clone(), reason });
                        standings.hosts.insert(host.clone(), Standing::Open);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(standings)
    }

    /// How a job stands. What is under way is awaited, except on hosts that are offline.
    ///
    /// # Errors
    /// An error of Redis that does not pass.
    pub async fn standings_of_job(
        &mut self,
        job: &Job,
        mut report: impl FnMut(&Job, Event, &Self),
    ) -> Result<Standings, Error> {
        let mut standings = Standings::default();
        standings.add(self.ends(job, &mut report).await?);
        Ok(standings)
    }

    async fn ends(&mut self, job: &Job, report: &mut impl FnMut(&Job, Event, &Self)) -> Result<Vec<HostResult>, Error> {
        let mut follower = Follower::of_old(job);
        follower.leave_offline();
        while let Some(event) = follower.next(self).await? {
            report(job, event, self);
        }
        Ok(follower.results().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_final_can_be_tried_again() {
        let at = |state| standing(&HostResult { state, ..HostResult::new("web1".parse().unwrap()) });
        assert_eq!(at(State::Succeeded), Standing::Succeeded);
        assert_eq!(at(State::Interrupted), Standing::Failed);
        assert_eq!(at(State::Expired), Standing::Expired);
        for state in [State::Queued, State::Delivered, State::Running, State::Unverified] {
            assert_eq!(at(state), Standing::Open, "{state}");
        }
    }
}
