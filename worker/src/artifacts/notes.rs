//! Notes about what a command makes outside of the worker's own directories: what a dead worker has left there is removed
//! by the next one.

use std::{
    ffi::OsString,
    fs,
    io::{self, ErrorKind},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use protocol::name::JobId;

use super::Artifacts;
use crate::private_file::make_directory;

/// How the name of every file begins that is made beside the one whose name it shall get.
pub(crate) const DRAFT: &str = ".redfleet-draft-";

/// What a note is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// The directory with the copy of a script.
    Script,
    /// A file that has not got its name yet.
    Draft,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Script, Self::Draft];

    /// How the names of its notes end.
    const fn ending(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Draft => "draft",
        }
    }

    /// Removes what a note of this kind is about.
    fn remove(self, place: &Path) -> io::Result<()> {
        let is_draft = || place.file_name().is_some_and(|name| name.as_bytes().starts_with(DRAFT.as_bytes()));
        match self {
            Self::Script => fs::remove_dir_all(place),
            Self::Draft if is_draft() => fs::remove_file(place),
            Self::Draft => Ok(()),
        }
    }
}

/// A note. When it is dropped, what it is about is removed, and then the note.
pub(crate) struct Note {
    path: PathBuf,
    kind: Kind,
    place: PathBuf,
}

impl Artifacts {
    /// Writes down that something is being made at this place.
    ///
    /// # Errors
    /// The system refused.
    pub(crate) fn note(&self, job: JobId, kind: Kind, place: PathBuf) -> io::Result<Note> {
        make_directory(&self.directory)?;
        let path = self.directory.join(format!("{job}.{}", kind.ending()));
        fs::write(&path, place.as_os_str().as_bytes())?;
        Ok(Note { path, kind, place })
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let gone = |error: io::Error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) };
        let removed =
            self.kind.remove(&self.place).or_else(gone).and_then(|()| fs::remove_file(&self.path).or_else(gone));
        if let Err(error) = removed {
            tracing::warn!("cannot remove {}, which was only there for a command: {error}", self.place.display());
        }
    }
}

/// Removes what a dead worker has left.
pub(super) fn clear(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let ending = path.extension().unwrap_or_default();
        let kind = Kind::ALL.into_iter().find(|kind| kind.ending() == ending);
        if let (Some(kind), Ok(place)) = (kind, fs::read(&path)) {
            drop(Note { path, kind, place: OsString::from_vec(place).into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_worker_was_making_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let [draft, other, gone] =
            [".redfleet-draft-1", "motd", ".redfleet-draft-2"].map(|name| directory.path().join(name));
        let notes = directory.path().join("notes");
        fs::create_dir(&notes).unwrap();
        for file in [&draft, &other] {
            fs::write(file, "half").unwrap();
        }
        for (number, file) in [&draft, &other, &gone].into_iter().enumerate() {
            fs::write(notes.join(format!("{number}.draft")), file.as_os_str().as_bytes()).unwrap();
        }
        clear(&notes);
        assert_eq!((draft.exists(), other.exists(), fs::read_dir(&notes).unwrap().count()), (false, true, 0));
    }
}
