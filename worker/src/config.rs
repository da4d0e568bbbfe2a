//! The worker's settings, resolved once: flags, then environment, then file, then defaults.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::Parser;
use protocol::{
    connection::Address,
    environment,
    name::{HostName, Namespace},
    time,
};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::log::Format;

/// The daemon on each host of a Redfleet: reads the host's commands from Redis, executes them, writes the results back.
#[derive(Debug, Parser)]
#[command(name = "worker", version = protocol::VERSION)]
pub struct Options {
    #[arg(long, help = "Redis server: redis://[:PASSWORD@]HOST[:PORT][/DB] or unix:///PATH", value_name = "URL", env = environment::REDIS, hide_env_values = true)]
    redis: Option<Address>,
    /// This host's name in the fleet [default: the machine's host name]
    #[arg(long, value_name = "NAME", env = environment::HOST)]
    host: Option<HostName>,
    /// Prefix of all keys, so that several fleets can share a Redis
    #[arg(long, value_name = "NAME", env = environment::NAMESPACE)]
    namespace: Option<Namespace>,
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE", env = environment::CONFIG)]
    config: Option<PathBuf>,
    /// Allow an action that is off by default, such as exec; may be repeated
    #[arg(long, value_name = "ACTION")]
    allow: Vec<String>,
    /// What is logged: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", env = environment::LOG)]
    log: Option<tracing::Level>,
    /// How it is logged: text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = environment::LOG_FORMAT)]
    log_format: Option<Format>,
    /// Read the settings, say what they amount to, and exit
    #[arg(long)]
    pub check_config: bool,
}

/// The settings file. Every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    redis: Option<Parsed<Address>>,
    host: Option<HostName>,
    namespace: Option<Namespace>,
    state_dir: Option<PathBuf>,
    slots: Option<usize>,
    reserved: Option<usize>,
    sample_interval: Option<Interval>,
    grace: Option<Interval>,
    labels: BTreeMap<String, String>,
    actions: Actions,
    log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Actions {
    allow: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Log {
    level: Option<Parsed<tracing::Level>>,
    format: Option<Parsed<Format>>,
}

/// A value that the file holds as text.
#[derive(Debug)]
struct Parsed<T>(T);

impl<'de, T: FromStr<Err: std::fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// A duration such as `10s`.
#[derive(Debug)]
struct Interval(Duration);

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        time::read_duration(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Parsed::deserialize(input).map(|Parsed(interval)| interval)
    }
}

/// The resolved settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Redis is.
    pub redis: Address,
    /// This host's name in the fleet.
    pub host: HostName,
    /// Prefix of all keys.
    pub namespace: Option<Namespace>,
    /// Where the worker keeps what must outlive it.
    pub state_dir: PathBuf,
    /// Commands that may run at once.
    pub slots: usize,
    /// Of these, how many are for repeatable actions only, so that a busy host still answers.
    pub reserved: usize,
    /// How often the metrics are sampled.
    pub sample_interval: Duration,
    /// How long running commands may go on after SIGTERM.
    pub grace: Duration,
    /// Published as they are.
    pub labels: BTreeMap<String, String>,
    /// Actions allowed besides those that are always on.
    pub allow: Vec<String>,
    /// What is logged.
    pub log_level: tracing::Level,
    /// How it is logged.
    pub log_format: Format,
    /// What in the file was not understood.
    pub warnings: Vec<String>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {1}", path = .0.display())]
    Read(PathBuf, std::io::Error),
    /// The file cannot be understood. The line itself is not shown: it may hold a password.
    #[error("{path}, line {1}: {2}", path = .0.display())]
    Malformed(PathBuf, usize, String),
    /// No Redis is named.
    #[error("no Redis is named: use --redis URL, {} or `redis = \"…\"` in the settings file", environment::REDIS)]
    NoRedis,
    /// The machine's host name is not a name for the fleet.
    #[error("this machine's host name cannot be used ({0}): name the host with --host")]
    HostName(String),
    /// A value is out of bounds.
    #[error("{0}")]
    Value(String),
}

/// A slot costs memory only while it is used; this many cannot be meant.
const MAX_SLOTS: usize = 1024;

