//! The course of a deploy: from the content to a release that is proven to be healthy, or back.
//!
//! ```text
//!               recorded: preparing                     recorded: switching        recorded: its end
//!     begin ─────────────────────────────▶ ready ───────────────────────────▶ proven ──▶ (prune)
//!             fetch, unpack, sync, place,     │   link, service, hook `after`,   ▲
//!             hook `before`, candidate        │   check for the settling time    │
//!                  │ fails                    ▼ fails                            │
//!                  ▼                     recorded: rolling back ──▶ the release proven before runs
//!             (all as it was)
//! ```
//!
//! All of it is a task of its own: it goes on when its command has been given up, until the host is at one release.

use protocol::artifact::Artifact;
use tokio::time::Instant;

use super::{
    back::Fallen,
    error::DeployError,
    release::{Course, Source},
    report::Report,
    settings::Rollback,
    state::{Ending, Release, Step},
    work::Work,
};
use crate::{
    artifacts::Artifacts,
    fault::{self, Bug, Point},
    log::{self, excerpt, with_sources},
    services::{Driven, ServiceError, Takeover, release::is_name},
};

/// What is asked for.
pub(super) enum Asked {
    /// A release with this content.
    Deploy { version: String, artifact: Artifact, source: Source },
    /// A release from before; the one proven before where none is named.
    Rollback { version: Option<String> },
}

/// What is ready to become the running release.
struct Ready {
    takeover: Option<Takeover>,
    /// Whether its check has passed already.
    is_checked: bool,
}

impl Work {
    /// Does what is asked for.
    ///
    /// # Errors
    /// It was not begun. An end that is not good is in the report.
    pub(super) async fn run(
        mut self,
        asked: Asked,
        artifacts: &Artifacts,
        is_dry: bool,
    ) -> Result<Report, DeployError> {
        let running = self.running().await;
        let course = self.judge(asked)?;
        // One that runs without being proven is looked at again.
        let (state, version) = (&self.locked.state, Some(&course.version));
        let is_proven = state.current.as_ref() == version && state.proven.as_ref() == version;
        if is_proven && running.as_ref() == Some(&course.version) {
            return Ok(self.report(&course, Ending::Already, running.clone(), running, Vec::new(), is_dry));
        }
        if is_dry {
            let steps = self.describe(&course);
            return Ok(self.report(&course, course.success, running.clone(), running, steps, true));
        }
        Ok(self.carry_out(course, running, artifacts).await)
    }

    /// Whether what is asked for can be done at all.
    fn judge(&mut self, asked: Asked) -> Result<Course, DeployError> {
        let prior = self.state().current.clone();
        let said = String::new();
        match asked {
            Asked::Deploy { version, artifact, source } => {
                if !is_name(&version) {
                    return Err(DeployError::Version(excerpt(&version, log::NAME)));
                }
                if let Source::Url(url) = &source
                    && !self.app.urls.iter().any(|beginning| url.to_string().starts_with(beginning.as_str()))
                {
                    return Err(DeployError::Url(excerpt(&url.to_string(), log::SENTENCE)));
                }
                let known = self.state().release(&version).map(|release| release.artifact.clone());
                if let Some(other) = known.as_ref().filter(|known| **known != artifact.to_string()) {
                    return Err(DeployError::Other(version, other.chars().take(12).collect()));
                }
                if known.is_none() && self.releases.has(&version) {
                    return Err(DeployError::Stranger(self.releases.directory(&version)));
                }
                let (artifact, source) = (Some(artifact), Some(source));
                let is_here = known.is_some();
                Ok(Course { version, prior, artifact, source, is_here, success: Ending::Deployed, said })
            }
            Asked::Rollback { version } => {
                if self.app.rollback == Rollback::Forbidden {
                    return Err(DeployError::Forbidden(self.app.name.clone()));
                }
                let state = self.state();
                let before =
                    || prior.as_deref().map_or_else(|| state.proven.clone(), |prior| state.proven_before(prior));
                let version = version.or_else(before).ok_or(DeployError::NothingProven)?;
                if state.release(&version).is_none() {
                    let there: Vec<_> = state.releases.iter().map(|release| release.version.as_str()).collect();
                    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
                    return Err(DeployError::NoRelease(excerpt(&version, log::NAME), there));
                }
                let (artifact, source) = (None, None);
                Ok(Course { version, prior, artifact, source, is_here: true, success: Ending::RolledBack, said })
            }
        }
    }

