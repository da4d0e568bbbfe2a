//! The output of programs: each byte once and in order, whenever the reading starts.
//!
//! Pieces carry their offset, so a piece that comes twice prints nothing, and a line stands for what is missing between
//! two of them. At the end the result provides the output that no piece brought: all of it where none are read.

use std::collections::HashMap;

use protocol::{
    event::Stream,
    name::{HostName, JobId},
    outcome::{Captured, Outcome, State, cut_line},
};

use super::{
    compared::Printed,
    events,
    exit::Exit,
    figures::bytes,
    fold::label,
    json::{self, streams},
    printer::{Format, Printer},
    terminal::Filter,
};
use crate::client::HostResult;

/// Prints one job's output: as it is, or with each line behind its host's name, or as events in JSON.
pub struct Tail<'a> {
    job: JobId,
    printer: &'a Printer,
    /// Whether each line begins with its host, as there are several hosts.
    prefixed: bool,
    streams: HashMap<(HostName, Stream), Position>,
    /// Something that was printed is not what its host has signed.
    forged: bool,
}

/// Bytes of a line at most that are kept until its end arrives. A longer line is broken.
const LINE: usize = 64 * 1024;

#[derive(Default)]
struct Position {
    /// Bytes printed so far.
    offset: u64,
    /// Bytes that were missing among them.
    missing: u64,
    /// What nobody has vouched for yet.
    printed: Printed,
    /// The beginning of a line or character whose end has not arrived.
    unfinished: Vec<u8>,
    /// Makes the output harmless for a terminal.
    filter: Filter,
    /// All output, where it is printed at once in the end: as one JSON document.
    collected: Vec<u8>,
}

impl<'a> Tail<'a> {
    /// A tail of the job's output on that many hosts, which has printed nothing yet.
    pub fn new(job: JobId, hosts: usize, printer: &'a Printer) -> Self {
        Self { job, printer, prefixed: hosts > 1, streams: HashMap::new(), forged: false }
    }

    /// Prints the new part of a piece of output that begins at `offset`.
    pub fn piece(&mut self, host: &HostName, stream: Stream, offset: u64, data: &[u8]) -> anyhow::Result<()> {
        let position = self.position(host, stream);
        let Some(new) = unseen(position.offset, offset, data) else { return Ok(()) };
        let missing = offset.saturating_sub(position.offset);
        let begin = offset.max(position.offset);
        position.offset = offset.saturating_add(data.len() as u64);
        position.printed.add(begin, new);
        position.missing += missing;
        if missing > 0 {
            self.print(host, stream, cut_line(missing).as_bytes(), false)?;
        }
        self.print(host, stream, new, false)
    }

    /// Prints the rest of a host's output, now that the whole of it is known. What was printed before is compared with it.
    pub fn end(&mut self, host: &HostName, outcome: Option<&Outcome>) -> anyhow::Result<()> {
        for (stream, captured) in streams(outcome) {
            let position = self.position(host, stream);
            let printed = position.offset;
            position.offset = printed.max(captured.written_bytes);
            position.missing += captured.missing_after(printed);
            let before = std::mem::take(&mut position.printed);
            self.print(host, stream, &captured.after(printed), true)?;
            self.note_cut(host, stream, captured);
            if outcome.is_some_and(|outcome| before.differs(outcome, captured)) {
                self.forged = true;
                events::forged_output(self.job, host, stream, self.printer);
            }
        }
        Ok(())
    }

    /// Prints the whole output of hosts that have printed the same.
    pub fn group(&self, hosts: &[&HostName], outcome: &Outcome) -> anyhow::Result<()> {
        let prefix = format!("{} | ", label(hosts));
        for (stream, captured) in streams(Some(outcome)) {
            let mut position = Position { filter: Filter::of_lines(), ..Position::default() };
            let lines = position.lines(&prefix, &captured.kept, true, self.printer.is_guarded(stream));
            self.show(stream, &lines)?;
            for host in hosts {
                self.note_cut(host, stream, captured);
            }
        }
        Ok(())
    }

    /// What a host has printed to a stream, and how much of it is missing, for one JSON document.
    pub fn collected(&self, host: &HostName, stream: Stream) -> (&[u8], u64) {
        let position = self.streams.get(&(host.clone(), stream));
        position.map_or((&[], 0), |position| (&position.collected, position.missing))
    }

    /// The exit code of these results. Forged output counts as an unverified result.
    pub fn exit_of(&self, results: &[&HostResult]) -> Exit {
        let forged = self.forged.then_some(State::Unverified);
        Exit::of(results.iter().map(|result| result.state).chain(forged))
    }

    /// Whether something that was printed is not what its host has signed.
    pub const fn is_forged(&self) -> bool {
        self.forged
    }

