//! Probes of mounts: how much space their file systems have.
//!
//! A probe of a mount whose server is away hangs in a system call that nothing interrupts. Therefore each probe
//! runs in a detached thread, and no mount has more than one probe at a time, so there are at most as many threads
//! as mounts. Callers that come during a probe share its result. Once a probe has exceeded the time limit of one
//! caller, the mount counts as unresponsive until the probe ends, and further callers do not wait for it.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::statvfs::{FsFlags, statvfs},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{MetricsError, mounts::Mount};
use crate::detached::{self, lock};

/// How long a new probe may be the only one, before the next one starts.
const HEAD_START: Duration = Duration::from_millis(20);

/// The space of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total_bytes: u64,
    pub(super) used_bytes: u64,
    /// Without the part of the free space that is reserved for root.
    pub(super) available_bytes: u64,
    /// 0 if the number of inodes is unlimited.
    pub(super) inodes: u64,
    pub(super) inodes_used: u64,
    pub(super) read_only: bool,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MountState {
    Space(Space),
    /// It was unmounted meanwhile.
    Gone,
    Failed(Errno),
    Unresponsive,
}

/// A probe under way. None until it ends or exceeds the time limit of a caller.
type Probe = watch::Sender<Option<MountState>>;

/// Finds the space below a mount point. May hang.
type FindSpace = dyn Fn(&Path) -> nix::Result<Space> + Send + Sync;

pub(super) struct Prober {
    find_space: Box<FindSpace>,
    under_way: Mutex<HashMap<Mount, Probe>>,
}

impl Prober {
    pub(super) fn new(find_space: impl Fn(&Path) -> nix::Result<Space> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { find_space: Box::new(find_space), under_way: Mutex::default() })
    }

    /// The state of each of `mounts`, in their order. Ends within the time limit.
    pub(super) async fn probe(
        self: &Arc<Self>,
        mounts: &[Mount],
        limit: Duration,
    ) -> Result<Vec<MountState>, MetricsError> {
        let start = Instant::now();

        // As long as mounts respond, one thread runs at a time. Mounts that hang use up the first half of the time
        // limit at most; then the remaining probes start at once.
        let mut probes = Vec::with_capacity(mounts.len());
        for mount in mounts {
            let probe = self.start(mount).map_err(MetricsError::Thread)?;
            wait(&probe, (start + limit / 2).min(Instant::now() + HEAD_START)).await;
            probes.push(probe);
        }

        let mut states = Vec::with_capacity(mounts.len());
        for probe in probes {
            wait(&probe, start + limit).await;
            // If there is no result yet, this also tells the other callers of the probe.
            probe.send_modify(|state| states.push(*state.get_or_insert(MountState::Unresponsive)));
        }
        Ok(states)
    }

    /// The probe of `mount` that is under way, or else a new one.
    fn start(self: &Arc<Self>, mount: &Mount) -> io::Result<Probe> {
        // Held until the probe is in the map: its thread removes it from there.
        let mut under_way = lock(&self.under_way);
        if let Some(probe) = under_way.get(mount) {
            return Ok(probe.clone());
        }
        let probe = Probe::new(None);
        let (prober, key, result) = (Arc::clone(self), mount.clone(), probe.clone());
        detached::run(move || {
            let state = match (prober.find_space)(&key.point) {
                Ok(space) => MountState::Space(space),
                Err(Errno::ENOENT) => MountState::Gone,
                Err(error) => MountState::Failed(error),
            };
            lock(&prober.under_way).remove(&key);
            result.send_replace(Some(state));
        })?;
        under_way.insert(mount.clone(), probe.clone());
        Ok(probe)
    }
}

/// Waits until a probe has a state, at most until `deadline`.
async fn wait(probe: &Probe, deadline: Instant) {
    let _ = timeout_at(deadline, probe.subscribe().wait_for(Option::is_some)).await;
}

