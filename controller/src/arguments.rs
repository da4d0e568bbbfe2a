//! What is typed behind an action's name, read as the arguments that the action takes.

use protocol::action::{ActionSpec, Argument, Arguments, Kind, Parameter};

use crate::error::{Advice, closest};

/// Reads `NAME=VALUE` words, and the words behind `--`, and checks all of them against `action`.
/// Defaults are left to each host, as they may differ between releases.
///
/// # Errors
/// Says what the action takes instead.
pub fn read(action: &ActionSpec, typed: &[String], words: &[String]) -> Result<Arguments, Advice> {
    let mut arguments = Arguments::new();
    for text in typed {
        let (name, value) = text.split_once('=').ok_or_else(|| no_pair(action, text))?;
        let (parameter, argument) = read_one(action, name, value)?;
        match (arguments.get_mut(&parameter.name), argument) {
            (None, argument) => drop(arguments.insert(parameter.name.clone(), argument)),
            (Some(Argument::List(list)), Argument::List(more)) => list.extend(more),
            (Some(Argument::Map(map)), Argument::Map(more)) => map.extend(more),
            _ => return Err(refuse(action, format!("{name} is given twice"))),
        }
    }
    if !words.is_empty() {
        let parameter =
            trailing(action).ok_or_else(|| refuse(action, format!("{} takes no words behind --", action.name)))?;
        if arguments.insert(parameter.name.clone(), Argument::List(words.to_vec())).is_some() {
            return Err(refuse(action, format!("{} is given twice: by name and behind --", parameter.name)));
        }
    }
    action.check(arguments.clone()).map_err(|error| refuse(action, error.to_string()))?;
    Ok(arguments)
}

fn read_one<'a>(action: &'a ActionSpec, name: &str, value: &str) -> Result<(&'a Parameter, Argument), Advice> {
    if let Some(parameter) = action.parameter(name) {
        if parameter.kind == Kind::Map {
            return Err(refuse(action, format!("{name} is a map: write {}", parameter.usage())));
        }
        let argument = parameter.read(&action.name, value).map_err(|error| refuse(action, error.to_string()))?;
        return Ok((parameter, argument));
    }
    if let Some((name, key)) = name.split_once('.')
        && let Some(parameter) = action.parameter(name).filter(|parameter| parameter.kind == Kind::Map)
    {
        return Ok((parameter, Argument::Map([(key.to_owned(), value.to_owned())].into())));
    }
    let known = action.parameters.iter().map(|parameter| parameter.name.as_str());
    let meant = closest(name, known).map(|meant| format!("did you mean {meant}=?"));
    Err(Advice::new(action.unknown(name).to_string()).maybe_hint(meant))
}

fn trailing(action: &ActionSpec) -> Option<&Parameter> {
    action.parameters.iter().find(|parameter| parameter.trailing)
}

fn no_pair(action: &ActionSpec, text: &str) -> Advice {
    let error = Advice::new(format!("'{text}' is not NAME=VALUE"));
    match trailing(action) {
        Some(parameter) => error.hint(format!("the {} goes behind --: {} -- {text} …", parameter.name, action.name)),
        None => error.hint(format!("what {0} takes: ctl action show {0}", action.name)),
    }
}

fn refuse(action: &ActionSpec, message: String) -> Advice {
    Advice::new(message).hint(format!("what {0} takes: ctl action show {0}", action.name))
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
        ActionSpec { parameters: vec![argv, top, env], ..ActionSpec::repeatable("exec", "runs") }
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
        let map = read["env"].map().unwrap();
        assert_eq!((map["A"].as_str(), map["B.c"].as_str()), ("1", "x=y"));
        assert_eq!(read["argv"].list().unwrap(), ["ls", "-l"]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_reason() {
        assert_eq!(refused("top=10", "ls"), "exec: top must be a whole number from 1 to 9, not 10");
        assert_eq!(refused("top=1 top=2", "ls"), "top is given twice");
        assert_eq!(refused("", ""), "exec needs -- ARGV…: program and arguments");
        assert_eq!(refused("env=x", "ls"), "env is a map: write env.KEY=VALUE");
        assert!(refused("tpo=1", "ls").contains("no parameter 'tpo'"));
        let error = read(&exec(), &words("uname"), &[]).unwrap_err();
        assert_eq!(error.hints(), ["the argv goes behind --: exec -- uname …"]);
        let error = read(&ActionSpec::repeatable("ping", "pings"), &[], &words("x")).unwrap_err();
        assert_eq!(error.to_string(), "ping takes no words behind --");
    }
}
