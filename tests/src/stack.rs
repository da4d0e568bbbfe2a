//! What `ctl up` starts, watched from outside.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Ctl, process};

/// A directory for `ctl up`. All processes that run for it end with the test.
pub struct Stack {
    /// `ctl` without any setting.
    pub ctl: Ctl,
    directory: PathBuf,
}

impl Stack {
    /// The usual directory in an empty home.
    pub fn new() -> Self {
        let ctl = Ctl::keyless();
        let directory = ctl.home().join(".local/state/redfleet");
        Self { ctl, directory }
    }

    /// The state directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs `ctl up` with a worker `web1`.
    #[track_caller]
    pub fn up(&self) {
        let output = self.ctl.run(["up", "--host", "web1"]);
        assert_eq!(output.code, 0, "{output}");
    }

    /// The process that a pid file in the directory names.
    #[track_caller]
    pub fn pid(&self, name: &str) -> u32 {
        let text = fs::read_to_string(self.directory.join(name)).expect("a pid file");
        text.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid")
    }

    /// The worker's log so far.
    #[track_caller]
    pub fn worker_log(&self) -> String {
        fs::read_to_string(self.directory.join("worker.log")).expect("a log")
    }

    /// All processes of this home: those whose command line contains its path.
    pub fn running(&self) -> Vec<u32> {
        let home = self.ctl.home().to_string_lossy().into_owned();
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&home)
        };
        pids.filter(ours).collect()
    }
}

impl Default for Stack {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for pid in self.running() {
            let family = process::descendants(pid);
            process::kill_groups(&[pid]);
            process::kill_groups(&family);
        }
    }
}
