//! Where the programs under test are.

use std::{env, path::PathBuf};

/// The path of `ctl` or `worker`: in `REDFLEET_BIN_DIR` where that is set, else beside the running
/// test, in `target/<profile>`.
///
/// # Panics
/// Where it has not been built.
pub fn binary(name: &str) -> PathBuf {
    let directory = env::var_os("REDFLEET_BIN_DIR").map(PathBuf::from).or_else(|| {
        // target/debug/deps/up-0123456789abcdef
        let test = env::current_exe().ok()?;
        Some(test.parent()?.parent()?.to_owned())
    });
    let path = directory.expect("a test knows its own path").join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// The path of `ctl` or `worker` as it is released.
///
/// # Panics
/// Where it has not been built.
pub fn released(name: &str) -> PathBuf {
    beside_the_build(&["release", name])
}

/// The path of `ctl` or `worker` as it is released for any x86-64 Linux.
///
/// # Panics
/// Where it has not been built.
pub fn released_static(name: &str) -> PathBuf {
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
