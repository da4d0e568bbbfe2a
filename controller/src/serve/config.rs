//! The settings of `ctl serve`, one section for each service.

use std::{fs, path::Path, process, time::Duration};

use anyhow::Context;
use serde::Deserialize;

use super::{
    alerts,
    dead_man::{self, DeadMan},
    http::settings::{Http, Section},
    receivers::{self, Receivers},
    redis_status,
    remote_write::settings as remote_write,
    span::duration,
};

/// Between two looks at the schedules where nothing else is set. A run that is due is not looked for later than that.
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// What is sent 5 s behind its time is late.
const INTERVAL_MAX: Duration = Duration::from_secs(4);

/// The settings as they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// What other instances know this one by.
    name: Option<String>,
    /// The longest time between two looks at the schedules.
    interval: Option<String>,
    /// How Redis itself is.
    redis_status: RedisStatus,
    /// What is told, and when.
    alerts: alerts::Section,
    /// Where alerts go.
    receivers: Vec<receivers::Setting>,
    /// Where pings go as long as everything works.
    dead_man: Option<dead_man::Setting>,
    /// Where figures are sent.
    remote_write: Option<remote_write::Section>,
    /// Where to listen, and who may ask.
    http: Section,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RedisStatus {
    /// How often it is looked at, in whole seconds.
    every: Option<String>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// What other instances know this one by.
    pub name: String,
    /// What its own figures are known by: the same when it is started again.
    pub instance: String,
    /// The longest time between two looks at the schedules.
    pub interval: Duration,
    /// How often Redis itself is looked at, in whole seconds.
    pub redis_status_every: Duration,
    /// What is told, and when.
    pub alerts: alerts::Settings,
    /// Where alerts go.
    pub receivers: Receivers,
    /// Where pings go as long as everything works.
    pub dead_man: Option<DeadMan>,
    /// Where figures are sent, if anywhere.
    pub remote_write: Option<remote_write::Settings>,
    /// Where to listen, and who may ask.
    pub http: Http,
}

impl Config {
    /// Reads a file of settings. Without one, everything is as it is by default.
    ///
    /// # Errors
    /// It cannot be read, or what it says cannot be.
    pub fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = match path {
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                toml::from_str(&text).with_context(|| path.display().to_string())?
            }
            None => File::default(),
        };
        let directory = path.and_then(Path::parent);
        Self::judge(file, directory)
            .with_context(|| path.map_or_else(|| "the settings".into(), |path| path.display().to_string()))
    }

    fn judge(file: File, directory: Option<&Path>) -> anyhow::Result<Self> {
        let name = file.name.filter(|name| !name.is_empty());
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let host = host.unwrap_or_else(|| "serve".to_owned());
        let (alerts, receivers) = (file.alerts.judge(directory)?, Receivers::of(file.receivers)?);
        let told = alerts.receivers.iter().flatten().chain(alerts.rules.iter().flat_map(|rule| &rule.rule.receivers));
        for name in told {
            let known: Vec<_> = receivers.names().collect();
            anyhow::ensure!(
                known.contains(&name.as_str()),
                "no [[receivers]] is called '{name}', which alerts are to tell: there {}",
                if known.is_empty() { "is none".to_owned() } else { format!("are {}", known.join(", ")) }
            );
        }
        Ok(Self {
            name: name.clone().unwrap_or_else(|| format!("{host}/{}", process::id())),
            instance: name.unwrap_or(host),
            interval: duration("interval", file.interval.as_deref(), INTERVAL, INTERVAL_MIN..=INTERVAL_MAX)?,
            redis_status_every: duration(
                "redis_status.every",
                file.redis_status.every.as_deref(),
                redis_status::EVERY,
                redis_status::EVERY_MIN..=redis_status::EVERY_MAX,
            )?,
            alerts,
            receivers,
            dead_man: file.dead_man.map(dead_man::Setting::judge).transpose()?,
            remote_write: file.remote_write.map(remote_write::Settings::judge).transpose()?,
            http: Http::judge(file.http)?,
        })
    }
}
