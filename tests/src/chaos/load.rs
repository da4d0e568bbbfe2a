//! The load: random commands. The harness writes them by itself, so that it knows their ids and repeats them
//! under the same id.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use redis::{Connection, Pipeline, RedisResult};

use super::{
    command::{Command, Sending},
    fleet::{self, Fleet},
    history::About,
    lock, now,
};
use crate::Raw;

/// The pause before a request that Redis did not acknowledge is sent again.
const RETRY: Duration = Duration::from_millis(50);

/// A planned request.
#[derive(Clone, Copy)]
enum Planned {
    Send,
    Cancel,
}

/// The controller of a round.
pub(super) struct Load<'a> {
    fleet: &'a Fleet,
    random: Rng,
    connection: Option<Connection>,
    planned: Vec<(Instant, usize, Planned)>,
    losses: u64,
}

impl<'a> Load<'a> {
    pub(super) fn new(fleet: &'a Fleet, seed: u64) -> Self {
        Self { fleet, random: Rng::with_seed(seed), connection: None, planned: Vec::new(), losses: 0 }
    }

    /// Sends commands until the disturbance ends, and then everything that is still planned.
    pub(super) fn run(mut self) {
        while self.fleet.is_disturbed() {
            // Some bursts are larger than a host's number of slots.
            let burst = if self.random.u8(..20) == 0 { 30 } else { self.random.usize(1..6) };
            (0..burst).for_each(|_| self.send_random());
            self.send_due();
            self.redispatch_after_a_loss();
            thread::sleep(Duration::from_millis(self.random.u64(..160)));
        }
        while !self.planned.is_empty() {
            self.planned.iter_mut().for_each(|(at, ..)| *at = Instant::now());
            self.send_due();
            thread::sleep(RETRY);
        }
    }

    /// Draws a command and sends it.
    fn send_random(&mut self) {
        let hosts: Vec<_> = self.fleet.hosts.iter().map(|host| host.name.clone()).collect();
        let number = lock(&self.fleet.commands).len();
        let command = Command::draw(&mut self.random, number, &hosts, &self.fleet.evidence);
        let (sending, cancel_after) = (command.sending, command.cancel_after);
        lock(&self.fleet.commands).push(command.clone());
        if command.cancel_first {
            let acknowledged = self.cancel(&command);
            self.note_cancel(&command, acknowledged, true);
        }
        match sending {
            Sending::KilledMidway => {
                self.die_midway(&command);
                let after = Duration::from_millis(self.random.u64(..500));
                self.plan(after, number, Planned::Send);
            }
            Sending::Abandoned => self.send(&command, false),
            Sending::Plain => self.send(&command, true),
            Sending::Again { after } => {
                self.send(&command, true);
                self.plan(after, number, Planned::Send);
            }
        }
        if let Some(after) = cancel_after {
            self.plan(after, number, Planned::Cancel);
        }
    }

    fn plan(&mut self, after: Duration, number: usize, request: Planned) {
        self.planned.push((Instant::now() + after, number, request));
    }

    /// Sends the planned requests that are due.
    fn send_due(&mut self) {
        let due: Vec<_> = self.planned.extract_if(.., |(at, ..)| *at <= Instant::now()).collect();
        for (_, number, request) in due {
            let command = lock(&self.fleet.commands)[number].clone();
            match request {
                Planned::Send => self.send(&command, true),
                Planned::Cancel => {
                    let acknowledged = self.cancel(&command);
                    self.note_cancel(&command, acknowledged, false);
                    if !acknowledged {
                        self.plan(RETRY, number, Planned::Cancel);
                    }
                }
            }
        }
    }

    /// Redispatches pending commands after Redis has lost writes, as a waiting `ctl` does.
    fn redispatch_after_a_loss(&mut self) {
        let losses = self.fleet.losses.load(Ordering::Relaxed);
        if losses == std::mem::replace(&mut self.losses, losses) {
            return;
        }
        let waiting = |command: &&Command| command.acknowledged.is_some() && !command.has_ended();
        let waiting: Vec<_> = lock(&self.fleet.commands).iter().filter(waiting).map(|command| command.number).collect();
        for number in waiting {
            let after = Duration::from_millis(self.random.u64(..600));
            self.plan(after, number, Planned::Send);
        }
    }

    fn send(&mut self, command: &Command, retry: bool) {
        self.note(command, "sending");
        let pipeline = dispatch(self.fleet, command);
        let result = self.query(|connection| pipeline.exec(connection));
        match result {
            Ok(()) => {
                self.note(command, "Redis has acknowledged it");
                lock(&self.fleet.commands)[command.number].acknowledged.get_or_insert_with(now);
            }
            Err(error) => {
                self.note(command, &format!("not acknowledged: {error}"));
                if retry {
                    self.plan(RETRY, command.number, Planned::Send);
                }
            }
        }
    }

    /// Sends a part of the bytes and drops the connection, as a controller that is killed.
    fn die_midway(&mut self, command: &Command) {
        let bytes = dispatch(self.fleet, command).get_packed_pipeline();
        let part = &bytes[..self.random.usize(..=bytes.len())];
        self.note(command, &format!("the controller dies after {} of {} bytes", part.len(), bytes.len()));
        self.fleet.history.fault("controller killed midway", About::Command(command.number), "");
        let socket = self.fleet.url().strip_prefix("unix://").unwrap_or_default();
        if let Ok(mut stream) = UnixStream::connect(Path::new(socket)) {
            // Where Redis is away, nothing arrives.
            let _ = stream.write_all(part);
        }
    }

    /// Sends an order to cancel; returns whether Redis has acknowledged it.
    fn cancel(&mut self, command: &Command) -> bool {
        self.note(command, "cancelling");
        let host = &self.fleet.hosts[command.host].name;
        let order = Raw::cancel_order(host.as_str(), &command.manifest).write(&self.fleet.keys, host);
        self.query(|connection| order.exec(connection)).is_ok()
    }

    fn note_cancel(&self, command: &Command, acknowledged: bool, first: bool) {
        self.note(command, if acknowledged { "cancel acknowledged" } else { "cancel not acknowledged" });
        let mut commands = lock(&self.fleet.commands);
        let command = &mut commands[command.number];
        command.cancelled.get_or_insert_with(now);
        command.cancelled_first |= first && acknowledged;
    }

    fn query<T>(&mut self, act: impl FnOnce(&mut Connection) -> RedisResult<T>) -> RedisResult<T> {
        if self.connection.is_none() {
            self.connection = fleet::connect(&self.fleet.proxy.url());
        }
        let Some(connection) = &mut self.connection else {
            return Err((redis::ErrorKind::Io, "no connection").into());
        };
        let result = act(connection);
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    fn note(&self, command: &Command, text: &str) {
        self.fleet.history.note(About::Command(command.number), text);
    }
}

/// What `ctl` sends to create a job and to dispatch its commands.
pub(super) fn dispatch(fleet: &Fleet, command: &Command) -> Pipeline {
    let (keys, record) = (&fleet.keys, &command.record);
    let mut pipeline = redis::pipe();
    for part in [record.write(keys), record.write_index(keys)] {
        for command in part.cmd_iter() {
            pipeline.add_command(command.clone());
        }
    }
    for (host, proof) in record.targets.proofs() {
        pipeline.add_command(record.write_command(keys, host, proof, None, now()));
    }
    pipeline
}
