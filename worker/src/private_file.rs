//! Files with private keys: made once, whole, for this user alone, and never replaced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::libc::O_NONBLOCK;

/// Bytes of the file at most.
const FILE_BYTES: u64 = 16 * 1024;

/// Why such a file cannot be read or made: what it is for, where it is, and what is wrong. The text of each error is
/// complete without its source.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// The file cannot be read.
    #[error("cannot read the {0} {path}: {2}", path = .1.display())]
    Read(&'static str, PathBuf, #[source] io::Error),
    /// The file cannot be made.
    #[error("cannot make the {0} {path}: {2}", path = .1.display())]
    Make(&'static str, PathBuf, #[source] io::Error),
    /// Others could use the key.
    #[error("other users may read or write the {0} {path} (mode {2:04o}): chmod 600 {path}; make a new key if one of them may have read it", path = .1.display())]
    Open(&'static str, PathBuf, u32),
    /// The file is none, or too large.
    #[error("the {0} {path} is no file of at most {FILE_BYTES} bytes", path = .1.display())]
    NoFile(&'static str, PathBuf),
}

/// Reads the file; `None` where there is none.
pub(crate) fn read(what: &'static str, path: &Path) -> Result<Option<Vec<u8>>, PrivateFileError> {
    let failed = |error| PrivateFileError::Read(what, path.into(), error);
    // Opening must not wait for whoever writes to a pipe.
    let file = match OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() || about.len() > FILE_BYTES {
        return Err(PrivateFileError::NoFile(what, path.into()));
    }
    if about.mode() & 0o077 != 0 {
        return Err(PrivateFileError::Open(what, path.into(), about.mode() & 0o7777));
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES).read_to_end(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// Reads the file, or makes it with this text.
pub(crate) fn open(
    what: &'static str,
    path: &Path,
    text: impl FnOnce() -> String,
) -> Result<Vec<u8>, PrivateFileError> {
    if let Some(text) = read(what, path)? {
        return Ok(text);
    }
    let failed = |error| PrivateFileError::Make(what, path.into(), error);
    make(path, text().as_bytes()).map_err(failed)?;
    // Another worker may have been the first.
    read(what, path)?.ok_or_else(|| failed(ErrorKind::NotFound.into()))
}

/// Makes the file whole, or not at all. One that is there stays.
pub(crate) fn make(path: &Path, text: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    make_directory(directory)?;
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    // What a process of the same number has left.
    remove(&draft)?;
    let linked = write(&draft, text).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    remove(&draft)?;
    linked?;
    File::open(directory)?.sync_all()
}

/// Makes a directory for this user alone, and those above it, where they are missing.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}
