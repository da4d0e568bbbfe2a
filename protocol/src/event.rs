//! What a job's event stream carries: state changes and live output.
//!
//! Events say *that* something happened, soon; the truth is in the job's hashes.

use std::collections::HashMap;

use crate::{name::HostName, outcome::State};

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
    /// The host that it tells of.
    pub host: HostName,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The command is in this state now.
    State(State),
    /// The program wrote something.
    Output {
        /// To which stream.
        stream: Stream,
        /// How many bytes it had written to that stream before these.
        offset: u64,
        /// What it wrote.
        data: Vec<u8>,
    },
}

impl Event {
    /// The stream entry's fields and values.
    pub fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut fields = vec![("host", self.host.as_str().into())];
        match &self.kind {
            EventKind::State(state) => fields.push(("state", state.as_str().into())),
            EventKind::Output { stream, offset, data } => fields.extend([
                ("stream", stream.as_str().into()),
                ("offset", offset.to_string().into_bytes()),
                ("data", data.clone()),
            ]),
        }
        fields
    }

    /// Reads a stream entry; `None` for kinds that this version does not know, which are skipped.
    pub fn from_fields(fields: &HashMap<String, Vec<u8>>) -> Option<Self> {
        let text = |name: &str| fields.get(name).and_then(|value| std::str::from_utf8(value).ok());
        let host = text("host")?.parse().ok()?;
        if let Some(state) = text("state") {
            return Some(Self { host, kind: EventKind::State(state.parse().ok()?) });
        }
        let stream = match text("stream")? {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            _ => return None,
        };
        let offset = text("offset")?.parse().ok()?;
        let data = fields.get("data")?.clone();
        Some(Self { host, kind: EventKind::Output { stream, offset, data } })
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
            EventKind::Output { stream: Stream::Stderr, offset: 7, data: vec![0, 255] },
        ] {
            let event = Event { host: host.clone(), kind };
            let fields = event.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(Event::from_fields(&fields), Some(event));
        }
        let strange = HashMap::from([("host".to_owned(), b"web1".to_vec()), ("smell".to_owned(), vec![])]);
        assert_eq!(Event::from_fields(&strange), None);
    }
}
