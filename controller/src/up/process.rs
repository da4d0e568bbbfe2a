//! The long-lived processes of `ctl up`: started apart from the terminal, remembered in a file, ended
//! in order.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

use crate::{error::Advice, up::directory::cannot};

/// How many of a log's last lines are shown when a process ends too soon.
const LOG_LINES: usize = 10;
/// How much of a log is read for them.
const LOG_BYTES: u64 = 16 * 1024;
/// What ends within this time needs no explanation.
const SOON: Duration = Duration::from_secs(1);
/// Between two looks at whether a process has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// A process that is somebody's still, whatever became of its id: ids are given out again, so the
/// moment of its start belongs to its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    /// In clock ticks since the machine started (field 22 of `/proc/PID/stat`).
    started: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By itself, having been asked to.
    InOrder,
    /// It did not, and was killed.
    Killed,
}

impl Process {
    /// The process of that id.
    fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: look(pid)? })
    }

    /// The process that `file` remembers, where it still runs.
    pub fn remembered(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let (pid, started) = text.trim_end().split_once(' ')?;
        let process = Self { pid: pid.parse().ok()?, started: started.parse().ok()? };
        // 0 and negative ids mean process groups to kill(2).
        (process.pid > 0 && process.is_alive()).then_some(process)
    }

    /// Remembers it in `file`.
    fn remember(&self, file: &Path) -> io::Result<()> {
        fs::write(file, format!("{} {}\n", self.pid, self.started))
    }

    /// Its id.
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        look(self.pid) == Some(self.started)
    }

    /// Asks it to end, waits for `patience` until it has, then kills it. Calls `slow` when it does
    /// not end soon.
    pub fn end(&self, patience: Duration, slow: impl FnOnce()) -> End {
        self.signal(Signal::SIGTERM);
        // One that is halted would not hear of it.
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
        self.wait(Duration::from_secs(5));
        End::Killed
    }

    /// Waits until it has ended; whether it has.
    pub fn wait(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(PAUSE);
        }
        true
    }

    fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // Between the look and the signal it may end; then there is nobody to hear it.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// When the process of that id started; `None` where there is none, or only its remains.
fn look(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "PID (NAME) STATE …": the name may contain anything, so count from its end.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    // STATE is field 3, the number of threads field 20, the start field 22 (man 5 proc_pid_stat).
    let (state, threads, started) = (fields.next()?, fields.nth(16)?, fields.nth(1)?.parse().ok()?);
    // While a thread is left, so are the files and sockets.
    let over = matches!(state, "Z" | "X") && matches!(threads, "0" | "1");
    (!over).then_some(started)
}

/// A process that this run started. It ends with this value unless it is kept.
#[derive(Debug)]
pub struct Started {
    name: &'static str,
    child: Child,
    process: Process,
    pid_file: PathBuf,
    log: PathBuf,
    /// What the log held before.
    log_start: u64,
    kept: bool,
}

impl Started {
    /// Starts `command` so that it outlives this process and its terminal: a process group of its own
    /// hears no Ctrl-C, and nothing is read from or written to the terminal.
    pub fn start(name: &'static str, command: &mut Command, log: &Path, pid_file: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log).map_err(|error| cannot("write", log, &error))?;
        let log_start = file.metadata().map_or(0, |metadata| metadata.len());
        let errors = file.try_clone().context("cannot duplicate a file handle")?;
        command.process_group(0).stdin(Stdio::null()).stdout(file).stderr(errors);
        let program = command.get_program().display().to_string();
        let child = command.spawn().map_err(|error| Advice::new(format!("cannot start {program}: {error}")))?;
        let pid = child.id().cast_signed();
        // Nobody has waited for it yet, so at least its remains are there.
        let process = Process::of(pid).unwrap_or(Process { pid, started: 0 });
        let (pid_file, log) = (pid_file.to_owned(), log.to_owned());
        let started = Self { name, child, process, pid_file, log, log_start, kept: false };
        started.process.remember(&started.pid_file).map_err(|error| cannot("write", &started.pid_file, &error))?;
        Ok(started)
    }

    /// The process.
    pub const fn process(&self) -> Process {
        self.process
    }

