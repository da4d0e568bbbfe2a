//! What a rule lets an argument be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use protocol::action::{Argument, Kind, Parameter};
use toml::Value;

use super::pattern::Pattern;

/// Stands for anything: a value, or the rest of a list. The second spelling is for keyboards.
const REST: [&str; 2] = ["…", "..."];

/// What a rule lets an argument be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Allowed {
    /// Anything, also nothing.
    Anything,
    /// A word that one of the patterns matches.
    Words(Vec<Pattern>),
    /// One of some numbers.
    Integers(Vec<i64>),
    /// This.
    Boolean(bool),
    /// A list that one of these matches.
    Lists(Vec<List>),
    /// Exactly these keys.
    Map(BTreeMap<String, Vec<Pattern>>),
    /// Secrets under exactly these names.
    Secrets(BTreeSet<String>),
}

/// A pattern for each item of a list, in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List {
    items: Vec<Pattern>,
    /// Whether anything may follow.
    rest: bool,
}

fn is_rest(value: &Value) -> bool {
    value.as_str().is_some_and(|text| REST.contains(&text))
}

fn pattern(value: &Value) -> Result<Pattern, String> {
    let text = value.as_str().ok_or_else(|| format!("it must be text, not a {}", value.type_str()))?;
    Pattern::new(text).map_err(|error| format!("'{}' is no pattern: {error}", text.escape_debug()))
}

/// One value, or an array of values of which one must fit.
fn one_or_more<T>(value: &Value, read: impl Fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
    match value {
        Value::Array(items) if items.is_empty() => Err("the set is empty, so nothing would fit".into()),
        Value::Array(items) => items.iter().map(read).collect(),
        value => Ok(vec![read(value)?]),
    }
}

impl Allowed {
    /// Reads what a rule says about `parameter`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(parameter: &Parameter, value: &Value) -> Result<Self, String> {
        if is_rest(value) {
            return Ok(Self::Anything);
        }
        match (&parameter.kind, value) {
            (Kind::Map, Value::Table(table)) if parameter.secret && table.values().all(is_rest) => {
                return Ok(Self::Secrets(table.keys().cloned().collect()));
            }
            (Kind::Map, _) if parameter.secret => {
                return Err("a secret cannot be compared: name those that may be given, as { TOKEN = \"…\" }".into());
            }
            _ if parameter.secret => {
                return Err("a secret cannot be compared: \"…\" lets it be given, leaving it out forbids it".into());
            }
            _ => {}
        }
        match (&parameter.kind, value) {
            (Kind::Integer { .. }, value) => one_or_more(value, |value| {
                value.as_integer().ok_or_else(|| format!("it must be a whole number, not a {}", value.type_str()))
            })
            .map(Self::Integers),
            (Kind::Boolean, Value::Boolean(value)) => Ok(Self::Boolean(*value)),
            (Kind::Boolean, _) => Err("it must be true, false or \"…\"".into()),
            (Kind::List, Value::Array(items)) if items.iter().all(Value::is_array) && !items.is_empty() => {
                items.iter().map(List::read).collect::<Result<_, _>>().map(Self::Lists)
            }
            (Kind::List, value) => Ok(Self::Lists(vec![List::read(value)?])),
            (Kind::Map, Value::Table(table)) => {
                let read = |(key, value): (&String, &Value)| Ok((key.clone(), one_or_more(value, pattern)?));
                table.iter().map(read).collect::<Result<_, String>>().map(Self::Map)
            }
            (Kind::Map, _) => Err("it must be a table such as { LANG = \"C*\" }, or \"…\"".into()),
            (Kind::Unknown, _) => Err("its kind is not known, so only \"…\" fits".into()),
            (Kind::Text | Kind::Choice { .. } | Kind::Duration | Kind::Path, value) => {
                one_or_more(value, pattern).map(Self::Words)
            }
        }
    }

    /// Whether `argument` fits. `None`: it was not given and has no default.
    pub(super) fn admits(&self, argument: Option<&Argument>) -> bool {
        match (self, argument) {
            (Self::Anything, _) => true,
            (Self::Words(patterns), Some(Argument::Text(text))) => any(patterns, text),
            (Self::Integers(numbers), Some(Argument::Integer(number))) => numbers.contains(number),
            (Self::Boolean(wanted), Some(Argument::Boolean(given))) => wanted == given,
            (Self::Lists(lists), Some(Argument::List(items))) => lists.iter().any(|list| list.matches(items)),
            (Self::Map(wanted), Some(Argument::Map(given))) => {
                wanted.keys().eq(given.keys()) && wanted.values().zip(given.values()).all(|(one, text)| any(one, text))
            }
            (Self::Secrets(names), Some(Argument::Map(given))) => names.iter().eq(given.keys()),
            _ => false,
        }
    }
}

fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

impl List {
    fn read(value: &Value) -> Result<Self, String> {
        let items = value.as_array().ok_or("it must be an array with a pattern for each word, or \"…\"")?;
        let rest = items.last().is_some_and(is_rest);
        let items = &items[..items.len() - usize::from(rest)];
        if items.iter().any(is_rest) {
            return Err("\"…\" stands only at the end".into());
        }
        if items.is_empty() {
            return Err("it names no word (\"…\" in the place of the array allows anything)".into());
        }
        Ok(Self { items: items.iter().map(pattern).collect::<Result<_, _>>()?, rest })
    }

    fn matches(&self, words: &[String]) -> bool {
        let fits = if self.rest { words.len() >= self.items.len() } else { words.len() == self.items.len() };
        fits && self.items.iter().zip(words).all(|(pattern, word)| pattern.matches(word))
    }
}

fn join(patterns: &[Pattern]) -> String {
    patterns.iter().map(|pattern| format!("'{pattern}'")).collect::<Vec<_>>().join(" or ")
}

impl fmt::Display for Allowed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anything => out.write_str("…"),
            Self::Words(patterns) => out.write_str(&join(patterns)),
            Self::Integers(numbers) => {
                out.write_str(&numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(" or "))
            }
            Self::Boolean(value) => write!(out, "{value}"),
            Self::Lists(lists) => {
                out.write_str(&lists.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))
            }
            Self::Secrets(names) => {
                let pair = |name: &String| format!("{name} = …");
                write!(out, "{{{}}}", names.iter().map(pair).collect::<Vec<_>>().join(", "))
            }
            Self::Map(map) => {
                let pair = |(key, patterns): (&String, &Vec<Pattern>)| format!("{key} = {}", join(patterns));
                write!(out, "{{{}}}", map.iter().map(pair).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl fmt::Display for List {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = self.items.iter().map(|item| format!("'{item}'"));
        let items: Vec<_> = items.chain(self.rest.then(|| "…".to_owned())).collect();
        write!(out, "[{}]", items.join(", "))
    }
}
