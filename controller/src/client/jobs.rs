//! Jobs: requests to hosts, and their records in Redis.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use protocol::{
    action::Arguments,
    clock::millis,
    command::Manifest,
    job::{JobHeadline, JobRecord},
    keys::Keys,
    limits,
    name::{HostName, JobId, NameError, Namespace},
    outcome::State,
    rollout::RolloutRecord,
    sealing::{SealedKey, SealingKey},
    secret::{JobKey, Sealed, digest},
    signed::{self, Signed},
    standing::{Standing, Unfounded},
    targets::Targets,
    time::Millis,
    trust::sshsig,
};
use redis::Cmd;
use wildmatch::WildMatch;

use super::{
    error::{Error, WrongType},
    fleet::{Fleet, RawHash, fields},
    proposal::Proposal,
    signer::Signer,
};

/// An action, its arguments and its hosts. It cannot be printed, as it holds secrets.
#[derive(Clone)]
pub struct Request {
    /// The action's name.
    pub action: String,
    /// Its arguments that are no secrets.
    pub arguments: Arguments,
    /// Its secret arguments, in clear.
    pub secrets: Arguments,
    /// The hosts.
    pub targets: Targets,
    /// How long it may run.
    pub timeout: Duration,
    /// How long from now it may wait for its start.
    pub start_by: Duration,
    /// How long results are kept.
    pub retention: Duration,
    /// How many bytes of each output stream the result keeps, where not [`limits::OUTPUT_BYTES`].
    pub keep_output: Option<u64>,
    /// The operator: the principal that the hosts' trust files name for the key that signs the job.
    pub operator: String,
    /// W3C trace context (`traceparent`).
    pub trace: Option<String>,
}

/// A job: its record, and what is needed to send it again.
#[derive(Clone, Debug)]
pub struct Job {
    /// The manifest and the hosts.
    pub(super) record: JobRecord,
    /// The key of its secrets, sealed to each host.
    pub(super) sealed_keys: HashMap<HostName, SealedKey>,
    /// The stream entry of each host that this process is known to have sent the command to.
    pub(super) entries: HashMap<HostName, String>,
    /// The inboxes that could not take the command.
    pub(super) damaged: HashMap<HostName, WrongType>,
    /// The record of the rolling run that this process drives, where the job is the newest wave of one.
    pub(super) claim: Option<Arc<RolloutRecord>>,
}

impl Job {
    /// A new job, issued at `now`. Its signature is still to come. `sealing`: the sealing keys of its hosts, if it has
    /// secrets.
    ///
    /// # Errors
    /// The job is larger than the wire allows.
    pub(super) fn new(
        request: Request,
        sealing: &[SealingKey],
        namespace: Option<Namespace>,
        now: Millis,
    ) -> Result<Self, Error> {
        if request.targets.is_empty() {
            return Err(Error::NoTargets);
        }
        let salt = JobId::salt();
        let job = JobId::derive(&request.operator, now, &salt);
        let key = JobKey::generate();
        let sealed = (!request.secrets.is_empty()).then(|| Sealed::seal(job, request.secrets, &key)).transpose();
        let manifest = Manifest {
            job,
            salt,
            action: request.action,
            arguments: request.arguments,
            sealed: sealed.map_err(Error::Secrets)?,
            operator: request.operator,
            issued_at_ms: now,
            start_by_ms: now.saturating_add(millis(request.start_by)),
            timeout_ms: millis(request.timeout),
            retention_ms: millis(request.retention),
            keep_output: request.keep_output,
            targets: request.targets.root(),
            namespace,
            trace: request.trace,
        };
        let record = JobRecord::unsigned(manifest, request.targets);
        for (what, size, limit) in [
            ("hosts", record.targets.len(), limits::TARGETS),
            ("bytes with all arguments", record.signed.bytes.len(), limits::MANIFEST_BYTES),
        ] {
            if size > limit {
                return Err(Error::TooLarge { what, size, limit });
            }
        }
        let manifest = digest(&record.signed.bytes);
        let sealed_keys = sealing.iter().map(|host| (host.host.clone(), host.seal(&key, &manifest))).collect();
        Ok(Self::of_record(record, sealed_keys))
    }

    /// Signs the manifest.
    pub(super) async fn sign(&mut self, signer: &Signer) -> Result<(), Error> {
        self.record.signed.signature = signer.sign(sshsig::JOB, &self.record.signed.bytes).await?;
        Ok(())
    }

