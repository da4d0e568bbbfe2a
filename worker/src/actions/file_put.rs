//! `file-put`: puts a file on this host, whole or not at all.

use std::{path::PathBuf, time::Duration};

use protocol::{
    action::{ActionSpec, Argument, Kind, Parameter, Repeat},
    artifact::{Artifact, ContentKey},
    clock::{FleetClock, millis},
    secret::Secret,
};
use serde::Deserialize;
use serde_json::json;

use super::{Action, Context, Failure, Output};
use crate::{
    artifacts::{Fetched, notes},
    detached,
    files::{self, Plan, Request},
    log::{self, excerpt},
};

/// How long it may take where the command does not say.
const TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) struct FilePut;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    path: PathBuf,
    content: String,
    content_key: Secret,
    mode: Option<String>,
    owner: Option<String>,
    #[serde(default)]
    backup: bool,
    #[serde(default)]
    dry_run: bool,
}

impl Action for FilePut {
    type Arguments = Arguments;

    fn spec(&self) -> ActionSpec {
        let required =
            |name: &str, kind, summary: &str| Parameter { required: true, ..Parameter::optional(name, kind, summary) };
        let flag = |name: &str, summary: &str| Parameter {
            default: Some(Argument::Boolean(false)),
            ..Parameter::optional(name, Kind::Boolean, summary)
        };
        let key = "the key of the content; ctl file put sends it";
        let parameters = vec![
            required("path", Kind::Path, "where to put it, within [files] put of the host's settings"),
            required("content", Kind::Text, "the content, as SHA256:SIZE; ctl file put sends it"),
            Parameter { secret: true, ..required("content_key", Kind::Text, key) },
            Parameter::optional("mode", Kind::Text, "its mode, such as 0644; else that of the prior file, or 0644"),
            Parameter::optional("owner", Kind::Text, "its owner, such as www:www; else that of the prior file"),
            flag("backup", "keep a prior file with other content as NAME.MOMENT.bak"),
            flag("dry_run", "change nothing, say what would be changed"),
        ];
        let spec = ActionSpec::repeatable("file-put", "Put a file there (ctl file put)");
        ActionSpec { repeat: Repeat::Once, parameters, timeout_ms: millis(TIMEOUT), ..spec }
    }

    fn exclusion(&self, arguments: &Arguments) -> Option<String> {
        // Paths that differ in what means nothing are the same file.
        let path: PathBuf = arguments.path.components().collect();
        Some(format!("file {}", excerpt(&path.to_string_lossy(), log::SENTENCE)))
    }

    async fn run(&self, arguments: Arguments, context: Context) -> Result<Output, Failure> {
        let Arguments { path, content, content_key, mode, owner, backup, dry_run } = arguments;
        let (artifact, key) = (content.parse::<Artifact>()?, ContentKey::from_text(content_key.expose())?);
        let mode = mode.as_deref().map(files::find_mode).transpose()?;
        let request = Request { path, artifact, mode, owner, backup };
        let services = &context.services;
        let (allowed, now) = (services.files.put.clone(), FleetClock::local().now());
        let plan = detached::call(move || Plan::make(&allowed, request, now)).await??;

        let mut data = vec![("changed", json!(false)), ("path", json!(plan.path()))];
        let steps = plan.steps().to_vec();
        if dry_run {
            data.push(("would", json!(steps)));
        } else if steps.is_empty() {
            data.push(("note", json!("it has this content, mode and owner already")));
        } else {
            let mut fetched = None;
            if plan.needs_content() {
                let job = context.owner.job;
                fetched = Some(services.artifacts.fetch(artifact, key, job, &context.stop, &context.live).await?);
            }
            let resumed = fetched.as_ref().map_or(0, Fetched::resumed);
            let (stop, artifacts, job) = (context.stop.clone(), services.artifacts.clone(), context.owner.job);
            let carried_out = detached::call(move || {
                let _note = artifacts.note(job, notes::Kind::Draft, plan.draft())?;
                Ok(plan.carry_out(fetched, &stop))
            });
            carried_out.await.flatten()??;
            data[0].1 = json!(true);
            data.push(("did", json!(steps)));
            if resumed > 0 {
                data.push(("resumed_bytes", json!(resumed)));
            }
        }
        Ok(Output::of(data.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
    }
}
