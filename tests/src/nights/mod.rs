//! The chaos harness of schedules: three real `ctl serve` are killed and frozen while the harness puts the clock of the whole
//! fleet forward, from one time of a schedule to the next, through two years. Then each time must have come to what follows
//! from the jumps of the clock, and on the hosts there must be the evidence of just these runs, once.
//!
//! What is due is computed here, by the calendar of the time zones alone, and not by the code under test.

mod calendar;
mod fleet;
mod judge;
mod run;

pub use run::{Bug, Nights, Report};
