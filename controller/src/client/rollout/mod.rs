//! Rolling runs: a request to many hosts, sent to some at a time. See [`protocol::rollout`].
//!
//! One `ctl` drives a run. It claims each wave in Redis before the wave's hosts are sent anything. Whoever resumes the run
//! closes it first, so that its driver, should it still live, begins no further wave; then looks at all waves that were
//! claimed, and goes on in a run of its own with the hosts that did not succeed. The id of that run follows from the prior
//! one's: of several who resume a run at once, one begins it.

mod budget;
mod chain;
mod course;
mod standing;

use std::sync::Arc;

use protocol::{
    clock::millis,
    name::{HostName, JobId},
    rollout::{Plan, RolloutRecord, Wave, Waves, next},
    targets::Targets,
    time::Millis,
    trust::sshsig,
};
use redis::{Pipeline, Value};

pub use self::{
    budget::{Budget, BudgetError},
    chain::{Chain, Run},
    course::{Course, Outlook},
    standing::{Standing, Standings},
};
use super::{
    error::Error,
    events::Event,
    fleet::{Fleet, RawHash, fields},
    jobs::{Job, Request},
    signer::Signer,
};

/// A rolling run.
#[derive(Clone, Debug)]
pub struct Rollout {
    record: Arc<RolloutRecord>,
}

/// Where a rolling run comes from.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// From nowhere: its id is new.
    New,
    /// It goes on where this run, or this job, has ended.
    Resumes(JobId),
    /// It is a part of something greater, and this is its id.
    Part(JobId),
}

impl Rollout {
    /// Its id.
    pub fn id(&self) -> JobId {
        self.record.id()
    }

    /// What runs, and where.
    pub fn plan(&self) -> &Plan {
        &self.record.plan
    }

    /// All of its hosts.
    pub fn targets(&self) -> &Targets {
        &self.record.targets
    }

    /// The waves that were begun, in order.
    pub fn waves(&self) -> impl ExactSizeIterator<Item = &Wave> {
        self.record.waves.values()
    }

    /// How it has ended, where it has.
    pub fn ended(&self) -> Option<&str> {
        self.record.ended.as_deref()
    }

    /// When the `ctl` that drives it was last alive.
    pub fn seen_ms(&self) -> Option<Millis> {
        self.record.seen_ms
    }

    /// The plan's bytes, and its signature.
    pub fn signed(&self) -> (&[u8], &[u8]) {
        let signed = &self.record.signed;
        (signed.bytes.as_slice(), signed.signature.as_slice())
    }

    /// Whether this key has signed the plan.
    pub fn is_signed_by(&self, signer: &Signer) -> bool {
        signer.has_signed(sshsig::ROLLOUT, self.signed())
    }
}

impl Job {
    /// Whether this key has signed the job.
    pub fn is_signed_by(&self, signer: &Signer) -> bool {
        signer.has_signed(sshsig::JOB, (&self.record.signed.bytes, &self.record.signed.signature))
    }

    /// The rolling run of which it is a wave. Nobody vouches for this.
    pub const fn rollout(&self) -> Option<JobId> {
        self.record.rollout
    }
}

impl Request {
    /// The same for these hosts.
    #[must_use]
    pub fn to(&self, hosts: impl IntoIterator<Item = HostName>) -> Self {
        Self { targets: Targets::new(hosts), ..self.clone() }
    }
}

impl Fleet {
    /// Makes a rolling run of the request, signs its plan and records it. Nothing is sent.
    ///
    /// # Errors
    /// The request is too large, the key does not sign, or [`Error::Begun`].
    pub async fn begin_rollout(
        &mut self,
        request: &Request,
        waves: Waves,
        origin: Origin,
        signer: &Signer,
    ) -> Result<Rollout, Error> {
        if request.targets.is_empty() {
            return Err(Error::NoTargets);
        }
        let now = self.signing_moment().await?;
        let salt = JobId::salt();
        let (rollout, from) = match origin {
            Origin::New => (JobId::derive(&request.operator, now, &salt), None),
            Origin::Resumes(prior) => (next(prior), Some(prior)),
            Origin::Part(id) => (id, None),
        };
        let plan = Plan {
            rollout,
            salt,
            from,
            action: request.action.clone(),
            arguments: request.arguments.clone(),
            secrets: request.secrets.keys().cloned().collect(),
            operator: request.operator.clone(),
            issued_at_ms: now,
            start_by_ms: millis(request.start_by),
            timeout_ms: millis(request.timeout),
            retention_ms: millis(request.retention),
            keep_output: request.keep_output,
            targets: request.targets.root(),
            namespace: self.namespace.clone(),
            waves,
        };
        let mut record = RolloutRecord::unsigned(plan, request.targets.clone());
        record.signed.signature = signer.sign(sshsig::ROLLOUT, &record.signed.bytes).await?;
        let begin = record.begin(self.keys(), now);
        if self.ask_rollout(begin).await? == 0 {
            // A lost reply may have been that of this very run.
            let found = self.rollout(record.id()).await?;
            let (ours, theirs) = (&record.signed, &found.record.signed);
            if (&ours.bytes, &ours.signature) != (&theirs.bytes, &theirs.signature) {
                return Err(Error::Begun(record.id()));
            }
        }
        let mut index = redis::pipe();
        index.add_command(record.write_index(self.keys()));
        self.write_whole(index).await?;
        Ok(Rollout { record: Arc::new(record) })
    }

