//! `exec`: run a program given as an argument vector.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use protocol::{
    action::{ActionSpec, Kind, Parameter, Repeat},
    clock::millis,
    secret::Secret,
};
use serde::Deserialize;

use super::{Action, Context, Failure, Output, ended};
use crate::{
    log::{self, excerpt},
    program::Program,
};

/// How long a program may run where the command does not say: deployments and backups take their time.
const TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) struct Exec;

/// The exclusion key of a lock. Own actions have the same locks.
pub(super) fn lock(name: &str) -> String {
    format!("lock '{}'", excerpt(name, log::SENTENCE))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arguments {
    argv: Vec<String>,
    cwd: Option<PathBuf>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    secret: BTreeMap<String, Secret>,
    lock: Option<String>,
    stdin: Option<Secret>,
    user: Option<String>,
}

impl Action for Exec {
    type Arguments = Arguments;

    fn spec(&self) -> ActionSpec {
        let argv = Parameter {
            required: true,
            trailing: true,
            ..Parameter::optional("argv", Kind::List, "the program and its arguments; no shell is involved")
        };
        let secret = "environment variables whose values are kept nowhere; @FILE reads one from a file";
        let parameters = vec![
            argv,
            Parameter::optional("cwd", Kind::Path, "directory to run in"),
            Parameter::optional("env", Kind::Map, "environment variables to add"),
            Parameter { secret: true, ..Parameter::optional("secret", Kind::Map, secret) },
            Parameter::optional("lock", Kind::Text, "commands with the same lock run one after another"),
            Parameter {
                secret: true,
                ..Parameter::optional("stdin", Kind::Text, "standard input; @FILE reads a file")
            },
            Parameter::optional("user", Kind::Text, "user to run as, by name or id (the worker must be root)"),
        ];
        let spec = ActionSpec::repeatable("exec", "Run a program and return its output");
        ActionSpec { repeat: Repeat::Once, parameters, timeout_ms: millis(TIMEOUT), ..spec }
    }

    fn exclusion(&self, arguments: &Arguments) -> Option<String> {
        arguments.lock.as_deref().map(lock)
    }

    async fn run(&self, arguments: Arguments, context: Context) -> Result<Output, Failure> {
        let Arguments { argv, cwd, mut env, secret, stdin, user, .. } = arguments;
        env.extend(secret.into_iter().map(|(name, value)| (name, value.expose().to_owned())));
        let stdin = stdin.map(|text| text.expose().as_bytes().to_vec());
        let name = argv.first().map(|name| excerpt(name, log::NAME)).unwrap_or_default();
        let program = context.run_program(Program { argv, cwd, env, stdin, user }).await;
        let (output, error) = ended::report(program.map_err(ended::not_started(&name))?, &context.stop);
        match error {
            None => Ok(output),
            Some(error) => Err(Failure::new(error).with(output)),
        }
    }
}
