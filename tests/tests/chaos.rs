//! Never lost, never twice: random faults on a real fleet, and a checker that must find planted bugs.
//!
//! A failing run prints its seed; `make chaos SEED=… MINUTES=…` runs it again.

use std::time::Duration;

use tests::{
    chaos::{Bug, Chaos},
    some_bugs,
};

const MINUTE: Duration = Duration::from_secs(60);

/// Runs fleets with this bug until the checker objects.
fn is_caught(bug: Bug) {
    let seed = fastrand::u64(..);
    let report = Chaos::hunt(bug, seed, 2 * MINUTE).run();
    println!("{bug:?}: {report}");
    assert!(!report.violations().is_empty(), "the checker missed {bug:?} (seed {seed}):\n{report}");
}

#[test]
#[ignore = "needs the worker built with its feature chaos (make test builds it)"]
fn a_minute_of_chaos_breaks_nothing() {
    let seed = fastrand::u64(..);
    println!("SEED={seed}");
    let report = Chaos::new(seed, MINUTE).run();
    println!("{report}");
    assert!(report.violations().is_empty(), "{report}");
    assert!(report.commands() > 500 && report.faults() > 100, "too few commands or faults:\n{report}");
}

#[test]
#[ignore = "needs the worker built with its feature chaos (make test builds it)"]
fn the_checker_catches_planted_bugs() {
    some_bugs(&Bug::ALL).into_iter().for_each(is_caught);
}
