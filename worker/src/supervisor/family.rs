//! The processes of a service: those of one generation, all of them, and those that a dead supervisor left.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procfs_core::{FromRead, process::Stat};
use serde::{Deserialize, Serialize};

/// The environment variable that names the directory of the service to which a process belongs.
pub(super) const SERVICE: &str = "REDFLEET_SERVICE";

/// The environment variable that numbers the processes of a service: all that a process starts has its number.
pub(super) const GENERATION: &str = "REDFLEET_GENERATION";

/// The file that names the processes that were started, for the next supervisor.
const FILE: &str = "processes.json";

/// How often processes that end are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long processes may take to end after KILL. Those that are left then hang in the kernel.
const DIE: Duration = Duration::from_secs(5);

/// A process that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) pid: i32,
    /// When, in ticks since the machine's start: so that another process of this number is told from it.
    pub(super) at_ticks: u64,
}

impl Started {
    pub(super) fn of(pid: Pid) -> Self {
        Self { pid: pid.as_raw(), at_ticks: stat(pid).map_or(0, |stat| stat.starttime) }
    }
}

/// What the next supervisor must know to find what this one leaves.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// The run of the machine: in another one nothing is left.
    pub(super) boot: String,
    pub(super) processes: Vec<Started>,
    /// The inodes of the listening sockets: whoever has one open has got it from here.
    pub(super) sockets: Vec<u64>,
}

/// Notes which processes run, before their programs do.
pub(super) fn record(directory: &Path, record: Record) -> io::Result<()> {
    super::replace(&directory.join(FILE), &serde_json::to_vec(&Record { boot: boot(), ..record })?)
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// All descendants of this process that are no zombies. Orphans come to it, as it asks for them.
pub(super) fn descendants() -> Vec<Stat> {
    let mut found = Vec::new();
    let mut open = children(Pid::this());
    while let Some(pid) = open.pop() {
        open.extend(children(pid));
        found.extend(stat(pid).filter(is_running));
    }
    found
}

fn children(pid: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>());
    pids.map(Pid::from_raw).collect()
}

fn stat(pid: Pid) -> Option<Stat> {
    Stat::from_file(format!("/proc/{pid}/stat")).ok()
}

/// Whether it is no zombie. A process whose first thread has ended looks like one, but the other threads still run.
const fn is_running(stat: &Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X') || stat.num_threads > 1
}

/// Whether a process belongs to the generation that `leader` leads: it is in its session, or it carries its number.
pub(super) fn belongs(process: &Stat, leader: Pid, number: u64) -> bool {
    process.session == leader.as_raw() || has_mark(process.pid, GENERATION, &number.to_string())
}

/// Whether the environment of a process has this variable.
fn has_mark(pid: i32, name: &str, value: &str) -> bool {
    let mark = format!("{name}={value}").into_bytes();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark)
}

/// Whether a process has one of these sockets open.
pub(super) fn has_socket(pid: i32, inodes: &[u64]) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
    !inodes.is_empty()
        && targets.any(|target| inodes.iter().any(|inode| target == Path::new(&format!("socket:[{inode}]"))))
}

/// Sends a signal to processes, except where they are gone.
pub(super) fn signal(processes: &[Stat], signal: Signal) {
    for process in processes {
        let _ = kill(Pid::from_raw(process.pid), signal);
    }
}

/// Ends what a dead supervisor has left: TERM, and KILL when the time to drain is over. Waits until all are gone.
pub(super) fn end_leftovers(directory: &Path, drain: Duration) -> usize {
    let mut left = leftovers(directory);
    let count = left.len();
    signal(&left, Signal::SIGTERM);
    let deadline = Instant::now() + drain;
    while !left.is_empty() && Instant::now() < deadline {
        thread::sleep(LOOK_EVERY);
        left = leftovers(directory);
    }
    let deadline = Instant::now() + DIE;
    while !left.is_empty() && Instant::now() < deadline {
        signal(&left, Signal::SIGKILL);
        thread::sleep(LOOK_EVERY);
        left = leftovers(directory);
    }
    count
}

/// What a dead supervisor has left: the sessions of the processes that it had started, what carries the mark of the
/// service, and what has one of its sockets open.
pub(super) fn leftovers(directory: &Path) -> Vec<Stat> {
    let recorded = fs::read(directory.join(FILE)).unwrap_or_default();
    let recorded: Record = serde_json::from_slice(&recorded).unwrap_or_default();
    let recorded = if recorded.boot == boot() { recorded } else { Record::default() };
    let all: BTreeMap<i32, Stat> = processes().map(|stat| (stat.pid, stat)).collect();
    // As long as a session has members, its number is given to no other process.
    let is_ours = |started: &&Started| all.get(&started.pid).is_none_or(|stat| stat.starttime == started.at_ticks);
    let sessions: Vec<i32> = recorded.processes.iter().filter(is_ours).map(|started| started.pid).collect();
    let service = directory.display().to_string();
    let mut found: Vec<Stat> = all.into_values().filter(is_running).collect();
    let own = Pid::this().as_raw();
    found.retain(|stat| {
        let in_session = sessions.contains(&stat.session) || sessions.contains(&stat.pid);
        stat.pid != own
            && (in_session || has_mark(stat.pid, SERVICE, &service) || has_socket(stat.pid, &recorded.sockets))
    });
    found
}

fn processes() -> impl Iterator<Item = Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(|pid| stat(Pid::from_raw(pid)))
}
