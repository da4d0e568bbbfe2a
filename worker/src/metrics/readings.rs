//! Recent readings of one file. Figures that cover a time window compare two of them.
//!
//! Readings are kept, so that a collect finds one that is old enough and need not wait for a second one.

use std::{
    collections::VecDeque,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{MetricsError, source::Source};
use crate::detached::lock;

/// The preferred minimum length of a window. Shorter windows show bursts.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// The minimum length of a window. The counters of `/proc/stat` advance every 10 ms.
const SHORTEST: Duration = Duration::from_millis(50);

/// The minimum time between two readings that are both kept.
const APART: Duration = Duration::from_millis(200);

pub(super) struct Readings<T> {
    source: Source,
    read: fn(&Source) -> Result<T, MetricsError>,
    /// Oldest first.
    kept: Mutex<VecDeque<(Instant, T)>>,
}

/// Two readings and the time between them.
pub(super) struct Span<T> {
    pub(super) before: T,
    pub(super) after: T,
    pub(super) window: Duration,
}

impl<T: Clone> Readings<T> {
    /// Takes the first reading at once.
    pub(super) fn new(source: &Source, read: fn(&Source) -> Result<T, MetricsError>) -> Self {
        let readings = Self { source: source.clone(), read, kept: Mutex::default() };
        // The first collect reports a file that cannot be read.
        let _ = readings.take();
        readings
    }

    /// A new reading and an earlier one. Waits up to 50 ms if the earlier one is too recent.
    pub(super) async fn span(&self) -> Result<Span<T>, MetricsError> {
        let (since, before) = match self.baseline(Instant::now()) {
            Some(reading) => reading,
            None => self.take()?,
        };
        let rest = SHORTEST.saturating_sub(since.elapsed());
        // To sleep for no time at all would take a millisecond, Tokio's smallest step.
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        let (until, after) = self.take()?;
        Ok(Span { before, after, window: until - since })
    }

    fn take(&self) -> Result<(Instant, T), MetricsError> {
        let reading = (Instant::now(), (self.read)(&self.source)?);
        self.keep(reading.clone());
        Ok(reading)
    }

    /// Keeps a reading, unless the newest one is recent.
    fn keep(&self, (at, value): (Instant, T)) {
        let mut kept = lock(&self.kept);
        if kept.back().is_some_and(|(newest, _)| at.saturating_duration_since(*newest) < APART) {
            return;
        }
        kept.push_back((at, value));
        // The oldest reading is superfluous once the second one is old enough.
        while kept.get(1).is_some_and(|(second, _)| at.saturating_duration_since(*second) >= LONG_ENOUGH) {
            kept.pop_front();
        }
    }

    /// The newest reading that is old enough at the time `now`, or else the oldest one.
    fn baseline(&self, now: Instant) -> Option<(Instant, T)> {
        let kept = lock(&self.kept);
        let old_enough = |(at, _): &&(Instant, T)| now.saturating_duration_since(*at) >= LONG_ENOUGH;
        kept.iter().rev().find(old_enough).or_else(|| kept.front()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn the_baseline_is_a_second_old_if_it_can_be_and_the_ring_stays_short() {
        let readings = Readings::new(&Source::new("/".into()), |_| Err(MetricsError::NoTicks));
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(readings.baseline(start).is_none());

        for ms in (0..=10_000).step_by(50) {
            readings.keep((at(ms), ms));
            let (_, baseline) = readings.baseline(at(ms)).unwrap();
            if ms < 1_000 {
                assert_eq!(baseline, 0);
            } else {
                assert!((1_000..1_200).contains(&(ms - baseline)), "{ms} {baseline}");
            }
            assert!(lock(&readings.kept).len() <= 7);
        }

        // With rare readings, only two are kept.
        readings.keep((at(60_000), 60_000));
        readings.keep((at(70_000), 70_000));
        assert_eq!(lock(&readings.kept).len(), 2);
        assert_eq!(readings.baseline(at(70_000)).unwrap().1, 60_000);
    }

    #[tokio::test]
    async fn the_first_span_waits_just_long_enough() {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let readings = Readings::new(&Source::new("/".into()), |_| Ok(COUNT.fetch_add(1, Relaxed)));
        let span = readings.span().await.unwrap();
        assert_eq!((span.before, span.after), (1, 2));
        assert!(span.window >= SHORTEST, "{:?}", span.window);

        let span = readings.span().await.unwrap();
        assert_eq!((span.before, span.after), (1, 3));
    }
}
