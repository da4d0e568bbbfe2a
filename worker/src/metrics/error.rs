//! What can go wrong while reading figures.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why figures could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something other than expected.
    #[error("cannot make sense of {}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no thread for what might hang.
    #[error("internal error: {0}")]
    Thread(#[source] io::Error),
    /// The list of processes was not complete in time.
    #[error("the list of processes was not complete within {0:?}")]
    ProcessesTimedOut(Duration),
}
