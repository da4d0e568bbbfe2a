//! Shorthands to send commands by hand and to watch them.

use protocol::{
    command::Manifest,
    event::EventKind,
    keys::{CONSUMER_GROUP, Keys},
    name::HostName,
    outcome::{Outcome, State},
};

use crate::{Raw, eventually};

impl Raw {
    /// A manifest that runs a line of shell.
    pub fn shell(&mut self, host: &str, script: &str) -> Manifest {
        self.exec(&[host], &["sh", "-c", script])
    }

    /// Sends `manifest` and waits for its outcome.
    #[track_caller]
    pub fn run(&mut self, host: &str, manifest: &Manifest) -> Outcome {
        self.send(host, manifest);
        self.outcome(host, manifest)
    }

    /// Runs a `ping`, which must succeed.
    #[track_caller]
    pub fn ping(&mut self, host: &str) {
        let ping = self.manifest(&[host], "ping");
        assert_eq!(self.run(host, &ping).state, State::Succeeded);
    }

    /// The state that `host` published for a job; none where it has published nothing.
    pub fn state(&mut self, host: &str, manifest: &Manifest) -> Option<State> {
        let state: Option<String> = self.query(&["HGET", &Keys::new(None).job_hosts(manifest.job), host]);
        state.map(|state| state.parse().expect("a known state"))
    }

    /// Waits until `host` has published this state.
    #[track_caller]
    pub fn wait_state(&mut self, host: &str, manifest: &Manifest, state: State) {
        eventually(&format!("the job to be {state}"), || (self.state(host, manifest) == Some(state)).then_some(()));
    }

    /// Waits until all of these have ended, within one deadline for all.
    #[track_caller]
    pub fn wait_all(&mut self, host: &str, manifests: &[Manifest]) {
        eventually("all jobs to end", || {
            manifests.iter().all(|manifest| self.state(host, manifest).is_some_and(State::is_terminal)).then_some(())
        });
    }

    /// The states that the job's events report, in order.
    pub fn states(&mut self, manifest: &Manifest) -> Vec<State> {
        let state = |kind: &EventKind| match kind {
            EventKind::State(state) => Some(*state),
            EventKind::Waits(_) => Some(State::Delivered),
            EventKind::Progress(_) | EventKind::CancelOrdered => None,
        };
        let mut states: Vec<_> = self.events(manifest).iter().filter_map(|event| state(&event.kind)).collect();
        // What a command waits for may change.
        states.dedup_by(|next, before| *next == State::Delivered && next == before);
        states
    }

    /// How many entries of the host's inbox are pending: delivered, not acknowledged.
    pub fn pending(&mut self, host: &str) -> u64 {
        self.pending_in(&inbox(host))
    }

    fn pending_in(&mut self, key: &str) -> u64 {
        let summary: Vec<redis::Value> = self.query(&["XPENDING", key, CONSUMER_GROUP]);
        redis::from_redis_value(summary[0].clone()).expect("a number")
    }

    /// How many entries the host's inbox holds.
    pub fn queued(&mut self, host: &str) -> u64 {
        self.query(&["XLEN", &inbox(host)])
    }

    /// Waits until the host's inbox is empty: every command has an outcome, every entry is acknowledged and deleted.
    #[track_caller]
    pub fn wait_settled(&mut self, host: &str) {
        eventually("an empty inbox", || (self.queued(host) == 0 && self.pending(host) == 0).then_some(()));
    }

    /// Waits until the host's control stream is empty: every entry is read, acknowledged and deleted.
    #[track_caller]
    pub fn wait_control_settled(&mut self, host: &str) {
        let host: HostName = host.parse().expect("a valid host name");
        let key = Keys::new(None).control(&host);
        eventually("an empty control stream", || {
            (self.query::<u64>(&["XLEN", &key]) == 0 && self.pending_in(&key) == 0).then_some(())
        });
    }

    /// Waits until a worker has begun to block in a read: Redis delivers the next entry to it, even if the worker is halted
    /// before that. It blocks for seconds.
    #[track_caller]
    pub fn wait_reading(&mut self) {
        let begun = |client: &str| {
            let field = |name: &str| client.split(' ').find_map(|field| field.strip_prefix(name));
            let is_fresh = field("idle=").and_then(|idle| idle.parse().ok()).is_some_and(|idle: u64| idle < 3);
            is_fresh && field("cmd=") == Some("xreadgroup") && field("flags=").is_some_and(|flags| flags.contains('b'))
        };
        eventually("a worker to read", || {
            let clients: String = self.query(&["CLIENT", "LIST"]);
            clients.lines().any(begun).then_some(())
        });
    }

    /// How many clients block in a read.
    pub fn readers(&mut self) -> u64 {
        self.clients("blocked_clients:")
    }

    /// How many clients are connected, this one included.
    pub fn connections(&mut self) -> u64 {
        self.clients("connected_clients:")
    }

    fn clients(&mut self, which: &str) -> u64 {
        let info: String = self.query(&["INFO", "clients"]);
        let count = info.lines().find_map(|line| line.strip_prefix(which)).expect("a line of INFO");
        count.trim().parse().expect("a number")
    }
}

fn inbox(host: &str) -> String {
    let host: HostName = host.parse().expect("a valid host name");
    Keys::new(None).commands(&host)
}
