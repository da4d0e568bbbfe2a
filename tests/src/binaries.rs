//! The paths of the programs under test.

use std::{env, path::PathBuf};

/// The path of `ctl` or `worker`: in `REDFLEET_BIN_DIR` where that is set, else in cargo's
/// `target/<profile>`.
///
/// # Panics
/// Where it has not been built.
pub fn binary(name: &str) -> PathBuf {
    let given = env::var_os("REDFLEET_BIN_DIR").map(|directory| PathBuf::from(directory).join(name));
    let path = given.or_else(|| beside(name));
    let path = path.filter(|path| path.is_file());
    path.unwrap_or_else(|| panic!("{name} is missing: run `cargo build --workspace` first"))
}

/// The worker with kill points and planted bugs, which is built beside the ordinary one.
///
/// # Panics
/// Where it has not been built.
pub fn chaos_worker() -> PathBuf {
    let path = beside("chaos-worker");
    path.unwrap_or_else(|| panic!("the worker with its feature `chaos` is missing: `make chaos` builds it"))
}

/// A file in a directory above the running program: `target/debug/deps/up-0123456789abcdef` or
/// `target/debug/chaos`.
pub fn beside(name: &str) -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    program.ancestors().skip(1).take(3).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// The path of `ctl` or `worker` in its release build.
///
/// # Panics
/// Where it has not been built.
pub fn released(name: &str) -> PathBuf {
    beside_the_build(&["release", name])
}

/// The path of a `ctl` or `worker` that neither signs nor verifies, as fast as a release.
///
/// # Panics
/// Where it has not been built.
pub fn unsigned(name: &str) -> PathBuf {
    beside_the_build(&["unsigned", "release", name])
}

/// The path of `ctl` or `worker`, optimised.
///
/// # Panics
/// Where it has not been built.
pub fn optimised(name: &str) -> PathBuf {
    beside_the_build(&["release", name])
}

/// The path of `ctl` or `worker`, optimised, for any x86-64 Linux.
///
/// # Panics
/// Where it has not been built.
pub fn optimised_static(name: &str) -> PathBuf {
    beside_the_build(&["x86_64-unknown-linux-musl", "release", name])
}

fn beside_the_build(parts: &[&str]) -> PathBuf {
    // target/debug/deps/budget-0123456789abcdef
    let test = env::current_exe().expect("a test knows its own path");
    let target = test.ancestors().nth(3).expect("it is in cargo's target directory");
    let path = parts.iter().fold(target.to_owned(), |path, part| path.join(part));
    assert!(path.is_file(), "{} is missing: `make test` builds it", path.display());
    path
}
