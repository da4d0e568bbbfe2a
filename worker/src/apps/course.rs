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

use std::{collections::BTreeMap, path::Path};

use nix::unistd::{Uid, User, geteuid};
use protocol::artifact::{Artifact, ContentKey};
use tokio::time::Instant;

use super::{
    error::DeployError,
    settings::Rollback,
    state::{Ending, Release, Step},
    unpack::{Unpacked, unpack},
    work::Work,
};
use crate::{
    artifacts::Artifacts,
    detached,
    fault::{self, Bug, Point},
    log::with_sources,
    program::{self, Program},
    services::{Driven, ServiceError, Takeover, release::is_name},
};

/// Lines of the log that come with a failure.
const LINES: usize = 20;

/// Bytes of a hook's output that are kept.
const KEEP: usize = 64 * 1024;

/// Where the content comes from.
pub(crate) enum Source {
    /// Through Redis.
    Redis(ContentKey),
    /// By HTTP.
    Url(String),
}

/// What is asked for.
pub(super) enum Asked {
    /// A release with this content.
    Deploy { version: String, artifact: Artifact, source: Source },
    /// A release from before; the one proven before where none is named.
    Rollback { version: Option<String> },
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) app: String,
    pub(crate) version: String,
    /// What runs now.
    pub(crate) running: Option<String>,
    /// What ran before.
    pub(crate) prior: Option<String>,
    pub(crate) result: Ending,
    /// What was done; or in a dry run, what would be.
    pub(crate) steps: Vec<String>,
    pub(crate) is_dry: bool,
    /// Milliseconds from a failed check to the first step back.
    pub(crate) rollback_started_ms: Option<u64>,
    /// The last lines of the log of what failed.
    pub(crate) lines: String,
    /// In one sentence.
    pub(crate) problem: Option<String>,
}

