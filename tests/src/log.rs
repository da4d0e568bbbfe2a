//! The output of a process, collected while it runs.

use std::{
    io::Read,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use crate::PATIENCE;

/// The output of a process so far. A thread reads it, so that the process never blocks on a full pipe.
#[derive(Clone, Default)]
pub struct Log(Arc<Inner>);

#[derive(Default)]
struct Inner {
    text: Mutex<Text>,
    grown: Condvar,
}

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    /// How many pipes are still open.
    open: usize,
}

impl Log {
    /// Collects the bytes of `pipe` until it is closed.
    pub(crate) fn follow(&self, mut pipe: impl Read + Send + 'static) {
        self.lock().open += 1;
        let log = self.clone();
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                log.lock().bytes.extend_from_slice(&buffer[..count]);
                log.0.grown.notify_all();
            }
            log.lock().open -= 1;
            log.0.grown.notify_all();
        });
    }

    /// The output so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Waits until `pattern` was written and returns the line with it.
    ///
    /// # Panics
    /// When `pattern` does not come. The panic shows the output.
    #[track_caller]
    pub fn wait(&self, pattern: &str) -> String {
        let find = |text: &str| text.lines().find(|line| line.contains(pattern)).map(str::to_owned);
        let (line, text) = self.until(|text| find(text));
        line.unwrap_or_else(|| panic!("'{pattern}' was not written; this was:\n{text}"))
    }

    /// Waits until the process, and all that inherited its pipes, have closed them; returns the whole output.
    pub fn wait_closed(&self) -> String {
        self.until(|_| None::<()>).1
    }

    /// Waits until `look` finds something, or the output is closed, or the deadline has passed.
    fn until<T>(&self, look: impl Fn(&str) -> Option<T>) -> (Option<T>, String) {
        let end = Instant::now() + PATIENCE;
        let mut text = self.lock();
        loop {
            let written = String::from_utf8_lossy(&text.bytes).into_owned();
            let found = look(&written);
            let left = end.saturating_duration_since(Instant::now());
            if found.is_some() || text.open == 0 || left.is_zero() {
                return (found, written);
            }
            (text, _) = self.0.grown.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Text> {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
