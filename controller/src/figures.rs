//! Figures as people read them. The names of fields carry their units (`total_bytes`); on the screen
//! the value carries it (`total  7.8 GiB`).

use std::{collections::HashMap, time::Duration};

use protocol::time::read_moment;
use serde_json::{Map, Number, Value};

use crate::{
    moments, style,
    table::{Cell, Table},
};

/// What a field's name says of its unit.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    BytesPerSecond,
    Percent,
    Seconds,
    Millis,
    None,
}

/// Endings of names, longer ones first.
const ENDINGS: [(&str, &str, Unit); 7] = [
    ("_bytes_per_second", "", Unit::BytesPerSecond),
    ("_bytes_total", "_total", Unit::Bytes),
    ("_bytes", "", Unit::Bytes),
    ("_percent", "", Unit::Percent),
    ("_seconds", "", Unit::Seconds),
    ("_ms", "", Unit::Millis),
    ("usage", "usage", Unit::Percent),
];

/// A field's name without its unit, as a person would say it.
pub fn label(name: &str) -> String {
    split(name).0
}

/// A field's value with its unit.
pub fn value(name: &str, value: &Value) -> String {
    let unit = split(name).1;
    if let (true, Some(moment)) = (name.ends_with("_at"), value.as_str().and_then(read_moment)) {
        return moments::exact(moment);
    }
    match value {
        Value::Number(number) => {
            number.as_f64().map_or_else(|| number.to_string(), |figure| shown(unit, figure, number))
        }
        // Hashes in Redis hold numbers as text.
        Value::String(text) if !matches!(unit, Unit::None) => match text.parse::<Number>() {
            Ok(number) => self::value(name, &Value::Number(number)),
            Err(_) => text.clone(),
        },
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(list) if list.iter().all(|item| !item.is_object() && !item.is_array()) => {
            list.iter().map(|item| self::value("", item)).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

fn split(name: &str) -> (String, Unit) {
    let ending = ENDINGS.iter().find_map(|(ending, rest, unit)| Some((name.strip_suffix(ending)?, rest, unit)));
    let (name, unit) = match ending {
        Some((stem, rest, unit)) if !(stem.is_empty() && rest.is_empty()) => (format!("{stem}{rest}"), *unit),
        _ => (name.to_owned(), Unit::None),
    };
    (name.replace('_', " "), unit)
}

fn shown(unit: Unit, figure: f64, number: &Number) -> String {
    match unit {
        Unit::Bytes => bytes(figure),
        Unit::BytesPerSecond => format!("{}/s", bytes(figure)),
        Unit::Percent => format!("{figure:.1} %"),
        Unit::Seconds => Duration::try_from_secs_f64(figure).map_or_else(|_| number.to_string(), moments::span),
        Unit::Millis => Duration::try_from_secs_f64(figure / 1000.0).map_or_else(|_| number.to_string(), moments::span),
        Unit::None => number.to_string(),
    }
}

/// `512 B`, `1.5 KiB`, `7.8 GiB`.
pub fn bytes(count: f64) -> String {
    let mut count = count;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would be shown as 1024.0 is already one of the next unit.
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

/// A host's figures, line by line: names and values first, then tables of what there are several of,
/// then groups. `width`: of the terminal, if it is one.
pub fn lines(data: &Map<String, Value>, width: Option<usize>) -> Vec<String> {
    let (mut pairs, mut rows, mut tables, mut groups) = (Table::of_pairs(), Rows::default(), vec![], vec![]);
    for (name, value) in data {
        match value {
            Value::Array(items) if !is_scalar(value) => tables.push(of_items(items).lines(width)),
            Value::Object(group) => groups.push((name, lines(group, width))),
            value => match name.split_once(':') {
                // `usage:/home` is the usage of /home, one of several.
                Some((figure, item)) => rows.add(item, figure, value),
                None => pairs.pair(&label(name), self::value(name, value)),
            },
        }
    }
    let mut blocks = vec![pairs.lines(width), rows.table().lines(width)];
    blocks.extend(tables);
    blocks.extend(groups.into_iter().map(|(name, lines)| {
        let title = style::paint(style::HEADING, &style::plain(name).to_uppercase());
        [vec![title], lines].concat()
    }));
    blocks.retain(|block| !block.is_empty());
    blocks.join(&String::new())
}

/// A table of objects: a row each, a column for every field that any of them has.
fn of_items(items: &[Value]) -> Table {
    let mut rows = Rows::default();
    for (index, item) in items.iter().enumerate() {
        match item {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| rows.add(&index.to_string(), name, value)),
            other => rows.add(&index.to_string(), "value", other),
        }
    }
    rows.bare_table()
}

/// Values that are gathered by item and column, both in the order of their first appearance.
#[derive(Default)]
struct Rows {
    columns: Vec<String>,
    items: Vec<(String, HashMap<String, String>)>,
}

impl Rows {
    fn add(&mut self, item: &str, column: &str, value: &Value) {
        if !self.columns.iter().any(|known| known == column) {
            self.columns.push(column.to_owned());
        }
        let position = self.items.iter().position(|(known, _)| known == item).unwrap_or_else(|| {
            self.items.push((item.to_owned(), HashMap::new()));
            self.items.len() - 1
        });
        self.items[position].1.insert(column.to_owned(), self::value(column, value));
    }

    /// With the items' names as the first column.
    fn table(&self) -> Table {
        self.build(true)
    }

    /// Where items have no names.
    fn bare_table(&self) -> Table {
        self.build(false)
    }

    fn build(&self, named: bool) -> Table {
        if self.items.is_empty() {
            return Table::of_pairs();
        }
        let name = named.then(|| "NAME".to_owned());
        let mut table =
            Table::new(name.into_iter().chain(self.columns.iter().map(|column| label(column).to_uppercase())));
        for (item, values) in &self.items {
            let name = named.then(|| Cell::from(item));
            let cell = |column| Cell::from(values.get(column).map_or("", String::as_str));
            table.row(name.into_iter().chain(self.columns.iter().map(cell)));
        }
        table
    }
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
