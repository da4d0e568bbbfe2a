//! Services of the host: starting, stopping, restarting them, and knowing how they stand.
//!
//! A [`Driver`] knows one way to do that: `systemd`, a supervisor of our own (`supervised`), or commands that the settings
//! name (`commands`). What is common to all stands in [`up`](until_up): a service is up when its state has not changed, and
//! its main process is the same, for the settling time; and when its check passes.

mod check;
mod commands;
mod driven;
mod keeper;
pub(crate) mod release;
mod settings;
mod supervised;
mod systemd;
mod tools;
mod up;

use std::{future::Future, path::PathBuf, time::Duration};

use serde_json::{Map, Value};

pub(crate) use self::{
    check::{Check, Input as CheckInput},
    commands::Commands,
    driven::Driven,
    keeper::keep,
    settings::{Input, Registry, Service, Settings, SettingsError},
    supervised::{Supervised, Takeover},
    systemd::Systemd,
    tools::{Tools, last_lines},
};
use crate::{program::ProgramError, supervisor::client::SupervisorError};

/// What can be done to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Stop and start it; or replace its process.
    Restart,
    /// Let it read its settings anew.
    Reload,
}

/// How a service stands, in a word that means the same for each driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs.
    Up,
    /// It is on its way up.
    Starting,
    /// It is on its way down.
    Stopping,
    /// It does not run, and nobody wants it to.
    Down,
    /// It does not run, though it should.
    Failed,
}

impl State {
    /// The word in results.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Down => "down",
            Self::Failed => "failed",
        }
    }
}

/// How a service stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    /// In a word.
    pub(crate) state: State,
    /// As its driver says it: `active (running)`.
    pub(crate) detail: String,
    /// Its main process, where the driver knows one.
    pub(crate) main_pid: Option<i32>,
    /// What else the driver knows.
    pub(crate) more: Map<String, Value>,
}

/// When a service counts as up.
#[derive(Clone, Debug)]
pub(crate) struct Up {
    /// How long its state and its main process must stay as they are.
    pub(crate) settle: Duration,
    /// What it must be able to do then.
    pub(crate) check: Option<Check>,
}

impl Up {
    /// What is waited for and what is checked, in words.
    fn steps(&self) -> (String, Option<String>) {
        let settle = format!("wait until it has been up for {}", protocol::time::show_duration(self.settle));
        let check = self.check.as_ref().map(|check| format!("check it: {}", check.describe()));
        (settle, check)
    }
}

/// A way to look after services.
pub(crate) trait Driver: Send + Sync {
    /// Its name in the settings.
    const NAME: &'static str;

    /// How the service stands.
    fn standing(&self, tools: &Tools<'_>) -> impl Future<Output = Result<Standing, ServiceError>> + Send;

    /// Starts or restarts it; returns when it is up.
    fn raise(&self, verb: Verb, up: &Up, tools: &Tools<'_>) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Stops it; returns when it is down.
    fn stop(&self, tools: &Tools<'_>) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Lets it read its settings anew.
    fn reload(&self, tools: &Tools<'_>) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// The last lines of its log; empty where there are none.
    fn last_lines(&self, lines: usize, tools: &Tools<'_>) -> impl Future<Output = String> + Send;

    /// What would be done, step by step.
    fn steps(&self, verb: Verb, standing: &Standing, up: &Up) -> Vec<String>;
}

/// Why something could not be done to a service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// It cannot be the name of a service.
    #[error("'{0}' is no name of a service: letters, digits and :-_.@\\ are, and it begins with a letter or digit")]
    Name(String),
    /// The settings name none of this name, and no systemd runs here.
    #[error("there is no service '{0}' on this host: no systemd runs here, and its settings have no [services.{0}]{1}")]
    Unknown(String, String),
    /// systemd does not know the unit.
    #[error("there is no service '{0}' on this host: systemd knows no such unit{1}")]
    NoUnit(String, String),
    /// A supervisor is the worker's own program.
    #[error("this process cannot supervise services: it is not the program 'worker'")]
    NoSupervisor,
    /// A program could not be run.
    #[error("cannot run '{0}'")]
    Program(String, #[source] ProgramError),
    /// A program did not end well.
    #[error("'{0}': {1}{2}")]
    Failed(String, String, String),
    /// What a program says is not understood.
    #[error("'{0}' says nothing about the state of the service")]
    Mute(String),
    /// The release that is to run is not known.
    #[error("cannot read where its application's link 'current' leads")]
    Link(#[source] std::io::Error),
    /// What it prints cannot be written.
    #[error("cannot open its log")]
    Log(#[source] std::io::Error),
    /// The supervisor could not do it.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// It did not come up.
    #[error("it is not up: {0}")]
    NotUp(String),
    /// It did not come up in time.
    #[error("it was not up until then: {0}")]
    NotInTime(String),
    /// It came up again and again.
    #[error("it does not stay up: its main process was another one {0} times; {1}")]
    Unsteady(u32, String),
    /// It is not down.
    #[error("it is not down: {0}")]
    NotDown(String),
    /// The driver has no way to do it.
    #[error("the settings name no command to reload it: add reload = […] to [services.{0}], or restart it")]
    NoReload(String),
}

/// Where the data of services are, and which program supervises them.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// A directory for each service that is not systemd's.
    pub(crate) directory: PathBuf,
    /// The program `worker`, where this process is one.
    pub(crate) supervisor: Option<PathBuf>,
}
