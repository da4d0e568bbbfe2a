//! Notes about files that are being made outside of the worker's own directories: what a dead worker has left there is
//! removed by the next one.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use protocol::name::JobId;

use super::Artifacts;

/// How the name of a note ends.
const ENDING: &str = "draft";

/// How the name of every file begins that a note may be about.
pub(crate) const DRAFT: &str = ".redfleet-draft-";

/// A note about a file that is being made. It is removed when it is dropped: then the file has its name, or is gone.
pub(crate) struct Note(PathBuf);

impl Artifacts {
    /// Writes down that this file is being made.
    ///
    /// # Errors
    /// The system refused.
    pub(crate) fn note(&self, job: JobId, file: &Path) -> io::Result<Note> {
        let note = Note(self.directory.join(format!("{job}.{ENDING}")));
        fs::create_dir_all(&self.directory)?;
        fs::write(&note.0, file.as_os_str().as_bytes())?;
        Ok(note)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes what a dead worker has left.
pub(super) fn clear(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let note = entry.path();
        if note.extension().is_none_or(|ending| ending != ENDING) {
            continue;
        }
        let Ok(file) = fs::read(&note).map(|path| PathBuf::from(OsString::from_vec(path))) else { continue };
        let is_draft = file.file_name().is_some_and(|name| name.as_bytes().starts_with(OsStr::new(DRAFT).as_bytes()));
        let removed = if is_draft { fs::remove_file(&file) } else { Ok(()) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}, which a dead worker has left: {error}", file.display());
            }
            _ => drop(Note(note)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_worker_was_making_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let [draft, other] = [".redfleet-draft-1", "motd"].map(|name| directory.path().join(name));
        let notes = directory.path().join("notes");
        fs::create_dir(&notes).unwrap();
        for (number, file) in [&draft, &other].into_iter().enumerate() {
            fs::write(file, "half").unwrap();
            fs::write(notes.join(format!("{number}.{ENDING}")), file.as_os_str().as_bytes()).unwrap();
        }
        fs::write(notes.join(format!("3.{ENDING}")), directory.path().join(".redfleet-draft-2").as_os_str().as_bytes())
            .unwrap();
        clear(&notes);
        assert_eq!((draft.exists(), other.exists(), fs::read_dir(&notes).unwrap().count()), (false, true, 0));
    }
}
