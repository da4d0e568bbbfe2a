//! The settings of `ctl serve`, one section for each service.

use std::{fs, path::Path, process, time::Duration};

use anyhow::Context;
use serde::Deserialize;

use super::{
    alerts,
    dead_man::{self, DeadMan},
    receivers::{self, Receivers},
    span::duration,
};

/// Between two looks at the schedules where nothing else is set. A run that is due is not looked for later than that.
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// The settings as they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// What other instances know this one by.
    name: Option<String>,
    /// The longest time between two looks at the schedules.
    interval: Option<String>,
    /// What is told, and when.
    alerts: alerts::Section,
    /// Where alerts go.
    receivers: Vec<receivers::Setting>,
    /// Where pings go as long as everything works.
    dead_man: Option<dead_man::Setting>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// What other instances know this one by.
    pub name: String,
    /// The longest time between two looks at the schedules.
    pub interval: Duration,
    /// What is told, and when.
    pub alerts: alerts::Settings,
    /// Where alerts go.
    pub receivers: Receivers,
    /// Where pings go as long as everything works.
    pub dead_man: Option<DeadMan>,
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
        let own = || {
            let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
            format!("{}/{}", host.unwrap_or_else(|| "serve".to_owned()), process::id())
        };
        Ok(Self {
            name: file.name.filter(|name| !name.is_empty()).unwrap_or_else(own),
            interval: duration("interval", file.interval.as_deref(), INTERVAL, INTERVAL_MIN..=INTERVAL_MAX)?,
            alerts: file.alerts.judge(directory)?,
            receivers: Receivers::of(file.receivers)?,
            dead_man: file.dead_man.map(dead_man::Setting::judge).transpose()?,
        })
    }
}
