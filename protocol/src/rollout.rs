//! A rolling run: one request to many hosts, of which a job is sent to some at a time. Its record is the hash
//! `job:{ID}:rollout`.
//!
//! The plan is signed, under a namespace of its own: whoever resumes the run can see who asked for what on which hosts,
//! and no worker takes a plan for a command. Each wave is a job like any other, signed when its time has come: whoever
//! can write to Redis cannot start a wave before `ctl` does, nor after it has stopped.
//!
//! | field | content |
//! |---|---|
//! | `plan`, `signature` | the [`Plan`]: `MessagePack` with named fields, and the operator's signature |
//! | `targets` | its hosts, whose root is in the plan |
//! | `wave:N` | the job of a wave and its hosts, written before they are sent anything |
//! | `seen_at` | when the `ctl` that drives the run was last alive |
//! | `ended` | how it has ended, where it has |
//! | `closed` | who resumes it: nobody may add a wave any more |

use std::collections::{BTreeMap, HashSet};

use redis::Cmd;
use serde::{Deserialize, Serialize};

use crate::{
    action::Arguments,
    clock::millis,
    keys::Keys,
    limits,
    name::{HostName, JobId, Namespace, Salt},
    scripts::{BEGIN_ROLLOUT, CLOSE_ROLLOUT, SET_ROLLOUT},
    signed::{Document, DocumentError, Fields, Signed},
    targets::{TargetRoot, Targets},
    time::{Millis, read_moment, show_moment},
    unique::unique,
};

/// What runs, where, and how it goes on from host to host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The run.
    pub rollout: JobId,
    /// Sets the plans apart that one operator signs in the same millisecond: of several who resume a run, one begins it.
    pub salt: Salt,
    /// The run, or the job, whose remaining hosts these are. Then this run's id is [`next`] of that one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<JobId>,
    /// The action's name.
    pub action: String,
    /// Its arguments, without those that are secret.
    #[serde(default, deserialize_with = "unique")]
    pub arguments: Arguments,
    /// The names of its secret arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The operator: the principal whose key signed the plan.
    pub operator: String,
    /// When it was issued.
    pub issued_at_ms: Millis,
    /// How long each command may wait for its start, in milliseconds.
    pub start_by_ms: u64,
    /// How long each command may run, in milliseconds.
    pub timeout_ms: u64,
    /// How long results are kept, in milliseconds.
    pub retention_ms: u64,
    /// How many bytes of each output stream a result keeps, where not [`limits::OUTPUT_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_output: Option<u64>,
    /// All of its hosts.
    pub targets: TargetRoot,
    /// The namespace of the hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// How it goes from host to host.
    pub waves: Waves,
}

/// How a run goes from host to host. Shares of the hosts have been made numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waves {
    /// How many hosts the first wave has; 0: as many as the others.
    pub canary: u64,
    /// How many hosts each other wave has.
    pub batch: u64,
    /// The pause between waves, in milliseconds.
    pub wait_ms: u64,
    /// The run stops once more hosts than this have failed.
    pub max_fail: u64,
    /// The run stops if this holds for a host that it has reached: an expression of `--where`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort_if: Option<String>,
}

impl Document for Plan {
    const FIELD: &'static str = "plan";
    const MAX_BYTES: usize = limits::PLAN_BYTES;
}

/// The id of the run that goes on where this one, or this job, has ended: there can be one only.
pub fn next(prior: JobId) -> JobId {
    prior.part("resume")
}

/// A wave that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wave {
    /// Its job.
    pub job: JobId,
    /// The hosts of the job.
    pub hosts: Vec<HostName>,
}

/// A rolling run as Redis keeps it.
#[derive(Clone, Debug)]
pub struct RolloutRecord {
    /// The decoded plan.
    pub plan: Plan,
    /// The plan as it was signed.
    pub signed: Signed<Plan>,
    /// All of its hosts.
    pub targets: Targets,
    /// The waves that were begun, by number from 1.
    pub waves: BTreeMap<u32, Wave>,
    /// When the `ctl` that drives it was last alive.
    pub seen_ms: Option<Millis>,
    /// How it has ended, where it has.
    pub ended: Option<String>,
}

/// Why a run's hash cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The plan is missing or malformed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The plan is of another run.
    #[error("the plan is of another run")]
    Foreign,
    /// The list of hosts is not the one that the plan commits to.
    #[error("the field 'targets' does not belong to the plan")]
    Targets,
    /// A wave is malformed.
    #[error("the field '{0}' is malformed")]
    Wave(String),
}

impl RolloutRecord {
    /// The record of a run whose signature is still to come.
    pub fn unsigned(plan: Plan, targets: Targets) -> Self {
        let signed = Signed::unsigned(&plan);
        Self { plan, signed, targets, waves: BTreeMap::new(), seen_ms: None, ended: None }
    }

