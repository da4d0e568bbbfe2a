//! Commands and other entries as Redis delivered them.

use std::time::Duration;

use protocol::{command::Manifest, limits, name::JobId};
use tokio::sync::OwnedSemaphorePermit;

/// A command's job, its entry of the inbox, and how long its results are to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) job: JobId,
    /// The stream entry's id.
    pub(crate) entry: String,
    pub(crate) retention: Duration,
}

impl Delivery {
    pub(crate) fn new(entry: String, manifest: &Manifest) -> Self {
        let retention = Duration::from_millis(manifest.retention_ms);
        let retention = retention.clamp(Duration::from_secs(60), limits::RETENTION_MAX);
        Self { job: manifest.job, entry, retention }
    }
}

/// An entry of the control stream. As long as it exists it takes room: only so many are handled at a time, and none is
/// read while there is no room.
#[derive(Debug)]
pub(crate) struct ControlEntry {
    /// The stream entry's id.
    pub(crate) id: String,
    _room: OwnedSemaphorePermit,
}

impl ControlEntry {
    pub(crate) fn new(id: String, room: OwnedSemaphorePermit) -> Self {
        Self { id, _room: room }
    }
}
