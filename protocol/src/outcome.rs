//! How a command ended.
//!
//! ```text
//! queued ──▶ delivered ──▶ running ──▶ succeeded | failed | timed_out | cancelled
//!    │            │            └─────▶ interrupted   (the worker died midway, the action is not repeatable)
//!    │            └──▶ rejected                      (unknown action, bad arguments, not permitted)
//!    └──▶ expired                                    (the start-by deadline passed before it began)
//! ```
//!
//! Only the worker that owns a host writes that host's state. A controller derives `queued` and `expired` from the
//! absence of a published state and from the deadline. A state that is published later replaces the derived one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de::IntoDeserializer};
use serde_json::{Map, Value};

use crate::time::Millis;

/// A command's state on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In the inbox, not read yet. Derived, never written.
    Queued,
    /// Read, waiting for its turn.
    Delivered,
    /// Started.
    Running,
    /// Ended with success.
    Succeeded,
    /// Ended without success.
    Failed,
    /// Ended by its timeout.
    TimedOut,
    /// Ended, or never started, because it was cancelled.
    Cancelled,
    /// The worker died midway and the action must not run twice: how far it came is not known.
    Interrupted,
    /// Never started: the worker refused it.
    Rejected,
    /// Never started: its start-by deadline had passed.
    Expired,
    /// Ended, as far as Redis says. What it has as the result is not what the host states. Derived, never written.
    Unverified,
}

impl State {
    /// The word in Redis and in output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Unverified => "unverified",
        }
    }

    /// Whether the state is final.
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Delivered | Self::Running)
    }
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = serde::de::value::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::deserialize(text.into_deserializer())
    }
}

/// The kept part of an output stream: all of it, or its head and tail with a line between them that states how much
/// was cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The kept bytes, with the line about the cut where there was one.
    #[serde(with = "serde_bytes")]
    pub kept: Vec<u8>,
    /// How many bytes the program wrote.
    pub written_bytes: u64,
    /// How many of these were cut.
    pub cut_bytes: u64,
}

impl Captured {
    /// How many of the bytes that the program wrote are kept.
    pub const fn kept_bytes(&self) -> u64 {
        self.written_bytes.saturating_sub(self.cut_bytes)
    }

    /// How many bytes of the stream behind its first `offset` bytes are not kept.
    pub const fn missing_after(&self, offset: u64) -> u64 {
        // The head and the tail of a cut stream are equally long.
        let head = self.kept_bytes() / 2;
        let tail_begins = self.written_bytes.saturating_sub(self.kept_bytes() - head);
        match offset {
            _ if self.cut_bytes == 0 => 0,
            _ if offset < head => self.cut_bytes,
            _ => tail_begins.saturating_sub(offset),
        }
    }

    /// The kept part of the stream behind its first `offset` bytes, with the line about the cut if the cut lies in it.
    pub fn after(&self, offset: u64) -> Vec<u8> {
        let position = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.kept.len());
        // The head and the tail of a cut stream are equally long.
        let head = self.kept_bytes() / 2;
        let tail = self.kept_bytes() - head;
        if self.cut_bytes == 0 || offset < head {
            return self.kept[position(offset)..].to_vec();
        }
        let tail_begins = self.written_bytes.saturating_sub(tail);
        let tail = &self.kept[self.kept.len() - position(tail)..];
        match self.missing_after(offset) {
            missing @ 1.. => [cut_line(missing).as_bytes(), tail].concat(),
            0 => tail[position(offset - tail_begins).min(tail.len())..].to_vec(),
        }
    }
}

/// The line that stands for bytes that were cut.
pub fn cut_line(bytes: u64) -> String {
    format!("\n[... {bytes} bytes cut ...]\n")
}

/// How a command ended. Signed statements contain it. Journals store its fields by position: they must not change, and
/// a new field comes last with `#[serde(default)]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// A terminal state.
    pub state: State,
    /// The reason, where the state alone does not explain it.
    pub reason: Option<String>,
    /// The program's exit code, where a program ran and exited by itself.
    pub exit_code: Option<i32>,
    /// When it started; absent if it never started.
    pub started_at_ms: Option<Millis>,
    /// When it ended.
    pub finished_at_ms: Millis,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// Structured data: the figures of a collect. Absent where there are none.
    pub data: Option<Map<String, Value>>,
    /// The signal that ended the program, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

impl Outcome {
    /// An outcome without output, for a command that never started or has nothing to report.
    pub fn bare(state: State, reason: Option<String>, finished_at_ms: Millis) -> Self {
        Self {
            state,
            reason,
            exit_code: None,
            started_at_ms: None,
            finished_at_ms,
            stdout: Captured::default(),
            stderr: Captured::default(),
            data: None,
            signal: None,
        }
    }

    /// Whether a part of the output was cut.
    pub fn is_cut(&self) -> bool {
        self.stdout.cut_bytes > 0 || self.stderr.cut_bytes > 0
    }

    /// How long the command ran, in milliseconds; `None` if it never started.
    pub fn duration_ms(&self) -> Option<u64> {
        self.started_at_ms.map(|started| self.finished_at_ms.saturating_sub(started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    #[test]
    fn the_rest_of_a_cut_stream_begins_where_the_reader_stands() {
        const HALF: usize = limits::OUTPUT_BYTES / 2;
        let (head, tail) = (vec![b'h'; HALF], [vec![b'a'], vec![b't'; HALF - 1]].concat());
        let kept = [head.as_slice(), cut_line(1000).as_bytes(), &tail].concat();
        let captured = Captured { kept, written_bytes: 2 * HALF as u64 + 1000, cut_bytes: 1000 };
        assert_eq!(captured.after(0), captured.kept);
        assert_eq!(captured.after(HALF as u64 - 1)[..2], *b"h\n");
        assert_eq!(captured.after(HALF as u64 + 400), [cut_line(600).as_bytes(), &tail].concat());
        assert_eq!(captured.after(HALF as u64 + 1000), tail);
        assert_eq!(captured.after(HALF as u64 + 1001), tail[1..]);
        assert_eq!(captured.after(captured.written_bytes + 5), b"");
        let whole = Captured { kept: b"abc".to_vec(), written_bytes: 3, cut_bytes: 0 };
        assert_eq!(whole.after(1), b"bc");
        assert_eq!(whole.after(9), b"");
    }

    #[test]
    fn states_read_as_written() {
        for state in [
            State::Queued,
            State::Delivered,
            State::Running,
            State::Succeeded,
            State::Failed,
            State::TimedOut,
            State::Cancelled,
            State::Interrupted,
            State::Rejected,
            State::Expired,
            State::Unverified,
        ] {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert!("done".parse::<State>().is_err());
    }
}
