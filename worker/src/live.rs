//! What an action reports while it runs: output and progress, on their way to the job's keys.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use protocol::{
    event::{Piece, Stream},
    limits,
};
use tokio::sync::mpsc;

use crate::log::{self, excerpt};

/// Output is sent on when this many bytes are joined …
const CHUNK: usize = 8 * 1024;

/// … or when this time has passed since the first of them.
pub(crate) const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// Something that an action reports.
#[derive(Debug)]
pub(crate) enum Report {
    /// The program wrote something.
    Output(Unsent),
    /// How far the action has come, in words.
    Progress(String),
}

/// A piece of output that Redis has not taken yet. It counts among its command's until it is dropped.
#[derive(Debug)]
pub(crate) struct Unsent {
    pub(crate) piece: Piece,
    bytes: Arc<AtomicUsize>,
}

impl Unsent {
    /// Appends the piece behind this one. Returns it where it does not follow on this one.
    fn append(&mut self, mut next: Self) -> Option<Self> {
        let piece = &mut self.piece;
        let end = piece.offset + piece.data.len() as u64;
        if (piece.stream, end) != (next.piece.stream, next.piece.offset) {
            return Some(next);
        }
        // The bytes still count: now as part of this piece.
        piece.data.append(&mut next.piece.data);
        None
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.piece.data.len(), Ordering::Relaxed);
    }
}

/// Where an action puts its output and reports its progress while it runs.
///
/// A program is never held up because Redis is slow or away. What it writes while [`limits::LIVE_LAG_BYTES`] wait
/// is left out; the offsets of what follows show the gap.
#[derive(Debug)]
pub struct Live {
    reports: Option<mpsc::UnboundedSender<Report>>,
    /// Whether standard output is sent, too.
    stdout: bool,
    /// Bytes of output that wait.
    bytes: Arc<AtomicUsize>,
}

impl Live {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Report>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { reports: Some(sender), stdout: true, bytes: Arc::default() }, receiver)
    }

    /// Discards output and progress.
    pub fn none() -> Self {
        Self { reports: None, stdout: true, bytes: Arc::default() }
    }

    /// Sends no more standard output: it is no text for people.
    #[must_use]
    pub fn without_stdout(self) -> Self {
        Self { stdout: false, ..self }
    }

    /// Sends the bytes that were written to `stream` after `offset` other bytes.
    pub fn output(&self, stream: Stream, offset: u64, data: &[u8]) {
        let waiting = self.bytes.load(Ordering::Relaxed);
        let muted = self.reports.is_none() || (stream == Stream::Stdout && !self.stdout);
        if muted || data.is_empty() || waiting + data.len() > limits::LIVE_LAG_BYTES {
            return;
        }
        self.bytes.fetch_add(data.len(), Ordering::Relaxed);
        let piece = Piece { stream, offset, data: data.to_vec() };
        self.send(Report::Output(Unsent { piece, bytes: Arc::clone(&self.bytes) }));
    }

    /// Reports how far the action has come. For people: a few words, and not too often.
    pub fn progress(&self, text: impl Into<String>) {
        self.send(Report::Progress(excerpt(&text.into(), log::SENTENCE)));
    }

    fn send(&self, report: Report) {
        // The receiver is gone once the command has ended.
        let _ = self.reports.as_ref().map(|sender| sender.send(report));
    }
}

/// Joins small pieces of output into fewer large ones; each stream stays in order.
#[derive(Default)]
pub(crate) struct Joiner(Vec<Report>);

impl Joiner {
    /// Adds a report. Returns whether one stream has enough bytes to send.
    pub(crate) fn add(&mut self, report: Report) -> bool {
        let mut next = match report {
            Report::Output(next) => next,
            Report::Progress(_) => {
                // Only the newest progress is kept.
                self.0.retain(|held| !matches!(held, Report::Progress(_)));
                self.0.push(report);
                return false;
            }
        };
        let last = self.0.iter_mut().rev().find_map(|held| match held {
            Report::Output(held) if held.piece.stream == next.piece.stream => Some(held),
            _ => None,
        });
        if let Some(held) = last {
            match held.append(next) {
                None => return held.piece.data.len() >= CHUNK,
                Some(rest) => next = rest,
            }
        }
        let length = next.piece.data.len();
        self.0.push(Report::Output(next));
        length >= CHUNK
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all joined reports.
    pub(crate) fn take(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports as they can be compared.
    fn shown(reports: Vec<Report>) -> Vec<(Option<Stream>, u64, String)> {
        let show = |report| match report {
            Report::Output(Unsent { ref piece, .. }) => {
                (Some(piece.stream), piece.offset, String::from_utf8(piece.data.clone()).unwrap())
            }
            Report::Progress(text) => (None, 0, text),
        };
        reports.into_iter().map(show).collect()
    }

    #[test]
    fn output_is_joined_in_order() {
        let (live, mut reports) = Live::channel();
        live.output(Stream::Stdout, 0, b"ab");
        live.output(Stream::Stderr, 0, b"x");
        live.output(Stream::Stdout, 2, b"cd");
        live.output(Stream::Stdout, 9, b"behind a gap");
        live.progress("half way");
        live.progress("done");
        let mut joiner = Joiner::default();
        while let Ok(report) = reports.try_recv() {
            assert!(!joiner.add(report));
        }
        let expected = [
            (Some(Stream::Stdout), 0, "abcd".to_owned()),
            (Some(Stream::Stderr), 0, "x".to_owned()),
            (Some(Stream::Stdout), 9, "behind a gap".to_owned()),
            (None, 0, "done".to_owned()),
        ];
        assert_eq!(shown(joiner.take()), expected, "of progress the newest is enough");
        assert!(joiner.is_empty());
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_sent_makes_room() {
        let (live, mut reports) = Live::channel();
        let piece = vec![b'x'; 64 * 1024];
        let most = limits::LIVE_LAG_BYTES / piece.len();
        let offset = |number: usize| (number * piece.len()) as u64;
        (0..most + 10).for_each(|number| live.output(Stream::Stdout, offset(number), &piece));
        let mut joiner = Joiner::default();
        while let Ok(report) = reports.try_recv() {
            joiner.add(report);
        }
        live.output(Stream::Stdout, offset(most + 10), &piece);
        assert!(reports.try_recv().is_err(), "joined bytes wait, too");
        drop(joiner.take());
        live.output(Stream::Stdout, offset(most + 11), &piece);
        assert_eq!(shown(vec![reports.try_recv().unwrap()])[0].1, offset(most + 11));
        assert_eq!(live.bytes.load(Ordering::Relaxed), 0);
    }
}
