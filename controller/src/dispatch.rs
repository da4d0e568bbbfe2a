//! Jobs on their way out: what is asked becomes a [`Job`], and a job is sent into its hosts' inboxes.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::ensure;
use protocol::{
    action::Arguments,
    clock::millis,
    command::{Envelope, Manifest},
    connection::Backoff,
    limits,
    name::{HostName, JobId},
    targets::Targets,
    time::{Millis, show_moment},
};
use redis::{Pipeline, RedisError};

use crate::{
    error::Advice,
    fleet::{BLOCK, CHUNK, Fleet, passes},
    printer::Printer,
};

/// What is asked of whom.
pub struct Request {
    /// The action's name.
    pub action: String,
    /// Its arguments.
    pub arguments: Arguments,
    /// The hosts.
    pub targets: Targets,
    /// How long it may run.
    pub timeout: Duration,
    /// How long from now it may wait for its start.
    pub start_by: Duration,
    /// How long results are kept.
    pub retention: Duration,
    /// Who asks.
    pub operator: String,
    /// W3C trace context.
    pub trace: Option<String>,
}

/// A job: all that is needed to send it, or to send it again, as workers know a job by its id.
pub struct Job {
    /// What is asked.
    pub manifest: Manifest,
    /// Of whom.
    pub targets: Targets,
    /// The manifest as it travels.
    bytes: Vec<u8>,
    /// Over `bytes`; empty while commands are unsigned.
    signature: Vec<u8>,
    /// Each host's stream entry, as far as it is known; a job may be sent again while it is followed.
    entries: RefCell<HashMap<HostName, String>>,
}

impl Job {
    /// A new job, asked at `now`.
    ///
    /// # Errors
    /// Where it is larger than the wire allows.
    pub fn new(request: Request, now: Millis) -> anyhow::Result<Self> {
        let hosts = request.targets.len();
        ensure!(hosts <= limits::TARGETS, "a job may name {} hosts, not {hosts}", limits::TARGETS);
        let manifest = Manifest {
            job: JobId::new(),
            action: request.action,
            arguments: request.arguments,
            operator: request.operator,
            issued_at_ms: now,
            start_by_ms: now.saturating_add(millis(request.start_by)),
            timeout_ms: millis(request.timeout),
            retention_ms: millis(request.retention),
            targets: request.targets.root(),
            trace: request.trace,
        };
        let bytes = manifest.encode();
        if bytes.len() > limits::MANIFEST_BYTES {
            let most = limits::MANIFEST_BYTES / 1024;
            let error = Advice::new(format!("the arguments are too large: {} KiB, at most {most}", bytes.len() / 1024));
            return Err(error.hint("put large input into a file on the host").into());
        }
        Ok(Self { manifest, targets: request.targets, bytes, signature: Vec::new(), entries: RefCell::default() })
    }

    /// The job's id.
    pub const fn id(&self) -> JobId {
        self.manifest.job
    }

    /// The stream entry by which the host was asked, where this process asked it.
    pub fn entry(&self, host: &HostName) -> Option<String> {
        self.entries.borrow().get(host).cloned()
    }

