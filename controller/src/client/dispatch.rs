//! Dispatch: a request becomes a [`Job`], a job is sent into its hosts' inboxes, and commands that Redis has lost are
//! sent again.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use protocol::{connection::Backoff, limits, name::HostName, outcome::State, time::Millis};
use redis::Value;

use super::{
    error::{Error, WrongType},
    events::{Event, HostResult},
    fleet::{BLOCK, CHUNK, Fleet, text},
    inbox::{Found, Place},
    jobs::{Job, Request},
    signer::Signer,
    verdict,
};

/// How long a dispatch is tried again where its reply was lost, or Redis cannot take it for the moment.
pub(super) const DISPATCH_WITHIN: Duration = Duration::from_secs(30);

/// How often a job is sent again in all: a command that a worker drops again and again is not lost.
const REDISPATCHES: u32 = 20;

/// Bytes of entries that one look for lost commands reads: a job of many hosts, or with a large manifest, is looked
/// through in several looks.
const LOOK_BYTES: usize = 512 * 1024;

/// How far a job has come.
#[derive(Debug, Default)]
struct Sent {
    /// The stream entry of each host that has certainly been sent the command.
    entries: HashMap<HostName, String>,
    /// The inboxes that cannot take the command.
    damaged: HashMap<HostName, WrongType>,
    /// A reply was lost: more hosts may have been sent the command.
    unclear: bool,
    /// The job's record was written.
    recorded: bool,
}

impl Fleet {
    /// Makes a job of the request and sends it. Where the reply is lost, or the error is a transient one, it
    /// is sent again under the same id: a worker that got it before knows it. That is reported by
    /// [`Event::Retrying`].
    ///
    /// # Errors
    /// The request is too large, or [`Error::Dispatch`], which says how many hosts got it all the
    /// same.
    pub async fn dispatch(
        &mut self,
        request: Request,
        signer: &Signer,
        mut report: impl FnMut(Event),
    ) -> Result<Job, Error> {
        let job = self.signed_job(request, signer, &mut report).await?;
        self.send_out(job, report).await
    }

    /// Makes a job of the request, with its secrets sealed to its hosts, and signs it.
    pub(super) async fn signed_job(
        &mut self,
        request: Request,
        signer: &Signer,
        report: impl FnMut(Event),
    ) -> Result<Job, Error> {
        let mut sealing = Ok(Vec::new());
        if !request.secrets.is_empty() {
            sealing = self.sealing_keys(&request.targets.hosts().collect::<Vec<_>>()).await;
            self.take_notices().into_iter().for_each(report);
        }
        let now = self.signing_moment().await?;
        let mut job = Job::new(request, &sealing?, self.namespace.clone(), now)?;
        job.sign(signer).await?;
        Ok(job)
    }

    /// Sends a signed job to all of its hosts.
    pub(super) async fn send_out(&mut self, mut job: Job, mut report: impl FnMut(Event)) -> Result<Job, Error> {
        let everyone: Vec<HostName> = job.targets().hosts().cloned().collect();
        let mut sent = Sent::default();
        let begun = Instant::now();
        let mut backoff: Option<Backoff> = None;
        while let Err(error) = match &backoff {
            None => send(self, &job, &everyone, &mut sent).await,
            Some(_) => send_again(self, &job, &everyone, &mut sent).await,
        } {
            if !error.is_transient() || begun.elapsed() >= DISPATCH_WITHIN {
                return Err(Error::Dispatch {
                    job: job.id(),
                    hosts: job.targets().len(),
                    asked: sent.entries.len(),
                    unclear: sent.unclear,
                    recorded: sent.recorded,
                    source: Box::new(error),
                });
            }
            if backoff.is_none() {
                report(Event::Retrying(error));
            }
            tokio::time::sleep(backoff.get_or_insert(Backoff::new(BLOCK)).delay()).await;
            // A failover may have lost what was acknowledged before, so all is sent again. Where there is no
            // connection, the next attempt fails with the dead one.
            let _ = self.reconnect().await;
        }
        (job.entries, job.damaged) = (sent.entries, sent.damaged);
        Ok(job)
    }
}

