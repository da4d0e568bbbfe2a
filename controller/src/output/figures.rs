//! Figures as people read them. The names of fields carry their units (`total_bytes`); on the screen
//! the value carries it (`total  7.8 GiB`).

use std::time::Duration;

use protocol::time::read_moment;
use serde_json::{Map, Value, json};

use super::{
    moments, style,
    table::{Cell, Table},
};

/// How a figure is shown.
type Show = fn(f64) -> String;

/// Endings of names, longer ones first: what is left of each, and how such a figure is shown.
const ENDINGS: [(&str, &str, Show); 7] = [
    ("_bytes_per_second", "", |rate| format!("{}/s", bytes(rate))),
    ("_bytes_total", "_total", bytes),
    ("_bytes", "", bytes),
    ("_percent", "", percent),
    ("_seconds", "", seconds),
    ("_ms", "", |millis| seconds(millis / 1000.0)),
    ("usage", "usage", percent),
];

/// A field's name without its unit, as a person would say it.
pub fn label(name: &str) -> String {
    split(name).0
}

/// A field's value with its unit.
pub fn value(name: &str, value: &Value) -> String {
    if let (true, Some(moment)) = (name.ends_with("_at"), value.as_str().and_then(read_moment)) {
        return moments::exact(moment);
    }
    // Hashes in Redis hold numbers as text.
    let figure = || value.as_f64().or_else(|| value.as_str()?.parse().ok());
    if let (_, Some(show)) = split(name)
        && let Some(figure) = figure()
    {
        return show(figure);
    }
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(list) if list.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let items: Vec<_> = list.iter().map(|item| self::value("", item)).collect();
            // Words stand side by side, sentences do not.
            items.join(if items.iter().any(|item| item.contains(' ')) { "; " } else { " " })
        }
        other => other.to_string(),
    }
}

fn split(name: &str) -> (String, Option<Show>) {
    let ending = ENDINGS.iter().find_map(|(ending, rest, show)| Some((name.strip_suffix(ending)?, rest, show)));
    let (name, show) = match ending {
        Some((stem, rest, show)) if !(stem.is_empty() && rest.is_empty()) => (format!("{stem}{rest}"), Some(*show)),
        _ => (name.to_owned(), None),
    };
    (name.replace('_', " "), show)
}

fn percent(figure: f64) -> String {
    format!("{figure:.1} %")
}

fn seconds(figure: f64) -> String {
    Duration::try_from_secs_f64(figure).map_or_else(|_| figure.to_string(), moments::span)
}

/// `512 B`, `1.5 KiB`, `7.8 GiB`.
pub fn bytes(count: f64) -> String {
    let mut count = count;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // A figure that would be shown as 1024.0 is already one of the next unit.
    while count >= 1023.95 {
        let Some(next) = units.next() else { break };
        (count, unit) = (count / 1024.0, next);
    }
    if unit == "B" { format!("{count:.0} B") } else { format!("{count:.1} {unit}") }
}

/// Whether a value fits into one cell.
pub fn is_scalar(value: &Value) -> bool {
    match value {
        Value::Object(_) => false,
        Value::Array(list) => list.iter().all(is_scalar),
        _ => true,
    }
}

/// A host's figures, line by line: names and values first, then tables of figures that several items have, then
/// groups. `width`: of the terminal, if it is one.
pub fn lines(data: &Map<String, Value>, width: Option<usize>) -> Vec<String> {
    let (mut pairs, mut named, mut tables, mut groups) = (Table::of_pairs(), Map::new(), vec![], vec![]);
    for (name, value) in data {
        match value {
            Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
                tables.push(of_objects(items).lines(width));
            }
            Value::Object(group) => {
                let title = style::paint(style::HEADING, &style::plain(name).to_uppercase());
                groups.push([vec![title], lines(group, width)].concat());
            }
            value => match name.split_once(':') {
                // `usage:/home` is the usage of /home, one of several.
                Some((figure, item)) => {
                    named.entry(item).or_insert_with(|| json!({ "name": item }))[figure] = value.clone();
                }
                None => pairs.pair(&label(name), self::value(name, value)),
            },
        }
    }
    let named: Vec<_> = named.into_iter().map(|(_, item)| item).collect();
    let mut blocks = vec![pairs.lines(width), of_objects(&named).lines(width)];
    blocks.extend(tables);
    blocks.extend(groups);
    blocks.retain(|block| !block.concat().is_empty());
    blocks.join(&String::new())
}

/// A table of objects: a row each, a column for every field that any of them has.
fn of_objects(objects: &[Value]) -> Table {
    let columns = columns(objects.iter().filter_map(Value::as_object).flatten());
    let mut table = Table::new(columns.iter().map(|column| label(column).to_uppercase()));
    for object in objects {
        table.row(columns.iter().map(|column| cell(column, object.get(column))));
    }
    table
}

/// The names of fields, each once, in the order of their first appearance.
pub fn columns<'a>(fields: impl Iterator<Item = (&'a String, &'a Value)>) -> Vec<&'a str> {
    let mut columns = Vec::new();
    for (name, _) in fields {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    columns
}

/// A field's value with its unit in a cell, which is empty where there is none.
pub fn cell(name: &str, value: Option<&Value>) -> Cell {
    value.map(|value| self::value(name, value)).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn units_move_from_the_name_to_the_value() {
        for (name, figure, shown) in [
            ("total_bytes", json!(8_374_128_640_u64), "total: 7.8 GiB"),
            ("receive_bytes_per_second", json!(1536.0), "receive: 1.5 KiB/s"),
            ("usage", json!(7.25), "usage: 7.2 %"),
            ("inodes_usage", json!(3), "inodes usage: 3.0 %"),
            ("uptime_seconds", json!(432_000), "uptime: 5 days"),
            ("cores", json!(2), "cores: 2"),
            ("load_1", json!(0.07), "load 1: 0.07"),
            ("os", json!("Debian"), "os: Debian"),
            ("addresses", json!(["10.0.0.1", "::1"]), "addresses: 10.0.0.1 ::1"),
        ] {
            assert_eq!(format!("{}: {}", label(name), value(name, &figure)), shown);
        }
        assert_eq!(value("free_bytes", &json!("1024")), "1.0 KiB");
        assert_eq!(value("version", &json!("12")), "12");
        assert_eq!(bytes(1_048_575.0), "1.0 MiB");
        assert_eq!(bytes(1023.0), "1023 B");
    }

    #[test]
    fn what_there_are_several_of_becomes_a_table() {
        let data = json!({
            "usage": 33.3, "usage:/": 33.3, "total_bytes:/": 1024, "usage:/x": 1,
            "processes": [{"pid": 1, "name": "init"}, {"pid": 2}],
            "cpu": {"usage": 5},
        });
        let lines = lines(data.as_object().unwrap(), None);
        let lines: Vec<_> = lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        let expected = "usage  33.3 %||NAME  USAGE   TOTAL|/     33.3 %  1.0 KiB|/x    1.0 %||PID  NAME|1    init|2||CPU|usage  5.0 %";
        assert_eq!(lines.join("|"), expected);
    }
}
