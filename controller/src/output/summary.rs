//! A job's summary in one line: the number of hosts in each state, and the duration.

use std::{collections::BTreeMap, time::Duration};

use protocol::{
    action::{CHANGED, WOULD},
    command::Manifest,
    outcome::{Outcome, State},
    time::Millis,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{fold, moments, style};
use crate::client::{HostResult, Unknown, by_reason, shorten};

/// A shorter wait is not worth a word.
const NOTICED: Duration = Duration::from_secs(1);

/// The number of hosts in each state.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// All hosts.
    pub hosts: usize,
    /// Hosts by state, only those that occur.
    #[serde(flatten)]
    pub states: BTreeMap<State, usize>,
    /// Hosts by what became of them, where the action says it.
    #[serde(flatten)]
    pub changes: BTreeMap<Change, usize>,
    /// From the dispatch to the last end; to now where some have not ended.
    pub duration_ms: u64,
}

/// What an action says that it did to its host, or would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It changed something.
    Changed,
    /// It found everything as it should be.
    Unchanged,
    /// A dry run: it would change something.
    #[serde(rename = "would_change")]
    Would,
    /// A dry run: there is nothing to do.
    #[serde(rename = "would_not_change")]
    WouldNot,
}

impl Change {
    /// What the host's data says. An action that failed may have changed something, too.
    fn of(result: &HostResult) -> Option<Self> {
        let data = result.outcome.as_ref()?.data.as_ref()?;
        Some(match (data.get(WOULD).and_then(Value::as_array), data.get(CHANGED)?.as_bool()?) {
            (Some(steps), false) if steps.is_empty() => Self::WouldNot,
            (Some(_), false) => Self::Would,
            (_, true) => Self::Changed,
            (None, false) => Self::Unchanged,
        })
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Would => "would change",
            Self::WouldNot => "would not change",
        }
    }
}

impl Summary {
    /// Counts the results.
    pub fn of(job: &Manifest, results: &[&HostResult], now: Millis) -> Self {
        let (mut states, mut changes) = (BTreeMap::new(), BTreeMap::new());
        for result in results {
            *states.entry(result.state).or_default() += 1;
            if let Some(change) = Change::of(result) {
                *changes.entry(change).or_default() += 1;
            }
        }
        let ends = results.iter().map(|result| result.outcome.as_ref().map(|outcome| outcome.finished_at_ms));
        let end = ends.collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().max()).unwrap_or(now);
        Self { hosts: results.len(), states, changes, duration_ms: end.saturating_sub(job.issued_at_ms) }
    }

    /// The line that closes a report: `web1: succeeded in 12 ms`, `3 hosts: 2 succeeded, 1 failed in 41 ms`. Where the
    /// action says it: `web1: succeeded in 12 ms, changed`, `3 hosts: 3 succeeded (1 changed, 2 unchanged) in 41 ms`.
    pub fn of_results(&self, results: &[&HostResult]) -> String {
        let [result] = results else { return self.line() };
        // The span is the whole time since the dispatch. A wait is named where a person would have noticed it.
        let ran = result.outcome.as_ref().and_then(Outcome::duration_ms);
        let waited = ran.map(|ran| Duration::from_millis(self.duration_ms.saturating_sub(ran)));
        let waited = waited.filter(|waited| *waited >= NOTICED);
        let waited = waited.map(|waited| format!(" (waited {})", moments::span(waited))).unwrap_or_default();
        let span = match result.state {
            State::Succeeded => format!(" in {}{waited}", self.span()),
            _ if result.outcome.as_ref().is_some_and(|outcome| outcome.started_at_ms.is_some()) => {
                format!(" after {}{waited}", self.span())
            }
            _ => String::new(),
        };
        let change = Change::of(result).map(|change| format!(", {}", change.words())).unwrap_or_default();
        let reason = reason(result).map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{}: {}{span}{change}{reason}", result.host, what_it_does(result))
    }

    fn line(&self) -> String {
        let changes = self.changes.iter().map(|(change, count)| format!("{count} {}", change.words()));
        let changes = changes.collect::<Vec<_>>().join(", ");
        let changes = if changes.is_empty() { changes } else { format!(" ({changes})") };
        format!("{}: {}{changes} in {}", hosts(self.hosts), counts(&self.states), self.span())
    }

    fn span(&self) -> String {
        moments::span(Duration::from_millis(self.duration_ms.max(1)))
    }
}

