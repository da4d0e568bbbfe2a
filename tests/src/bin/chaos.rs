//! `make chaos`: a run of the chaos harness, of any length and seed.
//!
//! Environment: `SEED` (default: a fresh one), `MINUTES` (default 5), `PROFILES` (comma-separated,
//! default all), `BUG` (none).

use std::{env, process::ExitCode, time::Duration};

use tests::chaos::{Chaos, Profile};

fn main() -> ExitCode {
    let given = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
    let seed = given("SEED").map_or_else(|| fastrand::u64(..), |text| text.parse().expect("SEED is a number"));
    let minutes: f64 = given("MINUTES").map_or(5.0, |text| text.parse().expect("MINUTES is a number"));
    let profiles = given("PROFILES").map_or_else(
        || Profile::ALL.into(),
        |text| text.split(',').map(|name| name.parse().unwrap_or_else(|error| panic!("{error}"))).collect(),
    );
    let time = Duration::from_secs_f64(minutes * 60.0);
    println!("SEED={seed} MINUTES={minutes}");
    let chaos = match given("BUG") {
        Some(name) => Chaos::hunt(name.parse().unwrap_or_else(|error| panic!("{error}")), seed, time),
        None => Chaos { profiles, ..Chaos::new(seed, time) },
    };
    let report = chaos.run();
    print!("{report}");
    if report.violations().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
