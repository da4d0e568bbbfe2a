//! Programs that a test can hold and count: gates at which they wait, evidence that they leave.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};

use crate::{Redis, eventually};

/// A gate at which a program waits until the test opens it: a fifo.
pub struct Gate {
    path: PathBuf,
    held: Option<File>,
}

impl Gate {
    /// Makes a closed gate in the directory of this server.
    pub fn new(redis: &Redis, name: &str) -> Self {
        let path = redis.directory().join(name);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a fifo");
        Self { path, held: None }
    }

    /// A line of shell that waits at this gate.
    pub fn script(&self) -> String {
        format!("{{ read _ < '{}' || :; }}", self.path.display())
    }

    /// Waits until a program has reached this gate; the program stays there.
    #[track_caller]
    pub fn reached(&mut self) {
        // Opening fails until a program reads or waits to read.
        self.held = Some(eventually(&format!("a program at {}", self.path.display()), || self.writer()));
    }

    /// Whether a program waits at this gate now.
    pub fn is_reached(&self) -> bool {
        self.writer().is_some()
    }

    /// Lets the waiting program go on, or the first that comes.
    #[track_caller]
    pub fn open(&mut self) {
        if self.held.is_none() {
            self.reached();
        }
        self.held = None;
    }

    fn writer(&self) -> Option<File> {
        OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&self.path).ok()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // A program that still waits here, perhaps an orphan of a killed worker, ends with the test.
        self.writer();
    }
}

/// A file to which a program appends a line whenever it runs.
pub struct Evidence {
    path: PathBuf,
}

impl Evidence {
    /// No evidence yet.
    pub fn new(redis: &Redis, name: &str) -> Self {
        Self { path: redis.directory().join(name) }
    }

    /// A line of shell that leaves evidence.
    pub fn script(&self) -> String {
        format!("echo ran >> '{}'", self.path.display())
    }

    /// How often a program has run.
    pub fn count(&self) -> usize {
        fs::read_to_string(&self.path).unwrap_or_default().lines().count()
    }

    /// Waits until a program has run.
    #[track_caller]
    pub fn wait(&self) {
        eventually("a program to leave its evidence", || (self.count() > 0).then_some(()));
    }
}