    /// A job that was read back from Redis.
    pub(super) fn of_record(record: JobRecord, sealed_keys: HashMap<HostName, SealedKey>) -> Self {
        Self { record, sealed_keys, entries: HashMap::new(), damaged: HashMap::new(), claim: None }
    }

    /// Its id.
    pub const fn id(&self) -> JobId {
        self.record.id()
    }

    /// The job's manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.record.manifest
    }

    /// The manifest's bytes, and the signature over them.
    pub const fn signed(&self) -> &Signed<Manifest> {
        &self.record.signed
    }

    /// The standing order of which it is a run, as far as its record says so. Nobody vouches for the order's signature.
    ///
    /// # Errors
    /// The order cannot be read, or asks for something else.
    pub fn standing(&self) -> Option<Result<Standing, Unfounded>> {
        let signature = &self.record.signed.signature;
        let read = || {
            let standing = Standing::of_voucher(signature)?;
            standing.founds(&self.record.manifest)?;
            Ok(standing)
        };
        signed::is_voucher(signature).then(read)
    }

    /// The job's hosts.
    pub const fn targets(&self) -> &Targets {
        &self.record.targets
    }

    /// Whether the host's inbox could take the command, as far as this process has sent it.
    pub fn reached(&self, host: &HostName) -> bool {
        !self.damaged.contains_key(host)
    }

    /// Whether all contents of its commands are known: Redis may have lost the keys of its secrets.
    pub fn is_complete(&self) -> bool {
        self.manifest().sealed.is_none() || self.targets().hosts().all(|host| self.sealed_keys.contains_key(host))
    }
}

/// A job in a list.
#[derive(Clone, Debug)]
pub struct RecentJob {
    /// Its id.
    pub id: JobId,
    /// Its action, operator and deadlines; none where its record is damaged.
    pub headline: Option<JobHeadline>,
    /// Hosts by state.
    pub states: BTreeMap<State, usize>,
    /// How many hosts were ordered to cancel it and have not ended.
    pub cancel_ordered: usize,
    /// How far its proposal has come, where it was not sent.
    pub proposal: Option<Proposal>,
    /// A key of the job that cannot be read.
    pub damage: Option<WrongType>,
}

impl RecentJob {
    /// Whether some host did not succeed.
    pub fn has_failed(&self) -> bool {
        self.states.keys().any(|state| state.is_terminal() && *state != State::Succeeded)
    }

    /// Whether some host has not ended.
    pub fn is_running(&self) -> bool {
        self.states.keys().any(|state| !state.is_terminal())
    }
}

/// Which jobs a list has: those for which all of this holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// A host with this name, or that matches this pattern, is among their hosts. Any one of several is enough.
    pub hosts: Vec<String>,
    /// They are this operator's.
    pub operator: Option<String>,
    /// Some host did not succeed.
    pub failed: bool,
    /// Some host has not ended.
    pub running: bool,
}

/// How many candidates [`Error::AmbiguousJob`] shows.
const CANDIDATES: usize = 5;
/// Jobs that are read in one round trip to find those that match a filter.
pub(super) const PAGE: usize = 100;

