//! Threads for what may hang in the kernel.

use std::thread;

use super::MetricsError;

/// Runs `work` in a thread that nobody waits for. Not on Tokio's blocking pool: a call that
/// never returns would keep the runtime from shutting down.
pub(super) fn run(work: impl FnOnce() + Send + 'static) -> Result<(), MetricsError> {
    thread::Builder::new().name("metrics".to_owned()).spawn(work).map(drop).map_err(MetricsError::Thread)
}
