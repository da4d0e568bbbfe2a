//! How far a job has come, at the end of a terminal while its hosts are awaited: a bar with the hosts by state, and below it
//! those that have run the longest.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    time::{Duration, Instant},
};

use protocol::{name::HostName, outcome::State};
use unicode_width::UnicodeWidthStr;

use super::{moments, natural::by_name, style, summary};
use crate::client::HostResult;

/// Cells of the bar.
const BAR: usize = 20;

/// Hosts that are named at most.
const NAMED: usize = 5;

/// From this time on a host is worth its name.
const SLOW: Duration = Duration::from_secs(2);

/// The least time between two pictures: results may come by the thousand.
const PAUSE: Duration = Duration::from_millis(100);

/// One or two lines that are drawn again and again in their place. The cursor stands behind them, in the last one.
pub struct Progress<W> {
    out: W,
    began: Instant,
    /// How many hosts are in each state.
    states: BTreeMap<State, usize>,
    /// Since when each host runs, as far as it was seen, and what it waits for.
    running: HashMap<HostName, (Instant, Option<String>)>,
    /// When it was drawn last, and what.
    drawn_at: Option<Instant>,
    lines: Vec<String>,
    is_shown: bool,
}

/// A host that has not ended.
struct Slow<'a> {
    host: &'a HostName,
    time: Duration,
    waits_for: Option<&'a str>,
}

impl<W: Write> Progress<W> {
    /// Nothing is drawn yet. `out` leads to a terminal.
    pub fn new(out: W) -> Self {
        let (states, running) = (BTreeMap::new(), HashMap::new());
        Self { out, began: Instant::now(), states, running, drawn_at: None, lines: Vec::new(), is_shown: false }
    }

    /// Shows how the job stands, on a terminal of so many columns. To be called whenever something has happened: what comes
    /// too often is drawn with the next [`Self::tick`].
    pub fn show<'a>(&mut self, results: impl Iterator<Item = &'a HostResult>, columns: usize, now: Instant) {
        self.states.clear();
        for result in results {
            *self.states.entry(result.state).or_default() += 1;
            let waits_for = result.waits_for.clone().filter(|_| !result.state.is_terminal());
            if result.state == State::Running || waits_for.is_some() {
                self.running.entry(result.host.clone()).or_insert((now, None)).1 = waits_for;
            } else {
                self.running.remove(&result.host);
            }
        }
        if self.drawn_at.is_none_or(|drawn| now.saturating_duration_since(drawn) >= PAUSE) {
            self.tick(columns, now);
        }
    }

    /// Shows the times anew. To be called each second.
    pub fn tick(&mut self, columns: usize, now: Instant) {
        if self.states.is_empty() {
            return;
        }
        let slow = self.running.iter().map(|(host, (since, waits_for))| {
            let time = now.saturating_duration_since(*since);
            Slow { host, time, waits_for: waits_for.as_deref() }
        });
        let mut slow: Vec<_> = slow.filter(|slow| slow.time >= SLOW).collect();
        slow.sort_by(|one, other| other.time.cmp(&one.time).then_with(|| by_name(one.host, other.host)));
        let lines = lines(&self.states, &slow, now.saturating_duration_since(self.began), columns);
        self.erase();
        self.lines = lines;
        self.drawn_at = Some(now);
        self.draw();
    }

    /// Takes the lines away, so that something else can be printed in their place.
    pub fn erase(&mut self) {
        if !std::mem::take(&mut self.is_shown) {
            return;
        }
        let above = "\x1b[1A\x1b[2K".repeat(self.lines.len().saturating_sub(1));
        // Where the terminal is gone, nobody misses it.
        let _ = write!(self.out, "\r\x1b[2K{above}");
        let _ = self.out.flush();
    }

    /// Draws the lines again after they were erased.
    pub fn draw(&mut self) {
        if self.lines.is_empty() || self.is_shown {
            return;
        }
        let _ = write!(self.out, "{}", self.lines.join("\r\n"));
        let _ = self.out.flush();
        self.is_shown = true;
    }
}

