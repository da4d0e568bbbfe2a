//! Content on its way between Redis and this host's disk: see [`protocol::artifact`].
//!
//! [`Artifacts::fetch`] brings an artifact into a file of the worker's state directory, piece by piece, and checks its
//! digest. [`Artifacts::offer`] hands a file over to `ctl`. Neither has more than a piece or two in memory. Each has a
//! connection of its own for as long as it lasts, so that nothing else waits behind a large reply. What touches the
//! disk or takes the processor's time runs in threads of its own.

mod download;
mod fetch;
mod link;
pub(crate) mod notes;
mod offer;
mod partial;
mod scripts;

use std::path::PathBuf;

use protocol::{connection::Address, keys::Keys, name::HostName};

pub use self::{
    download::{DownloadError, Url},
    fetch::FetchError,
    offer::OfferError,
    partial::Fetched,
    scripts::Script,
};
use crate::detached;

/// Fetches and offers content.
#[derive(Clone, Debug)]
pub struct Artifacts {
    redis: Address,
    keys: Keys,
    host: HostName,
    /// Where content lies until it is used.
    directory: PathBuf,
}

impl Artifacts {
    /// Content lies in this directory until it is used. It is made when there is some.
    pub(crate) const fn new(redis: Address, keys: Keys, host: HostName, directory: PathBuf) -> Self {
        Self { redis, keys, host, directory }
    }

    /// Removes what a dead worker has left: copies of scripts, and files that it was making.
    pub(crate) fn clear(&self) {
        let directory = self.directory.clone();
        self.tidy(move || notes::clear(&directory));
    }

    /// Removes the beginnings of content that nobody has gone on with for long.
    pub(crate) fn prune(&self) {
        let directory = self.directory.clone();
        self.tidy(move || partial::prune(&directory));
    }

    /// The disk may hang.
    fn tidy(&self, work: impl FnOnce() + Send + 'static) {
        if let Err(error) = detached::run(work) {
            tracing::warn!("cannot tidy {}: {error}", self.directory.display());
        }
    }
}
