//! How an alert goes: the state of one rule for one host. It knows neither Redis nor hosts.
//!
//! ```text
//!                  when            for                 clear             clear_for
//!     inactive ──────────▶ pending ───────▶ firing ───────────▶ clearing ──────────▶ inactive, and its end is to be told
//!         ▲───── not when ────┘                ▲──── not clear ─────┘
//! ```
//!
//! What is not known holds the state, and its time does not count. Moments are kept and not spans, so that a restart of what
//! looks begins nothing anew.

use std::{fmt, str::FromStr};

use protocol::{name::HostName, time::Millis};
use serde::{Deserialize, Serialize};

use super::Alert;

/// If nobody has looked for longer than this, nobody knows how it was in between.
pub const GAP_MS: Millis = 120_000;

/// How long a host may be missing among all hosts before what was said about it has ended: an index that was lost ends
/// nothing.
const GONE_MS: Millis = 300_000;

/// Which alert of which host: the field that has its state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The rule, or that nobody knows whether it holds.
    pub alert: String,
    /// The host. `None`: the fleet's Redis.
    pub host: Option<HostName>,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It does not hold.
    #[default]
    Inactive,
    /// It holds, but not for long enough.
    Pending,
    /// It holds.
    Firing,
    /// It does not hold any more, but not for long enough.
    Clearing,
}

/// The state of an alert.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// How far it has come.
    pub stage: Stage,
    /// Since when, later by the time that does not count.
    pub since_ms: Millis,
    /// Since when nothing is known, or nothing counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<Millis>,
    /// Since when its host is missing among all hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_ms: Option<Millis>,
    /// What is said, while it fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<Alert>,
    /// What has ended, until those who know that it began were told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Alert>,
}

/// What is found at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Whether what begins it holds, and what ends it.
    Known {
        /// Whether what begins it holds. `None`: nobody knows.
        when: Option<bool>,
        /// Whether what ends it holds. `None`: nobody knows.
        clear: Option<bool>,
    },
    /// It does not count for now.
    Held,
    /// The host is not there any more.
    Gone,
    /// The rule is not there any more, or not for this host.
    Over,
}

/// How long it must hold, and not hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spans {
    /// From pending to firing.
    pub for_ms: Millis,
    /// From clearing to its end.
    pub clear_for_ms: Millis,
}

impl Course {
    /// Whether there is anything to remember.
    pub const fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Inactive) && self.ended.is_none()
    }

    /// Whether it explains other alerts: it has begun, if only just now.
    pub const fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Inactive)
    }

    /// What becomes of it at a look. `last`: when somebody looked before. `alert` is asked for what is said when it begins to
    /// fire.
    #[must_use]
    pub fn step(
        mut self,
        sight: Sight,
        spans: Spans,
        now: Millis,
        last: Option<Millis>,
        alert: impl FnOnce() -> Alert,
    ) -> Self {
        // A clock that was set back must not hold anything up.
        self.since_ms = self.since_ms.min(now);
        let gone = || self.gone_ms.map_or(now, |gone| gone.min(now));
        self.gone_ms = (sight == Sight::Gone).then(gone);
        let (when, clear) = match sight {
            Sight::Over => return self.end(now),
            Sight::Known { when, clear } => (when, clear),
            Sight::Held | Sight::Gone => (None, None),
        };
        let is_known = match self.stage {
            Stage::Inactive | Stage::Pending => when.is_some(),
            Stage::Firing | Stage::Clearing => clear.is_some(),
        };
        let gap = last.filter(|last| now.saturating_sub(*last) > GAP_MS);
        if !is_known {
            if self.stage == Stage::Inactive {
                self.held_ms = None;
                return self;
            }
            let held = self.held_ms.map_or_else(|| gap.unwrap_or(now), |held| held.min(now));
            self.held_ms = Some(held);
            let is_gone = self.gone_ms.is_some_and(|gone| now - gone >= GONE_MS);
            return if is_gone { self.end(now) } else { self };
        }
        if let Some(held) = self.held_ms.take().or(gap) {
            self.since_ms = self.since_ms.saturating_add(now.saturating_sub(held)).min(now);
        }
        if self.stage == Stage::Inactive && when == Some(true) {
            (self.stage, self.since_ms) = (Stage::Pending, now);
        } else if self.stage == Stage::Pending && when == Some(false) {
            self.stage = Stage::Inactive;
        } else if self.stage == Stage::Firing && clear == Some(true) {
            (self.stage, self.since_ms) = (Stage::Clearing, now);
        } else if self.stage == Stage::Clearing && clear == Some(false) {
            self.stage = Stage::Firing;
            self.since_ms = self.alert.as_ref().map_or(now, |alert| alert.begins_ms).min(now);
        }
        let elapsed = now - self.since_ms;
        match self.stage {
            Stage::Pending if elapsed >= spans.for_ms => {
                (self.stage, self.since_ms, self.alert) = (Stage::Firing, now, Some(alert()));
                self
            }
            Stage::Clearing if elapsed >= spans.clear_for_ms => self.end(now),
            _ => self,
        }
    }

    fn end(self, now: Millis) -> Self {
        let ended = self.alert.map(|alert| Alert { phase: super::Phase::Resolved, ends_ms: Some(now), ..alert });
        // The first end is the one that others wait for.
        Self { ended: self.ended.or(ended), ..Self::default() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/", self.alert)?;
        self.host.as_ref().map_or(Ok(()), |host| out.write_str(host.as_str()))
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (alert, host) = text.rsplit_once('/').ok_or(())?;
        let host = if host.is_empty() { None } else { Some(host.parse().map_err(drop)?) };
        Ok(Self { alert: alert.to_owned(), host })
    }
}
