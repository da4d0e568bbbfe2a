//! What the file of an own action may hold, before it is judged.

use std::collections::BTreeMap;

use protocol::action::Repeat;
use serde::Deserialize;
use toml::{Spanned, Value};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    pub(super) name: Option<Spanned<String>>,
    pub(super) description: Spanned<String>,
    /// Words, and arrays of words that are left out together.
    pub(super) argv: Spanned<Vec<Spanned<Value>>>,
    #[serde(default)]
    pub(super) parameters: BTreeMap<String, Spanned<DraftParameter>>,
    pub(super) repeat: Option<Repeat>,
    pub(super) timeout: Option<Spanned<String>>,
    pub(super) lock: Option<Spanned<String>>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) cwd: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, Spanned<String>>,
    pub(super) stdin: Option<Stdin>,
    #[serde(default)]
    pub(super) result: Reading,
    pub(super) metrics: Option<Spanned<bool>>,
}

/// What the program gets as standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stdin {
    /// The parameters, as an object.
    Json,
}

/// How the result is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reading {
    /// By the exit code alone.
    #[default]
    ExitCode,
    /// As an object on standard output, too.
    Json,
}

/// One table of `parameters`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DraftParameter {
    pub(super) kind: DraftKind,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default)]
    pub(super) required: bool,
    pub(super) default: Option<Value>,
    pub(super) pattern: Option<OneOrMore>,
    pub(super) min: Option<i64>,
    pub(super) max: Option<i64>,
    pub(super) values: Option<Vec<String>>,
    pub(super) under: Option<OneOrMore>,
}

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DraftKind {
    Text,
    Integer,
    Boolean,
    #[serde(alias = "enum")]
    Choice,
    Path,
    Secret,
}

/// A text, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "it must be a text or an array of texts")]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::More(texts) => texts,
        }
    }
}
