//! `exec`: run a program given as an argument vector.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use protocol::{
    action::{ActionSpec, Argument, CHANGED, Kind, Parameter, Repeat},
    artifact::{Artifact, ContentKey},
    clock::millis,
    limits,
    secret::Secret,
};
use serde::Deserialize;
use serde_json::json;

use super::{Action, Context, Failure, Output, ended, would};
use crate::{
    artifacts::{Fetched, Script},
    detached,
    log::{self, excerpt},
    metrics::Figures,
    program::{self, Program, ProgramError},
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
    stdin_content: Option<String>,
    stdin_key: Option<Secret>,
    script: Option<String>,
    script_key: Option<Secret>,
    user: Option<String>,
    #[serde(default)]
    sudo: bool,
    #[serde(default)]
    dry_run: bool,
}

/// Why a program is not started.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("cannot run '{0}'")]
    Start(String, #[source] ProgramError),
    #[error("{0} needs its {0}_key: ctl exec --{0} sends both")]
    Keyless(&'static str),
    #[error("stdin and stdin_content are both given, but there is one standard input")]
    TwoInputs,
    #[error("the script has {0} bytes, more than the {max} MiB of the largest one", max = limits::SCRIPT_BYTES >> 20)]
    LargeScript(u64),
    #[error("env and secret cannot be given with sudo, which drops them")]
    SudoEnvironment,
    #[error("script, user and sudo cannot be given together: that user could not read the script")]
    SudoScript,
    #[error("the script cannot be copied to where its user can run it")]
    Copy(#[source] io::Error),
    #[error("its standard input cannot be opened")]
    Input(#[source] io::Error),
}

impl Arguments {
    /// What the description of the action cannot say.
    fn check(&self) -> Result<(), ExecError> {
        if self.stdin.is_some() && self.stdin_content.is_some() {
            return Err(ExecError::TwoInputs);
        }
        if self.sudo && !(self.env.is_empty() && self.secret.is_empty()) {
            return Err(ExecError::SudoEnvironment);
        }
        if self.sudo && self.user.is_some() && self.script.is_some() { Err(ExecError::SudoScript) } else { Ok(()) }
    }

    /// What would be run. No secret is in it.
    fn would(self) -> Figures {
        let Self { argv, cwd, mut env, secret, script, user, sudo, stdin, stdin_content, .. } = self;
        env.extend(secret.into_keys().map(|name| (name, String::new())));
        let program = Program { argv, cwd, env, user, ..Program::default() };
        let mut steps = would::steps(&if sudo { by_sudo(program) } else { program });
        steps.extend(script.map(|script| format!("with the script {script} in place of the first word")));
        steps.extend(stdin_content.map(|content| format!("with the content {content} on standard input")));
        steps.extend(stdin.map(|text| format!("with {} bytes on standard input", text.expose().len())));
        would::data(&steps)
    }

    /// The script, if there is one, where its user can run it.
    async fn fetch_script(&self, context: &Context) -> Result<Option<Script>, Failure> {
        let Some(script) = &self.script else { return Ok(None) };
        let bytes = script.parse::<Artifact>()?.bytes();
        if bytes > limits::SCRIPT_BYTES as u64 {
            return Err(ExecError::LargeScript(bytes).into());
        }
        let fetched = fetch("script", script, self.script_key.as_ref(), context).await?;
        let name = self.argv.first().map(Path::new).and_then(Path::file_name).unwrap_or("script".as_ref());
        let (name, user, job) = (name.to_owned(), self.user.clone(), context.owner.job);
        let services = Arc::clone(&context.services);
        let copied = detached::call(move || {
            let not_found = |error| ExecError::Start(excerpt(&name.to_string_lossy(), log::NAME), error);
            let user = user.as_deref().map(program::find_user).transpose().map_err(not_found)?;
            services.artifacts.script(fetched, &name, job, user).map_err(ExecError::Copy)
        });
        Ok(Some(copied.await??))
    }
}

/// Fetches content that is named by one argument and whose key is in another one.
async fn fetch(what: &'static str, name: &str, key: Option<&Secret>, context: &Context) -> Result<Fetched, Failure> {
    let (artifact, key) = (name.parse::<Artifact>()?, key.ok_or(ExecError::Keyless(what))?);
    let key = ContentKey::from_text(key.expose())?;
    let artifacts = &context.services.artifacts;
    Ok(artifacts.fetch(artifact, key, context.owner.job, &context.stop, &context.live).await?)
}

/// The same program, run by sudo. Whether it may is for the host's sudoers to say: nobody is asked for a password.
fn by_sudo(program: Program) -> Program {
    let Program { mut argv, executable, user, .. } = program;
    if let (Some(first), Some(executable)) = (argv.first_mut(), executable) {
        *first = executable.to_string_lossy().into_owned();
    }
    let mut words = vec!["sudo".to_owned(), "-n".to_owned()];
    // To sudo a number is a name, unless it is told otherwise.
    let is_id = |user: &str| user.parse::<u32>().is_ok();
    let user = user.map(|user| if is_id(&user) { format!("#{user}") } else { user });
    words.extend(user.into_iter().flat_map(|user| ["-u".to_owned(), user]));
    words.push("--".to_owned());
    words.append(&mut argv);
    Program { argv: words, executable: None, user: None, ..program }
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
        let content = "a large standard input, as SHA256:SIZE; ctl exec --stdin sends it";
        let script = "a script to run in place of argv's first word, as SHA256:SIZE; ctl exec --script sends it";
        let secret_text =
            |name: &str, summary: &str| Parameter { secret: true, ..Parameter::optional(name, Kind::Text, summary) };
        let sudo = Parameter {
            default: Some(Argument::Boolean(false)),
            ..Parameter::optional("sudo", Kind::Boolean, "run it by sudo -n, as root or as user")
        };
        let parameters = vec![
            argv,
            Parameter::optional("cwd", Kind::Path, "directory to run in"),
            Parameter::optional("env", Kind::Map, "environment variables to add"),
            Parameter { secret: true, ..Parameter::optional("secret", Kind::Map, secret) },
            Parameter::optional("lock", Kind::Text, "commands with the same lock run one after another"),
            secret_text("stdin", "standard input; @FILE reads a file"),
            Parameter::optional("stdin_content", Kind::Text, content),
            secret_text("stdin_key", "the key of stdin_content"),
            Parameter::optional("script", Kind::Text, script),
            secret_text("script_key", "the key of script"),
            Parameter::optional("user", Kind::Text, "user to run as, by name or id (the worker must be root, or sudo)"),
            sudo,
            Parameter::dry_run(),
        ];
        let spec = ActionSpec::repeatable("exec", "Run a program and return its output");
        ActionSpec { repeat: Repeat::Once, parameters, timeout_ms: millis(TIMEOUT), ..spec }
    }

    fn exclusion(&self, arguments: &Arguments) -> Option<String> {
        arguments.lock.as_deref().map(lock)
    }

    async fn run(&self, arguments: Arguments, context: Context) -> Result<Output, Failure> {
        arguments.check()?;
        if arguments.dry_run {
            return Ok(Output::of(arguments.would()));
        }
        let script = arguments.fetch_script(&context).await?;
        let Arguments { argv, cwd, mut env, secret, stdin, stdin_content, stdin_key, user, sudo, .. } = arguments;
        let stdin_file = match stdin_content {
            Some(name) => Some(fetch("stdin", &name, stdin_key.as_ref(), &context).await?),
            None => None,
        };
        let stdin_file = stdin_file.map(Fetched::into_file).transpose().map_err(ExecError::Input)?.map(Arc::new);
        env.extend(secret.into_iter().map(|(name, value)| (name, value.expose().to_owned())));
        let stdin = stdin.map(|text| text.expose().as_bytes().to_vec());
        let name = argv.first().map(|name| excerpt(name, log::NAME)).unwrap_or_default();
        let executable = script.as_ref().map(|script| script.path().to_owned());
        let program = Program { argv, cwd, env, executable, stdin, stdin_file, user, ..Program::default() };
        let ended = context.run_program(if sudo { by_sudo(program) } else { program }).await;
        if let Some(script) = script {
            // The disk may hang.
            let _ = detached::run(move || drop(script));
        }
        let (mut output, error) = ended::report(ended.map_err(ended::not_started(&name))?, &context.stop);
        // Nobody knows what a program does: one that has run may have changed the host.
        output.data = Some(Figures::from_iter([(CHANGED.to_owned(), json!(true))]));
        match error {
            None => Ok(output),
            Some(error) => Err(Failure::new(error).with(output)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_is_told_that_a_number_is_an_id() {
        let words = |user: &str| {
            let program = Program { argv: vec!["id".into()], user: Some(user.into()), ..Program::default() };
            by_sudo(program).argv.join(" ")
        };
        assert_eq!(words("1000"), "sudo -n -u #1000 -- id");
        assert_eq!(words("deploy"), "sudo -n -u deploy -- id");
    }
}
