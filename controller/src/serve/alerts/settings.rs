//! The section `[alerts]` of the settings of `ctl serve`.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};
use protocol::time::read_duration;
use serde::Deserialize;

use crate::client::alerts::{Origin, Rule, StoredRule, read_file};

/// Between two evaluations.
const INTERVAL: Duration = Duration::from_secs(10);
const INTERVAL_MIN: Duration = Duration::from_millis(200);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// The rules that come with Redfleet.
const SHIPPED: [(&str, &str); 2] = [
    ("hosts.toml", include_str!("../../../../contrib/alerts/hosts.toml")),
    ("redis.toml", include_str!("../../../../contrib/alerts/redis.toml")),
];

/// The section as it is written.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Section {
    /// Whether alerts are evaluated.
    enabled: bool,
    /// Between two evaluations.
    interval: Option<String>,
    /// Files with rules, beside the settings.
    rules: Vec<String>,
    /// Whether the rules that come with Redfleet count.
    defaults: bool,
    /// Who is told where a rule names nobody. Without it: all receivers.
    receivers: Option<Vec<String>>,
}

impl Default for Section {
    fn default() -> Self {
        Self { enabled: true, interval: None, rules: Vec::new(), defaults: true, receivers: None }
    }
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether alerts are evaluated.
    pub enabled: bool,
    /// Between two evaluations.
    pub interval: Duration,
    /// The rules of the files, and those that come with Redfleet.
    pub rules: Vec<StoredRule>,
    /// Who is told where a rule names nobody. Without it: all receivers.
    pub receivers: Option<Vec<String>>,
}

impl Section {
    /// Judges the section. `directory`: where the files with rules are.
    ///
    /// # Errors
    /// A file cannot be read, or a rule in it cannot be used.
    pub fn judge(self, directory: Option<&Path>) -> anyhow::Result<Settings> {
        let interval = self.interval.as_deref().map(read_duration).transpose().map_err(anyhow::Error::msg)?;
        let interval = interval.unwrap_or(INTERVAL);
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
            bail!("alerts.interval: write a time from {INTERVAL_MIN:?} to {INTERVAL_MAX:?}");
        }
        let mut rules: Vec<StoredRule> = Vec::new();
        for file in &self.rules {
            let path = directory.map_or_else(|| file.into(), |directory| directory.join(file));
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let read = read_file(&text).map_err(anyhow::Error::msg).with_context(|| path.display().to_string())?;
            for rule in stored(Origin::File, file, read) {
                if rules.iter().any(|known| known.rule.name == rule.rule.name) {
                    bail!("{}: there is a rule {} already", path.display(), rule.rule.name);
                }
                rules.push(rule);
            }
        }
        if self.defaults {
            for rule in shipped() {
                if !rules.iter().any(|known| known.rule.name == rule.rule.name) {
                    rules.push(rule);
                }
            }
        }
        Ok(Settings { enabled: self.enabled, interval, rules, receivers: self.receivers })
    }
}

fn stored(origin: Origin, by: &str, rules: Vec<Rule>) -> impl Iterator<Item = StoredRule> {
    rules.into_iter().map(move |rule| StoredRule { origin, by: by.to_owned(), rule: rule.written })
}

/// The rules that come with Redfleet.
pub fn shipped() -> Vec<StoredRule> {
    let read = |(name, text): (&'static str, &str)| {
        let rules = read_file(text).expect("a unit test reads them");
        stored(Origin::Shipped, name, rules)
    };
    SHIPPED.into_iter().flat_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::alerts::Rules;

    #[test]
    fn the_rules_that_come_with_redfleet_can_be_used() {
        let rules: Vec<_> = shipped().into_iter().map(|rule| Rule::judge(rule.rule).unwrap()).collect();
        let count = rules.len();
        let rules = Rules::new(rules);
        assert!(rules.doubts.is_empty(), "{:?}", rules.doubts);
        assert_eq!(rules.iter().count(), count, "two have one name");
    }

    #[test]
    fn a_rule_of_a_file_counts_in_the_place_of_a_shipped_one() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("own.toml"), "[[rule]]\nname = 'cpu-high'\nwhen = 'cpu.usage > 50'").unwrap();
        let section = |defaults| Section { rules: vec!["own.toml".into()], defaults, ..Section::default() };
        let settings = section(true).judge(Some(directory.path())).unwrap();
        let own = settings.rules.iter().find(|rule| rule.rule.name.as_str() == "cpu-high").unwrap();
        assert_eq!((own.origin, own.rule.when.as_str()), (Origin::File, "cpu.usage > 50"));
        assert_eq!(settings.rules.len(), shipped().len());
        assert_eq!(section(false).judge(Some(directory.path())).unwrap().rules.len(), 1);
        fs::write(directory.path().join("own.toml"), "[[rule]]\nname = 'a'\nwhen = 'cpuu.usage > 50'").unwrap();
        let error = format!("{:#}", section(true).judge(Some(directory.path())).unwrap_err());
        assert!(error.contains("own.toml: rule a: when: there is no 'cpuu.usage'"), "{error}");
    }
}
