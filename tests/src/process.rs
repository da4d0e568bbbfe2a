//! Processes: descendants, signals, whether one lives.

use std::{
    fs,
    process::{Child, ExitStatus},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use crate::eventually;

/// A child's id as system calls take it.
pub(crate) fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Sends `signal` to a child that has not been waited for, so that the id is certainly its own.
pub(crate) fn send(child: &Child, signal: Signal) {
    kill(pid(child), signal).expect("one's own child can be signalled");
}

/// Waits until the child has ended.
#[track_caller]
pub(crate) fn wait(child: &mut Child, what: &str) -> ExitStatus {
    eventually(what, || child.try_wait().expect("one's own child can be waited for"))
}

/// Kills a child and waits for it; does nothing where it has ended already.
pub(crate) fn kill9(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Whether a process of that id exists and is not merely waiting to be reaped.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // "PID (NAME) STATE …", where the name may contain anything.
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    // While a thread is left (field 20; the state is field 3), its files and sockets are still open.
    !fields.starts_with(['Z', 'X']) || !matches!(fields.split(' ').nth(17), Some("0" | "1"))
}

/// The resident memory of a process in kB.
///
/// # Panics
/// It does not run.
pub(crate) fn resident_kb(pid: u32) -> u64 {
    memory_kb(pid, "VmRSS:")
}

/// Memory in kB that a process has for itself: no pages of files.
///
/// # Panics
/// It does not run.
pub fn own_kb(pid: u32) -> u64 {
    memory_kb(pid, "RssAnon:")
}

/// A figure of a process's memory in kB, as `/proc/PID/status` names it.
///
/// # Panics
/// It does not run.
pub(crate) fn memory_kb(pid: u32, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("a living process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// All descendants of a process: the children of all its threads, their children and so on.
pub fn descendants(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<_>>())
        .collect();
    children.into_iter().flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}

/// Kills the process groups that these processes lead, such as those that a killed worker leaves running.
pub fn kill_groups(pids: &[u32]) {
    for pid in pids {
        let _ = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
}