/// `2 succeeded, 1 failed`: ends before what has not ended.
pub fn counts(states: &BTreeMap<State, usize>) -> String {
    let (ended, open): (Vec<_>, Vec<_>) = states.iter().partition(|(state, _)| state.is_terminal());
    let counts = ended.iter().chain(&open).map(|(state, count)| format!("{count} {}", words(**state)));
    counts.collect::<Vec<_>>().join(", ")
}

/// What was run: `exec: git rev-parse HEAD (cwd=/srv)`, `collect-processes: by=memory top=5`, `ping`. The words that are
/// typed after `--` come first.
pub fn command(action: &str, arguments: &Map<String, Value>) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (mut words, mut named) = (Vec::new(), Vec::new());
    for (name, value) in arguments {
        match value {
            Value::Array(list) => words.extend(list.iter().map(|word| style::quoted(&text(word)).into_owned())),
            Value::Object(map) => {
                named.extend(map.iter().map(|(key, value)| format!("{name}.{key}={}", style::quoted(&text(value)))));
            }
            value => named.push(format!("{name}={}", style::quoted(&text(value)))),
        }
    }
    match (words.join(" "), named.join(" ")) {
        (words, named) if words.is_empty() && named.is_empty() => action.to_owned(),
        (words, named) if named.is_empty() => format!("{action}: {words}"),
        (words, named) if words.is_empty() => format!("{action}: {named}"),
        (words, named) => format!("{action}: {words} ({named})"),
    }
}

/// The hosts that are left out as something about them is not known: a line for each reason.
pub fn left_out(unknown: &[Unknown]) -> Vec<String> {
    let line = |(reason, hosts): (&str, Vec<_>)| format!("{}: left out: {}", fold::names(&hosts), style::plain(reason));
    by_reason(unknown).into_iter().map(line).collect()
}

/// `1 host`, `3 hosts`.
pub fn hosts(count: usize) -> String {
    if count == 1 { "1 host".into() } else { format!("{count} hosts") }
}

/// A state in a sentence.
pub const fn words(state: State) -> &'static str {
    match state {
        State::TimedOut => "timed out",
        other => other.as_str(),
    }
}

/// A host's state, with the reason: `failed: exit code 3`, `waiting for a slot: 3 of 3 busy`.
pub fn standing(result: &HostResult) -> String {
    let words = what_it_does(result);
    match reason(result) {
        Some(reason) => format!("{words}: {reason}"),
        None => words,
    }
}

/// A host's state, and what its command waits for.
fn what_it_does(result: &HostResult) -> String {
    let words = words(result.state);
    match &result.waits_for {
        Some(what) => format!("waiting for {}", style::plain(what)),
        _ => words.into(),
    }
}

/// The reason of a host's state, where the state alone does not explain it.
pub fn reason(result: &HostResult) -> Option<String> {
    match &result.outcome {
        Some(outcome) => outcome.reason.as_deref().map(style::plain),
        None if result.damage.is_some() => damage(result),
        None if result.state == State::Expired && result.forgotten => Some("the host was forgotten".into()),
        None if result.state == State::Expired => Some("not started in time".into()),
        None if !result.state.is_terminal() && result.cancel_ordered_ms.is_some() => Some("cancel ordered".into()),
        None if result.waits_for.is_some() => None,
        None if !result.state.is_terminal() => Some(match result.heard_ms {
            Some(heard) if result.state == State::Running => {
                format!("no result yet, last heard of {}", moments::exact(heard))
            }
            None if result.state == State::Running => "no result yet".into(),
            Some(heard) => format!("no word since {}", moments::exact(heard)),
            None => "no answer yet".into(),
        }),
        None => None,
    }
}

