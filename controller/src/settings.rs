//! Settings, resolved once: flags, then environment, then the settings file, then defaults.
//! Commands see only the result.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anstream::ColorChoice;
use anyhow::{Context, anyhow};
use clap::ValueEnum;
use protocol::{connection::Address, environment, limits, name::Namespace};
use serde::Deserialize;

use crate::{
    cli::{self, Colour, Global},
    error::{Advice, closest},
    up::directory::Directory,
};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One line of JSON for each host, job or action, as it comes.
    Jsonl,
}

/// All settings.
#[derive(Debug)]
pub struct Settings {
    /// Where Redis is, where it is known.
    redis: Option<Address>,
    /// Prefix of all keys.
    pub namespace: Option<Namespace>,
    /// How results are printed.
    pub format: Format,
    /// Results and errors only.
    pub quiet: bool,
    /// When to use colours.
    pub colour: ColorChoice,
    /// Who asks.
    pub operator: String,
    /// How long a command may run, where it is not left to the action.
    pub timeout: Option<Duration>,
    /// How long a command waits for an offline host.
    pub start_by: Duration,
    /// How long results are kept.
    pub retention: Duration,
    /// W3C trace context of whoever runs us.
    pub trace: Option<String>,
    /// What was strange about the settings, for the printer.
    pub warnings: Vec<String>,
}

/// The settings file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    redis: Option<String>,
    namespace: Option<String>,
    output: Option<String>,
    quiet: Option<bool>,
    colour: Option<String>,
    operator: Option<String>,
    timeout: Option<String>,
    start_by: Option<String>,
    retention: Option<String>,
}

/// The file's keys with their meaning.
pub const KEYS: [(&str, &str); 9] = [
    ("redis", "URL of the Redis server"),
    ("namespace", "prefix of all keys"),
    ("output", "how results are printed: `table`, `json` or `jsonl`"),
    ("quiet", "`true`: print results and errors, nothing else"),
    ("colour", "when to use colours: `auto`, `always` or `never`"),
    ("operator", "the operator's name as recorded in jobs (default: `USER@HOSTNAME`)"),
    ("timeout", "how long a command may run (default: what the action says)"),
    ("start_by", "how long a command waits for an offline host (default: `5m`)"),
    ("retention", "how long results are kept (default: `7d`)"),
];

/// Looks up an environment variable; an empty one counts as not set.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

impl Settings {
    /// Resolves what was typed with everything else.
    pub fn resolve(flags: Global) -> anyhow::Result<Self> {
        Self::resolve_in(flags, &variable)
    }

    fn resolve_in(flags: Global, lookup: Lookup) -> anyhow::Result<Self> {
        let mut warnings = Vec::new();
        let source = Source::read(flags.config, lookup, &mut warnings)?;
        let file = source.file.clone();
        let redis = source.text(environment::REDIS, "redis", file.redis);
        let redis = match flags.redis.or(redis.map(|given| given.text)) {
            Some(url) => Some(url.parse::<Address>()?),
            None => state_dir_in(None, lookup).and_then(|dir| embedded(&dir)),
        };
        let namespace = source.text(environment::NAMESPACE, "namespace", file.namespace);
        let format = source.text(environment::OUTPUT, "output", file.output);
        let operator = source.text(environment::OPERATOR, "operator", file.operator);
        let colour = read(flags.colour, source.text("", "colour", file.colour), choice::<Colour>)?;
        let timeout = source.text("", "timeout", file.timeout);
        let start_by = source.text("", "start_by", file.start_by);
        let retention = source.text("", "retention", file.retention);
        Ok(Self {
            redis,
            namespace: read(flags.namespace, namespace, |text| text.parse().map_err(|error| format!("{error}")))?,
            format: read(flags.output, format, choice::<Format>)?.unwrap_or_default(),
            quiet: flags.quiet || file.quiet.unwrap_or(false),
            colour: match colour {
                None | Some(Colour::Auto) => ColorChoice::Auto,
                Some(Colour::Always) => ColorChoice::Always,
                Some(Colour::Never) => ColorChoice::Never,
            },
            operator: operator.map_or_else(|| default_operator(lookup), |given| given.text),
            timeout: read(None, timeout, cli::timeout)?,
            start_by: read(None, start_by, cli::start_by)?.unwrap_or(limits::START_BY_DEFAULT),
            retention: read(None, retention, cli::retention)?.unwrap_or(limits::RETENTION_DEFAULT),
            trace: lookup(environment::TRACE),
            warnings,
        })
    }

