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
    /// The host's decision that this follows from, where the host states it. Nobody vouches for what stands in Redis:
    /// the host's own record is its audit trail.
    pub decision: Option<Decision>,
}

/// What a host decided about a command or an order to cancel, and who had asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it was accepted.
    pub accepted: bool,
    /// The operator, as the controller claims.
    pub operator: String,
    /// The signer, as the host's trust file names them; none where the host has verified nothing.
    pub principal: Option<String>,
    /// The fingerprint of the signer's key.
    pub key: Option<String>,
    /// Why it was refused.
    pub reason: Option<String>,
}

impl Decision {
    /// The word in Redis, and in the audit trail, for what was accepted.
    pub const ACCEPTED: &'static str = "accepted";
    /// The word in Redis for what was not.
    pub const REFUSED: &'static str = "refused";

    /// The fields and values that stand beside those of the event.
    pub fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let word = if self.accepted { Self::ACCEPTED } else { Self::REFUSED };
        let optional = [("principal", &self.principal), ("key", &self.key), ("reason", &self.reason)];
        let optional = optional.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?.as_bytes().into())));
        let always = [("decision", word.as_bytes().to_vec()), ("operator", self.operator.as_bytes().to_vec())];
        always.into_iter().chain(optional).collect()
    }

    fn from_fields(fields: &Fields) -> Option<Self> {
        let text = |name: &str| fields.get(name).and_then(|value| String::from_utf8(value.clone()).ok());
        let accepted = match text("decision")?.as_str() {
            Self::ACCEPTED => true,
            Self::REFUSED => false,
            _ => return None,
        };
        let operator = text("operator")?;
        Some(Self { accepted, operator, principal: text("principal"), key: text("key"), reason: text("reason") })
    }
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
    /// The host was ordered to cancel the command. Whether it obeys is in [`Event::decision`].
    CancelOrdered,
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
            EventKind::CancelOrdered => fields.push(("order", b"cancel".into())),
        }
        fields.extend(self.decision.iter().flat_map(Decision::fields));
        fields
    }

    /// Reads a stream entry; `None` for kinds that this version does not know, which are skipped.
    pub fn from_fields(fields: &Fields) -> Option<Self> {
        let text = |name: &str| fields.get(name).and_then(|value| std::str::from_utf8(value).ok());
        let host = text("host")?.parse().ok()?;
        let kind = match (text("waits_for"), text("state")) {
            (Some(what), _) => EventKind::Waits(what.to_owned()),
            (None, Some(state)) => EventKind::State(state.parse().ok()?),
            (None, None) if text("order") == Some("cancel") => EventKind::CancelOrdered,
            (None, None) => EventKind::Progress(text("progress")?.to_owned()),
        };
        Some(Self { host, kind, decision: Decision::from_fields(fields) })
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
        let (operator, key) = ("ann@desk".into(), Some("SHA256:x".into()));
        let accepted = Decision { accepted: true, operator, principal: Some("ann".into()), key, reason: None };
        let reason = Some("unknown action 'dance'".into());
        let refused = Decision { accepted: false, principal: None, key: None, reason, ..accepted.clone() };
        for kind in [
            EventKind::State(State::Running),
            EventKind::Waits("lock 'deploy'".into()),
            EventKind::Progress("unpacked 3 of 7 files".into()),
            EventKind::CancelOrdered,
        ] {
            for decision in [None, Some(accepted.clone()), Some(refused.clone())] {
                let event = Event { host: host.clone(), kind: kind.clone(), decision };
                let fields = event.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                assert_eq!(Event::from_fields(&fields), Some(event));
            }
        }
        let strange = Fields::from([("host".to_owned(), b"web1".to_vec()), ("smell".to_owned(), vec![])]);
        assert_eq!(Event::from_fields(&strange), None);
    }
}
