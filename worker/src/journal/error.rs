//! Errors of the journal.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol::limits::JOURNAL_KEEP;

/// Why the journal cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the journal {} cannot be used", path.display())]
pub(crate) struct JournalError {
    path: PathBuf,
    #[source]
    cause: Cause,
}

/// The cause of a [`JournalError`].
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("another worker of this host is running")]
    Locked,
    #[error(
        "its file was deleted or replaced while this worker ran: put it back; or restart the worker, which makes a new one \
         where none is"
    )]
    Gone,
    #[error("it has not been read yet")]
    NotRead,
    #[error("it is damaged (the store panicked)")]
    Panicked,
    #[error("it gave no reply")]
    NoReply,
    #[error(transparent)]
    Store(Arc<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for Cause {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::Locked,
            error => Self::Store(Arc::new(error)),
        }
    }
}

impl JournalError {
    pub(super) fn new(path: &Path, cause: Cause) -> Self {
        Self { path: path.to_owned(), cause }
    }

    /// Whether another worker of this host has it: that one executes the host's commands.
    pub(crate) const fn is_locked(&self) -> bool {
        matches!(self.cause, Cause::Locked)
    }
}

/// The journal has no room for another command. It knows this many.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the journal is full: it knows {0} commands and may forget none within {days} days, as a copy of it could then run \
     again; put more work into fewer commands, or wait until the oldest are that old",
    days = JOURNAL_KEEP.as_secs() / (24 * 3600)
)]
pub(crate) struct JournalFull(pub(super) u64);
