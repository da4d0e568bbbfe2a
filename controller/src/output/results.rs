//! A job's results: each as it comes, and all of them at the end.

use std::time::Duration;

use protocol::{
    action::{Argument, CHANGED, DRY_RUN},
    outcome::Outcome,
    time::Millis,
};
use serde_json::{Map, Value};

use super::{
    figures,
    fold::{groups, label},
    json, moments,
    natural::by_name,
    printer::{Format, Printer},
    releases, style,
    summary::{Summary, is_good, standing, troubles},
    table::{Cell, Table},
    tail::Tail,
};
use crate::client::{HostResult, Job};

/// Figures beside each host in a table of several at most.
const COLUMNS: usize = 7;

/// Hosts in the same state that have a row each at most.
const ALIKE: usize = 20;

/// Figures about the figures, which do not help to compare hosts.
const ASIDE: [&str; 2] = ["sampled_at", "window_seconds"];

/// How results look to a person, once all have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Output, then figures.
    Figures,
    /// How a deploy or a rollback went.
    Deployed,
    /// Which releases run.
    Releases,
    /// What was deployed before.
    History,
}

impl View {
    /// How the results of this job look best.
    pub fn of(job: &Job) -> Self {
        let manifest = job.manifest();
        match manifest.action.as_str() {
            // The steps of a dry run are figures.
            "deploy" | "deploy-rollback" if manifest.arguments.get(DRY_RUN) != Some(&Argument::Boolean(true)) => {
                Self::Deployed
            }
            "deploy-status" => Self::Releases,
            _ => Self::Figures,
        }
    }
}

/// Prints the results of one job.
pub struct Results<'a> {
    job: &'a Job,
    printer: &'a Printer,
    /// Whether output is printed as it comes.
    live: bool,
    view: View,
    /// Prints output that comes before its result.
    pub tail: Tail<'a>,
}

impl<'a> Results<'a> {
    /// Prints the results of `job` on that many hosts. `live`: output is printed as it comes.
    pub fn new(job: &'a Job, hosts: usize, live: bool, view: View, printer: &'a Printer) -> Self {
        Self { job, printer, live, view, tail: Tail::new(job.id(), hosts, printer) }
    }

    /// Prints a result that has come, except for the parts that must wait for the other hosts.
    pub fn one(&mut self, result: &HostResult) -> anyhow::Result<()> {
        if self.live {
            self.tail.end(&result.host, result.outcome.as_ref())?;
        }
        match self.printer.format() {
            Format::Jsonl => self.printer.object(&json::of_result(self.job, result)),
            Format::Json | Format::Table => Ok(()),
        }
    }

    /// Prints the rest, and sums up.
    pub fn all(&mut self, results: &[&HostResult], now: Millis) -> anyhow::Result<()> {
        let summary = Summary::of(self.job.manifest(), results, now);
        let has_states = match self.printer.format() {
            Format::Json => {
                self.printer.object(&json::of_job(self.job, results, &summary))?;
                true
            }
            Format::Jsonl => true,
            Format::Table => match self.view {
                View::Deployed if !self.live => releases::deployed(results, self.printer)?,
                View::Releases => releases::status(results, now, self.printer)?,
                View::History => releases::history(results, now, self.printer)?,
                View::Figures | View::Deployed => {
                    if !self.live {
                        self.output(results)?;
                    }
                    self.figures(results)?
                }
            },
        };
        self.close(results, &summary, has_states);
        Ok(())
    }

    /// The output, sorted by host. What several hosts have printed is printed once.
    fn output(&mut self, results: &[&HostResult]) -> anyhow::Result<()> {
        if let [result] = results {
            return self.tail.end(&result.host, result.outcome.as_ref());
        }
        let groups = groups(results, self.printer.folds());
        groups.iter().try_for_each(|(hosts, outcome)| self.tail.group(hosts, outcome))
    }

