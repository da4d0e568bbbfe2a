//! Named points at which the chaos harness may end or halt this process, and bugs that it may plant to see whether its
//! judge finds them. Compiled in with the feature `chaos` only; nothing of it is in a release.

/// What a scheduler has just done.
#[derive(Clone, Copy, Debug)]
pub enum Point {
    /// A run is claimed, and not sent.
    Claimed,
    /// A run is found to be in time, and its job is not recorded.
    Judged,
    /// Its job is recorded, and not sent.
    Recorded,
    /// A run is sent, which is not accounted for.
    Sent,
    /// A run is withdrawn, which is not accounted for.
    Withdrawn,
}

/// A bug that can be planted.
#[derive(Clone, Copy, Debug)]
pub enum Bug {
    /// Leave alone what a dead scheduler has claimed.
    NoTakeOver,
    /// Give up a run without withdrawing it, so that a scheduler that was frozen may still send it.
    NoFence,
    /// Begin a run however late it is.
    NoGrace,
    /// Keep no record of instants at which nothing runs.
    ForgetMissed,
}

/// Dies here, as by `kill -9`, if `REDFLEET_CHAOS_KILL=POINT:N` says so and this is the Nth time; or halts, as by
/// `kill -STOP`, if `REDFLEET_CHAOS_STOP` does.
#[cfg(feature = "chaos")]
pub fn point(point: Point) {
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, raise};
    static REACHED: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];
    let reached = REACHED[point as usize].fetch_add(1, Ordering::Relaxed) + 1;
    let wanted = format!("{point:?}:{reached}").to_lowercase();
    let is_wanted = |variable: &str| std::env::var(variable).is_ok_and(|text| text == wanted);
    if is_wanted("REDFLEET_CHAOS_KILL") {
        let _ = raise(Signal::SIGKILL);
    }
    if is_wanted("REDFLEET_CHAOS_STOP") {
        let _ = raise(Signal::SIGSTOP);
    }
}

/// Nothing happens here.
#[cfg(not(feature = "chaos"))]
pub const fn point(_: Point) {}

/// Whether `REDFLEET_CHAOS_BUG` plants this bug.
#[cfg(feature = "chaos")]
pub fn planted(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var("REDFLEET_CHAOS_BUG").unwrap_or_default()) == format!("{bug:?}")
}

/// No bug is planted.
#[cfg(not(feature = "chaos"))]
pub const fn planted(_: Bug) -> bool {
    false
}
