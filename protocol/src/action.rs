//! Descriptions of actions: name, parameters, and whether an action may run again.
//!
//! Workers publish their catalogue of [`ActionSpec`]s in their facts; `ctl` checks and completes
//! arguments against it before anything is sent, and the worker checks them again.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Component, Path},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{limits, pattern::Pattern, time, unique::unique};

/// The parameter of an action that can say what it would do; see [`Parameter::dry_run`].
pub const DRY_RUN: &str = "dry_run";

/// The field of a result's data that tells whether the action changed the host: `true` or `false`. Every action that may
/// change something reports it.
pub const CHANGED: &str = "changed";

/// The field of the data of a dry run: what would be done, step by step; an empty list where nothing would.
pub const WOULD: &str = "would";

/// Arguments of a command, by parameter name.
pub type Arguments = BTreeMap<String, Argument>;

/// Arguments for people; secret ones, of which the names are given, are `***`.
pub fn shown<'a>(arguments: &Arguments, secrets: impl IntoIterator<Item = &'a String>) -> Map<String, Value> {
    let value = |argument: &Argument| serde_json::to_value(argument).unwrap_or_default();
    let plain = arguments.iter().map(|(name, argument)| (name.clone(), value(argument)));
    plain.chain(secrets.into_iter().map(|name| (name.clone(), "***".into()))).collect()
}

/// A typed argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Text.
    Text(String),
    /// Several texts in order, such as an argument vector.
    List(Vec<String>),
    /// Texts by name, such as environment variables.
    Map(#[serde(deserialize_with = "unique")] BTreeMap<String, String>),
}

/// Whether an action may run again when it is not known whether it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// Reads only: after a crash it runs again.
    Repeatable,
    /// Changes something: it never starts twice. After a crash it is reported as interrupted.
    Once,
}

/// The description of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionSpec {
    /// Name as typed: `collect-cpu`.
    pub name: String,
    /// One line for help.
    pub summary: String,
    /// Whether it may run again after a crash.
    pub repeat: Repeat,
    /// Parameters in the order in which help shows them.
    #[serde(default)]
    pub parameters: Vec<Parameter>,
    /// How long it may run where the command does not say, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Whether the host's configuration allows it.
    #[serde(default = "yes")]
    pub allowed: bool,
    /// How many must have signed a command, by the rule of the host that asks for the fewest.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub approvals: usize,
    /// Whether it is the host's own: a file in its `actions.d` defines it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub own: bool,
    /// Whether its figures are kept in a hash of its own: see [`crate::keys::Keys::custom`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub metrics: bool,
}

const fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_one(approvals: &usize) -> bool {
    *approvals == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

const fn yes() -> bool {
    true
}

fn default_timeout_ms() -> u64 {
    crate::clock::millis(limits::TIMEOUT_DEFAULT)
}

/// A parameter of an action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Name as typed before the `=`.
    pub name: String,
    /// One line for help.
    pub summary: String,
    /// What it accepts.
    #[serde(flatten)]
    pub kind: Kind,
    /// Whether it must be given.
    #[serde(default)]
    pub required: bool,
    /// Used where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Argument>,
    /// Whether it takes the words behind `--`.
    #[serde(default)]
    pub trailing: bool,
    /// Whether its values are secret: see [`crate::secret`].
    #[serde(default)]
    pub secret: bool,
}

/// What a parameter accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// Any text.
    #[default]
    Text,
    /// A whole number within bounds.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of some words.
    Choice {
        /// The words.
        values: Vec<String>,
    },
    /// A duration such as `30s`, carried as text.
    Duration,
    /// An absolute path, carried as text.
    Path,
    /// A text that one of some patterns matches. It is neither empty nor a lone dot, unless one of them says so.
    Pattern {
        /// See [`crate::pattern::Pattern`].
        patterns: Vec<String>,
    },
    /// An absolute path that is one of some directories or lies below it, carried as text. It has no `..`.
    PathUnder {
        /// The directories.
        roots: Vec<String>,
    },
    /// Several texts.
    List,
    /// Texts by name, typed as `NAME.KEY=VALUE`.
    Map,
    /// A kind that this version does not know; its arguments pass unchecked to the worker.
    #[serde(other)]
    Unknown,
}

