//! The worker's settings, resolved once: flags, then environment, then file, then defaults.

mod keys;

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::Parser;
use protocol::{
    action::ActionSpec,
    connection::Address,
    environment, limits,
    name::{HostName, Namespace},
    time,
    tls::{TlsError, TlsFiles},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::de::DeTable;

use crate::{
    actions::{self, ActionsDir, DirectoryError, OwnActions},
    apps,
    explain::Command,
    files,
    host_key::{HostKeyError, HostKeyFile},
    identity::{HostKeys, KeysError},
    log::Format,
    policy::{self, Policy, PolicyError},
    services,
    spelling::did_you_mean,
    trust,
};

/// The daemon on each host of a Redfleet: reads the host's commands from Redis, executes them, writes the results back.
#[derive(Debug, Parser)]
#[expect(clippy::doc_markdown, reason = "these doc comments are help texts, in which backticks would show")]
#[command(name = "worker", version = protocol::VERSION)]
pub struct Options {
    /// Redis server: redis://HOST[:PORT][/DB], rediss://… for TLS, or unix:///PATH [env: REDFLEET_REDIS=]
    ///
    /// A password typed here can be seen by other users of this machine (`ps`): use --redis-password-file, or put the
    /// whole URL into the environment or the settings file.
    // Not read by clap, whose errors would show a password.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// File with the password for Redis in its first line
    #[arg(long, value_name = "FILE", env = environment::REDIS_PASSWORD_FILE)]
    redis_password_file: Option<PathBuf>,
    /// File with the certificates of the CAs to trust (PEM), for rediss:// [default: the machine's public ones]
    #[arg(long, value_name = "FILE", env = environment::REDIS_CA)]
    redis_ca: Option<PathBuf>,
    /// File with the client's certificate (PEM), where Redis wants one
    #[arg(long, value_name = "FILE", env = environment::REDIS_CERT)]
    redis_cert: Option<PathBuf>,
    /// File with the private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", env = environment::REDIS_KEY)]
    redis_key: Option<PathBuf>,
    /// This host's name in the fleet [default: the machine's host name]
    #[arg(long, value_name = "NAME", env = environment::HOST)]
    host: Option<HostName>,
    /// Prefix of all keys, so that several fleets can share a Redis
    #[arg(long, value_name = "NAME", env = environment::NAMESPACE)]
    namespace: Option<Namespace>,
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE", env = environment::CONFIG, global = true)]
    config: Option<PathBuf>,
    /// Directory for what must outlive the worker: the journal, the audit trail [default: /var/lib/redfleet for root, else in ~/.local/state]
    #[arg(long, value_name = "DIR", env = environment::STATE_DIR)]
    state_dir: Option<PathBuf>,
    /// Whom this host obeys: OpenSSH's allowed_signers [default: /etc/redfleet/allowed_signers for root, else in
    /// ~/.config/redfleet]
    #[arg(long, value_name = "FILE", env = environment::TRUST)]
    trust: Option<PathBuf>,
    /// Keys and certificates that are trusted no more, as `ssh-keygen -k` lists them [default: `revoked` beside the trust
    /// file]
    #[arg(long, value_name = "FILE", env = environment::REVOKED)]
    revoked: Option<PathBuf>,
    /// Allow an action that is off by default, such as exec; may be repeated
    #[arg(long, value_name = "ACTION")]
    allow: Vec<String>,
    /// What is logged: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", env = environment::LOG)]
    log: Option<tracing::Level>,
    /// How it is logged [default: text]
    #[arg(long, value_name = "FORMAT", env = environment::LOG_FORMAT)]
    log_format: Option<Format>,
    /// Read the settings, say what they amount to, and exit
    #[arg(long)]
    pub check_config: bool,
    /// Something else than working.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The settings file. Every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "the fields are named like the keys")]
struct File {
    #[serde(deserialize_with = "parsed")]
    redis: Option<Address>,
    redis_password_file: Option<PathBuf>,
    redis_ca: Option<PathBuf>,
    redis_cert: Option<PathBuf>,
    redis_key: Option<PathBuf>,
    host: Option<HostName>,
    namespace: Option<Namespace>,
    state_dir: Option<PathBuf>,
    trust: Option<PathBuf>,
    revoked: Option<PathBuf>,
    actions_dir: Option<PathBuf>,
    audit: Option<PathBuf>,
    host_key: Option<PathBuf>,
    sealing_key: Option<PathBuf>,
    slots: Option<usize>,
    reserved: Option<usize>,
    #[serde(deserialize_with = "duration")]
    sample_interval: Option<Duration>,
    #[serde(deserialize_with = "duration_or_off")]
    history_step: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    grace: Option<Duration>,
    labels: BTreeMap<String, String>,
    actions: Actions,
    services: BTreeMap<String, services::Input>,
    apps: BTreeMap<String, apps::Input>,
    files: Files,
    groups: toml::Table,
    policy: Vec<toml::Spanned<toml::Table>>,
    log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Actions {
    allow: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Files {
    put: Vec<PathBuf>,
    get: Vec<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Log {
    #[serde(deserialize_with = "parsed")]
    level: Option<tracing::Level>,
    format: Option<Format>,
}

/// A value that the file holds as text.
fn parsed<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(input: D) -> Result<Option<T>, D::Error> {
    String::deserialize(input)?.parse().map(Some).map_err(D::Error::custom)
}

/// A duration such as `10s`.
fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    time::read_duration(&String::deserialize(input)?).map(Some).map_err(D::Error::custom)
}

/// A duration; none at all is written as `off`.
fn duration_or_off<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    match String::deserialize(input)?.as_str() {
        "off" => Ok(Some(Duration::ZERO)),
        text => time::read_duration(text).map(Some).map_err(D::Error::custom),
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
    /// Where the worker keeps the data that must outlive it.
    pub state_dir: PathBuf,
    /// Whom this host obeys.
    pub trust: trust::Paths,
    /// The audit trail: a line for each decision about a command or an order to cancel.
    pub audit: PathBuf,
    /// The key that signs what this host states.
    pub host_key: HostKeyFile,
    /// The key to which secrets are sealed; it is made where there is none.
    pub sealing_key: PathBuf,
    /// Commands that may run at once.
    pub slots: usize,
    /// How many of the slots are for repeatable actions only, so that a busy host still replies.
    pub reserved: usize,
    /// How often the metrics are sampled.
    pub sample_interval: Duration,
    /// How long the steps are whose means are kept for a day, in whole seconds; `None`: none are.
    pub history_step: Option<Duration>,
    /// How long running commands may go on after SIGTERM.
    pub grace: Duration,
    /// Published as they are.
    pub labels: BTreeMap<String, String>,
    /// Actions allowed besides those that are always on.
    pub allow: Vec<String>,
    /// The services that the settings name.
    pub services: services::Settings,
    /// The applications that the settings name.
    pub apps: apps::Settings,
    /// The program that supervises services: this one, where it is the program `worker`.
    pub supervisor: Option<PathBuf>,
    /// Where operators may put and get files.
    pub files: files::Allowed,
    /// Who may run what.
    pub policy: Policy,
    /// The policy as it was written, to be judged anew when there are other actions.
    rules: policy::Input,
    /// Where the host's own actions are.
    pub actions_dir: ActionsDir,
    /// The host's own actions.
    pub own: OwnActions,
    /// What is logged.
    pub log_level: tracing::Level,
    /// How it is logged.
    pub log_format: Format,
    /// What is unwise in the settings.
    pub warnings: Vec<String>,
    /// The keys and values in the settings that were not understood.
    pub unknown: Vec<String>,
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
    /// The files for TLS cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The host's own actions cannot be looked for.
    #[error("{0}")]
    OwnActions(#[from] DirectoryError),
    /// The policy is not understood.
    #[error("policy: {0}")]
    Policy(#[from] PolicyError),
    /// The settings of a service cannot be used.
    #[error("{0}")]
    Service(#[from] services::SettingsError),
    /// The settings of an application cannot be used.
    #[error("{0}")]
    App(#[from] apps::SettingsError),
    /// A value is out of bounds.
    #[error("{0}")]
    Value(String),
}

/// A slot costs memory only while it is used; this many cannot be meant.
const MAX_SLOTS: usize = 1024;

/// How long the steps of the history are where nothing else is set.
const HISTORY_STEP: Duration = Duration::from_secs(300);

impl Config {
    /// Resolves flags and environment (which clap has merged already) with the file and the defaults.
    pub fn resolve(options: Options) -> Result<Self, ConfigError> {
        let (mut warnings, mut unknown) = (Vec::new(), Vec::new());
        let (file, origin) = read(options.config.as_deref(), &mut unknown)?;
        let redis = redis(options.redis.as_deref(), &mut warnings)?.or(file.redis).ok_or(ConfigError::NoRedis)?;
        let redis = match options.redis_password_file.or(file.redis_password_file) {
            Some(path) => redis.with_password_file(&path).map_err(|error| ConfigError::Read(path, error))?,
            None => redis,
        };
        let redis = redis.with_tls(TlsFiles {
            ca: options.redis_ca.or(file.redis_ca),
            cert: options.redis_cert.or(file.redis_cert),
            key: options.redis_key.or(file.redis_key),
        })?;
        warnings.extend(redis.warning());
        let host = options.host.or(file.host).map_or_else(machine_name, Ok)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = file.slots.unwrap_or_else(|| cores.max(4));
        if !(1..=MAX_SLOTS).contains(&slots) {
            return Err(ConfigError::Value(format!("slots must be from 1 to {MAX_SLOTS}, not {slots}")));
        }
        if let Some(reserved) = file.reserved.filter(|reserved| *reserved >= slots) {
            let remedy = "one slot must be left for commands that change the host";
            return Err(ConfigError::Value(format!(
                "reserved = {reserved} must be less than slots = {slots}: {remedy}"
            )));
        }
        let reserved = file.reserved.unwrap_or(1).min(slots - 1);
        let sample_interval = file.sample_interval.unwrap_or(Duration::from_secs(10));
        if sample_interval < Duration::from_secs(1) {
            return Err(ConfigError::Value("sample_interval must be at least 1s".into()));
        }
        let history_step = history_step(file.history_step, sample_interval)?;
        let files = files::Allowed { put: file.files.put, get: file.files.get };
        if let Some(problem) = files.problem() {
            return Err(ConfigError::Value(problem));
        }
        let allow: Vec<String> = file.actions.allow.into_iter().chain(options.allow).collect();
        let actions_dir = ActionsDir::new(file.actions_dir, options.config.as_deref());
        let own = actions_dir.load(&actions::specs())?;
        let rules = policy::Input { origin, groups: file.groups, rules: file.policy, broken: own.broken().into() };
        let (policy, _) = judged(&rules, &allow, &own, &mut warnings, &mut unknown)?;
        let signers = options.trust.or(file.trust).unwrap_or_else(default_trust);
        let revoked = options.revoked.or(file.revoked).unwrap_or_else(|| signers.with_file_name("revoked"));
        let state_dir = options.state_dir.or(file.state_dir).unwrap_or_else(default_state_dir);
        let services = services::Settings::read(file.services)?;
        let own_key = || HostKeyFile::Own(state_dir.join("host_key"));
        Ok(Self {
            redis,
            host,
            namespace: options.namespace.or(file.namespace),
            trust: trust::Paths { signers, revoked },
            audit: file.audit.unwrap_or_else(|| state_dir.join("audit.jsonl")),
            host_key: file.host_key.map_or_else(own_key, HostKeyFile::Named),
            sealing_key: file.sealing_key.unwrap_or_else(|| state_dir.join("sealing_key")),
            state_dir,
            slots,
            reserved,
            sample_interval,
            history_step,
            grace: file.grace.unwrap_or(Duration::from_secs(30)),
            labels: file.labels,
            apps: apps::Settings::read(file.apps, &services)?,
            services,
            supervisor: None,
            allow,
            files,
            policy,
            rules,
            actions_dir,
            own,
            log_level: options.log.or(file.log.level).unwrap_or(tracing::Level::INFO),
            log_format: options.log_format.or(file.log.format).unwrap_or_default(),
            warnings,
            unknown,
        })
    }

    /// The policy and the actions alone, which need no Redis, and what is unwise or not understood in the settings.
    pub fn policy(options: Options) -> Result<(Policy, Vec<ActionSpec>, Vec<String>), ConfigError> {
        let (mut warnings, mut unknown) = (Vec::new(), Vec::new());
        let (file, origin) = read(options.config.as_deref(), &mut unknown)?;
        let allow: Vec<String> = file.actions.allow.into_iter().chain(options.allow).collect();
        let own = ActionsDir::new(file.actions_dir, options.config.as_deref()).load(&actions::specs())?;
        let input = policy::Input { origin, groups: file.groups, rules: file.policy, broken: own.broken().into() };
        let (policy, specs) = judged(&input, &allow, &own, &mut warnings, &mut unknown)?;
        warnings.extend(unknown);
        warnings.extend(own.problems().iter().map(ToString::to_string));
        Ok((policy, specs, warnings))
    }

    /// Reads the files of the host's own actions anew. The rules are those of the settings; what they let whom run may be
    /// more or less now.
    ///
    /// # Errors
    /// The directory cannot be read, or a rule names an action that is not there any more.
    pub fn reread_actions(&self) -> Result<(OwnActions, Policy), ConfigError> {
        let own = self.actions_dir.load(&actions::specs())?;
        let rules = policy::Input { broken: own.broken().into(), ..self.rules.clone() };
        let (policy, _) = judged(&rules, &self.allow, &own, &mut Vec::new(), &mut Vec::new())?;
        Ok((own, policy))
    }

    /// The path of a file that the worker keeps. A colon stands in no name, so no two fleets share one.
    pub(crate) fn kept(&self, name: &str) -> PathBuf {
        let fleet = self.namespace.as_ref().map(|namespace| format!("{namespace}:")).unwrap_or_default();
        self.state_dir.join(format!("{fleet}{}.{name}", self.host))
    }

    /// Where the data of supervised services are.
    pub(crate) fn service_places(&self) -> services::Places {
        services::Places { directory: self.kept("services"), supervisor: self.supervisor.clone() }
    }

    /// Reads the host's private keys, or makes them.
    ///
    /// # Errors
    /// One of them cannot be used, or not be made.
    pub fn open_keys(&self) -> Result<HostKeys, KeysError> {
        HostKeys::open(&self.host, &self.host_key, &self.sealing_key)
    }

    /// The settings as lines for people, without secrets.
    ///
    /// # Errors
    /// The host's key cannot be used.
    pub fn describe(&self) -> Result<String, HostKeyError> {
        let list = |items: &[String]| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
        let directories =
            |paths: &[PathBuf]| list(&paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>());
        let labels: Vec<_> = self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let settings = [
            ("redis", self.redis.to_string()),
            ("host", self.host.to_string()),
            ("namespace", self.namespace.as_ref().map_or("none".into(), ToString::to_string)),
            ("state_dir", self.state_dir.display().to_string()),
            ("trust", self.trust.signers.display().to_string()),
            ("revoked", self.trust.revoked.display().to_string()),
            ("audit", self.audit.display().to_string()),
            ("host_key", self.host_key.describe()?),
            ("sealing_key", self.sealing_key.display().to_string()),
            ("slots", self.slots.to_string()),
            ("reserved", self.reserved.to_string()),
            ("sample_interval", time::show_duration(self.sample_interval)),
            ("history_step", self.history_step.map_or_else(|| "off".into(), time::show_duration)),
            ("grace", time::show_duration(self.grace)),
            ("labels", list(&labels)),
            ("actions_dir", self.actions_dir.to_string()),
            ("services", list(&self.services.describe())),
            ("apps", list(&self.apps.describe())),
            ("actions.allow", list(&self.allow)),
            ("files.put", directories(&self.files.put)),
            ("files.get", directories(&self.files.get)),
            ("log.level", self.log_level.to_string().to_lowercase()),
            ("log.format", format!("{:?}", self.log_format).to_lowercase()),
        ]
        .map(|(name, value)| format!("{name:<16} {value}\n"));
        let policy = self.policy.describe().into_iter().map(|rule| format!("{:<16} {rule}\n", "policy"));
        let own = self.own.specs().map(|spec| format!("{:<16} {}: {}\n", "own action", spec.name, spec.summary));
        Ok(settings.into_iter().chain(policy).chain(own).collect())
    }
}

/// How long the steps of the history are: as long as a sample at least.
fn history_step(set: Option<Duration>, sample_interval: Duration) -> Result<Option<Duration>, ConfigError> {
    let longest = limits::HISTORY_SPAN;
    match set {
        None => Ok(Some(HISTORY_STEP.max(sample_interval)).filter(|step| *step <= longest)),
        Some(Duration::ZERO) => Ok(None),
        Some(step) if step < sample_interval || step > longest || step.subsec_nanos() != 0 => {
            let longest = time::show_duration(longest);
            Err(ConfigError::Value(format!(
                "history_step must be 'off', or whole seconds from sample_interval to {longest}"
            )))
        }
        Some(step) => Ok(Some(step)),
    }
}

/// The policy that the settings amount to, and all actions that it is about.
fn judged(
    input: &policy::Input,
    allow: &[String],
    own: &OwnActions,
    warnings: &mut Vec<String>,
    unknown: &mut Vec<String>,
) -> Result<(Policy, Vec<ActionSpec>), ConfigError> {
    let specs: Vec<_> = actions::specs().into_iter().chain(own.specs().cloned()).collect();
    let off = specs.iter().filter(|spec| !input.allows_by_default(spec)).map(|spec| &spec.name);
    let locked: Vec<_> = off.chain(own.broken()).map(String::as_str).chain(policy::RIGHTS).collect();
    for name in allow.iter().filter(|name| !locked.contains(&name.as_str())) {
        let (meant, all) = (did_you_mean(name, &locked), locked.join(", "));
        unknown.push(format!("actions.allow names '{name}', but the actions that can be allowed are: {all}{meant}"));
    }
    let policy = Policy::new(input, allow, &specs)?;
    warnings.extend(policy.warnings(&specs));
    Ok((policy, specs))
}

/// The address in the flag, or else in the environment.
fn redis(flag: Option<&str>, warnings: &mut Vec<String>) -> Result<Option<Address>, ConfigError> {
    let named = |text: &str, origin| match text.parse::<Address>() {
        Ok(address) => Ok(Some(address)),
        Err(error) => Err(ConfigError::Value(format!("{origin}: {error}"))),
    };
    if let Some(text) = flag {
        let address = named(text, "--redis")?;
        if address.as_ref().is_some_and(Address::has_password) {
            warnings.push(environment::PASSWORD_SEEN.into());
        }
        return Ok(address);
    }
    match std::env::var(environment::REDIS) {
        Ok(text) if !text.is_empty() => named(&text, environment::REDIS),
        _ => Ok(None),
    }
}

/// The file, if there is one, and where its rules come from.
fn read(path: Option<&Path>, unknown: &mut Vec<String>) -> Result<(File, policy::Origin), ConfigError> {
    let Some(path) = path else { return Ok(Default::default()) };
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read(path.into(), error))?;
    let malformed = |error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        ConfigError::Malformed(path.into(), before.matches('\n').count() + 1, error.message().into())
    };
    let table = DeTable::parse(&text).map_err(malformed)?;
    for keys::Unknown { path: key, meant } in keys::unknown(table.get_ref()) {
        let problem = format!("{}: unknown key '{key}'{meant}", path.display());
        // Without its rules the worker would allow what it allows by default.
        if ["polic", "group", "rule"].iter().any(|word| key.starts_with(word)) || meant.contains("'policy'") {
            return Err(ConfigError::Value(problem));
        }
        unknown.push(problem);
    }
    let file = File::deserialize(toml::Deserializer::from(table)).map_err(malformed)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok((file, policy::Origin { name, text }))
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

/// `/etc/redfleet/allowed_signers` for root, within the XDG configuration directory for others.
fn default_trust() -> PathBuf {
    const NAME: &str = "redfleet/allowed_signers";
    if nix::unistd::geteuid().is_root() {
        return Path::new("/etc").join(NAME);
    }
    let home = || std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from).join(".config");
    std::env::var_os("XDG_CONFIG_HOME").map_or_else(home, PathBuf::from).join(NAME)
}

#[cfg(test)]
mod tests;
