//! Commands and other entries written by hand, as a faulty or hostile controller would write them.

use protocol::{
    action::{Argument, Arguments},
    artifact::{Artifact, ContentKey, Surveyor},
    clock::{FleetClock, millis},
    command::{Addressed, Envelope, Manifest},
    control::{CancelOrder, Control},
    event::{Event, Piece},
    job::JobRecord,
    keys::Keys,
    limits,
    name::{HostName, JobId},
    outcome::Outcome,
    sealing::{SealedKey, SealingKey},
    secret::{JobKey, Sealed, digest},
    signed::{Fields, Signed},
    statement::{self, Report, Subject},
    targets::Targets,
    time::Millis,
};
use redis::{Connection, ToRedisArgs};

use crate::{Redis, eventually, operator, renewed};

/// A raw connection to a server, with shorthands for commands of any kind.
pub struct Raw {
    connection: Connection,
    keys: Keys,
}

impl Raw {
    /// A connection to this server, for keys without a namespace.
    pub fn on(redis: &Redis) -> Self {
        Self { connection: redis.blocking(), keys: Keys::new(None) }
    }

    /// Redis' clock.
    pub fn now(&mut self) -> Millis {
        let (seconds, micros): (u64, u64) = self.query(&["TIME"]);
        seconds * 1000 + micros / 1000
    }

    /// Sends any command to Redis and returns its reply.
    #[track_caller]
    pub fn query<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Puts content there for hosts to fetch, as `ctl` does.
    pub fn put_content(&mut self, content: &[u8]) -> (Artifact, ContentKey) {
        let mut surveyor = Surveyor::default();
        surveyor.update(content);
        let (artifact, key) = surveyor.finish();
        for (number, piece) in (0..).zip(content.chunks(limits::ARTIFACT_PIECE_BYTES)) {
            let mut command = redis::cmd("SET");
            command.arg(self.keys.artifact(&artifact, number)).arg(key.seal(number, piece));
            command.query::<()>(&mut self.connection).expect("SET");
        }
        (artifact, key)
    }

    /// Adds an entry with these fields to the inbox of `host`, and returns its id.
    pub fn add<V: ToRedisArgs>(&mut self, host: &str, fields: &[(&str, V)]) -> String {
        let key = self.keys.commands(&name(host));
        self.xadd(&key, fields)
    }

    /// Adds an entry with these fields to the control stream of `host`.
    pub fn add_control<V: ToRedisArgs>(&mut self, host: &str, fields: &[(&str, V)]) -> String {
        let key = self.keys.control(&name(host));
        self.xadd(&key, fields)
    }

    /// A valid manifest for `hosts` with the usual deadlines. Tests change it as they need.
    pub fn manifest(&mut self, hosts: &[&str], action: &str) -> Manifest {
        Self::manifest_at(self.now(), hosts, action)
    }

    /// A job that was never sent.
    pub fn unsent() -> Manifest {
        Self::manifest_at(FleetClock::local().now(), &["web1"], "exec")
    }

    fn manifest_at(now: Millis, hosts: &[&str], action: &str) -> Manifest {
        renewed(Manifest {
            job: JobId::new(),
            salt: JobId::salt(),
            action: action.into(),
            arguments: Arguments::new(),
            sealed: None,
            operator: "tests".into(),
            issued_at_ms: now,
            start_by_ms: now + millis(limits::START_BY_DEFAULT),
            timeout_ms: millis(limits::TIMEOUT_DEFAULT),
            retention_ms: millis(limits::RETENTION_DEFAULT),
            keep_output: None,
            targets: targets(hosts).root(),
            namespace: None,
            trace: None,
        })
    }

    /// A manifest that runs a program.
    pub fn exec(&mut self, hosts: &[&str], argv: &[&str]) -> Manifest {
        let argv = argv.iter().map(ToString::to_string).collect();
        Manifest { arguments: Arguments::from([("argv".into(), Argument::List(argv))]), ..self.manifest(hosts, "exec") }
    }

    /// The entry that carries a document to the first of `hosts`.
    pub fn envelope<T: Addressed>(document: &T, hosts: &[&str]) -> Envelope<T> {
        let first = name(hosts[0]);
        let targets = targets(hosts);
        let (_, proof) = targets.proofs().find(|(host, _)| **host == first).expect("a target");
        Envelope { signed: operator().sign(document), proof }
    }

    /// An order of the job's operator to cancel it on one host.
    pub fn cancel_order(host: &str, manifest: &Manifest) -> Control {
        let targets = targets(&[host]);
        let signed = Signed::unsigned(manifest);
        let order = CancelOrder::new(manifest, &signed, targets.root(), manifest.operator.clone(), 0);
        Control::Cancel(Self::envelope(&order, &[host]))
    }

    /// Orders a host to cancel a job, and returns the entry's id.
    pub fn cancel(&mut self, host: &str, manifest: &Manifest) -> String {
        self.add_control(host, &Self::cancel_order(host, manifest).fields())
    }

