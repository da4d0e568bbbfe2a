//! The directory below which an archive is unpacked. It is opened as a capability (`cap-std`): no name leads out of it,
//! whatever links are in it. What comes on top of that is the archive's due: no link is followed at all, and nothing that
//! is there already is opened for writing.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use cap_std::{
    ambient_authority,
    fs::{Dir, DirBuilder, DirBuilderExt, File, OpenOptions, OpenOptionsExt},
};
use nix::{
    fcntl::AtFlags,
    sys::stat::{FchmodatFlags, Mode, fchmodat},
    unistd::{Gid, Uid, fchownat},
};

use crate::log::{self, excerpt};

/// Why a member cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// There is one of that name already.
    #[error("the archive has it twice, or something else of that name")]
    Twice,
    /// A part of its path is something else than a directory.
    #[error("'{0}' on its way is no directory but a {1}")]
    NotADirectory(String, &'static str),
    /// A hard link's target.
    #[error("it is a hard link to '{0}', which is no file that comes before it")]
    Target(String),
    /// The system refused.
    #[error("it cannot be written: {0}")]
    System(io::Error),
}

impl From<io::Error> for RootError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::AlreadyExists => Self::Twice,
            _ => Self::System(error),
        }
    }
}

impl From<nix::Error> for RootError {
    fn from(error: nix::Error) -> Self {
        io::Error::from(error).into()
    }
}

/// The mode of directories that the archive only implies.
const DIRECTORY: u32 = 0o755;

/// The root, and the directory below it in which members are being made.
pub(super) struct Root {
    top: Dir,
    owner: Option<(Uid, Gid)>,
    /// Members of one directory mostly follow on each other.
    at: Vec<String>,
    directory: Dir,
}

impl Root {
    pub(super) fn open(path: &Path, owner: Option<(u32, u32)>) -> Result<Self, RootError> {
        let top = Dir::open_ambient_dir(path, ambient_authority())?;
        let directory = top.try_clone()?;
        let owner = owner.map(|(user, group)| (Uid::from_raw(user), Gid::from_raw(group)));
        Ok(Self { top, owner, at: Vec::new(), directory })
    }

    /// Goes to the directory of these names. Those that are missing are made; returns how many.
    pub(super) fn enter(&mut self, names: &[String]) -> Result<u64, RootError> {
        if self.at == names {
            return Ok(0);
        }
        let (mut directory, mut made) = (self.top.try_clone()?, 0);
        for (index, name) in names.iter().enumerate() {
            if make(&directory, name)? {
                self.give(&directory, name, DIRECTORY)?;
                made += 1;
            }
            directory = step(&directory, name, &names[..=index])?;
        }
        (self.at, self.directory) = (names.to_vec(), directory);
        Ok(made)
    }

    /// Makes a directory. One that is there gets the mode.
    pub(super) fn directory(&self, name: &str, mode: u32) -> Result<(), RootError> {
        if !make(&self.directory, name)? && !self.directory.symlink_metadata(name)?.is_dir() {
            return Err(RootError::Twice);
        }
        // Whoever owns it can always look into it, and remove it.
        self.give(&self.directory, name, mode | 0o700)
    }

    /// Makes an empty file, to be written and then [finished](Self::finish).
    pub(super) fn file(&self, name: &str) -> Result<File, RootError> {
        Ok(self.directory.open_with(name, OpenOptions::new().write(true).create_new(true).mode(0o600))?)
    }

    /// Gives a file that is written its owner and mode.
    pub(super) fn finish(&self, name: &str, mode: u32) -> Result<(), RootError> {
        self.give(&self.directory, name, mode)
    }

    pub(super) fn symbolic(&self, name: &str, target: &str) -> Result<(), RootError> {
        self.directory.symlink(target, name)?;
        if let Some((user, group)) = self.owner {
            fchownat(&self.directory, name, Some(user), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Makes a hard link to a file that the archive has brought.
    pub(super) fn hard(&self, name: &str, target: &[String]) -> Result<(), RootError> {
        let no_target = || RootError::Target(excerpt(&target.join("/"), log::NAME));
        let mut directory = self.top.try_clone()?;
        let (parents, file) = target.split_at(target.len() - 1);
        for parent in parents {
            directory = step(&directory, parent, &[]).map_err(|_| no_target())?;
        }
        if !directory.symlink_metadata(&file[0]).map_err(|_| no_target())?.is_file() {
            return Err(no_target());
        }
        Ok(directory.hard_link(&file[0], &self.directory, name)?)
    }

    /// Gives a file or directory, which is no link, its owner and mode. The owner first: to change it takes bits off the
    /// mode.
    fn give(&self, directory: &Dir, name: &str, mode: u32) -> Result<(), RootError> {
        if let Some((user, group)) = self.owner {
            fchownat(directory, name, Some(user), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        Ok(fchmodat(directory, name, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?)
    }
}

/// Makes a directory for this user alone. Returns whether it was not there.
fn make(directory: &Dir, name: &str) -> Result<bool, RootError> {
    match directory.create_dir_with(name, DirBuilder::new().mode(0o700)) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        made => Ok(made.map(|()| true)?),
    }
}

/// Opens a directory that is there. Nobody but the worker can have put a link in its place meanwhile.
fn step(directory: &Dir, name: &str, path: &[String]) -> Result<Dir, RootError> {
    let about = directory.symlink_metadata(name)?;
    if about.is_dir() {
        return Ok(directory.open_dir(name)?);
    }
    let what = if about.is_symlink() { "symbolic link" } else { "file" };
    Err(RootError::NotADirectory(excerpt(&path.join("/"), log::NAME), what))
}
