//! Completions of values that Redis knows: hosts, groups, actions, arguments and jobs.
//!
//! During typing, silence is better than an error or a wait: a completion that fails offers nothing.

use std::{env, ffi::OsStr, time::Duration};

use clap_complete::engine::CompletionCandidate;
use protocol::action::{ActionSpec, Kind, Parameter};

use super::settings::{Global, Settings};
use crate::{
    client::{Fleet, JobFilter, KnownHosts, RecentJob, in_words, offers, split_words},
    output::{moments, style, summary},
};

/// How long a person waits for a completion.
const PATIENCE: Duration = Duration::from_millis(300);
/// Recent jobs that are offered.
const JOBS: usize = 20;

/// Hosts that begin with what was typed, or groups, where that is an `@`.
pub fn hosts(typed: &OsStr) -> Vec<CompletionCandidate> {
    last_of(typed, |last| {
        if last.starts_with('@') {
            return groups_after("@");
        }
        ask(async |fleet| {
            let names = fleet.host_names().await?;
            let now = fleet.now();
            Ok(names
                .into_iter()
                .map(|(name, seen)| (name.to_string(), format!("seen {}", moments::ago(seen, now))))
                .collect())
        })
    })
}

/// Groups that begin with what was typed.
pub fn groups(typed: &OsStr) -> Vec<CompletionCandidate> {
    last_of(typed, |_| groups_after(""))
}

/// Groups with these characters before their names, and what they stand for.
fn groups_after(sign: &str) -> Vec<(String, String)> {
    ask(async |fleet| {
        let groups = fleet.groups().await?;
        Ok(groups.texts().map(|(name, text)| (format!("{sign}{name}"), text.to_owned())).collect())
    })
}

/// What completes the last of several words that are separated by commas: it is the one that is being typed.
fn last_of(typed: &OsStr, words: impl FnOnce(&str) -> Vec<(String, String)>) -> Vec<CompletionCandidate> {
    let text = typed.to_string_lossy();
    let last = split_words(&text).pop().unwrap_or_default();
    let before = text[..text.len() - last.len()].to_owned();
    let fitting = candidates(OsStr::new(last), words(last)).into_iter();
    fitting.map(|candidate| candidate.add_prefix(&before)).collect()
}

/// Schedules that begin with what was typed, and when they run.
pub fn schedules(typed: &OsStr) -> Vec<CompletionCandidate> {
    let names = ask(async |fleet| {
        let names = fleet.schedule_names().await?;
        let found = fleet.schedules(&names).await?;
        let when = |scheduled: &protocol::scheduled::Scheduled| in_words(&scheduled.order().schedule);
        Ok(found.iter().map(|(name, found)| (name.to_string(), found.as_ref().map(when).unwrap_or_default())).collect())
    });
    candidates(typed, names)
}

/// Rules of alerts that begin with what was typed, and when they hold.
pub fn rules(typed: &OsStr) -> Vec<CompletionCandidate> {
    let names = ask(async |fleet| {
        let rules = fleet.alerts().await?.rules.into_iter();
        Ok(rules.map(|(name, rule)| (name, rule.map(|(rule, _)| rule.rule.when).unwrap_or_default())).collect())
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
        let jobs = fleet.recent_jobs(&JobFilter::default(), JOBS).await?;
        let help = |job: &RecentJob| {
            let Some(headline) = &job.headline else { return "damaged".into() };
            let command = summary::command(&headline.action, &headline.arguments);
            format!("{}: {command}", summary::counts(&job.states))
        };
        // The short form, unless the beginning of the whole id was typed.
        let is_short = |id: &str| id.starts_with(&*typed.to_string_lossy());
        let id = |job: &RecentJob| Some(job.id.short()).filter(|id| is_short(id)).unwrap_or_else(|| job.id.to_string());
        Ok(jobs.iter().map(|job| (id(job), help(job))).collect())
    });
    if !jobs.is_empty() {
        jobs.insert(0, ("last".into(), "your last job".into()));
    }
    candidates(typed, jobs)
}

