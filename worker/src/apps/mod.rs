//! Applications that are deployed on this host: releases side by side, a link to the one that runs, and a service that is
//! taken over by it.
//!
//! On disk are, in the directory of the application, `releases/VERSION` (whole ones; one that is being made has another
//! name) and `current`, a link to the one that runs. What the worker knows about them is in its own state directory
//! ([`state`]): above all which were *proven* healthy. [`course`] is the way of a deploy, [`recovery`] what is done about
//! one whose worker has died, [`unpack`] what is done with archives that nobody need trust.

mod back;
mod bring;
mod course;
mod error;
mod hooks;
mod recovery;
mod release;
mod releases;
mod report;
mod settings;
pub(crate) mod state;
pub mod unpack;
mod work;

use std::{path::PathBuf, sync::Arc};

use protocol::name::{HostName, JobId};
use tokio_util::sync::CancellationToken;

pub use self::settings::{Settings, SettingsError};
use self::{course::Asked, releases::Releases, state::Locked, work::Work};
pub(crate) use self::{
    error::DeployError,
    release::Source,
    report::Report,
    settings::{App, Input},
};
use crate::{
    artifacts::Artifacts,
    detached,
    live::Live,
    log::with_sources,
    program::Owner,
    services::{Registry, Tools},
};

/// The applications of a host.
#[derive(Clone, Debug)]
pub(crate) struct Apps {
    settings: Settings,
    /// Where their states are.
    directory: PathBuf,
    registry: Registry,
    host: HostName,
}

/// The command that something is done for.
pub(crate) struct Commission {
    pub(crate) owner: Owner,
    /// Who asks for it.
    pub(crate) by: String,
    pub(crate) live: Live,
    pub(crate) stop: CancellationToken,
    pub(crate) is_dry: bool,
}

/// How an application stands.
pub(crate) struct Standing {
    pub(crate) state: state::State,
    pub(crate) directory: PathBuf,
    pub(crate) service: Option<String>,
    /// In a word.
    pub(crate) service_state: Option<String>,
    pub(crate) running: Option<String>,
    /// Where the link leads.
    pub(crate) current: Option<String>,
}

impl Apps {
    /// The applications of these settings. `directory`: where their states are.
    pub(crate) const fn new(settings: Settings, directory: PathBuf, registry: Registry, host: HostName) -> Self {
        Self { settings, directory, registry, host }
    }

    /// Deploys a release.
    ///
    /// # Errors
    /// It was not begun.
    pub(crate) async fn deploy(
        &self,
        app: &str,
        version: String,
        (artifact, source): (protocol::artifact::Artifact, Source),
        artifacts: &Artifacts,
        commission: Commission,
    ) -> Result<Report, DeployError> {
        self.run(app, Asked::Deploy { version, artifact, source }, artifacts, commission).await
    }

    /// Goes back to a release from before.
    ///
    /// # Errors
    /// It was not begun.
    pub(crate) async fn rollback(
        &self,
        app: &str,
        version: Option<String>,
        artifacts: &Artifacts,
        commission: Commission,
    ) -> Result<Report, DeployError> {
        self.run(app, Asked::Rollback { version }, artifacts, commission).await
    }

    async fn run(
        &self,
        app: &str,
        asked: Asked,
        artifacts: &Artifacts,
        commission: Commission,
    ) -> Result<Report, DeployError> {
        let app = self.settings.find(app)?;
        let (own, artifacts) = (self.clone(), artifacts.clone());
        // It outlives its command: whatever was begun has an end.
        let task = tokio::spawn(async move {
            let is_dry = commission.is_dry;
            let mut work = own.open(app, commission).await?;
            if is_dry {
                work.take_stock().await?;
            } else {
                work.recover().await?;
            }
            work.run(asked, &artifacts, is_dry).await
        });
        task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    async fn open(&self, app: Arc<App>, commission: Commission) -> Result<Work, DeployError> {
        let Commission { owner, by, live, stop, .. } = commission;
        let service = app.service.as_deref().map(|name| self.registry.find(name)).transpose()?;
        let path = state::path(&self.directory, &app.name);
        let locked = Locked::wait(path, &stop).await.map_err(DeployError::State)?.ok_or(DeployError::Busy)?;
        let releases = Releases::new(&app.directory);
        Ok(Work { app, locked, releases, service, owner, by, live, stop, did: Vec::new() })
    }

    /// How an application stands.
    ///
    /// # Errors
    /// There is none, or what is known of it cannot be read.
    pub(crate) async fn status(&self, app: &str, tools: &Tools<'_>) -> Result<Standing, DeployError> {
        let app = self.settings.find(app)?;
        let (path, releases) = (state::path(&self.directory, &app.name), Releases::new(&app.directory));
        let read = move || {
            let mut state = state::read(&path)?;
            state.releases.retain(|release| releases.has(&release.version));
            Ok((state, releases.current()?))
        };
        let (state, current) = detached::call(read).await.flatten().map_err(DeployError::State)?;
        let service = app.service.as_deref().map(|name| self.registry.find(name)).transpose()?;
        let (mut service_state, mut running) = (None, current.clone());
        if let Some(service) = service {
            let standing = service.driven.standing(tools).await?;
            let release = standing.more.get("release").and_then(serde_json::Value::as_str).map(str::to_owned);
            service_state = Some(standing.state.as_str().to_owned());
            running = release.or(current.clone().filter(|_| standing.state == crate::services::State::Up));
        }
        let (directory, service) = (app.directory.clone(), app.service.clone());
        Ok(Standing { state, directory, service, service_state, running, current })
    }

    /// Recovers from deploys in which a worker has died.
    pub(crate) async fn recover(self) {
        for app in self.settings.all() {
            let path = state::path(&self.directory, &app.name);
            let known = detached::call(move || state::read(&path)).await.flatten();
            if known.is_ok_and(|state| state.deploying.is_none()) {
                continue;
            }
            let (owner, stop) = (Owner { job: JobId::new(), host: self.host.clone() }, CancellationToken::new());
            let commission = Commission { owner, by: String::new(), live: Live::none(), stop, is_dry: false };
            let recovered = match self.open(Arc::clone(app), commission).await {
                Ok(mut work) => work.recover().await,
                Err(error) => Err(error),
            };
            if let Err(error) = recovered {
                tracing::error!("application {}: {}", app.name, with_sources(&error));
            }
        }
    }
}
