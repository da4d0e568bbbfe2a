//! The load: commands at random, sent by the protocol itself, so that their ids are known and a retry
//! is under the same id.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use protocol::{clock::millis, control::Control, limits, time::Millis};
use redis::{Connection, Pipeline, RedisResult};

use super::{
    command::{Command, Sending},
    fleet::{self, Fleet},
    history::About,
    lock, now,
};

/// How soon something is tried again that Redis did not acknowledge.
const RETRY: Duration = Duration::from_millis(50);

/// Something that remains to be done about a command.
#[derive(Clone, Copy)]
enum Later {
    Send,
    Cancel,
}

/// The controller.
pub(super) struct Load<'a> {
    fleet: &'a Fleet,
    random: Rng,
    connection: Option<Connection>,
    later: Vec<(Instant, usize, Later)>,
    losses: u64,
}

impl<'a> Load<'a> {
    pub(super) fn new(fleet: &'a Fleet, seed: u64) -> Self {
        Self { fleet, random: Rng::with_seed(seed), connection: None, later: Vec::new(), losses: 0 }
    }

    /// Sends commands until the disturbance ends, and then whatever remains to be sent.
    pub(super) fn run(mut self) {
        while self.fleet.is_disturbed() {
            // Some come in bursts larger than a host has slots.
            let burst = if self.random.u8(..20) == 0 { 30 } else { self.random.usize(1..6) };
            (0..burst).for_each(|_| self.one());
            self.due();
            self.send_again_after_a_loss();
            thread::sleep(Duration::from_millis(self.random.u64(..160)));
        }
        while !self.later.is_empty() {
            self.later.iter_mut().for_each(|(at, ..)| *at = Instant::now());
            self.due();
            thread::sleep(RETRY);
        }
    }

    fn one(&mut self) {
        let hosts: Vec<_> = self.fleet.hosts.iter().map(|host| host.name.clone()).collect();
        let number = lock(&self.fleet.commands).len();
        let command = Command::draw(&mut self.random, number, &hosts, &self.fleet.evidence);
        let (sending, cancel_after) = (command.sending, command.cancel_after);
        lock(&self.fleet.commands).push(command.clone());
        if command.cancel_first {
            let done = self.cancel(&command);
            self.cancelled(&command, done, true);
        }
        match sending {
            Sending::KilledMidway => {
                self.die_midway(&command);
                let after = Duration::from_millis(self.random.u64(..500));
                self.plan(after, number, Later::Send);
            }
            Sending::Abandoned => self.send(&command, false),
            Sending::Plain => self.send(&command, true),
            Sending::Again { after } => {
                self.send(&command, true);
                self.plan(after, number, Later::Send);
            }
        }
        if let Some(after) = cancel_after {
            self.plan(after, number, Later::Cancel);
        }
    }

    fn plan(&mut self, after: Duration, number: usize, later: Later) {
        self.later.push((Instant::now() + after, number, later));
    }

    /// Does what is due.
    fn due(&mut self) {
        let due: Vec<_> = self.later.extract_if(.., |(at, ..)| *at <= Instant::now()).collect();
        for (_, number, later) in due {
            let command = lock(&self.fleet.commands)[number].clone();
            match later {
                Later::Send => self.send(&command, true),
                Later::Cancel => {
                    let done = self.cancel(&command);
                    self.cancelled(&command, done, false);
                    if !done {
                        self.plan(RETRY, number, Later::Cancel);
                    }
                }
            }
        }
    }

    /// The controllers that wait for these commands notice that Redis has lost something.
    fn send_again_after_a_loss(&mut self) {
        let losses = self.fleet.losses.load(Ordering::Relaxed);
        if losses == std::mem::replace(&mut self.losses, losses) {
            return;
        }
        let waiting = |command: &&Command| command.acknowledged.is_some() && !command.has_ended();
        let waiting: Vec<_> = lock(&self.fleet.commands).iter().filter(waiting).map(|command| command.number).collect();
        for number in waiting {
            let after = Duration::from_millis(self.random.u64(..600));
            self.plan(after, number, Later::Send);
        }
    }

    fn send(&mut self, command: &Command, retry: bool) {
        self.note(command, "sending");
        let pipeline = dispatch(self.fleet, command);
        let result = self.ask(|connection| pipeline.exec(connection));
        match result {
            Ok(()) => {
                self.note(command, "Redis has acknowledged it");
                lock(&self.fleet.commands)[command.number].acknowledged.get_or_insert_with(now);
            }
            Err(error) => {
                self.note(command, &format!("not acknowledged: {error}"));
                if retry {
                    self.plan(RETRY, command.number, Later::Send);
                }
            }
        }
    }

    /// Says a part of what there is to say, and is gone.
    fn die_midway(&mut self, command: &Command) {
        let bytes = dispatch(self.fleet, command).get_packed_pipeline();
        let part = &bytes[..self.random.usize(..=bytes.len())];
        self.note(command, &format!("the controller dies after {} of {} bytes", part.len(), bytes.len()));
        self.fleet.history.fault("controller killed midway", About::Command(command.number), "");
        let socket = self.fleet.url().strip_prefix("unix://").unwrap_or_default();
        if let Ok(mut stream) = UnixStream::connect(Path::new(socket)) {
            // Where Redis is away, nothing of it arrives.
            let _ = stream.write_all(part);
        }
    }

    fn cancel(&mut self, command: &Command) -> bool {
        self.note(command, "cancelling");
        let key = self.fleet.keys.control(&self.fleet.hosts[command.host].name);
        let mut pipeline = redis::pipe();
        pipeline.cmd("XADD").arg(key).arg("MAXLEN").arg("~").arg(limits::CONTROL_ENTRIES).arg("*");
        for (name, value) in Control::Cancel(command.job()).fields() {
            pipeline.arg(name).arg(value);
        }
        self.ask(|connection| pipeline.exec(connection)).is_ok()
    }

    fn cancelled(&self, command: &Command, acknowledged: bool, first: bool) {
        self.note(command, if acknowledged { "cancel acknowledged" } else { "cancel not acknowledged" });
        let mut commands = lock(&self.fleet.commands);
        let command = &mut commands[command.number];
        command.cancelled.get_or_insert_with(now);
        command.cancelled_first |= first && acknowledged;
    }

    fn ask<T>(&mut self, act: impl FnOnce(&mut Connection) -> RedisResult<T>) -> RedisResult<T> {
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

/// What `ctl` says to make a job and to send it.
pub(super) fn dispatch(fleet: &Fleet, command: &Command) -> Pipeline {
    let host = &fleet.hosts[command.host].name;
    let (keys, manifest) = (&fleet.keys, &command.manifest);
    let key = keys.job(command.job());
    let waits = manifest.start_by_ms.saturating_sub(manifest.issued_at_ms);
    let horizon: Millis = now().saturating_sub(millis(limits::START_BY_MAX));
    let mut pipeline = redis::pipe();
    pipeline.hset_multiple(&key, &command.job_fields(host));
    pipeline.cmd("PEXPIRE").arg(&key).arg(manifest.retention_ms + waits + manifest.timeout_ms);
    pipeline.cmd("ZADD").arg(keys.jobs()).arg(manifest.issued_at_ms).arg(command.job().to_string());
    pipeline.cmd("ZREMRANGEBYRANK").arg(keys.jobs()).arg(0).arg(format!("-{}", limits::JOBS + 1));
    pipeline.cmd("XADD").arg(keys.commands(host)).arg("MINID").arg("~").arg(horizon).arg("*");
    for (name, value) in command.envelope.fields() {
        pipeline.arg(name).arg(value);
    }
    pipeline
}
