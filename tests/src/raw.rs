//! Commands and other entries written by hand, as a faulty or hostile controller would.

use std::collections::HashMap;

use protocol::{
    action::{Argument, Arguments},
    clock::millis,
    command::{Envelope, Manifest},
    event::Event,
    keys::Keys,
    limits,
    name::HostName,
    outcome::Outcome,
    targets::Targets,
    time::Millis,
};
use redis::{Connection, ToRedisArgs};

use crate::{Redis, eventually};

/// A hand on a server: adds whatever a test wants.
pub struct Raw {
    connection: Connection,
    keys: Keys,
}

impl Raw {
    /// Without a namespace.
    pub fn on(redis: &Redis) -> Self {
        Self { connection: redis.blocking(), keys: Keys::new(None) }
    }

    /// Redis' clock.
    pub fn now(&mut self) -> Millis {
        let (seconds, micros): (u64, u64) = self.ask(&["TIME"]);
        seconds * 1000 + micros / 1000
    }

    /// Any command.
    #[track_caller]
    pub fn ask<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection).unwrap_or_else(|error| panic!("{words:?}: {error}"))
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

    /// A valid manifest for `hosts` with the usual deadlines, to be changed as the test wants.
    pub fn manifest(&mut self, hosts: &[&str], action: &str) -> Manifest {
        let now = self.now();
        Manifest {
            job: protocol::name::JobId::new(),
            action: action.into(),
            arguments: Arguments::new(),
            operator: "tests".into(),
            issued_at_ms: now,
            start_by_ms: now + millis(limits::START_BY_DEFAULT),
            timeout_ms: millis(limits::TIMEOUT_DEFAULT),
            retention_ms: millis(limits::RETENTION_DEFAULT),
            targets: targets(hosts).root(),
            trace: None,
        }
    }

    /// A manifest that runs a program.
    pub fn exec(&mut self, hosts: &[&str], argv: &[&str]) -> Manifest {
        let argv = argv.iter().map(ToString::to_string).collect();
        Manifest { arguments: Arguments::from([("argv".into(), Argument::List(argv))]), ..self.manifest(hosts, "exec") }
    }

    /// The entry that carries `manifest` to the first of `hosts`.
    pub fn envelope(manifest: &Manifest, hosts: &[&str]) -> Envelope {
        let first = name(hosts[0]);
        let targets = targets(hosts);
        let (_, proof) = targets.proofs().find(|(host, _)| **host == first).expect("a target");
        Envelope { manifest: manifest.encode(), signature: Vec::new(), proof }
    }

    /// Sends `manifest` to the one host it is for, without making the job's hash.
    pub fn send(&mut self, host: &str, manifest: &Manifest) -> String {
        let fields = Self::envelope(manifest, &[host]).fields();
        self.add(host, &fields)
    }

    /// Waits for the outcome of a job on `host`.
    #[track_caller]
    pub fn outcome(&mut self, host: &str, manifest: &Manifest) -> Outcome {
        let key = self.keys.job_result(manifest.job, &name(host));
        eventually("an outcome", || {
            let fields: HashMap<String, Vec<u8>> = self.ask(&["HGETALL", &key]);
            Outcome::from_fields(&fields)
        })
    }

    /// The events of a job so far.
    pub fn events(&mut self, manifest: &Manifest) -> Vec<Event> {
        let key = self.keys.job_events(manifest.job);
        let entries: Vec<(String, HashMap<String, Vec<u8>>)> = self.ask(&["XRANGE", &key, "-", "+"]);
        entries.iter().filter_map(|(_, fields)| Event::from_fields(fields)).collect()
    }

    /// Waits until the drop counter of that reason in the status of `host` is at least `count`.
    #[track_caller]
    pub fn wait_dropped(&mut self, host: &str, reason: &str, count: u64) {
        let key = self.keys.status(&name(host));
        let field = format!("dropped_{reason}");
        eventually(&format!("{field} to reach {count}"), || {
            let dropped: Option<u64> = self.ask(&["HGET", &key, &field]);
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
