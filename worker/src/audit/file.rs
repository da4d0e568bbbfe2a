//! The files of the trail: lines are appended to the newest one, which is put aside under a number when it is large.
//!
//! Somebody else may move the newest file away, as `logrotate` does, or append to it, as another worker with the same
//! trail does: before each line it is looked up by its name.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::OFlag;
use protocol::limits;

use crate::file_id::FileId;

/// How much the trail holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of a file.
    pub(super) bytes: u64,
    /// Files besides the newest.
    pub(super) files: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: limits::AUDIT_BYTES as u64, files: limits::AUDIT_FILES }
    }
}

/// The trail's files.
pub(super) struct Trail {
    path: PathBuf,
    bounds: Bounds,
    newest: Option<Newest>,
    /// Whether a file was open before. Then nothing makes its directory anew: whoever took it away may put it back.
    begun: bool,
}

struct Newest {
    file: File,
    id: FileId,
    /// Whether its last line has no end: a crash or a full disk cut it off.
    torn: bool,
}

impl Trail {
    pub(super) const fn new(path: PathBuf, bounds: Bounds) -> Self {
        Self { path, bounds, newest: None, begun: false }
    }

    /// Hands a whole line to the system.
    ///
    /// # Errors
    /// It could not be written, or only a part of it.
    pub(super) fn append(&mut self, line: &str) -> io::Result<()> {
        let size = self.look()?;
        if size > 0 && size + line.len() as u64 > self.bounds.bytes {
            self.put_aside()?;
            self.look()?;
        }
        let Newest { file, torn, .. } = self.newest.as_mut().expect("it has just been opened");
        let written =
            if *torn { file.write_all(format!("\n{line}").as_bytes()) } else { file.write_all(line.as_bytes()) };
        *torn = false;
        if written.is_err() {
            // What of it is there, the next one to open it sees.
            self.newest = None;
        }
        written
    }

    /// Waits until all that was written is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.newest.as_ref().map_or(Ok(()), |newest| newest.file.sync_data())
    }

    /// Makes sure that the file of that name is open, and returns its size.
    fn look(&mut self) -> io::Result<u64> {
        if let (Some(newest), Ok(found)) = (&self.newest, fs::symlink_metadata(&self.path))
            && newest.id == FileId::from(&found)
        {
            return Ok(found.len());
        }
        self.newest = None;
        if let (false, Some(directory)) = (self.begun, self.path.parent()) {
            fs::create_dir_all(directory)?;
        }
        let (newest, found) = open(&self.path)?;
        (self.newest, self.begun) = (Some(newest), true);
        Ok(found.len())
    }

    /// Gives the newest file the number 1, and each other the next one. The oldest goes.
    fn put_aside(&mut self) -> io::Result<()> {
        if let Some(newest) = self.newest.take() {
            newest.file.sync_data()?;
        }
        for number in (1..self.bounds.files).rev() {
            rename(&self.numbered(number), &self.numbered(number + 1))?;
        }
        rename(&self.path, &self.numbered(1))
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Renames a file, if there is one.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Opens the file to append to it, or makes it, for its owner alone.
fn open(path: &Path) -> io::Result<(Newest, Metadata)> {
    let other = |what| Err(io::Error::other(format!("it is {what}: name a file of the worker's own")));
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        return other("a symbolic link");
    }
    // Something that is no file must not be waited for.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return other("no regular file");
    }
    let mut last = [b'\n'];
    if found.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok((Newest { file, id: FileId::from(&found), torn: last != [b'\n'] }, found))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn trail(bytes: u64) -> (tempfile::TempDir, Trail) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/audit.jsonl");
        (directory, Trail::new(path, Bounds { bytes, files: 2 }))
    }

    fn text(trail: &Trail, number: usize) -> Option<String> {
        fs::read_to_string(if number == 0 { trail.path.clone() } else { trail.numbered(number) }).ok()
    }

    #[test]
    fn it_is_bounded_and_for_its_owner_alone() {
        let (_directory, mut trail) = trail(8);
        (0..7).for_each(|number| trail.append(&format!("{number}..\n")).unwrap());
        let kept = [0, 1, 2, 3].map(|number| text(&trail, number));
        assert_eq!(kept, [Some("6..\n".into()), Some("4..\n5..\n".into()), Some("2..\n3..\n".into()), None]);
        assert_eq!(fs::metadata(&trail.path).unwrap().permissions().mode() & 0o777, 0o600);
        trail.append("a line that is larger than a file\n").unwrap();
        assert_eq!(text(&trail, 0).unwrap(), "a line that is larger than a file\n");
    }

    #[test]
    fn a_line_that_was_cut_off_ends_before_the_next_one() {
        let (_directory, mut trail) = trail(1000);
        fs::create_dir(trail.path.parent().unwrap()).unwrap();
        fs::write(&trail.path, "{\"half").unwrap();
        trail.append("{}\n").unwrap();
        trail.append("{}\n").unwrap();
        assert_eq!(text(&trail, 0).unwrap(), "{\"half\n{}\n{}\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew_but_not_its_directory() {
        let (_directory, mut trail) = trail(1000);
        trail.append("1\n").unwrap();
        fs::rename(&trail.path, trail.numbered(1)).unwrap();
        trail.append("2\n").unwrap();
        assert_eq!([0, 1].map(|number| text(&trail, number).unwrap()), ["2\n", "1\n"]);
        fs::remove_dir_all(trail.path.parent().unwrap()).unwrap();
        assert_eq!(trail.append("3\n").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn only_a_file_is_written_to() {
        let (directory, mut trail) = trail(1000);
        let others = trail.path.parent().unwrap().to_owned();
        fs::create_dir(&others).unwrap();
        symlink(directory.path().join("elsewhere"), &trail.path).unwrap();
        assert!(trail.append("1\n").unwrap_err().to_string().contains("symbolic link"));
        fs::remove_file(&trail.path).unwrap();
        nix::unistd::mkfifo(&trail.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(trail.append("1\n").unwrap_err().to_string().contains("no regular file"));
        fs::remove_file(&trail.path).unwrap();
        fs::create_dir(&trail.path).unwrap();
        trail.append("1\n").unwrap_err();
        assert!(!directory.path().join("elsewhere").exists());
    }
}
