//! The one place that writes to the terminal: results to stdout, everything else to stderr.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Stderr, Write},
    os::fd::AsFd,
    time::Instant,
};

use anstream::{AutoStream, ColorChoice};
use anyhow::Context;
use clap::{Args, ValueEnum};
use protocol::event::Stream;
use serde::Serialize;
use serde_json::Value;
use terminal_size::Width;
use tokio::{io::Interest, net::unix::pipe};

use super::{
    explain::{Advice, explain},
    progress::Progress,
    style,
    table::Table,
    terminal::{harmless, harmless_json},
};
use crate::client::HostResult;

/// The format of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One line of JSON for each host, job or action, as it comes.
    Jsonl,
}

/// Whether the output of programs is made harmless.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Exact {
    /// Print exactly what programs print, even on a terminal, which obeys the escape sequences in it
    #[arg(long)]
    pub raw: bool,
}

/// How the output of programs looks, of several hosts once all have ended.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Look {
    #[command(flatten)]
    pub exact: Exact,
    /// Print the output of each host, even if several have printed the same
    #[arg(long)]
    pub no_fold: bool,
}

impl From<Exact> for Look {
    fn from(exact: Exact) -> Self {
        Self { exact, no_fold: false }
    }
}

/// Decides what is printed, where and how.
pub struct Printer {
    format: Format,
    quiet: bool,
    colour: ColorChoice,
    progress: RefCell<Option<Progress<Stderr>>>,
    /// A program's output left the cursor within a line.
    unfinished: Cell<bool>,
    /// The reader of stdout has gone (`ctl … | head`).
    closed: Cell<bool>,
    /// A part of a job's results could not be written, which was reported.
    lost: Cell<bool>,
    look: Cell<Look>,
    /// Objects that wait to be part of a greater one; the innermost last.
    documents: RefCell<Vec<Vec<Value>>>,
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
            lost: Cell::new(false),
            look: Cell::new(Look { exact: Exact { raw: false }, no_fold: false }),
            documents: RefCell::new(Vec::new()),
        }
    }

    /// The format of results.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// How the output of programs shall look.
    pub fn set_look(&self, look: Look) {
        self.look.set(look);
    }

    /// Whether equal output of several hosts is printed once.
    pub const fn folds(&self) -> bool {
        !self.look.get().no_fold
    }

    /// A line of the result; styled text loses its colours where they are not wanted.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        self.write(|| {
            let mut out = AutoStream::new(io::stdout().lock(), self.colour);
            writeln!(out, "{}", shown(text, io::stdout().is_terminal()))
        })
    }

    /// Bytes of the result, untouched.
    pub fn raw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        self.write(|| {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        })
    }

    /// Whether the output of programs must be made harmless before it is printed: a terminal obeys it.
    pub fn is_guarded(&self, stream: Stream) -> bool {
        let is_terminal = match stream {
            Stream::Stdout => io::stdout().is_terminal(),
            Stream::Stderr => io::stderr().is_terminal(),
        };
        is_terminal && !self.look.get().exact.raw
    }

    /// What a remote program has printed, on the stream that it has printed to. It is a result: not even quiet hides
    /// its stderr.
    pub fn output(&self, stream: Stream, bytes: &[u8]) -> anyhow::Result<()> {
        // On a terminal that is guarded, all that is left to take off are colours.
        let colour = if self.is_guarded(stream) { self.colour } else { ColorChoice::AlwaysAnsi };
        if stream == Stream::Stderr {
            self.beside_progress(|| drop(AutoStream::new(io::stderr().lock(), colour).write_all(bytes)));
            return Ok(());
        }
        self.unfinished.set(bytes.last().is_some_and(|last| *last != b'\n') && io::stdout().is_terminal());
        self.write(|| {
            let mut out = AutoStream::new(io::stdout().lock(), colour);
            out.write_all(bytes)?;
            out.flush()
        })
    }

    /// Reports, once, that a part of a job's results could not be written. `hint` tells how to see it.
    pub fn report_loss(&self, written: anyhow::Result<()>, hint: impl FnOnce() -> String) {
        if let Err(error) = written
            && !self.lost.replace(true)
        {
            self.error(&explain(&error.context("output is lost")).hint(hint()));
        }
    }

    /// Whether the reader of stdout has gone.
    pub const fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Resolves when the reader of stdout goes, though nothing is written. Never if stdout is no pipe.
    pub async fn reader_gone() {
        let gone = async {
            let stdout = io::stdout().as_fd().try_clone_to_owned().ok()?;
            // Unchecked: the pipe is shared with other processes, so it stays as blocking as it is. It is only watched.
            let pipe = pipe::Sender::from_owned_fd_unchecked(stdout).ok()?;
            pipe.ready(Interest::ERROR).await.ok().map(drop)
        };
        // What cannot be watched, such as a file, has no reader.
        if gone.await.is_none() {
            std::future::pending::<()>().await;
        }
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
        if self.format == Format::Json
            && let Some(parts) = self.documents.borrow_mut().last_mut()
        {
            parts.push(serde_json::to_value(value)?);
            return Ok(());
        }
        let text = match self.format {
            Format::Jsonl => serde_json::to_string(value),
            Format::Json | Format::Table => serde_json::to_string_pretty(value),
        };
        self.line(&harmless_json(&text?))
    }

    /// Several objects: an array as `json`, a line each as `jsonl`.
    pub fn objects(&self, values: &[impl Serialize]) -> anyhow::Result<()> {
        match self.format {
            Format::Jsonl => values.iter().try_for_each(|value| self.object(value)),
            Format::Json | Format::Table => self.object(&values),
        }
    }

    /// From now on, objects are kept, to be parts of a greater one: as `json`, a command prints one object. As `jsonl` each
    /// is printed at once.
    pub fn begin_document(&self) {
        self.documents.borrow_mut().push(Vec::new());
    }

    /// Prints the greater object. Where its parts were kept since [`Self::begin_document`], they are in its field `parts`. It
    /// is none for a person.
    pub fn end_document(&self, parts: &str, mut whole: Value) -> anyhow::Result<()> {
        let kept = self.documents.borrow_mut().pop().unwrap_or_default();
        match self.format {
            Format::Table => return Ok(()),
            Format::Json => whole[parts] = kept.into(),
            Format::Jsonl => {}
        }
        self.object(&whole)
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

    /// An error with its hints. Not even quiet hides it.
    pub fn error(&self, error: &Advice) {
        self.stderr(&format!("{} {error}", style::paint(style::BAD, "error:")));
        error.hints().iter().for_each(|hint| self.hint(hint));
    }

    /// What to do about an error.
    pub fn hint(&self, hint: &str) {
        self.stderr(&format!("{} {hint}", style::paint(style::HINT, "hint:")));
    }

    /// Asks a person a question that is answered by yes or no, at the terminal of this process, whatever is redirected;
    /// `None` where there is none, or all is redirected. Anything but a yes is a no.
    pub fn confirm(question: &str) -> Option<bool> {
        let question = format!("{question} [y/N] ");
        let mut reply = String::new();
        let read = match (io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()) {
            (false, false, false) => return None,
            (true, _, true) => {
                eprint!("{question}");
                io::stdin().lock().read_line(&mut reply)
            }
            _ => {
                let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
                (&terminal).write_all(question.as_bytes()).ok()?;
                BufReader::new(&terminal).read_line(&mut reply)
            }
        };
        Some(read.is_ok() && matches!(reply.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    /// Leaves the line in which the terminal has echoed a key; a progress bar takes it away with itself.
    pub fn leave_line(&self) {
        self.unfinished.set(io::stderr().is_terminal() && self.progress.borrow().is_none());
    }

    /// Shows how far a job has come where a person would miss that: on a terminal, when several hosts are awaited.
    pub fn start_progress(&self, hosts: usize) {
        if !self.quiet && hosts > 1 && io::stderr().is_terminal() {
            *self.progress.borrow_mut() = Some(Progress::new(io::stderr()));
        }
    }

    /// Shows how the job stands now.
    pub fn progress<'a>(&self, results: impl Iterator<Item = &'a HostResult>) {
        if let Some(progress) = &mut *self.progress.borrow_mut() {
            progress.show(results, stderr_width(), Instant::now());
        }
    }

    /// Lets the times of the progress go on. To be called each second.
    pub fn tick(&self) {
        if let Some(progress) = &mut *self.progress.borrow_mut() {
            progress.tick(stderr_width(), Instant::now());
        }
    }

    /// Takes the progress away.
    pub fn stop_progress(&self) {
        if let Some(mut progress) = self.progress.take() {
            progress.erase();
        }
    }

    fn stderr(&self, text: &str) {
        self.beside_progress(|| {
            let mut out = AutoStream::new(io::stderr().lock(), self.colour);
            if self.unfinished.take() {
                drop(writeln!(out));
            }
            // A closed stderr has no reader.
            drop(writeln!(out, "{}", shown(text, io::stderr().is_terminal())));
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
        if let Some(progress) = &mut *self.progress.borrow_mut() {
            progress.erase();
        }
        let written = write();
        if let Some(progress) = &mut *self.progress.borrow_mut() {
            progress.draw();
        }
        written
    }
}

/// Columns of the terminal at standard error.
fn stderr_width() -> usize {
    terminal_size::terminal_size_of(io::stderr()).map_or(80, |(Width(columns), _)| columns.into())
}

/// A text that may quote what comes from hosts, for a terminal or not.
fn shown(text: &str, is_terminal: bool) -> Cow<'_, str> {
    if is_terminal { harmless(text).into() } else { text.into() }
}
