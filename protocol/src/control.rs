//! What a host's control stream carries. It is read even when every slot is busy.

use crate::{command::Fields, name::JobId};

/// An entry of a host's control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// From the worker to itself: a slot is free again, read the inbox too. The blocked reader can
    /// be woken by nothing else, and a second connection per worker would cost Redis more.
    Wake,
    /// End this job's command, or never start it.
    Cancel(JobId),
}

impl Control {
    /// The stream entry's fields and values.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Wake => vec![("kind", "wake".into())],
            Self::Cancel(job) => vec![("kind", "cancel".into()), ("job", job.to_string())],
        }
    }

    /// Reads a stream entry; `None` where it is malformed or of an unknown kind.
    pub fn from_fields(fields: &Fields) -> Option<Self> {
        let text = |name: &str| fields.get(name).and_then(|value| std::str::from_utf8(value).ok());
        match text("kind")? {
            "wake" => Some(Self::Wake),
            "cancel" => text("job")?.parse().ok().map(Self::Cancel),
            _ => None,
        }
    }
}
