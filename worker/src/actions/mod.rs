//! What a worker can do.

mod collect;
mod exec;
mod ping;

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use protocol::{
    action::{ActionSpec, Arguments},
    name::{HostName, JobId},
    outcome::Captured,
};
use tokio_util::sync::CancellationToken;

use crate::{
    live::Live,
    log::{self, excerpt},
    metrics::{Collector, Figures, Group, MetricsError},
};

/// Actions that are off until the configuration allows them.
pub const SWITCHABLE: &[&str] = &["exec"];

/// Something a worker can do: its description and how it is done.
pub trait Action: Send + Sync {
    /// Name, parameters, repeatability.
    fn spec(&self) -> &ActionSpec;

    /// Commands with the same key run one after another in arrival order: those of the same service,
    /// or of the same application.
    fn exclusion(&self, _: &Arguments) -> Option<String> {
        None
    }

    /// Does it. The arguments have been checked against [`Self::spec`]. Must come to an end soon
    /// after `invocation.stop` is cancelled; what happened until then is still worth reporting.
    fn run(&self, invocation: Invocation) -> Running<'_>;
}

/// An action at work.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<Report, Failure>> + Send + 'a>>;

/// One call of an action.
pub struct Invocation {
    /// The job that asked.
    pub job: JobId,
    /// This host.
    pub host: HostName,
    /// Checked arguments.
    pub arguments: Arguments,
    /// Cancelled when the command must end: timeout, cancel, shutdown.
    pub stop: CancellationToken,
    /// Takes output as it is produced.
    pub live: Live,
}

/// What an action has to tell.
#[derive(Debug, Default)]
pub struct Report {
    /// The program's exit code, where it ran one that exited by itself.
    pub exit_code: Option<i32>,
    /// Why it failed, or what else is worth saying.
    pub remark: Option<String>,
    /// Whether a program was ended by a signal.
    pub killed: bool,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// Structured data.
    pub data: Option<Figures>,
    /// Metric groups to bring up to date with the result.
    pub metrics: Vec<(Group, Figures)>,
}

/// Why an action could not be done. Its text is the outcome's reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl From<MetricsError> for Failure {
    fn from(error: MetricsError) -> Self {
        Self(error.to_string())
    }
}

/// The actions of one worker, by name.
#[derive(Clone)]
pub struct Catalogue {
    actions: BTreeMap<String, Arc<dyn Action>>,
}

/// Why a worker does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It knows no such action.
    #[error("unknown action '{0}'")]
    Unknown(String),
    /// Its configuration does not allow it.
    #[error("'{0}' is not allowed by this worker's configuration (actions.allow)")]
    NotAllowed(String),
}

impl Catalogue {
    /// The built-in actions; of [`SWITCHABLE`] ones those in `allow`.
    pub fn new(collector: &Arc<Collector>, allow: &[String]) -> Self {
        let mut all: Vec<Arc<dyn Action>> = vec![Arc::new(ping::Ping::new()), Arc::new(exec::Exec::new())];
        all.extend(collect::all(collector));
        let allowed = |name: &str| !SWITCHABLE.contains(&name) || allow.iter().any(|allowed| allowed == name);
        let actions = all.into_iter().map(|action| (action.spec().name.clone(), action));
        Self { actions: actions.filter(|(name, _)| allowed(name)).collect() }
    }

    /// The action of that name.
    pub fn find(&self, name: &str) -> Result<&Arc<dyn Action>, Refusal> {
        let shown = || excerpt(name, log::NAME);
        self.actions.get(name).ok_or_else(|| {
            if SWITCHABLE.contains(&name) { Refusal::NotAllowed(shown()) } else { Refusal::Unknown(shown()) }
        })
    }

    /// The descriptions of all actions, as the facts publish them.
    pub fn specs(&self) -> Vec<&ActionSpec> {
        self.actions.values().map(|action| action.spec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_is_off_until_allowed() {
        let collector = Arc::new(Collector::new());
        let locked = Catalogue::new(&collector, &[]);
        assert!(matches!(locked.find("exec"), Err(Refusal::NotAllowed(_))));
        assert!(matches!(locked.find("exce"), Err(Refusal::Unknown(_))));
        assert!(Catalogue::new(&collector, &["exec".into()]).find("exec").is_ok());
    }

    #[test]
    fn the_promised_actions_are_there() {
        let catalogue = Catalogue::new(&Arc::new(Collector::new()), &["exec".into()]);
        let names: Vec<_> = catalogue.specs().iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "collect-all",
                "collect-cpu",
                "collect-disk",
                "collect-facts",
                "collect-load",
                "collect-memory",
                "collect-network",
                "collect-processes",
                "exec",
                "ping"
            ]
        );
    }
}
