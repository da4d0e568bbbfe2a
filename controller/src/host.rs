//! `ctl host`: who is there, and how they are.

use std::{collections::BTreeMap, time::Duration};

use anstyle::Style;
use protocol::{metrics::Group, name::HostName, time::Millis};
use serde_json::{Map, Value, json};

use crate::{
    cli::Host as Command,
    exit::Exit,
    figures,
    fleet::{CHUNK, Fleet, Host},
    moments,
    printer::Printer,
    select,
    settings::Format,
    style, summary,
    table::{Cell, Table},
};

/// Runs a command on hosts.
pub async fn run(command: Command, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Exit> {
    match command {
        Command::List => list(fleet, printer).await?,
        Command::Show { name } => show(fleet, &name, printer).await?,
    }
    Ok(Exit::Success)
}

async fn list(fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let mut hosts = fleet.all_hosts().await?;
    let now = fleet.clock.now();
    hosts.sort_by(|one, other| one.is_online(now).cmp(&other.is_online(now)).then_with(|| one.name.cmp(&other.name)));
    let usage = cpu_usage(fleet, &hosts).await?;
    if printer.format() != Format::Table {
        let object = |(host, usage): (&Host, &Option<f64>)| {
            let mut object = headline(host, now);
            object["cpu_usage"] = json!(usage);
            object
        };
        return printer.objects(&hosts.iter().zip(&usage).map(object).collect::<Vec<_>>());
    }
    if hosts.is_empty() {
        printer.note("no worker has reported yet: worker --redis URL --host NAME");
        return Ok(());
    }
    let mut table = Table::new(["HOST", "STATE", "LAST SEEN", "CPU", "RUNNING", "VERSION"]);
    for (host, usage) in hosts.iter().zip(usage) {
        let status = host.status.clone().unwrap_or_default();
        table.row([
            host.name.as_str().into(),
            Cell::styled(state(host, now), state_style(host, now)),
            host.last_seen_ms().map(|seen| moments::ago(seen, now)).unwrap_or_default().into(),
            usage.map(|usage| figures::value("usage", &json!(usage))).unwrap_or_default().into(),
            format!("{}/{}", status.running, status.slots).into(),
            status.version.into(),
        ]);
    }
    printer.table(&table)?;
    let offline = hosts.iter().filter(|host| !host.is_online(now)).count();
    printer.note(&match offline {
        0 => format!("{}, all online", summary::hosts(hosts.len())),
        _ => format!("{}, {offline} offline", summary::hosts(hosts.len())),
    });
    Ok(())
}

async fn cpu_usage(fleet: &mut Fleet, hosts: &[Host]) -> anyhow::Result<Vec<Option<f64>>> {
    let mut all = Vec::with_capacity(hosts.len());
    for chunk in hosts.chunks(CHUNK) {
        let mut pipeline = redis::pipe();
        for host in chunk {
            pipeline.cmd("HGET").arg(fleet.keys.metrics(&host.name, Group::Cpu)).arg("usage");
        }
        all.extend(fleet.ask::<Vec<Option<String>>>(&pipeline).await?);
    }
    Ok(all.into_iter().map(|usage| usage?.parse().ok()).collect())
}

async fn show(fleet: &mut Fleet, name: &str, printer: &Printer) -> anyhow::Result<()> {
    let host = select::host(fleet, name).await?;
    let now = fleet.clock.now();
    let details = Details::read(fleet, &host.name).await?;
    if printer.format() != Format::Table {
        let mut object = headline(&host, now);
        object["facts"] = json!(details.facts);
        object["labels"] = json!(details.labels);
        object["metrics"] = json!(details.metrics);
        return printer.object(&object);
    }
    printer.table(&overview(&host, now))?;
    let groups = [("labels", &details.labels), ("facts", &details.facts)];
    let metrics = details.metrics.iter().filter_map(|(name, group)| Some((name.as_str(), group.as_object()?)));
    for (name, group) in groups.into_iter().chain(metrics).filter(|(_, group)| !group.is_empty()) {
        printer.line("")?;
        printer.line(&style::paint(style::HEADING, &name.to_uppercase()))?;
        figures::lines(group, Printer::width()).iter().try_for_each(|line| printer.line(line))?;
    }
    Ok(())
}

fn overview(host: &Host, now: Millis) -> Table {
    let mut pairs = Table::of_pairs();
    pairs.pair("host", host.name.as_str());
    pairs.pair("state", Cell::styled(state(host, now), state_style(host, now)));
    let moment = |moment: Millis| format!("{} ({})", moments::exact(moment), moments::ago(moment, now));
    if let Some(seen) = host.last_seen_ms() {
        pairs.pair("last seen", moment(seen));
    }
    let Some(status) = &host.status else { return pairs };
    pairs.pair("running", format!("{} of {} slots", status.running, status.slots));
    pairs.pair("version", &status.version);
    pairs.pair("worker since", moment(status.started_at_ms));
    pairs.pair("pid", status.pid.to_string());
    pairs.pair(
        "clock",
        match status.clock_ahead_ms {
            ahead @ 0.. => format!("{ahead} ms ahead of Redis"),
            behind => format!("{} ms behind Redis", behind.unsigned_abs()),
        },
    );
    pairs.pair("inbox last read", format!("{} before that", moments::span(Duration::from_millis(status.read_age_ms))));
    if let Some(reason) = &status.refuses {
        pairs.pair("refuses", Cell::styled(reason, style::WARNING));
    }
    for (reason, count) in status.dropped.iter().filter(|(_, count)| *count > 0) {
        pairs.pair("dropped", Cell::styled(&format!("{count} {}", reason.replace('_', " ")), style::WARNING));
    }
    pairs
}

/// What hosts publish about themselves.
struct Details {
    facts: Map<String, Value>,
    labels: Map<String, Value>,
    /// Groups of figures by name; a group that is not kept current is missing.
    metrics: Map<String, Value>,
}

impl Details {
    async fn read(fleet: &mut Fleet, host: &HostName) -> anyhow::Result<Self> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("HGETALL").arg(fleet.keys.facts(host)).cmd("HGETALL").arg(fleet.keys.labels(host));
        for group in Group::ALL {
            pipeline.cmd("HGETALL").arg(fleet.keys.metrics(host, group));
        }
        let mut hashes = fleet.ask::<Vec<Hash>>(&pipeline).await?.into_iter().map(texts);
        let (mut facts, labels) = (hashes.next().unwrap_or_default(), hashes.next().unwrap_or_default());
        // The catalogue is told by `ctl action`.
        facts.remove("actions");
        facts.sort_keys();
        let figures = Group::ALL.iter().zip(hashes).filter(|(_, figures)| !figures.is_empty());
        let metrics =
            figures.map(|(group, figures)| (group.name().to_owned(), Value::Object(numbers(figures)))).collect();
        Ok(Self { facts, labels, metrics })
    }
}

