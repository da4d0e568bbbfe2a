//! Reads the words behind an action's name as the action's arguments.

use protocol::action::{ActionSpec, Argument, ArgumentError, Arguments, Kind, Parameter};

/// Why words do not fit an action. No variant holds a secret value.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgumentsError {
    /// A word has no `=`.
    #[error("'{text}' is not NAME=VALUE")]
    NoPair {
        /// The word.
        text: String,
        /// The parameter that takes the words behind `--`, where there is one.
        trailing: Option<String>,
    },
    /// There is no such parameter.
    #[error("{source}")]
    Unknown {
        /// What was typed.
        name: String,
        /// The action's parameters.
        known: Vec<String>,
        /// The error itself.
        source: Box<ArgumentError>,
    },
    /// A value does not fit, or one is missing.
    #[error(transparent)]
    Value(#[from] ArgumentError),
    /// A map was given as a whole.
    #[error("{name} is a map: write {usage}")]
    Map {
        /// The parameter.
        name: String,
        /// How it is typed.
        usage: String,
    },
    /// A parameter was given more than once.
    #[error("{0} is given twice")]
    Twice(String),
    /// A parameter was given by its name and behind `--`.
    #[error("{0} is given twice: by name and after --")]
    TwiceTrailing(String),
    /// Only secrets are typed once more.
    #[error("{0} is no secret: it stays as it was")]
    NoSecret(String),
    /// The action takes no words behind `--`.
    #[error("{0} takes no words after --")]
    NoTrailing(String),
}

/// Reads `NAME=VALUE` words, and the words behind `--`, and checks all of them against `action`.
/// Defaults are left to each host, as they may differ between releases.
pub(super) fn read(action: &ActionSpec, typed: &[String], words: &[String]) -> Result<Arguments, ArgumentsError> {
    let trailing = action.parameters.iter().find(|parameter| parameter.trailing);
    let mut arguments = read_pairs(action, typed)?;
    if !words.is_empty() {
        let name = trailing.ok_or_else(|| ArgumentsError::NoTrailing(action.name.clone()))?.name.clone();
        if arguments.insert(name.clone(), Argument::List(words.to_vec())).is_some() {
            return Err(ArgumentsError::TwiceTrailing(name));
        }
    }
    action.check(arguments.clone())?;
    Ok(arguments)
}

/// Reads `NAME=VALUE` words that must all be secrets of `action`.
pub(super) fn read_secrets(action: &ActionSpec, typed: &[String]) -> Result<Arguments, ArgumentsError> {
    let secrets = read_pairs(action, typed)?;
    let is_secret = |name: &str| action.parameter(name).is_some_and(|parameter| parameter.secret);
    match secrets.keys().find(|name| !is_secret(name)) {
        Some(other) => Err(ArgumentsError::NoSecret(other.clone())),
        None => Ok(secrets),
    }
}

fn read_pairs(action: &ActionSpec, typed: &[String]) -> Result<Arguments, ArgumentsError> {
    let mut arguments = Arguments::new();
    for text in typed {
        let no_pair = || {
            let trailing = action.parameters.iter().find(|parameter| parameter.trailing);
            ArgumentsError::NoPair { text: text.clone(), trailing: trailing.map(|parameter| parameter.name.clone()) }
        };
        let (name, value) = text.split_once('=').ok_or_else(no_pair)?;
        let (parameter, argument) = read_one(action, name, value)?;
        match (arguments.get_mut(&parameter.name), argument) {
            (None, argument) => drop(arguments.insert(parameter.name.clone(), argument)),
            (Some(Argument::List(list)), Argument::List(more)) => list.extend(more),
            (Some(Argument::Map(map)), Argument::Map(more)) => map.extend(more),
            _ => return Err(ArgumentsError::Twice(name.to_owned())),
        }
    }
    Ok(arguments)
}

fn read_one<'a>(action: &'a ActionSpec, name: &str, value: &str) -> Result<(&'a Parameter, Argument), ArgumentsError> {
    if let Some((map, key)) = name.split_once('.')
        && let Some(parameter) = action.parameter(map).filter(|parameter| parameter.kind == Kind::Map)
    {
        return Ok((parameter, Argument::Map([(key.to_owned(), value.to_owned())].into())));
    }
    let unknown = || {
        let known = action.parameters.iter().map(|parameter| parameter.name.clone()).collect();
        ArgumentsError::Unknown { name: name.to_owned(), known, source: Box::new(action.unknown(name)) }
    };
    let parameter = action.parameter(name).ok_or_else(unknown)?;
    if parameter.kind == Kind::Map {
        return Err(ArgumentsError::Map { name: name.to_owned(), usage: parameter.usage() });
    }
    Ok((parameter, parameter.read(&action.name, value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> ActionSpec {
        let argv = Parameter {
            required: true,
            trailing: true,
            ..Parameter::optional("argv", Kind::List, "program and arguments")
        };
        let top = Parameter::optional("top", Kind::Integer { min: 1, max: 9 }, "how many");
        let env = Parameter::optional("env", Kind::Map, "variables");
        let pin =
            Parameter { secret: true, ..Parameter::optional("pin", Kind::Integer { min: 1, max: 9 }, "a secret") };
        ActionSpec { parameters: vec![argv, top, env, pin], ..ActionSpec::repeatable("exec", "runs") }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn refused(typed: &str, behind: &str) -> String {
        read(&exec(), &words(typed), &words(behind)).unwrap_err().to_string()
    }

    #[test]
    fn values_are_typed_maps_gathered_and_words_kept() {
        let read = read(&exec(), &words("top=3 env.A=1 env.B.c=x=y"), &words("ls -l")).unwrap();
        assert_eq!(read["top"], Argument::Integer(3));
        let map = [("A", "1"), ("B.c", "x=y")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read["env"], Argument::Map(map.into()));
        assert_eq!(read["argv"], Argument::List(words("ls -l")));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_reason() {
        assert_eq!(refused("top=10", "ls"), "exec: top must be a whole number from 1 to 9, not 10");
        assert_eq!(refused("pin=4711", "ls"), "exec: pin must be a whole number from 1 to 9, not what was given");
        assert_eq!(refused("top=1 top=2", "ls"), "top is given twice");
        assert_eq!(refused("", ""), "exec needs -- ARGV…: program and arguments");
        assert_eq!(refused("env=x", "ls"), "env is a map: write env.KEY=VALUE");
        assert!(refused("tpo=1", "ls").contains("no parameter 'tpo'"));
        let no_pair = ArgumentsError::NoPair { text: "uname".into(), trailing: Some("argv".into()) };
        assert_eq!(read(&exec(), &words("uname"), &[]), Err(no_pair));
        let error = read(&ActionSpec::repeatable("ping", "pings"), &[], &words("x")).unwrap_err();
        assert_eq!(error.to_string(), "ping takes no words after --");
    }
}
