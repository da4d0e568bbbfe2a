//! `ctl group`: which hosts are meant, saved under names.

use protocol::name::GroupName;
use serde_json::{Value, json};

use super::selected::select;
use crate::{
    cli::groups::{Group as Command, SetGroup},
    client::{Error, Fleet, Group, Selection, Word},
    output::{Advice, Cell, Format, Printer, Table, explain::explain, fold, style, summary},
};

/// Runs a command on groups.
pub async fn run(command: Command, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    match command {
        Command::Set(options) => set(*options, fleet, printer).await,
        Command::List => list(fleet, printer).await,
        Command::Show { name } => show(&name, fleet, printer).await,
        Command::Rm { name } => {
            fleet.remove_group(&name).await?;
            printer.note(&format!("{name}: removed"));
            Ok(())
        }
    }
}

async fn set(SetGroup { name, whom }: SetGroup, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let Selection { words, except, filter, .. } = whom.selection();
    let group = Group::new(words, except, filter).map_err(|error| {
        Advice::new(format!("the group is not saved: {error}")).hint("put parts of it into groups of their own: @NAME")
    })?;
    let before = fleet.set_group(&name, &group).await?;
    printer.note(&format!("{name}: {}", style::plain(&group.to_string())));
    if let Some(before) = before.filter(|before| *before != group.to_string()) {
        printer.note(&format!("{name}: it was: {}", style::plain(&before)));
    }
    // It may be meant for hosts that are still to come.
    if let Err(error) = select(&selection(&name), fleet, printer).await {
        printer.warn(&explain(&error).to_string());
    }
    Ok(())
}

/// The hosts of a group.
fn selection(name: &GroupName) -> Selection {
    Selection { words: vec![Word::of_group(name.clone())], ..Selection::all() }
}

/// A group as an object. One that cannot be read has a `problem`.
fn object(name: &str, text: &str) -> Value {
    let problem = text.parse::<Group>().err().map(|error| error.to_string());
    json!({ "group": name, "text": text, "problem": problem })
}

async fn list(fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let groups = fleet.groups().await?;
    if printer.format() != Format::Table {
        return printer.objects(&groups.texts().map(|(name, text)| object(name, text)).collect::<Vec<_>>());
    }
    let mut table = Table::new(["GROUP", "STANDS FOR"]);
    let (mut count, mut problems) = (0, Vec::new());
    for (name, text) in groups.texts() {
        count += 1;
        let problem = match (name.parse::<GroupName>(), text.parse::<Group>()) {
            (Err(error), _) => Some(error.to_string()),
            (_, Err(error)) => Some(error.to_string()),
            _ => None,
        };
        let style = if problem.is_some() { style::BAD } else { style::PLAIN };
        table.row([style::plain(name).as_str().into(), Cell::styled(&style::plain(text), style)]);
        problems.extend(problem.map(|problem| format!("{}: cannot be read: {problem}", style::plain(name))));
    }
    if count == 0 {
        printer.note("there is no group yet; save one: ctl group set NAME --host 'web*' -l env=prod");
        return Ok(());
    }
    printer.table(&table.folded())?;
    for problem in &problems {
        printer.trouble(problem);
    }
    printer.note(&if count == 1 { "1 group".to_owned() } else { format!("{count} groups") });
    Ok(())
}

async fn show(name: &GroupName, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let group = fleet.groups().await?.get(name)?;
    let hosts = match select(&selection(name), fleet, printer).await {
        Ok((hosts, _)) => hosts,
        // A group may be empty.
        Err(error) if matches!(error.downcast_ref(), Some(Error::NoneMeant { .. })) => Vec::new(),
        Err(error) => return Err(error),
    };
    let names: Vec<_> = hosts.iter().map(|host| &host.name).collect();
    if printer.format() != Format::Table {
        let mut object = object(name.as_str(), &group.to_string());
        object["hosts"] = json!(names);
        return printer.object(&object);
    }
    let mut pairs = Table::of_pairs();
    pairs.pair("group", name.as_str());
    pairs.pair("stands for", style::plain(&group.to_string()));
    let now = if names.is_empty() {
        "none".to_owned()
    } else {
        format!("{}: {}", summary::hosts(names.len()), fold::names(&names))
    };
    pairs.pair("now", now);
    printer.table(&pairs.folded())
}
