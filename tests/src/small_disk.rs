//! Workers with a small disk of their own, which a test can fill.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Worker, WorkerOptions, skipped};

impl WorkerOptions {
    /// Gives the worker a disk of its own of 8 MB, at this place in its directory. A line of shell runs there before.
    /// `None` where this machine permits no mounts; the test is then reported as skipped.
    pub fn small_disk(self, place: &str, script: &str) -> Option<Self> {
        let disk = self.directory().join(place);
        fs::create_dir(&disk).expect("a directory");
        self.small_disk_at(&disk, script)
    }

    /// The same, at any directory: other processes still see what is there.
    pub fn small_disk_at(self, disk: &Path, script: &str) -> Option<Self> {
        let flags = if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" };
        let permitted = Command::new("unshare").args([flags, "mount", "-t", "tmpfs", "none", "/mnt"]).output();
        if !permitted.is_ok_and(|output| output.status.success()) {
            skipped(std::thread::current().name().unwrap_or_default(), "this machine permits no mounts");
            return None;
        }
        let mount = format!("mount -t tmpfs -o size=8m none '{0}'; cd '{0}'; {script}; exec \"$@\"", disk.display());
        Some(self.through(&["unshare", flags, "sh", "-ec", &mount, "sh"]))
    }
}

impl Worker {
    /// The path of a file on the worker's small disk, from outside of its mount namespace.
    pub fn on_its_disk(&self, name: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/cwd", self.pid())).join(name)
    }
}

/// Fills all space that is left on the disk of this file.
pub fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
