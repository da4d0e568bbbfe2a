//! Log lines: readable on a terminal, or one JSON object a line.

use std::{
    collections::HashMap,
    error::Error,
    io::IsTerminal,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::Deserialize;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Sends all that is traced at `level` or above to standard error.
pub fn init(level: tracing::Level, format: Format) {
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(std::io::stderr);
    match format {
        Format::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).init();
        }
        Format::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
    }
}

/// Text from outside, fit to stand in a line: at most `limit` characters, none that controls a terminal.
pub fn excerpt(text: &str, limit: usize) -> String {
    let mut rest = text.chars().map(|char| if char.is_control() { '?' } else { char });
    let mut kept: String = rest.by_ref().take(limit).collect();
    if rest.next().is_some() {
        kept.push('…');
    }
    kept
}

/// An error and what caused it, in one line.
pub fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// How much of a name from outside is shown.
pub const NAME: usize = 80;

/// How much of a sentence that may quote what came from outside is shown.
pub const SENTENCE: usize = 400;

/// Lines that others can cause in any number. Of each kind one or some are written at once; those that follow soon are
/// counted.
pub struct Floods<Kind> {
    /// How long they are only counted.
    period: Duration,
    kinds: HashMap<Kind, Flood>,
}

/// The lines of one kind.
struct Flood {
    since: Instant,
    /// Lines, or their bytes.
    written: usize,
    held: u64,
}

/// How long the lines that follow one of the same kind are only counted.
const FLOOD: Duration = Duration::from_secs(10);

impl<Kind> Default for Floods<Kind> {
    fn default() -> Self {
        Self::over(FLOOD)
    }
}

impl<Kind> Floods<Kind> {
    /// Lines that are counted over this period.
    pub fn over(period: Duration) -> Self {
        Self { period, kinds: HashMap::new() }
    }
}

impl<Kind: std::hash::Hash + Eq + Copy> Floods<Kind> {
    /// Whether to write this line now, the first of its kind. Otherwise it is counted.
    pub fn admits(&mut self, kind: Kind) -> bool {
        let flood = self.flood(kind);
        let first = flood.written == 0;
        flood.written = 1;
        flood.held += u64::from(!first);
        first
    }

    /// The line, if it is to be written now: one of the first of its kind, of `most` bytes in all. Otherwise it is
    /// counted.
    pub fn admit(&mut self, kind: Kind, most: usize, line: impl FnOnce() -> String) -> Option<String> {
        let flood = self.flood(kind);
        let line = (flood.held == 0).then(line).filter(|line| flood.written + line.len() <= most);
        flood.written += line.as_ref().map_or(0, String::len);
        flood.held += u64::from(line.is_none());
        line
    }

    fn flood(&mut self, kind: Kind) -> &mut Flood {
        self.kinds.entry(kind).or_insert_with(|| Flood { since: Instant::now(), written: 0, held: 0 })
    }

    /// How many lines of each kind were counted since the last one that was written, where that is long enough ago:
    /// the time to write their number.
    pub fn due(&mut self) -> Vec<(Kind, u64)> {
        self.due_after(self.period)
    }

    /// The same, however short ago that is.
    pub fn rest(&mut self) -> Vec<(Kind, u64)> {
        self.due_after(Duration::ZERO)
    }

    fn due_after(&mut self, after: Duration) -> Vec<(Kind, u64)> {
        let mut due = Vec::new();
        self.kinds.retain(|kind, flood| {
            if flood.since.elapsed() < after {
                return true;
            }
            let held = std::mem::take(&mut flood.held);
            flood.since = Instant::now();
            due.extend((held > 0).then_some((*kind, held)));
            held > 0
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_one_line_is_written_and_the_others_are_counted() {
        let mut floods = Floods::default();
        assert_eq!([1, 1, 2, 1].map(|kind| floods.admits(kind)), [true, false, true, false]);
        assert_eq!(floods.due(), [], "too soon");
        assert_eq!(floods.rest(), [(1, 2)]);
        assert!(!floods.admits(1), "the flood goes on");
        assert!(floods.admits(2), "that flood was over");
        assert_eq!(floods.rest(), [(1, 1)]);
        assert_eq!(floods.rest(), []);
        assert!(floods.admits(1));
        let lines = ["four", "four", "four", "a"].map(|line| floods.admit(3, 9, || line.into()));
        assert_eq!(lines.map(|line| line.is_some()), [true, true, false, false]);
        assert_eq!(floods.rest(), [(3, 2)]);
    }

    #[test]
    fn an_excerpt_stays_in_its_line() {
        assert_eq!(excerpt("exec", 80), "exec");
        assert_eq!(excerpt("a\n\x1b[2Jé", 80), "a??[2Jé");
        assert_eq!(excerpt("ééé", 2), "éé…");
    }
}
