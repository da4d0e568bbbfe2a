//! The directories of the releases, and the link to the one that is to run. All of this may hang in the kernel: it is
//! called in threads of its own.

use std::{
    fs::{self, DirBuilder, File, Metadata},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use crate::{
    guarded::is_guarded,
    services::release::{CURRENT, RELEASES, current, directory},
};

/// How the name of a draft begins. No version begins so.
const DRAFT: &str = ".draft-";

/// The link that takes the place of `current`.
const NEXT: &str = ".current.next";

/// The releases of one application.
#[derive(Clone, Debug)]
pub(super) struct Releases {
    app: PathBuf,
}

impl Releases {
    pub(super) fn new(app: &Path) -> Self {
        Self { app: app.to_owned() }
    }

    /// Makes what must be there. The directory of the application itself is the operator's to make.
    pub(super) fn open(&self) -> io::Result<()> {
        let shown = |what: &str| io::Error::new(ErrorKind::NotADirectory, format!("{}: {what}", self.app.display()));
        if !fs::metadata(&self.app).map_err(|error| shown(&error.to_string()))?.is_dir() {
            return Err(shown("it is no directory"));
        }
        let releases = self.app.join(RELEASES);
        match DirBuilder::new().mode(0o755).create(&releases) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let about = fs::symlink_metadata(&releases)?;
        if !about.is_dir() {
            return Err(shown("releases is no directory"));
        }
        // Whoever can write there could lead the worker elsewhere.
        for directory in self.app.canonicalize()?.ancestors() {
            guard(directory, &fs::metadata(directory)?)?;
        }
        guard(&releases, &about)?;
        match fs::symlink_metadata(self.app.join(CURRENT)) {
            Ok(about) if !about.is_symlink() => Err(shown("current is there and is no symbolic link: move it away")),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The directory of a release.
    pub(super) fn directory(&self, version: &str) -> PathBuf {
        directory(&self.app, version)
    }

    /// Whether it is there, whole: a draft has another name.
    pub(super) fn has(&self, version: &str) -> bool {
        self.directory(version).is_dir()
    }

    fn draft(&self, version: &str) -> PathBuf {
        self.app.join(RELEASES).join(format!("{DRAFT}{version}"))
    }

    /// An empty directory into which a release is unpacked, for the worker alone.
    pub(super) fn begin(&self, version: &str) -> io::Result<PathBuf> {
        self.discard(version)?;
        let draft = self.draft(version);
        DirBuilder::new().mode(0o700).create(&draft)?;
        Ok(draft)
    }

    /// Brings the draft to the disk.
    pub(super) fn sync(&self, version: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
        let draft = self.draft(version);
        if let Some((user, group)) = owner {
            chown(&draft, Some(user), Some(group))?;
        }
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
        let root = File::open(draft)?;
        // One call for all files and directories of it, instead of one for each.
        nix::unistd::syncfs(&root)?;
        root.sync_all()
    }

    /// Makes the draft a release.
    pub(super) fn place(&self, version: &str) -> io::Result<()> {
        fs::rename(self.draft(version), self.directory(version))?;
        sync(&self.app.join(RELEASES))
    }

    /// Removes the draft of a release, if there is one.
    pub(super) fn discard(&self, version: &str) -> io::Result<()> {
        remove(&self.draft(version))
    }

    /// Removes the drafts that a dead worker has left.
    pub(super) fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.app.join(RELEASES))? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(DRAFT.as_bytes()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes a release. It gets another name first, so that there never is half of one.
    ///
    /// # Errors
    /// The link leads to it; or the system refused.
    pub(super) fn remove(&self, version: &str) -> io::Result<()> {
        self.discard(version)?;
        if self.current()?.as_deref() == Some(version) && self.has(version) {
            return Err(io::Error::other(format!("current leads to {version}")));
        }
        match fs::rename(self.directory(version), self.draft(version)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        sync(&self.app.join(RELEASES))?;
        self.discard(version)
    }

    /// Where `current` leads.
    pub(super) fn current(&self) -> io::Result<Option<String>> {
        current(&self.app)
    }

    /// Lets `current` lead to this release. At every moment it leads to one or the other.
    pub(super) fn link(&self, version: &str) -> io::Result<()> {
        let next = self.app.join(NEXT);
        match fs::remove_file(&next) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(Path::new(RELEASES).join(version), &next)?;
        fs::rename(next, self.app.join(CURRENT))?;
        sync(&self.app)
    }
}

/// That nobody else may rename what is in this directory: in one with the sticky bit, each can do so with what is theirs.
fn guard(directory: &Path, about: &Metadata) -> io::Result<()> {
    if is_guarded(about) || about.mode() & 0o1000 != 0 {
        return Ok(());
    }
    let who = "must belong to root or to the worker's user, and nobody else may write there";
    Err(io::Error::new(ErrorKind::PermissionDenied, format!("{} {who}", directory.display())))
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a directory with all that is in it. Directories that their owner may not change are made to be changed.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> (tempfile::TempDir, Releases) {
        let directory = tempfile::tempdir().unwrap();
        let releases = Releases::new(directory.path());
        releases.open().unwrap();
        (directory, releases)
    }

    fn release(releases: &Releases, version: &str) {
        fs::write(releases.begin(version).unwrap().join("file"), version).unwrap();
        releases.sync(version, None).unwrap();
        releases.place(version).unwrap();
    }

    #[test]
    fn a_release_comes_whole_and_goes_whole() {
        let (directory, releases) = app();
        let draft = releases.begin("1").unwrap();
        fs::write(draft.join("left"), "").unwrap();
        assert!(!releases.has("1") && fs::metadata(&draft).unwrap().permissions().mode() & 0o777 == 0o700);
        release(&releases, "1");
        assert_eq!(fs::read_dir(releases.directory("1")).unwrap().count(), 1, "nothing of the draft before");
        releases.link("1").unwrap();
        release(&releases, "2");
        releases.link("2").unwrap();
        assert_eq!(releases.current().unwrap().as_deref(), Some("2"));
        assert_eq!(fs::read_to_string(directory.path().join("current/file")).unwrap(), "2");
        releases.remove("1").unwrap();
        releases.remove("1").unwrap();
        assert!(releases.remove("2").unwrap_err().to_string().contains("current leads to 2"));
        // What is left of one that died meanwhile goes, too.
        releases.begin("3").unwrap();
        releases.sweep().unwrap();
        let left: Vec<_> = fs::read_dir(directory.path().join(RELEASES)).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let (directory, releases) = app();
        fs::create_dir(directory.path().join(CURRENT)).unwrap();
        assert!(releases.open().unwrap_err().to_string().contains("current is there and is no symbolic link"));
        fs::remove_dir(directory.path().join(CURRENT)).unwrap();
        fs::remove_dir(directory.path().join(RELEASES)).unwrap();
        symlink("/tmp", directory.path().join(RELEASES)).unwrap();
        assert!(releases.open().unwrap_err().to_string().contains("releases is no directory"));
        fs::remove_file(directory.path().join(RELEASES)).unwrap();
        // Whoever may write there could lead the worker elsewhere.
        let open = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o775)).unwrap();
            let refused = releases.open().unwrap_err().to_string();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            assert!(refused.contains("and nobody else may write there"), "{refused}");
            releases.open().unwrap();
        };
        open(directory.path());
        open(&directory.path().join(RELEASES));
        let missing = Releases::new(&directory.path().join("none")).open().unwrap_err().to_string();
        assert!(missing.contains("none: No such file"), "{missing}");
    }
}
