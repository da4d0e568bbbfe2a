//! Small charts of text: a line for each figure.

use std::env;

use protocol::time::Millis;

use super::{figures, moments, style};
use crate::client::History;

/// What a figure that is present looks like, from zero to the greatest one.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same where the terminal shows no more than ASCII.
const ASCII: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// Columns of a chart.
const NARROWEST: usize = 10;
const WIDEST: usize = 144;

/// The width of a screen where there is none.
const USUAL: usize = 80;

/// Whether the locale of this process has only ASCII. One that is not set says nothing.
pub fn is_ascii_only() -> bool {
    let set =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| env::var(name).ok().filter(|set| !set.is_empty()));
    set.is_some_and(|locale| !speaks_utf8(&locale))
}

fn speaks_utf8(locale: &str) -> bool {
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// The lines: each figure that is known in the span, drawn from zero to its greatest, with the least, the mean, the greatest
/// and the last one. Time of which nothing is known stays blank.
pub fn lines(history: &History, width: Option<usize>, ascii: bool) -> Vec<String> {
    let mut rows = Vec::new();
    for name in &history.names {
        let known: Vec<f64> = history.of(name).map(|(_, figure)| figure).collect();
        let Some(newest) = known.last() else { continue };
        let (least, greatest) =
            known.iter().fold((*newest, *newest), |(low, high), one| (low.min(*one), high.max(*one)));
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        rows.push((*name, [least, mean, greatest, *newest].map(|figure| shown(name, figure))));
    }
    if rows.is_empty() {
        return Vec::new();
    }
    let length = |text: &str| text.chars().count();
    let labels: Vec<_> = rows.iter().map(|(name, _)| figures::label(name)).collect();
    let label = labels.iter().map(|label| length(label)).max().unwrap_or_default();
    let headings = ["MIN", "MEAN", "MAX", "LAST"];
    let column = |at: usize| rows.iter().map(|(_, values)| length(&values[at])).max().unwrap_or_default().max(4);
    let columns = [0, 1, 2, 3].map(column);
    let taken = label + 2 + columns.iter().map(|width| width + 2).sum::<usize>();
    let chart = width.unwrap_or(USUAL).saturating_sub(taken).clamp(NARROWEST, WIDEST);

    let line = |label_text: &str, drawn: &str, values: &[String; 4]| {
        let pad = |text: &str, width: usize| " ".repeat(width.saturating_sub(length(text)));
        let values = values.iter().zip(columns).map(|(value, width)| format!("  {}{value}", pad(value, width)));
        let values: String = values.collect();
        format!("{label_text}{}  {drawn}{}{values}", pad(label_text, label), pad(drawn, chart))
    };
    let heading = line("", &axis(history.from_ms, history.until_ms, chart), &headings.map(str::to_owned));
    let mut lines = vec![style::paint(style::HEADING, &heading)];
    for ((name, values), label) in rows.iter().zip(&labels) {
        lines.push(line(label, &drawn(history, name, chart, ascii), values));
    }
    lines
}

/// A figure with its unit.
pub fn shown(name: &str, figure: f64) -> String {
    match name {
        // INFO's names have no units.
        "used_memory" | "used_memory_peak" | "used_memory_rss" | "maxmemory" | "total_system_memory" => {
            figures::bytes(figure)
        }
        // As a text, a whole number has no decimals.
        _ => figures::value(name, &((figure * 100.0).round() / 100.0).to_string().into()),
    }
}

/// When the chart begins and ends, by the clock on the wall, as far as there is room.
fn axis(from: Millis, until: Millis, width: usize) -> String {
    let (from, until) = (moments::local(from, until), "now");
    let gap = width.saturating_sub(from.chars().count() + until.chars().count());
    if gap == 0 { from.chars().take(width).collect() } else { format!("{from}{}{until}", " ".repeat(gap)) }
}

fn drawn(history: &History, name: &str, width: usize, ascii: bool) -> String {
    let (from, span) = (history.from_ms, history.until_ms.saturating_sub(history.from_ms).max(1));
    let mut sums = vec![(0.0, 0_u32); width];
    let place = |moment: Millis| {
        let place = u128::from(moment.saturating_sub(from)) * width as u128 / u128::from(span);
        usize::try_from(place).unwrap_or(usize::MAX).min(width - 1)
    };
    for (point, figure) in history.of(name) {
        // The last column that it reaches into is the one before its end.
        let first = place(point.at_ms);
        for (sum, count) in &mut sums[first..=place(point.end_ms().saturating_sub(1)).max(first)] {
            *sum += figure;
            *count += 1;
        }
    }
    let means: Vec<_> = sums.iter().map(|(sum, count)| (*count > 0).then(|| sum / f64::from(*count))).collect();
    let greatest = means.iter().flatten().copied().fold(0.0, f64::max);
    let marks = if ascii { ASCII } else { BLOCKS };
    let mark = |mean: Option<f64>| match mean {
        None => ' ',
        Some(mean) if greatest > 0.0 => {
            let height = (0..marks.len() - 1).rev().find(|at| mean / greatest >= (*at as f64 + 0.5) / 7.0);
            marks[height.map_or(0, |at| at + 1)]
        }
        Some(_) => marks[0],
    };
    means.into_iter().map(mark).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::Point;

    /// An hour with a point for each of these minutes.
    fn hour(points: &[(u64, f64)]) -> History {
        let point = |(minute, figure): &(u64, f64)| Point {
            at_ms: minute * 60_000,
            step: Duration::from_secs(600),
            figures: vec![("cpu_usage", *figure)],
        };
        let points = points.iter().map(point).collect();
        History { from_ms: 0, until_ms: 3_600_000, names: vec!["cpu_usage", "load1"], points }
    }

    #[test]
    fn a_figure_is_as_high_as_it_is_and_a_gap_is_blank() {
        let history = hour(&[(0, 0.0), (10, 50.0), (30, 100.0), (50, 1.0)]);
        assert_eq!(drawn(&history, "cpu_usage", 12, false), "▁▁▅▅  ██  ▁▁");
        assert_eq!(drawn(&history, "cpu_usage", 12, true), "__==  ##  __");
        assert_eq!(drawn(&history, "cpu_usage", 3, false), "▃█▁", "means of what lies in a column");
        assert_eq!(drawn(&history, "load1", 6, false), "      ");
        assert_eq!(drawn(&hour(&[(0, 0.0)]), "cpu_usage", 6, false), "▁     ");
    }

    #[test]
    fn whatever_points_there_are_it_is_as_wide_as_asked() {
        let far = Point { at_ms: u64::MAX, step: Duration::from_secs(86_400), figures: vec![("cpu_usage", -1e18)] };
        let early = Point { at_ms: 0, figures: vec![("cpu_usage", 1e18)], ..far.clone() };
        for until_ms in [0, 1, 3_600_000, u64::MAX] {
            for from_ms in [0, until_ms] {
                let points = vec![early.clone(), far.clone()];
                let history = History { from_ms, until_ms, names: vec!["cpu_usage"], points };
                assert_eq!(drawn(&history, "cpu_usage", 40, false).chars().count(), 40);
            }
        }
    }

    #[test]
    fn lines_fit_the_screen() {
        let history = hour(&[(0, 12.345), (10, 50.0)]);
        for width in [80, 120] {
            let lines = lines(&history, Some(width), false);
            let lines: Vec<_> = lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
            assert_eq!(lines.len(), 2, "nothing is known of load1: {lines:?}");
            assert!(lines.iter().all(|line| line.chars().count() == width), "{lines:?}");
            assert!(lines[1].starts_with("cpu usage  ▃"), "{lines:?}");
            assert!(lines[1].ends_with("  12.3 %  31.2 %  50.0 %  50.0 %"), "{lines:?}");
        }
        assert!(lines(&history, Some(5), true)[1].is_ascii());
        assert!(lines(&hour(&[]), None, false).is_empty());
    }

    #[test]
    fn locales_say_what_the_terminal_shows() {
        assert!(speaks_utf8("de_DE.UTF-8") && speaks_utf8("C.utf8"));
        assert!(!speaks_utf8("C") && !speaks_utf8("POSIX") && !speaks_utf8("de_DE.ISO-8859-1"));
    }
}
