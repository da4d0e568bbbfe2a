//! Output as it is produced: each byte once and in order, whenever one starts to listen.
//!
//! Events carry the offset of what they bring, so one that comes twice prints nothing, and at the end the
//! result gives whatever no event brought.

use std::collections::HashMap;

use protocol::{event::Stream, name::HostName, outcome::Outcome};

use crate::{dispatch::Job, printer::Printer};

/// A piece of a program's output.
pub struct Piece {
    /// Where it was printed.
    pub host: HostName,
    /// On which stream.
    pub stream: Stream,
    /// Behind how many other bytes of that stream.
    pub offset: u64,
    /// The bytes.
    pub data: Vec<u8>,
}

/// Prints one job's output.
pub struct Tail<'a> {
    printer: &'a Printer,
    /// Of several hosts, each line says whose it is.
    prefixed: bool,
    streams: HashMap<(HostName, Stream), Position>,
}

#[derive(Default)]
struct Position {
    /// Bytes told so far.
    offset: u64,
    /// The beginning of a line whose end has not come.
    unfinished: Vec<u8>,
}

impl<'a> Tail<'a> {
    /// Nothing has been printed yet.
    pub fn new(job: &Job, printer: &'a Printer) -> Self {
        Self { printer, prefixed: job.targets.len() > 1, streams: HashMap::new() }
    }

    /// Prints what of the piece is new.
    pub fn piece(&mut self, piece: &Piece) -> anyhow::Result<()> {
        let position = self.streams.entry((piece.host.clone(), piece.stream)).or_default();
        let Some(new) = unseen(position.offset, piece.offset, &piece.data) else { return Ok(()) };
        let missing = piece.offset.saturating_sub(position.offset);
        position.offset = piece.offset + piece.data.len() as u64;
        if missing > 0 {
            self.printer.note(&format!("{}: {missing} bytes of output are not there any more", piece.host));
        }
        self.print(&piece.host, piece.stream, new, false)
    }

    /// Prints the rest of a host's output, now that the whole of it is known.
    pub fn end(&mut self, host: &HostName, outcome: Option<&Outcome>) -> anyhow::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let captured = outcome.map(|outcome| match stream {
                Stream::Stdout => &outcome.stdout,
                Stream::Stderr => &outcome.stderr,
            });
            let told = self.streams.get(&(host.clone(), stream)).map_or(0, |position| position.offset);
            let rest = captured.map(|captured| captured.after(told)).unwrap_or_default();
            if let Some(captured) = captured {
                let position = self.streams.entry((host.clone(), stream)).or_default();
                position.offset = position.offset.max(captured.written_bytes);
            }
            self.print(host, stream, &rest, true)?;
        }
        Ok(())
    }

    fn print(&mut self, host: &HostName, stream: Stream, bytes: &[u8], last: bool) -> anyhow::Result<()> {
        let lines = if self.prefixed {
            let position = self.streams.entry((host.clone(), stream)).or_default();
            position.unfinished.extend_from_slice(bytes);
            whole_lines(&mut position.unfinished, &format!("{host} | "), last)
        } else {
            bytes.to_vec()
        };
        if lines.is_empty() {
            return Ok(());
        }
        match stream {
            Stream::Stdout => self.printer.raw(&lines),
            Stream::Stderr => {
                self.printer.raw_stderr(&lines);
                Ok(())
            }
        }
    }
}

/// What of `data`, which begins at `offset`, lies behind the first `told` bytes.
fn unseen(told: u64, offset: u64, data: &[u8]) -> Option<&[u8]> {
    let skip = usize::try_from(told.saturating_sub(offset)).ok()?;
    data.get(skip..).filter(|new| !new.is_empty())
}

/// Takes the whole lines out of `text`, each with the prefix; with `last` also an unfinished one.
fn whole_lines(text: &mut Vec<u8>, prefix: &str, last: bool) -> Vec<u8> {
    if last && text.last().is_some_and(|byte| *byte != b'\n') {
        text.push(b'\n');
    }
    let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let whole: Vec<u8> = text.drain(..end).collect();
    whole.split_inclusive(|byte| *byte == b'\n').flat_map(|line| [prefix.as_bytes(), line].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_told_once() {
        assert_eq!(unseen(0, 0, b"abc"), Some(b"abc".as_slice()));
        assert_eq!(unseen(2, 0, b"abc"), Some(b"c".as_slice()));
        assert_eq!(unseen(3, 0, b"abc"), None);
        assert_eq!(unseen(9, 0, b"abc"), None);
        assert_eq!(unseen(0, 5, b"abc"), Some(b"abc".as_slice()), "a gap hides nothing");
    }

    #[test]
    fn several_hosts_lines_stay_whole() {
        let mut text = b"one\ntw".to_vec();
        assert_eq!(whole_lines(&mut text, "a | ", false), b"a | one\n");
        text.extend(b"o\nthree");
        assert_eq!(whole_lines(&mut text, "a | ", true), b"a | two\na | three\n");
        assert!(text.is_empty());
    }
}
