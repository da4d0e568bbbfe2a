//! The files that figures are read from.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::MetricsError;

/// The outcome of a parser: the value, or what is wrong with the text.
pub(super) type Parsed<T> = Result<T, String>;

/// A host's root directory. Cheap to clone.
#[derive(Clone)]
pub(super) struct Source {
    root: Arc<Path>,
}

impl Source {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root: root.into() }
    }

    /// Where `path`, absolute on the host, is for us.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Reads `file` and parses it.
    pub(super) fn parse<T>(&self, file: &str, parse: impl FnOnce(&str) -> Parsed<T>) -> Result<T, MetricsError> {
        self.parse_bytes(file, |bytes| parse(&String::from_utf8_lossy(bytes)))
    }

    /// [`Source::parse`] for a file whose names need not be UTF-8.
    pub(super) fn parse_bytes<T>(&self, file: &str, parse: impl FnOnce(&[u8]) -> Parsed<T>) -> Result<T, MetricsError> {
        let path = self.path(Path::new(file));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(MetricsError::Read { path, source }),
        };
        parse(&bytes).map_err(|reason| MetricsError::Malformed { path, reason })
    }

    /// The trimmed text of `file`, if there is any.
    pub(super) fn text(&self, file: &str) -> Option<String> {
        let bytes = fs::read(self.path(Path::new(file))).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    pub(super) fn has(&self, file: &str) -> bool {
        self.path(Path::new(file)).exists()
    }
}

/// The number in `word`.
pub(super) fn number<T: std::str::FromStr>(word: Option<&str>, what: &str) -> Parsed<T> {
    let word = word.ok_or_else(|| format!("{what} is missing"))?;
    word.parse().map_err(|_| format!("{what} is not a number: {:?}", excerpt(word)))
}

/// Enough of `text` to recognise it in a message.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}