/// How long a command waited for its start, or has waited so far; `None` where it began at an unknown moment, or never.
pub fn waited_ms(result: &HostResult, issued_at_ms: Millis, now: Millis) -> Option<u64> {
    let started = match (&result.outcome, result.state) {
        (Some(outcome), _) => outcome.started_at_ms,
        (None, State::Queued | State::Delivered) => Some(now),
        (None, _) => None,
    };
    started.map(|started| started.saturating_sub(issued_at_ms))
}

/// Why a host's result cannot be trusted; `None` where it can.
pub fn damage(result: &HostResult) -> Option<String> {
    result.damage.as_ref().map(ToString::to_string)
}

/// Whether the command succeeded on a host.
pub fn is_good(result: &HostResult) -> bool {
    result.state == State::Succeeded && result.damage.is_none()
}

/// A line for each way in which hosts did not succeed, with their names: `web1, web2: timed out`.
pub fn troubles(results: &[&HostResult]) -> Vec<String> {
    let mut troubles: BTreeMap<(State, String), Vec<&str>> = BTreeMap::new();
    for result in results.iter().filter(|result| !is_good(result)) {
        troubles.entry((result.state, standing(result))).or_default().push(result.host.as_str());
    }
    troubles.iter().map(|((_, standing), hosts)| format!("{}: {standing}", shorten(hosts))).collect()
}

