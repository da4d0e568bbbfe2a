//! The state of a supervisor, and what changes it.

use std::{fs, path::PathBuf, time::Duration};

use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Event, WANTED,
    control::Client,
    family::{self, Record, Started},
    generation::Generation,
    launch::Launch,
    log::Log,
    replace,
    requests::{Place, Process, Reply, Request, Status, VERSION},
    sockets::{self, Socket},
};

/// How long a process that has crashed is not started again: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// After so long, a crash counts as the first one again.
const STEADY: Duration = Duration::from_secs(10);

/// How often all that ends is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How often KILL is sent to what does not end.
const KILL_EVERY: Duration = Duration::from_secs(1);

/// How long a supervisor with nothing to do waits for the client that has started it.
const FIRST_CLIENT: Duration = Duration::from_secs(30);

/// A process that may become the running one.
struct Candidate {
    owner: Client,
    place: Place,
    launch: Launch,
    sockets: Vec<Socket>,
    /// None as long as it waits for the end of the one before.
    generation: Option<Generation>,
    /// Why it could not be started at its turn.
    problem: Option<String>,
}

/// All that a supervisor knows.
pub(super) struct Supervisor {
    directory: PathBuf,
    log: Log,
    events: mpsc::Sender<Event>,
    /// What is to run.
    wanted: Option<Launch>,
    /// Its sockets, once they are open.
    sockets: Vec<Socket>,
    running: Option<Generation>,
    candidate: Option<Candidate>,
    /// What has got TERM, and when it gets KILL.
    retiring: Vec<(Generation, Instant)>,
    /// The number of the next process.
    next: u64,
    clients: usize,
    /// Until when a first client is waited for.
    wait_until: Instant,
    crashes: u64,
    last_end: Option<String>,
    backoff: Duration,
    start_at: Option<Instant>,
    /// When all that is left gets KILL.
    stopping: Option<Instant>,
}

