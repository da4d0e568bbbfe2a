//! `ctl host label`: labels beside those of the hosts' own settings.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::selected::{confirm, select};
use crate::{
    cli::hosts::Relabel,
    client::{Fleet, LabelChange, Relabelled},
    output::{Advice, Exit, Format, Printer, fold, style},
};

/// Sets and removes labels.
pub async fn run(options: Relabel, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Exit> {
    let Relabel { hosts, changes, narrowing, yes } = options;
    let mut names = BTreeSet::new();
    if let Some(twice) = changes.iter().find(|change| !names.insert(&change.name)) {
        return Err(Advice::new(format!("the label '{}' is changed twice: nothing was changed", twice.name)).into());
    }
    let selection = narrowing.of(&[hosts]);
    let (hosts, left_out) = select(&selection, fleet, printer).await?;
    let asked: Vec<_> = changes.iter().map(text).collect();
    confirm(&format!("label {}", asked.join(" ")), [(&selection, &hosts[..])], yes)?;
    let done = fleet.relabel(&hosts, &changes).await?;
    if printer.format() == Format::Table {
        // What is alike is printed once.
        let mut lines: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for one in &done {
            lines.entry(line(one)).or_default().push(&one.host);
        }
        for (line, hosts) in &lines {
            printer.note(&format!("{}: {line}", fold::names(hosts)));
        }
    } else {
        let object = |Relabelled { host, change, before }: &Relabelled| json!({ "host": host, "label": change.name, "value": change.value, "before": before });
        printer.objects(&done.iter().map(object).collect::<Vec<_>>())?;
    }
    Ok(Exit::Success.with_left_out(left_out))
}

/// A change as it is written.
fn text(LabelChange { name, value }: &LabelChange) -> String {
    value.as_ref().map_or_else(|| format!("{name}-"), |value| format!("{name}={value}"))
}

/// What became of a label.
fn line(Relabelled { change: LabelChange { name, value }, before, .. }: &Relabelled) -> String {
    let was = before.as_deref().map(|before| format!(" (it was {})", style::plain(before))).unwrap_or_default();
    match value {
        Some(value) if before.as_ref() == Some(value) => format!("{name}={value}, as before"),
        Some(value) => format!("{name}={value}{was}"),
        None if before.is_none() => format!("{name} was not set by ctl"),
        None => format!("{name} removed{was}"),
    }
}
