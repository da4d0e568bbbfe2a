//! A run, and the runs that have gone on where it ended.

use std::time::Duration;

use protocol::{
    action::Arguments,
    keys::Keys,
    limits,
    name::{HostName, JobId},
    rollout::{Waves, next},
    time::Millis,
};
use redis::Cmd;

use super::Rollout;
use crate::client::{
    error::{Error, WrongType},
    fleet::Fleet,
    jobs::{Job, PAGE, Request},
    signer::Signer,
};

/// What can be gone on with.
#[derive(Clone, Debug)]
pub enum Run {
    /// A rolling run.
    Rollout(Box<Rollout>),
    /// A job that was sent to all of its hosts at once.
    Job(Box<Job>),
}

impl Run {
    /// Its id.
    pub fn id(&self) -> JobId {
        match self {
            Self::Rollout(rollout) => rollout.id(),
            Self::Job(job) => job.id(),
        }
    }

    /// Its hosts.
    pub fn hosts(&self) -> Vec<HostName> {
        match self {
            Self::Rollout(rollout) => rollout.targets().hosts().cloned().collect(),
            Self::Job(job) => job.targets().hosts().cloned().collect(),
        }
    }

    /// What was asked for, without its secrets.
    pub fn request(&self) -> Request {
        match self {
            Self::Rollout(rollout) => {
                let plan = rollout.plan();
                Request {
                    action: plan.action.clone(),
                    arguments: plan.arguments.clone(),
                    secrets: Arguments::new(),
                    targets: rollout.targets().clone(),
                    timeout: Duration::from_millis(plan.timeout_ms),
                    start_by: Duration::from_millis(plan.start_by_ms),
                    retention: Duration::from_millis(plan.retention_ms),
                    keep_output: plan.keep_output,
                    operator: plan.operator.clone(),
                    trace: None,
                }
            }
            Self::Job(job) => {
                let manifest = job.manifest();
                let start_by_ms = manifest.start_by_ms.saturating_sub(manifest.issued_at_ms);
                Request {
                    action: manifest.action.clone(),
                    arguments: manifest.arguments.clone(),
                    secrets: Arguments::new(),
                    targets: job.targets().clone(),
                    timeout: Duration::from_millis(manifest.timeout_ms),
                    start_by: Duration::from_millis(start_by_ms),
                    retention: Duration::from_millis(manifest.retention_ms),
                    keep_output: manifest.keep_output,
                    operator: manifest.operator.clone(),
                    trace: None,
                }
            }
        }
    }

    /// The names of its secret arguments.
    pub fn secret_names(&self) -> Vec<String> {
        match self {
            Self::Rollout(rollout) => rollout.plan().secrets.clone(),
            Self::Job(job) => job.manifest().secret_names().cloned().collect(),
        }
    }

    /// When it was asked for.
    pub fn issued_at_ms(&self) -> Millis {
        match self {
            Self::Rollout(rollout) => rollout.plan().issued_at_ms,
            Self::Job(job) => job.manifest().issued_at_ms,
        }
    }

    /// How it goes from host to host; none: to all at once.
    pub fn waves(&self) -> Option<&Waves> {
        match self {
            Self::Rollout(rollout) => Some(&rollout.plan().waves),
            Self::Job(_) => None,
        }
    }

    /// Whether this key has signed it.
    pub fn is_signed_by(&self, signer: &Signer) -> bool {
        match self {
            Self::Rollout(rollout) => rollout.is_signed_by(signer),
            Self::Job(job) => job.is_signed_by(signer),
        }
    }

    fn command(&self) -> (&str, &Arguments) {
        match self {
            Self::Rollout(rollout) => (&rollout.plan().action, &rollout.plan().arguments),
            Self::Job(job) => (&job.manifest().action, &job.manifest().arguments),
        }
    }
}

/// A run with those that have gone on with it, the oldest first.
#[derive(Clone, Debug)]
pub struct Chain(Vec<Run>);

impl Chain {
    /// The first one: its hosts are those of all.
    pub fn first(&self) -> &Run {
        &self.0[0]
    }

    /// The newest one.
    pub fn newest(&self) -> &Run {
        &self.0[self.0.len() - 1]
    }

    /// All of them.
    pub fn runs(&self) -> &[Run] {
        &self.0
    }

