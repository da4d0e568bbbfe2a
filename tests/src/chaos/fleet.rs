//! The fleet of a round: a Redis, and hosts. Each host has a worker behind a proxy of its own.

use std::{
    path::PathBuf,
    sync::{Mutex, atomic::AtomicBool, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use protocol::{keys::Keys, name::HostName};
use redis::Connection;

use super::{
    command::Command,
    disk::Disk,
    history::{About, History},
    lock,
    profile::{Bug, Profile},
    proxy::{Conditions, Proxy},
};
use crate::{Redis, Worker, WorkerOptions, chaos_worker};

/// How many hosts there are.
const HOSTS: usize = 3;

/// What the parts of a round share.
pub(super) struct Fleet {
    pub(super) profile: Profile,
    pub(super) redis: Mutex<Redis>,
    url: String,
    pub(super) keys: Keys,
    pub(super) hosts: Vec<Host>,
    /// The controller's proxy to Redis.
    pub(super) proxy: Proxy,
    pub(super) evidence: PathBuf,
    pub(super) history: History,
    pub(super) commands: Mutex<Vec<Command>>,
    /// How often Redis has lost acknowledged writes.
    pub(super) losses: AtomicU64,
    /// Whether load and faults still go on.
    pub(super) disturbed: AtomicBool,
}

/// A host and its worker.
pub(super) struct Host {
    pub(super) name: HostName,
    pub(super) proxy: Proxy,
    options: WorkerOptions,
    /// Dropped, and so unmounted, before the options' directory is removed.
    pub(super) disk: Option<Disk>,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    worker: Option<Worker>,
    /// The logs of earlier processes.
    log: String,
    halted: bool,
    /// The point at which it is to die, unless a signal ends it before.
    dies_at: Option<&'static str>,
}

impl Fleet {
    /// Starts a fleet. `None` where this machine lacks what the profile needs.
    pub(super) fn start(profile: Profile, bug: Option<Bug>) -> Option<Self> {
        let redis = Redis::options().aof(profile.aof()).start();
        let hosts: Vec<Host> = (1..=HOSTS).map(|n| Host::new(&redis, &format!("web{n}"), profile, bug)).collect();
        if profile == Profile::FullDisk && hosts.iter().any(|host| host.disk.is_none()) {
            return None;
        }
        let fleet = Self {
            profile,
            url: redis.url(),
            keys: Keys::new(None),
            proxy: Proxy::to(redis.socket()),
            evidence: redis.directory().join("evidence"),
            redis: Mutex::new(redis),
            hosts,
            history: History::default(),
            commands: Mutex::default(),
            losses: AtomicU64::new(0),
            disturbed: AtomicBool::new(true),
        };
        for host in 0..HOSTS {
            fleet.start_worker(host, None);
        }
        Some(fleet)
    }

    /// The URL of Redis, past all proxies.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A connection past all proxies; `None` where Redis is away.
    pub(super) fn connect(&self) -> Option<Connection> {
        connect(&self.url)
    }

    pub(super) fn is_disturbed(&self) -> bool {
        self.disturbed.load(Ordering::Relaxed)
    }

    /// Starts a host's worker. It may have to die when it reaches a named point for the nth time.
    pub(super) fn start_worker(&self, host: usize, dies_at: Option<(&'static str, u8)>) {
        let death = dies_at.map(|(point, nth)| format!(", to die at {point}, time {nth}")).unwrap_or_default();
        self.history.note(About::Host(host), format!("worker starts{death}"));
        let Host { options, life, .. } = &self.hosts[host];
        let options = dies_at.into_iter().fold(options.clone(), |options, (point, nth)| {
            let name = point.rsplit(' ').next().unwrap_or_default();
            options.env("REDFLEET_CHAOS_KILL", &format!("{name}:{nth}"))
        });
        let mut life = lock(life);
        life.worker = Some(options.start());
        life.halted = false;
        life.dies_at = dies_at.map(|(point, _)| point);
    }

    /// Whether the host's worker has ended. If so its end is noted and its log is kept.
    pub(super) fn reap_worker(&self, host: usize) -> bool {
        let mut life = lock(&self.hosts[host].life);
        let Some(mut worker) = life.worker.take_if(Worker::has_ended) else { return life.worker.is_none() };
        worker.kill9();
        // What it ran goes on, as after a real crash: the next worker handles it.
        life.log += &worker.wait_log_closed();
        let point = life.dies_at.take();
        drop(life);
        self.history.note(About::Host(host), "worker has died");
        if let Some(point) = point {
            self.history.fault(point, About::Host(host), "as planned");
        }
        true
    }

    /// Restarts every worker that has ended.
    pub(super) fn restart_dead_workers(&self) {
        for number in 0..self.hosts.len() {
            if self.reap_worker(number) {
                self.start_worker(number, None);
            }
        }
    }

    /// Undoes every lasting fault and restarts the workers that have ended.
    pub(super) fn heal(&self) {
        self.history.note(About::Everybody, "load and faults end; all is healed");
        for host in &self.hosts {
            host.proxy.set(Conditions::default());
            host.proxy.cut(super::proxy::Cut::Both);
            host.disk.iter().for_each(Disk::free);
            host.cont();
        }
        self.restart_dead_workers();
        self.proxy.set(Conditions::default());
        self.proxy.cut(super::proxy::Cut::Both);
    }
}

/// A connection with short timeouts; `None` where Redis does not reply.
pub(super) fn connect(url: &str) -> Option<Connection> {
    let patience = Duration::from_secs(5);
    let connection = redis::Client::open(url).ok()?.get_connection_with_timeout(patience).ok()?;
    connection.set_read_timeout(Some(patience)).ok()?;
    connection.set_write_timeout(Some(patience)).ok()?;
    Some(connection)
}

impl Host {
    fn new(redis: &Redis, name: &str, profile: Profile, bug: Option<Bug>) -> Self {
        let proxy = Proxy::to(redis.socket());
        let options = Worker::on(redis)
            .redis(&proxy.url())
            .host(name)
            .program(chaos_worker())
            .env("REDFLEET_LOG", "debug")
            .config("slots = 4\ngrace = '300ms'\nsample_interval = '2s'")
            .allow_exec();
        let options =
            bug.into_iter().fold(options, |options, bug| options.env("REDFLEET_CHAOS_BUG", &format!("{bug:?}")));
        let disk = (profile == Profile::FullDisk).then(|| Disk::mount(&options.directory().join("state"))).flatten();
        Self { name: name.parse().expect("a valid host name"), proxy, options, disk, life: Mutex::default() }
    }

    /// Kills the worker, but not what it runs.
    pub(super) fn kill9(&self) {
        lock(&self.life).dies_at = None;
        self.with(Worker::kill9);
    }

    /// Sends SIGTERM to the worker.
    pub(super) fn term(&self) {
        lock(&self.life).dies_at = None;
        self.with(|worker| worker.term());
    }

    /// Sends SIGSTOP to the worker.
    pub(super) fn halt(&self) {
        self.with(|worker| worker.stop());
        lock(&self.life).halted = true;
    }

    /// Sends SIGCONT to a halted worker.
    pub(super) fn cont(&self) {
        if std::mem::take(&mut lock(&self.life).halted) {
            self.with(|worker| worker.cont());
        }
    }

    /// The worker's resident memory in kB.
    pub(super) fn rss_kb(&self) -> u64 {
        self.with(|worker| worker.rss_kb()).unwrap_or(0)
    }

    /// The logs of all its workers.
    pub(super) fn log(&self) -> String {
        let life = lock(&self.life);
        life.log.clone() + &life.worker.as_ref().map(Worker::log).unwrap_or_default()
    }

    /// Acts on the worker, where there is a living one.
    fn with<T>(&self, act: impl FnOnce(&mut Worker) -> T) -> Option<T> {
        let mut life = lock(&self.life);
        let worker = life.worker.as_mut()?;
        (!worker.has_ended()).then(|| act(worker))
    }
}
