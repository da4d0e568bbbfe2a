//! `ctl action`: what hosts can be asked.

use std::{collections::BTreeMap, time::Duration};

use protocol::{
    action::{ActionSpec, Argument, Kind, Parameter, Repeat},
    name::HostName,
    time::show_duration,
};
use serde_json::{Value, json};

use crate::{
    cli::Action as Command,
    error::{Advice, closest},
    exit::Exit,
    fleet::{Fleet, Host},
    printer::Printer,
    select,
    settings::Format,
    style, summary,
    table::{Cell, Table},
};

/// An action and who offers it.
pub struct Offer {
    /// Its description, by one of these hosts.
    pub action: ActionSpec,
    /// Hosts that offer it.
    pub hosts: Vec<HostName>,
    /// Hosts whose descriptions differ: they run other releases.
    pub others: Vec<HostName>,
}

/// Runs a command on actions.
pub async fn run(command: Command, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Exit> {
    let hosts = fleet.all_hosts().await?;
    let offers = offers(&hosts);
    match command {
        Command::List => list(&offers, &hosts, printer)?,
        Command::Show { name } => show(&offers, &name, printer)?,
    }
    Ok(Exit::Success)
}

/// All actions of all hosts, by name.
pub fn offers(hosts: &[Host]) -> Vec<Offer> {
    let mut offers: BTreeMap<&str, Offer> = BTreeMap::new();
    for host in hosts {
        for action in host.actions.iter().flat_map(|actions| actions.iter()) {
            let new = || Offer { action: action.clone(), hosts: Vec::new(), others: Vec::new() };
            let offer = offers.entry(&action.name).or_insert_with(new);
            offer.hosts.push(host.name.clone());
            if offer.action != *action {
                offer.others.push(host.name.clone());
            }
        }
    }
    let mut offers: Vec<_> = offers.into_values().collect();
    for offer in &mut offers {
        offer.hosts.sort();
        offer.others.sort();
    }
    offers
}

fn object(offer: &Offer) -> Value {
    let mut object = json!(offer.action);
    object["hosts"] = json!(offer.hosts);
    object
}

fn list(offers: &[Offer], hosts: &[Host], printer: &Printer) -> anyhow::Result<()> {
    if printer.format() != Format::Table {
        return printer.objects(&offers.iter().map(object).collect::<Vec<_>>());
    }
    if offers.is_empty() {
        printer.note("no host offers anything yet: ctl host list");
        return Ok(());
    }
    let mut table = Table::new(["ACTION", "HOSTS", "SUMMARY"]);
    for offer in offers {
        let all = offer.hosts.len() == hosts.len();
        let count = if all { "all".into() } else { format!("{} of {}", offer.hosts.len(), hosts.len()) };
        table.row([(&offer.action.name).into(), count.into(), (&offer.action.summary).into()]);
    }
    printer.table(&table)
}

fn show(offers: &[Offer], name: &str, printer: &Printer) -> anyhow::Result<()> {
    let Some(offer) = offers.iter().find(|offer| offer.action.name == name) else {
        let meant = closest(name, offers.iter().map(|offer| offer.action.name.as_str()));
        let error = Advice::new(format!("no host offers the action '{name}'"));
        return Err(match meant {
            Some(meant) => error.hint(format!("did you mean {meant}?")),
            None => error.hint("what there is: ctl action list"),
        }
        .into());
    };
    if printer.format() != Format::Table {
        return printer.object(&object(offer));
    }
    let action = &offer.action;
    let mut pairs = Table::of_pairs();
    pairs.pair("action", &action.name);
    pairs.pair("summary", &action.summary);
    pairs.pair("usage", usage(action));
    pairs.pair("timeout", show_duration(Duration::from_millis(action.timeout_ms)));
    pairs.pair(
        "after a crash",
        match action.repeat {
            Repeat::Repeatable => "it runs again: it only reads",
            Repeat::Once => "it is reported as interrupted: it never starts twice",
        },
    );
    let names: Vec<_> = offer.hosts.iter().map(HostName::as_str).collect();
    pairs.pair("offered by", format!("{}: {}", summary::hosts(names.len()), select::shorten(&names)));
    if !offer.others.is_empty() {
        let names: Vec<_> = offer.others.iter().map(HostName::as_str).collect();
        pairs.pair("differs on", Cell::styled(&select::shorten(&names), style::WARNING));
    }
    printer.table(&pairs)?;
    if action.parameters.is_empty() {
        return Ok(());
    }
    printer.line("")?;
    let mut table = Table::new(["PARAMETER", "MEANING", "VALUE", "DEFAULT"]);
    for parameter in &action.parameters {
        table.row([
            parameter.usage().into(),
            (&parameter.summary).into(),
            accepted(&parameter.kind).into(),
            default(parameter).into(),
        ]);
    }
    printer.table(&table)
}

fn usage(action: &ActionSpec) -> String {
    let (behind, named): (Vec<_>, Vec<_>) = action.parameters.iter().partition(|parameter| parameter.trailing);
    let shown = |parameter: &&Parameter| {
        if parameter.required { parameter.usage() } else { format!("[{}]", parameter.usage()) }
    };
    let words: Vec<_> = named.iter().chain(&behind).map(shown).collect();
    format!("ctl run --host NAME {} {}", action.name, words.join(" ")).trim_end().to_owned()
}

fn accepted(kind: &Kind) -> String {
    kind.to_string()
}

fn default(parameter: &Parameter) -> String {
    match &parameter.default {
        Some(Argument::Text(text)) => text.clone(),
        Some(default) => default.to_string(),
        None if parameter.required => "(required)".into(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn offers_are_gathered_over_hosts() {
        let host = |name: &str, actions: &[&str]| Host {
            name: name.parse().unwrap(),
            seen_ms: None,
            status: None,
            actions: Some(Rc::new(actions.iter().map(|name| ActionSpec::repeatable(name, name)).collect())),
        };
        let offers = offers(&[host("a", &["ping", "exec"]), host("b", &["ping"])]);
        let told: Vec<_> = offers.iter().map(|offer| (offer.action.name.as_str(), offer.hosts.len())).collect();
        assert_eq!(told, [("exec", 1), ("ping", 2)]);
    }

    #[test]
    fn usage_puts_words_last_and_brackets_what_may_be_left_out() {
        let words = Parameter { required: true, trailing: true, ..Parameter::optional("argv", Kind::List, "") };
        let cwd = Parameter::optional("cwd", Kind::Text, "");
        let action = ActionSpec { parameters: vec![words, cwd], ..ActionSpec::repeatable("exec", "") };
        assert_eq!(usage(&action), "ctl run --host NAME exec [cwd=TEXT] -- ARGV…");
    }
}
