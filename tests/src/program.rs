//! Programs that a test can hold and count: gates that they wait at, evidence that they leave.

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
    /// A closed gate in the directory of this server.
    pub fn new(redis: &Redis, name: &str) -> Self {
        let path = redis.directory().join(name);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a fifo");
        Self { path, held: None }
    }

    /// A line of shell that waits here.
    pub fn script(&self) -> String {
        format!("{{ read _ < '{}' || :; }}", self.path.display())
    }

    /// Waits until a program stands here; it stays.
    #[track_caller]
    pub fn reached(&mut self) {
        // This fails until somebody reads, or waits to read.
        self.held = Some(eventually(&format!("a program at {}", self.path.display()), || self.writer()));
    }

    /// Whether a program stands here now.
    pub fn is_reached(&self) -> bool {
        self.writer().is_some()
    }

    /// Lets the program go on that stands here, or the first that comes.
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
        // Whoever still waits here, perhaps an orphan of a killed worker, ends with the test.
        self.writer();
    }
}

/// A file to which a program adds a line whenever it runs.
pub struct Evidence {
    path: PathBuf,
}

impl Evidence {
    /// None yet.
    pub fn new(redis: &Redis, name: &str) -> Self {
        Self { path: redis.directory().join(name) }
    }

    /// A line of shell that leaves it.
    pub fn script(&self) -> String {
        format!("echo ran >> '{}'", self.path.display())
    }

    /// How often it was left.
    pub fn count(&self) -> usize {
        fs::read_to_string(&self.path).unwrap_or_default().lines().count()
    }

    /// Waits until it is there.
    #[track_caller]
    pub fn wait(&self) {
        eventually("a program to leave its evidence", || (self.count() > 0).then_some(()));
    }
}
