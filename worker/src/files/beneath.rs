//! Finding the place of a file within an allowed directory. Whoever may write there must not lead the worker out of it.
//!
//! The way down is opened component by component, and no symbolic link is followed (`O_NOFOLLOW`): so it cannot lead out,
//! whatever is renamed meanwhile. `openat2` would do the same in one call, but kernels before 5.6 lack it.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, open, openat},
    sys::stat::{FileStat, Mode, SFlag, fstatat},
};

use super::is_plain;
use crate::{
    fault::{self, Bug},
    log::{self, excerpt},
};

/// A name in an open directory.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory, open for reading, so that it can be synced.
    pub(super) directory: File,
    pub(super) name: OsString,
    /// The whole path, for messages.
    pub(super) path: PathBuf,
}

/// Why there is no such place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The path is not a plain one.
    #[error("'{0}' is no absolute path without '..'")]
    NotPlain(String),
    /// No directory allows it.
    #[error("'{path}' is not within a directory that this host's settings allow ([files] {right}): {allowed}")]
    Outside {
        /// The path.
        path: String,
        /// What was to be done: `put` or `get`.
        right: &'static str,
        /// What is allowed instead.
        allowed: String,
    },
    /// A part of the path is a symbolic link.
    #[error("'{0}' is a symbolic link, and none is followed: name the file itself")]
    Link(String),
    /// A part of the path is something else than a directory.
    #[error("'{0}' is not a directory")]
    NotADirectory(String),
    /// A part of the path does not exist.
    #[error("there is no directory '{0}'")]
    NoDirectory(String),
    /// The system refused.
    #[error("cannot open the directory '{0}'")]
    System(String, #[source] io::Error),
}

/// A path fit for a message.
pub(super) fn shown(path: &Path) -> String {
    excerpt(&path.to_string_lossy(), log::SENTENCE)
}