impl Fleet {
    /// The newest jobs that are still kept and match the filter, the newest first.
    pub async fn recent_jobs(&mut self, filter: &JobFilter, limit: usize) -> Result<Vec<RecentJob>, Error> {
        let by_state = filter.failed || filter.running;
        let is_open = filter.hosts.is_empty() && filter.operator.is_none() && !by_state;
        // Among them are rolling runs, of which each wave is a job.
        let ids = self.job_ids(if is_open { limit.saturating_mul(2) } else { limits::JOBS }).await?;
        let mut found = Vec::new();
        for page in ids.chunks(PAGE) {
            if found.len() >= limit {
                break;
            }
            let mut ids = if is_open { page.to_vec() } else { self.matching(page, filter).await? };
            // The states of a large job are long: no more are read than are wanted.
            while found.len() < limit && !ids.is_empty() {
                let count = if by_state { PAGE } else { limit - found.len() };
                let behind = ids.split_off(count.min(ids.len()));
                let jobs = self.read_jobs(&ids).await?.into_iter();
                let fits =
                    |job: &RecentJob| (!filter.failed || job.has_failed()) && (!filter.running || job.is_running());
                found.extend(jobs.filter(fits));
                ids = behind;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Those of these jobs that match the filter by their operator and hosts.
    async fn matching(&mut self, ids: &[JobId], filter: &JobFilter) -> Result<Vec<JobId>, Error> {
        let patterns: Vec<_> = filter.hosts.iter().map(|pattern| WildMatch::new(pattern)).collect();
        // The hosts of a large job are a long text, which is not read in vain.
        let wanted = if patterns.is_empty() { &["operator"][..] } else { &["operator", "targets"] };
        let ask = |keys: &Keys, &id: &JobId| [Cmd::hmget(keys.job(id), wanted)];
        let read = |&id: &JobId, (values,): (Vec<Option<String>>,), _: Option<WrongType>| {
            let value = |at: usize| values.get(at).and_then(Option::as_deref);
            let is_meant = |host: &str| patterns.iter().any(|pattern| pattern.matches(host));
            let is_for = patterns.is_empty() || value(1).unwrap_or_default().split(' ').any(is_meant);
            let is_theirs = filter.operator.as_deref().is_none_or(|wanted| value(0) == Some(wanted));
            (is_for && is_theirs).then_some(id)
        };
        Ok(self.query_each(ids, ask, read).await?.into_iter().flatten().collect())
    }

    /// The newest job of this operator.
    ///
    /// # Errors
    /// There is none, or its record cannot be read.
    pub async fn last_job(&mut self, operator: &str) -> Result<Job, Error> {
        let mine = JobFilter { operator: Some(operator.to_owned()), ..JobFilter::default() };
        match &self.recent_jobs(&mine, 1).await?[..] {
            [job] => self.job(job.id).await,
            _ => Err(Error::NoJobs(operator.to_owned())),
        }
    }

    /// The job of that id. The beginning of an id or of its [short form](JobId::short) will do, as long as it is
    /// unambiguous.
    ///
    /// # Errors
    /// There is none, there are several, or its record cannot be read.
    pub async fn find_job(&mut self, typed: &str) -> Result<Job, Error> {
        let id = self.find_id(typed).await?;
        self.job(id).await
    }

    /// The id that was typed, or that begins as what was typed.
    pub(super) async fn find_id(&mut self, typed: &str) -> Result<JobId, Error> {
        match typed.parse() {
            Ok(id) => Ok(id),
            Err(_) => self.complete_id(typed).await,
        }
    }

    pub(super) async fn job(&mut self, id: JobId) -> Result<Job, Error> {
        let (hash,): (RawHash,) = self.query(redis::pipe().hgetall(self.keys().job(id))).await?;
        if hash.is_empty() {
            return Err(Error::UnknownJob(id.to_string()));
        }
        let record = JobRecord::from_fields(fields(hash), id).map_err(|error| Error::DamagedJob(id, error))?;
        // Whoever writes to Redis can copy a job of another fleet here. Its hosts are others, even where they are called
        // the same.
        if record.manifest.namespace != self.namespace {
            let (theirs, ours) = (record.manifest.namespace, self.namespace.clone());
            return Err(Error::ForeignJob { job: id, theirs, ours });
        }
        let has_secrets = record.manifest.sealed.is_some();
        let sealed_keys = if has_secrets { self.sealed_keys(id).await? } else { HashMap::new() };
        Ok(Job::of_record(record, sealed_keys))
    }

    /// The id that begins like this.
    async fn complete_id(&mut self, typed: &str) -> Result<JobId, Error> {
        let typed = typed.to_ascii_lowercase();
        if typed.is_empty() || !typed.chars().all(|digit| digit.is_ascii_hexdigit() || digit == '-') {
            return Err(NameError::JobId(typed).into());
        }
        let mut ids = self.job_ids(limits::JOBS).await?;
        ids.retain(|id| id.begins(&typed));
        match ids[..] {
            [] => Err(Error::UnknownJob(typed)),
            [id] => Ok(id),
            _ => {
                let newest = self.read_jobs(&ids[..ids.len().min(CANDIDATES)]).await?;
                let newest = newest.into_iter().filter_map(|job| Some((job.id, job.headline?))).collect();
                Err(Error::AmbiguousJob { typed, count: ids.len(), newest, now: self.now() })
            }
        }
    }

    /// The ids of the newest jobs, and of rolling runs among them.
    pub(super) async fn job_ids(&mut self, limit: usize) -> Result<Vec<JobId>, Error> {
        // The index of the last id: one id too many is read, as no index stands for no id at all.
        let last = limit.min(limits::JOBS);
        let (ids,): (Vec<String>,) =
            self.query_with_time(redis::pipe().cmd("ZREVRANGE").arg(self.keys().jobs()).arg(0).arg(last)).await?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).take(limit).collect())
    }

    pub(super) async fn read_jobs(&mut self, ids: &[JobId]) -> Result<Vec<RecentJob>, Error> {
        let ask = |keys: &Keys, &id: &JobId| {
            [
                Cmd::hmget(keys.job(id), &JobHeadline::FIELDS),
                Cmd::hvals(keys.job_hosts(id)),
                Cmd::hlen(keys.job_cancels(id)),
            ]
        };
        let now = self.now();
        let read =
            |&id: &JobId,
             (headline, published, cancel_ordered): (Vec<Option<String>>, Vec<Option<String>>, Option<usize>),
             damage: Option<_>| {
                let headline = JobHeadline::from_values(&headline);
                let states = headline.iter().flat_map(|headline| states(headline, &published, now)).collect();
                (headline.is_some() || damage.is_some()).then_some(RecentJob {
                    id,
                    headline,
                    states,
                    cancel_ordered: cancel_ordered.unwrap_or(0),
                    proposal: None,
                    damage,
                })
            };
        let mut jobs: Vec<_> = self.query_each(ids, ask, read).await?.into_iter().flatten().collect();
        self.verify_states(&mut jobs).await?;
        self.count_taken(&mut jobs).await?;
        self.count_cancels(&mut jobs).await?;
        self.count_approvals(&mut jobs).await?;
        Ok(jobs)
    }

    /// Leaves in the number of hosts that were ordered to cancel those that have not ended.
    async fn count_cancels(&mut self, jobs: &mut [RecentJob]) -> Result<(), Error> {
        let mut jobs: Vec<_> = jobs.iter_mut().filter(|job| job.cancel_ordered > 0).collect();
        let ask = |keys: &Keys, job: &&mut RecentJob| {
            [Cmd::hkeys(keys.job_cancels(job.id)), Cmd::hgetall(keys.job_hosts(job.id))]
        };
        let read = |_: &_, (ordered, states): (HashSet<String>, HashMap<String, String>), _| {
            let has_ended = |host: &&String| states.get(*host)?.parse().ok().map(State::is_terminal);
            ordered.iter().filter(|host| !has_ended(host).unwrap_or(false)).count()
        };
        let open = self.query_each(&jobs, ask, read).await?;
        for (job, open) in jobs.iter_mut().zip(open) {
            job.cancel_ordered = if job.is_running() { open } else { 0 };
        }
        Ok(())
    }

    /// Corrects the states of jobs that seem to have expired: a worker may have taken the command, and cannot publish.
    async fn count_taken(&mut self, jobs: &mut [RecentJob]) -> Result<(), Error> {
        let expired = |job: &&mut RecentJob| job.states.contains_key(&State::Expired) && job.damage.is_none();
        let mut jobs: Vec<_> = jobs.iter_mut().filter(expired).collect();
        let silent = self.silent_hosts(&jobs).await?;

        // A host is asked once for all of its jobs.
        let mut hosts: BTreeMap<HostName, Millis> = BTreeMap::new();
        for (job, silent) in jobs.iter().zip(silent) {
            let issued = job.headline.as_ref().map_or(0, |headline| headline.issued_at_ms);
            for host in silent {
                let since = hosts.entry(host).or_insert(issued);
                *since = issued.min(*since);
            }
        }
        let hosts: Vec<_> = hosts.into_iter().collect();
        let taken = self.taken_commands(&hosts).await?;
        let taken: HashMap<_, _> = hosts.iter().map(|(host, _)| host).zip(taken).collect();

        // A worker may have published and acknowledged since the states were read.
        let silent = self.silent_hosts(&jobs).await?;
        for (job, silent) in jobs.iter_mut().zip(silent) {
            let is_taken = |host: &&HostName| taken.get(host).is_some_and(|taken| taken.contains_key(&job.id));
            let expired = silent.iter().filter(|host| !is_taken(host)).count();
            let before = job.states.remove(&State::Expired).unwrap_or(0);
            if expired < before {
                *job.states.entry(State::Delivered).or_default() += before - expired;
            }
            if expired > 0 {
                job.states.insert(State::Expired, expired);
            }
        }
        Ok(())
    }

    /// The hosts of each job that have published no state.
    async fn silent_hosts(&mut self, jobs: &[&mut RecentJob]) -> Result<Vec<Vec<HostName>>, Error> {
        let ask = |keys: &Keys, job: &&mut RecentJob| {
            [Cmd::hget(keys.job(job.id), "targets"), Cmd::hkeys(keys.job_hosts(job.id))]
        };
        let read = |_: &_, (targets, heard): (Option<String>, HashSet<String>), _| {
            let targets = targets.unwrap_or_default();
            let silent = targets.split(' ').filter(|host| !heard.contains(*host));
            silent.filter_map(|host| host.parse().ok()).collect()
        };
        self.query_each(jobs, ask, read).await
    }
}

/// Hosts by the state that they have published; the others are queued, or expired.
pub(super) fn states(job: &JobHeadline, published: &[Option<String>], now: Millis) -> BTreeMap<State, usize> {
    let mut states = BTreeMap::new();
    for state in published.iter().flatten().filter_map(|state| state.parse().ok()) {
        *states.entry(state).or_default() += 1;
    }
    let silent = job.target_count.saturating_sub(states.values().sum());
    if silent > 0 {
        let implied = if now > job.start_by_ms { State::Expired } else { State::Queued };
        *states.entry(implied).or_default() += silent;
    }
    states
}

#[cfg(test)]
mod tests {
    use protocol::{action::Argument, sealing::UnsealingKey, secret::SecretError};
    use serde_json::Map;

