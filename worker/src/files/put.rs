//! Putting a file: what there is to do, and doing it. A name has its old file or its new one, whole, at every moment.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata, Permissions},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, fchown},
    },
    path::PathBuf,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, renameat},
    sys::stat::Mode,
    unistd::{Gid, Uid, UnlinkatFlags, linkat, unlinkat},
};
use protocol::{
    artifact::{Artifact, Digester},
    time::{Millis, show_moment},
};
use tokio_util::sync::CancellationToken;

use super::{
    beneath::{Place, PlaceError, other_than_file, shown},
    owner::{self, OwnerError},
};
use crate::artifacts::{Fetched, notes::DRAFT};

/// The mode of a new file where none is asked for.
const MODE: u32 = 0o644;

/// Set-user-id and set-group-id. New content, or a new owner, gets them only where the mode is asked for: whoever may write
/// in the directory may have made the prior file.
const SET_ID: u32 = 0o6000;

/// Bytes that are copied at once.
const COPY: usize = 128 * 1024;

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// Where the file shall be.
    pub path: PathBuf,
    /// Its content.
    pub artifact: Artifact,
    /// Its mode; the one of the prior file where absent.
    pub mode: Option<u32>,
    /// Its owner, as `user:group`; the one of the prior file where absent.
    pub owner: Option<String>,
    /// Whether a prior file with other content is kept under another name.
    pub backup: bool,
}