    /// Makes a job of the run's next wave, signs it and claims it. It is to be sent with [`Self::send_wave`].
    ///
    /// # Errors
    /// [`Error::RolloutClosed`]: somebody else goes on with the run. [`Error::UnknownJob`]: Redis has lost it. Nothing was
    /// sent.
    pub async fn begin_wave(
        &mut self,
        rollout: &mut Rollout,
        request: Request,
        signer: &Signer,
        report: impl FnMut(Event),
    ) -> Result<Job, Error> {
        let mut job = self.signed_job(request, signer, report).await?;
        job.record.rollout = Some(rollout.id());
        // The job can be found before its claim is: whoever resumes the run sends what this process could not.
        self.write_whole(job.record.write(self.keys())).await?;
        if !job.sealed_keys.is_empty() {
            self.write_whole(job.record.write_sealed_keys(self.keys(), &job.sealed_keys)).await?;
        }

        let number = rollout.record.waves.keys().next_back().map_or(1, |last| last + 1);
        let wave = Wave { job: job.id(), hosts: job.targets().hosts().cloned().collect() };
        self.claim(&rollout.record, number, &wave).await?;
        Arc::make_mut(&mut rollout.record).waves.insert(number, wave);
        job.claim = Some(Arc::clone(&rollout.record));
        Ok(job)
    }

    /// Sends the job of a wave that was claimed, as [`Self::dispatch`] does.
    ///
    /// # Errors
    /// As of `dispatch`.
    pub async fn send_wave(&mut self, job: Job, report: impl FnMut(Event)) -> Result<Job, Error> {
        self.send_out(job, report).await
    }

    /// Says that the driver of the run lives.
    pub async fn beat(&mut self, rollout: &Rollout) -> Result<(), Error> {
        // By Redis' clock, as all others compare with that.
        self.query_with_time::<()>(&redis::pipe()).await?;
        let beat = rollout.record.beat(self.keys(), self.now());
        self.query::<(i64,)>(redis::pipe().add_command(beat)).await.map(drop)
    }

    /// Records how the run has ended.
    ///
    /// # Errors
    /// [`Error::RolloutClosed`]: it was not its driver's any more. [`Error::UnknownJob`]: Redis has lost it.
    pub async fn end_rollout(&mut self, rollout: &Rollout, how: &str) -> Result<(), Error> {
        let end = rollout.record.end(self.keys(), how);
        self.add_to_rollout(&rollout.record, end).await
    }

    /// The run of that id.
    ///
    /// # Errors
    /// [`Error::UnknownJob`], or its record cannot be read.
    pub async fn rollout(&mut self, id: JobId) -> Result<Rollout, Error> {
        let (hash,): (RawHash,) = self.query_with_time(redis::pipe().hgetall(self.keys().job_rollout(id))).await?;
        if hash.is_empty() {
            return Err(Error::UnknownJob(id.to_string()));
        }
        let record = RolloutRecord::from_fields(fields(hash), id);
        let record = record.map_err(|error| Error::DamagedRollout(id, Box::new(error)))?;
        if record.plan.namespace != self.namespace {
            let (theirs, ours) = (record.plan.namespace, self.namespace.clone());
            return Err(Error::ForeignJob { job: id, theirs, ours });
        }
        Ok(Rollout { record: Arc::new(record) })
    }

    /// The run of that id, if there is one.
    ///
    /// # Errors
    /// Its record cannot be read.
    pub async fn rollout_if_any(&mut self, id: JobId) -> Result<Option<Rollout>, Error> {
        match self.rollout(id).await {
            Ok(rollout) => Ok(Some(rollout)),
            Err(Error::UnknownJob(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps whoever drives the run from beginning another wave, and reads the run as it is now.
    ///
    /// # Errors
    /// As of [`Self::rollout`], and [`Error::Replaced`].
    pub async fn close_rollout(&mut self, rollout: &Rollout, operator: &str) -> Result<Rollout, Error> {
        let close = rollout.record.close(self.keys(), operator);
        self.ask_rollout(close).await?;
        let closed = self.rollout(rollout.id()).await?;
        // What was looked at, and maybe agreed to, is what is gone on with.
        if closed.signed() == rollout.signed() { Ok(closed) } else { Err(Error::Replaced(rollout.id())) }
    }

    /// Waits until Redis replies, as long as that may pass. Returns whether it was away.
    ///
    /// # Errors
    /// It is away for too long.
    pub async fn ready(&mut self) -> Result<bool, Error> {
        match self.query_with_time::<()>(&redis::pipe()).await {
            Err(error) if error.is_transient() => {
                let mut time = redis::pipe();
                time.cmd("TIME");
                self.persist::<Vec<Value>>(&time).await?;
                self.query_with_time::<()>(&redis::pipe()).await.map(|()| true)
            }
            replied => replied.map(|()| false),
        }
    }

    /// Sends writes on one key as one transaction.
    async fn write_whole(&mut self, mut writes: Pipeline) -> Result<(), Error> {
        self.persist::<Vec<Value>>(writes.atomic()).await.map(drop)
    }
}