    /// Tells that a result does not keep all output.
    fn note_cut(&self, host: &HostName, stream: Stream, captured: &Captured) {
        if captured.cut_bytes > 0 {
            let [kept, written] = [captured.kept_bytes(), captured.written_bytes].map(|count| bytes(count as f64));
            let name = stream.as_str();
            let note = format!("{host}: the result keeps {kept} of the {written} of {name} (see --keep-output)");
            self.printer.note(&note);
        }
    }

    fn position(&mut self, host: &HostName, stream: Stream) -> &mut Position {
        let filter = || if self.prefixed { Filter::of_lines() } else { Filter::default() };
        let new = || Position { filter: filter(), ..Position::default() };
        self.streams.entry((host.clone(), stream)).or_insert_with(new)
    }

    fn print(&mut self, host: &HostName, stream: Stream, new: &[u8], last: bool) -> anyhow::Result<()> {
        let (job, format) = (self.job, self.printer.format());
        let (prefixed, guarded) = (self.prefixed, self.printer.is_guarded(stream));
        let position = self.position(host, stream);
        let text = match format {
            Format::Json => {
                position.collected.extend_from_slice(new);
                return Ok(());
            }
            Format::Jsonl => {
                let text = position.characters(new, last);
                return if text.is_empty() {
                    Ok(())
                } else {
                    self.printer.object(&json::of_output(job, host, stream, &text))
                };
            }
            Format::Table if prefixed => position.lines(&format!("{host} | "), new, last, guarded),
            Format::Table if guarded => {
                let end = |position: &mut Position| if last { position.filter.end() } else { String::new() };
                (position.filter.pass(new) + &end(position)).into_bytes()
            }
            Format::Table => new.to_vec(),
        };
        self.show(stream, &text)
    }

    fn show(&self, stream: Stream, text: &[u8]) -> anyhow::Result<()> {
        if text.is_empty() { Ok(()) } else { self.printer.output(stream, text) }
    }
}

impl Position {
    /// The whole lines that end with `new`, each behind the prefix; with `last` also an unfinished one.
    fn lines(&mut self, prefix: &str, new: &[u8], last: bool, guarded: bool) -> Vec<u8> {
        self.unfinished.extend_from_slice(new);
        let mut lines = Vec::new();
        for line in whole_lines(&mut self.unfinished, last).split_inclusive(|byte| *byte == b'\n') {
            lines.extend_from_slice(prefix.as_bytes());
            if guarded { lines.extend(self.filter.pass(line).bytes()) } else { lines.extend_from_slice(line) }
        }
        lines
    }

    /// The whole characters that end with `new`; with `last` also what is none.
    fn characters(&mut self, new: &[u8], last: bool) -> Vec<u8> {
        self.unfinished.extend_from_slice(new);
        let unfinished = match str::from_utf8(&self.unfinished) {
            // A character of up to four bytes that has begun.
            Err(error) if error.error_len().is_none() && !last => self.unfinished.split_off(error.valid_up_to()),
            _ => Vec::new(),
        };
        std::mem::replace(&mut self.unfinished, unfinished)
    }
}

/// The part of `data`, which begins at `offset`, that lies behind the first `printed` bytes.
fn unseen(printed: u64, offset: u64, data: &[u8]) -> Option<&[u8]> {
    let skip = usize::try_from(printed.saturating_sub(offset)).ok()?;
    data.get(skip..).filter(|new| !new.is_empty())
}

/// Takes the whole lines out of `text`; with `last`, or where it is too long, also an unfinished one.
fn whole_lines(text: &mut Vec<u8>, last: bool) -> Vec<u8> {
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let unfinished = text.split_off(end);
    let mut whole = std::mem::replace(text, unfinished);
    if text.len() > LINE || last && !text.is_empty() {
        whole.append(text);
        whole.push(b'\n');
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_printed_once() {
        assert_eq!(unseen(0, 0, b"abc"), Some(b"abc".as_slice()));
        assert_eq!(unseen(2, 0, b"abc"), Some(b"c".as_slice()));
        assert_eq!(unseen(3, 0, b"abc"), None);
        assert_eq!(unseen(9, 0, b"abc"), None);
        assert_eq!(unseen(0, 5, b"abc"), Some(b"abc".as_slice()), "a gap hides nothing");
    }

    #[test]
    fn characters_stay_whole() {
        let mut position = Position::default();
        assert_eq!(position.characters(b"a\xc3", false), b"a");
        assert_eq!(position.characters(b"\xa9\xff\xe6", false), b"\xc3\xa9\xff\xe6", "what is no text stays");
        assert_eq!(position.characters(b"\xe6", true), b"\xe6");
    }

    #[test]
    fn several_hosts_lines_stay_whole() {
        let mut text = b"one\ntw".to_vec();
        assert_eq!(whole_lines(&mut text, false), b"one\n");
        text.extend(b"o\nthree");
        assert_eq!(whole_lines(&mut text, true), b"two\nthree\n");
        assert!(text.is_empty());
        let mut endless = vec![b'x'; LINE + 1];
        assert_eq!(whole_lines(&mut endless, false).len(), LINE + 2, "memory is bounded");
    }
}
