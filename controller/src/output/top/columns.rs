//! The columns of the table of hosts: what is in their cells, and which of them a screen has room for.

use std::time::Duration;

use anstyle::Style;
use protocol::time::Millis;

use super::order::Sort;
use crate::{
    client::{Figure, Vitals},
    output::{moments, style},
};

/// Blanks between columns.
pub const GAP: usize = 2;

/// The host's name gets this width before other columns get any, if it is so long.
const NAME: usize = 24;

/// Cells of a meter.
const METER: usize = 20;

/// From which use on a figure is worth a look, and an alarm.
const HIGH: f64 = 75.0;
const VERY_HIGH: f64 = 90.0;

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Host,
    State,
    Cpu,
    Memory,
    Disk,
    Load,
    Load5,
    Load15,
    Running,
    Up,
    Worker,
    Version,
}

/// All, in the order of the screen: the heading, the width, and what sorts by it.
const ALL: [(Column, &str, usize, Option<Sort>); 12] = [
    (Column::Host, "HOST", 5, Some(Sort::Name)),
    (Column::State, "STATE", 7, Some(Sort::State)),
    (Column::Cpu, "CPU %", 6, Some(Sort::Cpu)),
    (Column::Memory, "MEM %", 6, Some(Sort::Memory)),
    (Column::Disk, "DISK %", 7, Some(Sort::Disk)),
    (Column::Load, "LOAD", 6, Some(Sort::Load)),
    (Column::Load5, "5 MIN", 6, None),
    (Column::Load15, "15 MIN", 6, None),
    (Column::Running, "RUNS", 6, Some(Sort::Running)),
    (Column::Up, "UP", 12, None),
    (Column::Worker, "WORKER UP", 9, None),
    (Column::Version, "VERSION", 16, None),
];

/// The columns that may be missing, the first one first.
const OPTIONAL: [Column; 9] = [
    Column::Load15,
    Column::Load5,
    Column::Worker,
    Column::Version,
    Column::Disk,
    Column::Up,
    Column::Load,
    Column::Running,
    Column::Memory,
];

/// A column of a certain screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which one.
    pub column: Column,
    /// Its width.
    pub width: usize,
    /// Whether a figure is drawn, too.
    pub is_meter: bool,
}

impl Column {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter().map(|(column, ..)| column)
    }

    fn row(self) -> (Self, &'static str, usize, Option<Sort>) {
        ALL.into_iter().find(|(column, ..)| *column == self).unwrap_or(ALL[0])
    }

    /// What stands above it.
    pub fn heading(self) -> &'static str {
        self.row().1
    }

    /// The order that goes by it.
    pub fn sort(self) -> Option<Sort> {
        self.row().3
    }

    /// Whether its cells are numbers, which stand at the right.
    pub const fn is_number(self) -> bool {
        !matches!(self, Self::Host | Self::State | Self::Up | Self::Version | Self::Worker)
    }

    /// The figure that a meter shows, in percent.
    pub const fn meter(self, vitals: &Vitals) -> Option<f64> {
        match self {
            Self::Cpu => vitals.figures.cpu.known(),
            Self::Memory => vitals.figures.memory.known(),
            _ => None,
        }
    }

    /// A cell: the text, and how it looks. What is not known is `-`, and what is old `?`; neither is ever a 0.
    pub fn cell(self, vitals: &Vitals, now: Millis) -> (String, Style) {
        let (host, figures) = (&vitals.host, &vitals.figures);
        let status = host.status.as_ref();
        let plain = |text: String| (text, style::PLAIN);
        match self {
            Self::Host => plain(style::plain(host.name.as_str())),
            Self::State => match host.state(now) {
                "online" if status.is_some_and(|status| status.refuses.is_some()) => ("refuses".into(), style::WARNING),
                online @ "online" => (online.into(), style::GOOD),
                other => (other.into(), style::BAD),
            },
            Self::Cpu => percent(figures.cpu),
            Self::Memory => percent(figures.memory),
            Self::Disk => percent(figures.disk),
            Self::Load => plain(load(figures.load[0])),
            Self::Load5 => plain(load(figures.load[1])),
            Self::Load15 => plain(load(figures.load[2])),
            Self::Running => match vitals.running(now) {
                Some((running, slots)) if running > 0 => (format!("{running}/{slots}"), style::HEADING),
                Some((running, slots)) => plain(format!("{running}/{slots}")),
                None => plain(unknown(status.is_some()).into()),
            },
            Self::Up if host.state(now) == "online" => plain(show(figures.uptime, |seconds| {
                Duration::try_from_secs_f64(seconds).map_or_else(|_| "-".into(), moments::span)
            })),
            Self::Up => plain(match host.last_seen_ms() {
                Some(seen) => format!("gone {}", moments::span(Duration::from_secs(now.saturating_sub(seen) / 1000))),
                None => "-".into(),
            }),
            Self::Worker => plain(match status.map(|status| status.started_at_ms).filter(|started| *started > 0) {
                Some(started) if host.state(now) == "online" => {
                    moments::span(Duration::from_secs(now.saturating_sub(started) / 1000))
                }
                started => unknown(started.is_some()).into(),
            }),
            Self::Version => plain(match status.map(|status| style::plain(&status.version)) {
                Some(version) if !version.is_empty() => version,
                _ => "-".into(),
            }),
        }
    }
}