/// Why entries of its streams were dropped by a worker, fit for a line behind their number.
pub fn dropped(reason: &str) -> String {
    match reason {
        "untrusted" => "orders to cancel that nobody with that right has signed".to_owned(),
        "not_for_this_host" => "meant for another host or namespace".to_owned(),
        "duplicate" => "that it had already".to_owned(),
        "early" => "runs of standing orders before their time".to_owned(),
        other => super::style::plain(other).replace('_', " "),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::{action::Arguments, name::JobId, statement::OutcomeError, targets::Targets};
    use serde_json::json;

    use super::*;
    use crate::client::Damage;

    fn job() -> Manifest {
        Manifest {
            salt: JobId::salt(),
            job: JobId::new(),
            action: "ping".into(),
            arguments: Arguments::new(),
            sealed: None,
            operator: "ann@desk".into(),
            issued_at_ms: 1000,
            start_by_ms: 2000,
            timeout_ms: 1000,
            retention_ms: 1000,
            keep_output: None,
            targets: Targets::new([]).root(),
            namespace: None,
            trace: None,
        }
    }

    fn open(host: &str, state: State) -> HostResult {
        HostResult { state, ..HostResult::new(host.parse().unwrap()) }
    }

    fn ended(host: &str, state: State, reason: Option<&str>) -> HostResult {
        HostResult { outcome: Some(Outcome::bare(state, reason.map(str::to_owned), 1041)), ..open(host, state) }
    }

    #[test]
    fn a_job_is_summed_up() {
        let results = [
            ended("a", State::Succeeded, None),
            ended("b", State::Failed, Some("exit code 3")),
            ended("c", State::Succeeded, None),
            open("d", State::Expired),
        ];
        let results: Vec<_> = results.iter().collect();
        assert_eq!(Summary::of(&job(), &results[..3], 9000).line(), "3 hosts: 2 succeeded, 1 failed in 41 ms");
        let summary = Summary::of(&job(), &results, 9000);
        assert_eq!(summary.line(), "4 hosts: 2 succeeded, 1 failed, 1 expired in 8.0 s");
        let json = serde_json::to_string(&summary).unwrap();
        assert_eq!(json, r#"{"hosts":4,"succeeded":2,"failed":1,"expired":1,"duration_ms":8000}"#);
    }

    #[test]
    fn what_changed_is_said_where_the_action_says_it() {
        let with = |host: &str, state, data: Value| {
            let mut result = ended(host, state, (state == State::Failed).then_some("not up"));
            if let Some(outcome) = &mut result.outcome {
                outcome.started_at_ms = Some(1000);
                outcome.data = data.as_object().cloned();
            }
            result
        };
        let line = |result: &HostResult| Summary::of(&job(), &[result], 9000).of_results(&[result]);
        let changed = with("a", State::Succeeded, json!({ "changed": true }));
        assert_eq!(line(&changed), "a: succeeded in 41 ms, changed");
        let unchanged = with("b", State::Succeeded, json!({ "changed": false }));
        assert_eq!(line(&unchanged), "b: succeeded in 41 ms, unchanged");
        let failed = with("c", State::Failed, json!({ "changed": true }));
        assert_eq!(line(&failed), "c: failed after 41 ms, changed: not up");
        let would = with("d", State::Succeeded, json!({ "changed": false, "would": ["stop it"] }));
        assert_eq!(line(&would), "d: succeeded in 41 ms, would change");
        let nothing = with("e", State::Succeeded, json!({ "changed": false, "would": [] }));
        assert_eq!(line(&nothing), "e: succeeded in 41 ms, would not change");
        let silent = with("f", State::Succeeded, json!({ "changed": "perhaps" }));
        assert_eq!(line(&silent), "f: succeeded in 41 ms");
        let summary = Summary::of(&job(), &[&changed, &unchanged, &failed, &silent], 9000);
        assert_eq!(summary.line(), "4 hosts: 3 succeeded, 1 failed (2 changed, 1 unchanged) in 41 ms");
        let json = serde_json::to_string(&summary).unwrap();
        assert!(json.contains(r#""failed":1,"changed":2,"unchanged":1,"#), "{json}");
    }

    #[test]
    fn a_command_reads_as_it_was_typed() {
        let shown = |action: &str, arguments: Value| command(action, arguments.as_object().unwrap());
        assert_eq!(shown("ping", json!({})), "ping");
        assert_eq!(
            shown("collect-processes", json!({ "by": "memory", "top": 5 })),
            "collect-processes: by=memory top=5"
        );
        let arguments =
            json!({ "argv": ["sh", "-c", "exit 3"], "cwd": "/srv", "env": { "A": "b c" }, "secret": "***" });
        assert_eq!(shown("exec", arguments), "exec: sh -c 'exit 3' (cwd=/srv env.A='b c' secret='***')");
    }

    #[test]
    fn a_single_host_is_named() {
        let line = |result: HostResult| Summary::of(&job(), &[&result], 9000).of_results(&[&result]);
        assert_eq!(line(ended("a", State::Succeeded, None)), "a: succeeded in 41 ms");
        assert_eq!(line(ended("a", State::Rejected, Some("unknown\naction"))), "a: rejected: unknown\u{fffd}action");
        let mut failed = ended("a", State::Failed, Some("exit code 3"));
        failed.outcome.as_mut().unwrap().started_at_ms = Some(1000);
        assert_eq!(line(failed), "a: failed after 41 ms: exit code 3");
    }

    #[test]
    fn hosts_in_the_same_trouble_share_a_line() {
        let damaged = HostResult {
            damage: Some(Arc::new(Damage::Outcome(OutcomeError::Foreign))),
            ..open("e", State::Unverified)
        };
        let results = [
            ended("a", State::Failed, Some("exit code 3")),
            ended("b", State::Succeeded, None),
            ended("c", State::Failed, Some("exit code 3")),
            open("d", State::Running),
            damaged,
        ];
        let expected = [
            "d: running: no result yet",
            "a, c: failed: exit code 3",
            "e: unverified: its result cannot be trusted: the statement is about another command",
        ];
        assert_eq!(troubles(&results.iter().collect::<Vec<_>>()), expected);
    }
}