    /// Where Redis is.
    ///
    /// # Errors
    /// Says how to tell.
    pub fn redis(&self) -> anyhow::Result<&Address> {
        self.redis.as_ref().ok_or_else(|| {
            Advice::new("no Redis server given, and no `ctl up` is running here")
                .hint(format!(
                    "give one with --redis URL, {}, or `redis = \"URL\"` in the settings file",
                    environment::REDIS
                ))
                .hint("or start a private one on this machine: ctl up")
                .into()
        })
    }
}

/// A setting's text and where it stands.
struct Given {
    text: String,
    origin: String,
}

/// The environment and the settings file.
struct Source<'a> {
    lookup: Lookup<'a>,
    path: PathBuf,
    file: File,
}

impl<'a> Source<'a> {
    fn read(flag: Option<PathBuf>, lookup: Lookup<'a>, warnings: &mut Vec<String>) -> anyhow::Result<Self> {
        let named = flag.or_else(|| lookup(environment::CONFIG).map(PathBuf::from));
        let usual = || Some(base_dir("XDG_CONFIG_HOME", ".config", lookup)?.join("redfleet/ctl.toml"));
        let must_exist = named.is_some();
        let nothing = Self { lookup, path: PathBuf::new(), file: File::default() };
        let Some(path) = named.or_else(usual) else { return Ok(nothing) };
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(nothing),
            text => text.with_context(|| format!("cannot read the settings file {}", path.display()))?,
        };
        // The line itself is not shown: it may hold a password.
        let malformed = |error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            anyhow!("{}, line {}: {}", path.display(), before.matches('\n').count() + 1, error.message())
        };
        let document = toml::Deserializer::parse(&text).map_err(malformed)?;
        let file = serde_ignored::deserialize(document, |key| {
            let key = key.to_string();
            let meant = closest(&key, KEYS.map(|(name, _)| name))
                .map(|meant| format!(" (did you mean '{meant}'?)"))
                .unwrap_or_default();
            warnings.push(format!("{}: unknown setting '{key}'{meant}", path.display()));
        });
        Ok(Self { lookup, file: file.map_err(malformed)?, path })
    }

    /// The text from the environment, or else from the file. No name: not to be had from the environment.
    fn text(&self, name: &'static str, key: &str, in_file: Option<String>) -> Option<Given> {
        let variable = || (self.lookup)(name).map(|text| Given { text, origin: name.into() });
        let in_file = in_file.map(|text| Given { text, origin: format!("{}: {key}", self.path.display()) });
        if name.is_empty() { in_file } else { variable().or(in_file) }
    }
}

/// The flag, or else what the text says.
fn read<T>(
    flag: Option<T>,
    given: Option<Given>,
    read: impl Fn(&str) -> Result<T, String>,
) -> anyhow::Result<Option<T>> {
    match (flag, given) {
        (Some(value), _) => Ok(Some(value)),
        (None, Some(given)) => read(&given.text).map(Some).map_err(|reason| anyhow!("{}: {reason}", given.origin)),
        (None, None) => Ok(None),
    }
}

fn choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let names: Vec<_> = T::value_variants().iter().filter_map(T::to_possible_value).collect();
        let names: Vec<_> = names.iter().map(clap::builder::PossibleValue::get_name).collect();
        format!("'{text}' is not one of {}", names.join(", "))
    })
}

/// The directory in which `ctl up` keeps its state: `dir`, or else `REDFLEET_DIR`, or else within the
/// user's state directory (XDG).
///
/// # Errors
/// Where there is no home directory to put it into.
pub fn state_dir(dir: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    state_dir_in(dir, &variable).ok_or_else(|| {
        Advice::new("no directory for the state: HOME is not set")
            .hint(format!("name one with --dir or {}", environment::DIR))
            .into()
    })
}

fn state_dir_in(dir: Option<PathBuf>, lookup: Lookup) -> Option<PathBuf> {
    let named = dir.or_else(|| lookup(environment::DIR).map(PathBuf::from));
    named.or_else(|| Some(base_dir("XDG_STATE_HOME", ".local/state", lookup)?.join("redfleet")))
}

