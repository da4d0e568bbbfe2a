//! Exit codes, a promise to scripts: what each number means never changes.

use std::process::ExitCode;

use protocol::outcome::State;

/// How `ctl` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every host succeeded, or there was nothing that could fail.
    Success = 0,
    /// The question could not be asked: no such target, Redis unreachable, refused before dispatch.
    NotAsked = 1,
    /// At least one host answered that it failed.
    Failed = 2,
    /// No host answered.
    NoAnswer = 3,
    /// Nothing failed, but some hosts did not answer or the command expired there.
    Incomplete = 4,
    /// Wrong usage: unknown command, flag or value.
    Usage = 64,
}

impl Exit {
    /// All codes with their meaning, for the reference documentation and help.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Success, "all hosts succeeded"),
        (Self::NotAsked, "could not be asked: no such host or action, Redis unreachable, refused before sending"),
        (Self::Failed, "some host failed, timed out, was cancelled, interrupted or rejected"),
        (Self::NoAnswer, "no host answered"),
        (Self::Incomplete, "some hosts did not answer, or the command expired there"),
        (Self::Usage, "wrong usage"),
    ];

    /// For a job whose hosts stand like this. An answer is any end that a worker told of, except that the
    /// command expired. Without any answer that is what counts; else a failure; else what is missing.
    pub fn of(states: impl IntoIterator<Item = State>) -> Self {
        let (mut answered, mut failed, mut missing) = (false, false, false);
        for state in states {
            match state {
                State::Succeeded => answered = true,
                State::Failed | State::TimedOut | State::Cancelled | State::Interrupted | State::Rejected => {
                    (answered, failed) = (true, true);
                }
                State::Expired | State::Queued | State::Delivered | State::Running => missing = true,
            }
        }
        match (answered, failed, missing) {
            (false, _, true) => Self::NoAnswer,
            (_, true, _) => Self::Failed,
            (_, false, true) => Self::Incomplete,
            (_, false, false) => Self::Success,
        }
    }

    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_as_promised() {
        assert_eq!(Exit::ALL.map(|(exit, _)| exit.code()), [0, 1, 2, 3, 4, 64]);
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
            (vec![Expired, Running, Queued], Exit::NoAnswer),
            (vec![Succeeded, Expired], Exit::Incomplete),
            (vec![Succeeded, Running], Exit::Incomplete),
        ] {
            assert_eq!(Exit::of(states.clone()), exit, "{states:?}");
        }
    }
}
