//! How a job's answers are told: as they come, and as a whole at the end.

use protocol::{
    outcome::{Outcome, State},
    time::Millis,
};
use serde_json::{Map, Value};

use crate::{
    answer_json,
    dispatch::Job,
    figures,
    printer::Printer,
    settings::Format,
    style,
    summary::{Summary, standing, troubles},
    table::{Cell, Table},
    verdict::Answer,
};

/// Figures beside each host in a table of several at most.
const COLUMNS: usize = 7;

/// Figures about the figures, which say nothing when hosts are compared.
const ASIDE: [&str; 2] = ["sampled_at", "window_seconds"];

/// Tells of one job.
pub struct Report<'a> {
    job: &'a Job,
    printer: &'a Printer,
}

impl<'a> Report<'a> {
    /// A report on `job`.
    pub const fn new(job: &'a Job, printer: &'a Printer) -> Self {
        Self { job, printer }
    }

    /// Tells of a host as soon as it has answered, where that need not wait for the others.
    pub fn arrived(&self, answer: &Answer) -> anyhow::Result<()> {
        match self.printer.format() {
            Format::Jsonl => self.printer.json_line(&answer_json::of_host(answer)),
            Format::Json => Ok(()),
            Format::Table => self.output(answer),
        }
    }

    /// Tells the rest.
    pub fn finish(&self, answers: &[Answer], now: Millis) -> anyhow::Result<()> {
        let summary = Summary::of(&self.job.manifest, answers, now);
        let told = match self.printer.format() {
            Format::Json => {
                self.printer.object(&answer_json::whole(self.job, answers, &summary))?;
                true
            }
            Format::Jsonl => true,
            Format::Table => self.figures(answers)?,
        };
        self.close(answers, &summary, told);
        Ok(())
    }

    fn is_single(&self) -> bool {
        self.job.targets.len() == 1
    }

    /// What the program on the host printed: of one host as it is, of several with the host before each line.
    fn output(&self, answer: &Answer) -> anyhow::Result<()> {
        let Some(outcome) = &answer.outcome else { return Ok(()) };
        let prefix = format!("{} | ", answer.host);
        let bytes = |kept: &[u8]| if self.is_single() { kept.to_vec() } else { prefixed(&prefix, kept) };
        if !outcome.stdout.kept.is_empty() {
            self.printer.raw(&bytes(&outcome.stdout.kept))?;
        }
        if !outcome.stderr.kept.is_empty() {
            self.printer.raw_stderr(&bytes(&outcome.stderr.kept));
        }
        for (stream, captured) in [("stdout", &outcome.stdout), ("stderr", &outcome.stderr)] {
            if captured.cut_bytes > 0 {
                let [cut, written] =
                    [captured.cut_bytes, captured.written_bytes].map(|count| figures::bytes(count as f64));
                self.printer
                    .note(&format!("{}: {cut} of the {written} of {stream} were cut from the middle", answer.host));
            }
        }
        Ok(())
    }

    /// The figures: of one host line by line, of several side by side, or one after another where they are
    /// more than a row can hold. Says whether that told of every host's state.
    fn figures(&self, answers: &[Answer]) -> anyhow::Result<bool> {
        let outcomes = || answers.iter().filter_map(|answer| answer.outcome.as_ref());
        let is_deep = |data: &Map<String, Value>| data.values().any(|value| !figures::is_scalar(value));
        let deep = outcomes().filter_map(|outcome| outcome.data.as_ref()).any(is_deep);
        if self.is_single() || deep {
            for (answer, data) in answers.iter().filter_map(|answer| Some((answer, data(answer)?))) {
                if !self.is_single() {
                    self.printer.line(&style::paint(style::HEADING, answer.host.as_str()))?;
                }
                figures::lines(data, Printer::width()).iter().try_for_each(|line| self.printer.line(line))?;
                if !self.is_single() {
                    self.printer.line("")?;
                }
            }
            return Ok(false);
        }
        let has_output = |outcome: &Outcome| outcome.stdout.written_bytes + outcome.stderr.written_bytes > 0;
        // Output has been printed already; a table of states beside it would only repeat the summary.
        let tabled = outcomes().next().is_some() && !outcomes().any(has_output);
        if tabled {
            self.printer.table(&side_by_side(answers))?;
        }
        Ok(tabled)
    }