/// Why arguments do not fit an action.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgumentError {
    /// There is no such parameter.
    ///
    /// The action, what was given, and what the action takes.
    #[error("{0} has no parameter '{1}' (it takes {2})")]
    Unknown(String, String, String),
    /// A required one is missing.
    ///
    /// The action, the parameter as it is typed, and its meaning.
    #[error("{0} needs {1}: {2}")]
    Missing(String, String, String),
    /// The value does not fit.
    ///
    /// The action, the parameter, what it accepts, and what was given.
    #[error("{0}: {1} must be {2}, not {3}")]
    Value(String, String, Kind, String),
}

impl ActionSpec {
    /// A repeatable action without parameters.
    pub fn repeatable(name: &str, summary: &str) -> Self {
        Self {
            name: name.into(),
            summary: summary.into(),
            repeat: Repeat::Repeatable,
            parameters: Vec::new(),
            timeout_ms: default_timeout_ms(),
            allowed: true,
            approvals: 1,
            own: false,
            metrics: false,
        }
    }

    /// The parameter of that name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// Fills in defaults and checks every argument.
    ///
    /// # Errors
    /// The first argument that does not fit.
    pub fn check(&self, mut arguments: Arguments) -> Result<Arguments, ArgumentError> {
        for (name, argument) in &arguments {
            let parameter = self.parameter(name).ok_or_else(|| self.unknown(name))?;
            parameter.check(&self.name, argument)?;
        }
        for parameter in &self.parameters {
            if arguments.contains_key(&parameter.name) {
                continue;
            }
            if let Some(default) = &parameter.default {
                arguments.insert(parameter.name.clone(), default.clone());
            } else if parameter.required {
                let summary = parameter.summary.clone();
                return Err(ArgumentError::Missing(self.name.clone(), parameter.usage(), summary));
            }
        }
        Ok(arguments)
    }

    /// The error for a parameter that this action does not have.
    pub fn unknown(&self, name: &str) -> ArgumentError {
        let known: Vec<_> = self.parameters.iter().map(Parameter::usage).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        ArgumentError::Unknown(self.name.clone(), name.chars().take(80).collect(), known)
    }
}

impl Parameter {
    /// A parameter that may be left out.
    pub fn optional(name: &str, kind: Kind, summary: &str) -> Self {
        Self { name: name.into(), summary: summary.into(), kind, ..Self::default() }
    }

    /// Whether the action only says what it would do ([`WOULD`]) and changes nothing. `ctl run --dry-run` sets it. A
    /// worker whose action does not have it refuses the command, so that a dry run never becomes a real one.
    pub fn dry_run() -> Self {
        let summary = "say what would be done, and change nothing";
        Self { default: Some(Argument::Boolean(false)), ..Self::optional(DRY_RUN, Kind::Boolean, summary) }
    }

    /// How it is typed: `top=N`, `env.KEY=VALUE`, `-- ARGV…`.
    pub fn usage(&self) -> String {
        let name = &self.name;
        if self.trailing {
            return format!("-- {}…", name.to_uppercase());
        }
        match &self.kind {
            Kind::Integer { .. } => format!("{name}=N"),
            Kind::Boolean => format!("{name}=true|false"),
            Kind::Choice { values } => format!("{name}={}", values.join("|")),
            Kind::Duration => format!("{name}=DURATION"),
            Kind::Path => format!("{name}=/PATH"),
            Kind::PathUnder { roots } => format!("{name}={}/…", roots.first().map_or("", String::as_str)),
            Kind::Map => format!("{name}.KEY=VALUE"),
            Kind::Text | Kind::Pattern { .. } | Kind::List | Kind::Unknown => format!("{name}=TEXT"),
        }
    }

