//! Plain tables: columns aligned with spaces, nothing drawn, so that they can be cut and searched.

use std::borrow::Cow;

use anstyle::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::style;

/// Blanks between columns.
const GAP: usize = 2;
/// The least that is left of a cell.
const LEAST: usize = 10;

/// A cell: text and how it looks.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell with a style. Control characters in the text are replaced.
    pub fn styled(text: &str, style: Style) -> Self {
        Self { text: style::plain(text), style }
    }

    /// The cell, no wider than `width`: with a sign where it was cut.
    pub fn at_most(self, width: usize) -> Self {
        Self { text: cut(&self.text, width).into_owned(), ..self }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text.as_ref(), Style::new())
    }
}

/// A table with or without a heading.
#[derive(Default)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
    folds: bool,
}

impl Table {
    /// An empty table with these headings.
    pub fn new<T: AsRef<str>>(headings: impl IntoIterator<Item = T>) -> Self {
        let heading = headings.into_iter().map(|text| Cell::styled(text.as_ref(), style::HEADING)).collect();
        Self { rows: vec![heading], folds: false }
    }

    /// An empty table of names and values.
    pub fn of_pairs() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds a name and its value.
    pub fn pair(&mut self, name: &str, value: impl Into<Cell>) {
        self.row([Cell::styled(name, style::HEADING), value.into()]);
    }

    /// The table, whose last cells are sentences: where one is too long for its line, it goes on below.
    #[must_use]
    pub fn folded(self) -> Self {
        Self { folds: true, ..self }
    }

    /// The lines, without blanks at their ends. Where a line is longer than `limit`, its last cell is folded, or loses
    /// its end.
    pub fn lines(&self, limit: Option<usize>) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.width()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let before: usize = widths.iter().rev().skip(1).map(|width| width + GAP).sum();
        let room = limit.map_or(usize::MAX, |limit| limit.saturating_sub(before));
        let mut lines = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            match row.last().filter(|last| self.folds && row.len() == columns && last.text.width() > room) {
                None => lines.push(line(row, &widths, room)),
                Some(last) => {
                    let mut pieces = fold(&last.text, room).into_iter();
                    let mut first = row.clone();
                    first[columns - 1].text = pieces.next().unwrap_or_default();
                    lines.push(line(&first, &widths, usize::MAX));
                    lines.extend(pieces.map(|piece| format!("{:before$}{}", "", style::paint(last.style, &piece))));
                }
            }
        }
        lines
    }
}

/// The text in pieces that are no wider than `room`, broken between words. A longer word stays whole.
fn fold(text: &str, room: usize) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match pieces.last_mut().filter(|piece| piece.width() + 1 + word.width() <= room.max(LEAST)) {
            Some(piece) => piece.extend([" ", word]),
            None => pieces.push(word.to_owned()),
        }
    }
    pieces
}

fn line(row: &[Cell], widths: &[usize], room: usize) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        let is_last = column + 1 == widths.len();
        let text = if is_last { cut(&cell.text, room) } else { cell.text.as_str().into() };
        if !text.is_empty() {
            line.push_str(&style::paint(cell.style, &text));
        }
        line.push_str(&" ".repeat(width - cell.text.width() + GAP));
    }
    line.truncate(line.trim_end().len());
    line
}

/// The beginning of a text that is too long, with a sign that it was cut. With too little room the text stays whole:
/// a line that folds is better than one without content.
fn cut(text: &str, room: usize) -> Cow<'_, str> {
    if text.width() <= room || room < LEAST {
        return text.into();
    }
    let mut width = 0;
    let fits = |character: &char| {
        width += character.width().unwrap_or(0);
        width < room
    };
    let kept: String = text.chars().take_while(fits).collect();
    (kept + "…").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_width_on_screen() {
        let mut table = Table::new(["HOST", "CITY", "N"]);
        table.row(["web1".into(), "Zürich".into(), "1".into()]);
        table.row(["db".into(), "".into(), "22".into()]);
        let lines: Vec<_> =
            table.lines(None).iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        assert_eq!(lines, ["HOST  CITY    N", "web1  Zürich  1", "db            22"]);
    }

    #[test]
    fn on_a_narrow_terminal_the_last_cell_is_cut() {
        let mut table = Table::new(["PID", "COMMAND"]);
        table.row(["1".into(), "a long command line".into()]);
        let last = |limit| anstream::adapter::strip_str(&table.lines(Some(limit))[1]).to_string();
        assert_eq!(last(24), "1    a long command line");
        assert_eq!(last(16), "1    a long com…");
        assert_eq!(last(10), "1    a long command line");
    }

    #[test]
    fn a_sentence_that_is_too_long_goes_on_below() {
        let mut table = Table::default();
        table.row(["ok".into(), "one two three four".into()]);
        table.row(["bad".into(), "short".into()]);
        let table = table.folded();
        let lines = |limit| {
            let lines = table.lines(Some(limit)).into_iter();
            lines.map(|line| anstream::adapter::strip_str(&line).to_string()).collect::<Vec<_>>()
        };
        assert_eq!(lines(18), ["ok   one two three", "     four", "bad  short"]);
        assert_eq!(lines(30), ["ok   one two three four", "bad  short"]);
        assert_eq!(Cell::from("a longer word").at_most(10).text, "a longer …");
    }
}