impl Supervisor {
    pub(super) fn new(directory: PathBuf, log: Log, events: mpsc::Sender<Event>, wanted: Option<Launch>) -> Self {
        Self {
            directory,
            log,
            events,
            start_at: wanted.is_some().then(Instant::now),
            wanted,
            sockets: Vec::new(),
            running: None,
            candidate: None,
            retiring: Vec::new(),
            next: 1,
            clients: 0,
            wait_until: Instant::now() + FIRST_CLIENT,
            crashes: 0,
            last_end: None,
            backoff: BACKOFF.0,
            stopping: None,
        }
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_done(&self) -> bool {
        let idle = self.running.is_none() && self.candidate.is_none() && self.retiring.is_empty();
        let is_over = self.wanted.is_none() && self.clients == 0 && Instant::now() >= self.wait_until;
        idle && if self.stopping.is_some() { family::descendants().is_empty() } else { is_over }
    }

    /// When [`Self::tick`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.stopping.is_some() {
            return Some(Instant::now() + LOOK_EVERY);
        }
        let start = self.start_at.filter(|_| self.may_start());
        let start = start.or_else(|| (self.wanted.is_none() && self.clients == 0).then_some(self.wait_until));
        self.retiring.iter().map(|(_, kill_at)| *kill_at).chain(start).min()
    }

    /// Whether what is wanted may be started now, next to what still ends.
    fn may_start(&self) -> bool {
        let overlap = self.wanted.as_ref().is_some_and(|wanted| wanted.overlap);
        self.running.is_none() && self.candidate.is_none() && (overlap || self.retiring.is_empty())
    }

    /// Does what is due.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        for (generation, kill_at) in self.retiring.iter_mut().filter(|(_, kill_at)| *kill_at <= now) {
            self.log.note(&format!("process {} has not ended in time: KILL", generation.pid()));
            generation.signal(Signal::SIGKILL);
            *kill_at = now + KILL_EVERY;
        }
        self.part();
        if self.stopping.is_some_and(|kill_at| kill_at <= now) {
            family::signal(&family::descendants(), Signal::SIGKILL);
        }
        if self.start_at.is_some_and(|at| at <= now) && self.may_start() {
            self.start_at = None;
            self.start_wanted();
        }
    }

    fn start_wanted(&mut self) {
        let Some(wanted) = self.wanted.clone() else { return };
        let sockets = sockets::shared(&wanted, &self.sockets).map_err(|error| error.to_string());
        let started = sockets.and_then(|sockets| {
            self.sockets.clone_from(&sockets);
            self.start(&wanted, sockets)
        });
        match started {
            Ok(generation) => self.running = Some(generation),
            Err(problem) => self.failed(problem),
        }
    }

    /// What is wanted has ended, or could not be started: it is started again later.
    fn failed(&mut self, how: String) {
        self.crashes += 1;
        self.log.note(&format!("{how}; it is started again in {} ms", self.backoff.as_millis()));
        self.last_end = Some(how);
        self.start_at = Some(Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    fn start(&mut self, launch: &Launch, sockets: Vec<Socket>) -> Result<Generation, String> {
        let number = self.next;
        self.next += 1;
        let mut processes: Vec<Started> = self.generations().map(|generation| generation.started).collect();
        let all_sockets = self.sockets.iter().chain(&sockets).map(|socket| socket.open.inode).collect();
        let record = |started| {
            processes.push(started);
            // If the disk is full, the next supervisor still finds them by the marks in their environment.
            let record = Record { processes, sockets: all_sockets, ..Record::default() };
            if let Err(error) = family::record(&self.directory, record) {
                self.log.note(&format!("cannot record the process: {error}"));
            }
        };
        let started = Generation::start(launch, sockets, number, &self.directory, &self.log, &self.events, record);
        let generation = started.map_err(|error| error.to_string())?;
        self.log.note(&format!("process {} is started: {}", generation.pid(), launch.argv.join(" ")));
        Ok(generation)
    }

    fn generations(&self) -> impl Iterator<Item = &Generation> {
        let candidate = self.candidate.as_ref().and_then(|candidate| candidate.generation.as_ref());
        self.running.iter().chain(candidate).chain(self.retiring.iter().map(|(generation, _)| generation))
    }

    fn generations_mut(&mut self) -> impl Iterator<Item = &mut Generation> {
        let candidate = self.candidate.as_mut().and_then(|candidate| candidate.generation.as_mut());
        self.running.iter_mut().chain(candidate).chain(self.retiring.iter_mut().map(|(generation, _)| generation))
    }

    /// Takes the exit status of all that has ended: its own processes, and orphans of theirs.
    pub(super) fn reap(&mut self) {
        loop {
            let (pid, how) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit code {code}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("ended by {}", signal.as_str())),
                Err(Errno::EINTR) => continue,
                Ok(_) | Err(_) => break,
            };
            let (log, events) = (self.log.clone(), self.events.clone());
            let retires = self.retiring.iter().any(|(generation, _)| generation.pid() == pid);
            if let Some(generation) = self.generations_mut().find(|generation| generation.pid() == pid) {
                generation.exit = Some(how);
                // What a crash leaves behind would be in the way of the next process. What was told to end finishes its
                // work: it may be the server itself, behind a shell that TERM has ended at once.
                if !retires {
                    generation.signal(Signal::SIGKILL);
                    generation.finish(&log, &events);
                }
            }
        }
        self.part();
    }

    /// Lets go of what was told to end and of which nothing is left. Orphans are children of this process, so that the
    /// end of the last one is noticed.
    fn part(&mut self) {
        for (generation, _) in self.retiring.iter_mut().filter(|(generation, _)| generation.is_over()) {
            generation.finish(&self.log, &self.events);
        }
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Came => self.clients += 1,
            Event::Left(client) => {
                self.clients -= 1;
                if self.candidate.as_ref().is_some_and(|candidate| candidate.owner == client) {
                    self.discard();
                }
                self.wait_until = Instant::now();
            }
            Event::Asked(client, request, reply) => {
                let error = self.carry_out(client, request).err();
                let status = self.status();
                let _ = reply.send(Reply { error, status });
            }
            Event::Launched(number, problem) => {
                if let Some(generation) = self.generations_mut().find(|generation| generation.number == number) {
                    generation.launched = problem.is_none();
                    generation.problem = problem;
                }
            }
            Event::Gone(number) => self.gone(number),
        }
    }

    fn gone(&mut self, number: u64) {
        if let Some(generation) = self.running.take_if(|running| running.number == number) {
            if generation.since.elapsed() >= STEADY {
                self.backoff = BACKOFF.0;
            }
            if self.stopping.is_none() {
                self.failed(generation.end());
            }
        } else if let Some(index) = self.retiring.iter().position(|(generation, _)| generation.number == number) {
            let (generation, _) = self.retiring.swap_remove(index);
            self.log.note(&format!("process {} is gone: {}", generation.pid(), generation.end()));
            self.start_waiting();
        } else if let Some(candidate) = &mut self.candidate
            && let Some(generation) = candidate.generation.as_mut().filter(|generation| generation.number == number)
        {
            generation.ended = Some(generation.end());
            self.log.note(&format!("process {} has ended: {}", generation.pid(), generation.end()));
        }
    }

    /// Starts the candidate that has waited for the end of all others.
    fn start_waiting(&mut self) {
        let waits = |candidate: &&mut Candidate| candidate.generation.is_none() && candidate.problem.is_none();
        if !self.retiring.is_empty() || self.stopping.is_some() {
            return;
        }
        let Some(candidate) = self.candidate.as_mut().filter(waits) else { return };
        let (launch, sockets) = (candidate.launch.clone(), candidate.sockets.clone());
        let started = self.start(&launch, sockets);
        if let Some(candidate) = &mut self.candidate {
            match started {
                Ok(generation) => candidate.generation = Some(generation),
                Err(problem) => candidate.problem = Some(problem),
            }
        }
    }

    fn carry_out(&mut self, client: Client, request: Request) -> Result<(), String> {
        let is_owner = self.candidate.as_ref().is_some_and(|candidate| candidate.owner == client);
        match request {
            Request::Status => Ok(()),
            _ if self.stopping.is_some() => Err("it is being stopped".into()),
            Request::Stop => {
                self.stop(true);
                Ok(())
            }
            Request::Prepare { .. } if self.candidate.is_some() => {
                Err("somebody else is about to replace its process".into())
            }
            Request::Prepare { launch, place } => self.prepare(client, *launch, place),
            Request::Switch | Request::Discard if !is_owner => Err("there is no candidate of yours".into()),
            Request::Switch => self.switch(),
            Request::Discard => {
                self.discard();
                Ok(())
            }
            Request::Reload => match self.running.as_ref().filter(|running| running.exit.is_none()) {
                Some(running) => {
                    nix::sys::signal::kill(running.pid(), Signal::SIGHUP).map_err(|error| error.to_string())
                }
                None => Err("no process runs".into()),
            },
        }
    }

    fn prepare(&mut self, owner: Client, launch: Launch, place: Place) -> Result<(), String> {
        let sockets = match place {
            Place::Private => sockets::private(&launch, &self.directory, self.next),
            Place::Beside | Place::Instead => sockets::shared(&launch, &self.sockets),
        };
        let sockets = sockets.map_err(|error| error.to_string())?;
        let mut generation = None;
        if place == Place::Instead {
            self.retire_running();
        }
        if place != Place::Instead || self.retiring.is_empty() {
            generation = Some(self.start(&launch, sockets.clone())?);
        }
        self.candidate = Some(Candidate { owner, place, launch, sockets, generation, problem: None });
        Ok(())
    }

    fn switch(&mut self) -> Result<(), String> {
        let ready = |candidate: &mut Candidate| {
            let alive = candidate.generation.as_ref().is_some_and(|generation| generation.exit.is_none());
            alive && candidate.place != Place::Private
        };
        let Some(candidate) = self.candidate.take_if(ready) else { return Err("the candidate does not run".into()) };
        let text = serde_json::to_vec(&candidate.launch).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| replace(&self.directory.join(WANTED), &text)) {
            self.candidate = Some(candidate);
            return Err(format!("cannot write down what is wanted: {error}"));
        }
        let before = std::mem::replace(&mut self.running, candidate.generation);
        (self.wanted, self.sockets) = (Some(candidate.launch), candidate.sockets);
        (self.crashes, self.last_end, self.backoff, self.start_at) = (0, None, BACKOFF.0, None);
        if let Some(before) = before {
            self.retire(before);
        }
        Ok(())
    }

    /// Ends the candidate. What was wanted before runs on, or is started again.
    fn discard(&mut self) {
        let Some(candidate) = self.candidate.take() else { return };
        if let Some(generation) = candidate.generation.filter(|generation| generation.ended.is_none()) {
            self.retire(generation);
        }
        if self.running.is_none() && self.wanted.is_some() && self.stopping.is_none() && self.start_at.is_none() {
            self.start_at = Some(Instant::now());
        }
    }

    fn retire_running(&mut self) {
        if let Some(running) = self.running.take() {
            self.retire(running);
        }
    }

    /// Sends TERM to a process, and KILL when its time is over.
    fn retire(&mut self, generation: Generation) {
        generation.signal(Signal::SIGTERM);
        let kill_at = Instant::now() + generation.drain;
        self.retiring.push((generation, kill_at));
    }

    /// Ends all. `for_good`: nothing is wanted any more; otherwise the next supervisor starts it again.
    pub(super) fn stop(&mut self, for_good: bool) {
        if for_good {
            self.wanted = None;
            let _ = fs::remove_file(self.directory.join(WANTED));
        }
        if self.stopping.is_some() {
            return;
        }
        self.start_at = None;
        self.discard();
        self.retire_running();
        // What has left its session is told, too.
        let mut others = family::descendants();
        others.retain(|process| !self.generations().any(|generation| generation.owns(process)));
        family::signal(&others, Signal::SIGTERM);
        self.stopping = Some(self.retiring.iter().map(|(_, kill_at)| *kill_at).max().unwrap_or_else(Instant::now));
    }

    fn status(&mut self) -> Status {
        let candidate = self.candidate.as_ref().map(|candidate| match &candidate.generation {
            Some(generation) => generation.process(),
            None => Process {
                pid: 0,
                launched: false,
                since_ms: 0,
                release: candidate.launch.release.clone(),
                addresses: Vec::new(),
                ended: candidate.problem.clone(),
            },
        });
        let now = Instant::now();
        let inodes: Vec<u64> = self.sockets.iter().map(|socket| socket.open.inode).collect();
        Status {
            version: VERSION,
            running: self.running.as_ref().map(Generation::process),
            candidate,
            retiring: self.retiring.iter().map(|(generation, _)| generation.started.pid).collect(),
            old_accepts: self.retiring.iter_mut().any(|(old, _)| old.accepts(&inodes)),
            crashes: self.crashes,
            last_end: self.last_end.clone(),
            next_start_ms: self.start_at.map(|at| protocol::clock::millis(at.saturating_duration_since(now))),
            stopping: self.stopping.is_some(),
        }
    }
}
