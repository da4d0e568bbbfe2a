//! How a run that nobody drives any more stands on each of its hosts: which of them are still to be reached.

use std::collections::{BTreeMap, HashSet};

use protocol::{
    name::HostName,
    outcome::State,
    rollout::{Plan, Wave},
    trust::sshsig::Signature,
};

use super::{Chain, Rollout, Run};
use crate::client::{
    error::Error,
    events::{Event, HostResult},
    fleet::Fleet,
    follow::Follower,
    jobs::Job,
    targeting::Unknown,
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

/// How a run stands.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    /// By host.
    pub hosts: BTreeMap<HostName, Standing>,
    /// How it went on those that were reached.
    pub results: BTreeMap<HostName, HostResult>,
    /// Why those stand at [`Standing::Open`] that do.
    open: BTreeMap<HostName, String>,
}

impl Standings {
    /// The hosts that stand so, sorted.
    pub fn at(&self, standing: Standing) -> impl Iterator<Item = &HostName> {
        self.hosts.iter().filter(move |(_, at)| **at == standing).map(|(host, _)| host)
    }

    /// Those that stand at [`Standing::Open`], with the reason.
    pub fn open(&self) -> Vec<Unknown> {
        let reason = |host: &HostName| self.open.get(host).cloned().unwrap_or_default();
        self.at(Standing::Open).map(|host| Unknown { host: host.clone(), reason: reason(host) }).collect()
    }

    /// Records what a command has come to.
    fn add(&mut self, result: HostResult) {
        let standing = standing(&result);
        if standing == Standing::Open {
            let reason = match &result.damage {
                Some(damage) => damage.to_string(),
                None => format!("its command is {} and may still run", result.state),
            };
            self.open.insert(result.host.clone(), reason);
        }
        self.hosts.insert(result.host.clone(), standing);
        self.results.insert(result.host.clone(), result);
    }

    /// Records that nobody knows what a command has come to.
    fn lose(&mut self, host: &HostName, reason: &str) {
        self.hosts.insert(host.clone(), Standing::Open);
        self.results.insert(host.clone(), HostResult::new(host.clone()));
        self.open.insert(host.clone(), reason.to_owned());
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

/// Whether a job can be the wave of this run: nobody vouches for what the run's record says of its waves.
fn is_wave(job: &Job, wave: &Wave, plan: &Plan, signature: &[u8]) -> bool {
    let manifest = job.manifest();
    let key = |signature: &[u8]| Some(Signature::from_bytes(signature).ok()?.signer().plain().fingerprint());
    let is_same = manifest.action == plan.action && manifest.arguments == plan.arguments;
    let is_theirs = manifest.operator == plan.operator && key(&job.signed().signature) == key(signature);
    let hosts: HashSet<_> = wave.hosts.iter().collect();
    let has_hosts = job.targets().len() == hosts.len() && job.targets().hosts().all(|host| hosts.contains(host));
    is_same && is_theirs && has_hosts && manifest.issued_at_ms >= plan.issued_at_ms
}

impl Fleet {
    /// How a run stands that nobody drives any more ([`Fleet::close_rollout`]), with all that have gone on with it. What is
    /// under way is awaited, and what was claimed and not sent is sent, except on hosts that are offline.
    ///
    /// # Errors
    /// An error of Redis that does not pass.
    pub async fn standings(
        &mut self,
        chain: &Chain,
        mut report: impl FnMut(&Job, Event, &Self),
    ) -> Result<Standings, Error> {
        let unreached = chain.first().hosts().into_iter().map(|host| (host, Standing::Unreached));
        let mut standings = Standings { hosts: unreached.collect(), ..Standings::default() };
        for run in chain.runs() {
            match run {
                Run::Job(job) => {
                    for result in self.ends(job, &mut report).await? {
                        standings.add(result);
                    }
                }
                Run::Rollout(rollout) => self.add_waves(rollout, &mut standings, &mut report).await?,
            }
        }
        Ok(standings)
    }

    async fn add_waves(
        &mut self,
        rollout: &Rollout,
        standings: &mut Standings,
        report: &mut impl FnMut(&Job, Event, &Self),
    ) -> Result<(), Error> {
        for wave in rollout.waves() {
            let lost = match self.find_job(&wave.job.to_string()).await {
                Ok(job) if is_wave(&job, wave, rollout.plan(), rollout.signed().1) => {
                    for result in self.ends(&job, report).await? {
                        standings.add(result);
                    }
                    continue;
                }
                Ok(_) => "the job that it was sent is not what the run says".to_owned(),
                Err(Error::UnknownJob(_)) => "Redis has lost the job that it was sent".to_owned(),
                Err(error @ (Error::DamagedJob(..) | Error::ForeignJob { .. } | Error::WrongType(_))) => {
                    error.to_string()
                }
                Err(error) => return Err(error),
            };
            wave.hosts.iter().for_each(|host| standings.lose(host, &lost));
        }
        Ok(())
    }

    /// What a job has come to. What is under way is awaited, except on hosts that are offline.
    async fn ends(&mut self, job: &Job, report: &mut impl FnMut(&Job, Event, &Self)) -> Result<Vec<HostResult>, Error> {
        let mut follower = Follower::of_old(job);
        follower.leave_silent();
        if job.rollout().is_some() {
            follower.redispatch_wave();
        }
        while let Some(event) = follower.next(self).await? {
            report(job, event, self);
        }
        // Where the states are lost, the results may not be.
        follower.look_for_results(self).await?;
        while let Some(event) = follower.take() {
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