/// Why a file was not put. Nothing was changed then, unless the error says so.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// There is no such place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// There is no such owner.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// Something else than a file has that name.
    #[error("'{0}' is {1}")]
    NotAFile(String, &'static str),
    /// The prior file cannot be read.
    #[error("cannot read '{0}', to compare it")]
    Read(String, #[source] io::Error),
    /// The new file cannot be written.
    #[error("cannot write '{0}'; it is as it was before")]
    Write(String, #[source] io::Error),
    /// The owner cannot be set.
    #[error("cannot give '{path}' to {owner}: the worker must be root for that")]
    Give {
        /// The file.
        path: String,
        /// The owner.
        owner: String,
    },
    /// There is a backup of that name already.
    #[error("cannot keep the prior file as '{0}': there is one already")]
    Backup(String),
    /// What was fetched is not what is on the disk now.
    #[error("the content has changed on this host's disk before it was used")]
    Digest,
    /// The new file has its name, but it may be lost with the power.
    #[error(
        "'{0}' has its new content, but its directory cannot be synced: with the loss of power the old one may return"
    )]
    Unsynced(String, #[source] io::Error),
    /// The command was ended.
    #[error("it was ended before '{0}' was changed")]
    Stopped(String),
}

/// A file that has the name already.
#[derive(Debug)]
struct Prior {
    file: File,
    about: Metadata,
    /// Whether it has the content that is asked for.
    is_same: bool,
}

/// What there is to do.
#[derive(Debug)]
pub struct Plan {
    place: Place,
    artifact: Artifact,
    prior: Option<Prior>,
    mode: u32,
    /// User and group, where they are not as they come.
    owner: Option<(u32, u32)>,
    backup: Option<OsString>,
    steps: Vec<String>,
}

impl Prior {
    fn mode(&self) -> u32 {
        self.about.mode() & 0o7777
    }

    fn owner(&self) -> (u32, u32) {
        (self.about.uid(), self.about.gid())
    }
}

impl Plan {
    /// Looks what there is to do. `allowed`: the directories within which files may be put.
    ///
    /// # Errors
    /// It cannot be done.
    pub fn make(allowed: &[PathBuf], request: Request, now: Millis) -> Result<Self, PutError> {
        let Request { path, artifact, mode, owner, backup } = request;
        let place = Place::find(allowed, "put", &path)?;
        let prior = Prior::find(&place, &artifact)?;
        let asked = owner.as_deref().map(owner::find_owner).transpose()?;
        let owner = match (&prior, asked) {
            (None, None) => None,
            (prior, asked) => {
                let (user, group) = asked.unwrap_or_default();
                let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
                let (before_user, before_group) = prior.as_ref().map_or(own, Prior::owner);
                Some((user.map_or(before_user, Uid::as_raw), group.map_or(before_group, Gid::as_raw)))
            }
        };
        let is_left = |prior: &Prior| prior.is_same && owner == Some(prior.owner());
        let inherited = |prior: &Prior| if is_left(prior) { prior.mode() } else { prior.mode() & !SET_ID };
        let mode = mode.unwrap_or_else(|| prior.as_ref().map_or(MODE, inherited));
        let replaced = prior.as_ref().is_some_and(|prior| !prior.is_same);
        let backup = (backup && replaced).then(|| backup_name(&place.name, now));
        let mut plan = Self { place, artifact, prior, mode, owner, backup, steps: Vec::new() };
        plan.steps = plan.describe();
        Ok(plan)
    }

    fn describe(&self) -> Vec<String> {
        let new = format!("{} bytes, SHA-256 {}…", self.artifact.bytes(), &self.artifact.sha256()[..12]);
        let owner = self.owner.map(|(user, group)| owner::show_owner(user, group));
        let Some(prior) = &self.prior else {
            let owner = owner.map(|owner| format!(", owner {owner}")).unwrap_or_default();
            return vec![format!("create it: {new}, mode {:04o}{owner}", self.mode)];
        };
        let mut steps = Vec::new();
        if let Some(backup) = &self.backup {
            steps.push(format!("keep the prior file as {}", shown(backup.as_ref())));
        }
        if !prior.is_same {
            steps.push(format!("replace its {} bytes by {new}", prior.about.len()));
        }
        if self.owner.is_some_and(|owner| owner != prior.owner()) {
            let (user, group) = prior.owner();
            let before = owner::show_owner(user, group);
            steps.push(format!("change its owner: {before} to {}", owner.unwrap_or_default()));
        }
        if prior.mode() != self.mode {
            steps.push(format!("change its mode: {:04o} to {:04o}", prior.mode(), self.mode));
        }
        steps
    }

    /// What there is to do, in words; nothing where all is as it shall be.
    pub fn steps(&self) -> &[String] {
        &self.steps
    }

    /// Whether the content is needed to do it.
    pub fn needs_content(&self) -> bool {
        self.prior.as_ref().is_none_or(|prior| !prior.is_same)
    }

    /// The path, without what means nothing in it.
    pub fn path(&self) -> String {
        shown(&self.place.path)
    }

    /// Where the new content lies until it gets its name.
    pub fn draft(&self) -> PathBuf {
        self.place.path.with_file_name(draft_name(&self.place.name))
    }

    /// Does it. `content` must be there if it is needed.
    ///
    /// # Errors
    /// It could not be done.
    pub fn carry_out(self, content: Option<Fetched>, stop: &CancellationToken) -> Result<(), PutError> {
        let path = self.path();
        let write = |error| PutError::Write(path.clone(), error);
        let Some(mut content) = content.filter(|_| self.needs_content()) else {
            let Some(prior) = &self.prior else { return Err(PutError::Digest) };
            self.give(&prior.file, Some(prior.owner()))?;
            // A new owner costs a file its set-user-id bit.
            prior.file.set_permissions(Permissions::from_mode(self.mode)).map_err(write)?;
            return prior.file.sync_all().map_err(write);
        };

        let draft = Draft::make(&self.place).map_err(write)?;
        self.copy(content.file(), &draft.file, stop)?;
        let about = draft.file.metadata().map_err(write)?;
        self.give(&draft.file, Some((about.uid(), about.gid())))?;
        draft.file.set_permissions(Permissions::from_mode(self.mode)).map_err(write)?;
        draft.file.sync_all().map_err(write)?;
        if stop.is_cancelled() {
            return Err(PutError::Stopped(path));
        }
        let directory = &self.place.directory;
        let name = self.place.name.as_os_str();
        if let Some(backup) = &self.backup {
            linkat(directory, name, directory, backup.as_os_str(), AtFlags::empty()).map_err(|error| match error {
                Errno::EEXIST => PutError::Backup(shown(&self.place.path.with_file_name(backup))),
                error => write(error.into()),
            })?;
        }
        if let Err(error) = draft.rename() {
            if let Some(backup) = &self.backup {
                let _ = unlinkat(directory, backup.as_os_str(), UnlinkatFlags::NoRemoveDir);
            }
            return Err(write(error));
        }
        directory.sync_all().map_err(|error| PutError::Unsynced(path.clone(), error))
    }

    /// Copies the content, and looks whether it is still the right one.
    fn copy(&self, from: &mut File, to: &File, stop: &CancellationToken) -> Result<(), PutError> {
        let path = || shown(&self.place.path);
        let (mut to, mut content, mut buffer) = (to, Digester::default(), vec![0; COPY]);
        loop {
            if stop.is_cancelled() {
                return Err(PutError::Stopped(path()));
            }
            let count = from.read(&mut buffer).map_err(|error| PutError::Write(path(), error))?;
            if count == 0 {
                break;
            }
            content.update(&buffer[..count]);
            to.write_all(&buffer[..count]).map_err(|error| PutError::Write(path(), error))?;
        }
        if content.artifact() == self.artifact { Ok(()) } else { Err(PutError::Digest) }
    }

    /// Sets the owner, where it is another one.
    fn give(&self, file: &File, before: Option<(u32, u32)>) -> Result<(), PutError> {
        let Some((user, group)) = self.owner.filter(|owner| before != Some(*owner)) else { return Ok(()) };
        fchown(file, Some(user), Some(group)).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                PutError::Give { path: self.path(), owner: owner::show_owner(user, group) }
            }
            _ => PutError::Write(self.path(), error),
        })
    }
}

