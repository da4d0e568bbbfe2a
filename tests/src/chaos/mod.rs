//! The chaos harness: real workers, a real Redis and TCP proxies between them, under random but seeded load
//! and faults. A checker then judges every command by what really happened.
//!
//! A run is a series of rounds. Each round has a fleet of its own. The fleet is disturbed for a while, healed,
//! given time to settle, and judged.

mod checker;
mod command;
mod disk;
mod evidence;
mod faults;
mod fleet;
mod history;
mod leftovers;
mod load;
mod operator;
mod printed;
mod profile;
mod proxy;
mod report;
mod round;
mod run;
mod session;
mod watcher;

pub use profile::{Bug, Profile};
pub(crate) use proxy::step_clock;
pub use report::Report;
pub use run::Chaos;

/// Locks a mutex even if it is poisoned: the panic that poisoned it fails the run anyway.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The wall clock in milliseconds, which all parts of a history share.
fn now() -> protocol::time::Millis {
    protocol::clock::FleetClock::local().now()
}
