//! `ctl host`: lists hosts, and shows their state.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use protocol::{
    name::{HostName, JobId, Namespace},
    time::{Millis, show_moment},
};
use serde_json::{Map, Value, json};

use super::{
    enroll, history,
    host_key::{self, Change, HostKeys},
    host_label, host_watch,
    selected::select,
};
use crate::{
    cli::{hosts::Host as Command, settings::Settings, targeting::Targeting},
    client::{Fleet, Forgotten, Host, Labels, Selection, shorten},
    output::{
        Cell, Exit, Format, Printer, Table, explain::how_to_mend, figures, moments, natural::by_name, style, summary,
    },
};

/// Runs a command on hosts.
pub async fn run(command: Command, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    // Nothing is asked of Redis to enroll a host, unless its user is to be made there.
    let connect = || super::connect(settings);
    let namespace = settings.namespace.as_ref();
    match command {
        Command::List(targeting) => list(*targeting, &mut connect().await?, printer).await?,
        Command::Show { name, since: Some(since) } => {
            show_history(&mut connect().await?, &name, since, printer).await?;
        }
        Command::Show { name, since: None } => show(&mut connect().await?, &name, namespace, printer).await?,
        Command::Watch(whom) => return host_watch::run(*whom, &mut connect().await?, printer).await,
        Command::Label(options) => return host_label::run(*options, &mut connect().await?, printer).await,
        Command::Enroll(options) => enroll::run(*options, settings, printer).await?,
        Command::Key { name, pin, forget, yes } => {
            let change = match pin {
                Some(typed) => Change::Pin { typed, sure: yes },
                None if forget => Change::Forget,
                None => Change::None,
            };
            host_key::run(&name, &change, namespace, &mut connect().await?, printer).await?;
        }
        Command::Forget { names } => forget(&mut connect().await?, names, printer).await?,
    }
    Ok(Exit::Success)
}

/// Removes hosts that are gone for good, and names what is thrown away with them.
async fn forget(fleet: &mut Fleet, mut names: Vec<HostName>, printer: &Printer) -> anyhow::Result<()> {
    names.sort();
    names.dedup();
    for Forgotten { host, queued, jobs } in fleet.forget(&names).await? {
        let jobs: Vec<_> = jobs.iter().map(JobId::short).collect();
        let commands = if queued == 1 { "1 queued command".into() } else { format!("{queued} queued commands") };
        let lost = if queued == 0 { String::new() } else { format!(", with {commands} ({})", shorten(&jobs)) };
        printer.note(&format!("{host}: forgotten{lost}"));
    }
    Ok(())
}

async fn list(targeting: Targeting, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let mut hosts = if targeting.is_empty() {
        fleet.all_hosts().await?
    } else {
        select(&targeting.selection(), fleet, printer).await?.0
    };
    let now = fleet.now();
    hosts.sort_by(|one, other| {
        one.is_online(now).cmp(&other.is_online(now)).then_with(|| by_name(&one.name, &other.name))
    });
    let usage = fleet.cpu_usage(&hosts).await?;
    if printer.format() != Format::Table {
        let mut objects: Vec<_> = hosts.iter().map(|host| headline(host, now)).collect();
        for ((object, usage), labels) in objects.iter_mut().zip(usage).zip(fleet.labels(&hosts).await?) {
            object["cpu_usage"] = json!(usage);
            object["labels"] = json!(labels.own);
            object["set_labels"] = json!(labels.set);
        }
        return printer.objects(&objects);
    }
    if hosts.is_empty() {
        printer.note("no worker has reported yet; start one: worker --redis URL --host NAME");
        return Ok(());
    }
    let mut table = Table::new(["HOST", "STATE", "LAST SEEN", "CPU", "RUNNING", "VERSION"]);
    for (host, usage) in hosts.iter().zip(usage) {
        let status = host.status.as_ref();
        table.row([
            host.name.as_str().into(),
            state_cell(host, now),
            host.last_seen_ms().map(|seen| moments::ago(seen, now)).unwrap_or_default().into(),
            usage.map(|usage| figures::value("usage", &json!(usage))).unwrap_or_default().into(),
            status.map(|status| format!("{}/{}", status.running, status.slots)).unwrap_or_default().into(),
            status.map(|status| status.version.as_str()).unwrap_or_default().into(),
        ]);
    }
    printer.table(&table)?;
    hosts.iter().filter_map(|host| host.damage.as_ref()).for_each(|damage| printer.trouble(&how_to_mend(damage)));
    let offline = hosts.iter().filter(|host| !host.is_online(now)).count();
    let offline = if offline == 0 { "all online".into() } else { format!("{offline} offline") };
    printer.note(&format!("{}, {offline}", summary::hosts(hosts.len())));
    let refusing = hosts.iter().filter(|host| host.is_online(now));
    for (host, reason) in refusing.filter_map(|host| Some((host, host.status.as_ref()?.refuses.as_ref()?))) {
        printer.note(&format!("{} refuses actions that may change it: {}", host.name, style::plain(reason)));
    }
    let troubled = hosts.iter().filter(|host| host.is_online(now));
    for (host, problem) in troubled.filter_map(|host| Some((host, host.status.as_ref()?.trust.as_ref()?))) {
        printer.trouble(&format!("{}: {}", host.name, style::plain(problem)));
    }
    Ok(())
}