    /// The fields of the job's hash: plain text for people, and the exact bytes that were sent.
    fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let Manifest { action, operator, .. } = &self.manifest;
        let names: Vec<_> = self.targets.hosts().map(HostName::as_str).collect();
        // Arguments are maps of plain values: they always encode.
        let arguments = serde_json::to_string(&self.manifest.arguments).unwrap_or_default();
        vec![
            ("action", action.clone().into_bytes()),
            ("arguments", arguments.into_bytes()),
            ("operator", operator.clone().into_bytes()),
            ("issued_at", show_moment(self.manifest.issued_at_ms).into_bytes()),
            ("start_by", show_moment(self.manifest.start_by_ms).into_bytes()),
            ("timeout_ms", self.manifest.timeout_ms.to_string().into_bytes()),
            ("retention_ms", self.manifest.retention_ms.to_string().into_bytes()),
            ("target_count", names.len().to_string().into_bytes()),
            ("targets", names.join(" ").into_bytes()),
            ("manifest", self.bytes.clone()),
            ("signature", self.signature.clone()),
        ]
    }

    /// Reads a job's hash; `None` where it is absent or unreadable.
    pub fn from_fields(mut fields: HashMap<String, Vec<u8>>) -> Option<Self> {
        let bytes = fields.remove("manifest")?;
        let manifest = Manifest::decode(&bytes).ok()?;
        let names = String::from_utf8(fields.remove("targets")?).ok()?;
        let hosts: Result<Vec<HostName>, _> = names.split(' ').map(str::parse).collect();
        Some(Self {
            manifest,
            targets: Targets::new(hosts.ok()?),
            bytes,
            signature: fields.remove("signature").unwrap_or_default(),
            entries: RefCell::default(),
        })
    }

    /// The job itself: its hash with a time to live, and its place in the index of recent jobs.
    fn creation(&self, fleet: &Fleet, pipeline: &mut Pipeline) {
        let Manifest { retention_ms, timeout_ms, start_by_ms, issued_at_ms, .. } = self.manifest;
        let waits = start_by_ms.saturating_sub(issued_at_ms);
        let key = fleet.keys.job(self.id());
        // One transaction, so that a `ctl` that dies here leaves no hash that stays for ever; over this key
        // alone, as no other needs to be in the same slot of a cluster.
        pipeline.cmd("MULTI").cmd("HSET").arg(&key);
        for (name, value) in self.fields() {
            pipeline.arg(name).arg(value);
        }
        pipeline.cmd("PEXPIRE").arg(&key).arg(retention_ms.saturating_add(waits).saturating_add(timeout_ms));
        pipeline.cmd("EXEC");
        let jobs = fleet.keys.jobs();
        pipeline.cmd("ZADD").arg(&jobs).arg(issued_at_ms).arg(self.id().to_string());
        pipeline.cmd("ZREMRANGEBYRANK").arg(&jobs).arg(0).arg(format!("-{}", limits::JOBS + 1));
    }
}

/// How long a dispatch is tried again where its reply was lost, or Redis cannot take it for the moment.
const DISPATCH_WITHIN: Duration = Duration::from_secs(30);

/// Makes a job of the request and sends it. Where the reply is lost, or the error is one that passes, it
/// is sent again under the same ids: a worker that got it before knows it.
///
/// # Errors
/// Says what Redis said, and how many hosts have been asked all the same.
pub async fn dispatch(fleet: &mut Fleet, request: Request, printer: &Printer) -> anyhow::Result<Job> {
    let job = Job::new(request, fleet.clock.now())?;
    let everyone: Vec<HostName> = job.targets.hosts().cloned().collect();
    let begun = Instant::now();
    let mut backoff: Option<Backoff> = None;
    let mut earlier: Option<Unsent> = None;
    loop {
        let Err(unsent) = send(fleet, &job, &everyone).await else { return Ok(job) };
        let unsent = unsent.after(earlier.take());
        if !passes(&unsent.error) || begun.elapsed() >= DISPATCH_WITHIN {
            return Err(unsent.explain(fleet, &job).into());
        }
        if backoff.is_none() {
            printer.note(&format!("{}; asking again under the same id …", fleet.explain(&unsent.error)));
        }
        earlier = Some(unsent);
        tokio::time::sleep(backoff.get_or_insert(Backoff::new(BLOCK)).delay()).await;
        // Where that fails too, the next attempt fails with the dead connection.
        let _ = fleet.reconnect().await;
    }
}

