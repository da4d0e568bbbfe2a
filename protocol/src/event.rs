//! What a command reports while it runs: state changes and progress in its job's event stream, and live output in a
//! stream of its host's own, so that only those who want output read it.
//!
//! Events report early *that* something happened; the job's hashes are authoritative.

use crate::{name::HostName, outcome::State, signed::Fields};

/// Which of a program's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The word in Redis and in output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// An entry of a job's event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The host that it is about.
    pub host: HostName,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The command is in this state now.
    State(State),
    /// The command is [`State::Delivered`] and waits for this: `lock 'deploy', held by job …`.
    Waits(String),
    /// The action reports its progress, in words.
    Progress(String),
}

impl Event {
    /// The stream entry's fields and values.
    pub fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut fields = vec![("host", self.host.as_str().into())];
        match &self.kind {
            EventKind::State(state) => fields.push(("state", state.as_str().into())),
            EventKind::Waits(what) => {
                fields.push(("state", State::Delivered.as_str().into()));
                fields.push(("waits_for", what.clone().into_bytes()));
            }
            EventKind::Progress(text) => fields.push(("progress", text.clone().into_bytes())),
        }
        fields
    }

    /// Reads a stream entry; `None` for kinds that this version does not know, which are skipped.
    pub fn from_fields(fields: &Fields) -> Option<Self> {
        let text = |name: &str| fields.get(name).and_then(|value| std::str::from_utf8(value).ok());
        let host = text("host")?.parse().ok()?;
        let kind = match (text("waits_for"), text("state")) {
            (Some(what), _) => EventKind::Waits(what.to_owned()),
            (None, Some(state)) => EventKind::State(state.parse().ok()?),
            (None, None) => EventKind::Progress(text("progress")?.to_owned()),
        };
        Some(Self { host, kind })
    }
}

/// An entry of a host's stream of live output. [`crate::scripts::APPEND_OUTPUT`] writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The stream that the program wrote to.
    pub stream: Stream,
    /// How many bytes it had written to that stream before these.
    pub offset: u64,
    /// The bytes that it wrote.
    pub data: Vec<u8>,
}

impl Piece {
    /// Reads a stream entry; `None` where it is none.
    pub fn from_fields(fields: &Fields) -> Option<Self> {
        let text = |name: &str| fields.get(name).and_then(|value| std::str::from_utf8(value).ok());
        let word = text("stream")?;
        let stream = [Stream::Stdout, Stream::Stderr].into_iter().find(|stream| stream.as_str() == word)?;
        Some(Self { stream, offset: text("offset")?.parse().ok()?, data: fields.get("data")?.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_written_and_strange_ones_are_skipped() {
        let host: HostName = "web1".parse().unwrap();
        for kind in [
            EventKind::State(State::Running),
            EventKind::Waits("lock 'deploy'".into()),
            EventKind::Progress("unpacked 3 of 7 files".into()),
        ] {
            let event = Event { host: host.clone(), kind };
            let fields = event.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(Event::from_fields(&fields), Some(event));
        }
        let strange = Fields::from([("host".to_owned(), b"web1".to_vec()), ("smell".to_owned(), vec![])]);
        assert_eq!(Event::from_fields(&strange), None);
    }
}