/// Sends a job once more. A wave is claimed once more before that: Redis may have lost its claim, too.
async fn send_again(fleet: &mut Fleet, job: &Job, hosts: &[HostName], sent: &mut Sent) -> Result<(), Error> {
    if let Some(record) = &job.claim {
        fleet.claim_again(record).await?;
    }
    send(fleet, job, hosts, sent).await
}

/// Sends a job to some of its hosts: first its record, in the same round trip the first commands, then the
/// others. To send a job twice is harmless, as workers know it by its id. `sent` is kept up to date.
///
/// # Errors
/// The first error of Redis. No more commands are sent after the round trip in which it happened.
async fn send(fleet: &mut Fleet, job: &Job, hosts: &[HostName], sent: &mut Sent) -> Result<(), Error> {
    let (keys, now) = (fleet.keys().clone(), fleet.now());
    let wanted: HashSet<&HostName> = hosts.iter().collect();
    let mut commands = job.targets().proofs().filter(|(host, _)| wanted.contains(host));
    let mut transactions = vec![job.record.write(&keys), job.record.write_index(&keys)];
    loop {
        let commands: Vec<_> = commands.by_ref().take(CHUNK).collect();
        let sealed: Vec<_> =
            commands.iter().filter_map(|(host, _)| Some((*host, job.sealed_keys.get(*host)?))).collect();
        if !sealed.is_empty() {
            transactions.push(job.record.write_sealed_keys(&keys, sealed));
        }
        let of_job = transactions.len();
        let mut asked = Vec::with_capacity(commands.len());
        for (host, proof) in commands {
            let mut command = redis::pipe();
            command.add_command(job.record.write_command(&keys, host, proof, job.sealed_keys.get(host), now));
            // Of a host that is gone for good, nothing stays for ever.
            command.cmd("EXPIRE").arg(keys.commands(host)).arg(limits::HOST_RETENTION.as_secs());
            transactions.push(command);
            asked.push(host);
        }
        if transactions.is_empty() {
            return Ok(());
        }

        let mut replies = fleet.transact(&transactions).await.inspect_err(|_| sent.unclear = true)?;
        transactions.clear();
        let of_hosts = replies.split_off(of_job);
        sent.recorded |= replies.first().is_some_and(Result::is_ok);
        let mut failed = replies.into_iter().find_map(Result::err);
        for (host, reply) in asked.into_iter().zip(of_hosts) {
            match reply.as_deref() {
                Ok([Value::BulkString(id), ..]) => drop(sent.entries.insert(host.clone(), text(id))),
                // This host cannot be sent anything; the others can.
                Err(error) if error.is_wrong_type() => {
                    sent.damaged.insert(host.clone(), WrongType(keys.commands(host)));
                }
                _ => failed = failed.or(reply.err()),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
    }
}

/// Sends again what Redis has lost of a job: the whole job (FLUSHALL, a restart without persistence, a failover),
/// or a host's command that is neither in its inbox nor answered. A worker that had got it knows the id, and
/// reports as before.
#[derive(Debug)]
pub(super) struct Redispatch<'a> {
    job: &'a Job,
    sent: Sent,
    /// How often the job may still be sent again.
    remaining: u32,
    /// Since when the job is gone from Redis.
    pub(super) lost_since_ms: Option<Millis>,
    /// Hosts whose command was not in the inbox at the last look, though no state of it is published.
    missing: HashSet<HostName>,
    /// The host with which the next look begins.
    next: Option<HostName>,
    /// Where to look for a command whose entry is not known, once the look has begun.
    places: HashMap<HostName, Place>,
}

impl<'a> Redispatch<'a> {
    /// Nothing of `job` is lost.
    pub(super) fn new(job: &'a Job) -> Self {
        let sent = Sent { entries: job.entries.clone(), ..Sent::default() };
        let (missing, places) = (HashSet::new(), HashMap::new());
        // What was only proposed is not lost. A wave is sent by who has claimed it: others do not know whether it may be.
        let is_others = job.record.rollout.is_some() && job.claim.is_none();
        let remaining = if job.record.proposed.is_some() || is_others { 0 } else { REDISPATCHES };
        Self { job, sent, remaining, lost_since_ms: None, missing, next: None, places }
    }

    /// Lets [`Self::check`] send a wave again that this process has not claimed: its run was closed.
    pub(super) const fn permit(&mut self) {
        self.remaining = REDISPATCHES;
    }

    /// Makes [`Self::check`] send nothing again, whatever Redis has lost.
    pub(super) const fn forbid(&mut self) {
        self.remaining = 0;
    }

    /// Sends again what Redis has lost of the job. `exists`: the job's record is in Redis; `open`: the hosts that are
    /// awaited.
    pub(super) async fn check(
        &mut self,
        fleet: &mut Fleet,
        exists: bool,
        open: &[&HostResult],
        events: &mut VecDeque<Event>,
    ) -> Result<(), Error> {
        let now = fleet.now();
        if !exists {
            if self.lost_since_ms.is_none() {
                self.lost_since_ms = Some(now);
                events.push_back(Event::JobLost);
            }
            if !open.is_empty() && now < verdict::last_moment(self.job.manifest()) {
                let hosts: Vec<_> = open.iter().map(|result| result.host.clone()).collect();
                self.send(fleet, &hosts, events).await?;
            }
            return Ok(());
        }

        self.lost_since_ms = None;
        if now > self.job.manifest().start_by_ms || self.remaining == 0 {
            return Ok(());
        }
        let hosts = self.page(open);
        let absent = self.absent(fleet, hosts).await?;
        // A worker acknowledges after it has published, so the state may just have come: look once more.
        let lost: Vec<HostName> = absent.intersection(&self.missing).cloned().collect();
        self.missing = absent;
        if !lost.is_empty() {
            events.push_back(Event::CommandsLost { count: lost.len() });
            self.send(fleet, &lost, events).await?;
        }
        Ok(())
    }

    /// The hosts to look at now: those whose command was missing, and the next ones of all that have published no
    /// state, as many as a look may read.
    fn page(&mut self, open: &[&HostResult]) -> Vec<HostName> {
        let queued = open.iter().filter(|result| result.state == State::Queued).map(|result| &result.host);
        let queued: Vec<&HostName> = queued.collect();
        let first = self.next.as_ref().map_or(0, |next| queued.partition_point(|host| *host < next));
        let (before, behind) = queued.split_at(first);
        let mut from_first = behind.iter().chain(before).copied();
        let approvals = self.job.approvals().entry_field().map_or(0, |(_, bytes)| bytes.len());
        let beside = limits::SEALED_KEY_BYTES + limits::PROOF_BYTES + approvals;
        let entry = self.job.record.signed.bytes.len() + beside;
        let count = (LOOK_BYTES / entry).clamp(1, CHUNK);
        let page: HashSet<&HostName> = from_first.by_ref().take(count).collect();
        self.next = from_first.next().cloned();
        queued.into_iter().filter(|host| page.contains(host) || self.missing.contains(host)).cloned().collect()
    }

    /// Those of these hosts whose command is not in their inbox.
    async fn absent(&mut self, fleet: &mut Fleet, hosts: Vec<HostName>) -> Result<HashSet<HostName>, Error> {
        let place = |host: HostName| {
            let known = self.sent.entries.get(&host).cloned().map(Place::Entry);
            let place = known.or_else(|| self.places.get(&host).cloned());
            (host, place.unwrap_or(Place::Since(self.job.manifest().issued_at_ms)))
        };
        let places: Vec<_> = hosts.into_iter().map(place).collect();
        let found = fleet.find_command(&self.job.record.signed, &places).await?;
        let mut absent = HashSet::new();
        for ((host, _), found) in places.into_iter().zip(found) {
            match found {
                Found::Entry(id) => drop(self.sent.entries.insert(host, id)),
                Found::Farther(place) => drop(self.places.insert(host, place)),
                Found::Nothing => drop(absent.insert(host)),
            }
        }
        Ok(absent)
    }

    async fn send(&mut self, fleet: &mut Fleet, hosts: &[HostName], events: &mut VecDeque<Event>) -> Result<(), Error> {
        if self.remaining > 0 && !self.job.is_complete() {
            self.forbid();
            events.push_back(Event::CannotRedispatch);
        }
        if self.remaining == 0 {
            return Ok(());
        }
        self.remaining -= 1;
        send_again(fleet, self.job, hosts, &mut self.sent).await?;
        self.missing.clear();
        events.push_back(Event::Redispatched { count: hosts.len() });
        Ok(())
    }
}
