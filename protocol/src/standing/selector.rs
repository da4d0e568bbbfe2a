//! Which hosts a standing order is for: by their names, and by the labels of their own settings.
//!
//! A host judges by what it knows of itself. So there are no groups, and no expressions over figures and facts: what they
//! mean can be changed by whoever writes to Redis.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    limits,
    name::{HostName, NameError},
    pattern::{Pattern, PatternError},
    range::{self, RangeError, Spelled},
    unique::unique,
};

/// What a host must be called, and which labels it must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Names, patterns with `*` and `?`, and ranges such as `web[1-20]`. Without any, all hosts are meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Those of them that are not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Labels that the host must have, all of them, by its own settings. Those that controllers set count for nothing.
    #[serde(default, deserialize_with = "unique", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Why a selector cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Neither a name nor a pattern.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No pattern.
    #[error("'{0}' is no pattern for names of hosts: {1}")]
    Pattern(String, PatternError),
    /// Something is wrong between brackets.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// What a group stands for can be changed by others.
    #[error("'{0}' is a group: name its hosts, as what a group stands for can be changed in Redis")]
    Group(String),
    /// It names too many.
    #[error("it names more than {} words or {} hosts", limits::SELECTOR_WORDS, range::MOST)]
    Many,
}

/// A selector, ready to be asked.
#[derive(Clone, Debug)]
pub struct Selection {
    hosts: Option<Vec<Word>>,
    except: Vec<Word>,
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
enum Word {
    Name(HostName),
    Pattern(Pattern),
}

impl Selector {
    /// Reads its words.
    ///
    /// # Errors
    /// One of them names no hosts, or there are too many.
    pub fn selection(&self) -> Result<Selection, SelectorError> {
        let (mut hosts, mut except) = (Vec::new(), Vec::new());
        self.read(|word| hosts.push(word), |word| except.push(word))?;
        Ok(Selection { hosts: (!self.hosts.is_empty()).then_some(hosts), except, labels: self.labels.clone() })
    }

    /// Whether it selects the host with this name and these labels of its own: as [`Selection::includes`], for a single host.
    /// No word is kept: that of a hostile order could stand for more names than a host has room for.
    ///
    /// # Errors
    /// As [`Self::selection`].
    pub fn selects(&self, host: &HostName, labels: &BTreeMap<String, String>) -> Result<bool, SelectorError> {
        let (mut is_named, mut is_excepted) = (self.hosts.is_empty(), false);
        self.read(|word| is_named |= word.matches(host), |word| is_excepted |= word.matches(host))?;
        Ok(is_named && !is_excepted && has(labels, &self.labels))
    }

    /// Hands over each of its words.
    fn read(&self, mut hosts: impl FnMut(Word), mut except: impl FnMut(Word)) -> Result<(), SelectorError> {
        let all = self.hosts.iter().chain(&self.except);
        if all.count() > limits::SELECTOR_WORDS || self.labels.len() > limits::SELECTOR_WORDS {
            return Err(SelectorError::Many);
        }
        let mut room = range::MOST;
        self.hosts.iter().try_for_each(|text| words(text, &mut room, &mut hosts))?;
        self.except.iter().try_for_each(|text| words(text, &mut room, &mut except))
    }
}

/// The words of a text. `room`: for how many more there is.
fn words(text: &str, room: &mut usize, take: &mut impl FnMut(Word)) -> Result<(), SelectorError> {
    let shown = || text.escape_debug().to_string();
    if text.starts_with('@') {
        return Err(SelectorError::Group(shown()));
    }
    let spelled = Spelled::read(text)?;
    *room = room.checked_sub(spelled.count()).ok_or(SelectorError::Many)?;
    for name in spelled.names() {
        take(if name.contains(['*', '?']) {
            Word::Pattern(Pattern::new(&name).map_err(|error| SelectorError::Pattern(shown(), error))?)
        } else {
            Word::Name(name.parse()?)
        });
    }
    Ok(())
}

/// Whether all of the `wanted` labels are there.
fn has(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

impl Selection {
    /// Whether it selects the host with this name and these labels of its own.
    pub fn includes(&self, host: &HostName, labels: &BTreeMap<String, String>) -> bool {
        let names = |words: &[Word]| words.iter().any(|word| word.matches(host));
        self.hosts.as_deref().is_none_or(names) && !names(&self.except) && has(labels, &self.labels)
    }

    /// Whether it asks for labels.
    pub fn asks_for_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    /// The hosts that it names one by one, where it has no patterns.
    pub fn names(&self) -> Option<Vec<&HostName>> {
        let words = self.hosts.as_ref()?.iter();
        words.map(|word| if let Word::Name(name) = word { Some(name) } else { None }).collect()
    }
}

impl Word {
    fn matches(&self, host: &HostName) -> bool {
        match self {
            Self::Name(name) => name == host,
            Self::Pattern(pattern) => pattern.matches(host.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(hosts: &[&str], except: &[&str], labels: &[(&str, &str)]) -> Selector {
        let texts = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Selector { hosts: texts(hosts), except: texts(except), labels }
    }

    #[test]
    fn a_host_is_selected_by_its_name_and_its_own_labels() {
        let labels = BTreeMap::from([("env".into(), "prod".into()), ("dc".into(), "fra".into())]);
        for (selector, expected) in [
            (selector(&[], &[], &[]), true),
            (selector(&["web1"], &[], &[]), true),
            (selector(&["web[1-3]"], &["web[2-3]"], &[]), true),
            (selector(&["web*"], &["web?"], &[]), false),
            (selector(&["db1", "w*1"], &[], &[("env", "prod"), ("dc", "fra")]), true),
            (selector(&[], &[], &[("env", "prod"), ("role", "web")]), false),
            (selector(&[], &[], &[("env", "pro*")]), false),
            (selector(&["web"], &[], &[]), false),
        ] {
            let selection = selector.selection().unwrap();
            let web1 = "web1".parse().unwrap();
            assert_eq!(selection.includes(&web1, &labels), expected, "{selector:?}");
            assert_eq!(selector.selects(&web1, &labels), Ok(expected), "{selector:?}");
        }
    }

    #[test]
    fn what_others_can_change_and_what_names_nobody_is_refused() {
        let refused = |word: &str| selector(&[word], &[], &[]).selection().unwrap_err();
        assert_eq!(refused("@web"), SelectorError::Group("@web".into()));
        assert!(matches!(refused("web 1"), SelectorError::Name(_)));
        assert!(matches!(refused("web[3-1]"), SelectorError::Range(_)));
        assert!(matches!(refused("web**"), SelectorError::Pattern(..)));
        assert_eq!(selector(&["a[1-9000]"], &["b[1-9000]"], &[]).selection().unwrap_err(), SelectorError::Many);
        let long = format!("{}[1-10000]", "x".repeat(150_000));
        assert!(matches!(refused(&long), SelectorError::Range(RangeError::Long(_))));
        let full = vec!["a[1-10000]"; limits::SELECTOR_WORDS];
        let web1 = "web1".parse().unwrap();
        assert_eq!(selector(&full, &[], &[]).selects(&web1, &BTreeMap::new()), Err(SelectorError::Many));
        let words = vec!["web1"; limits::SELECTOR_WORDS + 1];
        assert_eq!(selector(&words, &[], &[]).selection().unwrap_err(), SelectorError::Many);
    }
}
