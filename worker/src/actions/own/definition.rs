//! One own action: its file, read and judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use protocol::{
    action::{ActionSpec, DRY_RUN, Kind, Parameter, Repeat},
    clock::millis,
    limits,
    time::{read_duration, show_duration},
};
use toml::{Spanned, Value};

use super::{
    draft::{Draft, DraftParameter, Reading},
    parameters,
    template::Template,
};
use crate::{policy::RIGHTS, spelling::did_you_mean};

/// Parameters of an action at most.
const PARAMETERS: usize = 32;

/// Characters of a name at most.
const NAME: usize = 64;

/// Programs that read their arguments as a language of their own.
const SHELLS: [&str; 8] = ["sh", "ash", "bash", "busybox", "dash", "ksh", "mksh", "zsh"];

/// What the names of other interpreters begin with, which take a script as an argument.
const LANGUAGES: [&str; 6] = ["lua", "node", "perl", "php", "python", "ruby"];

/// An own action.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub(super) spec: ActionSpec,
    /// The program and its arguments. The words of a group are left out together.
    pub(super) argv: Vec<Vec<Template>>,
    pub(super) env: Vec<(String, Template)>,
    pub(super) lock: Option<Template>,
    pub(super) user: Option<String>,
    pub(super) cwd: Option<PathBuf>,
    /// Whether the program gets the parameters as JSON.
    pub(super) stdin: bool,
    pub(super) reading: Reading,
    /// Whether the program itself knows how to do nothing: the file names the parameter.
    pub(super) rehearses: bool,
}

/// Why a file defines no action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Where in the text, in bytes.
    pub(super) at: usize,
    pub(super) reason: String,
}

/// Puts the place to a reason.
fn at<T>(place: &Spanned<T>) -> impl Fn(String) -> Fault {
    let at = place.span().start;
    move |reason| Fault { at, reason }
}

/// Whether an action can have this name.
fn check_name(name: &str, built_in: &[ActionSpec]) -> Result<(), String> {
    let plain = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '-' | '_');
    if !name.starts_with(|char: char| char.is_ascii_lowercase()) || !name.chars().all(plain) || name.len() > NAME {
        let rule = "small letters, digits, '-' and '_', beginning with a letter";
        return Err(format!("'{}' cannot be the name of an action: use {rule}", name.escape_debug()));
    }
    if RIGHTS.contains(&name) || built_in.iter().any(|spec| spec.name == name) {
        return Err(format!("'{name}' is an action of Redfleet itself, which no file can redefine"));
    }
    Ok(())
}

impl Definition {
    /// Reads the text of a file. The action has the name of the file.
    pub(super) fn read(name: &str, text: &str, built_in: &[ActionSpec]) -> Result<Self, Fault> {
        check_name(name, built_in).map_err(|reason| Fault { at: 0, reason })?;
        let draft: Draft = toml::from_str(text).map_err(|error| Fault {
            at: error.span().map_or(0, |span| span.start),
            reason: error.message().to_owned(),
        })?;
        if let Some(other) = draft.name.as_ref().filter(|other| other.get_ref() != name) {
            let shown = other.get_ref().escape_debug();
            return Err(at(other)(format!("its name is '{shown}', but its file is {name}.toml: give both one name")));
        }
        Judge { name, draft: &draft, parameters: BTreeMap::new(), used: BTreeSet::new() }.judge()
    }
}

/// Refuses a parameter in a word that a shell, or another interpreter, would read as its script.
fn no_script(groups: &[Vec<Template>]) -> Result<(), String> {
    let words: Vec<_> = groups.iter().flatten().collect();
    let added = groups.last().map_or(0, Vec::len);
    for (at, word) in words.iter().enumerate().skip(words.len() - added) {
        if word.places().any(|place| !place.decides) && is_script(&words[..at]) {
            return Err("argv: this parameter would be read as part of a script: pass it behind the script, \
                where a shell has it as \"$1\""
                .into());
        }
    }
    Ok(())
}

/// Whether the word behind these is a script.
fn is_script(before: &[&Template]) -> bool {
    let Some(option) = before.last().and_then(|word| word.literal()) else { return false };
    let is_option = |word: &Template| word.literal().is_some_and(|word| word.starts_with('-'));
    if !option.starts_with('-') || option.starts_with("--") {
        return false;
    }
    let name = |word: &Template| word.literal().and_then(|word| word.rsplit('/').next()).unwrap_or_default().to_owned();
    // The options of a shell may have words of their own: bash -o pipefail -c SCRIPT.
    let in_shell = option.ends_with('c') && before.iter().any(|word| SHELLS.contains(&name(word).as_str()));
    let behind_options = before.iter().rev().find(|word| !is_option(word)).map(|word| name(word)).unwrap_or_default();
    let language = LANGUAGES.iter().any(|language| behind_options.starts_with(language));
    in_shell || (language && option.ends_with(['c', 'e', 'E', 'r']))
}

