//! Asks mounts how full they are. Any of them may hang, for as long as its server is away,
//! in a system call that nothing interrupts.
//!
//! So threads that nobody waits for do the asking. One thread goes through the mounts of a
//! collect. When it gets stuck, another one goes on with the rest, then two more, then four,
//! so any number of stuck mounts is passed in time. A mount that is being asked
//! is never asked a second time: whoever comes meanwhile shares the answer, or, once the
//! mount has kept somebody waiting for too long, is told so at once.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, statvfs};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use crate::detached::{self, lock};

use super::MetricsError;
use super::mounts::Mount;

/// This often within the time limit, it is looked whether the threads are stuck.
const LOOKS: u32 = 20;

/// The room on a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total_bytes: u64,
    pub(super) used_bytes: u64,
    /// What is free for everybody; the rest of what is free is for root.
    pub(super) available_bytes: u64,
    /// 0 where inodes are not limited.
    pub(super) inodes: u64,
    pub(super) inodes_used: u64,
    pub(super) read_only: bool,
}

/// What is known about a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Space(Space),
    /// It was unmounted meanwhile.
    Gone,
    Failed(String),
    Unresponsive,
}

type Probe = Box<dyn Fn(&Path) -> io::Result<Space> + Send + Sync>;

/// Asks mounts, and knows which are being asked.
pub(super) struct Prober {
    probe: Probe,
    under_way: Mutex<HashMap<Mount, Asking>>,
}

/// A thread is asking a mount.
struct Asking {
    askers: Vec<Asker>,
    overdue: bool,
}

/// Who waits for an answer, and to which of its questions.
struct Asker {
    index: usize,
    answers: UnboundedSender<(usize, Answer)>,
}

/// What the threads of one collect share.
struct Pass {
    prober: Arc<Prober>,
    queue: Mutex<VecDeque<(usize, Mount)>>,
    answers: UnboundedSender<(usize, Answer)>,
}

impl Prober {
    pub(super) fn new(probe: impl Fn(&Path) -> io::Result<Space> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { probe: Box::new(probe), under_way: Mutex::default() })
    }

    /// What each of `mounts` answers within `timeout`, in their order.
    pub(super) async fn ask(
        self: &Arc<Self>,
        mounts: &[Mount],
        timeout: Duration,
    ) -> Result<Vec<Answer>, MetricsError> {
        let (sender, mut receiver) = unbounded_channel();
        let pass = Arc::new(Pass {
            prober: Arc::clone(self),
            queue: Mutex::new(mounts.iter().cloned().enumerate().collect()),
            answers: sender,
        });
        let deadline = Instant::now() + timeout;
        let mut answers = vec![None; mounts.len()];
        let mut missing = mounts.len();
        let mut threads = 1;
        while missing > 0 && Instant::now() < deadline {
            for _ in 0..threads.min(lock(&pass.queue).len()) {
                let pass = Arc::clone(&pass);
                detached::run(move || pass.go_through()).map_err(MetricsError::Thread)?;
            }
            threads *= 2;
            let look = deadline.min(Instant::now() + timeout / LOOKS);
            while missing > 0
                && let Ok(Some((index, answer))) = timeout_at(look, receiver.recv()).await
            {
                answers[index] = Some(answer);
                missing -= 1;
            }
        }
        if missing > 0 {
            let mut under_way = lock(&self.under_way);
            for (mount, _) in mounts.iter().zip(&answers).filter(|(_, answer)| answer.is_none()) {
                if let Some(asking) = under_way.get_mut(mount) {
                    asking.overdue = true;
                }
            }
        }
        let answers = answers.into_iter();
        Ok(answers.map(|answer| answer.unwrap_or(Answer::Unresponsive)).collect())
    }

    /// Whether the caller is to ask `mount` now. If not, `asker` has an answer or will get it.
    fn begin(&self, mount: &Mount, asker: Asker) -> bool {
        match lock(&self.under_way).entry(mount.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Asking { askers: vec![asker], overdue: false });
                true
            }
            Entry::Occupied(asking) if asking.get().overdue => {
                asker.tell(Answer::Unresponsive);
                false
            }
            Entry::Occupied(mut asking) => {
                asking.get_mut().askers.push(asker);
                false
            }
        }
    }

    fn end(&self, mount: &Mount, answer: &Answer) {
        let asking = lock(&self.under_way).remove(mount);
        for asker in asking.into_iter().flat_map(|asking| asking.askers) {
            asker.tell(answer.clone());
        }
    }
}

impl Pass {
    /// Asks one mount after the other, while there are any and somebody wants to know.
    fn go_through(&self) {
        while !self.answers.is_closed()
            && let Some((index, mount)) = self.next()
        {
            let answers = self.answers.clone();
            if self.prober.begin(&mount, Asker { index, answers }) {
                let answer = (self.prober.probe)(&mount.point).into();
                self.prober.end(&mount, &answer);
            }
        }
    }