fn percent(figure: Figure) -> (String, Style) {
    let style = match figure {
        Figure::Known(VERY_HIGH..) => style::BAD,
        Figure::Known(HIGH..) => style::WARNING,
        _ => style::PLAIN,
    };
    (show(figure, |percent| format!("{percent:.1}")), style)
}

fn load(figure: Figure) -> String {
    show(figure, |load| if load < 1000.0 { format!("{load:.2}") } else { format!("{load:.0}") })
}

fn show(figure: Figure, known: impl Fn(f64) -> String) -> String {
    match figure {
        Figure::Known(figure) => known(figure),
        Figure::Old => unknown(true).into(),
        Figure::Missing => unknown(false).into(),
    }
}

/// In place of what is not known, or was known once.
const fn unknown(was_known: bool) -> &'static str {
    if was_known { "?" } else { "-" }
}

/// The columns that fit on a screen of this width, with their widths. `longest`: the width of the longest name.
pub fn fitting(width: usize, longest: usize) -> Vec<Place> {
    let name = longest.max(Column::Host.row().2);
    let mut columns: Vec<_> = Column::all().collect();
    let widths = |columns: &[Column], name: usize| {
        let others = columns.iter().filter(|column| **column != Column::Host).map(|column| column.row().2 + GAP);
        others.sum::<usize>() + name
    };
    for optional in OPTIONAL {
        if widths(&columns, name.min(NAME)) <= width {
            break;
        }
        columns.retain(|column| *column != optional);
    }
    let spare = width.saturating_sub(widths(&columns, 0));
    let name = name.min(spare).max(Column::Host.row().2);
    let is_wide = widths(&columns, name) + 2 * (METER + 1) <= width;
    let place = |column: Column| {
        let is_meter = is_wide && matches!(column, Column::Cpu | Column::Memory);
        let own = if column == Column::Host { name } else { column.row().2 };
        Place { column, width: if is_meter { own + METER + 1 } else { own }, is_meter }
    };
    columns.into_iter().map(place).collect()
}

/// A meter: `[|||||     ]`.
pub fn meter(percent: f64) -> String {
    let inner = METER - 2;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
    let filled = ((percent / 100.0 * inner as f64).round() as usize).min(inner);
    format!("[{}{}]", "|".repeat(filled), " ".repeat(inner - filled))
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    #[test]
    fn narrow_screens_have_fewer_columns_and_wide_ones_meters() {
        let headings = |width, longest| {
            let places = fitting(width, longest);
            let total: usize = places.iter().map(|place| place.width + GAP).sum::<usize>() - GAP;
            assert!(total <= width || width < 30, "{total} of {width}: {places:?}");
            places.iter().map(|place| place.column.heading()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(headings(20, 5), "HOST STATE CPU %");
        assert_eq!(headings(40, 12), "HOST STATE CPU % MEM %");
        assert_eq!(headings(80, 5), "HOST STATE CPU % MEM % DISK % LOAD RUNS UP");
        assert_eq!(headings(80, 40), "HOST STATE CPU % MEM % LOAD RUNS UP");
        let all = "HOST STATE CPU % MEM % DISK % LOAD 5 MIN 15 MIN RUNS UP WORKER UP VERSION";
        assert_eq!(headings(200, 30), all);
        assert!(fitting(200, 30).iter().any(|place| place.is_meter));
        assert_eq!(fitting(200, 30)[0].width, 30);
        assert!(!fitting(120, 30).iter().any(|place| place.is_meter));
    }

    #[test]
    fn cells_never_show_what_is_not_known_as_a_figure() {
        let overview = sample::overview();
        let row = |name: &str| {
            let vitals = overview.hosts.iter().find(|vitals| vitals.host.name.as_str() == name).unwrap();
            Column::all().map(|column| column.cell(vitals, overview.now).0).collect::<Vec<_>>().join("|")
        };
        assert_eq!(row("web1"), "web1|online|45.1|30.0|91.0|0.50|0.40|0.30|2/4|5 days|3 min|0.1.0");
        assert_eq!(row("web2"), "web2|online|99.5|12.0|-|12.00|-|-|0/4|5 days|3 min|0.1.0");
        assert_eq!(row("old1"), "old1|refuses|?|?|-|-|-|-|1/4|-|3 min|\u{fffd}[2J");
        assert_eq!(row("dead1"), "dead1|offline|?|-|-|-|-|-|?|gone 3 min|?|0.1.0");
    }

    #[test]
    fn meters_are_of_one_width() {
        for percent in [0.0, 50.0, 100.0, 1000.0, -3.0] {
            assert_eq!(meter(percent).len(), METER);
        }
        assert_eq!(meter(50.0), "[|||||||||         ]");
    }
}
