//! Services of systemd, by `systemctl`. What it says is read back; no shell is involved.

use std::{collections::HashMap, time::Duration};

use serde_json::json;

use super::{
    Driver, ServiceError, Standing, State, Tools, Up, Verb,
    tools::{how_it_ended, last_lines, program},
    up::{Pace, until_up},
};
use crate::log::{self, excerpt};

/// What is asked about a unit.
const PROPERTIES: &str = "LoadState,ActiveState,SubState,Result,MainPID,NRestarts,Type";

/// How often the state of a unit that is on its way up is asked for.
const PACE: Pace = Pace { every: Duration::from_millis(250), lag: Duration::ZERO };

/// Bytes of the journal that are shown.
const JOURNAL_BYTES: usize = 16 * 1024;

/// A unit of systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Systemd {
    /// The unit's name. It was checked when it was read: it begins with a letter or digit.
    pub(super) unit: String,
    /// Services of the settings, for the error that names them.
    pub(super) known: String,
}

impl Systemd {
    /// Whether systemd runs this machine.
    pub(super) fn is_here() -> bool {
        std::path::Path::new("/run/systemd/system").is_dir()
    }

    /// Runs `systemctl` for the unit.
    async fn systemctl(&self, words: &[&str], tools: &Tools<'_>) -> Result<String, ServiceError> {
        let words = ["systemctl", "--no-pager", "--no-ask-password"].iter().chain(words).chain(&["--"]);
        let ended = tools.quiet(program(words.map(|word| (*word).to_owned()).chain([self.unit.clone()]))).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match how_it_ended(&ended) {
            None => Ok(text(&ended.stdout.kept)),
            Some(how) => {
                let (said, line) = (text(&ended.stderr.kept), format!("systemctl … {}", self.unit));
                let said = excerpt(said.lines().next().unwrap_or_default(), log::SENTENCE);
                Err(ServiceError::Failed(line, how, if said.is_empty() { said } else { format!(": {said}") }))
            }
        }
    }
}

/// What `systemctl show` says about a unit, as our own words.
fn read(text: &str) -> Option<(Standing, bool)> {
    let properties: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let get = |name: &str| properties.get(name).copied();
    let (active, sub, result) = (get("ActiveState")?, get("SubState")?, get("Result").unwrap_or_default());
    // A unit that only runs to its end has done all that it is for.
    let done = get("Type") == Some("oneshot") && active == "inactive" && result == "success";
    let state = match active {
        "active" | "reloading" | "refreshing" => State::Up,
        "activating" => State::Starting,
        "deactivating" => State::Stopping,
        "failed" => State::Failed,
        _ => State::Down,
    };
    let why = if matches!(result, "" | "success") { String::new() } else { format!(", result {result}") };
    let restarts: u64 = get("NRestarts").and_then(|count| count.parse().ok()).unwrap_or(0);
    let more = json!({ "restarts": restarts, "result": result });
    let standing = Standing {
        state,
        detail: format!("{active} ({sub}){why}"),
        main_pid: get("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 0),
        more: more.as_object().cloned().unwrap_or_default(),
    };
    Some((standing, done))
}

impl Systemd {
    async fn show(&self, tools: &Tools<'_>) -> Result<(Standing, bool), ServiceError> {
        let text = self.systemctl(&["show", "--property", PROPERTIES], tools).await?;
        if text.lines().any(|line| line == "LoadState=not-found") {
            return Err(ServiceError::NoUnit(self.unit.clone(), self.known.clone()));
        }
        read(&text).ok_or_else(|| ServiceError::Mute(format!("systemctl show {}", self.unit)))
    }
}

impl Driver for Systemd {
    const NAME: &'static str = "systemd";

    async fn standing(&self, tools: &Tools<'_>) -> Result<Standing, ServiceError> {
        Ok(self.show(tools).await?.0)
    }

    async fn raise(&self, verb: Verb, up: &Up, tools: &Tools<'_>) -> Result<(), ServiceError> {
        let word = if verb == Verb::Restart { "restart" } else { "start" };
        self.systemctl(&[word], tools).await?;
        if self.show(tools).await?.1 {
            return Ok(());
        }
        until_up(self, PACE, up, tools).await
    }

    async fn stop(&self, tools: &Tools<'_>) -> Result<(), ServiceError> {
        self.systemctl(&["stop"], tools).await?;
        let standing = self.standing(tools).await?;
        // A program that does not end well when it is told to has ended all the same.
        if matches!(standing.state, State::Down | State::Failed) {
            Ok(())
        } else {
            Err(ServiceError::NotDown(standing.detail))
        }
    }

    async fn reload(&self, tools: &Tools<'_>) -> Result<(), ServiceError> {
        self.systemctl(&["reload"], tools).await.map(drop)
    }

    async fn last_lines(&self, lines: usize, tools: &Tools<'_>) -> String {
        let count = lines.to_string();
        let words =
            ["journalctl", "--no-pager", "--quiet", "--output=short-iso", "--lines", &count, "--unit", &self.unit];
        match tools.quiet(program(words)).await {
            Ok(ended) => last_lines(&String::from_utf8_lossy(&ended.stdout.kept), lines, JOURNAL_BYTES),
            Err(error) => format!("no lines of the journal: {}\n", log::with_sources(&error)),
        }
    }

    fn steps(&self, verb: Verb, _: &Standing, up: &Up) -> Vec<String> {
        let word = match verb {
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Restart => "restart",
            Verb::Reload => "reload",
        };
        let own = format!("run systemctl {word} {}", self.unit);
        let waits = matches!(verb, Verb::Start | Verb::Restart).then(|| up.steps());
        let waits = waits.into_iter().flat_map(|(settle, check)| [settle].into_iter().chain(check));
        [own].into_iter().chain(waits).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_says_is_understood() {
        let read =
            |text: &str| read(text).map(|(standing, done)| (standing.state, standing.detail, standing.main_pid, done));
        let text = "Type=notify\nMainPID=4711\nNRestarts=2\nResult=success\nLoadState=loaded\nActiveState=active\nSubState=running";
        assert_eq!(read(text), Some((State::Up, "active (running)".into(), Some(4711), false)));
        let text = "MainPID=0\nResult=exit-code\nActiveState=failed\nSubState=failed";
        assert_eq!(read(text), Some((State::Failed, "failed (failed), result exit-code".into(), None, false)));
        let text = "ActiveState=activating\nSubState=auto-restart\nResult=exit-code";
        assert_eq!(read(text).unwrap().0, State::Starting);
        let text = "Type=oneshot\nActiveState=inactive\nSubState=dead\nResult=success";
        assert_eq!(read(text), Some((State::Down, "inactive (dead)".into(), None, true)));
        assert_eq!(read("Failed to connect to bus"), None);
    }
}