impl Prior {
    /// The file that has the name. May take its time: it is read.
    fn find(place: &Place, artifact: &Artifact) -> Result<Option<Self>, PutError> {
        let path = shown(&place.path);
        let read = |error| PutError::Read(path.clone(), error);
        let Some(about) = place.about(&place.name).map_err(read)? else { return Ok(None) };
        if let Some(other) = other_than_file(&about) {
            return Err(PutError::NotAFile(path, other));
        }
        let mut file = place.open().map_err(read)?;
        let about = file.metadata().map_err(read)?;
        if !about.is_file() {
            return Err(PutError::NotAFile(path, "no file any more"));
        }
        let (mut content, mut buffer) = (Digester::default(), vec![0; COPY]);
        // A file of another size need not be read.
        while about.len() == artifact.bytes() {
            match file.read(&mut buffer).map_err(read)? {
                0 => break,
                count => content.update(&buffer[..count]),
            }
        }
        let is_same = about.len() == artifact.bytes() && content.artifact() == *artifact;
        Ok(Some(Self { file, about, is_same }))
    }
}

/// A file that is not complete. It is removed when it is dropped, unless it got its name.
struct Draft<'a> {
    place: &'a Place,
    name: OsString,
    file: File,
    renamed: bool,
}

impl<'a> Draft<'a> {
    /// Only one command at a time puts a file of this name: what is there is left of one that died.
    fn make(place: &'a Place) -> io::Result<Self> {
        let name = draft_name(&place.name);
        match unlinkat(&place.directory, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&place.directory, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into();
        Ok(Self { place, name, file, renamed: false })
    }

    fn rename(mut self) -> io::Result<()> {
        let directory = &self.place.directory;
        renameat(directory, self.name.as_os_str(), directory, self.place.name.as_os_str())?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = unlinkat(&self.place.directory, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// The name of the draft of a file: always the same, and never too long.
fn draft_name(name: &OsStr) -> OsString {
    let mut digester = Digester::default();
    digester.update(name.as_bytes());
    format!("{DRAFT}{}", &digester.artifact().sha256()[..16]).into()
}

/// `NAME.20261124T140327Z.bak`.
fn backup_name(name: &OsStr, now: Millis) -> OsString {
    let moment = show_moment(now);
    let moment: String =
        moment.split('.').next().unwrap_or_default().chars().filter(|char| !"-:Z".contains(*char)).collect();
    let mut backup = name.to_owned();
    backup.push(format!(".{moment}Z.bak"));
    backup
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_are_named_by_their_moment() {
        let name = backup_name(OsStr::new("motd"), 1_795_529_007_123);
        let text = name.to_str().unwrap();
        assert!(
            text.starts_with("motd.2026") && text.ends_with("Z.bak") && text.len() == "motd.20261124T140327Z.bak".len(),
            "{text}"
        );
    }

    #[test]
    fn drafts_have_short_names() {
        let long = "x".repeat(255);
        assert!(draft_name(OsStr::new(&long)).len() < 64);
        assert_ne!(draft_name(OsStr::new("a")), draft_name(OsStr::new("b")));
    }
}
