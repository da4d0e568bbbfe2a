//! A job as Redis keeps it: the hash `job:{ID}`.
//!
//! The manifest's bytes are kept as they were signed; the other fields are plain text for people, and a
//! headline for lists.

use std::borrow::Cow;

use redis::{Cmd, Pipeline, ToRedisArgs};
use serde_json::{Map, Value};

use crate::{
    action,
    approval::{Approval, Approvals},
    clock::{self, millis},
    command::{Envelope, Manifest},
    keys::Keys,
    limits,
    name::{HostName, JobId},
    scripts::CREATE_JOB,
    sealing::SealedKey,
    signed::{DocumentError, Fields, Signed},
    targets::{Proof, Targets},
    time::{Millis, read_moment, show_moment},
};

/// A job's manifest and its hosts.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// The decoded manifest.
    pub manifest: Manifest,
    /// The manifest as it is sent and kept.
    pub signed: Signed<Manifest>,
    /// The hosts.
    pub targets: Targets,
    /// The others who have signed it.
    pub approvals: Approvals,
    /// How many must have signed it, the operator included, before it is sent. None where it was sent, or withdrawn.
    pub proposed: Option<usize>,
    /// The rolling run of which it is a wave. Nobody vouches for this.
    pub rollout: Option<JobId>,
}

/// The field of a job that is not sent yet: how many must have signed it.
const PROPOSED: &str = "proposed";
/// The field of a job that is a wave of a rolling run: which run.
const ROLLOUT: &str = "rollout";

/// The field of a job that was withdrawn before it had a record: why.
const WITHDRAWN: &str = "withdrawn";

/// What there is of a job after its record was to be created, or it was to be withdrawn. Of several who try, one decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// What was asked for is done.
    Done,
    /// There was a record of it before.
    Recorded,
    /// It was withdrawn before.
    Withdrawn,
}

impl Creation {
    /// Reads the reply of [`JobRecord::create`] and [`JobRecord::withdraw`].
    pub const fn from_reply(reply: i64) -> Self {
        match reply {
            0 => Self::Done,
            1 => Self::Recorded,
            _ => Self::Withdrawn,
        }
    }
}

/// Why a job's hash cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A field is missing or malformed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The record is about another job.
    #[error("the record is about another job")]
    Foreign,
    /// The list of hosts is not the one that the manifest commits to.
    #[error("the field 'targets' does not belong to the manifest")]
    Targets,
    /// How many must have signed it is no number.
    #[error("the field 'proposed' is malformed")]
    Proposed,
}

impl JobRecord {
    /// The record of a job whose signature is still to come.
    pub fn unsigned(manifest: Manifest, targets: Targets) -> Self {
        let approvals = Approvals::default();
        Self { signed: Signed::unsigned(&manifest), manifest, targets, approvals, proposed: None, rollout: None }
    }

    /// The job's id.
    pub const fn id(&self) -> JobId {
        self.manifest.job
    }

    /// The hash's fields and values.
    pub fn fields(&self) -> Vec<(Cow<'static, str>, Vec<u8>)> {
        let Manifest { action, operator, .. } = &self.manifest;
        let shown = Value::Object(shown(&self.manifest));
        let names: Vec<_> = self.targets.hosts().map(HostName::as_str).collect();
        let mut fields = vec![
            ("action", action.clone().into_bytes()),
            ("arguments", shown.to_string().into_bytes()),
            ("operator", operator.clone().into_bytes()),
            ("issued_at", show_moment(self.manifest.issued_at_ms).into_bytes()),
            ("start_by", show_moment(self.manifest.start_by_ms).into_bytes()),
            ("timeout_ms", self.manifest.timeout_ms.to_string().into_bytes()),
            ("retention_ms", self.manifest.retention_ms.to_string().into_bytes()),
            ("target_count", names.len().to_string().into_bytes()),
            ("targets", names.join(" ").into_bytes()),
        ];
        fields.extend(self.signed.fields());
        fields.extend(self.proposed.map(|needed| (PROPOSED, needed.to_string().into_bytes())));
        fields.extend(self.rollout.map(|rollout| (ROLLOUT, rollout.to_string().into_bytes())));
        let approvals = self.approvals.0.iter().map(|approval| (approval.field().into(), approval.signature.clone()));
        fields.into_iter().map(|(name, value)| (Cow::from(name), value)).chain(approvals).collect()
    }

