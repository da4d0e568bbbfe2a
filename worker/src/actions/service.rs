//! `start`, `stop`, `restart`, `reload` and `status`: the services of the host.

use std::{sync::Arc, time::Duration};

use protocol::{
    action::{ActionSpec, CHANGED, Kind, Parameter, Repeat, WOULD},
    clock::millis,
    outcome::Captured,
};
use serde::Deserialize;
use serde_json::json;

use super::{Action, Context, Failure, Output, Subjects};
use crate::{
    metrics::Figures,
    services::{Commands, Driven, Driver, Standing, State, Supervised, Systemd, Tools, Up, Verb},
};

/// How long it may take, draining and coming up included.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Lines of its log that are shown if something fails.
const LINES: usize = 20;

/// An action that changes a service.
pub(super) struct Change {
    pub(super) verb: Verb,
    pub(super) subjects: Arc<Subjects>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeArguments {
    service: String,
    #[serde(default)]
    dry_run: bool,
}

/// The parameter that names the service.
fn service() -> Parameter {
    let summary = "its name in the host's settings, or that of its unit where systemd runs";
    Parameter { required: true, ..Parameter::optional("service", Kind::Text, summary) }
}

impl Action for Change {
    type Arguments = ChangeArguments;

    fn spec(&self) -> ActionSpec {
        let (name, summary) = match self.verb {
            Verb::Start => ("start", "Start a service, and wait until it is up"),
            Verb::Stop => ("stop", "Stop a service, with all its processes"),
            Verb::Restart => ("restart", "Restart a service, and wait until it is up"),
            Verb::Reload => ("reload", "Let a service read its configuration anew"),
        };
        let spec = ActionSpec::repeatable(name, summary);
        let parameters = vec![service(), Parameter::dry_run()];
        ActionSpec { repeat: Repeat::Once, parameters, timeout_ms: millis(TIMEOUT), ..spec }
    }

    /// The same for whatever changes the service.
    fn exclusion(&self, arguments: &ChangeArguments) -> Option<String> {
        Some(self.subjects.service(&arguments.service))
    }

    async fn run(&self, arguments: ChangeArguments, context: Context) -> Result<Output, Failure> {
        let service = context.services.registry.find(&arguments.service)?;
        let change = Changing { verb: self.verb, name: arguments.service, dry_run: arguments.dry_run, up: service.up };
        match service.driven {
            Driven::Systemd(driver) => change.run(&driver, &context).await,
            Driven::Supervised(driver) => change.run(&driver, &context).await,
            Driven::Commands(driver) => change.run(&driver, &context).await,
        }
    }
}

fn tools(context: &Context) -> Tools<'_> {
    Tools { owner: context.owner.clone(), stop: &context.stop, live: &context.live }
}

/// A change that is asked for.
struct Changing {
    verb: Verb,
    name: String,
    dry_run: bool,
    up: Up,
}

/// Why a service is not reloaded.
#[derive(Debug, thiserror::Error)]
#[error("it is not up ({0}), so there is nothing to reload")]
struct NothingToReload(String);

impl Changing {
    async fn run<D: Driver>(self, driver: &D, context: &Context) -> Result<Output, Failure> {
        let tools = tools(context);
        let before = driver.standing(&tools).await?;
        let needed = match self.verb {
            Verb::Start => !matches!(before.state, State::Up),
            Verb::Stop => !matches!(before.state, State::Down),
            Verb::Restart | Verb::Reload => true,
        };
        if self.verb == Verb::Reload && before.state != State::Up {
            let data = data::<D>(&self.name, &before, [(CHANGED, json!(false))]);
            return Err(Failure::new(NothingToReload(before.detail)).with(Output::of(data)));
        }
        if self.dry_run || !needed {
            let would = if needed { driver.steps(self.verb, &before, &self.up) } else { Vec::new() };
            let would = self.dry_run.then(|| (WOULD, json!(would)));
            let fields = [(CHANGED, json!(false))].into_iter().chain(would);
            return Ok(Output::of(data::<D>(&self.name, &before, fields)));
        }
        let done = match self.verb {
            Verb::Start | Verb::Restart => driver.raise(self.verb, &self.up, &tools).await,
            Verb::Stop => driver.stop(&tools).await,
            Verb::Reload => driver.reload(&tools).await,
        };
        // A command that must end has still to say what it leaves.
        let (after, lines) = look_back(driver, done.is_err(), context).await;
        let changed = match &after {
            _ if self.verb == Verb::Reload => Some(done.is_ok()),
            Some(after) if after.main_pid.is_some() || before.main_pid.is_some() => {
                Some((after.main_pid, after.state) != (before.main_pid, before.state))
            }
            Some(after) if self.verb != Verb::Restart => Some(after.state != before.state),
            // Where there is no process to compare, the commands have been run.
            _ => Some(true),
        };
        let fields = [(CHANGED, json!(changed))];
        let data = data::<D>(&self.name, after.as_ref().unwrap_or(&before), fields);
        match done {
            Ok(()) => Ok(Output::of(data)),
            Err(error) => {
                let output = Output { data: Some(data), stderr: captured(lines), ..Output::default() };
                Err(Failure::new(error).with(output))
            }
        }
    }
}

/// How the service stands after something was done to it, and, if that failed, the last lines of its log.
async fn look_back<D: Driver>(driver: &D, failed: bool, context: &Context) -> (Option<Standing>, String) {
    let stop = tokio_util::sync::CancellationToken::new();
    let tools = Tools { stop: &stop, ..tools(context) };
    let look = async {
        let standing = driver.standing(&tools).await.ok();
        let lines = if failed { driver.last_lines(LINES, &tools).await } else { String::new() };
        (standing, lines)
    };
    tokio::time::timeout(LOOK_BACK, look).await.unwrap_or_default()
}

/// How long that may take: less than a command that must end is given.
const LOOK_BACK: Duration = Duration::from_secs(4);

fn captured(text: String) -> Captured {
    Captured { written_bytes: text.len() as u64, kept: text.into_bytes(), cut_bytes: 0 }
}

/// A service's standing as data.
fn data<D: Driver>(
    name: &str,
    standing: &Standing,
    fields: impl IntoIterator<Item = (&'static str, serde_json::Value)>,
) -> Figures {
    let Standing { state, detail, main_pid, more } = standing;
    let own = [
        ("service", json!(name)),
        ("driver", json!(D::NAME)),
        ("service_state", json!(state.as_str())),
        ("detail", json!(detail)),
        ("main_pid", json!(main_pid)),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    let more = more.clone().into_iter();
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    own.chain(more).chain(fields).collect()
}

/// `status`.
pub(super) struct Status;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusArguments {
    service: String,
}

impl Action for Status {
    type Arguments = StatusArguments;

    fn spec(&self) -> ActionSpec {
        let spec = ActionSpec::repeatable("status", "How a service stands");
        ActionSpec { parameters: vec![service()], ..spec }
    }

    /// Its log is not shown: whoever may see how a service stands may not see all that it prints.
    async fn run(&self, arguments: StatusArguments, context: Context) -> Result<Output, Failure> {
        let (name, tools) = (&arguments.service, tools(&context));
        Ok(Output::of(match context.services.registry.find(name)?.driven {
            Driven::Systemd(driver) => data::<Systemd>(name, &driver.standing(&tools).await?, []),
            Driven::Supervised(driver) => data::<Supervised>(name, &driver.standing(&tools).await?, []),
            Driven::Commands(driver) => data::<Commands>(name, &driver.standing(&tools).await?, []),
        }))
    }
}
