//! A mount that hangs in `statfs`, for real: a FUSE file system that nobody serves.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use worker::metrics::{Collector, Figures, Group};

/// Every request to it waits for an answer that never comes. Taken away when dropped.
struct HungMount {
    fuse: Option<File>,
    point: TempDir,
}

impl HungMount {
    fn new() -> Self {
        let point = TempDir::with_prefix("redfleet-hung-").unwrap();
        let device = Path::new("/dev/fuse");
        let fuse = OpenOptions::new().read(true).write(true).open(device).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("redfleet"), point.path(), Some("fuse"), flags, Some(&*options)).unwrap();
        Self { fuse: Some(fuse), point }
    }

    /// Lets every request fail that waits.
    fn abort(&mut self) {
        self.fuse = None;
    }
}

impl Drop for HungMount {
    fn drop(&mut self) {
        self.abort();
        if let Err(error) = umount2(self.point.path(), MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.point.path().display());
        }
    }
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_mount_that_hangs_in_statfs_does_not_hang_the_worker() {
    let mut hung = HungMount::new();
    let state = format!("state:{}", hung.point.path().display());
    let collector = Collector::new();

    let doomed = runtime();
    let (figures, took) = collect(&doomed, &collector);
    assert_eq!(figures[&state], "unresponsive", "{figures:?}");
    assert!(figures["unresponsive_mounts"].as_u64().unwrap() >= 1, "{figures:?}");
    assert!(figures["total_bytes:/"].as_u64().unwrap() > 0, "{figures:?}");
    assert!(figures["usage"].is_number(), "{figures:?}");
    assert!(took >= Duration::from_secs(1), "nothing hung: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");

    // The stuck thread holds up no end either.
    let begin = Instant::now();
    drop(doomed);
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());

    // What is known to hang is not waited for, and keeps one thread, however often we ask.
    let runtime = runtime();
    let before = threads();
    for _ in 0..20 {
        let (figures, took) = collect(&runtime, &collector);
        assert_eq!(figures[&state], "unresponsive", "{figures:?}");
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
    // Those of the last collects may not have ended yet.
    let after = threads();
    assert!(after <= before + 3, "{before} threads became {after}");

    // The server of the file system dies: now the kernel says so, and so do we.
    hung.abort();
    let begin = Instant::now();
    while collect(&runtime, &collector).0[&state] == "unresponsive" {
        assert!(begin.elapsed() < Duration::from_secs(10), "it stays unresponsive");
    }
    let (figures, _) = collect(&runtime, &collector);
    assert_eq!(figures[&state], "Transport endpoint is not connected");
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn collect(runtime: &Runtime, collector: &Collector) -> (Figures, Duration) {
    let begin = Instant::now();
    let figures = runtime.block_on(collector.collect(Group::Disk)).unwrap();
    (figures, begin.elapsed())
}

/// How many threads this process has.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
