//! How a command ended, as the fields of a result hash.
//!
//! ```text
//! queued ──▶ delivered ──▶ running ──▶ succeeded | failed | timed_out | cancelled
//!    │            │            └─────▶ interrupted   (the worker died midway, the action is not repeatable)
//!    │            └──▶ rejected                      (unknown action, bad arguments, not permitted)
//!    └──▶ expired                                    (the start-by deadline passed before it began)
//! ```
//!
//! Only the worker that owns a host writes that host's state. A controller derives `queued` and
//! `expired` from their absence and the deadline; a late truth wins over such a guess.

use std::{collections::HashMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    limits,
    time::{self, Millis},
};

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
    /// Ended as it should.
    Succeeded,
    /// Ended otherwise.
    Failed,
    /// Ended by its timeout.
    TimedOut,
    /// Ended, or never started, because somebody cancelled it.
    Cancelled,
    /// The worker died midway and the action must not run twice: how far it came is not known.
    Interrupted,
    /// Never started: the worker refused it.
    Rejected,
    /// Never started: its start-by deadline had passed.
    Expired,
}

impl State {
    /// All states.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Delivered,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::Interrupted,
        Self::Rejected,
        Self::Expired,
    ];

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
        }
    }

    /// Whether it never changes again.
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
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| format!("unknown state '{text}'"))
    }
}

/// What is kept of an output stream: all of it, or its head and tail with a line between that says
/// how much was cut.
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
    /// What is kept of the stream behind its first `offset` bytes, with the line about the cut where it
    /// falls into that.
    pub fn after(&self, offset: u64) -> Vec<u8> {
        let position = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.kept.len());
        // Of a cut stream the head is half of the limit, and the tail is what was written last.
        let head = (limits::OUTPUT_BYTES / 2) as u64;
        let tail = (limits::OUTPUT_BYTES - limits::OUTPUT_BYTES / 2) as u64;
        if self.cut_bytes == 0 || offset < head {
            return self.kept[position(offset)..].to_vec();
        }
        let tail_begins = self.written_bytes.saturating_sub(tail);
        let tail = &self.kept[self.kept.len() - position(tail)..];
        match tail_begins.checked_sub(offset).filter(|missing| *missing > 0) {
            Some(missing) => [cut_line(missing).as_bytes(), tail].concat(),
            None => tail[position(offset - tail_begins).min(tail.len())..].to_vec(),
        }
    }
}

/// The line that stands for bytes that were cut.
pub fn cut_line(bytes: u64) -> String {
    format!("\n[... {bytes} bytes cut ...]\n")
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// A terminal state.
    pub state: State,
    /// Why, where the state alone does not say it.
    pub reason: Option<String>,
    /// The program's exit code, where a program ran and exited by itself.
    pub exit_code: Option<i32>,
    /// When it started; absent where it never did.
    pub started_at_ms: Option<Millis>,
    /// When it ended.
    pub finished_at_ms: Millis,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// Structured data: the figures of a collect. Absent where there are none.
    pub data: Option<Map<String, Value>>,
}

impl Outcome {
    /// An outcome without output: of a command that never started, or has nothing to tell.
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
        }
    }

    /// Whether more was printed than is kept.
    pub fn is_cut(&self) -> bool {
        self.stdout.cut_bytes > 0 || self.stderr.cut_bytes > 0
    }

    /// How long it ran, in milliseconds, where it did.
    pub fn duration_ms(&self) -> Option<u64> {
        self.started_at_ms.map(|started| self.finished_at_ms.saturating_sub(started))
    }

    /// The result hash's fields: plain text with units in their names. Absent ones are left out.
    pub fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut fields: Vec<(&'static str, Vec<u8>)> = vec![("status", self.state.as_str().into())];
        let mut add = |name, value: Option<Vec<u8>>| fields.extend(value.map(|value| (name, value)));
        add("reason", self.reason.clone().map(String::into_bytes));
        add("exit_code", self.exit_code.map(|code| code.to_string().into_bytes()));
        add("started_at", self.started_at_ms.map(|moment| time::show_moment(moment).into_bytes()));
        add("finished_at", Some(time::show_moment(self.finished_at_ms).into_bytes()));
        for (captured, kept, written, cut) in [
            (&self.stdout, "stdout", "stdout_bytes", "stdout_cut_bytes"),
            (&self.stderr, "stderr", "stderr_bytes", "stderr_cut_bytes"),
        ] {
            if captured.written_bytes > 0 {
                add(kept, Some(captured.kept.clone()));
                add(written, Some(captured.written_bytes.to_string().into_bytes()));
            }
            if captured.cut_bytes > 0 {
                add(cut, Some(captured.cut_bytes.to_string().into_bytes()));
            }
        }
        add("data", self.data.as_ref().map(|data| Value::Object(data.clone()).to_string().into_bytes()));
        fields
    }

    /// Reads a result hash; `None` where it is absent or holds no known state.
    pub fn from_fields(fields: &HashMap<String, Vec<u8>>) -> Option<Self> {
        let text = |name: &str| fields.get(name).and_then(|value| std::str::from_utf8(value).ok());
        let number = |name: &str| text(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let captured = |kept: &str, written: &str, cut: &str| Captured {
            kept: fields.get(kept).cloned().unwrap_or_default(),
            written_bytes: number(written),
            cut_bytes: number(cut),
        };
        Some(Self {
            state: text("status")?.parse().ok()?,
            reason: text("reason").map(str::to_owned),
            exit_code: text("exit_code").and_then(|text| text.parse().ok()),
            started_at_ms: text("started_at").and_then(time::read_moment),
            finished_at_ms: text("finished_at").and_then(time::read_moment)?,
            stdout: captured("stdout", "stdout_bytes", "stdout_cut_bytes"),
            stderr: captured("stderr", "stderr_bytes", "stderr_cut_bytes"),
            data: text("data").and_then(|text| serde_json::from_str(text).ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_reads_back_from_its_hash() {
        let outcome = Outcome {
            exit_code: Some(3),
            reason: Some("exit code 3".into()),
            started_at_ms: Some(1_790_000_000_001),
            stdout: Captured { kept: vec![0xff, b'x'], written_bytes: 2, cut_bytes: 0 },
            data: Some(Map::from_iter([("usage".to_owned(), Value::from(7.5))])),
            ..Outcome::bare(State::Failed, None, 1_790_000_000_042)
        };
        let fields = outcome.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(Outcome::from_fields(&fields), Some(outcome));
        assert_eq!(Outcome::from_fields(&HashMap::new()), None);
    }

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
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
