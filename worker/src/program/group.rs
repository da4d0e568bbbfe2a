//! Process groups, and the search for processes that a dead worker left running.

use std::{fs, path::Path, thread, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use procfs_core::{FromRead, process::Stat};
use protocol::name::{HostName, JobId};

use crate::detached;

/// Name of the environment variable that holds the job of a program and of everything that it starts.
pub(super) const JOB_VARIABLE: &str = "REDFLEET_JOB";

/// Name of the environment variable that holds the host of a program.
pub(super) const HOST_VARIABLE: &str = "REDFLEET_HOST";

/// How often leftovers are searched for: a process may fork during a search.
const SEARCHES: usize = 50;

/// The time between two searches.
const SEARCH_EVERY: Duration = Duration::from_millis(10);

/// A process group, killed when dropped before [`Self::forget`].
pub(super) struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    pub(super) fn led_by(leader: Option<u32>) -> Self {
        Self(leader.and_then(|pid| pid.try_into().ok()).map(Pid::from_raw))
    }

    pub(super) fn signal(&self, signal: Signal) {
        // The only possible error is that the group is gone.
        let _ = self.0.map(|group| killpg(group, signal));
    }

    /// Whether a member still runs. Zombies do not count: init reaps them when it likes. One that this worker has no right
    /// to signal, such as what runs under `sudo`, runs all the same.
    pub(super) fn is_alive(&self) -> bool {
        self.0.is_some_and(|group| killpg(group, None) != Err(Errno::ESRCH) && has_running_member(group))
    }

    pub(super) fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Searches `/proc` for a member of the group that is not a zombie. Where `/proc` cannot be read, the
/// group counts as alive, since the kernel says that it exists.
fn has_running_member(group: Pid) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    processes.flatten().filter(|process| pid(&process.path()).is_some()).any(|process| {
        let stat = Stat::from_file(process.path().join("stat"));
        stat.is_ok_and(|stat| stat.pgrp == group.as_raw() && is_running(&stat))
    })
}

/// Whether it is no zombie. A process whose first thread has ended looks like one, but the other threads still run.
const fn is_running(stat: &Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X') || stat.num_threads > 1
}

/// Kills leftover processes of jobs that ran when a prior worker process died: every process that carries such a
/// job's id in its environment. A job that is reported as interrupted must not go on.
pub(crate) async fn end_leftovers(jobs: &[JobId], host: &HostName) {
    if jobs.is_empty() {
        return;
    }
    let marks: Vec<Vec<u8>> = jobs.iter().map(|job| format!("{JOB_VARIABLE}={job}").into_bytes()).collect();
    let host = format!("{HOST_VARIABLE}={host}").into_bytes();
    // Reading the environment of a process that hangs in the kernel may hang too.
    let ended = detached::call(move || {
        for _ in 0..SEARCHES {
            let left = carriers(&marks, &host);
            if left.is_empty() {
                return;
            }
            for process in left {
                let _ = kill(process, Signal::SIGKILL);
            }
            thread::sleep(SEARCH_EVERY);
        }
    });
    if let Err(error) = ended.await {
        tracing::error!("cannot look for what a dead worker left running: {error}");
    }
}

/// The processes whose environment holds one of `marks` and names this host: several workers may share a
/// machine.
fn carriers(marks: &[Vec<u8>], host: &[u8]) -> Vec<Pid> {
    let carries = |process: &Path| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        let holds = |wanted: &[u8]| environment.split(|byte| *byte == 0).any(|variable| variable == wanted);
        holds(host) && marks.iter().any(|mark| holds(mark))
    };
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let found = processes.flatten().map(|process| process.path()).filter(|process| carries(process));
    found.filter_map(|process| pid(&process)).collect()
}

/// The id of the process whose directory this is.
fn pid(process: &Path) -> Option<Pid> {
    process.file_name()?.to_str()?.parse().ok().map(Pid::from_raw)
}
