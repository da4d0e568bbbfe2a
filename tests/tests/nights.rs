//! Each time of a schedule is accounted for once, and runs once: three `ctl serve` are killed and frozen while years pass, and
//! a judge must find planted bugs.
//!
//! A failing run prints the command that repeats it.

use tests::{
    nights::{Bug, Nights},
    some_bugs,
};

#[test]
#[ignore = "needs programs built with their feature chaos (make test builds them)"]
fn a_year_of_changing_clocks_is_accounted_for_once() {
    let report = Nights { seed: fastrand::u64(..), years: 1, short: true, bug: None }.run();
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
    let count = |state: &str| report.states.get(state).copied().unwrap_or(0);
    assert!(count("ran") > 40 && count("late") > 2 && count("missed: grace") > 500, "{report}");
    assert!(report.kills > 10 && report.freezes > 3, "{report}");
}

#[test]
#[ignore = "needs programs built with their feature chaos (make test builds them)"]
fn the_judge_catches_planted_bugs() {
    for bug in some_bugs(&Bug::ALL) {
        let report = Nights { seed: fastrand::u64(..), years: 1, short: true, bug: Some(bug) }.run();
        println!("{report}");
        assert!(!report.violations.is_empty(), "the judge missed {bug:?}: {report}");
    }
}
