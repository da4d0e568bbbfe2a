//! Live output: what a program writes, on its way to the job's event stream while it still runs.

use std::time::Duration;

use protocol::{event::Stream, limits};
use tokio::sync::mpsc;

/// Output is sent on when so much has come together …
const CHUNK: usize = 8 * 1024;

/// … or when this time has passed since the first of it.
pub(crate) const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// A piece of output and where in its stream it begins.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) stream: Stream,
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
}

/// Where an action puts its output as it is produced. Bounded by [`limits::LIVE_BYTES`] per stream,
/// so the channel needs no bound of its own.
#[derive(Debug)]
pub struct Live(Option<mpsc::UnboundedSender<Piece>>);

impl Live {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Piece>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Some(sender)), receiver)
    }

    /// Nobody listens.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Hands on what was written to `stream` after `offset` other bytes.
    pub fn write(&self, stream: Stream, offset: u64, data: &[u8]) {
        let room = (limits::LIVE_BYTES as u64).saturating_sub(offset);
        let data = &data[..data.len().min(room.try_into().unwrap_or(usize::MAX))];
        if let (Some(sender), false) = (&self.0, data.is_empty()) {
            // Nobody listens any more once the command has ended.
            let _ = sender.send(Piece { stream, offset, data: data.to_vec() });
        }
    }
}

/// Joins small pieces into fewer large ones, each stream in order.
#[derive(Default)]
pub(crate) struct Joiner(Vec<Piece>);

impl Joiner {
    /// Adds a piece; says whether enough has come together.
    pub(crate) fn add(&mut self, piece: Piece) -> bool {
        match self.0.iter_mut().find(|held| held.stream == piece.stream) {
            Some(held) => held.data.extend(piece.data),
            None => self.0.push(piece),
        }
        self.0.iter().any(|held| held.data.len() >= CHUNK)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that has come together.
    pub(crate) fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_output_is_bounded_and_joined_in_order() {
        let (live, mut pieces) = Live::channel();
        live.write(Stream::Stdout, 0, b"ab");
        live.write(Stream::Stderr, 0, b"x");
        live.write(Stream::Stdout, 2, b"cd");
        live.write(Stream::Stdout, limits::LIVE_BYTES as u64 - 1, b"ef");
        live.write(Stream::Stdout, limits::LIVE_BYTES as u64, b"g");
        let mut joiner = Joiner::default();
        for _ in 0..3 {
            assert!(!joiner.add(pieces.try_recv().unwrap()));
        }
        let together: Vec<_> = joiner.take().into_iter().map(|piece| (piece.stream, piece.data)).collect();
        assert_eq!(together, [(Stream::Stdout, b"abcd".to_vec()), (Stream::Stderr, b"x".to_vec())]);
        assert_eq!(pieces.try_recv().unwrap().data, b"e");
        assert!(pieces.try_recv().is_err());
    }
}
