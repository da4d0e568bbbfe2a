//! Means of figures over steps of time, for the host's history in Redis.

use std::time::Duration;

use protocol::{
    history::{FIGURES, beginning},
    limits::HISTORY_ENTRIES,
    time::Millis,
};

use super::{Figures, Topic};

/// The figures of a sample that count; those that it does not have are missing.
pub(crate) type Sample = [Option<f64>; FIGURES.len()];

/// What the samples of a step came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) begins: Millis,
    pub(crate) length: Duration,
    pub(crate) means: Vec<(&'static str, f64)>,
}

/// The step that is not over yet.
pub(crate) struct History {
    length: Duration,
    begins: Millis,
    sums: [(f64, u32); FIGURES.len()],
}

/// Picks the figures that count.
pub(crate) fn sample(metrics: &[(Topic, Figures)]) -> Sample {
    FIGURES.map(|(group, name, _)| {
        let figures = metrics.iter().find(|(topic, _)| *topic == Topic::Group(group));
        figures.and_then(|(_, figures)| figures.get(name)?.as_f64())
    })
}

/// Puts steps behind those that wait for Redis. Of more than a history may have, the oldest are dropped.
pub(crate) fn queue(waiting: &mut Vec<Step>, new: Vec<Step>) {
    waiting.extend(new);
    waiting.drain(..waiting.len().saturating_sub(HISTORY_ENTRIES));
}

impl History {
    /// Of steps that are so long.
    pub(crate) const fn new(length: Duration) -> Self {
        Self { length, begins: 0, sums: [(0.0, 0); FIGURES.len()] }
    }

    /// Counts a sample. Returns the step before it, if that is over.
    pub(crate) fn add(&mut self, now: Millis, sample: &Sample) -> Option<Step> {
        let begins = beginning(now, self.length);
        // A clock that was put right by a little begins no step again.
        let is_same = begins <= self.begins && self.begins - begins <= 1000 * self.length.as_secs();
        let over = if is_same { None } else { self.end(begins) };
        for ((sum, count), figure) in self.sums.iter_mut().zip(sample) {
            if let Some(figure) = figure {
                *sum += figure;
                *count += 1;
            }
        }
        over
    }

    fn end(&mut self, next: Millis) -> Option<Step> {
        let ended = std::mem::replace(self, Self { begins: next, ..Self::new(self.length) });
        let figures = FIGURES.into_iter().zip(ended.sums);
        let known = figures.filter(|(_, (_, count))| *count > 0);
        let means: Vec<_> = known.map(|((_, _, name), (sum, count))| (name, sum / f64::from(count))).collect();
        (!means.is_empty()).then_some(Step { begins: ended.begins, length: ended.length, means })
    }
}

#[cfg(test)]
mod tests {
    use protocol::metrics::MetricGroup;
    use serde_json::json;

    use super::*;

    fn cpu(usage: f64) -> Sample {
        let figures = json!({ "usage": usage, "cores": 2 }).as_object().unwrap().clone();
        sample(&[(Topic::Group(MetricGroup::Cpu), figures)])
    }

    #[test]
    fn a_step_is_the_mean_of_its_samples_and_what_is_missing_is_not_zero() {
        let length = Duration::from_secs(10);
        let mut history = History::new(length);
        assert_eq!(history.add(100_000, &cpu(10.0)), None);
        assert_eq!(history.add(109_999, &cpu(20.0)), None);
        let step = Step { begins: 100_000, length, means: vec![("cpu_usage", 15.0)] };
        assert_eq!(history.add(145_000, &cpu(7.0)), Some(step));
        // The clock is put back by a little, and then by much.
        assert_eq!(history.add(139_000, &cpu(9.0)), None);
        let step = Step { begins: 140_000, length, means: vec![("cpu_usage", 8.0)] };
        assert_eq!(history.add(50_000, &sample(&[])), Some(step));
        assert_eq!(history.add(60_000, &cpu(1.0)), None, "nothing is known of the step before");
    }

    #[test]
    fn what_waits_for_redis_is_bounded() {
        let step = |begins| Step { begins, length: Duration::ZERO, means: Vec::new() };
        let mut waiting = vec![step(1)];
        queue(&mut waiting, (2..=HISTORY_ENTRIES as u64 + 5).map(step).collect());
        assert_eq!((waiting.len(), waiting[0].begins), (HISTORY_ENTRIES, 6));
    }
}
