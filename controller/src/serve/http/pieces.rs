//! Replies that are sent as they are made.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// Pieces that wait for who has asked.
const PIECES: usize = 2;

/// How long a whole reply may take. Whoever takes a little now and then must not keep a connection with Redis for ever.
const LONGEST: Duration = Duration::from_secs(120);

/// The pieces of a reply. Where it was not [ended](Sink::end), the connection is broken off, so that half a page is not taken
/// for a whole one.
#[derive(Debug)]
pub struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    is_whole: Arc<AtomicBool>,
}

/// Where the pieces go.
#[derive(Debug)]
pub struct Sink {
    sender: mpsc::Sender<Bytes>,
    is_whole: Arc<AtomicBool>,
    until: Instant,
}

/// A reply that begins now.
pub fn reply() -> (Sink, Pieces) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let is_whole = Arc::new(AtomicBool::new(false));
    let sink = Sink { sender, is_whole: Arc::clone(&is_whole), until: Instant::now() + LONGEST };
    (sink, Pieces { pieces, is_whole })
}

impl Sink {
    /// Sends what there is of a text, which is empty then. `false`: nobody wants it any more, or it takes too long.
    pub async fn send(&self, text: &mut String) -> bool {
        // The text goes on with the room that it had.
        let room = text.capacity();
        let piece = std::mem::replace(text, String::with_capacity(room));
        timeout_at(self.until, self.sender.send(piece.into())).await.is_ok_and(|sent| sent.is_ok())
    }

    /// The reply is whole.
    pub fn end(self) {
        self.is_whole.store(true, Ordering::Release);
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.pieces.poll_recv(context).map(|piece| match piece {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None if self.is_whole.load(Ordering::Acquire) => None,
            None => Some(Err(io::Error::other("the reply was broken off"))),
        })
    }
}