    use super::*;

    fn request() -> Request {
        Request {
            action: "ping".into(),
            arguments: Arguments::new(),
            secrets: Arguments::new(),
            targets: Targets::new(["web2", "web1"].map(|name| name.parse().unwrap())),
            timeout: Duration::from_secs(60),
            start_by: Duration::from_secs(300),
            retention: Duration::from_secs(3600),
            keep_output: None,
            operator: "ann@desk".into(),
            trace: None,
        }
    }

    fn text(bytes: usize) -> Arguments {
        Arguments::from([("argv".into(), Argument::Text("x".repeat(bytes)))])
    }

    #[test]
    fn a_job_larger_than_the_wire_allows_is_refused() {
        let refused = |request| Job::new(request, &[], None, 0).unwrap_err();
        let request = || Request { ..request() };
        let large = Request { arguments: text(limits::MANIFEST_BYTES), ..request() };
        assert!(matches!(refused(large), Error::TooLarge { limit: limits::MANIFEST_BYTES, .. }));
        let large = Request { secrets: text(limits::SECRETS_BYTES), ..request() };
        assert!(matches!(refused(large), Error::Secrets(SecretError::Oversize(_))));
        assert!(matches!(refused(Request { targets: Targets::new([]), ..request() }), Error::NoTargets));
    }

    #[test]
    fn a_job_with_secrets_is_complete_with_the_key_of_each_host() {
        let sealing = ["web1", "web2"].map(|host| UnsealingKey::generate().public(None, host.parse().unwrap()));
        let new = |request, sealing: &[_]| Job::new(request, sealing, None, 0).unwrap();
        let secret = || Request { secrets: text(7), ..request() };
        assert!(new(secret(), &sealing).is_complete());
        assert!(!new(secret(), &sealing[1..]).is_complete());
        assert!(new(request(), &[]).is_complete());
    }

    #[test]
    fn hosts_that_have_published_nothing_are_queued_or_expired() {
        let job = JobHeadline {
            action: "ping".into(),
            operator: "ann@desk".into(),
            issued_at_ms: 0,
            start_by_ms: 10_000,
            target_count: 3,
            arguments: Map::new(),
            proposed: None,
        };
        let at = |now| states(&job, &[Some("succeeded".into())], now).into_iter().collect::<Vec<_>>();
        assert_eq!(at(5_000), [(State::Queued, 2), (State::Succeeded, 1)]);
        assert_eq!(at(11_000), [(State::Succeeded, 1), (State::Expired, 2)]);
    }
}