/// An XDG base directory; relative ones must be ignored by that specification.
fn base_dir(name: &str, below_home: &str, lookup: Lookup) -> Option<PathBuf> {
    let named = lookup(name).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| Some(PathBuf::from(lookup("HOME")?).join(below_home)))
}

/// The Redis of a `ctl up` in `dir`, if one is there.
fn embedded(dir: &Path) -> Option<Address> {
    let directory = Directory::at(dir).ok()?;
    directory.socket().exists().then(|| directory.url())?.parse().ok()
}

fn default_operator(lookup: Lookup) -> String {
    let user = lookup("USER").or_else(|| lookup("LOGNAME")).or_else(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok()??;
        Some(user.name)
    });
    let user = user.unwrap_or_else(|| nix::unistd::getuid().to_string());
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{user}@{}", host.as_deref().unwrap_or("localhost"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Settings from flags, variables and the text of a settings file.
    fn resolve(flags: Global, variables: &[(&str, &str)], file: &str) -> anyhow::Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("redfleet")).unwrap();
        fs::write(dir.path().join("redfleet/ctl.toml"), file).unwrap();
        let mut variables: HashMap<_, _> = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        variables.insert("XDG_CONFIG_HOME", dir.path().to_str().unwrap().to_owned());
        Settings::resolve_in(flags, &|name| variables.get(name).cloned())
    }

    fn redis(settings: &Settings) -> String {
        settings.redis().unwrap().to_string()
    }

    #[test]
    fn flags_come_before_variables_and_these_before_the_file() {
        let flags = || Global { redis: Some("redis://flag".into()), output: Some(Format::Jsonl), ..Global::default() };
        let variables = [(environment::REDIS, "redis://variable"), (environment::OUTPUT, "json")];
        let file = "redis = 'redis://file'\noutput = 'table'\nstart_by = '1h'";
        let all = resolve(flags(), &variables, file).unwrap();
        assert_eq!((redis(&all), all.format), ("redis://flag".into(), Format::Jsonl));
        assert_eq!(all.start_by, Duration::from_secs(3600));
        let two = resolve(Global::default(), &variables, file).unwrap();
        assert_eq!((redis(&two), two.format), ("redis://variable".into(), Format::Json));
        let one = resolve(Global::default(), &[], file).unwrap();
        assert_eq!((redis(&one), one.format), ("redis://file".into(), Format::Table));
        let none = resolve(Global::default(), &[("USER", "ann")], "").unwrap();
        assert!(none.redis().unwrap_err().to_string().contains("no Redis server given"));
        assert_eq!(none.start_by, limits::START_BY_DEFAULT);
        assert!(none.operator.starts_with("ann@"));
    }

    #[test]
    fn strange_settings_are_named_where_they_stand() {
        let settings = resolve(Global::default(), &[], "redsi = 'x'").unwrap();
        assert!(settings.warnings[0].ends_with("ctl.toml: unknown setting 'redsi' (did you mean 'redis'?)"));
        let refused =
            |variables: &[_], file: &str| format!("{:#}", resolve(Global::default(), variables, file).unwrap_err());
        assert_eq!(
            refused(&[(environment::OUTPUT, "xml")], ""),
            "REDFLEET_OUTPUT: 'xml' is not one of table, json, jsonl"
        );
        assert!(refused(&[], "start_by = '8d'").ends_with("ctl.toml: start_by: at most 7 days"));
        assert!(refused(&[], "redis = 'redis://:secret@h:port'").contains("not a Redis URL"));
        assert!(refused(&[], "timeout = 5").contains("line 1"));
        assert!(refused(&[(environment::CONFIG, "/no/such.toml")], "").contains("/no/such.toml"));
    }

    #[test]
    fn a_running_ctl_up_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let variables = [(environment::DIR, dir.path().to_str().unwrap())];
        assert!(resolve(Global::default(), &variables, "").unwrap().redis().is_err());
        let socket = Directory::at(dir.path()).unwrap().socket();
        fs::write(&socket, "").unwrap();
        let found = resolve(Global::default(), &variables, "").unwrap();
        assert_eq!(found.redis().unwrap().socket(), Some(socket.as_path()));
    }
}
