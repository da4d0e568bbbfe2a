//! Settings, resolved once: flags, then environment, then the settings file, then defaults.
//! Commands see only the result.

use std::{
    env,
    fmt::Display,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anstream::ColorChoice;
use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use protocol::{connection::Address, environment, limits, name::Namespace, tls::TlsFiles};
use serde_json::{Map, Value};

use super::{
    durations::up_to,
    state_directory::{self, Directory},
};
use crate::{
    client::closest,
    output::{Advice, Format},
};

/// Flags of every command.
#[derive(Args, Debug, Default)]
#[expect(clippy::doc_markdown, reason = "these doc comments are help texts, in which backticks would show")]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Redis server [env: REDFLEET_REDIS] [default: that of a running `ctl up`]
    ///
    /// Write redis://HOST[:PORT][/DB], rediss://… for TLS, or unix:///PATH. A password typed here can be seen by other users of this
    /// machine (`ps`): use --redis-password-file, or put the whole URL into the environment or the settings file.
    #[arg(long, global = true, value_name = "URL")]
    pub redis: Option<String>,
    /// File with the password for Redis in its first line [env: REDFLEET_REDIS_PASSWORD_FILE]
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub redis_password_file: Option<PathBuf>,
    /// File with the CAs to trust (PEM), for rediss:// [env: REDFLEET_REDIS_CA] [default: the public ones]
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub redis_ca: Option<PathBuf>,
    /// File with the client's certificate (PEM), where Redis wants one [env: REDFLEET_REDIS_CERT]
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub redis_cert: Option<PathBuf>,
    /// File with the key of that certificate (PEM) [env: REDFLEET_REDIS_KEY]
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub redis_key: Option<PathBuf>,
    /// Prefix of all keys, so that several fleets can share a Redis [env: REDFLEET_NAMESPACE]
    #[arg(long, global = true, value_name = "NAME")]
    pub namespace: Option<Namespace>,
    /// Key that signs what is sent [env: REDFLEET_KEY] [default: that of `ctl up` for its Redis, ~/.config/redfleet/key, ~/.ssh/id_ed25519, ssh-agent]
    ///
    /// A private key of ssh, or a public one (.pub) whose private half is in ssh-agent. A certificate beside it
    /// (FILE-cert.pub) is used, too. Which one it is: ctl key show
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub key: Option<PathBuf>,
    /// Settings file [env: REDFLEET_CONFIG]
    ///
    /// TOML; where none is given, ~/.config/redfleet/ctl.toml is read if it exists.
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// How results are printed [env: REDFLEET_OUTPUT]
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Print results and errors, nothing else
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to use colours; NO_COLOR is respected
    #[arg(long, alias = "color", global = true, value_name = "WHEN")]
    pub colour: Option<clap::ColorChoice>,
}

/// All settings.
#[derive(Debug)]
pub struct Settings {
    /// The Redis that is named, if one is.
    pub named_redis: Option<Address>,
    /// The client's certificate for Redis, if one is named.
    pub redis_cert: Option<PathBuf>,
    /// The usual state directory of `ctl up`; none where there is no home directory to put it into.
    state_dir: Option<PathBuf>,
    /// The file with the keys of hosts, where one is named.
    named_known_hosts: Option<PathBuf>,
    /// The usual one; none where there is no home directory to put it into.
    usual_known_hosts: Option<PathBuf>,
    /// Prefix of all keys.
    pub namespace: Option<Namespace>,
    /// How results are printed.
    pub format: Format,
    /// Results and errors only.
    pub quiet: bool,
    /// When to use colours.
    pub colour: ColorChoice,
    /// The operator.
    pub operator: String,
    /// Where the operator's key may be.
    pub keys: KeyPlaces,
    /// How long a command may run, where it is not left to the action.
    pub timeout: Option<Duration>,
    /// The directory with the operator's copy of the fleet's trust files.
    pub fleet: Option<PathBuf>,
    /// How long a command waits for an offline host.
    pub start_by: Duration,
    /// How long results are kept.
    pub retention: Duration,
    /// The W3C trace context that this process is a part of.
    pub trace: Option<String>,
    /// Settings that are not known, each as a sentence.
    pub warnings: Vec<String>,
}

/// Where the operator's key may be. Of several, the first one counts.
#[derive(Debug)]
pub struct KeyPlaces {
    /// The file that is named, if one is.
    pub named: Option<PathBuf>,
    /// The file that `ctl up` makes beside the socket of its Redis.
    pub stack: Option<PathBuf>,
    /// The file that `ctl key init` makes.
    pub own: Option<PathBuf>,
    /// The usual key of ssh.
    pub ssh: Option<PathBuf>,
    /// The socket of ssh-agent.
    pub agent: Option<PathBuf>,
}