/// A hash in the order in which Redis tells it.
type Hash = Vec<(Vec<u8>, Vec<u8>)>;

fn texts(hash: Hash) -> Map<String, Value> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    // Lists are held as JSON.
    let value = |text: String| match serde_json::from_str(&text) {
        Ok(Value::Array(list)) => Value::Array(list),
        _ => Value::String(text),
    };
    hash.into_iter().map(|(name, field)| (text(name), value(text(field)))).collect()
}

/// Figures are numbers, though Redis holds them as text.
fn numbers(group: Map<String, Value>) -> Map<String, Value> {
    let number = |value: Value| value.as_str().and_then(|text| text.parse().ok()).map_or(value, Value::Number);
    group.into_iter().map(|(name, value)| (name, number(value))).collect()
}

fn headline(host: &Host, now: Millis) -> Value {
    let moment = |moment: Option<Millis>| moment.map(protocol::time::show_moment);
    let status = host.status.as_ref();
    json!({
        "host": host.name,
        "state": state(host, now),
        "last_seen": moment(host.last_seen_ms()),
        "version": status.map(|status| &status.version),
        "running": status.map(|status| status.running),
        "slots": status.map(|status| status.slots),
        "started_at": moment(status.map(|status| status.started_at_ms)),
        "boot_id": status.map(|status| &status.boot_id),
        "pid": status.map(|status| status.pid),
        "read_age_ms": status.map(|status| status.read_age_ms),
        "clock_ahead_ms": status.map(|status| status.clock_ahead_ms),
        "refuses": status.and_then(|status| status.refuses.as_deref()),
        "dropped": status.map(|status| status.dropped.iter().cloned().collect::<BTreeMap<_, _>>()),
    })
}

/// `online`, `offline`, or `stopped` where the worker ended in order.
fn state(host: &Host, now: Millis) -> &'static str {
    match &host.status {
        Some(status) if status.is_online(now) => "online",
        Some(status) if status.stopped => "stopped",
        _ => "offline",
    }
}

fn state_style(host: &Host, now: Millis) -> Style {
    if host.is_online(now) { style::GOOD } else { style::BAD }
}

#[cfg(test)]
mod tests {
    use protocol::status::Status;

    use super::*;

    #[test]
    fn a_host_is_online_stopped_or_offline() {
        let host = |status| Host { name: "web1".parse().unwrap(), seen_ms: Some(1000), status, actions: None };
        let status = Status { last_seen_ms: 1000, ..Status::default() };
        assert_eq!(state(&host(Some(status.clone())), 2000), "online");
        assert_eq!(state(&host(Some(status.clone())), 99_000), "offline");
        assert_eq!(state(&host(Some(Status { stopped: true, ..status })), 2000), "stopped");
        assert_eq!(state(&host(None), 2000), "offline");
    }

    #[test]
    fn figures_become_numbers_and_words_stay() {
        let group = texts(vec![(b"usage".to_vec(), b"7.5".to_vec()), (b"fullest_mount".to_vec(), b"/".to_vec())]);
        assert_eq!(Value::Object(numbers(group)), json!({ "usage": 7.5, "fullest_mount": "/" }));
    }
}
