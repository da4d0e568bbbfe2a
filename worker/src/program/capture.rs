//! A program's output: sent on as it comes, and kept within bounds for the result.

use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt, sync::Arc};

use protocol::{
    event::Stream,
    outcome::{Captured, cut_line},
};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::live::Live;

/// The reading end of an output stream.
pub(super) struct Pipe<'a, R> {
    source: Option<R>,
    stream: Stream,
    live: &'a Live,
    buffer: Box<[u8]>,
    capture: Capture,
}

impl<'a, R: AsyncRead + Unpin> Pipe<'a, R> {
    /// The result keeps `keep` bytes of it.
    pub(super) fn new(source: Option<R>, stream: Stream, live: &'a Live, keep: usize) -> Self {
        let capture = Capture { half: keep / 2, head: Vec::new(), tail: VecDeque::new(), written: 0 };
        Self { source, stream, live, buffer: vec![0; 8192].into(), capture }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.source.is_some()
    }

    /// Reads the available output. Cancel-safe: all bytes that were read are captured.
    pub(super) async fn fill(&mut self) {
        let Some(source) = &mut self.source else { return };
        match source.read(&mut self.buffer).await {
            Ok(0) | Err(_) => self.source = None,
            Ok(count) => {
                self.live.output(self.stream, self.capture.written, &self.buffer[..count]);
                self.capture.push(&self.buffer[..count]);
            }
        }
    }

    pub(super) fn captured(self) -> Captured {
        self.capture.finish()
    }
}

/// A file to which a program appends its output, and perhaps others do later.
pub(super) struct Appended {
    file: Arc<File>,
    /// How long it was before.
    from: u64,
}

impl Appended {
    pub(super) fn new(file: Arc<File>) -> io::Result<Self> {
        let from = file.metadata()?.len();
        Ok(Self { file, from })
    }

    /// What was appended until now. Reads no more of it than is kept. Blocks as long as the disk does.
    pub(super) fn captured(&self, keep: usize) -> io::Result<Captured> {
        let written = self.file.metadata()?.len().saturating_sub(self.from);
        let (half, end) = (keep / 2, self.from + written);
        let read = |from: u64, until: u64| {
            let mut bytes = vec![0; usize::try_from(until.saturating_sub(from)).map_or(half, |count| count.min(half))];
            self.file.read_exact_at(&mut bytes, from).map(|()| bytes)
        };
        let head = read(self.from, end)?;
        let tail = read(end.saturating_sub(half as u64).max(self.from + head.len() as u64), end)?;
        Ok(Capture { half, head, tail: tail.into(), written }.finish())
    }
}

/// Keeps the head and the tail of a stream.
struct Capture {
    /// Bytes of each that are kept at most.
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    written: u64,
}

impl Capture {
    fn push(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        let (head, rest) = bytes.split_at(room);
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..excess);
    }

    fn finish(self) -> Captured {
        let cut_bytes = self.written - (self.head.len() + self.tail.len()) as u64;
        let mut kept = self.head;
        if cut_bytes > 0 {
            kept.extend_from_slice(cut_line(cut_bytes).as_bytes());
        }
        kept.extend(self.tail);
        Captured { kept, written_bytes: self.written, cut_bytes }
    }
}
