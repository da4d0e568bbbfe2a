//! A release on its way.

use protocol::artifact::{Artifact, ContentKey};

use super::state::Ending;
use crate::artifacts::Url;

/// Where the content comes from.
pub(crate) enum Source {
    /// Through Redis.
    Redis(ContentKey),
    /// By HTTP.
    Url(Url),
}

/// A release on its way.
pub(super) struct Course {
    pub(super) version: String,
    /// What `current` led to before.
    pub(super) prior: Option<String>,
    /// Its content; none for a rollback, which runs no hooks.
    pub(super) artifact: Option<Artifact>,
    pub(super) source: Option<Source>,
    /// Whether it is here, from a deploy before.
    pub(super) is_here: bool,
    /// How it is called when it has ended well.
    pub(super) success: Ending,
    /// What a hook said that failed.
    pub(super) said: String,
}
