//! Tries a rule: judges it now, and shows what would be said.

use anyhow::{Context, bail};
use serde_json::json;

use crate::{
    cli::{alerts::TestRule, settings::Settings, targeting::joined},
    client::{
        Error, Fleet, Selection, Truth,
        alerts::{Alert, Judged, Notification, Phase, Rule},
    },
    output::{Advice, Cell, Format, Printer, Table, style, summary},
};

/// Judges a rule.
pub async fn run(options: TestRule, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let TestRule { name, hosts, send } = options;
    let snapshot = fleet.alerts().await?;
    let rule = match snapshot.rules.get(name.as_str()) {
        Some(Ok((_, rule))) => rule.clone(),
        Some(Err(problem)) => bail!(Advice::new(format!("the rule {name} cannot be used: {}", style::plain(problem)))),
        None => bail!(Error::UnknownRule { name: name.to_string(), known: snapshot.rules.into_keys().collect() }),
    };
    let words = joined(&hosts);
    let hosts: Vec<_> = if words.is_empty() {
        Vec::new()
    } else {
        let selected = fleet.select(&Selection { words, ..Selection::all() }).await?;
        selected.hosts.into_iter().map(|host| host.name).collect()
    };
    let judged = fleet.judge_rule(&rule, &hosts).await?;
    show(&judged, printer)?;
    if send {
        self::send(&rule, &judged, &snapshot.receivers, fleet, settings, printer).await?;
    }
    Ok(())
}

fn show(judged: &[Judged], printer: &Printer) -> anyhow::Result<()> {
    if printer.format() != Format::Table {
        let object = |Judged { host, when, found, text }: &Judged| {
            let (holds, reason) = match when {
                Truth::Yes => (Some(true), None),
                Truth::No => (Some(false), None),
                Truth::Unknown(reason) => (None, Some(reason)),
            };
            json!({ "host": host, "holds": holds, "reason": reason, "found": found, "text": text })
        };
        return printer.objects(&judged.iter().map(object).collect::<Vec<_>>());
    }
    if judged.is_empty() {
        printer.note("it is about no host");
        return Ok(());
    }
    let mut table = Table::new(["HOST", "HOLDS", "FOUND"]);
    let mut counts = [0; 3];
    for Judged { host, when, found, .. } in judged {
        let (at, holds, found) = match when {
            Truth::Yes => (0, Cell::styled("yes", style::WARNING), found.as_str()),
            Truth::No => (1, Cell::from("no"), found.as_str()),
            Truth::Unknown(reason) => (2, Cell::styled("unknown", style::DIM), reason.as_str()),
        };
        counts[at] += 1;
        table.row([host.as_ref().map_or("redis", |host| host.as_str()).into(), holds, found.into()]);
    }
    printer.table(&table.folded())?;
    for Judged { text, .. } in judged.iter().filter(|judged| judged.when == Truth::Yes) {
        printer.note(&format!("it would be said: {}", style::plain(text)));
    }
    let [yes, no, unknown] = counts;
    let about = if judged.iter().all(|judged| judged.host.is_some()) {
        format!("{}: ", summary::hosts(judged.len()))
    } else {
        String::new()
    };
    printer.note(&format!("{about}it holds for {yes}, not for {no}, and is unknown for {unknown}"));
    Ok(())
}

/// Sends the receivers of the rule a message that is marked as a test.
async fn send(
    rule: &Rule,
    judged: &[Judged],
    receivers: &[String],
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<()> {
    let own = &rule.written.receivers;
    let receivers = if own.is_empty() { receivers } else { own };
    if receivers.is_empty() {
        let advice = Advice::new("nothing was sent: nobody is told of this rule");
        bail!(advice.hint("name receivers in the settings of ctl serve, or in the rule"));
    }
    let now = fleet.now();
    let found = judged.iter().find(|judged| judged.when == Truth::Yes).or_else(|| judged.first());
    let text = found.map_or("nothing was found", |judged| judged.text.as_str());
    for receiver in receivers {
        let mut random = [0; 16];
        getrandom::fill(&mut random).context("this machine has no random numbers")?;
        let id = random.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let alert = Alert {
            rule: rule.name().to_string(),
            host: found.and_then(|judged| judged.host.clone()),
            severity: rule.written.severity,
            phase: Phase::Firing,
            labels: [("test".to_owned(), "true".to_owned())].into(),
            text: format!("TEST by {}, nothing has happened: {text}", settings.operator),
            found: found.map(|judged| judged.found.clone()).unwrap_or_default(),
            begins_ms: now,
            ends_ms: None,
        };
        let notification = Notification {
            id: id.clone(),
            receiver: receiver.clone(),
            group: [("rule".to_owned(), rule.name().to_string()), ("test".to_owned(), id.clone())].into(),
            phase: Phase::Firing,
            alerts: vec![alert],
            at_ms: now,
        };
        fleet.put_notification(&notification).await?;
        let id = &id[..8];
        printer.note(&format!("{}: ctl serve is about to send {id}; see: ctl alert show {id}", style::plain(receiver)));
    }
    Ok(())
}
