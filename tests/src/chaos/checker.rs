//! The judge: what must hold for every command, whatever was done to the fleet.

use std::collections::HashMap;

use protocol::{
    event::{Event, EventKind, Stream},
    limits,
    name::{HostName, JobId},
    outcome::{Captured, Outcome, State},
    time::Millis,
};
use redis::{Connection, RedisResult};

use super::{
    command::{Command, Sending, Work, bounded},
    evidence::Evidence,
    fleet::Fleet,
    history::About,
    profile::Profile,
};

/// Why a cancelled command has nothing to show.
pub(super) const BEFORE_START: &str = "before it started";

type Fields = HashMap<String, Vec<u8>>;

/// What Redis has of a command on a host in the end.
pub(super) struct Traces {
    state: Option<State>,
    outcome: Option<Outcome>,
    events: Vec<Event>,
}

impl Traces {
    /// Asks for them.
    pub(super) fn ask(redis: &mut Connection, fleet: &Fleet, job: JobId, host: &HostName) -> RedisResult<Self> {
        let mut pipeline = redis::pipe();
        pipeline.hget(fleet.keys.job_hosts(job), host.as_str()).hgetall(fleet.keys.job_result(job, host));
        pipeline.cmd("XRANGE").arg(fleet.keys.job_events(job)).arg("-").arg("+");
        let (state, outcome, events): (Option<String>, Fields, Vec<(String, Fields)>) = pipeline.query(redis)?;
        Ok(Self {
            state: state.and_then(|state| state.parse().ok()),
            outcome: Outcome::from_fields(&outcome),
            events: events.iter().filter_map(|(_, fields)| Event::from_fields(fields)).collect(),
        })
    }

    /// The state in the end.
    pub(super) const fn state(&self) -> Option<State> {
        self.state
    }

    /// The outcome in the end.
    pub(super) const fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// As lines for a history.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("in the end: state {:?}", self.state)];
        if let Some(outcome) = &self.outcome {
            let Outcome { state, reason, exit_code, started_at_ms, finished_at_ms, stdout, .. } = outcome;
            let Captured { written_bytes, cut_bytes, .. } = stdout;
            lines.push(format!(
                "in the end: outcome {state}, reason {reason:?}, exit code {exit_code:?}, from {started_at_ms:?} to \
                 {finished_at_ms}, {written_bytes} bytes written, {cut_bytes} cut"
            ));
        }
        lines.extend(self.events.iter().map(|event| match &event.kind {
            EventKind::State(state) => format!("in the end: event {state}"),
            EventKind::Output { stream, offset, data } => {
                format!("in the end: event {} {offset}..{}", stream.as_str(), offset + data.len() as u64)
            }
        }));
        lines
    }
}

/// Judges a command; says everything that is wrong.
pub(super) fn judge(fleet: &Fleet, command: &Command, traces: &Traces, evidence: &Evidence) -> Vec<String> {
    let mut judge = Judge { fleet, command, traces, wrong: Vec::new() };
    judge.one_terminal_state(evidence);
    if let (Some(state), Some(outcome)) = (traces.state, &traces.outcome) {
        judge.honest(state, outcome);
        judge.starts(state, outcome, evidence);
        judge.output(state, outcome);
    } else if evidence.count(&command.job().to_string()).0 > 1 {
        judge.wrong.push("it started more than once".into());
    }
    judge.live_output();
    judge.wrong
}

struct Judge<'a> {
    fleet: &'a Fleet,
    command: &'a Command,
    traces: &'a Traces,
    wrong: Vec<String>,
}

