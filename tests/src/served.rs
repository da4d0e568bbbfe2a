//! A service for tests: the program `served`, how it is told to behave, and what is left of it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{WorkerOptions, beside, eventually, free_port, get, process};

/// A service that listens at a port of its own. What is left of it is killed when it is dropped.
pub struct Served {
    directory: Arc<TempDir>,
    /// Where it listens.
    pub address: SocketAddr,
    name: String,
}

impl Served {
    /// A service of this name.
    ///
    /// # Panics
    /// There is no free port.
    pub fn new(name: &str) -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let served = Self { directory, address, name: name.to_owned() };
        served.behave("");
        served
    }

    /// The program.
    ///
    /// # Panics
    /// It has not been built.
    pub fn program() -> PathBuf {
        beside("served").expect("the test's server is missing: run `cargo build --workspace --all-targets` first")
    }

    /// Tells the processes that are started from now on (or get HUP) how to behave.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn behave(&self, lines: &str) {
        fs::write(self.behaviour(), lines).expect("a file");
    }

    fn behaviour(&self) -> PathBuf {
        self.directory.path().join("behaviour")
    }

    /// A directory of its own.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The environment that the program needs.
    pub fn environment(&self) -> String {
        format!("env = {{ VERSION = \"v1\", BEHAVIOUR = {:?} }}", self.behaviour().display().to_string())
    }

    /// Its settings with a supervisor, and these lines.
    pub fn settings(&self, lines: &str) -> String {
        let program = Self::program().display().to_string();
        let (name, address, environment) = (&self.name, self.address, self.environment());
        format!("[services.{name}]\nprogram = [{program:?}]\nlisten = [\"{address}\"]\n{environment}\n{lines}\n")
    }

    /// The directory of its supervisor.
    pub fn supervised_in(&self, worker: &WorkerOptions) -> PathBuf {
        worker.directory().join("state").join(format!("{}.services/{}", worker.name(), self.name))
    }

    /// The process that answers.
    ///
    /// # Panics
    /// Nobody answers.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let (status, body) = get(self.address, "/").expect("an answer");
        assert_eq!(status, 200, "{body}");
        body.trim().rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("a process id")
    }

    /// Waits until somebody answers, and returns who.
    #[track_caller]
    pub fn wait_pid(&self) -> u32 {
        eventually("somebody to answer", || get(self.address, "/").ok());
        self.pid()
    }

    /// All processes of this service: they carry its file in their environment, or are descendants of one of those.
    pub fn processes(&self) -> Vec<u32> {
        let mark = self.behaviour().display().to_string();
        let carries = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&mark) && process::is_alive(*pid)
        };
        let found: Vec<u32> = numbers().filter(carries).collect();
        let below = found.iter().flat_map(|pid| process::descendants(*pid)).collect::<Vec<_>>();
        let mut all = [found, below].concat();
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn numbers() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The supervisor of the service with this directory, if one runs.
pub fn supervisor(directory: &Path) -> Option<u32> {
    let directory = directory.display().to_string();
    numbers().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&&b"supervise"[..])
            && words.get(2) == Some(&directory.as_bytes())
            && process::is_alive(*pid)
    })
}

/// Sends SIGKILL to a process that is no child of the test.
///
/// # Panics
/// It is gone already.
pub fn kill9(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the process lives");
    eventually("a killed process to be gone", || (!process::is_alive(pid)).then_some(()));
}

impl Drop for Served {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}