    /// Replaces the newest one, as it was read anew.
    pub fn renew(&mut self, rollout: Rollout) {
        if let Some(newest) = self.0.last_mut() {
            *newest = Run::Rollout(Box::new(rollout));
        }
    }
}

impl Fleet {
    /// The run that is meant: by its id, or that of one of its waves, or the beginning of one.
    ///
    /// # Errors
    /// There is none, there are several, or its record cannot be read.
    pub async fn find_run(&mut self, typed: &str) -> Result<Run, Error> {
        let id = self.find_id(typed).await?;
        if let Some(rollout) = self.rollout_if_any(id).await? {
            return Ok(Run::Rollout(Box::new(rollout)));
        }
        let job = self.find_job(&id.to_string()).await?;
        self.run_of(job).await
    }

    /// The run of which this job is a wave, or the job itself.
    ///
    /// # Errors
    /// [`Error::LostRollout`], or the run's record cannot be read.
    pub async fn run_of(&mut self, job: Job) -> Result<Run, Error> {
        let Some(id) = job.rollout() else { return Ok(Run::Job(Box::new(job))) };
        match self.rollout_if_any(id).await? {
            // Nobody vouches for what the job says of it.
            Some(rollout) if rollout.waves().any(|wave| wave.job == job.id()) => Ok(Run::Rollout(Box::new(rollout))),
            Some(_) | None => Err(Error::LostRollout { job: job.id(), rollout: id }),
        }
    }

    /// The newest run of this operator.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn last_run(&mut self, operator: &str) -> Result<Run, Error> {
        let ids = self.job_ids(limits::JOBS).await?;
        for page in ids.chunks(PAGE) {
            for id in self.may_be_of(page, operator).await? {
                match self.rollout_if_any(id).await {
                    Ok(Some(rollout)) if rollout.plan().operator == operator => {
                        return Ok(Run::Rollout(Box::new(rollout)));
                    }
                    Ok(None) => {}
                    Ok(Some(_)) => continue,
                    Err(error) if error.is_of_record() => continue,
                    Err(error) => return Err(error),
                }
                match self.find_job(&id.to_string()).await {
                    Ok(job) if job.manifest().operator == operator => return self.run_of(job).await,
                    Ok(_) => {}
                    Err(error) if error.is_of_record() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Err(Error::NoJobs(operator.to_owned()))
    }

    /// Those of these ids that may be of a rolling run, or of a job of this operator.
    async fn may_be_of(&mut self, ids: &[JobId], operator: &str) -> Result<Vec<JobId>, Error> {
        let ask = |keys: &Keys, &id: &JobId| [Cmd::hget(keys.job(id), "operator"), Cmd::exists(keys.job_rollout(id))];
        let read = |&id: &JobId, (by, is_rollout): (Option<String>, bool), _: Option<WrongType>| {
            (is_rollout || by.as_deref() == Some(operator)).then_some(id)
        };
        Ok(self.query_each(ids, ask, read).await?.into_iter().flatten().collect())
    }

    /// The run with those before it, whose remaining hosts are its own, and those that have gone on with it.
    ///
    /// # Errors
    /// One of them is lost, or was replaced by something else.
    pub async fn chain(&mut self, run: Run) -> Result<Chain, Error> {
        let mut runs = vec![run];
        while let Run::Rollout(first) = &runs[0]
            && let Some(prior) = first.plan().from
        {
            if first.id() != next(prior) {
                return Err(Error::Replaced(first.id()));
            }
            let prior = match self.rollout_if_any(prior).await? {
                Some(rollout) => Run::Rollout(Box::new(rollout)),
                None => Run::Job(Box::new(self.find_job(&prior.to_string()).await?)),
            };
            runs.insert(0, prior);
        }
        while let Some(later) = self.rollout_if_any(next(runs[runs.len() - 1].id())).await? {
            runs.push(Run::Rollout(Box::new(later)));
        }

        // Each is signed, and so is its place. That they belong together is not.
        let hosts = runs[0].hosts();
        let belongs = |run: &Run| {
            run.command() == runs[0].command() && run.hosts().iter().all(|host| hosts.binary_search(host).is_ok())
        };
        match runs.iter().find(|run| !belongs(run)) {
            Some(stranger) => Err(Error::Replaced(stranger.id())),
            None => Ok(Chain(runs)),
        }
    }
}