    fn check(&self, action: &str, argument: &Argument) -> Result<(), ArgumentError> {
        let fits = match (&self.kind, argument) {
            (Kind::Unknown, _)
            | (Kind::Text, Argument::Text(_))
            | (Kind::Boolean, Argument::Boolean(_))
            | (Kind::List, Argument::List(_))
            | (Kind::Map, Argument::Map(_)) => true,
            (Kind::Integer { min, max }, Argument::Integer(number)) => (min..=max).contains(&number),
            (Kind::Choice { values }, Argument::Text(text)) => values.contains(text),
            (Kind::Duration, Argument::Text(text)) => time::read_duration(text).is_ok(),
            (Kind::Path, Argument::Text(text)) => text.starts_with('/'),
            (Kind::Pattern { patterns }, Argument::Text(text)) => is_matched(text, patterns),
            (Kind::PathUnder { roots }, Argument::Text(text)) => roots.iter().any(|root| is_under(text, root)),
            _ => false,
        };
        // A required list that is empty counts as missing.
        let empty = self.required && matches!(argument, Argument::List(list) if list.is_empty());
        if fits && !empty {
            return Ok(());
        }
        let given = if self.secret { "what was given".into() } else { argument.to_string() };
        Err(ArgumentError::Value(action.to_owned(), self.name.clone(), self.kind.clone(), given))
    }

    /// Turns the text behind `NAME=` into a typed argument.
    ///
    /// # Errors
    /// What the parameter accepts instead.
    pub fn read(&self, action: &str, text: &str) -> Result<Argument, ArgumentError> {
        let argument = match &self.kind {
            Kind::Integer { .. } => text.parse().map_or_else(|_| Argument::Text(text.into()), Argument::Integer),
            Kind::Boolean => text.parse().map_or_else(|_| Argument::Text(text.into()), Argument::Boolean),
            Kind::List => Argument::List(vec![text.into()]),
            _ => Argument::Text(text.into()),
        };
        self.check(action, &argument)?;
        Ok(argument)
    }
}

/// Whether one of the patterns matches the text. A wildcard also takes nothing, and a dot: in the place of a name in a
/// path, both would mean the directory itself.
fn is_matched(text: &str, patterns: &[String]) -> bool {
    let patterns = patterns.iter().filter_map(|pattern| Pattern::new(pattern).ok());
    let vague = matches!(text, "" | ".");
    patterns.filter(|pattern| !vague || !pattern.is_wild()).any(|pattern| pattern.matches(text))
}

/// Whether the path lies in this directory as it is spelled. Links may still lead out of it.
fn is_under(text: &str, root: &str) -> bool {
    let path = Path::new(text);
    text.starts_with('/')
        && !text.chars().any(char::is_control)
        && path.starts_with(root)
        && !path.components().any(|part| part == Component::ParentDir)
}