impl Place {
    /// The place of `path` within one of the `allowed` directories. These may have links in their own paths: the settings
    /// name them.
    pub(super) fn find(allowed: &[PathBuf], right: &'static str, path: &Path) -> Result<Self, PlaceError> {
        // Trailing slashes and single dots mean nothing.
        let path: PathBuf = path.components().collect();
        if !is_plain(&path) || path.as_os_str().as_bytes().contains(&0) {
            return Err(PlaceError::NotPlain(shown(&path)));
        }
        let within = |root: &&PathBuf| path.starts_with(root) && path != **root;
        let root = allowed.iter().filter(within).max_by_key(|root| root.components().count());
        let root = root.ok_or_else(|| {
            let list: Vec<_> = allowed.iter().map(|root| root.display().to_string()).collect();
            let allowed = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
            PlaceError::Outside { path: shown(&path), right, allowed }
        })?;

        let failed = |at: &Path, error: Errno| match error {
            Errno::ENOENT => PlaceError::NoDirectory(shown(at)),
            error => PlaceError::System(shown(at), error.into()),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory: OwnedFd = open(root, flags, Mode::empty()).map_err(|error| match error {
            Errno::ENOTDIR => PlaceError::NotADirectory(shown(root)),
            error => failed(root, error),
        })?;
        let mut at = root.clone();
        let below = path.strip_prefix(root).unwrap_or(&path);
        let (parents, name) = (below.parent().unwrap_or(Path::new("")), below.file_name().unwrap_or_default());
        let unfollowed = if fault::planted(Bug::NoFollow) { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        for part in parents {
            at.push(part);
            directory = match openat(&directory, part, flags | unfollowed, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(not_a_directory(&directory, part, &at)),
                Err(error) => return Err(failed(&at, error)),
            };
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = openat(&directory, ".", flags, Mode::empty()).map_err(|error| failed(&at, error))?;
        Ok(Self { directory: directory.into(), name: name.to_owned(), path })
    }

    /// What has the name, without following it; `None` where nothing has.
    pub(super) fn about(&self, name: &OsStr) -> io::Result<Option<FileStat>> {
        match fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => Ok(None),
            about => Ok(Some(about?)),
        }
    }

    /// Opens the file of this name for reading. Neither a link nor a pipe is waited for.
    pub(super) fn open(&self) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        Ok(openat(&self.directory, self.name.as_os_str(), flags, Mode::empty())?.into())
    }
}

fn not_a_directory(directory: &OwnedFd, part: &OsStr, at: &Path) -> PlaceError {
    let about = fstatat(directory, part, AtFlags::AT_SYMLINK_NOFOLLOW);
    if about.is_ok_and(|about| kind(&about) == SFlag::S_IFLNK) {
        PlaceError::Link(shown(at))
    } else {
        PlaceError::NotADirectory(shown(at))
    }
}

/// What kind of file it is.
pub(super) const fn kind(about: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(about.st_mode & SFlag::S_IFMT.bits())
}

/// What is there in place of a file, in words; `None` where it is a file.
pub(super) fn other_than_file(about: &FileStat) -> Option<&'static str> {
    match kind(about) {
        SFlag::S_IFREG => None,
        SFlag::S_IFDIR => Some("a directory"),
        SFlag::S_IFLNK => Some("a symbolic link, and none is followed"),
        SFlag::S_IFIFO => Some("a named pipe"),
        SFlag::S_IFSOCK => Some("a socket"),
        _ => Some("a device"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    fn find(root: &Path, path: &str) -> Result<Place, PlaceError> {
        Place::find(&[root.to_owned()], "put", &root.join(path))
    }

    #[test]
    fn places_within_are_found_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("srv");
        fs::create_dir_all(root.join("app/conf")).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        assert_eq!(find(&root, "app/conf/a.toml").unwrap().name, "a.toml");
        assert_eq!(find(&root, "app//./conf/a.toml/").unwrap().path, root.join("app/conf/a.toml"));
        let error = |path: &str| find(&root, path).unwrap_err().to_string();
        assert!(error("app/../../etc/passwd").contains("no absolute path without '..'"));
        assert!(error("/etc/passwd").contains("([files] put): /"), "{}", error("/etc/passwd"));
        assert!(error("").contains("is not within"));
        assert!(error("nothing/x").contains("there is no directory"));
        assert!(error("file/x").contains("file' is not a directory"));
        assert!(matches!(find(&root, "../srv2/x"), Err(PlaceError::NotPlain(_))));
        let sibling = Place::find(std::slice::from_ref(&root), "put", &directory.path().join("srv2/x"));
        assert!(matches!(sibling, Err(PlaceError::Outside { .. })));
        let nobody = Place::find(&[], "get", Path::new("/etc/passwd")).unwrap_err().to_string();
        assert!(nobody.ends_with("([files] get): none"), "{nobody}");
    }

    #[test]
    fn no_link_leads_out() {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (directory.path().join("srv"), directory.path().join("outside"));
        for made in [&root, &outside] {
            fs::create_dir(made).unwrap();
        }
        symlink(&outside, root.join("link")).unwrap();
        symlink(outside.join("file"), root.join("file")).unwrap();
        assert!(matches!(find(&root, "link/x"), Err(PlaceError::Link(_))));
        let place = find(&root, "file").unwrap();
        assert_eq!(other_than_file(&place.about(&place.name).unwrap().unwrap()).unwrap()[..15], *"a symbolic link");
        assert!(place.open().is_err());
        // The settings themselves may name a link.
        symlink(&root, directory.path().join("alias")).unwrap();
        assert!(find(&directory.path().join("alias"), "x").is_ok());
    }

    #[test]
    fn nobody_swaps_a_directory_for_a_link_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (directory.path().join("srv"), directory.path().join("outside"));
        fs::create_dir_all(root.join("inner")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("mark"), "").unwrap();
        symlink(&outside, root.join("other")).unwrap();
        let done = AtomicBool::new(false);
        let (mut found, mut refused) = (0, 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let (inner, other, aside) = (root.join("inner"), root.join("other"), root.join("aside"));
                while !done.load(Ordering::Relaxed) {
                    for (from, to) in [(&inner, &aside), (&other, &inner), (&aside, &other)] {
                        fs::rename(from, to).unwrap();
                    }
                }
            });
            while found < 200 || refused < 200 {
                match find(&root, "inner/mark") {
                    Ok(place) => {
                        assert!(place.about(OsStr::new("mark")).unwrap().is_none(), "led out");
                        found += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