    /// The manifest of a job that `ctl` has sent.
    #[track_caller]
    pub fn manifest_of(&mut self, job: &str) -> Manifest {
        let job = job.parse().expect("a job's id");
        let fields: Fields = self.query(&["HGETALL", &self.keys.job(job)]);
        JobRecord::from_fields(fields, job).expect("the job's record").manifest
    }

    /// Sends `manifest` to the one host it is for, without making the job's hash.
    pub fn send(&mut self, host: &str, manifest: &Manifest) -> String {
        let fields = Self::envelope(manifest, &[host]).fields();
        self.add(host, &fields)
    }

    /// The sealing key that `host` publishes.
    #[track_caller]
    pub fn sealing_key(&mut self, host: &str) -> SealingKey {
        let key = self.keys.facts(&name(host));
        let fact: String = self.query(&["HGET", &key, "sealing_key"]);
        SealingKey::from_fact(&fact).and_then(|signed| signed.open().ok()).expect("a sealing key")
    }

    /// Adds secret arguments to a manifest. Returns the key to send with it to `host`, too.
    pub fn seal(&mut self, host: &str, manifest: Manifest, secrets: Arguments) -> (Manifest, SealedKey) {
        let key = JobKey::generate();
        let sealed = Sealed::seal(manifest.job, secrets, &key).expect("few secrets");
        let manifest = Manifest { sealed: Some(sealed), ..manifest };
        let sealed_key = self.sealing_key(host).seal(&key, &digest(&Signed::unsigned(&manifest).bytes));
        (manifest, sealed_key)
    }

    /// Sends `manifest` to the one host it is for, with the key of its secrets.
    pub fn send_sealed(&mut self, host: &str, manifest: &Manifest, key: &SealedKey) -> String {
        let fields: Vec<_> = Self::envelope(manifest, &[host]).fields().into_iter().chain([key.field()]).collect();
        self.add(host, &fields)
    }

    /// Waits for the outcome of a job on `host`.
    #[track_caller]
    pub fn outcome(&mut self, host: &str, manifest: &Manifest) -> Outcome {
        let key = self.keys.job_result(manifest.job, &name(host));
        eventually("an outcome", || {
            let fields: Fields = self.query(&["HGETALL", &key]);
            if fields.is_empty() {
                return None;
            }
            let host = name(host);
            let bytes = Signed::unsigned(manifest).bytes;
            let report = Report::take(fields).expect("a statement");
            // These tests send a manifest with whatever signature: a refusal may name any of them.
            let unverified = report.signed.open().expect("a statement").manifest();
            let manifest_digest = Some(digest(&bytes));
            let about =
                Subject { namespace: None, job: manifest.job, host: &host, manifest: manifest_digest, unverified };
            Some(report.open(&about).expect("an outcome with a valid statement"))
        })
    }

    /// Whether the outcome on `host` is about the command with this signature, or with a signature that is accepted.
    pub fn is_about(&mut self, host: &str, manifest: &Manifest, signature: &[u8]) -> bool {
        let key = self.keys.job_result(manifest.job, &name(host));
        let report = Report::take(self.query(&["HGETALL", &key])).expect("a statement");
        let (host, bytes) = (name(host), Signed::unsigned(manifest).bytes);
        let unverified = Some(statement::unverified(&bytes, signature));
        let about =
            Subject { namespace: None, job: manifest.job, host: &host, manifest: Some(digest(&bytes)), unverified };
        report.open(&about).is_ok()
    }

    /// The events of a job so far.
    pub fn events(&mut self, manifest: &Manifest) -> Vec<Event> {
        let key = self.keys.job_events(manifest.job);
        let entries: Vec<(String, Fields)> = self.query(&["XRANGE", &key, "-", "+"]);
        entries.iter().filter_map(|(_, fields)| Event::from_fields(fields)).collect()
    }

    /// The live output of a job on `host` that Redis keeps.
    pub fn output(&mut self, host: &str, manifest: &Manifest) -> Vec<Piece> {
        let key = self.keys.job_output(manifest.job, &name(host));
        let entries: Vec<(String, Fields)> = self.query(&["XRANGE", &key, "-", "+"]);
        entries.iter().filter_map(|(_, fields)| Piece::from_fields(fields)).collect()
    }

    /// Waits until the drop counter of that reason in the status of `host` is at least `count`.
    #[track_caller]
    pub fn wait_dropped(&mut self, host: &str, reason: &str, count: u64) {
        let key = self.keys.status(&name(host));
        let field = format!("dropped_{reason}");
        eventually(&format!("{field} to reach {count}"), || {
            let dropped: Option<u64> = self.query(&["HGET", &key, &field]);
            dropped.filter(|dropped| *dropped >= count)
        });
    }

    fn xadd<V: ToRedisArgs>(&mut self, key: &str, fields: &[(&str, V)]) -> String {
        let mut command = redis::cmd("XADD");
        command.arg(key).arg("*");
        for (field, value) in fields {
            command.arg(field).arg(value);
        }
        command.query(&mut self.connection).expect("XADD")
    }
}

fn name(host: &str) -> HostName {
    host.parse().expect("a valid host name")
}

fn targets(hosts: &[&str]) -> Targets {
    Targets::new(hosts.iter().map(|host| name(host)))
}
