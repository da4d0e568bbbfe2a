//! Silences: alerts that nobody is told of for a while.

use std::collections::BTreeMap;

use protocol::{name::RuleName, time::Millis};
use serde::{Deserialize, Serialize};

use super::{Alert, rule::rule_of};
use crate::client::targeting::{Word, split_words};

/// A silence. All of what it names must hold for an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// By what it is removed.
    pub id: String,
    /// Alerts of this rule.
    pub rule: Option<RuleName>,
    /// Alerts of these hosts: names, patterns and ranges.
    pub hosts: Option<String>,
    /// Alerts with these labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Why.
    pub why: String,
    /// Who wants it.
    pub author: String,
    /// When it began.
    pub begins_ms: Millis,
    /// When it ends.
    pub until_ms: Millis,
}

impl Silence {
    /// Whether nobody is to be told of this alert.
    pub fn covers(&self, alert: &Alert, now: Millis) -> bool {
        let is_of_rule = || self.rule.as_ref().is_none_or(|rule| rule.as_str() == rule_of(&alert.rule));
        let has_labels = || self.labels.iter().all(|(name, value)| alert.labels.get(name) == Some(value));
        let names_something = self.rule.is_some() || self.hosts.is_some() || !self.labels.is_empty();
        now < self.until_ms && names_something && is_of_rule() && has_labels() && self.is_of_host(alert)
    }

    fn is_of_host(&self, alert: &Alert) -> bool {
        let Some(words) = &self.hosts else { return true };
        let Some(host) = &alert.host else { return false };
        let words = split_words(words).into_iter().filter_map(|word| word.parse::<Word>().ok());
        words.into_iter().any(|word| word.matches(host.as_str()))
    }
}