/// The file's keys with their meaning.
pub const KEYS: [(&str, &str); 15] = [
    ("redis", "URL of the Redis server"),
    ("redis_password_file", "file whose first line is the password for the Redis server"),
    (
        "redis_ca",
        "file with the certificates of the CAs to trust (PEM), for `rediss://` (default: the machine's public ones)",
    ),
    ("redis_cert", "file with the client's certificate (PEM), where the Redis server wants one"),
    ("redis_key", "file with the private key of that certificate (PEM)"),
    (
        "known_hosts",
        "file with the keys of hosts that are trusted (default: `known_hosts` beside this file; for a `ctl up`, in its \
         state directory)",
    ),
    ("namespace", "prefix of all keys"),
    ("output", "how results are printed: `table`, `json` or `jsonl`"),
    ("quiet", "`true`: print results and errors, nothing else"),
    ("colour", "when to use colours: `auto`, `always` or `never`"),
    ("operator", "the operator's name as recorded in jobs and trusted by hosts (default: `USER@HOSTNAME`)"),
    ("key", "file of the key that signs what is sent"),
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
    /// Resolves the flags with the environment, the settings file and the defaults.
    pub fn resolve(flags: Global) -> anyhow::Result<Self> {
        Self::resolve_in(flags, &variable)
    }

    fn resolve_in(flags: Global, lookup: Lookup) -> anyhow::Result<Self> {
        let (source, mut warnings) = Source::read(flags.config, lookup)?;
        let redis: Option<Address> = flags.redis.map(|url| url.parse()).transpose()?;
        if redis.as_ref().is_some_and(Address::has_password) {
            warnings.push(environment::PASSWORD_SEEN.into());
        }
        let mut named_redis = source.get(redis, "redis", environment::REDIS, parse)?;
        let variable = environment::REDIS_PASSWORD_FILE;
        let path = |text: &str| Ok(below_home(text, lookup));
        let file = source.get(flags.redis_password_file, "redis_password_file", variable, path)?;
        if let (Some(address), Some(file)) = (&named_redis, &file) {
            let read = address.clone().with_password_file(file);
            named_redis = Some(read.with_context(|| format!("cannot read the password file {}", file.display()))?);
        }
        let state_dir = lookup(environment::DIR).map(PathBuf::from);
        let state_dir = state_dir.or_else(|| base_dir("XDG_STATE_HOME", ".local/state", lookup));
        let socket = match &named_redis {
            Some(address) => address.socket().map(Path::to_owned),
            None => state_dir.as_ref().map(|directory| directory.join("redis.sock")),
        };
        let file = |flag, key, variable| source.get(flag, key, variable, path);
        let tls = TlsFiles {
            ca: file(flags.redis_ca, "redis_ca", environment::REDIS_CA)?,
            cert: file(flags.redis_cert, "redis_cert", environment::REDIS_CERT)?,
            key: file(flags.redis_key, "redis_key", environment::REDIS_KEY)?,
        };
        let redis_cert = tls.cert.clone();
        let named_redis = named_redis.map(|address| address.with_tls(tls)).transpose()?;
        warnings.extend(named_redis.as_ref().and_then(Address::warning));
        let keys = KeyPlaces {
            stack: socket.map(|socket| socket.with_file_name(state_directory::KEY)),
            named: source.get(flags.key, "key", environment::KEY, path)?,
            own: base_dir("XDG_CONFIG_HOME", ".config", lookup).map(|directory| directory.join("key")),
            ssh: lookup("HOME").map(|home| PathBuf::from(home).join(".ssh/id_ed25519")),
            agent: lookup("SSH_AUTH_SOCK").map(PathBuf::from),
        };
        let colour = source.get(flags.colour, "colour", "", choice)?;
        let operator = source.get(None, "operator", environment::OPERATOR, parse)?;
        let start_by = source.get(None, "start_by", "", up_to(limits::START_BY_MAX))?;
        let retention = source.get(None, "retention", "", up_to(limits::RETENTION_MAX))?;
        Ok(Self {
            named_redis,
            redis_cert,
            named_known_hosts: source.get(None, "known_hosts", environment::KNOWN_HOSTS, path)?,
            usual_known_hosts: base_dir("XDG_CONFIG_HOME", ".config", lookup).map(|dir| dir.join("known_hosts")),
            state_dir,
            namespace: source.get(flags.namespace, "namespace", environment::NAMESPACE, parse)?,
            format: source.get(flags.output, "output", environment::OUTPUT, choice)?.unwrap_or_default(),
            quiet: flags.quiet || source.get(None, "quiet", "", parse)?.unwrap_or(false),
            colour: match colour.unwrap_or(clap::ColorChoice::Auto) {
                clap::ColorChoice::Auto => ColorChoice::Auto,
                clap::ColorChoice::Always => ColorChoice::Always,
                clap::ColorChoice::Never => ColorChoice::Never,
            },
            operator: operator.unwrap_or_else(|| default_operator(lookup)),
            keys,
            fleet: base_dir("XDG_CONFIG_HOME", ".config", lookup).map(|directory| directory.join("fleet")),
            timeout: source.get(None, "timeout", "", up_to(limits::TIMEOUT_MAX))?,
            start_by: start_by.unwrap_or(limits::START_BY_DEFAULT),
            retention: retention.unwrap_or(limits::RETENTION_DEFAULT),
            trace: lookup(environment::TRACE),
            warnings,
        })
    }

    /// Where Redis is: the one that is named, or else that of a `ctl up` in the usual state directory.
    ///
    /// # Errors
    /// The address is not known; the error explains how to set it.
    pub fn redis(&self) -> anyhow::Result<Address> {
        let running = || self.running().map(|directory| directory.address);
        let (variable, setting) = (environment::REDIS, "`redis = \"URL\"` in the settings file");
        let unknown = || {
            Advice::new("no Redis server given, and no `ctl up` is running here")
                .hint(format!("give one with --redis URL, {variable}, or {setting}"))
                .hint("or start a private one on this machine: ctl up")
        };
        Ok(self.named_redis.clone().or_else(running).ok_or_else(unknown)?)
    }

    /// The state directory of a `ctl up`, where its Redis is the one to be used.
    fn running(&self) -> Option<Directory> {
        let directory = Directory::at(self.state_dir.as_deref()?).ok()?;
        (self.named_redis.is_none() && directory.socket.exists()).then_some(directory)
    }

    /// The file with the keys of hosts: the one that is named, or that of the `ctl up` whose Redis is used, or the usual
    /// one.
    ///
    /// # Errors
    /// There is no usual one.
    pub fn known_hosts(&self) -> anyhow::Result<PathBuf> {
        let running = || self.running().map(|directory| directory.known_hosts);
        let named = self.named_known_hosts.clone();
        let unknown = || {
            let hint = format!("name one with {}, or `known_hosts` in the settings file", environment::KNOWN_HOSTS);
            Advice::new("no file for the keys of hosts: HOME is not set").hint(hint)
        };
        Ok(named.or_else(running).or_else(|| self.usual_known_hosts.clone()).ok_or_else(unknown)?)
    }

    /// The file with the keys of the hosts of the `ctl up` in `directory`.
    pub fn known_hosts_of(&self, directory: &Directory) -> PathBuf {
        self.named_known_hosts.clone().unwrap_or_else(|| directory.known_hosts.clone())
    }

    /// The directory in which `ctl up` keeps its state: `dir`, or else the usual one, which is `REDFLEET_DIR` or
    /// within the user's state directory (XDG).
    ///
    /// # Errors
    /// There is no usual one.
    pub fn state_dir(&self, dir: Option<PathBuf>) -> anyhow::Result<PathBuf> {
        let hint = || format!("name one with --dir or {}", environment::DIR);
        let unknown = || Advice::new("no directory for the state: HOME is not set").hint(hint());
        Ok(dir.or_else(|| self.state_dir.clone()).ok_or_else(unknown)?)
    }
}

