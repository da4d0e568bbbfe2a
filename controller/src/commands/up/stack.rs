//! The processes of a state directory, and their end: the worker ends first, as it writes its last results to
//! Redis.

use std::{fs, io::ErrorKind, time::Duration};

use protocol::time::show_duration;

use super::{
    claim::cannot,
    process::{End, Process},
    worker,
};
use crate::{cli::state_directory::Directory, output::Printer};

/// How long the worker may take beyond the grace of its commands: for TERM and KILL of the programs, and
/// the last writes to Redis.
const WORKER_RESERVE: Duration = Duration::from_secs(20);
/// How long Redis may take to write its data.
const REDIS_PATIENCE: Duration = Duration::from_secs(60);

/// The running processes of a state directory.
#[derive(Debug)]
pub struct Stack {
    directory: Directory,
    /// `worker` and its host.
    pub worker_name: String,
    /// `None` where it does not run.
    pub worker: Option<Process>,
    /// `None` where it does not run.
    pub redis: Option<Process>,
}

impl Stack {
    /// Finds what runs in `directory`.
    pub fn find(directory: &Directory) -> Self {
        let worker_name = |host| format!("worker {host}");
        Self {
            directory: directory.clone(),
            worker_name: worker::configured_host(directory).map_or_else(|| "worker".into(), worker_name),
            worker: Process::load(&directory.worker_pid),
            redis: Process::load(&directory.redis_pid),
        }
    }

    /// Ends what runs, and removes the files that name it. The worker lets its commands finish within
    /// their grace. Blocks the thread. Returns how worker and Redis ended, where they ran.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn end(&self, printer: &Printer) -> anyhow::Result<(Option<End>, Option<End>)> {
        let worker = self.worker.map(|process| {
            let grace = show_duration(worker::GRACE);
            let slow = || printer.note(&format!("{} finishes what it runs, for at most {grace} …", self.worker_name));
            process.end(worker::GRACE + WORKER_RESERVE, slow)
        });
        let slow = || printer.note("redis-server writes its data …");
        let redis = self.redis.map(|process| process.end(REDIS_PATIENCE, slow));
        for file in [&self.directory.worker_pid, &self.directory.redis_pid, &self.directory.socket] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot("remove", file, &error)),
                _ => {}
            }
        }
        Ok((worker, redis))
    }
}
