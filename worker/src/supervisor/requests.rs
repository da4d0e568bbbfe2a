//! What a supervisor and its clients say to each other over its control socket: one JSON object a line.
//!
//! To put another program, or another release, in the place of the running one without a refused connection, a client
//! says, over one connection:
//!
//! 1. [`Request::Prepare`] with [`Place::Private`]: a candidate is started with sockets of its own, whose addresses are
//!    in the reply. It can be checked there. [`Request::Discard`] ends it.
//! 2. [`Request::Prepare`] with [`Place::Beside`]: a candidate is started with the sockets of the service. It and the
//!    running process both accept connections.
//! 3. [`Request::Switch`]: the candidate is the running process now, and is started again if it crashes. The one before
//!    gets TERM, and KILL when its time to drain is over.
//!
//! Until the switch the candidate belongs to the connection: it is ended when the connection ends, and all is as it was
//! before. To roll back after a switch is to prepare what ran before, and to switch to it.

use serde::{Deserialize, Serialize};

use super::launch::Launch;

/// The version of what is said here. It rises when a client must know the difference.
pub(crate) const VERSION: u32 = 1;

/// Bytes of a line at most.
pub(crate) const LINE_BYTES: usize = 256 * 1024;

/// What a client asks for.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Only the reply.
    Status,
    /// Start a candidate. There is one at a time.
    Prepare {
        /// What to start.
        launch: Box<Launch>,
        /// Where it stands.
        place: Place,
    },
    /// Make the candidate the running process.
    Switch,
    /// End the candidate.
    Discard,
    /// Send HUP to the running process.
    Reload,
    /// End all, and the supervisor, too. The connection ends when all is done.
    Stop,
}

/// Where a candidate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// Beside the running process, at the same sockets.
    Beside,
    /// Beside the running process, at sockets of its own, to be looked at. There is no switch to it.
    Private,
    /// It is started when the running process has ended, which gets TERM now: for programs of which two cannot run at
    /// once. If there is no switch to it, what was wanted before is started again.
    Instead,
}

/// What a supervisor replies.
#[derive(Serialize, Deserialize)]
pub(crate) struct Reply {
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// How all stands now.
    #[serde(default)]
    pub(crate) status: Status,
}

/// How all stands. One of another version may know less of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// The running process.
    pub(crate) running: Option<Process>,
    /// The candidate.
    pub(crate) candidate: Option<Process>,
    /// The processes that had to end and have not yet.
    pub(crate) retiring: Vec<i32>,
    /// Whether one of these still has a listening socket of the service open, and so may answer who connects.
    pub(crate) old_accepts: bool,
    /// How often the running process has crashed since the last switch.
    pub(crate) crashes: u64,
    /// How it ended last.
    pub(crate) last_end: Option<String>,
    /// In how many milliseconds it is started again.
    pub(crate) next_start_ms: Option<u64>,
    /// Whether all is being ended.
    pub(crate) stopping: bool,
}

/// A process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its id; 0 as long as it waits for the end of the one before.
    pub(crate) pid: i32,
    /// Its program runs: it could be executed.
    pub(crate) launched: bool,
    /// When it was started, in milliseconds since the Unix epoch, by the clock of the machine.
    pub(crate) since_ms: u64,
    /// Which release it is.
    pub(crate) release: Option<String>,
    /// Where it listens.
    pub(crate) addresses: Vec<String>,
    /// How it ended, if it has.
    pub(crate) ended: Option<String>,
}
