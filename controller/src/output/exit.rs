//! Exit codes, a promise to scripts: what each number means never changes.

use std::process::ExitCode;

use protocol::outcome::State;

/// How `ctl` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every host succeeded, or there was nothing that could fail.
    Success = 0,
    /// Nothing was dispatched: no such target, Redis unreachable, refused before dispatch.
    NotSent = 1,
    /// At least one host replied that it failed.
    Failed = 2,
    /// No host has taken the command in time.
    NoReply = 3,
    /// Nothing failed, but the end is missing on some hosts: the command is queued or under way there, or expired.
    Incomplete = 4,
    /// Wrong usage: unknown command, flag or value.
    Usage = 64,
    /// The reader of standard output went away while the output was followed, as of a program that SIGPIPE ends.
    Closed = 141,
    /// `ctl exec` or `ctl sh` itself failed, or the program has no exit code.
    NoCode = 255,
}

impl Exit {
    /// All codes with their meaning, for the reference documentation and help.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Success, "all hosts succeeded"),
        (Self::NotSent, "nothing dispatched: no such host or action, Redis unreachable, refused before sending"),
        (Self::Failed, "some host failed, timed out, was cancelled, interrupted, rejected or unverified"),
        (Self::NoReply, "no host replied: the command expired on all of them"),
        (
            Self::Incomplete,
            "some hosts have not answered: the command is queued or under way there, or expired; or they were left out",
        ),
        (Self::Usage, "wrong usage"),
        (Self::Closed, "standard output was closed while output was followed"),
        (Self::NoCode, "`ctl exec` or `ctl sh` failed; else they exit as their program did"),
    ];

    /// The code of a job whose hosts are in these states. A reply is any end that a worker published, except that the
    /// command expired. A failure decides; else a missing reply. `NoReply` means that none can come any more.
    pub fn of(states: impl IntoIterator<Item = State>) -> Self {
        let is_answer = |state: &State| state.is_terminal() && *state != State::Expired;
        let (answers, missing): (Vec<_>, Vec<_>) = states.into_iter().partition(is_answer);
        if answers.iter().any(|state| *state != State::Succeeded) {
            Self::Failed
        } else if missing.is_empty() {
            Self::Success
        } else if answers.is_empty() && missing.iter().all(|state| *state == State::Expired) {
            Self::NoReply
        } else {
            Self::Incomplete
        }
    }

    /// The same code, unless hosts were left out of what succeeded.
    #[must_use]
    pub fn with_left_out(self, left_out: bool) -> Self {
        if left_out && self == Self::Success { Self::Incomplete } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_as_promised() {
        assert_eq!(Exit::ALL.map(|(exit, _)| exit as u8), [0, 1, 2, 3, 4, 64, 141, 255]);
    }

    #[test]
    fn no_answer_comes_before_failure_and_failure_before_what_is_missing() {
        use State::{Expired, Failed, Queued, Rejected, Running, Succeeded};
        for (states, exit) in [
            (vec![], Exit::Success),
            (vec![Succeeded, Succeeded], Exit::Success),
            (vec![Succeeded, Failed, Expired], Exit::Failed),
            (vec![Rejected], Exit::Failed),
            (vec![Failed, Queued], Exit::Failed),
            (vec![Expired, Expired], Exit::NoReply),
            (vec![Expired, Running, Queued], Exit::Incomplete),
            (vec![Queued], Exit::Incomplete),
            (vec![Succeeded, Expired], Exit::Incomplete),
            (vec![Succeeded, Running], Exit::Incomplete),
        ] {
            assert_eq!(Exit::of(states.clone()), exit, "{states:?}");
        }
    }
}