impl Config {
    /// Resolves flags and environment (which clap has merged already) with the file and the defaults.
    pub fn resolve(options: Options) -> Result<Self, ConfigError> {
        let mut warnings = Vec::new();
        let file = options.config.as_deref().map(|path| read(path, &mut warnings)).transpose()?.unwrap_or_default();
        let redis = options.redis.or(file.redis.map(|Parsed(url)| url)).ok_or(ConfigError::NoRedis)?;
        let host = options.host.or(file.host).map_or_else(machine_name, Ok)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = file.slots.unwrap_or_else(|| cores.max(4));
        if !(1..=MAX_SLOTS).contains(&slots) {
            return Err(ConfigError::Value(format!("slots must be from 1 to {MAX_SLOTS}, not {slots}")));
        }
        let reserved = file.reserved.unwrap_or(1).min(slots - 1);
        let sample_interval = file.sample_interval.map_or(Duration::from_secs(10), |Interval(interval)| interval);
        if sample_interval < Duration::from_secs(1) {
            return Err(ConfigError::Value("sample_interval must be at least 1s".into()));
        }
        let allow: Vec<String> = file.actions.allow.into_iter().chain(options.allow).collect();
        if let Some(name) = allow.iter().find(|name| !crate::actions::SWITCHABLE.contains(&name.as_str())) {
            warnings.push(format!(
                "actions.allow names '{name}', which is no action that can be allowed (there are: {})",
                crate::actions::SWITCHABLE.join(", ")
            ));
        }
        Ok(Self {
            redis,
            host,
            namespace: options.namespace.or(file.namespace),
            state_dir: file.state_dir.unwrap_or_else(default_state_dir),
            slots,
            reserved,
            sample_interval,
            grace: file.grace.map_or(Duration::from_secs(30), |Interval(grace)| grace),
            labels: file.labels,
            allow,
            log_level: options.log.or(file.log.level.map(|Parsed(level)| level)).unwrap_or(tracing::Level::INFO),
            log_format: options.log_format.or(file.log.format.map(|Parsed(format)| format)).unwrap_or_default(),
            warnings,
        })
    }

    /// The settings as lines for people, without secrets.
    pub fn describe(&self) -> String {
        let list = |items: &[String]| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
        let labels: Vec<_> = self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        [
            ("redis", self.redis.to_string()),
            ("host", self.host.to_string()),
            ("namespace", self.namespace.as_ref().map_or("none".into(), ToString::to_string)),
            ("state_dir", self.state_dir.display().to_string()),
            ("slots", self.slots.to_string()),
            ("reserved", self.reserved.to_string()),
            ("sample_interval", time::show_duration(self.sample_interval)),
            ("grace", time::show_duration(self.grace)),
            ("labels", list(&labels)),
            ("actions.allow", list(&self.allow)),
            ("log.level", self.log_level.to_string().to_lowercase()),
            ("log.format", self.log_format.to_string()),
        ]
        .map(|(name, value)| format!("{name:<16} {value}\n"))
        .concat()
    }
}

fn read(path: &Path, warnings: &mut Vec<String>) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read(path.into(), error))?;
    let malformed = |error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        ConfigError::Malformed(path.into(), before.matches('\n').count() + 1, error.message().into())
    };
    let input = toml::Deserializer::parse(&text).map_err(malformed)?;
    serde_ignored::deserialize(input, |key| warnings.push(format!("{}: unknown key '{key}'", path.display())))
        .map_err(malformed)
}

fn machine_name() -> Result<HostName, ConfigError> {
    let name = nix::unistd::gethostname().map_err(|error| ConfigError::HostName(error.to_string()))?;
    name.to_string_lossy().parse().map_err(|error| ConfigError::HostName(format!("{error}")))
}

/// `/var/lib/redfleet` for root, the XDG state directory for others.
fn default_state_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return "/var/lib/redfleet".into();
    }
    let home = || std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from).join(".local/state");
    std::env::var_os("XDG_STATE_HOME").map_or_else(home, PathBuf::from).join("redfleet-worker")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(file: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker.toml");
        std::fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        Config::resolve(Options::parse_from(["worker", "--config", path].iter().chain(flags)))
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "redis = 'redis://a'\nhost = 'web1'\nslots = 7\ngrace = '5s'\n[labels]\nrole = 'web'";
        let config = resolve(file, &["--redis", "redis://b"]).unwrap();
        assert_eq!(config.redis.to_string(), "redis://b");
        assert_eq!((config.host.as_str(), config.slots, config.grace), ("web1", 7, Duration::from_secs(5)));
        assert_eq!(config.sample_interval, Duration::from_secs(10));
        assert!(config.warnings.is_empty() && config.allow.is_empty());
    }

    #[test]
    fn unknown_keys_are_reported_not_swallowed() {
        let config = resolve("redis = 'redis://a'\nslot = 7\n[log]\ncolour = 1", &["--allow", "exce"]).unwrap();
        assert_eq!(config.warnings.len(), 3, "{:?}", config.warnings);
    }

    #[test]
    fn nonsense_is_refused() {
        for file in ["", "redis = 5", "redis = 'x'", "redis = 'redis://a'\nslots = 0", "redis = 'redis://a'\ngrace = 5"]
        {
            assert!(resolve(file, &["--host", "web1"]).is_err(), "{file}");
        }
    }
}