    /// Reads the hash of `job`.
    ///
    /// # Errors
    /// The hash is absent, damaged, about another job, or was written by a newer release.
    pub fn from_fields(mut fields: Fields, job: JobId) -> Result<Self, RecordError> {
        let signed = Signed::<Manifest>::take(&mut fields)?;
        let manifest = signed.open()?;
        if manifest.job != job {
            return Err(RecordError::Foreign);
        }
        let names = fields.remove("targets").and_then(|names| String::from_utf8(names).ok()).unwrap_or_default();
        let hosts: Result<Vec<HostName>, _> = names.split(' ').map(str::parse).collect();
        let targets = Targets::new(hosts.map_err(|_| RecordError::Targets)?);
        if targets.root() != manifest.targets {
            return Err(RecordError::Targets);
        }
        let proposed = fields.remove(PROPOSED).map(|needed| read_needed(&needed).ok_or(RecordError::Proposed));
        let proposed = proposed.transpose()?;
        let rollout = fields.remove(ROLLOUT).and_then(|id| String::from_utf8(id).ok()?.parse().ok());
        let approvals = Approvals::take_kept(&mut fields, &manifest.operator, &signed.bytes, &signed.signature);
        Ok(Self { manifest, signed, targets, approvals, proposed, rollout })
    }

    /// Writes the job's hash with its time to live: until the last moment at which the job can end, plus its retention.
    /// Must be sent as one transaction, so that a controller that dies leaves no hash without a time to live.
    pub fn write(&self, keys: &Keys) -> Pipeline {
        self.write_hash(&keys.job(self.id()), self.fields().iter().map(|(name, value)| (&**name, value)))
    }

    /// Writes the job's hash as [`Self::write`] does, unless there is one, or the job was withdrawn. Replies a [`Creation`].
    pub fn create(&self, keys: &Keys) -> Cmd {
        self.create_hash(keys, self.fields())
    }

    /// Withdraws the job, unless there is a record of it: from now on it cannot be created. Replies a [`Creation`].
    pub fn withdraw(&self, keys: &Keys, why: &str) -> Cmd {
        self.create_hash(keys, vec![(WITHDRAWN.into(), why.as_bytes().to_vec())])
    }

    /// Asks why the job was withdrawn.
    pub fn withdrawn(&self, keys: &Keys) -> Cmd {
        Cmd::hget(keys.job(self.id()), WITHDRAWN)
    }

    fn create_hash(&self, keys: &Keys, fields: Vec<(Cow<'static, str>, Vec<u8>)>) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        eval.arg(CREATE_JOB).arg(1).arg(keys.job(self.id())).arg(self.lifetime());
        for (name, value) in fields {
            eval.arg(&*name).arg(value);
        }
        eval
    }

    /// Writes the keys of its secrets for some hosts, as [`Self::write`] writes the job.
    pub fn write_sealed_keys<'a>(
        &self,
        keys: &Keys,
        sealed: impl IntoIterator<Item = (&'a HostName, &'a SealedKey)>,
    ) -> Pipeline {
        let fields = sealed.into_iter().map(|(host, key)| (host.as_str(), key.as_bytes()));
        self.write_hash(&keys.job_keys(self.id()), fields)
    }

