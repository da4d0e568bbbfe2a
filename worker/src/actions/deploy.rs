//! `deploy`, `deploy-rollback` and `deploy-status`: the applications of the host.

use std::{sync::Arc, time::Duration};

use protocol::{
    action::{ActionSpec, CHANGED, Kind, Parameter, Repeat, WOULD},
    artifact::{Artifact, ContentKey},
    clock::millis,
    outcome::Captured,
    secret::Secret,
    time::show_moment,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Action, Context, Failure, Output, Subjects};
use crate::{
    apps::{Commission, DeployError, Report, Source, state},
    metrics::Figures,
    services::Tools,
};

/// How long it may take, fetching and settling included.
const TIMEOUT: Duration = Duration::from_secs(3600);

fn required(name: &str, kind: Kind, summary: &str) -> Parameter {
    Parameter { required: true, ..Parameter::optional(name, kind, summary) }
}

fn app() -> Parameter {
    required("app", Kind::Text, "its name in the host's settings ([apps.NAME])")
}

/// `deploy`.
pub(super) struct Deploy(pub(super) Arc<Subjects>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeployArguments {
    app: String,
    version: String,
    content: String,
    content_key: Option<Secret>,
    url: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

impl Action for Deploy {
    type Arguments = DeployArguments;

    fn spec(&self) -> ActionSpec {
        let key = "the key of the content in Redis; ctl deploy sends it";
        let parameters = vec![
            app(),
            required("version", Kind::Text, "the name of the release"),
            required("content", Kind::Text, "its archive, as SHA256:SIZE; ctl deploy sends it"),
            Parameter { secret: true, ..Parameter::optional("content_key", Kind::Text, key) },
            Parameter::optional("url", Kind::Text, "where the archive is, in place of Redis"),
            Parameter::dry_run(),
        ];
        let spec = ActionSpec::repeatable("deploy", "Deploy a release of an application (ctl deploy)");
        ActionSpec { repeat: Repeat::Once, parameters, timeout_ms: millis(TIMEOUT), ..spec }
    }

    fn exclusion(&self, arguments: &DeployArguments) -> Option<String> {
        Some(self.0.app(&arguments.app))
    }

    async fn run(&self, arguments: DeployArguments, context: Context) -> Result<Output, Failure> {
        let DeployArguments { app, version, content, content_key, url, dry_run } = arguments;
        let artifact = content.parse::<Artifact>()?;
        let source = match (content_key, url) {
            (Some(key), None) => Source::Redis(ContentKey::from_text(key.expose())?),
            (None, Some(url)) => Source::Url(url.parse()?),
            _ => return Err(DeployError::Source.into()),
        };
        let (services, commission) = commission(context, dry_run);
        output(services.apps.deploy(&app, version, (artifact, source), &services.artifacts, commission).await?)
    }
}

/// `deploy-rollback`.
pub(super) struct Rollback(pub(super) Arc<Subjects>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackArguments {
    app: String,
    version: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

impl Action for Rollback {
    type Arguments = RollbackArguments;

    fn spec(&self) -> ActionSpec {
        let version = "the release to go back to; else the one that was proven before the one that runs";
        let parameters = vec![app(), Parameter::optional("version", Kind::Text, version), Parameter::dry_run()];
        let spec = ActionSpec::repeatable("deploy-rollback", "Go back to a release from before");
        ActionSpec { repeat: Repeat::Once, parameters, timeout_ms: millis(TIMEOUT), ..spec }
    }

    fn exclusion(&self, arguments: &RollbackArguments) -> Option<String> {
        Some(self.0.app(&arguments.app))
    }

    async fn run(&self, arguments: RollbackArguments, context: Context) -> Result<Output, Failure> {
        let RollbackArguments { app, version, dry_run } = arguments;
        let (services, commission) = commission(context, dry_run);
        output(services.apps.rollback(&app, version, &services.artifacts, commission).await?)
    }
}

fn commission(context: Context, is_dry: bool) -> (Arc<super::Services>, Commission) {
    let Context { owner, requester, stop, live, services, .. } = context;
    (services, Commission { owner, by: requester.principal, live, stop, is_dry })
}

/// Why it did not succeed, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotDeployed(String);

fn output(report: Report) -> Result<Output, Failure> {
    let Report { app, version, running, prior, result, changed, steps, is_dry, rollback_started_ms, lines, problem } =
        report;
    let fields = [
        ("app", json!(app)),
        ("version", json!(version)),
        (CHANGED, json!(changed)),
        ("running", json!(running)),
        ("prior", json!(prior)),
        ("result", json!(result)),
        (if is_dry { WOULD } else { "did" }, json!(steps)),
    ];
    let fields = fields.into_iter().chain(rollback_started_ms.map(|waited| ("rollback_started_ms", json!(waited))));
    let stderr = Captured { written_bytes: lines.len() as u64, kept: lines.into_bytes(), cut_bytes: 0 };
    let output = Output { data: Some(figures(fields)), stderr, ..Output::default() };
    match problem {
        None => Ok(output),
        Some(problem) => Err(Failure::new(NotDeployed(problem)).with(output)),
    }
}

fn figures(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Figures {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// `deploy-status`.
pub(super) struct Status;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusArguments {
    app: String,
}

impl Action for Status {
    type Arguments = StatusArguments;

    fn spec(&self) -> ActionSpec {
        let spec = ActionSpec::repeatable("deploy-status", "Which release of an application runs, and its history");
        ActionSpec { parameters: vec![app()], ..spec }
    }

    async fn run(&self, arguments: StatusArguments, context: Context) -> Result<Output, Failure> {
        let tools = Tools { owner: context.owner.clone(), stop: &context.stop, live: &context.live };
        let found = context.services.apps.status(&arguments.app, &tools).await?;
        let state = found.state;
        let deploying = state.deploying.as_ref().map(|at_work| {
            let state::Deploying { job, by, version, from, step } = at_work;
            json!({ "job": job, "by": by, "version": version, "from": from, "step": step })
        });
        let releases = state.releases.iter().rev().map(|release| {
            let (sha256, bytes) = release.artifact.split_once(':').unwrap_or((&release.artifact, ""));
            json!({
                "version": release.version,
                "sha256": sha256,
                "bytes": bytes.parse::<u64>().ok(),
                "deployed_at": show_moment(release.deployed_at_ms),
                "by": release.by,
                "job": release.job,
                "proven_at": release.proven_at_ms.map(show_moment),
                "current": found.current.as_ref() == Some(&release.version),
            })
        });
        let history = state.history.iter().rev().map(|entry| {
            let state::Entry { at_ms, job, by, version, from, result, reason } = entry;
            let at = show_moment(*at_ms);
            json!({ "at": at, "job": job, "by": by, "version": version, "from": from, "result": result, "reason": reason })
        });
        Ok(Output::of(figures([
            ("app", json!(arguments.app)),
            ("directory", json!(found.directory)),
            ("service", json!(found.service)),
            ("service_state", json!(found.service_state)),
            ("running", json!(found.running)),
            ("current", json!(found.current)),
            ("proven", json!(state.proven)),
            ("deploying", json!(deploying)),
            ("releases", releases.collect()),
            ("history", history.collect()),
        ])))
    }
}
