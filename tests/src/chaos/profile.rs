//! Kinds of rounds: what Redis promises in each, and which faults it has.

use std::{fmt, str::FromStr};

use crate::Aof;

/// A kind of round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Redis syncs each write before it replies: no acknowledged write may be lost, whatever dies.
    Durable,
    /// Redis syncs every second, and power cuts lose the newest writes: the controller redispatches.
    PowerCuts,
    /// FLUSHALL now and then: the controller redispatches.
    Forgetful,
    /// The disk under the workers' journals is small and often full. Needs root.
    FullDisk,
}

/// A bug that is planted in the workers. The checker must find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A once action is recorded only after it has started.
    JournalAfterStart,
    /// Entries are acknowledged before their outcome is published.
    AckBeforeResult,
    /// A copy of a known command runs again.
    NoDedup,
    /// Entries that an earlier process left pending are never read.
    IgnorePending,
    /// The inbox is trimmed although it has live entries.
    TrimLive,
}

impl Profile {
    /// All profiles, in the order of a run.
    pub const ALL: [Self; 4] = [Self::Durable, Self::PowerCuts, Self::Forgetful, Self::FullDisk];

    /// How Redis keeps its data.
    pub(super) const fn aof(self) -> Aof {
        if matches!(self, Self::PowerCuts) { Aof::EverySecond } else { Aof::Always }
    }

    /// Whether Redis may lose acknowledged writes.
    pub(super) const fn loses(self) -> bool {
        matches!(self, Self::PowerCuts | Self::Forgetful)
    }
}

impl Bug {
    /// All planted bugs.
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
