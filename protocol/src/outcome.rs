//! How a command ended, as the fields of a result hash.
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

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize, de::IntoDeserializer};
use serde_json::{Map, Value};

use crate::{
    limits,
    name::{HostName, JobId},
    secret::{Digest, digest},
    signed::{Document, DocumentError, Fields, Signed},
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

    /// The result hash's fields: plain text for people, with units in the names, and the [`Statement`] for
    /// programs. Absent values are left out.
    pub fn fields(&self, job: JobId, host: &HostName) -> Vec<(&'static str, Vec<u8>)> {
        let moment = |moment| time::show_moment(moment).into_bytes();
        let mut fields: Vec<(&'static str, Vec<u8>)> = vec![("status", self.state.as_str().into())];
        let mut add = |name, value: Option<Vec<u8>>| fields.extend(value.map(|value| (name, value)));
        add("reason", self.reason.clone().map(String::into_bytes));
        add("exit_code", self.exit_code.map(|code| code.to_string().into_bytes()));
        add("signal", self.signal.map(|signal| signal.to_string().into_bytes()));
        add("started_at", self.started_at_ms.map(moment));
        add("finished_at", Some(moment(self.finished_at_ms)));
        for (captured, kept, written, cut) in [
            (&self.stdout, "stdout", "stdout_bytes", "stdout_cut_bytes"),
            (&self.stderr, "stderr", "stderr_bytes", "stderr_cut_bytes"),
        ] {
            let count = |bytes: u64| (bytes > 0).then(|| bytes.to_string().into_bytes());
            add(kept, (captured.written_bytes > 0).then(|| captured.kept.clone()));
            add(written, count(captured.written_bytes));
            add(cut, count(captured.cut_bytes));
        }
        add("data", self.data.as_ref().map(|data| serde_json::json!(data).to_string().into_bytes()));

        let bulky = fields.iter().filter(|(name, _)| BULKY.contains(name));
        let digests = bulky.map(|(name, value)| ((*name).to_owned(), digest(value))).collect();
        let counts = |captured: &Captured| Captured { kept: Vec::new(), ..*captured };
        let (stdout, stderr, reason) = (counts(&self.stdout), counts(&self.stderr), self.reason.clone());
        let outcome = Self { stdout, stderr, reason, data: None, ..*self };
        let statement = Statement { job, host: host.clone(), outcome, digests };
        fields.extend(Signed::unsigned(&statement).fields());
        fields
    }

    /// Reads a result hash. Only the [`Statement`] and the plain fields that it has digests of are used.
    ///
    /// # Errors
    /// The statement is absent or malformed, is about another command, or does not cover the output.
    pub fn from_fields(mut fields: Fields, job: JobId, host: &HostName) -> Result<Self, OutcomeError> {
        let statement = Signed::<Statement>::take(&mut fields)?.open()?;
        if statement.job != job || statement.host != *host {
            return Err(OutcomeError::Foreign);
        }
        let mut take = |name: &'static str| match statement.digests.get(name) {
            None => Ok(None),
            Some(wanted) => match fields.remove(name) {
                Some(bytes) if digest(&bytes) == *wanted => Ok(Some(bytes)),
                _ => Err(OutcomeError::Altered(name)),
            },
        };
        let mut outcome = statement.outcome;
        outcome.stdout.kept = take("stdout")?.unwrap_or_default();
        outcome.stderr.kept = take("stderr")?.unwrap_or_default();
        let data = take("data")?.map(|data| serde_json::from_slice(&data)).transpose();
        outcome.data = data.map_err(|_| OutcomeError::Altered("data"))?;
        Ok(outcome)
    }
}

/// Fields of a result hash that may be large: the statement has digests of them.
const BULKY: [&str; 3] = ["stdout", "stderr", "data"];

/// A host's statement about the end of a command: the document that its signature covers. It names job and host, so
/// that it cannot be moved to another command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Statement {
    job: JobId,
    host: HostName,
    /// The outcome without output and data.
    outcome: Outcome,
    /// Digests of the fields that hold output and data, by field name.
    digests: BTreeMap<String, Digest>,
}

impl Document for Statement {
    const FIELD: &'static str = "statement";
    const MAX_BYTES: usize = limits::STATEMENT_BYTES;
}

/// Why a result hash cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// The statement is absent or malformed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The statement is about another job or host.
    #[error("the statement is about another command")]
    Foreign,
    /// A field is not the one that the statement has a digest of.
    #[error("the field '{0}' was altered")]
    Altered(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            exit_code: Some(3),
            reason: Some("exit code 3".into()),
            started_at_ms: Some(1_790_000_000_001),
            stdout: Captured { kept: vec![0xff, b'x'], written_bytes: 2, cut_bytes: 0 },
            data: Some(Map::from_iter([("usage".to_owned(), Value::from(7.5))])),
            ..Outcome::bare(State::Failed, None, 1_790_000_000_042)
        }
    }

    fn fields(outcome: &Outcome, job: JobId) -> Fields {
        let host = "web1".parse().unwrap();
        outcome.fields(job, &host).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn an_outcome_reads_back_from_its_hash() {
        let (job, web1, web2) = (JobId::new(), "web1".parse().unwrap(), "web2".parse().unwrap());
        for outcome in [outcome(), Outcome::bare(State::Succeeded, None, 1_790_000_000_042)] {
            let fields = fields(&outcome, job);
            assert_eq!(Outcome::from_fields(fields.clone(), job, &web1).unwrap(), outcome);
            let read = |job, host| Outcome::from_fields(fields.clone(), job, host);
            assert!(matches!(read(job, &web2), Err(OutcomeError::Foreign)));
            assert!(matches!(read(JobId::new(), &web1), Err(OutcomeError::Foreign)));
        }
        assert!(matches!(Outcome::from_fields(Fields::new(), job, &web1), Err(OutcomeError::Document(_))));
    }

    /// The bytes of wire version 1, frozen: every later version must read them.
    #[test]
    fn wire_1_fixture_is_read() {
        let job = "019a0000-0000-7000-8000-000000000000".parse().unwrap();
        let mut fields = fields(&outcome(), job);
        fields.insert("statement".into(), include_bytes!("../fixtures/statement-v1.msgpack").to_vec());
        assert_eq!(Outcome::from_fields(fields, job, &"web1".parse().unwrap()).unwrap(), outcome());
    }

    #[test]
    fn what_the_statement_does_not_cover_is_not_believed() {
        let (job, host) = (JobId::new(), "web1".parse().unwrap());
        for name in ["stdout", "data"] {
            let mut fields = fields(&outcome(), job);
            fields.insert(name.into(), b"{}".to_vec());
            let error = Outcome::from_fields(fields, job, &host).unwrap_err();
            assert!(matches!(error, OutcomeError::Altered(altered) if altered == name));
        }
        // The plain fields are for people; programs use the statement.
        let mut fields = fields(&outcome(), job);
        fields.insert("status".into(), b"succeeded".to_vec());
        assert_eq!(Outcome::from_fields(fields, job, &host).unwrap().state, State::Failed);
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
        ] {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert!("done".parse::<State>().is_err());
    }
}
