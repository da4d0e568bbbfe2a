//! Which of the planted bugs are hunted.

use std::env;

/// So many are hunted in a run of the tests: each hunt takes half a minute.
const SOME: usize = 2;

/// Some bugs, chosen by chance; all of them where the variable `ALL_BUGS` is set.
pub fn some_bugs<T: Copy>(all: &[T]) -> Vec<T> {
    let count = if env::var_os("ALL_BUGS").is_some() { all.len() } else { SOME };
    fastrand::choose_multiple(all.iter().copied(), count)
}
