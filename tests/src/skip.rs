//! Tests that this machine cannot run.

use std::io::{Write, stderr};

/// Reports that a test, or a part of it, is skipped. The harness shows no output of tests that pass, so this goes past it.
pub fn skipped(test: &str, why: &str) {
    // Nobody reads it only where nobody reads anything.
    let _ = writeln!(stderr(), "skipped: {test} ({why})");
}