/// The environment and the settings file.
struct Source<'a> {
    lookup: Lookup<'a>,
    path: PathBuf,
    file: Map<String, Value>,
}

impl<'a> Source<'a> {
    /// Reads the file, and returns a warning for each setting that is not known.
    fn read(flag: Option<PathBuf>, lookup: Lookup<'a>) -> anyhow::Result<(Self, Vec<String>)> {
        let named = flag.or_else(|| lookup(environment::CONFIG).map(PathBuf::from));
        let must_exist = named.is_some();
        let usual = || Some(base_dir("XDG_CONFIG_HOME", ".config", lookup)?.join("ctl.toml"));
        let path = named.or_else(usual).unwrap_or_default();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => String::new(),
            text => text.with_context(|| format!("cannot read the settings file {}", path.display()))?,
        };

        // The line itself is not shown: it may hold a password.
        let file: Map<_, _> = toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            anyhow!("{}, line {}: {}", path.display(), before.matches('\n').count() + 1, error.message())
        })?;
        let unknown = file.keys().filter(|key| KEYS.iter().all(|(known, _)| known != key)).map(|key| {
            let meant = closest(key, KEYS.map(|(name, _)| name)).map(|meant| format!(" (did you mean '{meant}'?)"));
            format!("{}: unknown setting '{key}'{}", path.display(), meant.unwrap_or_default())
        });
        let unknown = unknown.collect();
        Ok((Self { lookup, path, file }, unknown))
    }

    /// The value of the flag, else of the environment, else of the file. `variable` is empty where there is none.
    fn get<T>(
        &self,
        flag: Option<T>,
        key: &str,
        variable: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<Option<T>> {
        if flag.is_some() {
            return Ok(flag);
        }
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let in_file = || Some((text(self.file.get(key)?), format!("{}: {key}", self.path.display())));
        let given = (self.lookup)(variable).map(|text| (text, variable.to_owned())).or_else(in_file);
        given.map(|(text, origin)| read(&text).map_err(|reason| anyhow!("{origin}: {reason}"))).transpose()
    }
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let name = |choice: &T| Some(choice.to_possible_value()?.get_name().to_owned());
        let names: Vec<_> = T::value_variants().iter().filter_map(name).collect();
        format!("'{text}' is not one of {}", names.join(", "))
    })
}

