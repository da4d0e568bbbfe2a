//! `ctl action`: the actions that hosts offer.

use std::time::Duration;

use protocol::{
    action::{ActionSpec, Argument, Parameter, Repeat},
    name::HostName,
    time::show_duration,
};
use serde_json::{Value, json};

use crate::{
    cli::grammar::Action as Command,
    client::{Fleet, Offer, offers, shorten},
    output::{
        Advice, Cell, Format, Printer, Table,
        explain::{did_you_mean, how_to_allow},
        style, summary,
    },
};

/// Runs a command on actions.
pub async fn run(command: Command, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let hosts = fleet.all_hosts().await?;
    let offers = offers(&hosts);
    match command {
        Command::List => list(&offers, hosts.len(), printer),
        Command::Show { name } => show(&offers, &name, printer),
    }
}

fn object(offer: &Offer) -> Value {
    let mut object = json!(offer.action);
    // Whether one host allows the action does not hold for the others.
    object.as_object_mut().map(|object| object.remove("allowed"));
    object["hosts"] = json!(offer.hosts);
    object["allowed_on"] = json!(offer.allowed_on);
    object
}

fn list(offers: &[Offer], hosts: usize, printer: &Printer) -> anyhow::Result<()> {
    if printer.format() != Format::Table {
        return printer.objects(&offers.iter().map(object).collect::<Vec<_>>());
    }
    if offers.is_empty() {
        printer.note("no host offers any action yet; see: ctl host list");
        return Ok(());
    }
    let share = |count: usize| match count {
        0 => "none".into(),
        _ if count == hosts => "all".into(),
        _ => format!("{count} of {hosts}"),
    };
    let mut table = Table::new(["ACTION", "KNOWN", "ALLOWED", "SUMMARY"]);
    for offer in offers {
        let (known, allowed) = (share(offer.hosts.len()), share(offer.allowed_on.len()));
        let style = if offer.allowed_on.is_empty() { style::WARNING } else { style::PLAIN };
        let allowed = Cell::styled(&allowed, style);
        table.row([(&offer.action.name).into(), known.into(), allowed, (&offer.action.summary).into()]);
    }
    printer.table(&table.folded())
}

fn show(offers: &[Offer], name: &str, printer: &Printer) -> anyhow::Result<()> {
    let Some(offer) = offers.iter().find(|offer| offer.action.name == name) else {
        let known = offers.iter().map(|offer| offer.action.name.as_str());
        let hint = did_you_mean(name, known, "list them: ctl action list".into());
        return Err(Advice::new(format!("no host offers the action '{name}'")).hint(hint).into());
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
    if action.own {
        pairs.pair("defined by", "a file of the host's own (actions.d)");
    }
    if action.approvals > 1 {
        pairs.pair("signatures", format!("{} needed: ctl run --propose … {}", action.approvals, action.name));
    }
    let named = |hosts: &[HostName]| format!("{}: {}", summary::hosts(hosts.len()), shorten(hosts));
    pairs.pair("offered by", named(&offer.hosts));
    let forbidden = offer.hosts.iter().filter(|host| !offer.allowed_on.contains(host)).cloned().collect::<Vec<_>>();
    if !forbidden.is_empty() {
        pairs.pair("not allowed on", Cell::styled(&named(&forbidden), style::WARNING));
    }
    if !offer.differs_on.is_empty() {
        pairs.pair("differs on", Cell::styled(&named(&offer.differs_on), style::WARNING));
    }
    printer.table(&pairs.folded())?;
    if !forbidden.is_empty() {
        printer.note(&how_to_allow(&action.name));
    }
    if action.parameters.is_empty() {
        return Ok(());
    }
    printer.line("")?;
    let mut table = Table::new(["PARAMETER", "VALUE", "DEFAULT", "MEANING"]);
    for parameter in &action.parameters {
        let kind = format!("{}{}", parameter.kind, if parameter.secret { ", secret" } else { "" });
        table.row([parameter.usage().into(), kind.into(), default(parameter).into(), (&parameter.summary).into()]);
    }
    printer.table(&table.folded())
}

fn usage(action: &ActionSpec) -> String {
    let (behind, named): (Vec<_>, Vec<_>) = action.parameters.iter().partition(|parameter| parameter.trailing);
    let shown = |parameter: &&Parameter| {
        if parameter.required { parameter.usage() } else { format!("[{}]", parameter.usage()) }
    };
    let words: Vec<_> = named.iter().chain(&behind).map(shown).collect();
    format!("ctl run --host NAME {} {}", action.name, words.join(" ")).trim_end().to_owned()
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
    use protocol::action::Kind;

    use super::*;

    #[test]
    fn usage_puts_words_last_and_brackets_what_may_be_left_out() {
        let words = Parameter { required: true, trailing: true, ..Parameter::optional("argv", Kind::List, "") };
        let cwd = Parameter::optional("cwd", Kind::Text, "");
        let action = ActionSpec { parameters: vec![words, cwd], ..ActionSpec::repeatable("exec", "") };
        assert_eq!(usage(&action), "ctl run --host NAME exec [cwd=TEXT] -- ARGV…");
    }
}
