//! What a deploy, a rollback and a recovery work with: the application, what is known of its releases, its service.

use std::{io, sync::Arc, time::Duration};

use protocol::{
    clock::FleetClock,
    time::{Millis, show_duration},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    error::DeployError,
    releases::Releases,
    settings::App,
    state::{Deploying, Locked, State, Step},
};
use crate::{
    detached,
    fault::{self, Point},
    live::Live,
    log::with_sources,
    program::Owner,
    services::{Check, Driven, Service, State as Standing, Tools, Up},
};

/// How long a process must be up before it takes over: that it works at all was looked at before.
const BRIEF: Duration = Duration::from_millis(200);

/// How long it may take to find out how a service stands, or what its log says.
const LOOK: Duration = Duration::from_secs(4);

/// Lines of the log that come with a failure.
const LINES: usize = 20;

/// How often is looked whether a release is still healthy.
const EVERY: Duration = Duration::from_millis(100);

/// How long a release must stay healthy where nothing says so.
const SETTLE: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Work {
    pub(super) app: Arc<App>,
    pub(super) locked: Locked,
    pub(super) releases: Releases,
    pub(super) service: Option<Service>,
    pub(super) owner: Owner,
    /// Who asks for it.
    pub(super) by: String,
    pub(super) live: Live,
    /// Cancelled when the command must end.
    pub(super) stop: CancellationToken,
    /// What was done, in words.
    pub(super) did: Vec<String>,
}

/// A token that is cancelled with another one, or after some time.
pub(super) struct Limited {
    pub(super) token: CancellationToken,
    timer: JoinHandle<()>,
}