/// The directory for what `ctl` remembers of its own runs; none where there is no home directory to put it into.
pub fn memory() -> Option<PathBuf> {
    Some(base_dir("XDG_STATE_HOME", ".local/state", &variable)?.with_file_name("redfleet-ctl"))
}

/// Redfleet's part of an XDG base directory; relative ones must be ignored by that specification.
fn base_dir(name: &str, below_home: &str, lookup: Lookup) -> Option<PathBuf> {
    let named = lookup(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = named.or_else(|| Some(PathBuf::from(lookup("HOME")?).join(below_home)));
    Some(base?.join("redfleet"))
}

/// A path that may begin with `~/`, which a shell does not replace in a settings file.
fn below_home(path: &str, lookup: Lookup) -> PathBuf {
    let below = path.strip_prefix("~/").and_then(|rest| Some(PathBuf::from(lookup("HOME")?).join(rest)));
    below.unwrap_or_else(|| path.into())
}

fn default_operator(lookup: Lookup) -> String {
    let uid = nix::unistd::getuid();
    let named = || nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    let user = lookup("USER").or_else(|| lookup("LOGNAME")).or_else(named).unwrap_or_else(|| uid.to_string());
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
        assert!(refused(&[], "timeout = 5").contains("ctl.toml: timeout: '5' is not a duration"));
        assert!(refused(&[], "timeout = ").contains("line 1"));
        assert!(refused(&[(environment::CONFIG, "/no/such.toml")], "").contains("/no/such.toml"));
    }

    #[test]
    fn places_of_keys_follow_home_and_the_settings() {
        let keys = |variables: &[_], file: &str| resolve(Global::default(), variables, file).unwrap().keys;
        let usual = keys(&[("HOME", "/home/ann"), ("SSH_AUTH_SOCK", "/run/agent")], "");
        assert_eq!((usual.named, usual.ssh), (None, Some("/home/ann/.ssh/id_ed25519".into())));
        assert!(usual.own.unwrap().ends_with("redfleet/key"));
        assert_eq!(usual.agent, Some("/run/agent".into()));
        let file = "key = '~/work/key'";
        assert_eq!(keys(&[("HOME", "/home/ann")], file).named, Some("/home/ann/work/key".into()));
        assert_eq!(keys(&[(environment::KEY, "/k")], file).named, Some("/k".into()));
        // So do all files that are named, as no shell replaces ~ there.
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("password"), "secret\n").unwrap();
        let file = "redis = 'redis://h'\nredis_password_file = '~/password'\nknown_hosts = '~/hosts'";
        let all = resolve(Global::default(), &[("HOME", home.path().to_str().unwrap())], file).unwrap();
        assert!(all.redis().unwrap().has_password());
        assert_eq!(all.known_hosts().unwrap(), home.path().join("hosts"));
    }

    #[test]
    fn a_running_ctl_up_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let variables = [(environment::DIR, dir.path().to_str().unwrap())];
        assert!(resolve(Global::default(), &variables, "").unwrap().redis().is_err());
        let socket = Directory::at(dir.path()).unwrap().socket;
        fs::write(&socket, "").unwrap();
        let found = resolve(Global::default(), &variables, "").unwrap();
        assert_eq!(found.redis().unwrap().socket(), Some(socket.as_path()));
    }
}