    /// Lets it outlive this value.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// An error where it has ended already.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("cannot wait for a child")? {
            None => Ok(()),
            Some(status) => Err(self.complaint(&format!("ended at once ({status})")).into()),
        }
    }

    /// That it did something it should not have, with the last lines of its log.
    pub fn complaint(&self, what: &str) -> Advice {
        let lines = last_lines(&self.log, self.log_start).unwrap_or_default();
        let log = self.log.display();
        let message = if lines.is_empty() {
            format!("{} {what} and wrote nothing to its log {log}", self.name)
        } else {
            format!("{} {what}; the end of its log {log}:\n  {}", self.name, lines.join("\n  "))
        };
        Advice::new(message).maybe_hint(hint(&lines))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.process.end(Duration::from_secs(10), || {});
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.pid_file);
    }
}

fn last_lines(log: &Path, start: u64) -> io::Result<Vec<String>> {
    let mut file = File::open(log)?;
    let start = start.max(file.metadata()?.len().saturating_sub(LOG_BYTES));
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // Redis greets with a drawing of many lines; blank ones tell nothing.
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).map(crate::style::plain).collect();
    Ok(lines[lines.len().saturating_sub(LOG_LINES)..].to_vec())
}

/// What to do about a complaint in a log, where it is a well-known one.
fn hint(lines: &[String]) -> Option<&'static str> {
    let says = |words: &str| lines.iter().any(|line| line.contains(words));
    if says("Bad file format reading the append only file") || says("Unexpected end of file reading the append only") {
        Some(
            "the stored data is damaged: copy the directory `data`, then repair it with `redis-check-aof --fix \
             data/appendonlydir/appendonly.aof.manifest`, or remove it to begin without data",
        )
    } else if says("No space left on device") {
        Some("the file system is full: free some space, or name another directory with --dir")
    } else if says("Can't handle RDB format version") {
        Some(
            "the stored data was written by a newer version of Redis: install that one, or remove the directory `data`",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_id_is_not_the_process() {
        let me = Process::of(std::process::id().cast_signed()).unwrap();
        assert!(me.is_alive());
        assert!(!Process { started: me.started + 1, ..me }.is_alive());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        assert_eq!(Process::remembered(&file), None);
        me.remember(&file).unwrap();
        assert_eq!(Process::remembered(&file), Some(me));
        for stale in [format!("{} {}", me.pid, me.started + 1), format!("{}", me.pid), "0 0".into(), String::new()] {
            fs::write(&file, &stale).unwrap();
            assert_eq!(Process::remembered(&file), None, "{stale}");
        }
    }

    #[test]
    fn remains_do_not_count_as_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        let end = Instant::now() + Duration::from_secs(10);
        while look(pid).is_some() && Instant::now() < end {
            thread::sleep(PAUSE);
        }
        assert_eq!(look(pid), None);
        child.wait().unwrap();
    }

    #[test]
    fn one_that_does_not_listen_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let (log, pid) = (directory.path().join("log"), directory.path().join("pid"));
        let mut command = Command::new("sh");
        // The shell says when it no longer listens, and then waits for nobody's signal.
        command.args(["-c", "trap '' TERM; echo deaf; while :; do sleep 0.01; done"]);
        let started = Started::start("sh", &mut command, &log, &pid).unwrap();
        while fs::read_to_string(&log).unwrap().is_empty() {
            thread::sleep(PAUSE);
        }
        assert_eq!(started.process().end(Duration::from_millis(50), || {}), End::Killed);
        assert!(!started.process().is_alive());
    }

    #[test]
    fn what_is_not_kept_ends_and_what_went_wrong_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (log, pid) = (directory.path().join("log"), directory.path().join("pid"));
        fs::write(&log, "from before\n").unwrap();
        let started = Started::start("sleep", Command::new("sleep").arg("60"), &log, &pid).unwrap();
        let process = started.process();
        assert_eq!(Process::remembered(&pid), Some(process));
        drop(started);
        assert!(!process.is_alive() && !pid.exists());

        let mut command = Command::new("sh");
        command.args(["-c", "echo No space left on device; exit 3"]);
        let mut started = Started::start("sh", &mut command, &log, &pid).unwrap();
        assert!(started.process().wait(Duration::from_secs(10)));
        let error = started.check().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "sh ended at once (exit status: 3); the end of its log {}:\n  No space left on device",
                log.display()
            )
        );
        assert_eq!(crate::error::hints(&error).len(), 1);
    }
}
