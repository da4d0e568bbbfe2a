//! The parameters of an own action: what its file says about each, judged.

use std::path::{Component, Path, PathBuf};

use protocol::{
    action::{ActionSpec, Argument, Kind, Parameter},
    pattern::Pattern,
};
use toml::Value;

use super::{
    draft::{DraftKind, DraftParameter},
    template::is_name,
};

/// Characters of a description at most.
const DESCRIPTION: usize = 200;

/// Words of a choice, patterns or roots of a parameter at most.
const MOST: usize = 100;

/// A description fit for one line of help.
pub(super) fn description(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("its description must be one line, without control characters".into());
    }
    if text.chars().nth(DESCRIPTION).is_some() {
        return Err(format!("its description has more than {DESCRIPTION} characters"));
    }
    Ok(text.to_owned())
}

/// Judges a parameter.
pub(super) fn read(action: &str, name: &str, draft: &DraftParameter) -> Result<Parameter, String> {
    if !is_name(name) {
        return Err("its name must be of small letters, digits and '_', beginning with a letter".into());
    }
    fits(draft)?;
    let kind = kind(draft)?;
    let secret = draft.kind == DraftKind::Secret;
    let summary = description(&draft.description)?;
    let mut parameter = Parameter { required: draft.required, secret, ..Parameter::optional(name, kind, &summary) };
    if let Some(value) = &draft.default {
        if secret {
            return Err("a secret has no default: everybody who can read this file would know it".into());
        }
        if draft.required {
            return Err("it is required, so it needs no default".into());
        }
        parameter.default = Some(argument(value)?);
        let alone = ActionSpec { parameters: vec![parameter.clone()], ..ActionSpec::repeatable(action, "") };
        let given = parameter.default.iter().map(|default| (name.to_owned(), default.clone())).collect();
        alone.check(given).map_err(|error| format!("its default does not fit: {error}"))?;
    }
    Ok(parameter)
}

/// Whether nothing is said that has no meaning for this kind.
fn fits(draft: &DraftParameter) -> Result<(), String> {
    use DraftKind::{Choice, Integer, Path, Text};
    let keys = [
        ("pattern", draft.pattern.is_some(), Text),
        ("min", draft.min.is_some(), Integer),
        ("max", draft.max.is_some(), Integer),
        ("values", draft.values.is_some(), Choice),
        ("under", draft.under.is_some(), Path),
    ];
    match keys.iter().find(|(_, given, kind)| *given && *kind != draft.kind) {
        Some((key, _, kind)) => Err(format!("'{key}' is for kind = \"{}\" only", format!("{kind:?}").to_lowercase())),
        None => Ok(()),
    }
}

fn kind(draft: &DraftParameter) -> Result<Kind, String> {
    Ok(match draft.kind {
        DraftKind::Boolean => Kind::Boolean,
        DraftKind::Secret => Kind::Text,
        DraftKind::Integer => match (draft.min, draft.max) {
            (Some(min), Some(max)) if min <= max => Kind::Integer { min, max },
            (Some(_), Some(_)) => return Err("its min is greater than its max".into()),
            _ => return Err("it needs a min and a max".into()),
        },
        DraftKind::Choice => {
            let values = draft.values.clone().unwrap_or_default();
            bounded("values", &values)?;
            if values.iter().any(|value| value.is_empty() || value.chars().any(char::is_control)) {
                return Err("one of its values is empty, or has control characters".into());
            }
            Kind::Choice { values }
        }
        DraftKind::Text => match &draft.pattern {
            None => Kind::Text,
            Some(patterns) => {
                let patterns = patterns.clone().into_vec();
                bounded("pattern", &patterns)?;
                for pattern in &patterns {
                    let refused = |error| format!("'{}' is no pattern: {error}", pattern.escape_debug());
                    Pattern::new(pattern).map_err(refused)?;
                }
                Kind::Pattern { patterns }
            }
        },
        DraftKind::Path => {
            let Some(roots) = draft.under.clone() else {
                return Err("it needs the directory below which the path must lie: under = \"/var/log\"".into());
            };
            let roots = roots.into_vec();
            bounded("under", &roots)?;
            Kind::PathUnder { roots: roots.iter().map(|root| directory(root)).collect::<Result<_, _>>()? }
        }
    })
}

fn bounded(key: &str, items: &[String]) -> Result<(), String> {
    match items.len() {
        0 => Err(format!("it needs '{key}', and not an empty array")),
        1..=MOST => Ok(()),
        _ => Err(format!("'{key}' has more than {MOST} items")),
    }
}

/// An absolute directory, spelled plainly.
pub(super) fn directory(text: &str) -> Result<String, String> {
    let path = Path::new(text);
    let plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    if !plain || text.chars().any(char::is_control) {
        return Err(format!("'{}' must be an absolute path without '..'", text.escape_debug()));
    }
    // Without a trailing slash and the like.
    Ok(path.components().collect::<PathBuf>().display().to_string())
}

fn argument(value: &Value) -> Result<Argument, String> {
    match value {
        Value::String(text) => Ok(Argument::Text(text.clone())),
        Value::Integer(number) => Ok(Argument::Integer(*number)),
        Value::Boolean(value) => Ok(Argument::Boolean(*value)),
        other => Err(format!("its default must be a text, a number or true or false, not a {}", other.type_str())),
    }
}