    /// Says what went wrong, and sums up.
    fn close(&self, answers: &[Answer], summary: &Summary, told: bool) {
        let line = summary.of_answers(answers);
        // What is said of a single host is its result, unless that is only that all is well.
        if let [Answer { state, .. }] = answers
            && *state != State::Succeeded
            && !told
        {
            return self.printer.trouble(&line);
        }
        if !told {
            for line in troubles(answers) {
                self.printer.trouble(&line);
            }
        }
        self.printer.note(&line);
    }
}

/// Hosts one below the other with their figures; what is out of the ordinary comes first.
fn side_by_side(answers: &[Answer]) -> Table {
    let mut answers: Vec<_> = answers.iter().collect();
    let usage = |answer: &Answer| figure(answer, "usage").and_then(Value::as_f64).unwrap_or(0.0);
    answers.sort_by(|one, other| {
        let ordinary = |answer: &Answer| answer.state == State::Succeeded;
        ordinary(one).cmp(&ordinary(other)).then(usage(other).total_cmp(&usage(one))).then(one.host.cmp(&other.host))
    });
    let troubled = answers.iter().any(|answer| answer.state != State::Succeeded);
    let columns = columns(&answers);
    // Without figures the states are all there is to see.
    let with_state = troubled || columns.is_empty();
    let headings = ["HOST".to_owned()].into_iter().chain(with_state.then(|| "STATE".to_owned()));
    let mut table = Table::new(headings.chain(columns.iter().map(|column| figures::label(column).to_uppercase())));
    for answer in answers {
        let state = with_state.then(|| Cell::styled(&standing(answer), style::of_state(answer.state)));
        let figures = columns.iter().map(|column| {
            Cell::from(figure(answer, column).map(|value| figures::value(column, value)).unwrap_or_default())
        });
        table.row([Cell::from(answer.host.as_str())].into_iter().chain(state).chain(figures));
    }
    table
}

/// The first figures of the hosts, those that fit into a cell.
fn columns<'a>(answers: &[&'a Answer]) -> Vec<&'a str> {
    let mut columns = Vec::new();
    for (name, value) in answers.iter().filter_map(|answer| data(answer)).flatten() {
        let is_new = !columns.contains(&name.as_str()) && !ASIDE.contains(&name.as_str());
        if is_new && figures::is_scalar(value) && !name.contains(':') {
            columns.push(name);
        }
    }
    columns.truncate(COLUMNS);
    columns
}

fn data(answer: &Answer) -> Option<&Map<String, Value>> {
    answer.outcome.as_ref()?.data.as_ref()
}

fn figure<'a>(answer: &'a Answer, name: &str) -> Option<&'a Value> {
    data(answer)?.get(name)
}

/// Every line with the prefix; an unfinished last line is finished, as another host's follows.
fn prefixed(prefix: &str, bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(bytes.len() + bytes.len() / 8);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        lines.extend_from_slice(prefix.as_bytes());
        lines.extend_from_slice(line);
    }
    if lines.last().is_some_and(|byte| *byte != b'\n') {
        lines.push(b'\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_carry_their_host_and_are_whole() {
        assert_eq!(prefixed("a | ", b"x\n\ny"), b"a | x\na | \na | y\n");
        assert_eq!(prefixed("a | ", b""), b"");
    }

    #[test]
    fn the_extraordinary_comes_first() {
        let answer = |host: &str, state, usage: Option<f64>| {
            let data = usage.map(|usage| json!({ "usage": usage, "usage:/": 1, "list": [{}] }));
            let data = data.and_then(|data| data.as_object().cloned());
            let outcome = Outcome { data, ..Outcome::bare(state, None, 0) };
            Answer { host: host.parse().unwrap(), state, outcome: Some(outcome) }
        };
        let answers = [
            answer("calm", State::Succeeded, Some(1.0)),
            answer("busy", State::Succeeded, Some(99.0)),
            answer("lost", State::TimedOut, None),
        ];
        let table = side_by_side(&answers);
        let lines: Vec<_> =
            table.lines(None).iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(
            lines,
            ["HOST  STATE      USAGE", "lost  timed out", "busy  succeeded  99.0 %", "calm  succeeded  1.0 %",]
        );
        let lines = side_by_side(&answers[..2]).lines(None);
        assert!(!lines.concat().contains("STATE"));
    }
}