impl Limited {
    fn new(stop: &CancellationToken, within: Duration) -> Self {
        let token = stop.child_token();
        let cancelled = token.clone();
        let timer = tokio::spawn(async move {
            sleep(within).await;
            cancelled.cancel();
        });
        Self { token, timer }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl Work {
    pub(super) fn state(&mut self) -> &mut State {
        &mut self.locked.state
    }

    /// Now, by the clock of this host.
    pub(super) fn now() -> Millis {
        FleetClock::local().now()
    }

    /// Writes down what is known.
    pub(super) async fn save(&self) -> Result<(), DeployError> {
        self.locked.save().await.map_err(DeployError::State)
    }

    /// Writes down that a deploy begins.
    pub(super) async fn begin(&mut self, version: &str, from: Option<&str>) -> Result<(), DeployError> {
        let (job, by, step) = (self.owner.job, self.by.clone(), Step::Preparing);
        let (version, from) = (version.to_owned(), from.map(str::to_owned));
        self.state().deploying = Some(Deploying { job, by, version, from, step });
        self.save().await
    }

    /// Writes down which step of the deploy at work comes next.
    pub(super) async fn advance(&mut self, step: Step) -> Result<(), DeployError> {
        if let Some(deploying) = &mut self.state().deploying {
            deploying.step = step;
        }
        self.save().await
    }

    /// Does something with the directories of the releases.
    pub(super) async fn disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Releases) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DeployError> {
        let releases = self.releases.clone();
        detached::call(move || work(&releases)).await.flatten().map_err(DeployError::Disk)
    }

    pub(super) fn tools<'a>(&'a self, stop: &'a CancellationToken) -> Tools<'a> {
        Tools { owner: self.owner.clone(), stop, live: &self.live }
    }

    /// What must pass for a release to be healthy.
    pub(super) fn check(&self) -> Option<Check> {
        self.app.check.clone().or_else(|| self.service.as_ref()?.up.check.clone())
    }

    /// When a process counts as one that may take over.
    pub(super) fn up(&self) -> Up {
        Up { settle: BRIEF, check: self.check() }
    }

    /// How long a release must stay healthy.
    pub(super) fn settle(&self) -> Duration {
        let own = self.app.settle.or_else(|| self.service.as_ref().map(|service| service.up.settle));
        // Where nothing can be looked at, there is nothing to wait for.
        own.unwrap_or(if self.check().is_some() { SETTLE } else { Duration::ZERO })
    }

    /// The version that runs: that of the service's process, where its driver knows it; else the one to which `current`
    /// leads, if the service is up or there is none.
    pub(super) async fn running(&self) -> Option<String> {
        let limited = Limited::new(&CancellationToken::new(), LOOK);
        let is_up = match &self.service {
            None => true,
            Some(Service { driven: Driven::Supervised(service), .. }) => match service.running().await.ok()? {
                Some(process) if process.release.is_some() => return process.release,
                process => process.is_some(),
            },
            Some(Service { driven, .. }) => {
                driven.standing(&self.tools(&limited.token)).await.ok()?.state == Standing::Up
            }
        };
        if is_up { self.disk(Releases::current).await.ok().flatten() } else { None }
    }

    /// Reads the last lines of the service's log, beside all else.
    pub(super) fn last_lines(&self) -> JoinHandle<String> {
        let (service, owner) = (self.service.clone(), self.owner.clone());
        tokio::spawn(async move {
            let Some(service) = service else { return String::new() };
            let (limited, live) = (Limited::new(&CancellationToken::new(), LOOK), Live::none());
            service.driven.last_lines(LINES, &Tools { owner, stop: &limited.token, live: &live }).await
        })
    }

    /// Lets `current` lead to this release.
    pub(super) async fn link(&mut self, version: &str) -> Result<(), DeployError> {
        let to = version.to_owned();
        self.disk(move |releases| releases.link(&to)).await?;
        self.did.push(format!("let current lead to {version}"));
        Ok(())
    }

    /// Lets link and service go to a release that ran well before, whatever becomes of the command.
    pub(super) async fn go_to(&mut self, version: &str) -> Result<(), DeployError> {
        let linked = match self.disk(Releases::current).await {
            Ok(current) if current.as_deref() == Some(version) => Ok(()),
            _ => self.link(version).await,
        };
        fault::point(Point::LinkedBack);
        let Some(service) = self.service.clone() else { return linked };
        let limited = Limited::new(&CancellationToken::new(), self.app.within.max(LOOK));
        let (tools, up) = (self.tools(&limited.token), self.up());
        match &service.driven {
            // It needs no link: it is started by the path of the release.
            Driven::Supervised(service) => {
                let running = service.running().await?.and_then(|process| process.release);
                if running.as_deref() != Some(version) {
                    service.of_release(version).take_over(&up, &tools).await?.switch(&up, &tools).await?;
                }
            }
            // It is started by the link.
            driven if linked.is_ok() => driven.restart(&up, &tools).await?,
            _ => return linked,
        }
        self.did.push(format!("let the service run {version}"));
        linked
    }

    /// Whether the link leads to this release, and no other one is known to run.
    pub(super) async fn is_at(&self, version: &str) -> bool {
        if !matches!(self.disk(Releases::current).await, Ok(Some(current)) if current == version) {
            return false;
        }
        let Some(Service { driven: Driven::Supervised(service), .. }) = &self.service else { return true };
        let running = service.running().await.ok().flatten().and_then(|process| process.release);
        running.is_none_or(|running| running == version)
    }

    /// Removes the releases that nobody needs any more. `prior`: one that is needed. What cannot be removed is no reason
    /// for a deploy to fail.
    pub(super) async fn prune(&mut self, prior: Option<&str>) {
        let keep = self.app.keep;
        let gone = self.state().prune(keep, prior);
        if gone.is_empty() {
            return;
        }
        for version in gone {
            let removed = version.clone();
            match self.disk(move |releases| releases.remove(&removed)).await {
                Ok(()) => self.did.push(format!("remove release {version}")),
                Err(error) => {
                    let (app, error) = (&self.app.name, with_sources(&error));
                    tracing::warn!("application {app}: release {version} cannot be removed: {error}");
                    self.did.push(format!("leave release {version}, which cannot be removed"));
                }
            }
            fault::point(Point::Pruned);
        }
        if let Err(error) = self.save().await {
            tracing::warn!("application {}: {}", self.app.name, with_sources(&error));
        }
    }

    /// Waits until the release is healthy: its check passes, and keeps passing for the settling time, with one process.
    /// `is_strict`: it has passed its check already.
    pub(super) async fn healthy(&self, is_strict: bool) -> Result<(), DeployError> {
        let (check, settle, begin) = (self.check(), self.settle(), Instant::now());
        let (mut since, mut pid) = (is_strict.then_some(begin), None);
        loop {
            match self.look(check.as_ref(), &mut pid).await {
                _ if self.stop.is_cancelled() => return Err(DeployError::Stopped),
                Ok(()) if since.get_or_insert_with(Instant::now).elapsed() >= settle => return Ok(()),
                Ok(()) => {}
                Err(Unhealthy::Check(problem)) if since.is_none() && begin.elapsed() < self.app.within => {
                    self.live.progress(format!("its check does not pass yet: {problem}"));
                }
                Err(Unhealthy::Check(problem)) => return Err(DeployError::Check(problem)),
                Err(Unhealthy::Service(problem)) => return Err(DeployError::Down(problem)),
            }
            tokio::select! {
                () = sleep(EVERY) => {}
                () = self.stop.cancelled() => return Err(DeployError::Stopped),
            }
        }
    }

    async fn look(&self, check: Option<&Check>, pid: &mut Option<i32>) -> Result<(), Unhealthy> {
        let tools = self.tools(&self.stop);
        if let Some(service) = &self.service {
            let standing = service.driven.standing(&tools).await;
            let standing = standing.map_err(|error| Unhealthy::Service(with_sources(&error)))?;
            if standing.state != Standing::Up {
                return Err(Unhealthy::Service(standing.detail));
            }
            let before = pid.replace(standing.main_pid.unwrap_or_default());
            if before.is_some_and(|before| Some(before) != *pid) {
                return Err(Unhealthy::Service("its process has ended, and was started again".into()));
            }
        }
        match check {
            Some(check) => check.run(&tools).await.map_err(Unhealthy::Check),
            None => Ok(()),
        }
    }

    /// What health is, in words.
    pub(super) fn describe_health(&self) -> String {
        let settle = show_duration(self.settle());
        match self.check() {
            Some(check) => format!("check it for {settle}: {}", check.describe()),
            None if self.service.is_some() => format!("see that it stays up for {settle}"),
            None => "check nothing, as there is neither a service nor a check".into(),
        }
    }

    /// A limit of the time in which a release must come up.
    pub(super) fn limited(&self) -> Limited {
        Limited::new(&self.stop, self.app.within)
    }
}

/// What is not as it should be.
enum Unhealthy {
    Check(String),
    Service(String),
}
