//! Rates come from two readings of a counter. Enough readings are kept for the next
//! collect to find one that is old enough, so that it need not wait for a second one.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::MetricsError;
use crate::detached::lock;

/// A span at least this long is preferred: it evens out the bursts of an instant.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// A shorter span than this says nothing: the counters of `/proc/stat` advance every 10 ms.
const SHORTEST: Duration = Duration::from_millis(50);

/// Readings closer together than this are not both worth keeping.
const APART: Duration = Duration::from_millis(200);

/// The recent readings of one file, oldest first.
pub(super) struct Readings<T> {
    kept: Mutex<VecDeque<(Instant, T)>>,
}

/// Two readings and the time between them.
pub(super) struct Span<T> {
    pub(super) before: T,
    pub(super) after: T,
    pub(super) window: Duration,
}

impl<T: Clone> Readings<T> {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::new(VecDeque::new()) }
    }

    /// Takes a reading and keeps it, unless there is a recent one.
    pub(super) fn take(&self, read: impl Fn() -> Result<T, MetricsError>) -> Result<(Instant, T), MetricsError> {
        let reading = (Instant::now(), read()?);
        self.keep(reading.clone());
        Ok(reading)
    }

    /// A fresh reading beside an earlier one. Waits up to 50 ms if there is none yet.
    pub(super) async fn span(&self, read: impl Fn() -> Result<T, MetricsError>) -> Result<Span<T>, MetricsError> {
        let (since, before) = match self.baseline(Instant::now()) {
            Some(reading) => reading,
            None => self.take(&read)?,
        };
        let rest = SHORTEST.saturating_sub(since.elapsed());
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        let (until, after) = self.take(&read)?;
        Ok(Span { before, after, window: until - since })
    }

    fn keep(&self, (at, value): (Instant, T)) {
        let mut kept = lock(&self.kept);
        if kept.back().is_some_and(|(newest, _)| at.saturating_duration_since(*newest) < APART) {
            return;
        }
        kept.push_back((at, value));
        // The second one will serve from now on, so this bounds the ring too.
        while kept.get(1).is_some_and(|(second, _)| at.saturating_duration_since(*second) >= LONG_ENOUGH) {
            kept.pop_front();
        }
    }

    /// The newest reading that is old enough, else the oldest.
    fn baseline(&self, now: Instant) -> Option<(Instant, T)> {
        let kept = lock(&self.kept);
        kept.iter()
            .rev()
            .find(|(at, _)| now.saturating_duration_since(*at) >= LONG_ENOUGH)
            .or_else(|| kept.front())
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_is_a_second_old_if_it_can_be_and_the_ring_stays_short() {
        let readings = Readings::new();
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

        // A sampler that comes rarely leaves just what is needed.
        readings.keep((at(60_000), 60_000));
        readings.keep((at(70_000), 70_000));
        assert_eq!(lock(&readings.kept).len(), 2);
        assert_eq!(readings.baseline(at(70_000)).unwrap().1, 60_000);
    }

    #[tokio::test]
    async fn the_first_span_waits_just_long_enough() {
        let readings = Readings::new();
        let count = std::cell::Cell::new(0);
        let read = || {
            count.set(count.get() + 1);
            Ok(count.get())
        };
        let span = readings.span(read).await.unwrap();
        assert_eq!((span.before, span.after), (1, 2));
        assert!(span.window >= SHORTEST, "{:?}", span.window);

        let span = readings.span(read).await.unwrap();
        assert_eq!((span.before, span.after), (1, 3));
    }
}