fn specs() -> Vec<ActionSpec> {
    ask(async |fleet| {
        let hosts = fleet.all_hosts().await?;
        Ok(offers(&hosts).into_iter().map(|offer| offer.action).collect())
    })
}

/// The words that may be typed for a parameter, with their meaning.
fn values(parameter: &Parameter) -> Vec<(String, String)> {
    let name = &parameter.name;
    let words = match &parameter.kind {
        Kind::Choice { values } => values.iter().map(|value| format!("{name}={value}")).collect(),
        Kind::Boolean => vec![format!("{name}=true"), format!("{name}=false")],
        Kind::Map => vec![format!("{name}.")],
        Kind::PathUnder { roots } => {
            roots.iter().map(|root| format!("{name}={}/", root.trim_end_matches('/'))).collect()
        }
        _ => vec![format!("{name}=")],
    };
    words.into_iter().map(|word| (word, parameter.summary.clone())).collect()
}

fn candidates(typed: &OsStr, words: Vec<(String, String)>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    // What hosts publish is not obeyed by the terminal.
    let fitting = words.into_iter().filter(|(word, _)| word.starts_with(&*typed) && style::plain(word) == *word);
    fitting.map(|(word, help)| CompletionCandidate::new(word).help(Some(style::plain(&help).into()))).collect()
}

/// The fleet's reply, or nothing if it does not come in time.
fn ask<T>(question: impl AsyncFnOnce(&mut Fleet) -> anyhow::Result<Vec<T>>) -> Vec<T> {
    let answer = async {
        let settings = Settings::resolve(flags(&env::args().collect::<Vec<_>>()))?;
        let known_hosts = KnownHosts::open(&settings.known_hosts()?)?;
        let fleet = Fleet::connect(&settings.redis()?, settings.namespace.as_ref()).await?;
        question(&mut fleet.knowing(known_hosts)).await
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
    // A name that is still being looked up must not hold up the shell.
    runtime.shutdown_background();
    answer.ok().and_then(Result::ok).unwrap_or_default()
}

/// The flags that select the Redis. The line is unfinished, so it cannot be parsed as a whole.
fn flags(words: &[String]) -> Global {
    let value = |flag: &str| {
        let next = |position: usize| words.get(position + 1).cloned();
        let joined = words.iter().find_map(|word| Some(word.strip_prefix(flag)?.strip_prefix('=')?.to_owned()));
        joined.or_else(|| words.iter().position(|word| word == flag).and_then(next))
    };
    Global {
        redis: value("--redis"),
        redis_password_file: value("--redis-password-file").map(Into::into),
        redis_ca: value("--redis-ca").map(Into::into),
        redis_cert: value("--redis-cert").map(Into::into),
        redis_key: value("--redis-key").map(Into::into),
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
            "ctl -- ctl --redis unix:///r --redis-ca ca --redis-cert=cert --redis-key key run --namespace=prod --host"
                .split(' ')
                .map(str::to_owned)
                .collect();
        let flags = flags(&words);
        assert_eq!(flags.redis.as_deref(), Some("unix:///r"));
        assert_eq!(flags.namespace.unwrap().as_str(), "prod");
        let files = [flags.redis_ca, flags.redis_cert, flags.redis_key].map(|file| file.unwrap());
        assert_eq!(files, ["ca", "cert", "key"].map(std::path::PathBuf::from));
        assert!(flags.config.is_none());
    }

    #[test]
    fn choices_are_spelled_out() {
        let by = Kind::Choice { values: vec!["cpu".into(), "memory".into()] };
        let words: Vec<_> = values(&Parameter::optional("by", by, "")).into_iter().map(|(word, _)| word).collect();
        assert_eq!(words, ["by=cpu", "by=memory"]);
        let under = Kind::PathUnder { roots: vec!["/var/log".into(), "/".into()] };
        let words: Vec<_> = values(&Parameter::optional("file", under, "")).into_iter().map(|(word, _)| word).collect();
        assert_eq!(words, ["file=/var/log/", "file=/"]);
    }
}
