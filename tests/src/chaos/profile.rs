//! Kinds of rounds: what Redis promises in them, and what is done to the fleet.

use std::{fmt, str::FromStr};

use crate::Aof;

/// A kind of round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Redis syncs each write before it answers: what it acknowledged must be there, whatever dies.
    Durable,
    /// Redis syncs every second, and power cuts take the newest writes: the controller sends again.
    PowerCuts,
    /// FLUSHALL, now and then: the controller sends again.
    Forgetful,
    /// The disk under the workers' journals is small and often full. Needs root.
    FullDisk,
}

/// A bug that is planted in the workers, to see whether the checker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// What must not run twice is recorded only after it has started.
    JournalAfterStart,
    /// Entries are acknowledged before their outcome is published.
    AckBeforeResult,
    /// What was seen before is run again.
    NoDedup,
    /// What an earlier process left pending is never read.
    IgnorePending,
    /// The inbox is trimmed although there are live entries in it.
    TrimLive,
}

impl Profile {
    /// All of them, in the order in which a run takes them.
    pub const ALL: [Self; 4] = [Self::Durable, Self::PowerCuts, Self::Forgetful, Self::FullDisk];

    /// How Redis keeps its data.
    pub(super) const fn aof(self) -> Aof {
        if matches!(self, Self::PowerCuts) { Aof::EverySecond } else { Aof::Always }
    }

    /// Whether Redis may lose what it acknowledged.
    pub(super) const fn loses(self) -> bool {
        matches!(self, Self::PowerCuts | Self::Forgetful)
    }
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::JournalAfterStart, Self::AckBeforeResult, Self::NoDedup, Self::IgnorePending, Self::TrimLive];
}

impl fmt::Display for Profile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:?}")
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|profile| profile.to_string() == text);
        found.ok_or_else(|| format!("there is no profile '{text}', but {:?}", Self::ALL))
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|bug| format!("{bug:?}") == text);
        found.ok_or_else(|| format!("there is no bug '{text}', but {:?}", Self::ALL))
    }
}
