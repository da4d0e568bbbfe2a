//! Access to the host's files.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use procfs_core::ProcResult;

use super::MetricsError;

/// What a parser returns. [`Source::parse`] adds the file's path to its error.
pub(super) type Parsed<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Adapts a result of `procfs-core`. Its own errors have several lines and call a malformed file a bug in the crate.
pub(super) fn parsed<T>(result: ProcResult<T>) -> Parsed<T> {
    result.map_err(|_| "its format is unknown".into())
}

/// A host's root directory. Cheap to clone.
#[derive(Clone)]
pub(super) struct Source {
    root: Arc<Path>,
}

impl Source {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root: root.into() }
    }

    /// The path below the root directory of `path`, which is absolute on the host.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Reads the whole of `file` and parses it.
    pub(super) fn parse<T>(
        &self,
        file: impl AsRef<Path>,
        parse: impl FnOnce(&[u8]) -> Parsed<T>,
    ) -> Result<T, MetricsError> {
        let path = self.path(file);
        match fs::read(&path) {
            Ok(text) => parse(&text).map_err(|source| MetricsError::Malformed { path, source }),
            Err(source) => Err(MetricsError::Read { path, source }),
        }
    }

    /// The trimmed text of `file`. None if the file is missing, unreadable or blank.
    pub(super) fn text(&self, file: &str) -> Option<String> {
        let bytes = fs::read(self.path(file)).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }
}