    /// The figures: of one host line by line, of several side by side, or one after another where they are
    /// more than a row can hold. Returns whether that showed every host's state.
    fn figures(&self, results: &[&HostResult]) -> anyhow::Result<bool> {
        let is_single = results.len() == 1;
        let is_deep = |data: &Map<String, Value>| data.values().any(|value| !figures::is_scalar(value));
        if is_single || results.iter().filter_map(|result| data(result)).any(is_deep) {
            for (result, data) in results.iter().filter_map(|result| Some((result, data(result)?))) {
                // Of a single host the summary says whether it was changed.
                let hidden = |name: &str| is_single && name == CHANGED && data[name].is_boolean();
                let shown = data.iter().filter(|(name, _)| !hidden(name));
                let shown = shown.map(|(name, value)| (name.clone(), value.clone())).collect();
                let mut lines = figures::lines(&shown, Printer::width());
                if !is_single {
                    lines.insert(0, style::paint(style::HEADING, result.host.as_str()));
                    lines.push(String::new());
                }
                lines.iter().try_for_each(|line| self.printer.line(line))?;
            }
            return Ok(false);
        }
        let outcomes = || results.iter().filter_map(|result| result.outcome.as_ref());
        let has_output = |outcome: &Outcome| outcome.stdout.written_bytes + outcome.stderr.written_bytes > 0;
        // Output has been printed already; a table of states beside it would only repeat the summary.
        let tabled = outcomes().next().is_some() && !outcomes().any(has_output);
        if tabled {
            self.printer.table(&side_by_side(results, self.job.manifest().issued_at_ms, self.printer.folds()))?;
        }
        Ok(tabled)
    }

    /// Prints the hosts that did not succeed, unless the states were shown, and sums up.
    fn close(&self, results: &[&HostResult], summary: &Summary, has_states: bool) {
        let line = summary.of_results(results);
        match results {
            _ if has_states => {}
            // The summary of a single host is its result, unless the host just succeeded.
            [result] if !is_good(result) => return self.printer.trouble(&line),
            _ => troubles(results).iter().for_each(|line| self.printer.trouble(line)),
        }
        self.printer.note(&line);
    }
}

/// A table of hosts with their figures: first the hosts that did not succeed, each sorted by name. Where it `folds`, many
/// hosts of which nothing but their state is known are one row.
fn side_by_side(results: &[&HostResult], issued_at_ms: Millis, folds: bool) -> Table {
    let mut results = results.to_vec();
    results.sort_by(|one, other| is_good(one).cmp(&is_good(other)).then_with(|| by_name(&one.host, &other.host)));
    let is_shown = |(name, value): &(&String, &Value)| {
        figures::is_scalar(value) && !name.contains(':') && !ASIDE.contains(&name.as_str())
    };
    let mut columns = figures::columns(results.iter().filter_map(|result| data(result)).flatten().filter(is_shown));
    // That all were changed is in the summary.
    if columns == [CHANGED] {
        columns.clear();
    }
    columns.truncate(COLUMNS);
    // Without figures the table has only states to show.
    let with_state = columns.is_empty() || !results.iter().all(|result| is_good(result));
    // From the dispatch to the end, both by Redis' clock: of a `ping` it is how far away the host is.
    let with_time = columns.is_empty();
    let headings = ["HOST"].into_iter().chain(with_time.then_some("AFTER")).chain(with_state.then_some("STATE"));
    let headings = headings.map(str::to_owned).chain(columns.iter().map(|name| figures::label(name).to_uppercase()));
    let mut table = Table::new(headings);
    if folds && columns.is_empty() {
        for alike in results.chunk_by(|one, other| standing(one) == standing(other)) {
            let rows = if alike.len() > ALIKE { vec![alike] } else { alike.chunks(1).collect() };
            for hosts in rows {
                table.row(state_of(hosts, issued_at_ms));
            }
        }
        return table;
    }
    for result in results {
        let state = with_state.then(|| Cell::styled(&standing(result), style::of_state(result.state)));
        let figures = columns.iter().map(|column| figures::cell(column, figure(result, column)));
        let after = with_time.then(|| Cell::from(time(result, issued_at_ms).unwrap_or_default()));
        table.row([Cell::from(result.host.as_str())].into_iter().chain(after).chain(state).chain(figures));
    }
    table
}

