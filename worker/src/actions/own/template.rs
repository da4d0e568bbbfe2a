//! Words with places for parameters: `--keep={keep}`.
//!
//! `{name}` stands for the parameter's value, `{name?text}` for the text if the parameter is true; `{{` and `}}` are
//! braces. A word is left out where one of its parameters has no value, or is not true.

use std::fmt::Write;

use protocol::action::{Argument, Arguments};

/// A word with places for parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Value(String),
    If(String, String),
}

/// A place for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// The parameter's name.
    pub(super) name: &'a str,
    /// Whether it only decides about a text.
    pub(super) decides: bool,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("it holds a zero byte")]
    ZeroByte,
    #[error("a '{{' has no '}}' (write '{{{{' for a brace)")]
    Open,
    #[error("a '}}' has no '{{' (write '}}}}' for a brace)")]
    Close,
    #[error("'{{{0}}}' names no parameter: names are small letters, digits and '_' (write '{{{{' for a brace)")]
    Name(String),
}

/// Whether this can be the name of a parameter.
pub(super) fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|char| char.is_ascii_lowercase())
        && text.len() <= 64
        && chars.all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_')
}

impl Template {
    /// Reads a template.
    pub(super) fn new(text: &str) -> Result<Self, TemplateError> {
        if text.contains('\0') {
            return Err(TemplateError::ZeroByte);
        }
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = behind;
                continue;
            }
            if brace == "}" {
                return Err(TemplateError::Close);
            }
            let (inner, behind) = rest.split_once('}').ok_or(TemplateError::Open)?;
            let (name, text) = inner.split_once('?').map_or((inner, None), |(name, text)| (name, Some(text)));
            if !is_name(name) {
                return Err(TemplateError::Name(inner.escape_debug().to_string()));
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(match text {
                None => Part::Value(name.to_owned()),
                Some(text) => Part::If(name.to_owned(), text.to_owned()),
            });
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self(parts))
    }

    /// The places for parameters.
    pub(super) fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.0.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Value(name) => Some(Place { name, decides: false }),
            Part::If(name, _) => Some(Place { name, decides: true }),
        })
    }

    /// The word, where it has no places.
    pub(super) fn literal(&self) -> Option<&str> {
        match &self.0[..] {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The word with these values; `None` where it is left out.
    pub(super) fn fill(&self, values: &Arguments) -> Option<String> {
        let mut word = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => word.push_str(text),
                Part::If(name, text) => match values.get(name) {
                    Some(Argument::Boolean(true)) => word.push_str(text),
                    _ => return None,
                },
                Part::Value(name) => match values.get(name)? {
                    Argument::Text(text) => word.push_str(text),
                    Argument::Integer(number) => write!(word, "{number}").ok()?,
                    Argument::Boolean(value) => write!(word, "{value}").ok()?,
                    // No own action has such a parameter.
                    Argument::List(_) | Argument::Map(_) => return None,
                },
            }
        }
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str) -> Option<String> {
        let values = [
            ("keep", Argument::Integer(7)),
            ("file", Argument::Text("/var/log/{keep}".into())),
            ("yes", Argument::Boolean(true)),
            ("no", Argument::Boolean(false)),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        Template::new(template).unwrap().fill(&values.into())
    }

    #[test]
    fn places_are_filled_once_and_words_without_values_left_out() {
        for (template, word) in [
            ("", Some("")),
            ("--all", Some("--all")),
            ("--keep={keep}", Some("--keep=7")),
            ("{keep}{keep}", Some("77")),
            // What a value holds is no template.
            ("{file}", Some("/var/log/{keep}")),
            ("{{keep}}", Some("{keep}")),
            ("}}{{", Some("}{")),
            ("--now={yes}", Some("--now=true")),
            ("{yes?--now}", Some("--now")),
            ("{no?--now}", None),
            ("{missing?--now}", None),
            ("--user={missing}", None),
            ("{keep?--keep}", None),
        ] {
            assert_eq!(filled(template).as_deref(), word, "{template}");
        }
    }

    #[test]
    fn what_is_no_template_says_why() {
        for (text, error) in [
            ("{", TemplateError::Open),
            ("a{b", TemplateError::Open),
            ("a}", TemplateError::Close),
            ("a\0", TemplateError::ZeroByte),
            ("{}", TemplateError::Name(String::new())),
            ("{A}", TemplateError::Name("A".into())),
            ("{a b}", TemplateError::Name("a b".into())),
            ("{?x}", TemplateError::Name("?x".into())),
        ] {
            assert_eq!(Template::new(text), Err(error), "{text:?}");
        }
        assert!(Template::new("{A}").unwrap_err().to_string().starts_with("'{A}' names no parameter"));
    }
}
