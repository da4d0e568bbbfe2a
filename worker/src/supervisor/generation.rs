//! One process of a service, from its start to its end.

use std::{io, os::unix::net::UnixStream, path::Path, time::Duration, time::SystemTime};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use procfs_core::process::Stat;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    Event, child,
    family::{self, Started},
    launch::Launch,
    log::Log,
    requests::Process,
    sockets::Socket,
};

/// How long somebody else may hold the output open after a process has ended.
const DRAIN_OUTPUT: Duration = Duration::from_millis(200);

/// Bytes that are read at once of what a process prints.
const PIECE: usize = 4096;

/// One process of a service, with all that it starts.
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) started: Started,
    pub(super) since: Instant,
    pub(super) launched: bool,
    /// How long it may take to end.
    pub(super) drain: Duration,
    /// Why its program could not be executed.
    pub(super) problem: Option<String>,
    /// How it ended, as soon as that is known.
    pub(super) exit: Option<String>,
    /// The same, once all that it printed is in the log.
    pub(super) ended: Option<String>,
    since_ms: u64,
    release: Option<String>,
    /// Those that it alone has are closed with it.
    sockets: Vec<Socket>,
    /// Whether one of its processes may still have a listening socket open.
    accepts: bool,
    tasks: Option<(JoinHandle<()>, JoinHandle<()>)>,
}

impl Generation {
    /// Starts a process. `record` is told its id before its program runs.
    pub(super) fn start(
        launch: &Launch,
        sockets: Vec<Socket>,
        number: u64,
        directory: &Path,
        log: &Log,
        events: &mpsc::Sender<Event>,
        record: impl FnOnce(Started),
    ) -> Result<Self, child::SpawnError> {
        let (reader, writer) = io::pipe()?;
        let waiting = child::spawn(launch, directory, number, sockets.clone(), writer)?;
        let started = Started::of(waiting.pid);
        record(started);
        // If it takes no order, it has ended, which is reported as of any other.
        let line = waiting.go().ok();
        let says = tokio::spawn(listen(line, number, events.clone()));
        let prints = tokio::spawn(copy(reader, log.clone()));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            number,
            started,
            since: Instant::now(),
            launched: false,
            drain: Duration::from_millis(launch.drain_ms),
            problem: None,
            exit: None,
            ended: None,
            since_ms: protocol::clock::millis(now),
            release: launch.release.clone(),
            accepts: !sockets.is_empty(),
            sockets,
            tasks: Some((says, prints)),
        })
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.started.pid)
    }

    /// Whether it has started this process, or is it.
    pub(super) fn owns(&self, process: &Stat) -> bool {
        family::belongs(process, self.pid(), self.number)
    }

    /// Its processes that still run, the first one included.
    fn processes(&self) -> Vec<Stat> {
        let mut processes = family::descendants();
        processes.retain(|process| self.owns(process));
        processes
    }

    /// Sends a signal to the process and all that it has started, once to each.
    pub(super) fn signal(&self, signal: Signal) {
        let mut processes = self.processes();
        // Once it has ended, its number may be another's. Before it has a session of its own, it is alone.
        if self.exit.is_none() {
            if killpg(self.pid(), signal).is_err() {
                let _ = kill(self.pid(), signal);
            }
            processes.retain(|process| ![process.pid, process.pgrp].contains(&self.started.pid));
        }
        family::signal(&processes, signal);
    }

    /// Whether its process has ended, and all that it had started.
    pub(super) fn is_over(&self) -> bool {
        self.exit.is_some() && self.processes().is_empty()
    }

    /// Whether one of its processes has one of these listening sockets open, and so may answer who connects. What has
    /// closed them does not get them back.
    pub(super) fn accepts(&mut self, inodes: &[u64]) -> bool {
        self.accepts = self.accepts && self.processes().iter().any(|process| family::has_socket(process.pid, inodes));
        self.accepts
    }

    /// All of it has ended: reports [`Event::Gone`] when all that it has printed is written.
    pub(super) fn finish(&mut self, log: &Log, events: &mpsc::Sender<Event>) {
        let Some((says, prints)) = self.tasks.take() else { return };
        let (number, log, events) = (self.number, log.clone(), events.clone());
        tokio::spawn(async move {
            let _ = says.await;
            let abort = prints.abort_handle();
            if timeout(DRAIN_OUTPUT, prints).await.is_err() {
                abort.abort();
            }
            log.flush().await;
            let _ = events.send(Event::Gone(number)).await;
        });
    }

    /// How it ended, in words.
    pub(super) fn end(&self) -> String {
        self.problem.clone().or_else(|| self.exit.clone()).unwrap_or_default()
    }

    pub(super) fn process(&self) -> Process {
        Process {
            pid: self.started.pid,
            launched: self.launched,
            since_ms: self.since_ms,
            release: self.release.clone(),
            addresses: self.sockets.iter().map(|socket| socket.open.address.clone()).collect(),
            ended: self.ended.clone(),
        }
    }
}

/// Waits until the program is executed, or for the reason why it is not.
async fn listen(line: Option<UnixStream>, number: u64, events: mpsc::Sender<Event>) {
    let read = async {
        let line = line.ok_or(io::ErrorKind::BrokenPipe)?;
        line.set_nonblocking(true)?;
        let mut text = String::new();
        tokio::net::UnixStream::from_std(line)?.take(4096).read_to_string(&mut text).await?;
        Ok(text)
    };
    let problem = read.await.unwrap_or_else(|error: io::Error| format!("it could not be started: {error}"));
    let _ = events.send(Event::Launched(number, Some(problem).filter(|problem| !problem.is_empty()))).await;
}

/// Copies what a process prints into the log.
async fn copy(reader: io::PipeReader, log: Log) {
    let Ok(mut reader) = pipe::Receiver::from_owned_fd(reader.into()) else { return };
    let mut buffer = vec![0; PIECE];
    while let Ok(count) = reader.read(&mut buffer).await
        && count > 0
    {
        log.print(buffer[..count].to_vec()).await;
    }
}
