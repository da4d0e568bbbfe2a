//! `make nights`: a run of the chaos harness of schedules, through two years.
//!
//! Environment: `SEED` (default: a fresh one), `YEARS` (default 2), `SHORT` (only the days around changes of clocks), `BUG`
//! (none).

use std::{env, process::ExitCode};

use tests::nights::Nights;

fn main() -> ExitCode {
    let given = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
    let report = Nights {
        seed: given("SEED").map_or_else(|| fastrand::u64(..), |text| text.parse().expect("SEED is a number")),
        years: given("YEARS").map_or(2, |text| text.parse().expect("YEARS is a number")),
        short: given("SHORT").is_some(),
        bug: given("BUG").map(|name| name.parse().unwrap_or_else(|error| panic!("{error}"))),
    }
    .run();
    print!("{report}");
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
