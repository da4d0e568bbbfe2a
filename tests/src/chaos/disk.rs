//! A small disk that can be filled: a tmpfs of its own.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounted until dropped.
pub(super) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one with room for a journal and not much more. `None` where this process may not mount.
    pub(super) fn mount(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).expect("a directory");
        mount(Some("redfleet-chaos"), path, Some("tmpfs"), MsFlags::empty(), Some("size=16m")).ok()?;
        Some(Self { path: path.to_owned() })
    }

    /// Fills all free space, down to the last byte.
    pub(super) fn fill(&self) {
        let mut file = File::create(self.filler()).expect("an empty file still fits");
        for size in [64 * 1024, 512, 1] {
            let block = vec![0; size];
            while file.write(&block).is_ok_and(|written| written > 0) {}
        }
    }

    /// Frees the space again.
    pub(super) fn free(&self) {
        // The disk may not be filled: then there is no such file.
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
