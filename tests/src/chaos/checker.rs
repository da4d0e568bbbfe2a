//! The checker: what must hold for every command, whatever faults the fleet had.

use std::collections::HashMap;

use protocol::{
    event::{Event, EventKind, Piece, Stream},
    limits,
    name::{HostName, JobId},
    outcome::{Captured, Outcome, State},
    signed::Fields,
    statement::{OutcomeError, Report, Subject},
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

/// The reason of a command that was cancelled before it started.
pub(super) const BEFORE_START: &str = "before it started";

/// The entries of a stream.
type Entries = Vec<(String, Fields)>;

/// The outcome in a result hash. The job's own hash, with the manifest, may be gone.
fn read(fields: Fields, job: JobId, host: &HostName) -> Result<Outcome, OutcomeError> {
    let report = Report::take(fields)?;
    let manifest = report.signed.open()?.manifest();
    report.open(&Subject { namespace: None, job, host, manifest, unverified: None })
}

/// What Redis holds about a command on a host in the end.
pub(super) struct Traces {
    state: Option<State>,
    outcome: Option<Outcome>,
    events: Vec<Event>,
    output: Vec<Piece>,
}

impl Traces {
    /// Reads them.
    pub(super) fn read(redis: &mut Connection, fleet: &Fleet, job: JobId, host: &HostName) -> RedisResult<Self> {
        let mut pipeline = redis::pipe();
        pipeline.hget(fleet.keys.job_hosts(job), host.as_str()).hgetall(fleet.keys.job_result(job, host));
        for key in [fleet.keys.job_events(job), fleet.keys.job_output(job, host)] {
            pipeline.cmd("XRANGE").arg(key).arg("-").arg("+");
        }
        let (state, outcome, events, output): (Option<String>, Fields, Entries, Entries) = pipeline.query(redis)?;
        Ok(Self {
            state: state.and_then(|state| state.parse().ok()),
            outcome: read(outcome, job, host).ok(),
            events: events.iter().filter_map(|(_, fields)| Event::from_fields(fields)).collect(),
            output: output.iter().filter_map(|(_, fields)| Piece::from_fields(fields)).collect(),
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

    /// The traces as lines for a history.
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
            EventKind::Waits(what) => format!("in the end: event waits for {what}"),
            EventKind::Progress(text) => format!("in the end: event progress {text}"),
            EventKind::CancelOrdered => "in the end: event of an order to cancel".into(),
        }));
        lines.extend(self.output.iter().map(|Piece { stream, offset, data }| {
            format!("in the end: output {} {offset}..{}", stream.as_str(), offset + data.len() as u64)
        }));
        lines
    }
}

