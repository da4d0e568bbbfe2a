//! The state directory of `ctl up`: what is in it, whose it is, and who may work on it now.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use nix::{
    sys::statvfs::statvfs,
    unistd::{Uid, User, geteuid},
};

use crate::{error::Advice, style};

/// Room that Redis and the worker need at least.
const ROOM_BYTES: u64 = 16 * 1024 * 1024;
/// The longest path of a Unix socket (man 7 unix: `sun_path` without the closing zero).
const SOCKET_PATH_BYTES: usize = 107;
/// What the lock file says, so that a directory is known to be of `ctl up`, and of nothing else.
const MARK: &str = "This directory belongs to `ctl up` of Redfleet.\n";

/// A state directory.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

/// The right to change what runs in a directory; ends with this value, or with the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it is held, not used")] File);

impl Directory {
    /// The directory at `path`, which may not exist.
    pub fn at(path: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(path).with_context(|| format!("cannot use '{}'", path.display()))?;
        // It goes into a URL and a settings file, which are text.
        if path.to_str().is_none_or(|text| text.contains(char::is_control)) {
            let shown = style::plain(&path.to_string_lossy());
            return Err(Advice::new(format!("the path '{shown}' is not plain text")).hint(OTHER).into());
        }
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The socket that Redis listens on.
    pub fn socket(&self) -> PathBuf {
        self.0.join("redis.sock")
    }

    /// How clients name that socket.
    pub fn url(&self) -> String {
        socket_url(&self.socket())
    }

    /// What Redis keeps.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// What Redis logs.
    pub fn redis_log(&self) -> PathBuf {
        self.0.join("redis.log")
    }

    /// Which process Redis is.
    pub fn redis_pid(&self) -> PathBuf {
        self.0.join("redis.pid")
    }

    /// The worker's settings.
    pub fn worker_config(&self) -> PathBuf {
        self.0.join("worker.toml")
    }

    /// What the worker keeps.
    pub fn worker_state(&self) -> PathBuf {
        self.0.join("worker")
    }

    /// What the worker logs.
    pub fn worker_log(&self) -> PathBuf {
        self.0.join("worker.log")
    }

    /// Which process the worker is.
    pub fn worker_pid(&self) -> PathBuf {
        self.0.join("worker.pid")
    }

    /// Makes the directory where it is missing, makes sure that it can be used and nobody else's, and
    /// locks it.
    pub fn claim(&self) -> anyhow::Result<Lock> {
        let length = self.socket().as_os_str().len();
        if length > SOCKET_PATH_BYTES {
            let message = format!(
                "the path {} is too long: a socket's path may have {SOCKET_PATH_BYTES} bytes, this has {length}",
                self.socket().display()
            );
            return Err(Advice::new(message).hint("name a shorter directory with --dir").into());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(|error| cannot("make", &self.0, &error))?;
        self.check_owner()?;
        self.check_room()?;
        self.check_foreign()?;
        let lock = self.lock()?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700))
            .map_err(|error| cannot("protect", &self.0, &error))?;
        Ok(lock)
    }

    /// Locks the directory where it is one of `ctl up`; `None` where it is not, or does not exist.
    pub fn lock_existing(&self) -> anyhow::Result<Option<Lock>> {
        if !self.is_marked() {
            return Ok(None);
        }
        self.check_owner()?;
        self.lock().map(Some)
    }

    fn check_owner(&self) -> anyhow::Result<()> {
        let metadata = fs::metadata(&self.0).map_err(|error| cannot("use", &self.0, &error))?;
        let owner = Uid::from_raw(metadata.uid());
        if owner == geteuid() {
            return Ok(());
        }
        let name = User::from_uid(owner).ok().flatten().map_or_else(|| format!("user {owner}"), |user| user.name);
        Err(Advice::new(format!("{} belongs to {name}, not to you", self.0.display())).hint(OTHER).into())
    }

    /// Redis on a full disk refuses all writes, which nobody would understand later.
    fn check_room(&self) -> anyhow::Result<()> {
        let Ok(room) = statvfs(&self.0) else { return Ok(()) };
        let available = room.blocks_available().saturating_mul(room.fragment_size());
        // Some virtual file systems do not count blocks.
        if room.blocks() == 0 || available >= ROOM_BYTES {
            return Ok(());
        }
        let message = format!(
            "the file system of {} is full: {} MiB are free, at least {} MiB are needed",
            self.0.display(),
            available >> 20,
            ROOM_BYTES >> 20
        );
        Err(Advice::new(message).hint(format!("free some space, or {OTHER}")).into())
    }

