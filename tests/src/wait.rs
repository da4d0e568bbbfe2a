//! Waiting for what must come, with a deadline and without a guess how long it takes.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a test waits for what must come. It is far above what a busy machine needs: it only decides how soon a
/// broken test fails, never whether a sound one passes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Calls `look` until it finds something; `None` when `deadline` has passed.
pub fn within<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// Calls `look` until it finds something.
///
/// # Panics
/// After [`PATIENCE`], naming `what` did not come.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, look) {
        Some(found) => found,
        None => panic!("waited {} s in vain for: {what}", PATIENCE.as_secs()),
    }
}
