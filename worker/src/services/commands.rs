//! Services for which the settings name commands: start, stop, status, and perhaps restart and reload.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::Map;

use super::{
    Driver, ServiceError, Standing, State, Tools, Up, Verb,
    tools::{how_it_ended, logged, program},
    up::{Pace, until_up},
};
use crate::{
    detached,
    log::{self, excerpt},
    program::{Ended, Program},
    supervisor,
};

/// How often the status is asked for while the service comes up or goes down. A start command may return before the
/// status command finds what it has started.
const PACE: Pace = Pace { every: Duration::from_millis(250), lag: Duration::from_secs(10) };

/// The commands of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commands {
    pub(super) name: String,
    pub(super) start: Vec<String>,
    pub(super) stop: Vec<String>,
    pub(super) status: Vec<String>,
    pub(super) restart: Option<Vec<String>>,
    pub(super) reload: Option<Vec<String>>,
    pub(super) user: Option<String>,
    /// Where its log is.
    pub(super) directory: PathBuf,
}

impl Commands {
    /// Runs a command that starts the service. What it leaves behind is the service, and stays. It may go on printing to
    /// where the command printed, for longer than this worker lives: so that is the service's log.
    async fn launch(&self, argv: &[String], tools: &Tools<'_>) -> Result<(), ServiceError> {
        let directory = self.directory.clone();
        let log = detached::call(move || {
            supervisor::log::bound(&directory)?;
            supervisor::log::open(&directory)
        });
        let log = log.await.flatten().map_err(ServiceError::Log)?;
        self.finish(argv, Program { lasting: Some(Arc::new(log)), ..program(argv.iter().cloned()) }, tools).await
    }

    /// Runs another command. What it leaves behind is ended, and found after a death of this worker, as of any command.
    async fn run(&self, argv: &[String], tools: &Tools<'_>) -> Result<(), ServiceError> {
        self.finish(argv, program(argv.iter().cloned()), tools).await
    }

    async fn finish(&self, argv: &[String], program: Program, tools: &Tools<'_>) -> Result<(), ServiceError> {
        let program = Program { user: self.user.clone(), ..program };
        let ended = tools.shown(program).await?;
        how_it_ended(&ended).map_or(Ok(()), |how| Err(ServiceError::Failed(argv.join(" "), how, said(&ended))))
    }
}

/// The last line that a program has printed.
fn said(ended: &Ended) -> String {
    let text = [&ended.stdout.kept[..], &ended.stderr.kept[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let line = excerpt(text.trim().lines().last().unwrap_or_default(), log::SENTENCE);
    if line.is_empty() { line } else { format!(": {line}") }
}

impl Driver for Commands {
    const NAME: &'static str = "commands";

    /// As the LSB has it: exit code 0 means that it runs, 1 to 3 that it does not.
    async fn standing(&self, tools: &Tools<'_>) -> Result<Standing, ServiceError> {
        let words = Program { user: self.user.clone(), ..program(self.status.iter().cloned()) };
        let ended = tools.quiet(words).await?;
        let code = ended.status.and_then(|status| status.code());
        let state = match code {
            Some(0) => State::Up,
            Some(1..=3) => State::Down,
            _ => {
                let how = how_it_ended(&ended).unwrap_or_default();
                return Err(ServiceError::Failed(self.status.join(" "), how, said(&ended)));
            }
        };
        let detail = format!("status: exit code {}{}", code.unwrap_or_default(), said(&ended));
        Ok(Standing { state, detail, main_pid: None, more: Map::new() })
    }

    async fn raise(&self, verb: Verb, up: &Up, tools: &Tools<'_>) -> Result<(), ServiceError> {
        match &self.restart {
            Some(restart) if verb == Verb::Restart => self.launch(restart, tools).await?,
            _ => {
                if verb == Verb::Restart && self.standing(tools).await?.state == State::Up {
                    self.stop(tools).await?;
                }
                self.launch(&self.start, tools).await?;
            }
        }
        until_up(self, PACE, up, tools).await
    }

    async fn stop(&self, tools: &Tools<'_>) -> Result<(), ServiceError> {
        self.run(&self.stop, tools).await?;
        loop {
            let standing = self.standing(tools).await?;
            if standing.state == State::Down {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(PACE.every) => {}
                () = tools.stop.cancelled() => return Err(ServiceError::NotDown(standing.detail)),
            }
        }
    }

    async fn reload(&self, tools: &Tools<'_>) -> Result<(), ServiceError> {
        let reload = self.reload.as_ref().ok_or_else(|| ServiceError::NoReload(self.name.clone()))?;
        self.run(reload, tools).await
    }

    /// Those of what its commands and its processes have printed. A log of its own is not known.
    async fn last_lines(&self, lines: usize, _: &Tools<'_>) -> String {
        logged(&self.directory, lines).await
    }

    fn steps(&self, verb: Verb, standing: &Standing, up: &Up) -> Vec<String> {
        let run = |argv: &[String]| format!("run {}", argv.join(" "));
        let (settle, check) = up.steps();
        let waits = [settle].into_iter().chain(check);
        match verb {
            Verb::Stop => vec![run(&self.stop), "wait until its status says that it is down".into()],
            Verb::Reload => vec![self.reload.as_deref().map_or("fail: there is no command to reload it".into(), run)],
            Verb::Start => [run(&self.start)].into_iter().chain(waits).collect(),
            Verb::Restart => {
                let mut steps = Vec::new();
                if let Some(restart) = &self.restart {
                    steps.push(run(restart));
                } else {
                    steps.extend((standing.state == State::Up).then(|| run(&self.stop)));
                    steps.push(run(&self.start));
                }
                steps.extend(waits);
                steps
            }
        }
    }
}
