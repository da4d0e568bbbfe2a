//! Words that name hosts: a name, a pattern with `*` and `?`, ranges such as `web[1-20]`, and `@NAME` for a group.

use std::str::FromStr;

use protocol::{
    name::{GroupName, HostName, NameError},
    range::{self, RangeError},
};
use wildmatch::WildMatch;

/// A word that names hosts.
#[derive(Clone, Debug)]
pub struct Word {
    text: String,
    meaning: Meaning,
}

#[derive(Clone, Debug)]
enum Meaning {
    /// These hosts, each of which must be there: in the order in which they are written, and sorted.
    Names { written: Vec<HostName>, sorted: Vec<HostName> },
    /// All that match one of these.
    Patterns(Vec<WildMatch>),
    /// What this group stands for.
    Group(GroupName),
}

/// Why a word names no hosts.
#[derive(Debug, thiserror::Error)]
pub enum WordError {
    /// Neither a name nor a pattern.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It has no range in its brackets, or one that is too long.
    #[error(transparent)]
    Range(#[from] RangeError),
}

impl Word {
    /// The hosts of a group: `@NAME`.
    pub fn of_group(name: GroupName) -> Self {
        Self { text: format!("@{name}"), meaning: Meaning::Group(name) }
    }

    /// The word as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The hosts that it names, where it has no wildcard.
    pub(in crate::client) fn exact(&self) -> Option<&[HostName]> {
        match &self.meaning {
            Meaning::Names { written, .. } => Some(written),
            Meaning::Patterns(_) | Meaning::Group(_) => None,
        }
    }

    /// The group that it stands for.
    pub(in crate::client) const fn group(&self) -> Option<&GroupName> {
        if let Meaning::Group(name) = &self.meaning { Some(name) } else { None }
    }

    /// Whether it means a host of this name. Of a group that is not known here.
    pub fn matches(&self, host: &str) -> bool {
        match &self.meaning {
            Meaning::Names { sorted, .. } => sorted.binary_search_by(|name| name.as_str().cmp(host)).is_ok(),
            Meaning::Patterns(patterns) => patterns.iter().any(|pattern| pattern.matches(host)),
            Meaning::Group(_) => false,
        }
    }
}

impl FromStr for Word {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        if let Some(name) = text.strip_prefix('@') {
            return Ok(Self::of_group(name.parse()?));
        }
        let spelled = range::expand(text)?;
        let meaning = if text.contains(['*', '?']) {
            Meaning::Patterns(spelled.iter().map(|pattern| WildMatch::new(pattern)).collect())
        } else {
            let written = spelled.iter().map(|name| name.parse()).collect::<Result<Vec<HostName>, NameError>>()?;
            let mut sorted = written.clone();
            sorted.sort();
            Meaning::Names { written, sorted }
        };
        Ok(Self { text: text.to_owned(), meaning })
    }
}

/// Takes words apart that are separated by commas, except within brackets.
pub fn split_words(text: &str) -> Vec<&str> {
    let (mut words, mut from, mut is_inside) = (Vec::new(), 0, false);
    for (at, char) in text.char_indices() {
        match char {
            '[' => is_inside = true,
            ']' => is_inside = false,
            ',' if !is_inside => {
                words.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    words.push(&text[from..]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let word: Word = text.parse().unwrap();
        word.exact().unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ranges_stand_for_names() {
        assert_eq!(names("web1"), ["web1"]);
        assert_eq!(names("web[1-3]"), ["web1", "web2", "web3"]);
        assert_eq!(names("web[08-10].eu"), ["web08.eu", "web09.eu", "web10.eu"]);
        assert_eq!(names("web[1,3,7-8]"), ["web1", "web3", "web7", "web8"]);
        assert_eq!(names("r[1-2]n[1-2]"), ["r1n1", "r1n2", "r2n1", "r2n2"]);
        let out_of_order: Word = "web[7,10,9]".parse().unwrap();
        for (host, is_meant) in [("web7", true), ("web9", true), ("web10", true), ("web1", false), ("web8", false)] {
            assert_eq!(out_of_order.matches(host), is_meant, "{host}");
        }
        let both: Word = "web[1-2]*".parse().unwrap();
        assert!(both.exact().is_none() && both.matches("web2-eu") && !both.matches("web3"));
        let group: Word = "@web".parse().unwrap();
        assert_eq!(group.group().unwrap().as_str(), "web");
        assert!(group.exact().is_none() && !group.matches("web"));
    }

    #[test]
    fn what_names_no_host_is_refused_with_the_reason() {
        for (text, problem) in [
            ("", "is not a valid name"),
            ("web 1", "is not a valid name"),
            ("@", "is not a valid name"),
            ("@a@b", "is not a valid name"),
            ("web[", "a ']' is missing"),
            ("web]", "a '[' is missing"),
            ("web[]", "there must be numbers"),
            ("web[a-b]", "there must be numbers"),
            ("web[3-1]", "it ends before it begins"),
            ("web[1-10001]", "more than 10000 hosts"),
            ("a[1-1000]b[1-1000]", "more than 10000 hosts"),
            ("web[1-99999999999999999999]", "there must be numbers"),
        ] {
            let refused = text.parse::<Word>().unwrap_err().to_string();
            assert!(refused.contains(problem), "{text}: {refused}");
        }
        assert_eq!(names("web[1-10000]").len(), 10_000);
    }

    #[test]
    fn commas_within_brackets_separate_no_words() {
        assert_eq!(split_words("web[1,3],db*,x"), ["web[1,3]", "db*", "x"]);
        assert_eq!(split_words(""), [""]);
    }
}
