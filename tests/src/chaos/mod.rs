//! The chaos harness: real workers, a real Redis and a TCP proxy between them, under random but seeded
//! load and faults; and a checker that then judges, command by command, by what really happened.
//!
//! A run is a series of rounds. Each has a fleet of its own, is disturbed for a while, healed, given
//! time to settle, and judged.

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
mod told;
mod watcher;

pub use profile::{Bug, Profile};
pub use report::Report;
pub use run::Chaos;

/// Locks, whoever may have panicked while he held it: the run fails by that panic anyway.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The wall clock in milliseconds, which all parts of a history share.
fn now() -> protocol::time::Millis {
    protocol::clock::FleetClock::local().now()
}