    fn write_hash<'a>(&self, key: &str, fields: impl IntoIterator<Item = (&'a str, impl ToRedisArgs)>) -> Pipeline {
        let mut pipeline = redis::pipe();
        pipeline.cmd("HSET").arg(key);
        for (name, value) in fields {
            pipeline.arg(name).arg(value);
        }
        pipeline.cmd("PEXPIRE").arg(key).arg(self.lifetime());
        pipeline
    }

    /// How long the job's hash is kept, in milliseconds.
    fn lifetime(&self) -> u64 {
        let Manifest { retention_ms, timeout_ms, start_by_ms, issued_at_ms, .. } = self.manifest;
        let waits = start_by_ms.saturating_sub(issued_at_ms).saturating_add(millis(limits::QUEUE_MAX));
        waits.saturating_add(timeout_ms).saturating_add(retention_ms)
    }

    /// Adds an approval to the job's hash, and reads the hash. Must be sent as one transaction: of several who approve at
    /// once, the last sees all. Even a hash that has just gone gets its time to live.
    pub fn approve(&self, keys: &Keys, approval: &Approval) -> Pipeline {
        let key = keys.job(self.id());
        let mut pipeline = redis::pipe();
        pipeline.hset(&key, approval.field(), &approval.signature);
        pipeline.cmd("PEXPIRE").arg(&key).arg(self.lifetime());
        pipeline.hgetall(&key);
        pipeline
    }

    /// Makes the proposal none any more: it is sent next, or withdrawn. Replies 1 to the one whose call it was.
    pub fn end_proposal(&self, keys: &Keys) -> Cmd {
        Cmd::hdel(keys.job(self.id()), PROPOSED)
    }

    /// Adds the job to the index of recent jobs.
    pub fn write_index(&self, keys: &Keys) -> Pipeline {
        let jobs = keys.jobs();
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZADD").arg(&jobs).arg(self.manifest.issued_at_ms).arg(self.id().to_string());
        pipeline.cmd("ZREMRANGEBYRANK").arg(&jobs).arg(0).arg(format!("-{}", limits::JOBS + 1));
        pipeline
    }

    /// Adds the command to a host's inbox at `now`, and trims entries that are too old to start or to wait.
    /// `key`: the key of its secrets, sealed to this host.
    pub fn write_command(
        &self,
        keys: &Keys,
        host: &HostName,
        proof: Proof,
        key: Option<&SealedKey>,
        now: Millis,
    ) -> Cmd {
        // Entries have the time of the server itself, which nobody injects.
        let now = now.saturating_sub(clock::injected());
        let horizon = now.saturating_sub(millis(limits::START_BY_MAX + limits::QUEUE_MAX));
        let mut add = redis::cmd("XADD");
        add.arg(keys.commands(host)).arg("MINID").arg("~").arg(horizon).arg("*");
        let envelope = Envelope { signed: self.signed.clone(), proof };
        let beside = key.map(SealedKey::field).into_iter().chain(self.approvals.entry_field());
        for (name, value) in envelope.fields().into_iter().chain(beside) {
            add.arg(name).arg(value);
        }
        add
    }
}

fn read_needed(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Arguments for people, of which none is secret.
pub fn shown_arguments(arguments: &action::Arguments) -> Map<String, Value> {
    action::shown(arguments, [])
}

/// A job's arguments for people; secret ones are `***`.
pub fn shown(manifest: &Manifest) -> Map<String, Value> {
    action::shown(&manifest.arguments, manifest.secret_names())
}

/// What a list shows of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobHeadline {
    /// The action's name.
    pub action: String,
    /// The operator.
    pub operator: String,
    /// When the job was issued.
    pub issued_at_ms: Millis,
    /// The job must not start on any host after this moment.
    pub start_by_ms: Millis,
    /// Number of hosts.
    pub target_count: usize,
    /// Its arguments; secret ones are `***`.
    pub arguments: Map<String, Value>,
    /// How many must have signed it before it is sent; none where it was sent.
    pub proposed: Option<usize>,
}

