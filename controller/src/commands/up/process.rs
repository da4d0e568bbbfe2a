//! The identity of a process that outlives `ctl`, and how it is ended.

use std::{
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
use serde::Serialize;

/// A process that ends within this time needs no explanation.
const SOON: Duration = Duration::from_secs(1);
/// How long the kernel may take to end a process after SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// The time between two checks of whether a process has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// A process. As ids are given out again, the time of its start belongs to its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    /// In clock ticks since the machine started.
    started: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By itself, after SIGTERM.
    InOrder,
    /// By SIGKILL.
    Killed,
}

impl Process {
    /// The process with this id; `None` where there is none.
    pub fn with_id(pid: i32) -> Option<Self> {
        Some(Self { pid, started: stat(pid)?.starttime })
    }

    /// Reads the identity that [`Process::save`] wrote; `None` where no such process runs.
    pub fn load(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let (pid, started) = text.trim_end().split_once(' ')?;
        let process = Self { pid: pid.parse().ok()?, started: started.parse().ok()? };
        // To kill(2), 0 and negative ids mean process groups.
        (process.pid > 0 && process.is_running()).then_some(process)
    }

    /// Writes the identity into a file.
    pub fn save(&self, file: &Path) -> io::Result<()> {
        fs::write(file, format!("{} {}\n", self.pid, self.started))
    }

    /// The process id.
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        // While a zombie has a thread left, its files and sockets are open.
        let ended = |stat: &Stat| matches!(stat.state, 'Z' | 'X') && stat.num_threads <= 1;
        stat(self.pid).is_some_and(|stat| stat.starttime == self.started && !ended(&stat))
    }

    /// Sends SIGTERM, waits up to `patience`, then sends SIGKILL. Calls `slow` when it does not end soon.
    /// Blocks the thread.
    pub fn end(&self, patience: Duration, slow: impl FnOnce()) -> End {
        self.signal(Signal::SIGTERM);
        // A stopped process handles SIGTERM only after it was continued.
        self.signal(Signal::SIGCONT);
        let soon = patience.min(SOON);
        if self.wait(soon) {
            return End::InOrder;
        }
        slow();
        if self.wait(patience.saturating_sub(soon)) {
            return End::InOrder;
        }
        self.signal(Signal::SIGKILL);
        self.wait(KILL_PATIENCE);
        End::Killed
    }

    /// Waits up to `patience` for its end. Returns whether it has ended.
    fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.is_running() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(PAUSE);
        }
        true
    }

    fn signal(&self, signal: Signal) {
        if self.is_running() {
            // It may have ended since; then there is nothing to signal.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

fn stat(pid: i32) -> Option<Stat> {
    Stat::from_file(format!("/proc/{pid}/stat")).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_recycled_id_is_not_the_process() {
        let me = Process::with_id(std::process::id().cast_signed()).unwrap();
        assert!(me.is_running());
        assert!(!Process { started: me.started + 1, ..me }.is_running());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        assert_eq!(Process::load(&file), None);
        me.save(&file).unwrap();
        assert_eq!(Process::load(&file), Some(me));
        for stale in [format!("{} {}", me.pid, me.started + 1), format!("{}", me.pid), "0 0".into(), String::new()] {
            fs::write(&file, &stale).unwrap();
            assert_eq!(Process::load(&file), None, "{stale}");
        }
    }

    #[test]
    fn a_zombie_is_not_running() {
        let mut child = Command::new("true").spawn().unwrap();
        let process = Process::with_id(child.id().cast_signed()).unwrap();
        assert!(process.wait(Duration::from_secs(10)));
        child.wait().unwrap();
    }

    #[test]
    fn what_ignores_sigterm_is_killed() {
        // The shell prints a line when it ignores SIGTERM.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let process = Process::with_id(child.id().cast_signed()).unwrap();
        assert_eq!(process.end(Duration::from_millis(50), || {}), End::Killed);
        assert!(!process.is_running());
        child.wait().unwrap();
    }
}
