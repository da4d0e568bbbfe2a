//! What people see: `ctl top`, and other commands at terminals of 80 and of 200 columns, with fleets of 1, 30 and 1,000 hosts.

mod captured;
mod live;
mod masked;

use std::{cell::RefCell, num::NonZero};

use tests::{Ctl, OnTerminal, PATIENCE, eventually, within};

/// Columns and rows of a terminal.
type Size = (u16, u16);

/// A narrow terminal, and a wide one.
const SIZES: [Size; 2] = [(80, 24), (200, 50)];

/// What ends each frame of a live screen: the cursor is hidden.
const END_OF_FRAME: &str = "\x1b[?25l";

/// What the terminal shows, without blanks at the ends of lines.
fn screen(terminal: &OnTerminal, size: Size) -> String {
    drawn(&terminal.shown(), size)
}

/// The last frame of a live screen that is whole.
fn frame(terminal: &OnTerminal, size: Size) -> String {
    let shown = terminal.shown();
    let end = shown.rfind(END_OF_FRAME).unwrap_or(0);
    drawn(&shown[..end], size)
}

fn drawn(shown: &str, (columns, rows): Size) -> String {
    let at_least_one = |count| NonZero::new(count).expect("a terminal has columns and rows");
    let mut parser = vt100::Parser::new(at_least_one(rows), at_least_one(columns), 0);
    // The parser drops U+FFFD, where a terminal draws it in a cell of its own.
    parser.process(shown.replace('\u{fffd}', "?").as_bytes());
    let lines: Vec<_> = parser.screen().rows(0, columns).map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Waits until the live screen shows something for which this holds, and returns it.
#[track_caller]
fn wait_screen(terminal: &OnTerminal, size: Size, what: &str, mut holds: impl FnMut(&str) -> bool) -> String {
    let last = RefCell::new(String::new());
    let found = within(PATIENCE, || {
        let now = frame(terminal, size);
        let is_there = holds(&now);
        last.replace(now.clone());
        is_there.then_some(now)
    });
    found.unwrap_or_else(|| panic!("the screen does not show {what}:\n{}", last.borrow()))
}

/// Waits until all hosts have figures.
fn wait_figures(ctl: &Ctl, count: usize) {
    eventually("all to have figures", || {
        let top = ctl.run(["top", "--once", "-o", "json"]).expect(0).json();
        let hosts = top["hosts"].as_array().expect("a list");
        let known = hosts
            .iter()
            .filter(|host| ["cpu_usage", "memory_usage", "load1"].iter().all(|name| host[name].is_number()));
        (known.count() == count).then_some(())
    });
}
