//! What the worker knows about the releases of an application, in a file of its own: no archive and no user of the
//! application can claim there that a release is proven.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{name::JobId, time::Millis};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{detached, private_file::make_directory};

/// Entries of the history.
const HISTORY: usize = 100;

/// How often it is looked whether another deploy has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How far a deploy has come. What is written down is the step that is to be done, so that nothing happens unrecorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// The release is brought here, and tried. What runs is not touched.
    Preparing,
    /// Link and service go to the release.
    Switching,
    /// They go back.
    RollingBack,
}

/// How a deploy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// The release runs, and is proven.
    Deployed,
    /// It ran already.
    Already,
    /// It does not run, and nothing was switched.
    Failed,
    /// The one before runs again; or, if that was asked for, a release from before.
    RolledBack,
    /// It failed after the switch, and stays.
    Kept,
    /// The worker died meanwhile.
    Interrupted,
}

/// A release that is there, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) version: String,
    /// As `SHA256:SIZE`.
    pub(crate) artifact: String,
    pub(crate) deployed_at_ms: Millis,
    pub(crate) by: String,
    pub(crate) job: JobId,
    pub(crate) proven_at_ms: Option<Millis>,
}

/// A deploy at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deploying {
    pub(crate) job: JobId,
    pub(crate) by: String,
    pub(crate) version: String,
    /// What `current` led to before.
    pub(crate) from: Option<String>,
    pub(crate) step: Step,
}

/// A deploy that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) at_ms: Millis,
    pub(crate) job: JobId,
    pub(crate) by: String,
    pub(crate) version: String,
    pub(crate) from: Option<String>,
    pub(crate) result: Ending,
    pub(crate) reason: Option<String>,
}

/// All that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// What is to run: where `current` leads.
    pub(crate) current: Option<String>,
    /// What was last seen to be healthy.
    pub(crate) proven: Option<String>,
    pub(crate) releases: Vec<Release>,
    pub(crate) deploying: Option<Deploying>,
    /// The newest last.
    pub(crate) history: Vec<Entry>,
}

impl State {
    pub(crate) fn release(&self, version: &str) -> Option<&Release> {
        self.releases.iter().find(|release| release.version == version)
    }

    /// The release to go back to from this one: what was last seen to be healthy, unless that is the same.
    pub(super) fn safe(&self, version: &str) -> Option<String> {
        let proven = self.proven.clone().filter(|proven| proven != version && self.release(proven).is_some());
        proven.or_else(|| self.proven_before(version))
    }

    /// The release that was proven last before this one; where this one was never proven, the one that was proven last.
    pub(super) fn proven_before(&self, version: &str) -> Option<String> {
        let proven_at = |release: &Release| release.proven_at_ms;
        let limit = self.release(version).and_then(proven_at).unwrap_or(Millis::MAX);
        let others = self.releases.iter().filter(|release| release.version != version);
        let before = others.filter(|release| proven_at(release).is_some_and(|at| at < limit));
        before.max_by_key(|release| proven_at(release)).map(|release| release.version.clone())
    }

    /// Marks a release as healthy that was deployed. When each was is the order in which to go back.
    pub(super) fn prove(&mut self, version: &str, now: Millis) {
        self.proven = Some(version.to_owned());
        // No two at one moment, so that there is an order.
        let newest = self.releases.iter().filter_map(|release| release.proven_at_ms).max().unwrap_or(0);
        if let Some(release) = self.releases.iter_mut().find(|release| release.version == version) {
            release.proven_at_ms = Some(now.max(newest + 1));
        }
    }

    /// Marks a release as healthy to which somebody has gone back from another one, which is not to be gone back to: it
    /// counts as proven no more.
    pub(super) fn prove_again(&mut self, version: &str, from: Option<&str>, now: Millis) {
        if self.release(version).is_none_or(|release| release.proven_at_ms.is_none()) {
            self.prove(version, now);
        }
        self.proven = Some(version.to_owned());
        let left = self.releases.iter_mut().find(|release| Some(release.version.as_str()) == from);
        if let Some(left) = left.filter(|left| left.version != version) {
            left.proven_at_ms = None;
        }
    }

    /// Ends what is at work.
    pub(super) fn end(&mut self, now: Millis, result: Ending, reason: Option<String>) {
        let Some(Deploying { job, by, version, from, .. }) = self.deploying.take() else { return };
        self.history.push(Entry { at_ms: now, job, by, version, from, result, reason });
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
    }

    /// Forgets the releases that are not needed any more; returns their versions. `keep`: how many are kept, the newest,
    /// besides the one that runs, the proven one, the one before that, and `prior`.
    pub(super) fn prune(&mut self, keep: usize, prior: Option<&str>) -> Vec<String> {
        let before = self.current.as_deref().and_then(|current| self.proven_before(current));
        let needed = [self.current.as_deref(), self.proven.as_deref(), before.as_deref(), prior];
        let is_needed = |release: &Release| needed.contains(&Some(release.version.as_str()));
        let mut others: Vec<_> = self.releases.iter().filter(|release| !is_needed(release)).collect();
        others.sort_by_key(|release| std::cmp::Reverse(release.deployed_at_ms));
        let gone: Vec<_> = others.into_iter().skip(keep).map(|release| release.version.clone()).collect();
        self.releases.retain(|release| !gone.contains(&release.version));
        gone
    }
}