/// Sends a job to some of its hosts: first the job itself, in the same round trip the first commands,
/// then the others. Doing so twice is harmless, as workers know the job by its id.
///
/// # Errors
/// What Redis said, and how far it came.
pub async fn send(fleet: &mut Fleet, job: &Job, hosts: &[HostName]) -> Result<(), Unsent> {
    let horizon = fleet.clock.now().saturating_sub(millis(limits::START_BY_MAX));
    let wanted: HashSet<&HostName> = hosts.iter().collect();
    let commands: Vec<_> = job.targets.proofs().filter(|(host, _)| wanted.contains(host)).collect();
    let mut pipeline = redis::pipe();
    job.creation(fleet, &mut pipeline);
    let mut before = pipeline.len();
    let mut entries = HashMap::new();
    for chunk in commands.chunks(CHUNK) {
        for (host, proof) in chunk {
            let envelope =
                Envelope { manifest: job.bytes.clone(), signature: job.signature.clone(), proof: proof.clone() };
            pipeline.cmd("XADD").arg(fleet.keys.commands(host)).arg("MINID").arg("~").arg(horizon).arg("*");
            for (name, value) in envelope.fields() {
                pipeline.arg(name).arg(value);
            }
        }
        let replies: Vec<redis::Value> = fleet
            .query(&pipeline)
            .await
            .map_err(|error| Unsent::new(error, entries.len(), before, pipeline.len() - before))?;
        let ids = replies.into_iter().skip(before).map(redis::from_redis_value::<String>);
        entries.extend(chunk.iter().zip(ids).filter_map(|((host, _), id)| Some(((*host).clone(), id.ok()?))));
        before = 0;
        pipeline.clear();
    }
    job.entries.borrow_mut().extend(entries);
    Ok(())
}

/// A job of which not all went out.
pub struct Unsent {
    /// What Redis said.
    pub error: RedisError,
    /// How many hosts surely got it.
    asked: usize,
    /// More may have got it than are known.
    unclear: bool,
    /// The job itself was written.
    recorded: bool,
}

impl Unsent {
    /// `asked` hosts got it before the part of `sent` commands, behind `before` others, that failed.
    fn new(error: RedisError, asked: usize, before: usize, sent: usize) -> Self {
        let Some(errors) = error.clone().into_server_errors() else {
            // Nobody knows whether Redis saw this part.
            return Self { error, asked, unclear: true, recorded: true };
        };
        let failed = errors.iter().filter(|(index, _)| *index >= before).count();
        Self { error, asked: asked + sent - failed, unclear: false, recorded: errors.len() == failed }
    }

    /// With what is known of the attempts before this one: what they reached, this one's error does not undo.
    fn after(self, earlier: Option<Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        let unclear = self.unclear || earlier.unclear || earlier.asked > 0;
        Self { asked: self.asked.max(earlier.asked), unclear, ..self }
    }

    fn explain(&self, fleet: &Fleet, job: &Job) -> Advice {
        let (asked, hosts, id) = (self.asked, job.targets.len(), job.id());
        fleet.explain(&self.error).hint(match asked {
            0 if self.unclear => format!("the commands may have been sent all the same: ctl job show {id}"),
            0 => "nothing was sent".into(),
            _ if self.unclear => format!("at least {asked} of {hosts} hosts have been asked: ctl job show {id}"),
            // A transaction that was refused at its beginning leaves its commands to run singly.
            _ if !self.recorded => {
                format!("{asked} of {hosts} hosts have been asked, but there may be no record of job {id}")
            }
            _ => format!("{asked} of {hosts} hosts have been asked all the same: ctl job wait {id}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::action::Argument;

    use super::*;

    fn request() -> Request {
        Request {
            action: "ping".into(),
            arguments: Arguments::new(),
            targets: Targets::new(["web2", "web1"].map(|name| name.parse().unwrap())),
            timeout: Duration::from_secs(60),
            start_by: Duration::from_secs(300),
            retention: Duration::from_secs(3600),
            operator: "ann@desk".into(),
            trace: None,
        }
    }

    #[test]
    fn a_job_reads_back_from_its_hash() {
        let job = Job::new(request(), 1_790_000_000_000).unwrap();
        let fields: HashMap<_, _> = job.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(fields["targets"], b"web1 web2");
        assert_eq!(fields["start_by"], b"2026-09-21T14:18:20.000Z");
        let read = Job::from_fields(fields).unwrap();
        assert_eq!(read.manifest, job.manifest);
        assert_eq!(read.targets.root(), job.targets.root());
        assert!(Job::from_fields(HashMap::new()).is_none());
    }

    #[test]
    fn arguments_larger_than_the_wire_are_refused() {
        let arguments = Arguments::from([("argv".into(), Argument::Text("x".repeat(limits::MANIFEST_BYTES)))]);
        assert!(Job::new(Request { arguments, ..request() }, 0).is_err());
    }
}