    /// What would be done, in words.
    fn describe(&self, course: &Course) -> Vec<String> {
        let version = &course.version;
        let mut steps = Vec::new();
        if let Some(interrupted) = &self.locked.state.deploying {
            steps.push(format!("end the deploy of {} that was interrupted", interrupted.version));
        }
        if let Some(artifact) = course.artifact.filter(|_| !course.is_here) {
            steps.push(format!("fetch {} bytes, SHA-256 {}…", artifact.bytes(), &artifact.sha256()[..12]));
            steps.push(format!("unpack them into {}", self.releases.directory(version).display()));
        }
        let hook = |name: &str, argv: &[String]| {
            (course.artifact.is_some() && !argv.is_empty()).then(|| format!("run the hook {name}: {}", argv.join(" ")))
        };
        steps.extend(hook("before", &self.app.before));
        if let Some((name, service)) = self.app.service.as_ref().zip(self.service.as_ref()) {
            if matches!(service.driven, Driven::Supervised(_)) {
                steps.push(format!("start {version} of the service {name}, and check it, before it takes over"));
            } else {
                steps.push(format!("restart the service {name} when current leads to {version}"));
            }
        }
        let from = course.prior.as_deref().map(|prior| format!(" instead of {prior}")).unwrap_or_default();
        steps.push(format!("let current lead to {version}{from}"));
        steps.extend(hook("after", &self.app.after));
        steps.push(self.describe_health());
        steps
    }

    async fn carry_out(mut self, mut course: Course, ran: Option<String>, artifacts: &Artifacts) -> Report {
        let ready = self.prepare(&mut course, artifacts).await;
        let (failed, switched) = match ready {
            Err(error) => (Some(error), false),
            Ok(ready) => match self.switch(&mut course, ready).await {
                Ok(()) => (None, true),
                Err((error, switched)) => (Some(error), switched),
            },
        };
        let failed_at = Instant::now();
        let Some(error) = failed else {
            self.prune(course.prior.as_deref()).await;
            let running = self.running().await;
            let steps = std::mem::take(&mut self.did);
            return self.report(&course, course.success, ran, running, steps, false);
        };

        let what = format!("version {} {}", course.version, with_sources(&error));
        let Fallen { result, problem, rollback_started_ms, lines } = if switched {
            self.fall_back(&course, what, failed_at).await
        } else {
            let of_service = matches!(error, DeployError::Service(_) | DeployError::NotUp(_) | DeployError::Check(_));
            let lines = if of_service { self.last_lines().await.unwrap_or_default() } else { String::new() };
            let problem = self.give_up(&course, what).await;
            Fallen { result: Ending::Failed, problem, rollback_started_ms: None, lines }
        };
        let running = self.running().await;
        let steps = std::mem::take(&mut self.did);
        Report {
            rollback_started_ms,
            lines: std::mem::take(&mut course.said) + &lines,
            problem: Some(problem),
            ..self.report(&course, result, ran, running, steps, false)
        }
    }

