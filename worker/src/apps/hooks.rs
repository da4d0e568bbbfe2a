//! The hooks of an application: programs that prepare for a release, or make it ready.

use std::{collections::BTreeMap, path::Path};

use super::{error::DeployError, release::Course, work::Work};
use crate::{
    program::{self, Program},
    services::last_lines,
};

/// Lines of a hook's output that come with its failure.
const LINES: usize = 20;

/// Bytes of a hook's output that are kept.
const KEEP: usize = 64 * 1024;

impl Work {
    /// Runs a hook of the application, in the directory of the release. A rollback runs none.
    pub(super) async fn hook(&mut self, name: &'static str, course: &mut Course) -> Result<(), DeployError> {
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
                course.said = last_lines(&String::from_utf8_lossy(&said), LINES, KEEP);
                let how = status.map_or_else(|| "it could not be ended".to_owned(), |status| status.to_string());
                Err(DeployError::Hook(name, how))
            }
        }
    }
}
