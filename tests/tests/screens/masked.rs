//! Texts of screens without what differs from run to run.

use std::fmt::Write;

/// Units of durations.
const UNITS: [&str; 5] = ["ms", "s", "min", "h", "days"];

/// A screen on which figures, times, ids and names of temporary files are replaced. Where it `is_aligned`, all stays in its
/// place; else the columns, whose widths depend on what was replaced, are two blanks apart.
pub(crate) fn masked(screen: &str, is_aligned: bool) -> String {
    let lines = screen.lines().map(|line| {
        let line = line_masked(line, is_aligned);
        if is_aligned { line } else { joined(&line) }
    });
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

fn line_masked(line: &str, is_aligned: bool) -> String {
    let line = wait_masked(&directory_masked(line));
    let mut masked = String::new();
    let mut rest = line.as_str();
    let is_job = line
        .split("  ")
        .next()
        .is_some_and(|word| word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if is_job {
        masked.push_str("XXXXXXXX");
        rest = &rest[8..];
    }
    while !rest.is_empty() {
        let blanks = rest.len() - rest.trim_start_matches(' ').len();
        let word = rest[blanks..].split(' ').next().unwrap_or_default();
        let behind = &rest[blanks + word.len()..];
        let unit = behind.strip_prefix(' ').map(|behind| behind.split(' ').next().unwrap_or_default());
        let is_decimal = word.contains('.') && word.parse::<f64>().is_ok();
        if let (Ok(_), Some(unit)) = (word.parse::<f64>(), unit.filter(|unit| UNITS.contains(unit))) {
            // A duration, at the left of its column. The age of a job decides how wide its column is.
            let length = word.len() + 1 + unit.len();
            let length = if is_job || !is_aligned { 1 } else { length };
            let _ = write!(masked, "{}{:length$}", " ".repeat(blanks), "#");
            rest = &rest[blanks + word.len() + 1 + unit.len()..];
            continue;
        } else if is_decimal {
            // A figure, at the right of its column.
            let _ = write!(masked, "{:>length$}", "#.#", length = blanks + word.len());
        } else if word.len() == 8 && word.matches(':').count() == 2 {
            let _ = write!(masked, "{}HH:MM:SS", " ".repeat(blanks));
        } else if word.starts_with('[') && word.trim_matches(['[', ']', '|']).is_empty() {
            let end = rest.find(']').map_or(rest.len(), |end| end + 1);
            let _ = write!(masked, "{}[{}]", " ".repeat(blanks), "~".repeat(end.saturating_sub(blanks + 2)));
            rest = &rest[end..];
            continue;
        } else {
            masked.push_str(&rest[..blanks + word.len()]);
        }
        rest = behind;
    }
    masked.trim_end().to_owned()
}

/// The random name of a temporary directory, which is always as long.
fn directory_masked(line: &str) -> String {
    let Some((before, behind)) = line.split_once("/rf-") else { return line.to_owned() };
    let (name, behind) = behind.split_once('/').unwrap_or((behind, ""));
    format!("{before}/rf-{}/{behind}", "X".repeat(name.len()))
}

/// Words that were in columns, two blanks apart.
fn joined(line: &str) -> String {
    let line = line.replace("# ago", "#").replace("now", "#").replace("#.# %", "#");
    let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
    cells.collect::<Vec<_>>().join("  ")
}

/// Without the remark that a command waited long for its start, as it does on a busy machine.
fn wait_masked(line: &str) -> String {
    let waited = line.split_once(" (waited ").and_then(|(before, behind)| Some((before, behind.split_once(')')?.1)));
    waited.map_or_else(|| line.to_owned(), |(before, behind)| format!("{before}{behind}"))
}

#[test]
fn what_differs_is_replaced_in_its_place() {
    assert_eq!(
        masked("web1   online     45.1     9.5  0/4  5 days  x", true),
        "web1   online      #.#     #.#  0/4  #       x"
    );
    assert_eq!(
        masked("x unix:///tmp/rf-aB3xYz/redis.sock  14:03:27", true),
        "x unix:///tmp/rf-XXXXXX/redis.sock  HH:MM:SS"
    );
    assert_eq!(masked("w  [||||      ]  45.1", true), "w  [~~~~~~~~~~]   #.#");
    assert_eq!(masked("8ee22555  12 s   ann  1 running", true), "XXXXXXXX  #   ann  1 running");
    assert_eq!(masked("1 host: 1 succeeded in 3 s (waited 2 s)", true), "1 host: 1 succeeded in #");
    assert_eq!(masked("web1  online  1 s ago    39.0 %  0/4", false), "web1  online  #  #  0/4");
}