/// Where a word with places stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Word,
    Variable,
    Lock,
}

struct Judge<'a> {
    name: &'a str,
    draft: &'a Draft,
    parameters: BTreeMap<String, Parameter>,
    /// Parameters that reach the program by its arguments or its environment.
    used: BTreeSet<String>,
}

impl Judge<'_> {
    fn judge(mut self) -> Result<Definition, Fault> {
        let draft = self.draft;
        let summary = parameters::description(draft.description.get_ref()).map_err(at(&draft.description))?;
        if summary.trim().is_empty() {
            return Err(at(&draft.description)("its description is empty: say what it does, in one line".into()));
        }
        let mut order = self.read_parameters()?;
        let argv = self.argv()?;
        let env = self.env()?;
        let lock = draft.lock.as_ref().map(|lock| self.lock(lock)).transpose()?;
        let stdin = draft.stdin.is_some();
        self.all_used(stdin)?;

        let repeat = draft.repeat.unwrap_or(Repeat::Once);
        let rehearses = self.parameters.contains_key(DRY_RUN);
        if repeat == Repeat::Once && !rehearses {
            order.push(Parameter::dry_run());
        }
        let metrics = self.metrics()?;
        let timeout_ms = self.timeout()?;
        let spec = ActionSpec {
            repeat,
            parameters: order,
            timeout_ms,
            own: true,
            metrics,
            ..ActionSpec::repeatable(self.name, &summary)
        };
        let (user, cwd) = (self.user()?, self.cwd()?);
        Ok(Definition { spec, argv, env, lock, user, cwd, stdin, reading: draft.result, rehearses })
    }

    /// The parameters in the order of the file.
    fn read_parameters(&mut self) -> Result<Vec<Parameter>, Fault> {
        let mut drafts: Vec<(&String, &Spanned<DraftParameter>)> = self.draft.parameters.iter().collect();
        drafts.sort_by_key(|(_, draft)| draft.span().start);
        let mut order = Vec::new();
        for (name, draft) in drafts {
            let place = |reason: String| at(draft)(format!("parameter '{}': {reason}", name.escape_debug()));
            if order.len() == PARAMETERS {
                return Err(place(format!("there are more than {PARAMETERS}")));
            }
            let mut parameter = parameters::read(self.name, name, draft.get_ref()).map_err(place)?;
            if name == DRY_RUN {
                if parameter.kind != Kind::Boolean || parameter.required {
                    return Err(place("it must be an optional boolean, as 'ctl run --dry-run' sets it".into()));
                }
                let ours = Parameter::dry_run();
                let summary = Some(parameter.summary).filter(|summary| !summary.is_empty()).unwrap_or(ours.summary);
                parameter = Parameter { summary, ..Parameter::dry_run() };
            }
            self.parameters.insert(name.clone(), parameter.clone());
            order.push(parameter);
        }
        Ok(order)
    }

    fn argv(&mut self) -> Result<Vec<Vec<Template>>, Fault> {
        let mut groups = Vec::new();
        for item in self.draft.argv.get_ref() {
            let place = at(item);
            let words = match item.get_ref() {
                Value::String(word) => vec![word.as_str()],
                Value::Array(words) if !words.is_empty() && words.iter().all(Value::is_str) => {
                    words.iter().filter_map(Value::as_str).collect()
                }
                _ => return Err(place("argv: each item must be a text, or an array of texts".into())),
            };
            let group = words.into_iter().map(|word| self.template("argv", word, Role::Word));
            groups.push(group.collect::<Result<Vec<_>, _>>().map_err(&place)?);
            no_script(&groups).map_err(place)?;
        }
        let program = groups.first().and_then(|group| if let [word] = &group[..] { word.literal() } else { None });
        match program {
            Some(path) if path.starts_with('/') || (!path.is_empty() && !path.contains('/')) => Ok(groups),
            Some(path) if !path.is_empty() => {
                let shown = path.escape_debug();
                Err(at(&self.draft.argv)(format!("argv: '{shown}' must be an absolute path, or a name to be searched")))
            }
            _ => Err(at(&self.draft.argv)("argv: its first item must be the program, without parameters".into())),
        }
    }

    fn env(&mut self) -> Result<Vec<(String, Template)>, Fault> {
        let mut env = Vec::new();
        for (name, value) in &self.draft.env {
            let place = at(value);
            if name.is_empty() || name.contains(['=', '\0']) || name.starts_with("REDFLEET_") {
                return Err(place(format!("env: '{}' cannot be the name of a variable", name.escape_debug())));
            }
            let template = self.template(&format!("env.{name}"), value.get_ref(), Role::Variable).map_err(place)?;
            env.push((name.clone(), template));
        }
        Ok(env)
    }

    fn lock(&mut self, lock: &Spanned<String>) -> Result<Template, Fault> {
        if lock.get_ref().is_empty() {
            return Err(at(lock)("lock: it is empty".into()));
        }
        let template = self.template("lock", lock.get_ref(), Role::Lock).map_err(at(lock))?;
        let may_lack = |name: &str| self.parameters.get(name).is_some_and(|of| !of.required && of.default.is_none());
        if let Some(place) = template.places().find(|place| place.decides || may_lack(place.name)) {
            let name = place.name;
            return Err(at(lock)(format!("lock: '{name}' must be required or have a default, or there would be none")));
        }
        Ok(template)
    }

    /// Reads a word with places, each of which must be for a parameter that may stand there.
    fn template(&mut self, key: &str, text: &str, role: Role) -> Result<Template, String> {
        let template = Template::new(text).map_err(|error| format!("{key}: '{}': {error}", text.escape_debug()))?;
        for place in template.places() {
            let name = place.name;
            let Some(parameter) = self.parameters.get(name) else {
                let known: Vec<_> = self.parameters.keys().map(String::as_str).collect();
                let meant = did_you_mean(name, &known);
                return Err(format!("{key}: there is no parameter '{name}'{meant}: define [parameters.{name}]"));
            };
            let reason = match (&parameter.kind, role) {
                (kind, _) if place.decides && *kind != Kind::Boolean => {
                    "is no boolean, so it cannot decide about a text"
                }
                (_, Role::Word) if parameter.secret => {
                    "is a secret, and whoever is on the host sees the arguments of programs (ps): put it into env, or \
                     take stdin = \"json\""
                }
                (_, Role::Lock) if parameter.secret => "is a secret, and everybody sees the names of locks",
                (Kind::Text, Role::Word | Role::Lock) => "takes any text: give it a pattern, or take stdin = \"json\"",
                (Kind::Text, Role::Variable) if !parameter.secret => {
                    "takes any text: give it a pattern, or take stdin = \"json\""
                }
                _ => {
                    if role != Role::Lock {
                        self.used.insert(name.to_owned());
                    }
                    continue;
                }
            };
            return Err(format!("{key}: the parameter '{name}' {reason}"));
        }
        Ok(template)
    }

    fn all_used(&self, stdin: bool) -> Result<(), Fault> {
        if stdin {
            return Ok(());
        }
        match self.draft.parameters.iter().find(|(name, _)| !self.used.contains(*name)) {
            Some((name, place)) => {
                let how = format!("'{{{name}}}' in argv or env, or stdin = \"json\"");
                Err(at(place)(format!("parameter '{name}' does not reach the program: use {how}")))
            }
            None => Ok(()),
        }
    }

    fn metrics(&self) -> Result<bool, Fault> {
        match &self.draft.metrics {
            Some(metrics) if *metrics.get_ref() && self.draft.result != Reading::Json => {
                Err(at(metrics)("metrics: figures come from a result = \"json\"".into()))
            }
            metrics => Ok(metrics.as_ref().is_some_and(|metrics| *metrics.get_ref())),
        }
    }

    fn timeout(&self) -> Result<u64, Fault> {
        let Some(text) = &self.draft.timeout else { return Ok(millis(limits::TIMEOUT_DEFAULT)) };
        let timeout = read_duration(text.get_ref()).map_err(|error| at(text)(format!("timeout: {error}")))?;
        if timeout.is_zero() || timeout > limits::TIMEOUT_MAX {
            let longest = show_duration(limits::TIMEOUT_MAX);
            return Err(at(text)(format!("timeout: it must be longer than nothing and at most {longest}")));
        }
        Ok(millis(timeout))
    }

    fn user(&self) -> Result<Option<String>, Fault> {
        let Some(user) = &self.draft.user else { return Ok(None) };
        if user.get_ref().is_empty() || user.get_ref().chars().any(char::is_control) {
            return Err(at(user)("user: it must be the name or the id of a user".into()));
        }
        Ok(Some(user.get_ref().clone()))
    }

    fn cwd(&self) -> Result<Option<PathBuf>, Fault> {
        let Some(cwd) = &self.draft.cwd else { return Ok(None) };
        let path = parameters::directory(cwd.get_ref()).map_err(|error| at(cwd)(format!("cwd: {error}")))?;
        Ok(Some(Path::new(&path).to_owned()))
    }
}
