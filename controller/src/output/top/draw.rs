//! The screen as lines of text. Every text that may come from a host goes through [`span`].

use std::time::Duration;

use anstyle::Effects;
use protocol::time::Millis;
use ratatui::{
    Frame,
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{
    columns::{GAP, Place, fitting, meter},
    order::Sort,
    screen::Screen,
};
use crate::{
    client::{Overview, RecentJob, Vitals},
    output::{moments, style, summary},
};

/// What the screen shows.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The last look at the fleet.
    pub overview: &'a Overview,
    /// Where it is.
    pub address: &'a str,
    /// What the hosts were selected by; empty where it is all of them.
    pub filter: &'a str,
    /// The moment now, by the fleet's clock. States and ages are those of the last look.
    pub now: Millis,
    /// Why the last look is old.
    pub trouble: Option<&'a Trouble>,
    /// Whether colours are wanted.
    pub colours: bool,
}

/// Why there is no newer look at the fleet.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Whether Redis is away. Else it has refused.
    pub is_away: bool,
    /// What went wrong.
    pub error: String,
}

/// Rows of jobs at most: a part of the screen, and never fewer than this.
const JOBS: usize = 3;

/// Lines at most of doubts, and of hosts of which it is not known whether they are meant.
const DOUBTS: usize = 3;

/// The greatest widths of the columns of jobs before the command.
const JOB: [usize; 4] = [8, 8, 16, 40];

/// Draws the screen.
pub fn draw(frame: &mut Frame, screen: &mut Screen, view: &View) {
    let area = frame.area();
    let pen = Pen { width: area.width.into(), colours: view.colours };
    let height = usize::from(area.height);
    let sorted = screen.order().0.sorted(&view.overview.hosts, screen.order().1, view.overview.now);

    let mut lines = pen.header(view);
    let mut foot = pen.foot(screen, view);
    // The table of hosts has its heading and at least one row.
    let rest = height.saturating_sub(lines.len() + foot.len() + 2);
    let jobs = pen.jobs(view.overview, rest);
    let page = height.saturating_sub(lines.len() + foot.len() + jobs.len() + 1);
    let first = screen.fit(page, sorted.len());
    let shown = &sorted[first..sorted.len().min(first + page)];
    if screen.typed().is_none() && view.trouble.is_none() && !screen.shows_help() {
        pen.position(&mut foot, screen, first, shown.len(), sorted.len());
    }
    lines.extend(pen.hosts(view, screen, shown, page));
    lines.extend(jobs);
    lines.extend(foot);
    frame.render_widget(Text::from(lines), area);
}

/// How wide the screen is, and whether it has colours.
#[derive(Clone, Copy)]
struct Pen {
    width: usize,
    colours: bool,
}