/// Judges a command; returns everything that is wrong.
pub(super) fn judge(fleet: &Fleet, command: &Command, traces: &Traces, evidence: &Evidence) -> Vec<String> {
    let mut judge = Judge { fleet, command, traces, wrong: Vec::new() };
    judge.one_terminal_state(evidence);
    if let (Some(state), Some(outcome)) = (traces.state, &traces.outcome) {
        judge.possible_state(state, outcome);
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
    /// Notes a violation unless `holds`.
    fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(otherwise());
        }
    }

    /// There is exactly one terminal state, the same for every reader, and it never changed. Every command that
    /// Redis acknowledged has one.
    fn one_terminal_state(&mut self, evidence: &Evidence) {
        let Traces { state, outcome, events, .. } = self.traces;
        // Whether a command that was sent once has arrived is not known.
        if state.is_none() && self.command.sending == Sending::Abandoned && self.command.acknowledged.is_none() {
            return;
        }
        self.must(state.is_some_and(State::is_terminal), || format!("it has no terminal state, but {state:?}"));
        let published = outcome.as_ref().map(|outcome| outcome.state);
        self.must(published == *state, || format!("its state is {state:?}, but its outcome has {published:?}"));
        // Redis may forget that a repeatable command has ended; it then runs again.
        if self.fleet.profile.loses() && !self.command.is_once() {
            return;
        }
        let seen = self.command.seen.iter().filter_map(|(_, state)| *state);
        let reported = events.iter().filter_map(|event| match event.kind {
            EventKind::State(state) => Some(state),
            EventKind::Waits(_) => Some(State::Delivered),
            EventKind::Progress(_) | EventKind::CancelOrdered => None,
        });
        // A command that never started is not in the journal. Where Redis forgets its state, a second copy
        // may not start for another reason.
        let started = evidence.count(&self.command.job().to_string()).0 > 0;
        let excused = |seen: State| {
            let never = [State::Expired, State::Rejected, State::Cancelled];
            let both = never.contains(&seen) && state.is_some_and(|state| never.contains(&state));
            self.fleet.profile.loses() && !started && both
        };
        let other = seen.chain(reported).find(|seen| seen.is_terminal() && Some(*seen) != *state && !excused(*seen));
        self.must(other.is_none(), || format!("it was {other:?} before it was {state:?}"));
        let states: Vec<_> = self.command.seen.iter().map(|(_, state)| *state).collect();
        let left = states.windows(2).find(|pair| {
            pair[0].is_some_and(State::is_terminal)
                && !(self.fleet.profile.loses() && pair[1].is_none_or(|state| !state.is_terminal()))
        });
        self.must(left.is_none(), || format!("it left a terminal state: {left:?}"));
    }

    /// The command and the faults of the fleet can lead to this state.
    fn possible_state(&mut self, state: State, outcome: &Outcome) {
        let Command { work, manifest, cancelled, .. } = self.command;
        let reason = outcome.reason.clone().unwrap_or_default();
        let died = !self.fleet.history.moments(About::Host(self.command.host), "worker has died").is_empty();
        let possible = match (work, state) {
            (Work::Nonsense, state) => matches!(state, State::Rejected | State::Cancelled),
            (_, State::Rejected) => {
                self.fleet.profile == Profile::FullDisk
                    && self.command.is_once()
                    && ["must not run twice", "the audit trail"].iter().any(|why| reason.contains(why))
            }
            // By the clock of its worker, which may have been stepped since, or by the true one.
            (_, State::Expired) => {
                let seen = self.command.seen.iter().find(|(_, seen)| *seen == Some(state));
                seen.map(|(at, _)| *at).max(Some(outcome.finished_at_ms)) > Some(manifest.start_by_ms)
            }
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

    /// The command started at most once, and as often as its state implies.
    fn starts(&mut self, state: State, outcome: &Outcome, evidence: &Evidence) {
        let (starts, ends) = evidence.count(&self.command.job().to_string());
        self.must(starts <= 1, || format!("it started {starts} times"));
        // Redis may have lost the order to cancel it.
        let cancelled_first = self.command.cancelled_first && !self.fleet.profile.loses();
        self.must(!cancelled_first || starts == 0, || "it was cancelled before it was sent, and it started".into());
        let before_start = outcome.reason.as_deref() == Some(BEFORE_START);
        let expected = match state {
            State::Succeeded | State::Failed if self.command.is_once() => starts == 1 && ends == 1,
            State::Expired | State::Rejected => starts == 0,
            State::Cancelled if before_start => starts == 0,
            _ => true,
        };
        self.must(expected, || format!("it is {state}, and it started {starts} times and ended {ends} times"));
    }

    /// The kept output is complete up to its bound, in order, each byte once.
    fn output(&mut self, state: State, outcome: &Outcome) {
        let full = self.command.work.full_output();
        let stdout = &outcome.stdout;
        let written = usize::try_from(stdout.written_bytes).unwrap_or(usize::MAX);
        let ran_to_its_end = matches!(state, State::Succeeded | State::Failed);
        self.must(!ran_to_its_end || written == full.len(), || {
            format!("it has printed {} bytes, its outcome counts {written}", full.len())
        });
        // A journal that has dropped an outcome's output for lack of room reports all of it as cut.
        if self.fleet.profile.loses() && stdout.cut_bytes == stdout.written_bytes {
            return;
        }
        let expected = full.get(..written).map(bounded);
        self.must(expected.as_ref() == Some(stdout), || "its kept output is not what it has printed".into());
    }

    /// Live output is a beginning of what was printed. Pieces may be repeated, but nothing is missing between
    /// two of them, unless it is more than Redis keeps.
    fn live_output(&mut self) {
        let full = self.command.work.full_output();
        let mut reached = 0;
        let kept = full.len() <= limits::LIVE_BYTES / 2;
        for Piece { offset, data, .. } in self.traces.output.iter().filter(|piece| piece.stream == Stream::Stdout) {
            let from = usize::try_from(*offset).unwrap_or(usize::MAX);
            let is_there = full.get(from..).is_some_and(|rest| rest.starts_with(data));
            self.must(is_there, || format!("the live output at {from} is not what it has printed"));
            // Redis may have lost earlier events.
            self.must(from <= reached || !kept || self.fleet.profile.loses(), || {
                format!("live output is missing from {reached} to {from}")
            });
            reached = reached.max(from + data.len());
        }
        let whole = self.traces.state == Some(State::Succeeded) && reached > 0 && !self.fleet.profile.loses();
        let undisturbed = self.deaths_since_sent() == 0;
        self.must(!(whole && undisturbed) || reached == full.len(), || {
            format!("live output ends at {reached} instead of {}", full.len())
        });
    }

    fn deaths_since_sent(&self) -> usize {
        let sent: Millis = self.command.manifest.issued_at_ms;
        let deaths = self.fleet.history.moments(About::Host(self.command.host), "worker has died");
        deaths.into_iter().filter(|at| *at >= sent).count()
    }
}

/// Commands with the same lock ran one after another on each host: between the start and the end of a command
/// no other one has started.
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
