//! A job in a line: how many hosts ended how, and how long it took.

use std::{collections::BTreeMap, time::Duration};

use protocol::{command::Manifest, outcome::State, time::Millis};
use serde::Serialize;

use crate::{moments, select, style, verdict::Answer};

/// How many hosts stand how.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// All hosts.
    pub hosts: usize,
    /// Hosts by state, only those that occur.
    #[serde(flatten)]
    pub states: BTreeMap<State, usize>,
    /// From the question to the last answer; to now where some have not answered.
    pub duration_ms: u64,
}

impl Summary {
    /// Counts the answers.
    pub fn of(job: &Manifest, answers: &[Answer], now: Millis) -> Self {
        let mut states = BTreeMap::new();
        for answer in answers {
            *states.entry(answer.state).or_default() += 1;
        }
        let ends = answers.iter().map(|answer| answer.outcome.as_ref().map(|outcome| outcome.finished_at_ms));
        let end = ends.collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().max()).unwrap_or(now);
        Self { hosts: answers.len(), states, duration_ms: end.saturating_sub(job.issued_at_ms) }
    }

    /// The line that closes a report: `web1: succeeded in 12 ms`, `3 hosts: 2 succeeded, 1 failed in 41 ms`.
    pub fn of_answers(&self, answers: &[Answer]) -> String {
        let [answer] = answers else { return self.line() };
        let span = match answer.state {
            State::Succeeded => format!(" in {}", self.span()),
            _ if answer.outcome.as_ref().is_some_and(|outcome| outcome.started_at_ms.is_some()) => {
                format!(" after {}", self.span())
            }
            _ => String::new(),
        };
        let reason = reason(answer).map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{}: {}{span}{reason}", answer.host, words(answer.state))
    }

    fn line(&self) -> String {
        format!("{}: {} in {}", hosts(self.hosts), counts(&self.states), self.span())
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

/// How a host stands, with the reason: `failed: exit code 3`.
pub fn standing(answer: &Answer) -> String {
    let words = words(answer.state);
    match reason(answer) {
        Some(reason) => format!("{words}: {reason}"),
        None => words.into(),
    }
}

fn reason(answer: &Answer) -> Option<String> {
    match &answer.outcome {
        Some(outcome) => outcome.reason.as_deref().map(style::plain),
        None if answer.state == State::Expired => Some("not started in time".into()),
        None if !answer.state.is_terminal() => Some("no answer yet".into()),
        None => None,
    }
}

/// A line for each way in which hosts did not succeed, with their names: `web1, web2: timed out`.
pub fn troubles(answers: &[Answer]) -> Vec<String> {
    let mut troubles: BTreeMap<(State, String), Vec<&str>> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.state != State::Succeeded) {
        troubles.entry((answer.state, standing(answer))).or_default().push(answer.host.as_str());
    }
    troubles.iter().map(|((_, standing), hosts)| format!("{}: {standing}", select::shorten(hosts))).collect()
}

#[cfg(test)]
mod tests {
    use protocol::{action::Arguments, name::JobId, outcome::Outcome, targets::Targets};

    use super::*;

    fn job() -> Manifest {
        Manifest {
            job: JobId::new(),
            action: "ping".into(),
            arguments: Arguments::new(),
            operator: "ann@desk".into(),
            issued_at_ms: 1000,
            start_by_ms: 2000,
            timeout_ms: 1000,
            retention_ms: 1000,
            targets: Targets::new([]).root(),
            trace: None,
        }
    }

    fn ended(host: &str, state: State, reason: Option<&str>) -> Answer {
        let outcome = Outcome::bare(state, reason.map(str::to_owned), 1041);
        Answer { host: host.parse().unwrap(), state, outcome: Some(outcome) }
    }

    #[test]
    fn a_job_is_summed_up() {
        let mut answers = vec![
            ended("a", State::Succeeded, None),
            ended("b", State::Failed, Some("exit code 3")),
            ended("c", State::Succeeded, None),
        ];
        assert_eq!(Summary::of(&job(), &answers, 9000).line(), "3 hosts: 2 succeeded, 1 failed in 41 ms");
        answers.push(Answer { host: "d".parse().unwrap(), state: State::Expired, outcome: None });
        let summary = Summary::of(&job(), &answers, 9000);
        assert_eq!(summary.line(), "4 hosts: 2 succeeded, 1 failed, 1 expired in 8.0 s");
        let json = serde_json::to_string(&summary).unwrap();
        assert_eq!(json, r#"{"hosts":4,"succeeded":2,"failed":1,"expired":1,"duration_ms":8000}"#);
    }

    #[test]
    fn one_host_is_told_of_by_name() {
        let line = |answer| {
            let answers = [answer];
            Summary::of(&job(), &answers, 9000).of_answers(&answers)
        };
        assert_eq!(line(ended("a", State::Succeeded, None)), "a: succeeded in 41 ms");
        assert_eq!(line(ended("a", State::Rejected, Some("unknown\naction"))), "a: rejected: unknown\u{fffd}action");
        let mut failed = ended("a", State::Failed, Some("exit code 3"));
        failed.outcome.as_mut().unwrap().started_at_ms = Some(1000);
        assert_eq!(line(failed), "a: failed after 41 ms: exit code 3");
    }

    #[test]
    fn hosts_in_the_same_trouble_share_a_line() {
        let answers = [
            ended("a", State::Failed, Some("exit code 3")),
            ended("b", State::Succeeded, None),
            ended("c", State::Failed, Some("exit code 3")),
            Answer { host: "d".parse().unwrap(), state: State::Running, outcome: None },
        ];
        assert_eq!(troubles(&answers), ["d: running: no answer yet", "a, c: failed: exit code 3"]);
    }
}
