//! Completion in the shell: the grammar, and from Redis the hosts, actions, arguments and jobs.
//!
//! While somebody types, silence is better than an error or a wait: whatever goes wrong completes nothing.

use std::{env, ffi::OsStr, time::Duration};

use anyhow::{Context, anyhow};
use clap::CommandFactory;
use clap_complete::{CompleteEnv, engine::CompletionCandidate, env::Shells};
use protocol::action::{ActionSpec, Kind, Parameter};

use crate::{
    action,
    cli::{Cli, Global, Shell},
    exit::Exit,
    fleet::Fleet,
    headline, moments,
    printer::Printer,
    settings::Settings,
};

/// The variable through which the script of [`print`] asks.
const VARIABLE: &str = "COMPLETE";
/// How long anybody waits for a completion.
const PATIENCE: Duration = Duration::from_millis(300);
/// Recent jobs that are offered.
const JOBS: usize = 20;

/// Answers the shell and exits, where it is the shell that asks.
pub fn serve() {
    if env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(Cli::command).complete();
    }
}

/// Prints the script that makes a shell ask.
pub fn print(shell: Shell, printer: &Printer) -> anyhow::Result<Exit> {
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let shells = Shells::builtins();
    let completer = shells.completer(name).ok_or_else(|| anyhow!("no completion for {name}"))?;
    // Found by name it stays up to date; called by a path it is not in PATH.
    let called = env::args().next().unwrap_or_default();
    let program = if called.contains('/') { env::current_exe()?.to_string_lossy().into_owned() } else { "ctl".into() };
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "ctl", "ctl", &program, &mut script).context("cannot write the script")?;
    printer.raw(&script)?;
    Ok(Exit::Success)
}

/// Hosts that begin with what was typed.
pub fn hosts(typed: &OsStr) -> Vec<CompletionCandidate> {
    let names = ask(async |fleet| {
        let names = fleet.names().await?;
        let now = fleet.clock.now();
        Ok(names
            .into_iter()
            .map(|(name, seen)| (name.to_string(), format!("seen {}", moments::ago(seen, now))))
            .collect())
    });
    candidates(typed, names)
}

/// Actions that begin with what was typed.
pub fn actions(typed: &OsStr) -> Vec<CompletionCandidate> {
    let actions = specs().into_iter().map(|action| (action.name, action.summary)).collect();
    candidates(typed, actions)
}

/// Arguments of the action that was typed before.
pub fn arguments(typed: &OsStr) -> Vec<CompletionCandidate> {
    let words: Vec<_> = env::args().collect();
    let action = specs().into_iter().find(|action| words.contains(&action.name));
    let parameters = action.map(|action| action.parameters).unwrap_or_default();
    candidates(typed, parameters.iter().filter(|parameter| !parameter.trailing).flat_map(values).collect())
}

/// Recent jobs, and `last`.
pub fn jobs(typed: &OsStr) -> Vec<CompletionCandidate> {
    let mut jobs = ask(async |fleet| {
        let jobs = headline::newest(fleet, JOBS).await?;
        Ok(jobs.iter().map(|job| (job.job.to_string(), format!("{}: {}", job.action, job.standing()))).collect())
    });
    if !jobs.is_empty() {
        jobs.insert(0, ("last".into(), "the newest job".into()));
    }
    candidates(typed, jobs)
}

fn specs() -> Vec<ActionSpec> {
    ask(async |fleet| {
        let hosts = fleet.all_hosts().await?;
        Ok(action::offers(&hosts).into_iter().map(|offer| offer.action).collect())
    })
}

/// What may be typed for a parameter, with its meaning.
fn values(parameter: &Parameter) -> Vec<(String, String)> {
    let name = &parameter.name;
    let words = match &parameter.kind {
        Kind::Choice { values } => values.iter().map(|value| format!("{name}={value}")).collect(),
        Kind::Boolean => vec![format!("{name}=true"), format!("{name}=false")],
        Kind::Map => vec![format!("{name}.")],
        _ => vec![format!("{name}=")],
    };
    words.into_iter().map(|word| (word, parameter.summary.clone())).collect()
}

fn candidates(typed: &OsStr, words: Vec<(String, String)>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let fitting = words.into_iter().filter(|(word, _)| word.starts_with(&*typed));
    fitting.map(|(word, help)| CompletionCandidate::new(word).help(Some(help.into()))).collect()
}

fn ask<T>(question: impl AsyncFnOnce(&mut Fleet) -> anyhow::Result<Vec<T>>) -> Vec<T> {
    let answer = async {
        let settings = Settings::resolve(flags(&env::args().collect::<Vec<_>>()))?;
        let mut fleet = Fleet::connect(settings.redis()?, settings.namespace.as_ref()).await?;
        question(&mut fleet).await
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
    // A name that is still being looked up must not hold up the shell.
    runtime.shutdown_background();
    answer.ok().and_then(Result::ok).unwrap_or_default()
}

/// The flags that say which Redis to ask. The line is unfinished, so it cannot be parsed as a whole.
fn flags(words: &[String]) -> Global {
    let value = |flag: &str| {
        let next = |position: usize| words.get(position + 1).cloned();
        let joined = words.iter().find_map(|word| Some(word.strip_prefix(flag)?.strip_prefix('=')?.to_owned()));
        joined.or_else(|| words.iter().position(|word| word == flag).and_then(next))
    };
    Global {
        redis: value("--redis"),
        namespace: value("--namespace").and_then(|name| name.parse().ok()),
        config: value("--config").map(Into::into),
        ..Global::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_found_in_an_unfinished_line() {
        let words: Vec<_> =
            "ctl -- ctl --redis unix:///r run --namespace=prod --host".split(' ').map(str::to_owned).collect();
        let flags = flags(&words);
        assert_eq!(flags.redis.as_deref(), Some("unix:///r"));
        assert_eq!(flags.namespace.unwrap().as_str(), "prod");
        assert!(flags.config.is_none());
    }

    #[test]
    fn choices_are_spelled_out() {
        let by = Kind::Choice { values: vec!["cpu".into(), "memory".into()] };
        let words: Vec<_> = values(&Parameter::optional("by", by, "")).into_iter().map(|(word, _)| word).collect();
        assert_eq!(words, ["by=cpu", "by=memory"]);
    }
}
