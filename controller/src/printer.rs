//! The one place that writes to the terminal: results to stdout, everything else to stderr.

use std::{
    cell::{Cell, RefCell},
    io::{self, IsTerminal, Write},
};

use anstream::{AutoStream, ColorChoice};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use terminal_size::Width;

use crate::{error, settings::Format, style, table::Table};

/// Decides what is said, where and how.
pub struct Printer {
    format: Format,
    quiet: bool,
    colour: ColorChoice,
    progress: RefCell<Option<ProgressBar>>,
    /// A program's output left the cursor within a line.
    unfinished: Cell<bool>,
    /// Whoever read stdout has gone (`ctl … | head`): the rest is not for anybody.
    closed: Cell<bool>,
}

impl Printer {
    /// A printer with these settings.
    pub const fn new(format: Format, quiet: bool, colour: ColorChoice) -> Self {
        Self {
            format,
            quiet,
            colour,
            progress: RefCell::new(None),
            unfinished: Cell::new(false),
            closed: Cell::new(false),
        }
    }

    /// The format of results.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// A line of the result; styled text loses its colours where they are not wanted.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        self.write(|| {
            let mut out = AutoStream::new(io::stdout().lock(), self.colour);
            writeln!(out, "{text}")
        })
    }

    /// Bytes of the result, untouched.
    pub fn raw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        self.unfinished.set(bytes.last().is_some_and(|last| *last != b'\n') && io::stdout().is_terminal());
        self.write(|| {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        })
    }

    /// Bytes that a remote program wrote to its stderr, untouched. They are a result: not even quiet hides them.
    pub fn raw_stderr(&self, bytes: &[u8]) {
        self.beside_progress(|| drop(io::stderr().lock().write_all(bytes)));
    }

    /// A table.
    pub fn table(&self, table: &Table) -> anyhow::Result<()> {
        table.lines(Self::width()).iter().try_for_each(|line| self.line(line))
    }

    /// Columns of the terminal, where there is one: there a table is cut rather than folded.
    pub fn width() -> Option<usize> {
        let (Width(columns), _) = terminal_size::terminal_size_of(io::stdout())?;
        Some(columns.into())
    }

    /// One object: over several lines as `json`, on one as `jsonl`.
    pub fn object(&self, value: &impl Serialize) -> anyhow::Result<()> {
        if self.format == Format::Jsonl {
            self.json_line(value)
        } else {
            self.line(&serde_json::to_string_pretty(value)?)
        }
    }

    /// Several objects: an array as `json`, a line each as `jsonl`.
    pub fn objects(&self, values: &[impl Serialize]) -> anyhow::Result<()> {
        if self.format == Format::Jsonl {
            return values.iter().try_for_each(|value| self.json_line(value));
        }
        self.line(&serde_json::to_string_pretty(values)?)
    }

    /// One object on one line.
    pub fn json_line(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(&serde_json::to_string(value)?)
    }

    /// A remark beside the result.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.stderr(text);
        }
    }

    /// A host that did not succeed. It belongs to the result: not even quiet hides it.
    pub fn trouble(&self, text: &str) {
        self.stderr(text);
    }

    /// Something that the operator should look into.
    pub fn warn(&self, text: &str) {
        self.note(&format!("{} {text}", style::paint(style::WARNING, "warning:")));
    }

    /// The error that ends the command, with its hints. Not even quiet hides it.
    pub fn error(&self, error: &anyhow::Error) {
        self.stderr(&format!("{} {error:#}", style::paint(style::BAD, "error:")));
        for hint in error::hints(error) {
            self.stderr(&format!("{} {hint}", style::paint(style::HINT, "hint:")));
        }
    }

    /// Leaves the line in which the terminal has echoed a key; a progress bar takes it away with itself.
    pub fn leave_line(&self) {
        self.unfinished.set(io::stderr().is_terminal() && self.progress.borrow().is_none());
    }

    /// Shows a progress bar where a person would miss one: on a terminal, when several hosts are awaited.
    pub fn start_progress(&self, hosts: usize) {
        if self.quiet || hosts < 2 || !io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(hosts as u64), ProgressDrawTarget::stderr());
        // The template is constant; were it wrong, the default bar would do.
        if let Ok(style) = ProgressStyle::with_template("{pos}/{len} hosts [{bar:30}] {elapsed}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.tick();
        *self.progress.borrow_mut() = Some(bar);
    }

    /// Moves the progress bar to `done` hosts.
    pub fn progress(&self, done: usize) {
        if let Some(bar) = &*self.progress.borrow() {
            bar.set_position(done as u64);
            bar.tick();
        }
    }

    /// Takes the progress bar away.
    pub fn stop_progress(&self) {
        if let Some(bar) = self.progress.take() {
            bar.finish_and_clear();
        }
    }

    fn stderr(&self, text: &str) {
        self.beside_progress(|| {
            let mut out = AutoStream::new(io::stderr().lock(), self.colour);
            if self.unfinished.take() {
                drop(writeln!(out));
            }
            // Where stderr is closed there is nobody left to tell.
            drop(writeln!(out, "{text}"));
        });
    }

    fn write(&self, write: impl FnOnce() -> io::Result<()>) -> anyhow::Result<()> {
        if self.closed.get() {
            return Ok(());
        }
        match self.beside_progress(write) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.closed.set(true),
            result => result.context("cannot write to standard output")?,
        }
        Ok(())
    }

    fn beside_progress<T>(&self, write: impl FnOnce() -> T) -> T {
        match &*self.progress.borrow() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}
