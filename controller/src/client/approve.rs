//! The two-person rule: a signed job is kept and not sent, others add their signatures over the same bytes, and whoever
//! completes the number sends it.

use std::collections::HashMap;

use protocol::{
    approval::{Approval, Approvals},
    job::JobRecord,
    keys::Keys,
    name::JobId,
    time::Millis,
    trust::sshsig::{self, Signature},
};
use redis::{Cmd, Value, from_redis_value};

use super::{
    error::Error,
    events::Event,
    fleet::{Fleet, RawHash, fields},
    jobs::{Job, RecentJob, Request},
    proposal::{Proposal, ProposalError, check},
    signer::Signer,
};

/// What an approval has led to.
#[derive(Debug)]
pub enum Approved {
    /// More are needed.
    Waits(Proposal),
    /// It was the last one, and the job has been sent.
    Sent(Box<Job>),
}

impl Job {
    /// How far its proposal has come; none where the job was sent or withdrawn, or must not start any more.
    pub fn proposal(&self, now: Millis) -> Option<Proposal> {
        let needed = self.record.proposed.filter(|_| now <= self.manifest().start_by_ms)?;
        Some(Proposal { signed: 1 + self.record.approvals.0.len(), needed })
    }

    /// Those who have approved it.
    pub const fn approvals(&self) -> &Approvals {
        &self.record.approvals
    }

    /// The fingerprint of the key with which its operator signed it.
    pub fn requester_key(&self) -> Option<String> {
        Some(Signature::from_bytes(&self.record.signed.signature).ok()?.signer().plain().fingerprint())
    }
}

impl Fleet {
    /// Signs a job of which `needed` must sign, and keeps it. Nothing is sent.
    ///
    /// # Errors
    /// It is too large, or its secrets cannot be sealed to its hosts.
    pub async fn propose(
        &mut self,
        request: Request,
        needed: usize,
        signer: &Signer,
        report: impl FnMut(Event),
    ) -> Result<Job, Error> {
        let mut job = self.signed_job(request, signer, report).await?;
        job.record.proposed = Some(needed);
        let mut transactions = vec![job.record.write(self.keys()), job.record.write_index(self.keys())];
        if !job.sealed_keys.is_empty() {
            transactions.push(job.record.write_sealed_keys(self.keys(), &job.sealed_keys));
        }
        self.transact(&transactions).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(job)
    }

    /// Whether this principal could approve the job; with a signature also, whether its key could.
    ///
    /// # Errors
    /// Why not.
    pub fn check_approval(&self, job: &Job, principal: &str, signature: Option<&Signature>) -> Result<(), Error> {
        let failed = |error| Error::Proposal(job.id(), error);
        if job.record.proposed.is_none() {
            return Err(failed(ProposalError::Over));
        }
        if job.proposal(self.now()).is_none() {
            return Err(failed(ProposalError::Late));
        }
        check(&job.record, principal, signature).map_err(failed)
    }

    /// Approves a proposal as `principal`: signs the manifest's bytes as they are kept, and sends the job if enough have
    /// signed it. Sending goes on as [`Self::dispatch`] does.
    ///
    /// # Errors
    /// It cannot be approved, or as of `dispatch`.
    pub async fn approve(
        &mut self,
        job: &Job,
        principal: &str,
        signer: &Signer,
        report: impl FnMut(Event),
    ) -> Result<Approved, Error> {
        self.signing_moment().await?;
        self.check_approval(job, principal, None)?;
        let signature = signer.sign(sshsig::JOB, &job.record.signed.bytes).await?;
        self.check_approval(job, principal, Signature::from_bytes(&signature).ok().as_ref())?;
        let approval = Approval { principal: principal.to_owned(), signature };
        let replies = self.transact(&[job.record.approve(self.keys(), &approval)]).await?;
        let replies: Vec<Vec<Value>> = replies.into_iter().collect::<Result<_, _>>()?;
        let hash: RawHash = replies
            .into_iter()
            .flatten()
            .next_back()
            .and_then(|reply| from_redis_value(reply).ok())
            .unwrap_or_default();

        let id = job.id();
        let record = JobRecord::from_fields(fields(hash), id).map_err(|error| Error::DamagedJob(id, error))?;
        // Only the bytes that were shown and signed are sent. Another record may stand in its place by now.
        if record.signed.bytes != job.record.signed.bytes {
            return Err(Error::Proposal(id, ProposalError::Replaced));
        }
        let mut job = Job::of_record(record, job.sealed_keys.clone());
        let over = || Error::Proposal(id, ProposalError::Over);
        let proposal = job.proposal(self.now()).ok_or_else(over)?;
        if proposal.signed < proposal.needed {
            return Ok(Approved::Waits(proposal));
        }
        // Whoever ends the proposal sends the job. If that fails, `job wait` sends what is missing.
        let (is_mine,): (bool,) = self.query(redis::pipe().add_command(job.record.end_proposal(self.keys()))).await?;
        if !is_mine {
            return Err(over());
        }
        job.record.proposed = None;
        Ok(Approved::Sent(Box::new(self.send_out(job, report).await?)))
    }

    /// Withdraws the job's proposal, if it is one: nobody completes it any more.
    pub(super) async fn withdraw(&mut self, job: &Job) -> Result<(), Error> {
        if job.record.proposed.is_none() {
            return Ok(());
        }
        self.query(redis::pipe().add_command(job.record.end_proposal(self.keys())).ignore()).await
    }

    /// Reads how far the proposals among these jobs have come. What was not sent has no states.
    pub(super) async fn count_approvals(&mut self, jobs: &mut [RecentJob]) -> Result<(), Error> {
        let now = self.now();
        let is_proposed = |job: &&mut RecentJob| {
            job.headline.as_ref().is_some_and(|headline| headline.proposed.is_some() && now <= headline.start_by_ms)
        };
        let mut jobs: Vec<_> = jobs.iter_mut().filter(is_proposed).collect();
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let ask = |keys: &Keys, id: &JobId| [Cmd::hgetall(keys.job(*id))];
        let read = |id: &JobId, (hash,): (RawHash,), _: Option<_>| {
            Job::of_record(JobRecord::from_fields(fields(hash), *id).ok()?, HashMap::new()).proposal(now)
        };
        let proposals = self.query_each(&ids, ask, read).await?;
        for (job, proposal) in jobs.iter_mut().zip(proposals) {
            job.proposal = proposal;
            job.states.clear();
        }
        Ok(())
    }
}
