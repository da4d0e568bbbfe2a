//! The fleet's clock: Redis' own time, carried forward by the local monotonic clock.
//!
//! Deadlines are set on one machine and judged on another. Comparing wall clocks would make every
//! badly set clock a wrong verdict; instead each process asks Redis (`TIME`) and counts on from the
//! reply. A step of the local wall clock changes nothing.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::time::Millis;

/// A reading of Redis' clock and when it was taken.
#[derive(Clone, Copy, Debug)]
pub struct FleetClock {
    moment: Millis,
    at: Instant,
}

impl FleetClock {
    /// From the reply to `TIME`: seconds and microseconds.
    pub fn from_redis((seconds, micros): (u64, u64)) -> Self {
        Self { moment: seconds.saturating_mul(1000).saturating_add(micros / 1000), at: Instant::now() }
    }

    /// From the local clock, until Redis' clock has been read.
    pub fn local() -> Self {
        Self { moment: wall_millis(), at: Instant::now() }
    }

    /// The moment now.
    pub fn now(&self) -> Millis {
        self.moment.saturating_add(millis(self.at.elapsed())).saturating_add(injected())
    }

    /// The moment that a deadline is judged by. Whoever owns Redis can hold its clock back, so that what should have
    /// expired still starts: then this host's own clock counts, less a margin for one that is badly set.
    pub fn judged(&self, margin: Duration) -> Millis {
        self.now().max(local_millis().saturating_sub(millis(margin)))
    }

    /// The moment that has come at least. Whoever owns Redis can put its clock forward, so that what is due later would
    /// start now: then this host's own clock counts, with a margin for one that is badly set.
    pub fn reached(&self, margin: Duration) -> Millis {
        self.now().min(local_millis().saturating_add(millis(margin)))
    }

    /// How far the local wall clock is ahead of the fleet's, in milliseconds; negative when behind.
    pub fn local_ahead_ms(&self) -> i64 {
        let local = i128::from(local_millis()) - i128::from(self.now());
        i64::try_from(local).unwrap_or(i64::MAX)
    }
}

/// The local wall clock in milliseconds since the Unix epoch.
fn local_millis() -> Millis {
    wall_millis().saturating_add(injected())
}

fn wall_millis() -> Millis {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// How far the chaos harness has put all clocks of the fleet forward, in milliseconds: the content of the file that
/// `REDFLEET_CHAOS_CLOCK` names, read at each reading of a clock. Only where the feature `chaos` is compiled in.
#[cfg(feature = "chaos")]
pub fn injected() -> Millis {
    static FILE: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("REDFLEET_CHAOS_CLOCK")).as_ref();
    let ahead = file.and_then(|file| std::fs::read_to_string(file).ok());
    ahead.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Nobody puts the clocks forward.
#[cfg(not(feature = "chaos"))]
pub const fn injected() -> Millis {
    0
}

/// A duration in whole milliseconds, saturating.
pub fn millis(duration: Duration) -> Millis {
    duration.as_millis().try_into().unwrap_or(Millis::MAX)
}
