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