/// A release on its way.
struct Course {
    version: String,
    /// What `current` led to before.
    prior: Option<String>,
    /// Its content; none for a rollback, which runs no hooks.
    artifact: Option<Artifact>,
    source: Option<Source>,
    /// Whether it is here, from a deploy before.
    is_here: bool,
    /// How it is called when it has ended well.
    success: Ending,
    /// What a hook said that failed.
    said: String,
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
        let course = self.judge(asked).await?;
        let is_current = self.state().current.as_deref() == Some(&course.version) && course.is_here;
        if is_current && running.as_ref() == Some(&course.version) {
            return Ok(self.report(&course, Ending::Already, running.clone(), running, Vec::new(), is_dry));
        }
        if is_dry {
            let steps = self.describe(&course);
            return Ok(self.report(&course, course.success, running.clone(), running, steps, true));
        }
        Ok(self.carry_out(course, running, artifacts).await)
    }

    /// Whether what is asked for can be done at all.
    async fn judge(&mut self, asked: Asked) -> Result<Course, DeployError> {
        let prior = self.state().current.clone();
        let said = String::new();
        match asked {
            Asked::Deploy { version, artifact, source } => {
                if !is_name(&version) {
                    return Err(DeployError::Version(crate::log::excerpt(&version, crate::log::NAME)));
                }
                let known = self.state().release(&version).map(|release| release.artifact.clone());
                if let Some(other) = known.as_ref().filter(|known| **known != artifact.to_string()) {
                    return Err(DeployError::Other(version, other.chars().take(12).collect()));
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
                    return Err(DeployError::NoRelease(crate::log::excerpt(&version, crate::log::NAME), there));
                }
                let (artifact, source) = (None, None);
                Ok(Course { version, prior, artifact, source, is_here: true, success: Ending::RolledBack, said })
            }
        }
    }

    fn report(
        &self,
        course: &Course,
        result: Ending,
        prior: Option<String>,
        running: Option<String>,
        steps: Vec<String>,
        is_dry: bool,
    ) -> Report {
        Report {
            app: self.app.name.clone(),
            version: course.version.clone(),
            running,
            prior,
            result,
            steps,
            is_dry,
            rollback_started_ms: None,
            lines: String::new(),
            problem: None,
        }
    }

    /// What would be done, in words.
    fn describe(&self, course: &Course) -> Vec<String> {
        let version = &course.version;
        let mut steps = Vec::new();
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
            let problem = self.proven(&course).await.err().map(|error| with_sources(&error));
            let running = self.running().await;
            let steps = std::mem::take(&mut self.did);
            return Report { problem, ..self.report(&course, course.success, ran, running, steps, false) };
        };

        let what = format!("version {} {}", course.version, with_sources(&error));
        let (result, problem, begun_ms, lines) = if switched {
            self.fall_back(&course, what, failed_at).await
        } else {
            let of_service = matches!(error, DeployError::Service(_) | DeployError::NotUp(_) | DeployError::Check(_));
            let lines = if of_service { self.last_lines(LINES).await } else { String::new() };
            (Ending::Failed, self.give_up(&course, what).await, None, lines)
        };
        let running = self.running().await;
        let steps = std::mem::take(&mut self.did);
        Report {
            rollback_started_ms: begun_ms,
            lines: std::mem::take(&mut course.said) + &lines,
            problem: Some(problem),
            ..self.report(&course, result, ran, running, steps, false)
        }
    }

    /// All that leaves alone what runs.
    async fn prepare(&mut self, course: &mut Course, artifacts: &Artifacts) -> Result<Ready, DeployError> {
        self.step(&course.version, course.prior.as_deref(), Step::Preparing).await?;
        fault::point(Point::Recording);
        if let (Some(artifact), Some(source), false) = (course.artifact, course.source.take(), course.is_here) {
            self.bring(course, artifact, source, artifacts).await?;
        }
        self.hook("before", course).await?;
        fault::point(Point::Hooked);

        let mut ready = Ready { takeover: None, is_checked: false };
        if let Some(Driven::Supervised(service)) = self.service.clone().map(|service| service.driven) {
            let (service, stop) = (service.of_release(&course.version), self.stop.clone());
            let (_limit, limited) = self.limited(&stop);
            let (tools, up) = (self.tools(&limited), self.up());
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

    /// Fetches and unpacks the release.
    async fn bring(
        &mut self,
        course: &Course,
        artifact: Artifact,
        source: Source,
        artifacts: &Artifacts,
    ) -> Result<(), DeployError> {
        let user = self.app.user.clone();
        let owner = match user {
            Some(user) => detached::call(move || find_owner(&user)).await.map_err(DeployError::Disk)?,
            None => Ok(None),
        };
        let owner = owner.map_err(DeployError::User)?;
        let fetched = match source {
            Source::Redis(key) => artifacts.fetch(artifact, key, self.owner.job, &self.stop, &self.live).await,
            Source::Url(url) => return Err(DeployError::Url(url)),
        };
        let mut fetched = match fetched {
            Err(_) if self.stop.is_cancelled() => return Err(DeployError::Stopped),
            fetched => fetched?,
        };
        self.did.push(format!("fetch {} bytes, SHA-256 {}…", artifact.bytes(), &artifact.sha256()[..12]));
        fault::point(Point::Fetched);

        let (version, bounds, stop) = (course.version.clone(), self.app.bounds, self.stop.clone());
        let draft = self.disk(move |releases| releases.begin(&version)).await?;
        let unpacked = detached::call(move || unpack(fetched.file(), &draft, owner, bounds, &|| stop.is_cancelled()));
        let Unpacked { bytes, files, tamed } = unpacked.await.map_err(DeployError::Disk)??;
        let tamed =
            if tamed > 0 { format!("; {tamed} without rights that their modes gave to others") } else { String::new() };
        self.did.push(format!("unpack {files} files and directories, {bytes} bytes{tamed}"));
        let version = course.version.clone();
        self.disk(move |releases| releases.sync(&version, owner)).await?;
        fault::point(Point::Unpacked);
        let version = course.version.clone();
        self.disk(move |releases| releases.place(&version)).await?;
        fault::point(Point::Placed);
        Ok(())
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
        let recorded = self.step(&version, course.prior.as_deref(), Step::Switching).await;
        if let Err(error) = recorded {
            self.state().current.clone_from(&course.prior);
            return Err(before(error));
        }
        fault::point(Point::Switching);

        self.link(&version).await.map_err(after)?;
        fault::point(Point::Linked);
        let Ready { takeover, mut is_checked } = ready;
        if let Some(service) = self.service.clone() {
            let stop = self.stop.clone();
            let (_limit, limited) = self.limited(&stop);
            let (tools, mut up) = (self.tools(&limited), self.up());
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
        Ok(())
    }

    /// Records that the release is proven, and removes those that nobody needs any more.
    async fn proven(&mut self, course: &Course) -> Result<(), DeployError> {
        let (now, version) = (Self::now(), course.version.clone());
        self.state().prove(&version, now);
        self.state().end(now, course.success, None);
        self.save().await?;
        fault::point(Point::Proven);
        let keep = self.app.keep;
        let gone = self.state().prune(keep, course.prior.as_deref());
        for version in gone {
            let removed = version.clone();
            self.disk(move |releases| releases.remove(&removed)).await?;
            fault::point(Point::Pruned);
            self.did.push(format!("remove release {version}"));
        }
        self.save().await
    }

    /// Ends what has switched nothing. Returns what to say.
    async fn give_up(&mut self, course: &Course, what: String) -> String {
        let (version, is_known) = (course.version.clone(), self.state().release(&course.version).is_some());
        let newly = course.artifact.is_some() && !course.is_here;
        if newly {
            self.state().releases.retain(|release| release.version != version);
        }
        let removed = self
            .disk(
                move |releases| if newly || !is_known { releases.remove(&version) } else { releases.discard(&version) },
            )
            .await;
        let stays = course.prior.as_deref().map_or_else(String::new, |prior| format!("; {prior} stays"));
        self.state().end(Self::now(), Ending::Failed, Some(what.clone()));
        let saved = self.save().await;
        let trouble =
            [removed.err(), saved.err()].into_iter().flatten().map(|error| format!("; {}", with_sources(&error)));
        format!("{what}{stays}{}", trouble.collect::<String>())
    }

    /// Goes back to what was proven. Returns how it ended, what to say, after how many milliseconds the first step was
    /// done, and the last lines of the log.
    async fn fall_back(
        &mut self,
        course: &Course,
        what: String,
        failed_at: Instant,
    ) -> (Ending, String, Option<u64>, String) {
        let version = &course.version;
        let safe = self.state().safe(version);
        let target = safe.filter(|_| self.app.rollback == Rollback::Automatic);
        let Some(target) = target else {
            let why = match self.app.rollback {
                Rollback::Forbidden => "its rollback is forbidden",
                Rollback::Automatic => "no release was proven before",
            };
            self.state().end(Self::now(), Ending::Kept, Some(what.clone()));
            let saved = self.save().await.err().map(|error| format!("; {}", with_sources(&error))).unwrap_or_default();
            return (Ending::Kept, format!("{what}; it stays, as {why}{saved}"), None, self.last_lines(LINES).await);
        };

        // A state that cannot be written must not keep anybody from going back.
        let recorded = self.step(version, course.prior.as_deref(), Step::RollingBack).await;
        fault::point(Point::RollingBack);
        let begun_ms = protocol::clock::millis(failed_at.elapsed());
        let lines = if self.service.is_some() { self.last_lines(LINES).await } else { String::new() };
        let stop = Self::unstoppable();
        let gone = self.go_to(&target, &stop).await;
        fault::point(Point::TakenBack);
        let end = match (gone, recorded) {
            (Ok(()), Ok(())) if self.service.is_some() => format!("rolled back to {target}, which is up"),
            (Ok(()), Ok(())) => format!("rolled back to {target}"),
            (Ok(()), Err(error)) => format!("rolled back to {target}; {}", with_sources(&error)),
            (Err(error), _) => format!("rolled back to {target}, which is not well either: {}", with_sources(&error)),
        };
        self.state().current = Some(target.clone());
        let now = Self::now();
        self.state().end(now, Ending::RolledBack, Some(what.clone()));
        let saved = self.save().await.err().map(|error| format!("; {}", with_sources(&error))).unwrap_or_default();
        fault::point(Point::Restored);
        (Ending::RolledBack, format!("{what}; {end}{saved}"), Some(begun_ms), lines)
    }

    /// Runs a hook of the application, in the directory of the release. A rollback runs none.
    async fn hook(&mut self, name: &'static str, course: &mut Course) -> Result<(), DeployError> {
        if course.artifact.is_none() {
            return Ok(());
        }
        let mut argv = if name == "before" { self.app.before.clone() } else { self.app.after.clone() };
        let Some(first) = argv.first_mut() else { return Ok(()) };
        let release = self.releases.directory(&course.version);
        // A program of the release is named by its path within it.
        if first.contains('/') && !Path::new(first.as_str()).is_absolute() {
            *first = release.join(&first).to_string_lossy().into_owned();
        }
        let env: BTreeMap<String, String> = [
            ("REDFLEET_APP", self.app.name.clone()),
            ("REDFLEET_VERSION", course.version.clone()),
            ("REDFLEET_RELEASE", release.to_string_lossy().into_owned()),
            ("REDFLEET_PRIOR", course.prior.clone().unwrap_or_default()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let program = Program { argv, cwd: Some(release), env, user: self.app.user.clone(), ..Program::default() };
        self.live.progress(format!("runs the hook {name}"));
        let ended = program::run(program, self.owner.clone(), KEEP, &self.stop, &self.live).await;
        let ended = match ended {
            Err(_) if self.stop.is_cancelled() => return Err(DeployError::Stopped),
            ended => ended.map_err(|error| DeployError::NoHook(name, error))?,
        };
        self.did.push(format!("run the hook {name}"));
        match ended.status {
            _ if self.stop.is_cancelled() => Err(DeployError::Stopped),
            Some(status) if status.success() => Ok(()),
            status => {
                let said = [&ended.stdout.kept[..], &ended.stderr.kept[..]].concat();
                course.said = crate::services::last_lines(&String::from_utf8_lossy(&said), LINES, KEEP);
                let how = status.map_or_else(|| "it could not be ended".to_owned(), |status| status.to_string());
                Err(DeployError::Hook(name, how))
            }
        }
    }
}

/// User and group of the files of a release; `None` where they are this process's.
fn find_owner(user: &str) -> Result<Option<(u32, u32)>, String> {
    let found = match user.parse() {
        Ok(id) => User::from_uid(Uid::from_raw(id)),
        Err(_) => User::from_name(user),
    };
    let found = found.map_err(|error| format!("'{user}' cannot be looked up: {error}"))?;
    let found = found.ok_or_else(|| format!("there is no user '{user}'"))?;
    if found.uid == geteuid() {
        return Ok(None);
    }
    if geteuid().is_root() {
        Ok(Some((found.uid.as_raw(), found.gid.as_raw())))
    } else {
        Err(format!("the worker must be root to give a release to '{user}'"))
    }
}
