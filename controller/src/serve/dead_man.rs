//! The dead man's switch: an address outside that is pinged as long as everything here works, and tells people when no pings
//! come any more. A ping says that the services have done its work since the last one, with all that it had to read from
//! Redis and to write there.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Life, Vital,
    secret_file::SecretFile,
    span::duration,
    web::{Endpoint, Setting as Web},
};

/// What the service is called.
pub const NAME: &str = "dead man's switch";

/// Services that do their work again and again: where they run, no ping goes out before they have.
const WORKING: [&str; 3] = ["scheduler", "alerts", "deliveries"];

/// Services that may stand still while all else works: they depend on others than Redis, or only look at it.
const ASIDE: [&str; 3] = ["http", "remote write", "redis status"];

const EVERY: Duration = Duration::from_secs(60);
const EVERY_MIN: Duration = Duration::from_secs(1);
const EVERY_MAX: Duration = Duration::from_secs(24 * 3600);

/// Between two looks at whether everything works, and between two attempts.
const LOOK: Duration = Duration::from_millis(500);

/// Its settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    url: Option<String>,
    url_file: Option<SecretFile>,
    ca: Option<PathBuf>,
    every: Option<String>,
}

/// Where pings go.
#[derive(Clone, Debug)]
pub struct DeadMan {
    /// The address.
    pub endpoint: Endpoint,
    /// Between two pings.
    pub every: Duration,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// No ping goes out, as these services do not work.
    Withheld(Vec<&'static str>),
    /// A ping was not answered well.
    Failed(String),
    /// Pings go out again.
    Back,
}

impl Setting {
    /// Judges the settings.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn judge(self) -> anyhow::Result<DeadMan> {
        let Self { url, url_file, ca, every } = self;
        let judged = || -> anyhow::Result<DeadMan> {
            let every = duration("every", every.as_deref(), EVERY, EVERY_MIN..=EVERY_MAX)?;
            Ok(DeadMan { endpoint: Endpoint::new(Web { url, url_file, ca, ..Web::default() })?, every })
        };
        judged().context("dead_man")
    }
}

/// Sends pings as long as everything works.
///
/// # Errors
/// None: what goes wrong is said once, and tried again.
pub async fn run(life: Life, dead_man: DeadMan, say: impl Fn(Said)) -> anyhow::Result<()> {
    life.ready();
    let mut since = Instant::now();
    let mut due = since;
    let mut trouble = None;
    while !life.is_stopped() {
        if Instant::now() >= due {
            let idle = idle(&life.health().vitals(), since);
            let found = if idle.is_empty() {
                // What was done while the ping was on its way counts for the next one.
                let begun = Instant::now();
                let pinged = tokio::select! {
                    () = life.stopped() => return Ok(()),
                    pinged = dead_man.endpoint.get() => pinged,
                };
                match pinged {
                    Ok(()) => {
                        (since, due) = (begun, begun + dead_man.every);
                        None
                    }
                    Err(failure) => {
                        due = Instant::now() + dead_man.every.min(EVERY);
                        Some(Said::Failed(failure.reason))
                    }
                }
            } else if Instant::now() >= due + dead_man.every {
                Some(Said::Withheld(idle))
            } else {
                // Rounds are not in step with pings.
                trouble.clone()
            };
            told(&mut trouble, found, &say);
        }
        tokio::select! {
            () = life.stopped() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(())
}

/// Says what has changed: a trouble of one kind is said once.
fn told(before: &mut Option<Said>, now: Option<Said>, say: &impl Fn(Said)) {
    let kind = |said: &Option<Said>| said.as_ref().map(std::mem::discriminant);
    if kind(before) != kind(&now) {
        say(now.clone().unwrap_or(Said::Back));
    }
    *before = now;
}

/// The services that have not worked since.
fn idle(vitals: &[(&'static str, Vital)], since: Instant) -> Vec<&'static str> {
    let is_idle = |(name, vital): &&(&'static str, Vital)| match vital.worked {
        Some(worked) => worked < since,
        // Others only wait for requests.
        None => !vital.is_ready || WORKING.contains(name),
    };
    vitals.iter().filter(|(name, _)| !ASIDE.contains(name)).filter(is_idle).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_has_not_worked_since_the_last_ping_is_idle() {
        let since = Instant::now();
        let vital = |is_ready, worked| Vital { is_ready, worked, ..Vital::default() };
        let before = since.checked_sub(Duration::from_secs(1));
        let works = vital(true, Some(since));
        for (name, vital, is_idle) in [
            ("scheduler", vital(false, None), true),
            ("scheduler", vital(true, None), true),
            ("alerts", vital(true, None), true),
            ("scheduler", vital(true, before), true),
            ("scheduler", vital(true, Some(since)), false),
            ("listener", vital(true, None), false),
            ("listener", vital(false, None), true),
            ("remote write", vital(true, before), false),
            ("history", vital(true, before), true),
        ] {
            let idle = idle(&[("other", works), (name, vital)], since);
            assert_eq!(idle == [name], is_idle, "{name} {vital:?}");
        }
        assert!(idle(&[], since).is_empty());
    }

    #[test]
    fn each_trouble_is_said_once() {
        let said = std::cell::RefCell::new(Vec::new());
        let mut before = None;
        let withheld = Said::Withheld(vec!["scheduler"]);
        let failed = |why: &str| Some(Said::Failed(why.into()));
        for now in [None, failed("a"), failed("b"), Some(withheld.clone()), Some(withheld), None, None] {
            told(&mut before, now, &|what| said.borrow_mut().push(what));
        }
        let expected = [Said::Failed("a".into()), Said::Withheld(vec!["scheduler"]), Said::Back];
        assert_eq!(*said.borrow(), expected);
    }
}