impl JobHeadline {
    /// The hash's fields to ask for.
    pub const FIELDS: [&'static str; 7] =
        ["action", "operator", "issued_at", "start_by", "target_count", "arguments", PROPOSED];

    /// Reads the values of [`Self::FIELDS`]; `None` where the job is absent or damaged.
    pub fn from_values(values: &[Option<String>]) -> Option<Self> {
        let [Some(action), Some(operator), Some(issued_at), Some(start_by), Some(count), arguments, proposed] = values
        else {
            return None;
        };
        Some(Self {
            action: action.clone(),
            operator: operator.clone(),
            issued_at_ms: read_moment(issued_at)?,
            start_by_ms: read_moment(start_by)?,
            target_count: count.parse().ok()?,
            arguments: arguments.as_ref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
            proposed: proposed.as_ref().and_then(|needed| needed.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        action::{Argument, Arguments},
        secret::{JobKey, Sealed},
    };

    fn record() -> JobRecord {
        let targets = Targets::new(["web2", "web1"].map(|name| name.parse().unwrap()));
        let secrets = Arguments::from([("token".into(), Argument::Text("hunter2".into()))]);
        let job = JobId::new();
        let manifest = Manifest {
            job,
            salt: JobId::salt(),
            action: "ping".into(),
            arguments: Arguments::new(),
            sealed: Some(Sealed::seal(job, secrets, &JobKey::generate()).unwrap()),
            operator: "ann@desk".into(),
            issued_at_ms: 1_790_000_000_000,
            start_by_ms: 1_790_000_300_000,
            timeout_ms: 60_000,
            retention_ms: 3_600_000,
            keep_output: None,
            targets: targets.root(),
            namespace: None,
            trace: None,
        };
        JobRecord::unsigned(manifest, targets)
    }

    fn fields(record: &JobRecord) -> Fields {
        record.fields().into_iter().map(|(name, value)| (name.into_owned(), value)).collect()
    }

    #[test]
    fn a_record_reads_back_from_its_hash() {
        let record = record();
        let fields = fields(&record);
        assert_eq!(fields["targets"], b"web1 web2");
        assert_eq!(fields["arguments"], br#"{"token":"***"}"#);
        assert_eq!(fields["start_by"], b"2026-09-21T14:18:20.000Z");
        let read = JobRecord::from_fields(fields.clone(), record.id()).unwrap();
        assert_eq!((read.manifest, read.signed.bytes), (record.manifest, record.signed.bytes));
        let values = JobHeadline::FIELDS.map(|name| String::from_utf8(fields.get(name)?.clone()).ok());
        let headline = JobHeadline::from_values(&values).unwrap();
        assert_eq!((headline.target_count, headline.start_by_ms), (2, 1_790_000_300_000));
        assert_eq!(headline.proposed, None);
        assert_eq!(Value::Object(headline.arguments), serde_json::json!({ "token": "***" }));
    }

    #[test]
    fn a_proposal_says_how_many_must_sign() {
        let record = JobRecord { proposed: Some(2), ..record() };
        let mut fields = fields(&record);
        assert_eq!(JobRecord::from_fields(fields.clone(), record.id()).unwrap().proposed, Some(2));
        fields.insert("proposed".into(), b"all".to_vec());
        assert!(matches!(JobRecord::from_fields(fields, record.id()), Err(RecordError::Proposed)));
    }

    #[test]
    fn hosts_that_were_not_asked_do_not_belong_to_it() {
        let record = record();
        let read = |fields, job| JobRecord::from_fields(fields, job).unwrap_err();
        assert!(matches!(read(Fields::new(), record.id()), RecordError::Document(_)));
        let mut fields = fields(&record);
        assert!(matches!(read(fields.clone(), JobId::new()), RecordError::Foreign));
        fields.insert("targets".into(), b"web1 web3".to_vec());
        assert!(matches!(read(fields, record.id()), RecordError::Targets));
    }
}
