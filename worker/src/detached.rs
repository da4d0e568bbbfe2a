//! Threads for what may hang in the kernel.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::oneshot;

/// Runs `work` in a thread that nobody waits for. Not on Tokio's blocking pool: a call that
/// never returns would keep the runtime from shutting down.
///
/// # Errors
/// No thread could be started.
pub(crate) fn run(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("detached".to_owned()).spawn(work).map(drop)
}

/// The same, and waits for what it returns. Where nobody waits any more, that is dropped in the thread.
///
/// # Errors
/// No thread could be started, or it panicked.
pub(crate) async fn call<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    run(move || drop(sender.send(work())))?;
    result.await.map_err(|_| io::Error::other("internal error: a thread panicked; the worker's log says where"))
}

/// Locks what is shared with such a thread. What a panicking one left behind is used as it is: nothing
/// that is shared spans two steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
