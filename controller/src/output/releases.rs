//! How deploys went, and which releases hosts have.

use std::time::Duration;

use protocol::{
    name::HostName,
    outcome::Outcome,
    time::{Millis, read_moment},
};
use serde_json::{Map, Value};

use super::{
    figures,
    fold::label,
    moments,
    printer::Printer,
    style,
    summary::{is_good, standing},
    table::{Cell, Table},
};
use crate::client::HostResult;

/// Fields of a deploy that its summary says, or that nobody needs who has typed the command.
const SAID: [&str; 2] = ["app", "changed"];

/// How a deploy or rollback went: the hosts that failed first, each with the reason, the last lines of its log, and what
/// runs there now. Returns whether that showed the states of all.
pub fn deployed(results: &[&HostResult], printer: &Printer) -> anyhow::Result<bool> {
    let is_single = results.len() == 1;
    for result in results.iter().filter(|result| !is_good(result)) {
        failed(result, is_single, printer);
    }
    if let [result] = results {
        if let Some(data) = data(result).filter(|_| is_good(result)) {
            let shown = data.iter().filter(|(name, value)| !SAID.contains(&name.as_str()) && !value.is_null());
            let shown = shown.map(|(name, value)| (name.clone(), value.clone())).collect();
            figures::lines(&shown, Printer::width()).iter().try_for_each(|line| printer.line(line))?;
        }
        return Ok(false);
    }

    // Hosts that fared alike share a row.
    let mut alike: Vec<([String; 3], Vec<&HostName>)> = Vec::new();
    for (result, data) in results.iter().filter(|result| is_good(result)).filter_map(|one| Some((one, data(one)?))) {
        let fate = ["result", "running", "prior"].map(|name| words(data, name));
        match alike.iter_mut().find(|(known, _)| *known == fate) {
            Some((_, hosts)) => hosts.push(&result.host),
            None => alike.push((fate, vec![&result.host])),
        }
    }
    if !alike.is_empty() {
        let mut table = Table::new(["HOST", "RESULT", "RUNNING", "BEFORE"]);
        for (fate, hosts) in &alike {
            table.row([Cell::from(label(hosts))].into_iter().chain(fate.iter().map(Cell::from)));
        }
        printer.table(&table)?;
    }
    Ok(true)
}

/// A host on which it did not succeed. `is_single`: the summary says why.
fn failed(result: &HostResult, is_single: bool, printer: &Printer) {
    let host = &result.host;
    if !is_single {
        printer.trouble(&format!("{host}: {}", standing(result)));
    }
    for line in result.outcome.iter().flat_map(last_lines) {
        printer.trouble(&format!("{host} | {line}"));
    }
    let Some(data) = data(result).filter(|data| data.contains_key("running")) else { return };
    let runs = match words(data, "running") {
        running if running.is_empty() => "nothing".into(),
        running => format!("version {running}"),
    };
    let within = data.get("rollback_started_ms").and_then(Value::as_u64);
    let within = within.map(|millis| moments::span(Duration::from_millis(millis)));
    let within = within.map(|span| format!(" (the rollback began {span} after the failed check)")).unwrap_or_default();
    printer.trouble(&format!("{host}: {runs} runs there now{within}"));
}

/// What a host has printed: of a failed deploy these are the last lines of the service's log.
fn last_lines(outcome: &Outcome) -> Vec<String> {
    let texts = [&outcome.stdout, &outcome.stderr].map(|captured| String::from_utf8_lossy(&captured.kept).into_owned());
    texts.iter().flat_map(|text| text.lines()).map(style::plain).collect()
}

/// A table of which release runs on each host, which one is proven, and since when.
pub fn status(results: &[&HostResult], now: Millis, printer: &Printer) -> anyhow::Result<bool> {
    let mut table = Table::new(["HOST", "RUNNING", "PROVEN", "SERVICE", "SINCE", "BY"]);
    for (result, data) in sorted(results) {
        let running = words(data, "running");
        let release = objects(data, "releases").find(|release| words(release, "version") == running);
        let field = |name: &str| release.map(|release| words(release, name)).unwrap_or_default();
        let since = read_moment(&field("deployed_at")).map(|moment| moments::local(moment, now)).unwrap_or_default();
        let service = words(data, "service_state");
        table.row(
            [result.host.as_str().into(), named(&running), named(&words(data, "proven")), Cell::from(service)]
                .into_iter()
                .chain([since, field("by")].map(Cell::from)),
        );
    }
    printer.table(&table)?;

    for (result, data) in sorted(results) {
        if let Some(at_work) = data.get("deploying").and_then(Value::as_object) {
            let [version, step] = ["version", "step"].map(|name| words(at_work, name));
            printer.note(&format!("{}: version {version} is being deployed: {step}", result.host));
        }
        let [running, current] = ["running", "current"].map(|name| words(data, name));
        if running != current && data.contains_key("current") {
            let [running, current] =
                [running, current].map(|version| if version.is_empty() { "nothing".into() } else { version });
            printer.note(&format!("{}: {running} runs, but `current` leads to {current}", result.host));
        }
    }
    Ok(false)
}

/// What was deployed on each host, the newest first.
pub fn history(results: &[&HostResult], now: Millis, printer: &Printer) -> anyhow::Result<bool> {
    let is_single = results.len() == 1;
    let host = (!is_single).then_some("HOST");
    let mut table =
        Table::new(host.into_iter().chain(["AT", "JOB", "BY", "VERSION", "FROM", "RESULT", "REASON"])).folded();
    let mut is_empty = true;
    for (result, data) in sorted(results) {
        for entry in objects(data, "history") {
            is_empty = false;
            let at = words(entry, "at");
            let at = read_moment(&at).map_or(at, |moment| moments::local(moment, now));
            let job = words(entry, "job");
            // The last digits, by which a job can be named.
            let job = job.get(job.len().saturating_sub(8)..).unwrap_or(&job).to_owned();
            let cells = ["by", "version", "from", "result", "reason"].map(|name| words(entry, name));
            let host = (!is_single).then(|| Cell::from(result.host.as_str()));
            table.row(host.into_iter().chain([at, job].map(Cell::from)).chain(cells.map(Cell::from)));
        }
    }
    if is_empty {
        printer.note("nothing was deployed there yet");
    } else {
        printer.table(&table)?;
    }
    Ok(false)
}

/// The data of those that have some: first the hosts that did not succeed, each sorted by name.
fn sorted<'a>(results: &[&'a HostResult]) -> Vec<(&'a HostResult, &'a Map<String, Value>)> {
    let mut found: Vec<_> = results.iter().filter_map(|result| Some((*result, data(result)?))).collect();
    found.sort_by(|(one, _), (other, _)| is_good(one).cmp(&is_good(other)).then_with(|| one.host.cmp(&other.host)));
    found
}

fn data(result: &HostResult) -> Option<&Map<String, Value>> {
    result.outcome.as_ref()?.data.as_ref()
}

/// The objects of a list.
fn objects<'a>(data: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a Map<String, Value>> {
    data.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

/// A field in words; empty where there is none.
fn words(data: &Map<String, Value>, name: &str) -> String {
    let text = data.get(name).map(|value| figures::value("", value)).unwrap_or_default();
    if name == "result" { text.replace('_', " ") } else { text }
}

/// A version in a table, where none is a dash.
fn named(version: &str) -> Cell {
    if version.is_empty() { Cell::styled("-", style::DIM) } else { version.into() }
}
