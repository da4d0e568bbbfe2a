//! Threads for calls that may hang in the kernel.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::oneshot;

/// Runs `work` in a detached thread. Tokio's blocking pool is no place for it: a call that never returns would keep
/// the runtime from shutting down.
///
/// # Errors
/// No thread could be started.
pub(crate) fn run(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("detached".to_owned()).spawn(work).map(drop)
}

/// Like [`run`], and waits for the value of `work`. If the future is dropped, the thread drops the value.
///
/// # Errors
/// No thread could be started, or it panicked.
pub(crate) async fn call<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    run(move || drop(sender.send(work())))?;
    result.await.map_err(|_| io::Error::other("internal error: a thread panicked; the worker's log says where"))
}

/// Locks a value that is shared with such a thread. The value that a panicking thread left is used as it is: no
/// change of a shared value takes two steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