    fn next(&self) -> Option<(usize, Mount)> {
        lock(&self.queue).pop_front()
    }
}

impl Asker {
    fn tell(self, answer: Answer) {
        // Nobody there: the time limit has passed.
        let _ = self.answers.send((self.index, answer));
    }
}

impl From<io::Result<Space>> for Answer {
    fn from(result: io::Result<Space>) -> Self {
        match result {
            Ok(space) => Self::Space(space),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Gone,
            // The plain description, without the error number.
            Err(error) => Self::Failed(match error.raw_os_error() {
                Some(number) => Errno::from_raw(number).desc().to_owned(),
                None => error.to_string(),
            }),
        }
    }
}

/// Asks the kernel. May hang.
pub(super) fn space(point: &Path) -> io::Result<Space> {
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
    use std::collections::HashSet;
    use std::sync::Condvar;

    use super::*;

    /// Mounts that hang while they are in the set, and what was asked so far.
    #[derive(Default)]
    struct Fake {
        hung: Mutex<HashSet<&'static str>>,
        asked: Mutex<Vec<String>>,
        changed: Condvar,
    }

    const SPACE: Space =
        Space { total_bytes: 100, used_bytes: 50, available_bytes: 50, inodes: 0, inodes_used: 0, read_only: false };

    impl Fake {
        fn new(hung: &[&'static str]) -> (Arc<Self>, Arc<Prober>) {
            let fake = Arc::new(Self::default());
            lock(&fake.hung).extend(hung);
            let probe = Arc::clone(&fake);
            (fake, Prober::new(move |point| probe.probe(point)))
        }

        fn probe(&self, point: &Path) -> io::Result<Space> {
            let point = point.to_str().unwrap();
            lock(&self.asked).push(point.to_owned());
            self.changed.notify_all();
            let hung = self.changed.wait_while(lock(&self.hung), |hung| hung.contains(point));
            drop(hung.unwrap());
            if point == "/gone" {
                return Err(Errno::ENOENT.into());
            }
            Ok(SPACE)
        }

        fn release(&self) {
            lock(&self.hung).clear();
            self.changed.notify_all();
        }

        fn times_asked(&self, point: &str) -> usize {
            lock(&self.asked).iter().filter(|asked| *asked == point).count()
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
    async fn a_hung_mount_holds_up_nobody_and_is_asked_once_until_it_answers() {
        let (fake, prober) = Fake::new(&["/hung"]);
        let mounts = mounts(&["/", "/hung", "/home", "/gone"]);
        let expected = [Answer::Space(SPACE), Answer::Unresponsive, Answer::Space(SPACE), Answer::Gone];
        let limit = Duration::from_millis(400);
        let begin = Instant::now();
        assert_eq!(prober.ask(&mounts, limit).await.unwrap(), expected);
        assert!(begin.elapsed() < 10 * limit, "{:?}", begin.elapsed());

        // The limit no longer matters: what is known to hang is not waited for.
        let ages = Duration::from_secs(1_000);
        let again = tokio::time::timeout(ages / 50, prober.ask(&mounts, ages)).await;
        assert_eq!(again.unwrap().unwrap(), expected);
        assert_eq!((fake.times_asked("/hung"), fake.times_asked("/")), (1, 2));

        fake.release();
        until(async || prober.ask(&mounts, ages).await.unwrap()[1] == Answer::Space(SPACE)).await;
        assert_eq!(fake.times_asked("/hung"), 2);
        assert!(lock(&prober.under_way).is_empty());
    }

    #[tokio::test]
    async fn who_comes_while_a_mount_is_asked_shares_the_answer() {
        let (fake, prober) = Fake::new(&["/slow"]);
        let mounts = mounts(&["/slow"]);
        let ages = Duration::from_secs(1_000);
        let ask = || {
            let (prober, mounts) = (Arc::clone(&prober), mounts.clone());
            tokio::spawn(async move { prober.ask(&mounts, ages).await })
        };
        let asks = [ask(), ask()];
        until(async || {
            let under_way = lock(&prober.under_way);
            under_way.values().any(|asking| asking.askers.len() == 2)
        })
        .await;
        fake.release();
        for ask in asks {
            assert_eq!(ask.await.unwrap().unwrap(), [Answer::Space(SPACE)]);
        }
        assert_eq!(fake.times_asked("/slow"), 1);
    }

    #[tokio::test]
    async fn many_hung_mounts_are_passed_in_time() {
        let hung: Vec<&str> = (0..40).map(|n| &*format!("/hung/{n}").leak()).collect();
        let (fake, prober) = Fake::new(&hung);
        let mounts = mounts(&[&hung[..], &["/"]].concat());
        let answers = prober.ask(&mounts, Duration::from_secs(1)).await.unwrap();
        assert_eq!(answers[40], Answer::Space(SPACE));
        assert!(answers[..40].iter().all(|answer| *answer == Answer::Unresponsive));
        assert!(hung.iter().all(|point| fake.times_asked(point) == 1));
        fake.release();
    }
}