/// Some words as a sentence has them.
fn or(words: &[String]) -> String {
    words.join(" or ")
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => out.write_str("text"),
            Self::Integer { min, max } => write!(out, "a whole number from {min} to {max}"),
            Self::Boolean => out.write_str("true or false"),
            Self::Choice { values } => write!(out, "one of {}", values.join(", ")),
            Self::Duration => out.write_str("a duration such as 30s or 5m"),
            Self::Path => out.write_str("an absolute path"),
            Self::Pattern { patterns } => write!(out, "text like {}", or(patterns)),
            Self::PathUnder { roots } => write!(out, "a path below {}, without '..'", or(roots)),
            Self::List => out.write_str("one or more words"),
            Self::Map => out.write_str("values by name"),
            Self::Unknown => out.write_str("of a kind this version does not know"),
        }
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => write!(out, "{value}"),
            Self::Integer(value) => write!(out, "{value}"),
            Self::Text(text) => write!(out, "'{}'", text.chars().take(80).collect::<String>()),
            Self::List(list) => write!(out, "{list:?}"),
            Self::Map(map) => write!(out, "{map:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ActionSpec {
        let top = Parameter {
            default: Some(Argument::Integer(10)),
            ..Parameter::optional("top", Kind::Integer { min: 1, max: 100 }, "how many")
        };
        let argv = Parameter {
            required: true,
            trailing: true,
            ..Parameter::optional("argv", Kind::List, "program and arguments")
        };
        ActionSpec { parameters: vec![top, argv], ..ActionSpec::repeatable("look", "looks") }
    }

    fn arguments<const N: usize>(arguments: [(&str, Argument); N]) -> Arguments {
        arguments.into_iter().map(|(name, argument)| (name.to_owned(), argument)).collect()
    }

    #[test]
    fn defaults_are_filled_in_and_values_checked() {
        let argv = ("argv", Argument::List(vec!["ls".into()]));
        let checked = spec().check(arguments([argv.clone()])).unwrap();
        assert_eq!(checked["top"], Argument::Integer(10));
        for wrong in [Argument::Integer(0), Argument::Integer(101), Argument::Text("5".into())] {
            assert!(spec().check(arguments([argv.clone(), ("top", wrong)])).is_err());
        }
        assert_eq!(
            spec().check(Arguments::new()).unwrap_err().to_string(),
            "look needs -- ARGV…: program and arguments"
        );
        assert!(spec().check(arguments([("argv", Argument::List(vec![]))])).is_err());
        assert_eq!(
            spec().check(arguments([("tip", Argument::Integer(1))])).unwrap_err().to_string(),
            "look has no parameter 'tip' (it takes top=N, -- ARGV…)"
        );
    }

    #[test]
    fn a_kind_from_the_future_is_kept_apart_not_refused() {
        let text = r#"{"name":"x","summary":"y","kind":"tensor","rank":3}"#;
        assert_eq!(serde_json::from_str::<Parameter>(text).unwrap().kind, Kind::Unknown);
    }

    #[test]
    fn the_catalogue_survives_json() {
        let pattern = Kind::Pattern { patterns: vec!["web*".into()] };
        let under = Kind::PathUnder { roots: vec!["/srv".into()] };
        let mut own = spec();
        own.parameters.extend([Parameter::optional("name", pattern, "a name"), Parameter::optional("path", under, "")]);
        for spec in [spec(), ActionSpec { own: true, metrics: true, ..own }] {
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<ActionSpec>(&text).unwrap(), spec);
        }
        // What older versions do not know is not sent to them without need.
        assert!(!serde_json::to_string(&spec()).unwrap().contains("own"));
    }

    fn admits(kind: &Kind, text: &str) -> bool {
        Parameter::optional("x", kind.clone(), "").read("look", text).is_ok()
    }

    #[test]
    fn a_pattern_takes_what_it_spells_and_no_surprise() {
        let patterns =
            |patterns: &[&str]| Kind::Pattern { patterns: patterns.iter().map(ToString::to_string).collect() };
        let any = patterns(&["*"]);
        for good in ["web1", "a.b", "x=1"] {
            assert!(admits(&any, good), "{good}");
        }
        for bad in ["", ".", "..", "a..b", "-x", "a b", "a/b", "$(id)", "a;b", "a\nb", "a\0b", "\u{202e}"] {
            assert!(!admits(&any, bad), "{bad:?}");
        }
        let two = patterns(&["web?", "-v"]);
        assert!(admits(&two, "web1") && admits(&two, "-v") && !admits(&two, "db1") && !admits(&two, "-w"));
        assert!(!admits(&patterns(&["a**"]), "a"), "what is no pattern matches nothing");
    }

    #[test]
    fn a_path_stays_below_its_root() {
        let under = Kind::PathUnder { roots: vec!["/var/log".into(), "/srv/app/".into()] };
        for good in ["/var/log", "/var/log/x", "/var/log/a b/x.log", "/srv/app/x", "/var/log//x", "/var/log/..x"] {
            assert!(admits(&under, good), "{good}");
        }
        for bad in ["", "/", "var/log/x", "/var/logs", "/var/log/../x", "/var/log/x/..", "/var/log/a\n", "/etc/passwd"]
        {
            assert!(!admits(&under, bad), "{bad:?}");
        }
    }
}