impl Judge<'_> {
    fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(otherwise());
        }
    }

    /// Exactly one, the same from every reader, and it never changed. What was acknowledged has one.
    fn one_terminal_state(&mut self, evidence: &Evidence) {
        let Traces { state, outcome, events } = self.traces;
        // Whether what was tried once arrived is not known.
        if state.is_none() && self.command.sending == Sending::Abandoned && self.command.acknowledged.is_none() {
            return;
        }
        self.must(state.is_some_and(State::is_terminal), || format!("it has no terminal state, but {state:?}"));
        let told = outcome.as_ref().map(|outcome| outcome.state);
        self.must(told == *state, || format!("its state is {state:?}, but its result says {told:?}"));
        // Redis may forget that a repeatable one has ended; it is then done again.
        if self.fleet.profile.loses() && !self.command.is_once() {
            return;
        }
        let seen = self.command.seen.iter().filter_map(|(_, state)| *state);
        let said = events.iter().filter_map(|event| match event.kind {
            EventKind::State(state) => Some(state),
            EventKind::Output { .. } => None,
        });
        // One that never started is not in the journal. Where Redis forgets what became of it, it may
        // not start the second time for another reason.
        let started = evidence.count(&self.command.job().to_string()).0 > 0;
        let excused = |seen: State| {
            let never = [State::Expired, State::Rejected, State::Cancelled];
            let both = never.contains(&seen) && state.is_some_and(|state| never.contains(&state));
            self.fleet.profile.loses() && !started && both
        };
        let other = seen.chain(said).find(|seen| seen.is_terminal() && Some(*seen) != *state && !excused(*seen));
        self.must(other.is_none(), || format!("it was {other:?} before it was {state:?}"));
        let states: Vec<_> = self.command.seen.iter().map(|(_, state)| *state).collect();
        let left = states.windows(2).find(|pair| {
            pair[0].is_some_and(State::is_terminal)
                && !(self.fleet.profile.loses() && pair[1].is_none_or(|state| !state.is_terminal()))
        });
        self.must(left.is_none(), || format!("it left a terminal state: {left:?}"));
    }

    /// The state is one that what was asked, and what was done to the fleet, can lead to.
    fn honest(&mut self, state: State, outcome: &Outcome) {
        let Command { work, manifest, cancelled, .. } = self.command;
        let reason = outcome.reason.clone().unwrap_or_default();
        let died = !self.fleet.history.moments(About::Host(self.command.host), "worker has died").is_empty();
        let possible = match (work, state) {
            (Work::Nonsense, state) => matches!(state, State::Rejected | State::Cancelled),
            (_, State::Rejected) => {
                self.fleet.profile == Profile::FullDisk
                    && self.command.is_once()
                    && reason.contains("must not run twice")
            }
            (_, State::Expired) => outcome.finished_at_ms > manifest.start_by_ms,
            (_, State::Cancelled) => cancelled.is_some(),
            (Work::Collect(_), State::Interrupted) => reason.contains("was stopped"),
            (_, State::Interrupted) => died,
            (Work::Exec { .. } | Work::Collect(_), State::TimedOut) => {
                outcome.duration_ms() >= Some(manifest.timeout_ms)
            }
            (Work::Exec { code, .. }, State::Succeeded) => *code == 0 && outcome.exit_code == Some(0),
            (Work::Exec { code, .. }, State::Failed) => *code != 0 && outcome.exit_code == Some(*code),
            (Work::Collect(_), state) => state == State::Succeeded,
            (Work::Exec { .. }, _) => false,
        };
        self.must(possible, || format!("it cannot be {state} ({reason})"));
    }

    /// What must not run twice started at most once, and as often as its state says.
    fn starts(&mut self, state: State, outcome: &Outcome, evidence: &Evidence) {
        let (starts, ends) = evidence.count(&self.command.job().to_string());
        self.must(starts <= 1, || format!("it started {starts} times"));
        // Redis may have lost the order to cancel it.
        let called_off = self.command.cancelled_first && !self.fleet.profile.loses();
        self.must(!called_off || starts == 0, || "it was cancelled before it was sent, and it started".into());
        let before_start = outcome.reason.as_deref() == Some(BEFORE_START);
        let expected = match state {
            State::Succeeded | State::Failed if self.command.is_once() => starts == 1 && ends == 1,
            State::Expired | State::Rejected => starts == 0,
            State::Cancelled if before_start => starts == 0,
            _ => true,
        };
        self.must(expected, || format!("it is {state}, and it started {starts} times and ended {ends} times"));
    }

    /// What is kept of the output is complete up to its bound, in order, each byte once.
    fn output(&mut self, state: State, outcome: &Outcome) {
        let full = self.command.work.prints();
        let stdout = &outcome.stdout;
        let written = usize::try_from(stdout.written_bytes).unwrap_or(usize::MAX);
        let ran_to_its_end = matches!(state, State::Succeeded | State::Failed);
        self.must(!ran_to_its_end || written == full.len(), || {
            format!("it has printed {} bytes, its result tells of {written}", full.len())
        });
        // A journal that lost its outcome's output for want of room says that all of it was cut.
        if self.fleet.profile.loses() && stdout.cut_bytes == stdout.written_bytes {
            return;
        }
        let expected = full.get(..written).map(bounded);
        self.must(expected.as_ref() == Some(stdout), || "its output is not what it has printed".into());
    }

    /// Live output is a beginning of what was printed; events may be repeated, but nothing is missing
    /// between two of them.
    fn live_output(&mut self) {
        let full = self.command.work.prints();
        let mut told = 0;
        for event in &self.traces.events {
            let EventKind::Output { stream: Stream::Stdout, offset, data } = &event.kind else { continue };
            let from = usize::try_from(*offset).unwrap_or(usize::MAX);
            let is_there = full.get(from..).is_some_and(|rest| rest.starts_with(data));
            self.must(is_there, || format!("the live output at {from} is not what it has printed"));
            // Earlier events may be lost with the rest of what Redis lost.
            self.must(from <= told || self.fleet.profile.loses(), || {
                format!("live output is missing from {told} to {from}")
            });
            told = told.max(from + data.len());
        }
        let bound = full.len().min(limits::LIVE_BYTES);
        self.must(told <= bound, || format!("{told} bytes of live output are more than the {bound} allowed"));
        let whole = self.traces.state == Some(State::Succeeded) && told > 0 && !self.fleet.profile.loses();
        let undisturbed = self.deaths_since_sent() == 0;
        self.must(!(whole && undisturbed) || told == bound, || {
            format!("live output ends at {told} instead of {bound}")
        });
    }

    fn deaths_since_sent(&self) -> usize {
        let sent: Millis = self.command.manifest.issued_at_ms;
        let deaths = self.fleet.history.moments(About::Host(self.command.host), "worker has died");
        deaths.into_iter().filter(|at| *at >= sent).count()
    }
}

/// Commands with the same lock ran one after another on each host: whoever ends, nobody has started since.
pub(super) fn judge_locks(commands: &[Command], evidence: &Evidence) -> Vec<(usize, String)> {
    let by_job: HashMap<String, &Command> =
        commands.iter().map(|command| (command.job().to_string(), command)).collect();
    let mut running: HashMap<(usize, &str), usize> = HashMap::new();
    let mut wrong = Vec::new();
    for mark in evidence.marks() {
        let Some(command) = by_job.get(&mark.who) else { continue };
        let Some(name) = &command.lock else { continue };
        let last = running.entry((command.host, name)).or_insert(command.number);
        if mark.started {
            *last = command.number;
        } else if *last != command.number {
            wrong.push((command.number, format!("command {last} with the same lock started while it ran")));
        }
    }
    wrong
}
