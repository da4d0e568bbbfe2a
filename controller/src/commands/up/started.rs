//! Processes that this run of `ctl` starts, apart from its terminal.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, anyhow};
use nix::fcntl::OFlag;
use tokio::process::{Child, Command};

use super::{claim::cannot, process::Process};
use crate::output::style;

/// How long a process may take to end after a failed start.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many of a log's last lines an error shows.
const LOG_LINES: usize = 10;

/// A process that was started. It is ended when this value is dropped, unless it is kept.
#[derive(Debug)]
pub struct Started {
    name: &'static str,
    child: Child,
    process: Process,
    pid_file: PathBuf,
    log: PathBuf,
    /// The log's size before.
    log_start: u64,
    kept: bool,
}

/// Closes what whoever started `ctl` has left open: what `ctl up` starts would hold it open for as long as it runs. What
/// `ctl` opens itself is marked to be closed on exec.
pub fn close_inherited() {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let descriptors: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in descriptors.into_iter().filter(|descriptor| *descriptor > 2 && is_inherited(*descriptor)) {
        // It may have been closed since.
        let _ = nix::unistd::close(descriptor);
    }
}

fn is_inherited(descriptor: i32) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_some_and(|flags| flags & OFlag::O_CLOEXEC.bits() == 0)
}

impl Started {
    /// Starts `command` in a process group of its own, which Ctrl-C does not reach, without the terminal.
    /// Its output goes to `log`, its identity into `pid_file`.
    pub fn start(name: &'static str, mut command: Command, log: &Path, pid_file: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log).map_err(|error| cannot("write", log, &error))?;
        let log_start = file.metadata()?.len();
        command.process_group(0).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);

        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let process = child.id().and_then(|pid| Process::with_id(pid.cast_signed())).context("cannot read /proc")?;
        let (log, pid_file) = (log.to_owned(), pid_file.to_owned());
        let started = Self { name, child, process, pid_file, log, log_start, kept: false };
        process.save(&started.pid_file).map_err(|error| cannot("write", &started.pid_file, &error))?;
        Ok(started)
    }

    /// Lets the process outlive this value.
    pub fn keep(mut self) -> Process {
        self.kept = true;
        self.process
    }

    /// Waits for `work`, for which the process is needed: an end of the process is an error that its log explains.
    pub async fn unless_ended<T>(&mut self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::select! {
            done = work => Ok(done),
            status = self.child.wait() => Err(self.failure(&format!("ended at once ({})", status?))),
        }
    }

    /// An error with `what` the process did, and the last lines of its log.
    pub fn failure(&self, what: &str) -> anyhow::Error {
        let lines = last_lines(&self.log, self.log_start).unwrap_or_default();
        let (name, log) = (self.name, self.log.display());
        if lines.is_empty() {
            return anyhow!("{name} {what} and wrote nothing to its log {log}");
        }
        anyhow!("{name} {what}; the end of its log {log}:\n  {}", lines.join("\n  "))
    }
}

/// The program of this name in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    // An empty part of PATH means the working directory, which must not decide what runs.
    let places = env::split_paths(&env::var_os("PATH")?).filter(|place| place.is_absolute()).collect::<Vec<_>>();
    places.iter().map(|place| place.join(name)).find(|path| is_program(path))
}

/// Whether this is a file that may be executed.
pub fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.kept {
            self.process.end(PATIENCE, || {});
            let _ = fs::remove_file(&self.pid_file);
        }
    }
}

/// The last lines that were written after the first `start` bytes.
fn last_lines(log: &Path, start: u64) -> io::Result<Vec<String>> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // Redis starts with a drawing, in which many lines are blank.
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).map(style::plain).collect();
    Ok(lines[lines.len().saturating_sub(LOG_LINES)..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_ends_unless_it_is_kept_and_its_log_explains_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let [log, pid] = ["log", "pid"].map(|name| directory.path().join(name));
        fs::write(&log, "from before\n").unwrap();
        let start = |name, arguments: &[&str]| {
            let mut command = Command::new(name);
            command.args(arguments);
            Started::start(name, command, &log, &pid).unwrap()
        };

        let started = start("sleep", &["60"]);
        let process = Process::load(&pid).unwrap();
        drop(started);
        assert!(!process.is_running() && !pid.exists());

        let process = start("sleep", &["60"]).keep();
        assert!(process.is_running() && pid.exists());
        process.end(PATIENCE, || {});

        let mut started = start("sh", &["-c", "echo no slots left; exit 3"]);
        let error = started.unless_ended(std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("sh ended at once (exit status: 3); the end of its log {}:\n  no slots left", log.display())
        );
    }
}
