//! What a playbook would do on which hosts, as far as that is known before it begins.

use std::collections::BTreeMap;

use anyhow::Context;
use protocol::name::HostName;
use serde_json::json;

use super::{
    super::{proposal, rolling::foretell, selected::select},
    file::{Call, Playbook, Step, Task},
};
use crate::{
    client::{Error, Filter, Fleet, Host, Outlook, understand},
    output::{Cell, Format, Printer, Table, fold, style, summary::hosts},
};

/// What a playbook would do.
pub struct Planned {
    /// Its steps, in order.
    pub steps: Vec<PlannedStep>,
    /// Whether hosts were left out, as it is not known whether they are meant.
    pub left_out: bool,
}

/// What a step would do.
pub struct PlannedStep {
    /// The hosts that it is for now.
    pub hosts: Vec<Host>,
    /// The names of its secret arguments.
    secrets: Vec<String>,
}

impl Step {
    /// The name of its action, where it has one.
    pub fn action(&self) -> Option<&str> {
        self.task.call().map(|call| call.action.as_str())
    }

    /// What it does, as a person reads it.
    fn shown(&self, secrets: &[String]) -> String {
        match &self.task {
            Task::Run(call) => style::plain(&call.shown(secrets)),
            Task::Check { filter, .. } => style::plain(&format!("check: {}", filter.text())),
        }
    }
}

impl Call {
    fn shown(&self, secrets: &[String]) -> String {
        let from = self.from.as_ref().map(|from| format!("from={}", from.display()));
        let words = self.words.iter().map(|word| match word.split_once('=') {
            Some((name, _)) if secrets.iter().any(|secret| name.split('.').next() == Some(secret)) => {
                format!("{name}=***")
            }
            _ => style::quoted(word).into_owned(),
        });
        [self.action.clone()].into_iter().chain(words).chain(from).collect::<Vec<_>>().join(" ")
    }

    /// Whether its arguments are known before the playbook begins.
    fn is_known(&self) -> bool {
        self.from.is_none() && !self.words.iter().any(|word| word.contains("${"))
    }
}

/// Finds the hosts of each step, and checks what can be checked of it.
///
/// # Errors
/// A step is for no host, or cannot be run on one.
pub async fn of(playbook: &Playbook, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Planned> {
    let mut planned = Planned { steps: Vec::new(), left_out: false };
    for step in &playbook.steps {
        let failed = || format!("nothing was done: step '{}'", step.name);
        let (hosts, left_out) = match select(&step.selection, fleet, printer).await {
            // An earlier step may change that.
            Err(error) if matches!(error.downcast_ref(), Some(Error::NoneMeant { filter: Some(_), .. })) => {
                printer.note(&format!("step {} is for no host, as things are now", step.name));
                (Vec::new(), false)
            }
            found => found.with_context(failed)?,
        };
        if hosts.is_empty() {
            planned.steps.push(PlannedStep { hosts, secrets: Vec::new() });
            continue;
        }
        let mut secrets = Vec::new();
        let calls = [step.task.call(), step.rollback.as_ref()];
        for call in calls.into_iter().flatten().filter(|call| call.is_known()) {
            let understood = understand(&hosts, &call.action, &call.words, &[]).with_context(failed)?;
            proposal::refuse_alone(&call.action, understood.approvals).with_context(failed)?;
            secrets.extend(understood.secrets.into_keys());
        }
        planned.left_out |= left_out;
        planned.steps.push(PlannedStep { hosts, secrets });
    }
    Ok(planned)
}

/// Prints it: each step, and what happens on each host.
pub fn print(playbook: &Playbook, planned: &Planned, printer: &Printer) -> anyhow::Result<()> {
    let mut by_host: BTreeMap<&HostName, Vec<&str>> = BTreeMap::new();
    let steps = || playbook.steps.iter().zip(&planned.steps);
    for (step, planned) in steps() {
        for host in &planned.hosts {
            by_host.entry(&host.name).or_default().push(&step.name);
        }
    }
    if printer.format() != Format::Table {
        let steps = steps().map(|(step, planned)| {
            let hosts: Vec<_> = planned.hosts.iter().map(|host| &host.name).collect();
            let when = step.when.as_ref().map(Filter::text);
            json!({ "step": step.name, "does": step.shown(&planned.secrets), "when": when, "hosts": hosts })
        });
        return printer.object(&json!({ "steps": steps.collect::<Vec<_>>(), "hosts": by_host }));
    }

    let mut table = Table::new(["STEP", "ON", "DOES"]);
    for (step, planned) in steps() {
        let names: Vec<_> = planned.hosts.iter().map(|host| &host.name).collect();
        let when = step.when.as_ref().map(|when| format!(" (when {})", style::plain(when.text())));
        let does = format!("{}{}", step.shown(&planned.secrets), when.unwrap_or_default());
        table.row([step.name.clone(), fold::names(&names), does].map(Cell::from));
    }
    printer.table(&table)?;
    for (step, planned) in steps().filter(|(step, _)| step.waves.is_rolling()) {
        let total = planned.hosts.len();
        let waves = step.waves.of(total);
        printer.note(&format!("{}: {}", step.name, foretell(&Outlook::of(total, &waves), &waves)));
    }

    // Hosts with the same steps share a line.
    let mut by_steps: BTreeMap<Vec<&str>, Vec<&HostName>> = BTreeMap::new();
    for (host, steps) in &by_host {
        by_steps.entry(steps.clone()).or_default().push(host);
    }
    printer.line("")?;
    let mut table = Table::new(["HOST", "STEPS"]);
    for (steps, names) in &by_steps {
        table.row([fold::names(names), steps.join(", ")].map(Cell::from));
    }
    printer.table(&table)?;
    printer.note(&format!("a dry run: nothing was done on {}", hosts(by_host.len())));
    Ok(())
}
