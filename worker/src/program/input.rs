//! The standard input of a program, fed while its output is read.

use tokio::{io::AsyncWriteExt, process::ChildStdin};

/// What a program has not read of its input. It is closed behind the last byte, or when the program closes it.
pub(super) struct Input {
    pipe: Option<ChildStdin>,
    bytes: Vec<u8>,
    written: usize,
}

impl Input {
    pub(super) fn new(pipe: Option<ChildStdin>, bytes: Vec<u8>) -> Self {
        let pipe = pipe.filter(|_| !bytes.is_empty());
        Self { pipe, bytes, written: 0 }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Writes some bytes. Cancel-safe.
    pub(super) async fn feed(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.write(&self.bytes[self.written..]).await {
            Ok(count) if count > 0 && self.written + count < self.bytes.len() => self.written += count,
            // All is written, or the program reads no more.
            _ => self.pipe = None,
        }
    }
}
