//! The right to start and end processes in a state directory.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{anyhow, ensure};
use nix::{
    sys::statvfs::statvfs,
    unistd::{Uid, User, geteuid},
};

use crate::{
    cli::{settings::Settings, state_directory::Directory},
    output::Advice,
};

/// The free space that Redis and the worker need at least.
const ROOM_BYTES: u64 = 16 * 1024 * 1024;

/// The state directory at `dir`, or else the usual one.
///
/// # Errors
/// Its path cannot be used, or there is no usual one.
pub fn open(dir: Option<PathBuf>, settings: &Settings) -> anyhow::Result<Directory> {
    Directory::at(&settings.state_dir(dir)?).map_err(|error| unusable(&error))
}

/// Makes the directory where it is missing, checks that it can be used, makes it private and locks it.
/// The lock lasts until the file is closed.
///
/// # Errors
/// It belongs to someone else, to another purpose or to a running `ctl up` or `ctl down`; it has no room;
/// it cannot be written.
pub fn claim(directory: &Directory) -> anyhow::Result<File> {
    let path = &directory.path;
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| cannot("make", path, &error))?;
    let checked = check_owner(path).and_then(|()| check_room(path)).and_then(|()| check_purpose(directory));
    checked.map_err(|error| unusable(&error))?;

    let lock = lock(directory, File::options().create(true))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|error| cannot("protect", path, &error))?;
    Ok(lock)
}

/// Locks the directory as [`claim`] does where `ctl up` has used it before; `None` where it has not.
///
/// # Errors
/// It belongs to someone else, or to a running `ctl up` or `ctl down`.
pub fn claim_existing(directory: &Directory) -> anyhow::Result<Option<File>> {
    if !directory.lock.exists() {
        return Ok(None);
    }
    check_owner(&directory.path).map_err(|error| unusable(&error))?;
    lock(directory, &mut File::options()).map(Some)
}

fn check_owner(path: &Path) -> anyhow::Result<()> {
    let owner = Uid::from_raw(fs::metadata(path)?.uid());
    let name = || User::from_uid(owner).ok().flatten().map_or_else(|| format!("user {owner}"), |user| user.name);
    ensure!(owner == geteuid(), "{} belongs to {}, not to you", path.display(), name());
    Ok(())
}

/// A Redis whose disk is full refuses all writes, with an error that does not name the disk.
fn check_room(path: &Path) -> anyhow::Result<()> {
    let room = statvfs(path)?;
    let available = room.blocks_available().saturating_mul(room.fragment_size());
    // Some virtual file systems do not count blocks.
    ensure!(
        room.blocks() == 0 || available >= ROOM_BYTES,
        "the file system of {} is full: {} MiB are free, at least {} MiB are needed",
        path.display(),
        available >> 20,
        ROOM_BYTES >> 20
    );
    Ok(())
}

/// `ctl up --dir ~` must not scatter its files there.
fn check_purpose(directory: &Directory) -> anyhow::Result<()> {
    let is_ours = directory.lock.exists() || fs::read_dir(&directory.path)?.next().is_none();
    ensure!(is_ours, "{} holds files that are not of `ctl up`", directory.path.display());
    Ok(())
}

fn lock(directory: &Directory, options: &mut OpenOptions) -> anyhow::Result<File> {
    let path = &directory.lock;
    let file = options.write(true).open(path).map_err(|error| cannot("write", path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = format!("another `ctl up` or `ctl down` is at work in {}", directory.path.display());
            Err(Advice::new(message).hint("try again when it has finished").into())
        }
        Err(TryLockError::Error(error)) => Err(cannot("lock", path, &error)),
    }
}

/// An error with a file or directory, in plain words.
pub fn cannot(what: &str, path: &Path, error: &io::Error) -> anyhow::Error {
    let reason = match error.kind() {
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "the file system is full".to_owned(),
        ErrorKind::PermissionDenied => "you have no permission".to_owned(),
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "it, or what it is in, is not a directory".to_owned(),
        _ => error.to_string(),
    };
    unusable(&anyhow!("cannot {what} {}: {reason}", path.display()))
}

/// Adds what to do where a directory cannot be used.
fn unusable(error: &anyhow::Error) -> anyhow::Error {
    Advice::new(format!("{error:#}")).hint("name another directory with --dir").into()
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::symlink,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    fn at(path: &Path) -> Directory {
        Directory::at(path).unwrap()
    }

    fn refusal(path: &Path) -> String {
        claim(&at(path)).unwrap_err().to_string()
    }

    /// Waits until a lock that was given up is free: a process that another test forks meanwhile holds it until it
    /// executes its program.
    fn released<T>(claim: impl Fn() -> anyhow::Result<T>) -> T {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match claim() {
                Err(error) if error.to_string().contains("is at work") && Instant::now() < end => thread::yield_now(),
                claimed => return claimed.unwrap(),
            }
        }
    }

    #[test]
    fn a_directory_is_made_private_and_locked_once() {
        let parent = tempfile::tempdir().unwrap();
        let directory = at(&parent.path().join("a/b"));
        assert!(claim_existing(&directory).unwrap().is_none());
        let lock = claim(&directory).unwrap();
        assert_eq!(fs::metadata(&directory.path).unwrap().mode() & 0o777, 0o700);
        assert!(refusal(&directory.path).contains("another `ctl up` or `ctl down` is at work"));
        assert!(claim_existing(&directory).is_err());
        drop(lock);

        fs::set_permissions(&directory.path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&directory.redis_log, "x").unwrap();
        drop(released(|| claim(&directory)));
        assert_eq!(fs::metadata(&directory.path).unwrap().mode() & 0o777, 0o700);
        assert!(released(|| claim_existing(&directory)).is_some());
    }

    #[test]
    fn other_directories_are_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("letter"), "x").unwrap();
        assert!(refusal(parent.path()).contains("holds files that are not of `ctl up`"));
        assert!(!at(parent.path()).lock.exists());
        assert!(refusal(&parent.path().join("letter")).ends_with("is not a directory"));
        assert!(refusal(&parent.path().join("letter/box")).ends_with("is not a directory"));

        symlink(parent.path(), parent.path().join("link")).unwrap();
        drop(claim(&at(&parent.path().join("link/inner"))).unwrap());
    }
}
