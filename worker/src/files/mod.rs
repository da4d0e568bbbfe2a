//! Files that operators put on this host, or get from it, within the directories that its settings allow.
//!
//! Everything here may hang in the kernel: it is called in threads of its own.

mod beneath;
mod get;
mod owner;
mod put;

use std::path::{Component, Path, PathBuf};

pub use self::{
    beneath::PlaceError,
    get::{Found, GetError, find},
    owner::{OwnerError, find_mode},
    put::{Plan, PutError, Request},
};

/// The directories within which operators may put and get files, as the settings name them. What no directory allows is
/// denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Within these, files may be put.
    pub put: Vec<PathBuf>,
    /// Within these, files may be got.
    pub get: Vec<PathBuf>,
}

impl Allowed {
    /// Why the settings cannot be used, if they cannot.
    pub fn problem(&self) -> Option<String> {
        let lists = [("put", &self.put), ("get", &self.get)];
        let mut all = lists.iter().flat_map(|(name, list)| list.iter().map(move |path| (name, path)));
        let (name, path) = all.find(|(_, path)| !is_plain(path))?;
        Some(format!("files.{name} names '{}': a directory is an absolute path without '..'", path.display()))
    }
}

/// Whether a path is absolute and leads nowhere up.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}
