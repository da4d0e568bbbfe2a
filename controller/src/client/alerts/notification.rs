//! What is sent when alerts begin or end.

use std::collections::BTreeMap;

use protocol::{name::HostName, time::Millis};
use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth to know.
    Info,
    /// Somebody should look at it at day.
    Warning,
    /// Somebody must look at it now.
    Critical,
}

impl Severity {
    /// As it is written.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Whether an alert goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It does.
    Firing,
    /// It has ended.
    Resolved,
}

/// One alert: a rule that holds for a host, or for the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The name of the rule.
    pub rule: String,
    /// The host. `None`: the fleet or its Redis.
    pub host: Option<HostName>,
    /// How bad it is.
    pub severity: Severity,
    /// Whether it goes on.
    pub phase: Phase,
    /// The rule's labels, and what it adds to them.
    pub labels: BTreeMap<String, String>,
    /// The rule's text, filled in.
    pub text: String,
    /// What was found when it began, as the rule names it: `cpu.usage = 97.1`.
    pub found: String,
    /// When it began to fire, by Redis' clock.
    pub begins_ms: Millis,
    /// When it ended.
    pub ends_ms: Option<Millis>,
}

/// What a receiver is sent: the alerts of a group, as they are at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// The same for every attempt and every instance: by it, a receiver recognises a message that comes twice.
    pub id: String,
    /// The name of the receiver.
    pub receiver: String,
    /// What the alerts have in common, such as `rule` and its value.
    pub group: BTreeMap<String, String>,
    /// Whether one of the alerts goes on.
    pub phase: Phase,
    /// The alerts that go on, and those that have ended since the last message of this group. The worst come first.
    pub alerts: Vec<Alert>,
    /// The moment, by Redis' clock.
    pub at_ms: Millis,
}

impl Notification {
    /// What it says, in a line.
    pub fn in_short(&self) -> String {
        let word = if self.phase == Phase::Firing { "firing" } else { "resolved" };
        let first = self.alerts.first().map(|alert| format!("{}: {}", alert.rule, alert.text)).unwrap_or_default();
        let more = if self.alerts.len() > 1 { format!(" (and {} more)", self.alerts.len() - 1) } else { String::new() };
        format!("{word}: {first}{more}")
    }
}
