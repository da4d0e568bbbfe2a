//! A mount that really hangs: a FUSE file system without a server.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::{action::Argument, command::Manifest, outcome::State};
use tempfile::TempDir;
use tests::{Raw, Redis, Worker, descendants, eventually, is_alive, renewed};
use tokio::runtime::{Builder, Runtime};
use worker::metrics::{Collector, Figures, MetricGroup};

/// A mount on which every request waits for a reply that never comes. It is unmounted when dropped.
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

    /// Makes every waiting request fail.
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
    let collector = Collector::default();

    let doomed = runtime();
    let figures = collect(&doomed, &collector);
    assert_eq!(figures[&state], "unresponsive", "{figures:?}");
    assert!(figures["unresponsive_mounts"].as_u64().unwrap() >= 1, "{figures:?}");
    assert!(figures["total_bytes:/"].as_u64().unwrap() > 0, "{figures:?}");
    assert!(figures["usage"].is_number(), "{figures:?}");

    // The stuck thread does not block the end of the runtime either.
    drop(doomed);

    // A mount that is known to hang occupies one thread, however often figures are collected.
    let runtime = runtime();
    let before = threads();
    for _ in 0..20 {
        let figures = collect(&runtime, &collector);
        assert_eq!(figures[&state], "unresponsive", "{figures:?}");
    }
    // Threads of the last collects may not have ended yet.
    let after = threads();
    assert!(after <= before + 3, "{before} threads became {after}");

    // The server of the file system dies. The kernel reports that, and so does the collector.
    hung.abort();
    eventually("the new state", || (collect(&runtime, &collector)[&state] != "unresponsive").then_some(()));
    assert_eq!(collect(&runtime, &collector)[&state], "Transport endpoint is not connected");
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn a_program_that_hangs_before_it_starts_holds_up_nothing_and_can_be_ended() {
    let hung = HungMount::new();
    let redis = Redis::start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let mut raw = Raw::on(&redis);
    let mut there = raw.exec(&["web1"], &["true"]);
    there.arguments.insert("cwd".into(), Argument::Text(hung.point.path().join("home").display().to_string()));
    let program = raw.exec(&["web1"], &[&hung.point.path().join("program").display().to_string()]);
    let too_long = renewed(Manifest { timeout_ms: 300, ..there.clone() });
    for manifest in [&there, &program] {
        raw.send("web1", manifest);
        raw.wait_state("web1", manifest, State::Running);
        eventually("it to hang", || (!children(&worker).is_empty()).then_some(()));
        raw.ping("web1");
        assert_eq!(raw.state("web1", manifest), Some(State::Running));
        raw.cancel("web1", manifest);
        assert_eq!(raw.outcome("web1", manifest).state, State::Cancelled);
        eventually("nothing to be left of it", || children(&worker).is_empty().then_some(()));
    }
    assert_eq!(raw.run("web1", &too_long).state, State::TimedOut);
    eventually("nothing to be left of it", || children(&worker).is_empty().then_some(()));
    raw.wait_settled("web1");
}

/// The living descendants of a worker.
fn children(worker: &Worker) -> Vec<u32> {
    descendants(worker.pid()).into_iter().filter(|child| is_alive(*child)).collect()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn collect(runtime: &Runtime, collector: &Collector) -> Figures {
    runtime.block_on(collector.collect(MetricGroup::Disk)).unwrap()
}

/// The number of this process' threads.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