impl Pen {
    /// A text in a style. What a terminal would obey in it is replaced.
    fn span(self, text: &str, look: anstyle::Style) -> Span<'static> {
        Span::styled(style::plain(text), self.look(look))
    }

    fn line(self, text: &str, look: anstyle::Style) -> Line<'static> {
        self.span(&fit(text, self.width, false), look).into()
    }

    /// A style as this screen shows it.
    fn look(self, look: anstyle::Style) -> Style {
        let mut own = Style::new();
        if let Some(anstyle::Color::Ansi(colour)) = look.get_fg_color().filter(|_| self.colours) {
            own = own.fg(match colour {
                anstyle::AnsiColor::Green => Color::Green,
                anstyle::AnsiColor::Red => Color::Red,
                anstyle::AnsiColor::Yellow => Color::Yellow,
                _ => Color::Cyan,
            });
        }
        for (effect, modifier) in [(Effects::BOLD, Modifier::BOLD), (Effects::DIMMED, Modifier::DIM)] {
            if look.get_effects().contains(effect) {
                own = own.add_modifier(modifier);
            }
        }
        own
    }

    /// A line with texts at both ends. Where there is no room, that at the right end loses its beginning.
    fn ends(self, mut left: Vec<Span<'static>>, right: &str, look: anstyle::Style) -> Line<'static> {
        let taken: usize = left.iter().map(Span::width).sum();
        let room = self.width.saturating_sub(taken + GAP);
        let right = style::plain(right);
        let mut cut = right
            .chars()
            .rev()
            .scan(0, |width, char| {
                *width += char.width().unwrap_or(0);
                (*width <= room).then_some(char)
            })
            .collect::<Vec<_>>();
        if cut.len() < right.chars().count() && !cut.is_empty() {
            cut.pop();
            cut.push('…');
        }
        let right: String = cut.into_iter().rev().collect();
        let blanks = self.width.saturating_sub(taken + right.width());
        left.push(Span::raw(" ".repeat(blanks)));
        left.push(self.span(&right, look));
        left.into()
    }

    /// How the fleet is, and which part of it is shown.
    fn header(self, view: &View) -> Vec<Line<'static>> {
        let Overview { hosts, unknown, doubts, considered, .. } = view.overview;
        let count = |states: &[&str]| {
            hosts.iter().filter(|vitals| states.contains(&vitals.host.state(view.overview.now))).count()
        };
        let mut left = vec![self.span(&summary::hosts(hosts.len()), style::HEADING)];
        for (states, word, look) in [
            (&["online"][..], "online", style::GOOD),
            (&["offline", "stopped"], "offline", style::BAD),
            (&["damaged"], "unknown", style::WARNING),
        ] {
            let count = count(states);
            let look = if count > 0 { look } else { style::PLAIN };
            left.push(Span::raw(if word == "online" { ": " } else { ", " }));
            left.push(self.span(&format!("{count} {word}"), look));
        }
        let time = moments::clock(view.overview.now);
        let (time, look) = match view.trouble {
            Some(_) => (format!("as of {time}"), style::WARNING),
            None => (time, style::PLAIN),
        };
        let mut lines = vec![self.ends(left, &format!("{}  {time}", view.address), look)];
        if !view.filter.is_empty() || !unknown.is_empty() {
            let left_out = match unknown.len() {
                0 => String::new(),
                count => format!("; {count} left out"),
            };
            let counts = format!(": {} of {considered}{left_out}", hosts.len());
            let filter = fit(view.filter, self.width.saturating_sub(counts.width()).min(view.filter.width()), false);
            lines.push(self.line(&format!("{filter}{counts}"), style::HINT));
        }
        let doubts: Vec<_> = doubts.iter().cloned().chain(summary::left_out(unknown)).collect();
        let shown = if doubts.len() > DOUBTS { DOUBTS - 1 } else { doubts.len() };
        lines.extend(doubts.iter().take(shown).map(|doubt| self.line(doubt, style::WARNING)));
        if shown < doubts.len() {
            lines.push(self.line(&format!("and {} more", doubts.len() - shown), style::WARNING));
        }
        lines
    }

    /// The table of hosts: its heading, and `page` lines.
    fn hosts(self, view: &View, screen: &Screen, shown: &[&Vitals], page: usize) -> Vec<Line<'static>> {
        let names = view.overview.hosts.iter().map(|vitals| vitals.host.name.as_str().width());
        let places = fitting(self.width, names.max().unwrap_or(0));
        let mut lines = vec![self.heading(&places, screen.order())];
        for vitals in shown {
            let is_online = vitals.host.is_online(view.overview.now);
            let cells = places.iter().map(|place| self.cell(place, vitals, view.overview.now, is_online));
            let spans = cells.flat_map(|cell| [cell, Span::raw(" ".repeat(GAP))]);
            lines.push(Line::from(spans.collect::<Vec<_>>()));
        }
        if view.overview.hosts.is_empty() {
            let nothing = match view.overview.considered {
                0 => "no worker has reported yet; start one: worker --redis URL --host NAME",
                _ => "no such host",
            };
            lines.push(self.line(nothing, style::PLAIN));
        }
        lines.resize(page + 1, Line::default());
        lines
    }

    fn heading(self, places: &[Place], (sort, reversed): (Sort, bool)) -> Line<'static> {
        let sign = if sort.is_ascending() == reversed { '▼' } else { '▲' };
        let heading = |place: &Place| {
            let heading = place.column.heading();
            let heading = if place.column.sort() == Some(sort) { format!("{heading}{sign}") } else { heading.into() };
            fit(&heading, place.width, place.column.is_number()) + &" ".repeat(GAP)
        };
        let text: String = places.iter().map(heading).collect();
        let look = self.look(style::HEADING).add_modifier(Modifier::REVERSED);
        Span::styled(fit(text.trim_end(), self.width, false), look).into()
    }

    fn cell(self, place: &Place, vitals: &Vitals, now: Millis, is_online: bool) -> Span<'static> {
        let (text, look) = place.column.cell(vitals, now);
        let text = match place.column.meter(vitals).filter(|_| place.is_meter) {
            Some(figure) => format!("{} {text:>6}", meter(figure)),
            None => text,
        };
        let span = self.span(&fit(&text, place.width, place.column.is_number()), look);
        if is_online { span } else { span.patch_style(Style::new().add_modifier(Modifier::DIM)) }
    }

    /// The jobs that run, in no more than a third of so many lines, where that is enough to be read.
    fn jobs(self, overview: &Overview, room: usize) -> Vec<Line<'static>> {
        let Overview { jobs, unread_jobs, .. } = overview;
        let most = (room / 3).max(JOBS);
        if room < JOBS + 2 {
            return Vec::new();
        }
        let title = match jobs.len() {
            0 => "No job runs now".to_owned(),
            1 => "1 job runs now".to_owned(),
            count => format!("{count} jobs run now"),
        };
        let unread = match unread_jobs {
            0 => String::new(),
            count => format!(" ({count} older ones are still looked at)"),
        };
        let is_cut = jobs.len() > most;
        let shown = if is_cut { most - 1 } else { jobs.len() };
        let mut lines = vec![Line::default(), self.line(&(title + &unread), style::HEADING)];
        lines.extend(self.job_lines(&jobs[..shown], overview.now));
        if is_cut {
            lines.push(self.line(&format!("and {} more: ctl job list --running", jobs.len() - shown), style::DIM));
        }
        lines
    }

    fn job_lines(self, jobs: &[RecentJob], now: Millis) -> Vec<Line<'static>> {
        let rows = jobs.iter().map(|job| {
            let [age, by, states, command] = super::once::job_cells(job, now);
            [job.id.short(), age, by, states, command].map(|cell| style::plain(&cell))
        });
        let rows: Vec<_> = rows.collect();
        let longest = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
        let widths: Vec<_> = JOB.into_iter().enumerate().map(|(column, most)| longest(column).min(most)).collect();
        let line = |row: &[String; 5]| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| fit(cell, *width, false) + &" ".repeat(GAP));
            self.line(&(cells.collect::<String>() + &row[4]), style::PLAIN)
        };
        rows.iter().map(line).collect()
    }

    /// What is typed, what is wrong, or what the keys mean.
    fn foot(self, screen: &Screen, view: &View) -> Vec<Line<'static>> {
        if let Some((text, problem)) = screen.typed() {
            return self.typing(text, problem);
        }
        if let Some(Trouble { is_away, error }) = view.trouble {
            let old = moments::span(Duration::from_secs(view.now.saturating_sub(view.overview.now) / 1000));
            let what = if *is_away { "Redis is away" } else { "not read" };
            return vec![self.line(&format!("{what}, figures are {old} old, trying again: {error}"), style::BAD)];
        }
        if screen.shows_help() {
            let sorts = Sort::ALL.map(|(_, key, name)| format!("{key} {name}")).join("  ");
            return [
                format!("sort by  {sorts}"),
                "order    s the next  R reverse".into(),
                "scroll   ↑ ↓ PgUp PgDn Home End".into(),
                "filter   / and an expression as for --where: cpu.usage > 80 and host ~ web*".into(),
                "- is not published, ? is old or of a host that is not there".into(),
                "? hides this   q quits".into(),
            ]
            .map(|text| self.line(&text, style::HINT))
            .into();
        }
        vec![self.line("q quit  ? help  / filter  s sort  R reverse", style::HINT)]
    }

    /// The filter that is typed, and below it where it is wrong, and why.
    fn typing(self, text: &str, problem: Option<crate::client::FilterError>) -> Vec<Line<'static>> {
        // The end, where the cursor is, stays visible.
        let hidden = (text.width() + 2).saturating_sub(self.width);
        let mut skipped = 0;
        let shown: String = text
            .chars()
            .skip_while(|char| {
                let skip = skipped < hidden;
                skipped += if skip { char.width().unwrap_or(0) } else { 0 };
                skip
            })
            .collect();
        let cursor = Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED));
        let line = Line::from(vec![self.span("/", style::HINT), self.span(&shown, style::PLAIN), cursor]);
        let Some(problem) = problem else {
            return vec![line, Line::default(), self.line("Enter keeps the filter, Esc drops it", style::HINT)];
        };
        let at = problem.place();
        let columns = |range: std::ops::Range<usize>| text.get(range).map_or(0, UnicodeWidthStr::width);
        let before = (columns(0..at.start) + 1).saturating_sub(skipped);
        let carets = "^".repeat(columns(at.clone()).max(1));
        vec![line, self.line(&format!("{:before$}{carets}", ""), style::BAD), self.line(problem.problem(), style::BAD)]
    }

    /// Adds which of the hosts are shown, and in which order.
    fn position(self, foot: &mut [Line<'static>], screen: &Screen, first: usize, shown: usize, all: usize) {
        let (sort, reversed) = screen.order();
        let reversed = if reversed { ", reversed" } else { "" };
        let text = format!("{}-{} of {all} by {}{reversed}", (first + 1).min(all), first + shown, sort.name());
        if let Some(line) = foot.last_mut() {
            let left = line.spans.first().map(|span| self.span(span.content.trim_end(), style::HINT));
            *line = self.ends(left.into_iter().collect(), &text, style::PLAIN);
        }
    }
}

/// The text, exactly so wide: with blanks, or cut with a sign.
fn fit(text: &str, width: usize, at_right: bool) -> String {
    let own = text.width();
    if own <= width {
        let blanks = " ".repeat(width - own);
        return if at_right { blanks + text } else { text.to_owned() + &blanks };
    }
    let mut taken = 0;
    let fits = |char: &char| {
        taken += char.width().unwrap_or(0);
        taken < width
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    if width > 0 {
        cut.push('…');
    }
    let blanks = width.saturating_sub(cut.width());
    cut + &" ".repeat(blanks)
}

#[cfg(test)]
mod tests;
