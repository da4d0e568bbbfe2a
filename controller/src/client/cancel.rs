//! Orders to cancel: a command that runs is ended, one that has not started never does.

use protocol::{
    command::Envelope,
    control::{CancelOrder, Control},
    limits,
    name::HostName,
    signed::Signed,
    targets::Targets,
    time::show_moment,
    trust::sshsig,
};

use super::{
    error::Error,
    events::HostResult,
    fleet::{CHUNK, Fleet},
    follow::Follower,
    hosts::Host,
    jobs::Job,
    signer::Signer,
};

/// The result of an order to cancel.
#[derive(Debug)]
pub struct Cancellation {
    /// Hosts on which the job has ended already. They were sent nothing.
    pub ended: Vec<HostResult>,
    /// Hosts that were sent the order and are online: they obey at once.
    pub online: Vec<HostName>,
    /// Hosts that were sent the order and are offline: they obey when they return.
    pub offline: Vec<HostName>,
}

impl Fleet {
    /// Orders the job's hosts, or only those in `hosts` unless it is empty, to cancel it. The order goes
    /// into their control streams, which are read even when every slot is busy. A proposal is withdrawn: hosts that
    /// have the order will not run it, whoever has signed it.
    ///
    /// # Errors
    /// One of `hosts` is no host of the job. After an error of Redis some hosts may have been sent the order.
    pub async fn cancel(
        &mut self,
        job: &Job,
        hosts: &[HostName],
        operator: &str,
        signer: &Signer,
    ) -> Result<Cancellation, Error> {
        if let Some(stranger) = hosts.iter().find(|host| job.targets().hosts().all(|target| target != *host)) {
            return Err(Error::NotATarget(stranger.clone(), job.id()));
        }
        // Before anything is changed.
        self.signing_moment().await?;
        if hosts.is_empty() {
            self.withdraw(job).await?;
        }
        let mut follower = Follower::of_old(job);
        follower.never_redispatch();
        follower.look(self).await?;
        let wanted = follower.results().filter(|result| hosts.is_empty() || hosts.contains(&result.host));
        // Where the result is not known to be the host's, the command may still run.
        let (ended, open): (Vec<_>, Vec<_>) = wanted.cloned().partition(|result| result.outcome.is_some());

        let open: Vec<_> = open.into_iter().map(|result| result.host).collect();
        self.send_order(job, &open, operator, signer).await?;
        // The record is for those who look. It comes second: what it says must be true.
        let _ = self.record_order(job, &open).await;
        let open = self.hosts(&open).await?;
        let now = self.now();
        let (online, offline): (Vec<_>, Vec<_>) = open.into_iter().partition(|host| host.is_online(now));
        let names = |hosts: Vec<Host>| hosts.into_iter().map(|host| host.name).collect();
        Ok(Cancellation { ended, online: names(online), offline: names(offline) })
    }

    async fn send_order(
        &mut self,
        job: &Job,
        hosts: &[HostName],
        operator: &str,
        signer: &Signer,
    ) -> Result<(), Error> {
        if hosts.is_empty() {
            return Ok(());
        }
        let targets = Targets::new(hosts.iter().cloned());
        let now = self.signing_moment().await?;
        let order = CancelOrder::new(job.manifest(), &job.record.signed, targets.root(), operator.to_owned(), now);
        let document = Signed::unsigned(&order);
        let signature = signer.sign(sshsig::JOB, &document.bytes).await?;
        let document = document.with_signature(signature);
        let orders = targets.proofs().map(|(host, proof)| {
            let envelope = Envelope { signed: document.clone(), proof };
            let mut pipeline = redis::pipe();
            pipeline.add_command(Control::Cancel(envelope).write(self.keys(), host));
            pipeline.cmd("EXPIRE").arg(self.keys().control(host)).arg(limits::HOST_RETENTION.as_secs());
            pipeline
        });
        let orders: Vec<_> = orders.collect();
        for chunk in orders.chunks(CHUNK) {
            self.transact(chunk).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        Ok(())
    }

    /// Records with the job which hosts were ordered to cancel it.
    async fn record_order(&mut self, job: &Job, hosts: &[HostName]) -> Result<(), Error> {
        let (record, cancels) = (self.keys().job(job.id()), self.keys().job_cancels(job.id()));
        let (ends,): (i64,) = self.query(redis::pipe().cmd("PEXPIRETIME").arg(record)).await?;
        if ends < 0 || hosts.is_empty() {
            return Ok(());
        }
        let moment = show_moment(self.now());
        let mut pipeline = redis::pipe();
        pipeline.cmd("HSET").arg(&cancels);
        for host in hosts {
            pipeline.arg(host.as_str()).arg(&moment);
        }
        // All keys of a job expire at one time.
        pipeline.cmd("PEXPIREAT").arg(&cancels).arg(ends);
        self.transact(&[pipeline]).await?.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
    }
}