/// The space of the file system at `point`. Hangs if the mount hangs.
pub(super) fn space(point: &Path) -> nix::Result<Space> {
    let found = statvfs(point)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Ok(Space {
        total_bytes: bytes(found.blocks()),
        used_bytes: bytes(found.blocks().saturating_sub(found.blocks_free())),
        available_bytes: bytes(found.blocks_available()),
        inodes: found.files(),
        inodes_used: found.files().saturating_sub(found.files_free()),
        read_only: found.flags().contains(FsFlags::ST_RDONLY),
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Condvar};

    use super::*;

    /// Answers probes. Those of the mounts in `hung` hang.
    #[derive(Default)]
    struct Fake {
        hung: Mutex<HashSet<&'static str>>,
        probed: Mutex<Vec<String>>,
        changed: Condvar,
    }

    const SPACE: Space =
        Space { total_bytes: 100, used_bytes: 50, available_bytes: 50, inodes: 0, inodes_used: 0, read_only: false };

    impl Fake {
        fn new(hung: &[&'static str]) -> (Arc<Self>, Arc<Prober>) {
            let fake = Arc::new(Self::default());
            lock(&fake.hung).extend(hung);
            let space = Arc::clone(&fake);
            (fake, Prober::new(move |point| space.space(point)))
        }

        fn space(&self, point: &Path) -> nix::Result<Space> {
            let point = point.to_str().unwrap();
            lock(&self.probed).push(point.to_owned());
            self.changed.notify_all();
            let hung = self.changed.wait_while(lock(&self.hung), |hung| hung.contains(point));
            drop(hung.unwrap());
            if point == "/gone" {
                return Err(Errno::ENOENT);
            }
            Ok(SPACE)
        }

        fn release(&self) {
            lock(&self.hung).clear();
            self.changed.notify_all();
        }

        fn times_probed(&self, point: &str) -> usize {
            lock(&self.probed).iter().filter(|probed| *probed == point).count()
        }
    }

    fn mounts(points: &[&str]) -> Vec<Mount> {
        let mount = |point: &&str| Mount { device: "8:1".to_owned(), point: point.into() };
        points.iter().map(mount).collect()
    }

    async fn until(mut condition: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !condition().await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    }

    #[tokio::test]
    async fn a_hung_mount_holds_up_nobody_and_has_one_probe_until_it_responds() {
        let (fake, prober) = Fake::new(&["/hung"]);
        let mounts = mounts(&["/", "/hung", "/home", "/gone"]);
        let expected = [MountState::Space(SPACE), MountState::Unresponsive, MountState::Space(SPACE), MountState::Gone];
        let limit = Duration::from_secs(3);
        let begin = Instant::now();
        assert_eq!(prober.probe(&mounts, limit).await.unwrap(), expected);
        assert!(begin.elapsed() < 10 * limit, "{:?}", begin.elapsed());

        // Further callers do not wait for it, whatever their limit.
        let ages = Duration::from_secs(1_000);
        let again = tokio::time::timeout(ages / 50, prober.probe(&mounts, ages)).await;
        assert_eq!(again.unwrap().unwrap(), expected);
        assert_eq!((fake.times_probed("/hung"), fake.times_probed("/")), (1, 2));

        fake.release();
        until(async || lock(&prober.under_way).is_empty()).await;
        assert_eq!(prober.probe(&mounts, ages).await.unwrap()[1], MountState::Space(SPACE));
        assert_eq!(fake.times_probed("/hung"), 2);
    }

    #[tokio::test]
    async fn callers_that_come_during_a_probe_share_its_result() {
        let (fake, prober) = Fake::new(&["/slow"]);
        let mounts = mounts(&["/slow"]);
        let ages = Duration::from_secs(1_000);
        let call = || {
            let (prober, mounts) = (Arc::clone(&prober), mounts.clone());
            tokio::spawn(async move { prober.probe(&mounts, ages).await })
        };
        let calls = [call(), call()];
        until(async || {
            let under_way = lock(&prober.under_way);
            under_way.values().any(|probe| probe.receiver_count() == 2)
        })
        .await;
        fake.release();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap(), [MountState::Space(SPACE)]);
        }
        assert_eq!(fake.times_probed("/slow"), 1);
    }

    #[tokio::test]
    async fn many_hung_mounts_are_passed_in_time() {
        let hung: Vec<&str> = (0..40).map(|n| &*format!("/hung/{n}").leak()).collect();
        let (fake, prober) = Fake::new(&hung);
        let mounts = mounts(&[&hung[..], &["/"]].concat());
        let states = prober.probe(&mounts, Duration::from_secs(5)).await.unwrap();
        assert_eq!(states[40], MountState::Space(SPACE));
        assert!(states[..40].iter().all(|state| *state == MountState::Unresponsive));
        assert!(hung.iter().all(|point| fake.times_probed(point) == 1));
        fake.release();
    }
}