    /// Its id.
    pub const fn id(&self) -> JobId {
        self.plan.rollout
    }

    /// Reads the hash of the run `id`.
    ///
    /// # Errors
    /// The hash is absent, damaged, about another run, or was written by a newer release.
    pub fn from_fields(mut fields: Fields, id: JobId) -> Result<Self, RolloutError> {
        let signed = Signed::<Plan>::take(&mut fields)?;
        let plan = signed.open()?;
        if plan.rollout != id {
            return Err(RolloutError::Foreign);
        }
        let text = |value: Vec<u8>| String::from_utf8(value).ok();
        let names = fields.remove("targets").and_then(text).unwrap_or_default();
        let hosts: Result<Vec<HostName>, _> = names.split(' ').map(str::parse).collect();
        let targets = Targets::new(hosts.map_err(|_| RolloutError::Targets)?);
        if targets.root() != plan.targets {
            return Err(RolloutError::Targets);
        }

        let (mut waves, mut reached) = (BTreeMap::new(), HashSet::new());
        for (field, value) in fields.iter().filter(|(field, _)| field.starts_with(WAVE)) {
            let number = field.strip_prefix(WAVE).and_then(|number| number.parse().ok());
            let (number, wave) = number.zip(read_wave(value)).ok_or_else(|| RolloutError::Wave(field.clone()))?;
            // Whoever writes to Redis cannot add hosts to the run, nor reach one twice.
            if !wave.hosts.iter().all(|host| targets.has(host) && reached.insert(host.clone())) {
                return Err(RolloutError::Wave(field.clone()));
            }
            waves.insert(number, wave);
        }
        let mut take = |name: &str| fields.remove(name).and_then(text);
        Ok(Self {
            plan,
            signed,
            targets,
            waves,
            seen_ms: take("seen_at").and_then(|moment| read_moment(&moment)),
            ended: take("ended"),
        })
    }

    /// Begins the run. Replies 1; 0 where there is one of this id.
    pub fn begin(&self, keys: &Keys, now: Millis) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        eval.arg(BEGIN_ROLLOUT).arg(1).arg(keys.job_rollout(self.id())).arg(self.lifetime());
        for (name, value) in self.fields(now) {
            eval.arg(name).arg(value);
        }
        eval
    }

    /// All fields and values.
    fn fields(&self, now: Millis) -> Vec<(String, Vec<u8>)> {
        let names: Vec<_> = self.targets.hosts().map(HostName::as_str).collect();
        let signed = self.signed.fields().into_iter().map(|(name, value)| (name.to_owned(), value));
        let plain = [("targets".to_owned(), names.join(" ")), ("seen_at".to_owned(), show_moment(now))];
        let waves = self.waves.iter().map(|(number, wave)| (field_of(*number), show_wave(wave)));
        signed.chain(plain.into_iter().chain(waves).map(|(name, value)| (name, value.into_bytes()))).collect()
    }

    /// Adds the run to the index of recent jobs, beside which it can be found by the beginning of its id.
    pub fn write_index(&self, keys: &Keys) -> Cmd {
        let mut add = redis::cmd("ZADD");
        add.arg(keys.jobs()).arg(self.plan.issued_at_ms).arg(self.id().to_string());
        add
    }

    /// Claims the wave of this number, before its hosts are sent anything. Replies 1; 0 where the run was closed before;
    /// -1 where Redis has lost it; -2 where Redis has lost the wave before it, as a failover can: then [`Self::restore`].
    pub fn claim(&self, keys: &Keys, number: u32, wave: &Wave, now: Millis) -> Cmd {
        let prior = self.waves.range(..number).next_back().map(|(number, _)| *number);
        self.set(keys, prior, [(field_of(number), show_wave(wave)), ("seen_at".into(), show_moment(now))])
    }

    /// Writes the waves that were begun once more. Each replies as [`Self::claim`] does.
    pub fn restore(&self, keys: &Keys) -> Vec<Cmd> {
        let waves: Vec<_> = self.waves.iter().map(|(number, wave)| (field_of(*number), show_wave(wave))).collect();
        waves.chunks(WAVES_PER_SCRIPT).map(|waves| self.set(keys, None, waves.iter().cloned())).collect()
    }

    /// Says that the driver of the run lives. Replies as [`Self::claim`] does.
    pub fn beat(&self, keys: &Keys, now: Millis) -> Cmd {
        self.set(keys, None, [("seen_at".into(), show_moment(now))])
    }

    /// Says how the run has ended. Replies as [`Self::claim`] does.
    pub fn end(&self, keys: &Keys, how: &str) -> Cmd {
        let last = self.waves.keys().next_back().copied();
        self.set(keys, last, [("ended".into(), how.to_owned())])
    }

    /// Keeps whoever drives the run from adding another wave. Replies -1 where Redis has lost it.
    pub fn close(&self, keys: &Keys, by: &str) -> Cmd {
        self.script(keys, CLOSE_ROLLOUT, &[by.to_owned()])
    }

    /// `prior`: the wave that must be there.
    fn set(&self, keys: &Keys, prior: Option<u32>, fields: impl IntoIterator<Item = (String, String)>) -> Cmd {
        let mut words = vec![self.lifetime().to_string(), prior.map(field_of).unwrap_or_default()];
        words.extend(fields.into_iter().flat_map(|(name, value)| [name, value]));
        self.script(keys, SET_ROLLOUT, &words)
    }

    fn script(&self, keys: &Keys, script: &str, words: &[String]) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        eval.arg(script).arg(1).arg(keys.job_rollout(self.id())).arg(words);
        eval
    }

    /// How long the hash is kept after it was written last, in milliseconds: as long as any job of it.
    fn lifetime(&self) -> u64 {
        let Plan { start_by_ms, timeout_ms, retention_ms, .. } = self.plan;
        let waits = start_by_ms.saturating_add(millis(limits::QUEUE_MAX));
        waits.saturating_add(timeout_ms).saturating_add(retention_ms)
    }
}