    /// All that leaves alone what runs.
    async fn prepare(&mut self, course: &mut Course, artifacts: &Artifacts) -> Result<Ready, DeployError> {
        self.begin(&course.version, course.prior.as_deref()).await?;
        fault::point(Point::Recording);
        if let (Some(artifact), Some(source), false) = (course.artifact, course.source.take(), course.is_here) {
            self.bring(course, artifact, source, artifacts).await?;
        }
        self.hook("before", course).await?;
        fault::point(Point::Hooked);

        let mut ready = Ready { takeover: None, is_checked: false };
        if let Some(Driven::Supervised(service)) = self.service.clone().map(|service| service.driven) {
            let (service, limited) = (service.of_release(&course.version), self.limited());
            let (tools, up) = (self.tools(&limited.token), self.up());
            let tried = self.explained(service.try_out(&up, &tools).await)?;
            fault::point(Point::Tried);
            ready.is_checked = tried || up.check.is_none();
            ready.takeover = Some(self.explained(service.take_over(&up, &tools).await)?);
            self.did.push(format!("start {} of the service beside what ran", course.version));
        }
        fault::point(Point::Prepared);
        if self.stop.is_cancelled() { Err(DeployError::Stopped) } else { Ok(ready) }
    }

    /// What a service said, or that the command had to end.
    fn explained<T>(&self, said: Result<T, ServiceError>) -> Result<T, DeployError> {
        match said {
            Err(_) if self.stop.is_cancelled() => Err(DeployError::Stopped),
            Err(ServiceError::NotInTime(problem)) => Err(DeployError::Check(problem)),
            Err(ServiceError::NotUp(problem) | ServiceError::Unsteady(_, problem)) => Err(DeployError::NotUp(problem)),
            said => Ok(said?),
        }
    }

    /// Lets the release become the running one, and sees that it is healthy. The error says whether anything was switched.
    async fn switch(&mut self, course: &mut Course, ready: Ready) -> Result<(), (DeployError, bool)> {
        let before = |error| (error, false);
        let after = |error| (error, true);
        let version = course.version.clone();
        if fault::planted(Bug::SwitchBeforeRecord) {
            self.link(&version).await.map_err(before)?;
            fault::point(Point::Linked);
        }
        if let Some(artifact) = course.artifact.filter(|_| !course.is_here) {
            let (by, job, artifact) = (self.by.clone(), self.owner.job, artifact.to_string());
            let release = Release {
                version: version.clone(),
                artifact,
                deployed_at_ms: Self::now(),
                by,
                job,
                proven_at_ms: None,
            };
            self.state().releases.push(release);
        }
        self.state().current = Some(version.clone());
        let recorded = self.advance(Step::Switching).await;
        if let Err(error) = recorded {
            self.state().current.clone_from(&course.prior);
            return Err(before(error));
        }
        fault::point(Point::Switching);

        self.link(&version).await.map_err(after)?;
        fault::point(Point::Linked);
        let Ready { takeover, mut is_checked } = ready;
        if let Some(service) = self.service.clone() {
            let limited = self.limited();
            let (tools, mut up) = (self.tools(&limited.token), self.up());
            let said = match takeover {
                Some(takeover) => {
                    // What has passed is not asked for again before it is asked for again and again.
                    up.check = up.check.filter(|_| !is_checked);
                    takeover.switch(&up, &tools).await
                }
                None => service.driven.restart(&up, &tools).await,
            };
            self.explained(said).map_err(after)?;
            is_checked = true;
            self.did.push(format!("let the service run {version}"));
        }
        fault::point(Point::TakenOver);
        self.hook("after", course).await.map_err(after)?;
        self.healthy(is_checked).await.map_err(after)?;
        self.did.push(self.describe_health());
        fault::point(Point::Healthy);
        self.proven(course).await.map_err(after)
    }

    /// Records that the release is proven. Where that cannot be recorded, it is not: the next worker would go back.
    async fn proven(&mut self, course: &Course) -> Result<(), DeployError> {
        let (now, version, before) = (Self::now(), course.version.as_str(), self.state().clone());
        match course.success {
            Ending::RolledBack => self.state().prove_again(version, course.prior.as_deref(), now),
            _ => self.state().prove(version, now),
        }
        self.state().end(now, course.success, None);
        if let Err(error) = self.save().await {
            *self.state() = before;
            return Err(error);
        }
        fault::point(Point::Proven);
        Ok(())
    }
}
