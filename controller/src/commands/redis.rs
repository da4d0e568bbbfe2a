//! `ctl redis`: how Redis itself is and was.

use protocol::{limits, time::show_moment};
use serde_json::{Map, Value, json};

use super::history;
use crate::{
    cli::redis::Redis as Command,
    client::{Fleet, RedisStatus},
    output::{Advice, Cell, Format, Printer, Table, chart, figures, moments, style},
};

/// Runs a command on Redis itself.
pub async fn run(command: Command, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let Command::Status { since } = command;
    let Some(status) = fleet.redis_status().await? else {
        let kept = moments::span(limits::REDIS_STATUS_RETENTION);
        return Err(Advice::new(format!("no `ctl serve` has looked at Redis in the last {kept}"))
            .hint("start one: ctl serve; what can be seen now: ctl doctor")
            .into());
    };
    let history = fleet.redis_history(since).await?;
    let now = fleet.now();
    if printer.format() != Format::Table {
        let value = |value: &String| value.parse::<f64>().map_or_else(|_| json!(value), |_| number(value));
        let mut object: Map<String, Value> =
            status.fields.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect();
        object.insert("checked_at".into(), show_moment(status.checked_ms).into());
        object.insert("is_stale".into(), status.is_stale(now).into());
        object.insert("history".into(), history::object(&history));
        return printer.object(&object);
    }
    printer.table(&pairs(&status, now))?;
    let lines = chart::lines(&history, Printer::width(), chart::is_ascii_only());
    if !lines.is_empty() {
        printer.line("")?;
    }
    lines.iter().try_for_each(|line| printer.line(line))
}

/// A text that is a number, as it is.
fn number(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

fn pairs(status: &RedisStatus, now: u64) -> Table {
    let mut pairs = Table::of_pairs();
    let checked = format!("{} ({})", moments::exact(status.checked_ms), moments::ago(status.checked_ms, now));
    if status.is_stale(now) {
        pairs.pair("checked", Cell::styled(&format!("{checked}: does `ctl serve` run?"), style::WARNING));
    } else {
        pairs.pair("checked", checked);
    }
    for (name, text) in &status.fields {
        let shown = match (*name, text.parse::<f64>()) {
            ("maxmemory", Ok(0.0)) => "none".to_owned(),
            ("uptime_in_seconds", Ok(seconds)) => figures::value("uptime_seconds", &json!(seconds)),
            ("rdb_last_save_time", _) => text
                .parse()
                .map_or_else(|_| style::plain(text), |seconds: u64| moments::exact(seconds.saturating_mul(1000))),
            (_, Ok(figure)) => chart::shown(name, figure),
            (_, Err(_)) => style::plain(text),
        };
        let is_bad = matches!((*name, text.as_str()), ("replication_broken" | "persistence_failing", "1"));
        let cell = if is_bad { Cell::styled(&shown, style::BAD) } else { shown.as_str().into() };
        let label = if *name == "uptime_in_seconds" { "uptime".to_owned() } else { figures::label(name) };
        pairs.pair(&label, cell);
    }
    pairs
}