async fn show(fleet: &mut Fleet, name: &str, namespace: Option<&Namespace>, printer: &Printer) -> anyhow::Result<()> {
    let (hosts, _) = select(&Selection::of([name])?, fleet, printer).await?;
    let [host] = &hosts[..] else { bail!("'{name}' matches {} hosts: name one", hosts.len()) };
    let details = fleet.host_details(host).await?;
    let now = fleet.now();
    let keys = HostKeys::of(&host.name, namespace, fleet).await?;
    if printer.format() != Format::Table {
        let mut object = headline(host, now);
        object["host_key"] = keys.object();
        object["facts"] = json!(details.facts);
        object["labels"] = json!(details.labels.own);
        object["set_labels"] = json!(details.labels.set);
        object["metrics"] = json!(details.metrics);
        return printer.object(&object);
    }
    let mut overview = overview(host, now);
    overview.pair("host key", keys.cell());
    printer.table(&overview)?;
    let labels = shown_labels(&details.labels);
    let groups = [("labels", &labels), ("facts", &details.facts)];
    let metrics = details.metrics.iter().filter_map(|(name, group)| Some((name.as_str(), group.as_object()?)));
    for (name, group) in groups.into_iter().chain(metrics).filter(|(_, group)| !group.is_empty()) {
        printer.line("")?;
        printer.line(&style::paint(style::HEADING, &name.to_uppercase()))?;
        figures::lines(group, Printer::width()).iter().try_for_each(|line| printer.line(line))?;
    }
    Ok(())
}

/// How a host's figures were.
async fn show_history(fleet: &mut Fleet, name: &str, since: Duration, printer: &Printer) -> anyhow::Result<()> {
    let (hosts, _) = select(&Selection::of([name])?, fleet, printer).await?;
    let [host] = &hosts[..] else { bail!("'{name}' matches {} hosts: name one", hosts.len()) };
    let history = fleet.host_history(&host.name, since).await?;
    let missing = || {
        let why = match host.last_seen_ms() {
            Some(seen) if !host.is_online(fleet.now()) => {
                format!("it was last seen {}", moments::ago(seen, fleet.now()))
            }
            _ => "its worker keeps the first figures when a step is over (history_step in its settings: 5m where nothing \
                  is set; 'off': it keeps none)"
                .to_owned(),
        };
        format!("{}: no figures are kept of the last {}: {why}", host.name, moments::span(since))
    };
    history::print(host.name.as_str(), &history, missing, printer)
}

/// All labels, those that controllers have set as such.
fn shown_labels(Labels { own, set }: &Labels) -> Map<String, Value> {
    let text = |value: &Value| figures::value("", value);
    let mut shown = own.clone();
    for (name, value) in set {
        let line = match own.get(name) {
            None => format!("{} (set by ctl)", text(value)),
            Some(own) => format!("{} (its own; ctl has set {}, which does not count)", text(own), text(value)),
        };
        shown.insert(name.clone(), line.into());
    }
    shown.sort_keys();
    shown
}

fn overview(host: &Host, now: Millis) -> Table {
    let mut pairs = Table::of_pairs();
    pairs.pair("host", host.name.as_str());
    pairs.pair("state", state_cell(host, now));
    let moment = |moment: Millis| format!("{} ({})", moments::exact(moment), moments::ago(moment, now));
    if let Some(seen) = host.last_seen_ms() {
        pairs.pair("last seen", moment(seen));
    }
    let Some(status) = &host.status else { return pairs };
    pairs.pair("running", format!("{} of {} slots", status.running, status.slots));
    pairs.pair("version", &status.version);
    pairs.pair("worker since", moment(status.started_at_ms));
    pairs.pair("pid", status.pid.to_string());
    pairs.pair("clock", moments::offset(status.clock_ahead_ms));
    pairs.pair(
        "inbox last read",
        format!("{} before the last heartbeat", moments::span(Duration::from_millis(status.read_age_ms))),
    );
    if let Some(reason) = &status.refuses {
        pairs.pair("refuses", Cell::styled(reason, style::WARNING));
    }
    if let Some(problem) = &status.trust {
        pairs.pair("trust", Cell::styled(problem, style::WARNING));
    }
    if let Some(problem) = &status.actions {
        pairs.pair("own actions", Cell::styled(problem, style::WARNING));
    }
    for (reason, count) in status.dropped.iter().filter(|(_, count)| *count > 0) {
        pairs.pair("dropped", Cell::styled(&format!("{count} {}", summary::dropped(reason)), style::WARNING));
    }
    pairs
}

fn headline(host: &Host, now: Millis) -> Value {
    let moment = |moment: Option<Millis>| moment.map(show_moment);
    let status = host.status.as_ref();
    json!({
        "host": host.name,
        "state": host.state(now),
        "last_seen": moment(host.last_seen_ms()),
        "version": status.map(|status| &status.version),
        "running": status.map(|status| status.running),
        "slots": status.map(|status| status.slots),
        "started_at": moment(status.map(|status| status.started_at_ms)),
        "boot_id": status.map(|status| &status.boot_id),
        "pid": status.map(|status| status.pid),
        "read_age_ms": status.map(|status| status.read_age_ms),
        "clock_ahead_ms": status.map(|status| status.clock_ahead_ms),
        "damage": host.damage.as_ref().map(ToString::to_string),
        "refuses": status.and_then(|status| status.refuses.as_deref()),
        "trust": status.and_then(|status| status.trust.as_deref()),
        "trust_version": status.map(|status| status.trust_version),
        "trust_digest": status.map(|status| &status.trust_digest),
        "dropped": status.map(|status| status.dropped.iter().cloned().collect::<BTreeMap<_, _>>()),
    })
}

fn state_cell(host: &Host, now: Millis) -> Cell {
    let refuses = host.status.as_ref().is_some_and(|status| status.refuses.is_some());
    match host.state(now) {
        "online" if refuses => Cell::styled("online, refuses", style::WARNING),
        online @ "online" => Cell::styled(online, style::GOOD),
        other => Cell::styled(other, style::BAD),
    }
}
