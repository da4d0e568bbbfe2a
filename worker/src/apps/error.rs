//! Why a deploy did not succeed.

use std::{io, path::PathBuf};

use super::{settings::Unknown, unpack::UnpackError};
use crate::{
    artifacts::{DownloadError, FetchError},
    program::ProgramError,
    services::ServiceError,
};

/// Why a deploy did not succeed, in words that complete "version 2 …".
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    /// There is no such application.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// It cannot be the name of a version.
    #[error("'{0}' is no version: letters, digits and ._+- are, and it begins with a letter or digit")]
    Version(String),
    /// Neither, or both.
    #[error("exactly one of content_key and url is needed")]
    Source,
    /// The version means something else here.
    #[error("version {0} is here already with another content (SHA-256 {1}…): give what is new a name of its own")]
    Other(String, String),
    /// Somebody else has put it there.
    #[error("{path} is there already, and this host does not know what it is: move it away, or name another version", path = .0.display())]
    Stranger(PathBuf),
    /// A rollback that the settings forbid.
    #[error(
        "rollback = \"forbidden\" in [apps.{0}]: its releases change data that older ones may not read; to run an older one all the same, deploy it"
    )]
    Forbidden(String),
    /// A rollback to what is not there.
    #[error("there is no release '{0}' on this host; there are {1}")]
    NoRelease(String, String),
    /// A rollback without a version.
    #[error("no release that was proven before is on this host")]
    NothingProven,
    /// It is not to be deployed by this user.
    #[error("user: {0}")]
    User(String),
    /// No URL.
    #[error("'{0}' does not begin with what the settings allow (urls in [apps.NAME])")]
    Url(String),
    /// The directories of the application.
    #[error("the application's directory cannot be used")]
    Open(#[source] io::Error),
    /// It does not come here.
    #[error("cannot be fetched")]
    Fetch(#[from] FetchError),
    /// Nor from there.
    #[error("cannot be fetched")]
    Download(#[from] DownloadError),
    /// It cannot be unpacked.
    #[error("cannot be unpacked")]
    Unpack(#[from] UnpackError),
    /// The directories.
    #[error("cannot be put on this host's disk")]
    Disk(#[source] io::Error),
    /// The state.
    #[error("the state of the application cannot be read or written")]
    State(#[source] io::Error),
    /// A hook could not be run.
    #[error("cannot run its hook '{0}'")]
    NoHook(&'static str, #[source] ProgramError),
    /// A hook did not end well.
    #[error("failed in its hook '{0}': {1}")]
    Hook(&'static str, String),
    /// Its candidate did not come up.
    #[error("does not come up ({0})")]
    NotUp(String),
    /// The same, for a reason that is not its own.
    #[error("cannot be run as the service")]
    Service(#[from] ServiceError),
    /// Its check.
    #[error("failed its health check ({0})")]
    Check(String),
    /// Its service.
    #[error("does not stay up ({0})")]
    Down(String),
    /// The command was ended.
    #[error("was given up, as its command had to end")]
    Stopped,
    /// Somebody else is at work.
    #[error("the command had to end before another deploy of this application did")]
    Busy,
}