/// The lines, none of which is as wide as the terminal: there it would be folded, and not be erased as a whole.
fn lines(states: &BTreeMap<State, usize>, slow: &[Slow<'_>], took: Duration, columns: usize) -> Vec<String> {
    let room = columns.saturating_sub(1);
    let all: usize = states.values().sum();
    let done: usize = states.iter().filter(|(state, _)| state.is_terminal()).map(|(_, count)| count).sum();
    let filled = (BAR * done).checked_div(all).unwrap_or(0);
    let head = if done < all { ">" } else { "" };
    let bar = format!("[{:<BAR$}]", format!("{}{head}", "=".repeat(filled)));
    let took = moments::span(Duration::from_secs(took.as_secs()));
    let counts = format!("{done}/{all} hosts: {}", summary::counts(states));
    let line = [format!("{bar} {counts}  {took}"), format!("{counts}  {took}"), counts, format!("{done}/{all}")];
    let line = line.into_iter().find(|line| line.width() <= room).unwrap_or_default();
    [line].into_iter().chain(slowest(slow, room)).collect()
}

/// The slowest hosts by name, as many as fit: `slowest: web7 41 s, db1 12 s and 3 more`.
fn slowest(slow: &[Slow<'_>], room: usize) -> Option<String> {
    let named = slow.iter().take(NAMED).map(|Slow { host, time, waits_for }| {
        let why = waits_for.map(|what| format!(" (waits for {})", style::plain(what))).unwrap_or_default();
        format!("{host} {}{why}", moments::span(Duration::from_secs(time.as_secs())))
    });
    let named: Vec<_> = named.collect();
    let line = |count: usize| {
        let more = slow.len() - count;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("slowest: {}{more}", named[..count].join(", "))
    };
    (1..=named.len()).rev().map(line).find(|line| line.width() <= room)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(host: &str, state: State) -> HostResult {
        HostResult { state, ..HostResult::new(host.parse().unwrap()) }
    }

    /// What a terminal shows that was sent this.
    fn shown(sent: &[u8]) -> Vec<String> {
        let mut lines = vec![String::new()];
        let mut rest = std::str::from_utf8(sent).unwrap();
        while let Some(first) = rest.chars().next() {
            if let Some(behind) = rest.strip_prefix("\x1b[2K") {
                *lines.last_mut().unwrap() = String::new();
                rest = behind;
            } else if let Some(behind) = rest.strip_prefix("\x1b[1A") {
                assert_eq!(lines.pop().unwrap(), "", "what is left behind was erased");
                rest = behind;
            } else {
                match first {
                    '\r' => {}
                    '\n' => lines.push(String::new()),
                    other => lines.last_mut().unwrap().push(other),
                }
                rest = &rest[first.len_utf8()..];
            }
        }
        lines
    }

    #[test]
    fn the_bar_counts_and_the_slowest_are_named() {
        let mut progress = Progress::new(Vec::new());
        let begin = progress.began;
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut results =
            [result("web10", State::Running), result("web2", State::Running), result("db1", State::Queued)];
        progress.show(results.iter(), 80, at(0));
        assert_eq!(shown(&progress.out), ["[>                   ] 0/3 hosts: 1 queued, 2 running  0 ms"]);

        results[2].state = State::Delivered;
        results[2].waits_for = Some("lock 'a\x1b[2J'".into());
        progress.show(results.iter(), 80, at(10));
        assert_eq!(
            shown(&progress.out),
            ["[>                   ] 0/3 hosts: 1 delivered, 2 running  10 s", "slowest: web2 10 s, web10 10 s"]
        );

        results[1].state = State::Failed;
        progress.show(results.iter(), 80, at(14));
        assert_eq!(
            shown(&progress.out),
            [
                "[======>             ] 1/3 hosts: 1 failed, 1 delivered, 1 running  14 s",
                "slowest: web10 14 s, db1 4.0 s (waits for lock 'a\u{fffd}[2J')"
            ]
        );
        // Too soon for a new picture.
        results[0].state = State::Succeeded;
        progress.show(results.iter(), 80, at(14));
        assert!(shown(&progress.out)[0].contains("1/3"));
        progress.tick(80, at(15));
        assert!(shown(&progress.out)[0].contains("2/3"));

        progress.erase();
        assert_eq!(shown(&progress.out), [""]);
        progress.erase();
        progress.draw();
        assert_eq!(shown(&progress.out).len(), 2);
    }

    #[test]
    fn no_line_is_as_wide_as_the_terminal() {
        let results: Vec<_> = (0..30).map(|number| result(&format!("a-long-name-{number}"), State::Running)).collect();
        for columns in [1, 10, 30, 60, 80, 200] {
            let mut progress = Progress::new(Vec::new());
            let begin = progress.began;
            progress.show(results.iter(), columns, begin);
            progress.show(results.iter(), columns, begin + Duration::from_secs(60));
            let lines = shown(&progress.out);
            assert!(lines.iter().all(|line| line.width() < columns), "{lines:?}");
            if columns == 80 {
                assert_eq!(lines[1], "slowest: a-long-name-0 60 s, a-long-name-1 60 s, a-long-name-2 60 s and 27 more");
            }
        }
    }
}
