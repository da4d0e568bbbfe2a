//! `file-get`: hands a file of this host over to `ctl`.
//!
//! It changes nothing here, but it never runs twice: `ctl` may have taken a part of the file. And whatever reads any file
//! must be allowed by its name.

use std::{path::PathBuf, time::Duration};

use protocol::{
    action::{ActionSpec, Argument, Kind, Parameter, Repeat},
    artifact::ContentKey,
    clock::millis,
    secret::Secret,
};
use serde::Deserialize;
use serde_json::json;

use super::{Action, Context, Failure, Output};
use crate::{
    detached,
    files::{self, Found},
};

/// How long it may take where the command does not say.
const TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) struct FileGet;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    path: PathBuf,
    content_key: Secret,
    #[serde(default)]
    dry_run: bool,
}

impl Action for FileGet {
    type Arguments = Arguments;

    fn spec(&self) -> ActionSpec {
        let required =
            |name: &str, kind, summary: &str| Parameter { required: true, ..Parameter::optional(name, kind, summary) };
        let key = "the key under which the content is sent; ctl file get makes it";
        let dry_run = Parameter {
            default: Some(Argument::Boolean(false)),
            ..Parameter::optional("dry_run", Kind::Boolean, "hand nothing over, say what would be handed over")
        };
        let parameters = vec![
            required("path", Kind::Path, "the file, within [files] get of the host's settings"),
            Parameter { secret: true, ..required("content_key", Kind::Text, key) },
            dry_run,
        ];
        let spec = ActionSpec::repeatable("file-get", "Hand a file over (ctl file get)");
        ActionSpec { repeat: Repeat::Once, parameters, timeout_ms: millis(TIMEOUT), ..spec }
    }

    async fn run(&self, arguments: Arguments, context: Context) -> Result<Output, Failure> {
        let Arguments { path, content_key, dry_run } = arguments;
        let key = ContentKey::from_text(content_key.expose())?;
        let services = &context.services;
        let allowed = services.files.get.clone();
        let Found { path, file, bytes, mode, owner } = detached::call(move || files::find(&allowed, &path)).await??;
        let mut data = vec![("changed", json!(false)), ("path", json!(path))];
        if dry_run {
            data.push(("would", json!([format!("hand over {path}: {bytes} bytes")])));
            data.push(("size_bytes", json!(bytes)));
        } else {
            let job = context.owner.job;
            let handed = services.artifacts.offer(job, file, bytes, key, &context.stop, &context.live).await?;
            data.extend([("size_bytes", json!(handed.bytes())), ("sha256", json!(handed.sha256()))]);
        }
        data.extend([("mode", json!(mode)), ("owner", json!(owner))]);
        Ok(Output::of(data.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
    }
}