/// What begins the name of a wave's field.
const WAVE: &str = "wave:";

/// How many waves one script sets: Lua spreads some thousand values at most.
const WAVES_PER_SCRIPT: usize = 1000;

fn field_of(number: u32) -> String {
    format!("{WAVE}{number}")
}

fn show_wave(wave: &Wave) -> String {
    let hosts = wave.hosts.iter().map(ToString::to_string);
    [wave.job.to_string()].into_iter().chain(hosts).collect::<Vec<_>>().join(" ")
}

fn read_wave(value: &[u8]) -> Option<Wave> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ');
    let job = words.next()?.parse().ok()?;
    let hosts = words.map(|host| host.parse().ok()).collect::<Option<Vec<_>>>()?;
    Some(Wave { job, hosts })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RolloutRecord {
        let targets = Targets::new(["web2", "web1"].map(|name| name.parse().unwrap()));
        let plan = Plan {
            rollout: JobId::new(),
            salt: JobId::salt(),
            from: None,
            action: "ping".into(),
            arguments: Arguments::new(),
            secrets: vec!["token".into()],
            operator: "ann@desk".into(),
            issued_at_ms: 1_790_000_000_000,
            start_by_ms: 300_000,
            timeout_ms: 60_000,
            retention_ms: 3_600_000,
            keep_output: None,
            targets: targets.root(),
            namespace: None,
            waves: Waves { canary: 1, batch: 5, wait_ms: 0, max_fail: 2, abort_if: None },
        };
        RolloutRecord::unsigned(plan, targets)
    }

    fn fields(record: &RolloutRecord) -> Fields {
        let fields: Fields = record.fields(record.plan.issued_at_ms).into_iter().collect();
        assert_eq!(fields["targets"], b"web1 web2");
        fields
    }

    #[test]
    fn a_run_reads_back_from_its_hash() {
        let record = record();
        let job = JobId::new();
        let mut fields = fields(&record);
        fields.insert("wave:1".into(), format!("{job} web2").into_bytes());
        fields.insert("ended".into(), b"interrupted".to_vec());
        let read = RolloutRecord::from_fields(fields, record.id()).unwrap();
        assert_eq!((&read.plan, read.ended.as_deref()), (&record.plan, Some("interrupted")));
        assert_eq!(read.waves[&1], Wave { job, hosts: vec!["web2".parse().unwrap()] });
    }

    #[test]
    fn hosts_that_the_plan_does_not_have_are_refused() {
        let record = record();
        let read = |name: &str, value: &str| {
            let mut fields = fields(&record);
            fields.insert(name.into(), value.as_bytes().to_vec());
            RolloutRecord::from_fields(fields, record.id()).unwrap_err()
        };
        assert!(matches!(read("targets", "web1 web2 web3"), RolloutError::Targets));
        for wave in [format!("{} web3", JobId::new()), "web1".to_owned(), String::new()] {
            assert!(matches!(read("wave:1", &wave), RolloutError::Wave(_)), "{wave}");
        }
        assert!(matches!(read("wave:x", ""), RolloutError::Wave(_)));
        let twice = format!("{} web2 web2", JobId::new());
        assert!(matches!(read("wave:1", &twice), RolloutError::Wave(_)), "a host is reached once");
        let foreign = RolloutRecord::from_fields(fields(&record), JobId::new());
        assert!(matches!(foreign, Err(RolloutError::Foreign)));
    }
}
