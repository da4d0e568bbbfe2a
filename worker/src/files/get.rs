//! Finding a file that is to be handed over.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::errno::Errno;
use protocol::limits;

use super::{
    beneath::{Place, PlaceError, other_than_file, shown},
    owner,
};

/// A file that may be read.
#[derive(Debug)]
pub struct Found {
    /// Its path, fit for a message.
    pub path: String,
    /// The file, open at its beginning.
    pub file: File,
    /// How many bytes it has now.
    pub bytes: u64,
    /// Its mode, such as `0644`.
    pub mode: String,
    /// Its owner, such as `root:root`.
    pub owner: String,
}

/// Why a file is not handed over.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// There is no such place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// There is no such file.
    #[error("there is no file '{0}'")]
    Missing(String),
    /// It is something else.
    #[error("'{0}' is {1}")]
    NotAFile(String, &'static str),
    /// It is too large.
    #[error("'{0}' has {1} bytes, more than the {max} MiB that can be fetched", max = limits::ARTIFACT_BYTES >> 20)]
    TooLarge(String, u64),
    /// The system refused.
    #[error("cannot read '{0}'")]
    System(String, #[source] io::Error),
}

/// Finds a file within one of these directories.
///
/// # Errors
/// There is none, or it must not be read.
pub fn find(allowed: &[PathBuf], path: &Path) -> Result<Found, GetError> {
    let place = Place::find(allowed, "get", path)?;
    let name = shown(&place.path);
    let system = |error| GetError::System(name.clone(), error);
    let about = place.about(&place.name).map_err(system)?.ok_or_else(|| GetError::Missing(name.clone()))?;
    if let Some(other) = other_than_file(&about) {
        return Err(GetError::NotAFile(name, other));
    }
    let file = place.open().map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => GetError::Missing(name.clone()),
        _ => system(error),
    })?;
    // Something else may have got the name meanwhile.
    let about = file.metadata().map_err(system)?;
    if !about.is_file() {
        return Err(GetError::NotAFile(name, "no file any more"));
    }
    if about.len() > limits::ARTIFACT_BYTES as u64 {
        return Err(GetError::TooLarge(name, about.len()));
    }
    let mode = format!("{:04o}", about.mode() & 0o7777);
    Ok(Found { path: name, bytes: about.len(), mode, owner: owner::show_owner(about.uid(), about.gid()), file })
}