    /// `ctl up --dir ~` must not scatter its files there.
    fn check_foreign(&self) -> anyhow::Result<()> {
        if self.is_marked() {
            return Ok(());
        }
        let entries = fs::read_dir(&self.0).map_err(|error| cannot("read", &self.0, &error))?;
        // A lock file without its mark is what a run that failed at once has left.
        if entries.flatten().all(|entry| entry.file_name() == LOCK) {
            return Ok(());
        }
        let message = format!("{} holds files that are not of `ctl up`", self.0.display());
        Err(Advice::new(message).hint("name an empty or a new directory with --dir").into())
    }

    fn is_marked(&self) -> bool {
        let mut text = String::new();
        let read =
            File::open(self.0.join(LOCK)).and_then(|file| file.take(MARK.len() as u64).read_to_string(&mut text));
        read.is_ok() && text == MARK
    }

    fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.0.join(LOCK);
        let failed = |error: io::Error| cannot("write", &path, &error);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("another `ctl up` or `ctl down` is at work in {}", self.0.display());
                return Err(Advice::new(message).hint("try again when it has finished").into());
            }
            Err(TryLockError::Error(error)) => return Err(failed(error).into()),
        }
        if !self.is_marked() {
            file.rewind().and_then(|()| file.write_all(MARK.as_bytes())).map_err(failed)?;
        }
        Ok(Lock(file))
    }
}

/// The lock file.
const LOCK: &str = "lock";
/// The way out of most troubles with a directory.
const OTHER: &str = "name another directory with --dir";

/// That something cannot be done with a file or directory, and why, in plain words.
pub fn cannot(what: &str, path: &Path, error: &io::Error) -> Advice {
    let reason = match error.kind() {
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "the file system is full".to_owned(),
        ErrorKind::PermissionDenied => "you have no permission".to_owned(),
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "it, or what it is in, is not a directory".to_owned(),
        _ => error.to_string(),
    };
    Advice::new(format!("cannot {what} {}: {reason}", path.display())).hint(OTHER)
}

/// The URL of a Unix socket. What has a meaning in URLs is escaped.
fn socket_url(socket: &Path) -> String {
    let escaped = |byte: &u8| match byte {
        b'/' | b'-' | b'_' | b'.' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(*byte).to_string(),
        other => format!("%{other:02X}"),
    };
    let path: String = socket.as_os_str().as_encoded_bytes().iter().map(escaped).collect();
    format!("unix://{path}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use protocol::connection::Address;

    use super::*;

    fn told(result: anyhow::Result<Lock>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_directory_is_made_private_and_locked_once() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::at(&parent.path().join("a/b")).unwrap();
        assert!(directory.lock_existing().unwrap().is_none());
        let lock = directory.claim().unwrap();
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700);
        assert!(told(directory.claim()).contains("another `ctl up` or `ctl down` is at work"));
        drop(lock);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.path().join("redis.log"), "x").unwrap();
        drop(directory.claim().unwrap());
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700);
        assert!(directory.lock_existing().unwrap().is_some());
    }

    #[test]
    fn other_directories_are_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("letter"), "x").unwrap();
        let claim = |path: &Path| told(Directory::at(path).unwrap().claim());
        assert!(claim(parent.path()).contains("holds files that are not of `ctl up`"));
        assert!(!parent.path().join(LOCK).exists());
        assert!(claim(&parent.path().join("letter")).ends_with("is not a directory"));
        assert!(claim(&parent.path().join("letter/box")).ends_with("is not a directory"));
        assert!(claim(&parent.path().join("x".repeat(100))).contains("too long"));
        // Somebody else's lock file is not the mark.
        fs::write(parent.path().join(LOCK), "x").unwrap();
        assert!(claim(parent.path()).contains("holds files"));
    }

    #[test]
    fn urls_lead_to_the_socket_whatever_its_name() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["plain", "with space", "100%", "a?b#c", "ü"] {
            let directory = Directory::at(&parent.path().join(name)).unwrap();
            let address: Address = directory.url().parse().unwrap();
            assert_eq!(address.socket(), Some(directory.socket().as_path()), "{name}");
        }
        assert!(Directory::at(Path::new("a\nb")).is_err());
        symlink(parent.path(), parent.path().join("link")).unwrap();
        drop(Directory::at(&parent.path().join("link/inner")).unwrap().claim().unwrap());
    }
}
