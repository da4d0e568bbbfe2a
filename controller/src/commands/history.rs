//! Histories of figures, as charts or as points.

use protocol::time::show_moment;
use serde_json::{Map, Value, json};

use crate::{
    client::{History, Point},
    output::{Format, Printer, chart},
};

/// A point as an object.
fn point(point: &Point) -> Value {
    let mut object = Map::new();
    object.insert("at".into(), show_moment(point.at_ms).into());
    object.insert("step_seconds".into(), point.step.as_secs().into());
    object.extend(point.figures.iter().map(|(name, figure)| ((*name).to_owned(), json!(figure))));
    object.into()
}

/// A history as an object: its span and its points.
pub(super) fn object(history: &History) -> Value {
    json!({
        "from": show_moment(history.from_ms),
        "until": show_moment(history.until_ms),
        "points": history.points.iter().map(point).collect::<Vec<_>>(),
    })
}

/// Prints the history of a host. `missing`: what to say where there is none.
pub(super) fn print(
    host: &str,
    history: &History,
    missing: impl FnOnce() -> String,
    printer: &Printer,
) -> anyhow::Result<()> {
    let with_host = |mut object: Value| {
        object["host"] = host.into();
        object
    };
    match printer.format() {
        Format::Json => printer.object(&with_host(object(history))),
        Format::Jsonl => printer.objects(&history.points.iter().map(|one| with_host(point(one))).collect::<Vec<_>>()),
        Format::Table => {
            let lines = chart::lines(history, Printer::width(), chart::is_ascii_only());
            if lines.is_empty() {
                printer.note(&missing());
            }
            lines.iter().try_for_each(|line| printer.line(line))
        }
    }
}