/// The state of an application, which nobody else changes as long as this is there.
pub(super) struct Locked {
    pub(super) state: State,
    path: PathBuf,
    /// Released when it is closed.
    _lock: File,
}

/// The file of an application.
pub(super) fn path(directory: &Path, app: &str) -> PathBuf {
    directory.join(format!("{app}.json"))
}

/// Reads the state as it is.
pub(super) fn read(path: &Path) -> io::Result<State> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| {
            io::Error::new(ErrorKind::InvalidData, format!("{} is not what was written there: {error}", path.display()))
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(State::default()),
        Err(error) => Err(error),
    }
}

impl Locked {
    /// Waits until nobody else changes it; `None` if `stop` came first.
    pub(super) async fn wait(path: PathBuf, stop: &CancellationToken) -> io::Result<Option<Self>> {
        loop {
            let tried = path.clone();
            if let Some(lock) = detached::call(move || try_lock(&tried)).await.flatten()? {
                let read_from = path.clone();
                let state = detached::call(move || read(&read_from)).await.flatten()?;
                return Ok(Some(Self { state, path, _lock: lock }));
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return Ok(None),
            }
        }
    }

    /// Writes the state down; it is on the disk when this returns.
    pub(super) async fn save(&self) -> io::Result<()> {
        let (path, state) = (self.path.clone(), self.state.clone());
        detached::call(move || replace(&path, &serde_json::to_vec(&state)?)).await.flatten()
    }
}

/// Locks the state of an application against others, in this process and in another one.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    make_directory(path.parent().unwrap_or(Path::new("/")))?;
    let mut options = OpenOptions::new();
    let lock = options.write(true).create(true).truncate(false).mode(0o600).open(path.with_extension("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str, deployed_at_ms: Millis) -> Release {
        let (by, job) = ("ann".to_owned(), JobId::new());
        Release { version: version.to_owned(), artifact: "x:1".to_owned(), deployed_at_ms, by, job, proven_at_ms: None }
    }

    /// Releases 1 to 5, of which 1, 2 and 4 were proven, in this order.
    fn state() -> State {
        let releases = (1..=5).map(|number| release(&number.to_string(), number)).collect();
        let mut state = State { releases, ..State::default() };
        for version in ["1", "2", "4"] {
            state.prove(version, 7);
        }
        state
    }

    #[test]
    fn the_way_back_leads_to_what_was_proven_and_never_round_in_a_circle() {
        let mut state = state();
        assert_eq!(state.safe("5").as_deref(), Some("4"));
        assert_eq!(state.safe("4").as_deref(), Some("2"), "not 3, which was never proven, nor 5, which is newer");
        assert_eq!(state.proven_before("2").as_deref(), Some("1"));
        assert_eq!(state.proven_before("1"), None);
        // After a rollback from 4 to 2, that is what was last seen to be healthy, and nothing leads to 4 again.
        state.prove_again("2", Some("4"), 9);
        assert_eq!((state.safe("5").as_deref(), state.proven_before("2").as_deref()), (Some("2"), Some("1")));
        state.prove("5", 10);
        assert_eq!(state.proven_before("5").as_deref(), Some("2"), "not 4, which somebody has gone back from");
        // One that is deployed again is the newest: the way back leads to what ran before it.
        state.prove("1", 11);
        assert_eq!(state.proven_before("1").as_deref(), Some("5"));
        assert_eq!(State::default().safe("1"), None);
    }

    #[test]
    fn what_is_needed_is_never_forgotten() {
        let mut state = state();
        state.current = Some("4".into());
        assert_eq!(state.clone().prune(1, None), ["3", "1"], "4 runs, 2 is the one before, 5 is kept besides");
        assert_eq!(state.clone().prune(1, Some("3")), ["1"], "3 ran before");
        state.prove("1", 9);
        assert_eq!(state.prune(0, None), ["5", "3"], "4 runs, 1 is proven, 2 is the one before");
        assert_eq!(state.releases.len(), 3);
    }

    #[test]
    fn the_history_is_bounded() {
        let mut state = State::default();
        for number in 0..HISTORY + 3 {
            let version = number.to_string();
            state.deploying =
                Some(Deploying { job: JobId::new(), by: "ann".into(), version, from: None, step: Step::Switching });
            state.end(7, Ending::Deployed, None);
        }
        assert_eq!((state.history.len(), state.history[0].version.as_str()), (HISTORY, "3"));
        state.end(7, Ending::Deployed, None);
        assert_eq!(state.history.len(), HISTORY);
    }

    #[tokio::test]
    async fn one_at_a_time_changes_it_and_what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (path, stop) = (path(&directory.path().join("apps"), "web"), CancellationToken::new());
        let mut locked = Locked::wait(path.clone(), &stop).await.unwrap().unwrap();
        locked.state = state();
        locked.save().await.unwrap();
        let written = locked.state.clone();
        stop.cancel();
        assert!(Locked::wait(path.clone(), &stop).await.unwrap().is_none());
        drop(locked);
        assert_eq!(Locked::wait(path.clone(), &stop).await.unwrap().unwrap().state, written);
        fs::write(&path, "{").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("is not what was written there"));
    }
}