/// The row of hosts that are in the same state: the time is that of the slowest one.
fn state_of(hosts: &[&HostResult], issued_at_ms: Millis) -> [Cell; 3] {
    let names: Vec<_> = hosts.iter().map(|result| &result.host).collect();
    let slowest = hosts.iter().max_by_key(|result| result.outcome.as_ref().map(|outcome| outcome.finished_at_ms));
    let after = slowest.and_then(|result| time(result, issued_at_ms)).unwrap_or_default();
    let after = if hosts.len() > 1 && !after.is_empty() { format!("up to {after}") } else { after };
    let state = hosts.first().map(|result| Cell::styled(&standing(result), style::of_state(result.state)));
    [label(&names).into(), after.into(), state.unwrap_or_else(|| Cell::from(""))]
}

/// The time from the dispatch to the end on a host.
fn time(result: &HostResult, issued_at_ms: Millis) -> Option<String> {
    let finished = result.outcome.as_ref()?.finished_at_ms;
    Some(moments::span(Duration::from_millis(finished.saturating_sub(issued_at_ms).max(1))))
}

fn data(result: &HostResult) -> Option<&Map<String, Value>> {
    result.outcome.as_ref()?.data.as_ref()
}

fn figure<'a>(result: &'a HostResult, name: &str) -> Option<&'a Value> {
    data(result)?.get(name)
}

#[cfg(test)]
mod tests {
    use protocol::outcome::State;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_extraordinary_comes_first() {
        let result = |host: &str, state, usage: Option<f64>| {
            let data = usage.map(|usage| json!({ "usage": usage, "usage:/": 1, "list": [{}] }));
            let data = data.and_then(|data| data.as_object().cloned());
            let outcome = Outcome { data, ..Outcome::bare(state, None, 0) };
            HostResult { state, outcome: Some(outcome), ..HostResult::new(host.parse().unwrap()) }
        };
        let results = [
            result("web2", State::Succeeded, Some(99.0)),
            result("web1", State::Succeeded, Some(1.0)),
            result("lost", State::TimedOut, None),
        ];
        let results: Vec<_> = results.iter().collect();
        let table = side_by_side(&results, 0, true);
        let lines: Vec<_> =
            table.lines(None).iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(
            lines,
            ["HOST  STATE      USAGE", "lost  timed out", "web1  succeeded  1.0 %", "web2  succeeded  99.0 %",]
        );
        let lines = side_by_side(&results[..2], 0, true).lines(None);
        assert!(!lines.concat().contains("STATE"));
    }

    #[test]
    fn many_hosts_of_which_nothing_but_their_state_is_known_are_one_row() {
        let result = |number: u64| {
            let state = if number == 7 { State::Failed } else { State::Succeeded };
            let outcome = Outcome::bare(state, None, number);
            HostResult { state, outcome: Some(outcome), ..HostResult::new(format!("web{number}").parse().unwrap()) }
        };
        let results: Vec<_> = (1..=30).map(result).collect();
        let results: Vec<_> = results.iter().collect();
        let lines = |count: usize, folds| {
            let lines = side_by_side(&results[..count], 0, folds).lines(None).into_iter();
            lines.map(|line| anstream::adapter::strip_str(&line).to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            lines(30, true),
            [
                "HOST           AFTER        STATE",
                "web7           7 ms         failed",
                "web[1-6,8-30]  up to 30 ms  succeeded"
            ]
        );
        assert_eq!(lines(30, false).len(), 31);
        let few = lines(20, true);
        assert_eq!(
            (few.len(), few[2].as_str(), few[20].as_str()),
            (21, "web1   1 ms   succeeded", "web20  20 ms  succeeded")
        );
    }
}
