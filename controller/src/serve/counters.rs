//! What the services of this process have done: counted for the exporter.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Upper bounds of the classes of a histogram, in seconds.
const BOUNDS: [f64; 12] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0];

/// The counters, shared by all services.
#[derive(Debug, Default)]
pub struct Counters(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    runs: BTreeMap<&'static str, u64>,
    lag: Histogram,
    dispatch: Histogram,
    alerts: Vec<(&'static str, usize)>,
}

/// How many times were up to each bound.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    classes: [u64; BOUNDS.len()],
    beyond: u64,
    sum: f64,
}

impl Counters {
    /// A scheduled run was sent so long after its instant, or an instant has come to this without a run.
    pub fn count_run(&self, outcome: &'static str, lag: Option<Duration>) {
        let mut counts = self.counts();
        *counts.runs.entry(outcome).or_default() += 1;
        if let Some(lag) = lag {
            counts.lag.add(lag);
        }
    }

    /// A look at the schedules in which runs were sent took so long.
    pub fn count_dispatch(&self, took: Duration) {
        self.counts().dispatch.add(took);
    }

    /// Instants of schedules by what has become of them.
    pub fn runs(&self) -> BTreeMap<&'static str, u64> {
        self.counts().runs.clone()
    }

    /// How late runs were sent.
    pub fn lag(&self) -> Histogram {
        self.counts().lag.clone()
    }

    /// How long it took to send them.
    pub fn dispatch(&self) -> Histogram {
        self.counts().dispatch.clone()
    }

    /// How many alerts an evaluation has found in each state.
    pub fn set_alerts(&self, alerts: [(&'static str, usize); 2]) {
        self.counts().alerts = alerts.into();
    }

    /// How many alerts there are in each state; none before the first evaluation.
    pub fn alerts(&self) -> Vec<(&'static str, usize)> {
        self.counts().alerts.clone()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // A panic while it was locked cannot have left half a number.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.sum += seconds;
        match BOUNDS.iter().position(|bound| seconds <= *bound) {
            Some(class) => self.classes[class] += 1,
            None => self.beyond += 1,
        }
    }

    /// Each bound in seconds, and how many were up to it; at last without a bound.
    pub fn cumulated(&self) -> impl Iterator<Item = (Option<f64>, u64)> {
        let mut count = 0;
        let below = BOUNDS.iter().zip(&self.classes).map(move |(bound, number)| {
            count += number;
            (Some(*bound), count)
        });
        below.chain([(None, self.count())])
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.classes.iter().sum::<u64>() + self.beyond
    }

    /// All together, in seconds.
    pub const fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_cumulate() {
        let counters = Counters::default();
        for lag in [0, 10, 11, 700_000] {
            counters.count_run("ran", Some(Duration::from_millis(lag)));
        }
        counters.count_run("missed: grace", None);
        let lag = counters.lag();
        let counts: Vec<_> = lag.cumulated().collect();
        assert_eq!((counts[0], counts[1]), ((Some(0.01), 2), (Some(0.05), 3)));
        assert_eq!(counts[BOUNDS.len() - 1..], [(Some(600.0), 3), (None, 4)]);
        assert_eq!((lag.count(), lag.sum()), (4, 700.021));
        assert_eq!(counters.runs()["ran"], 4);
        assert_eq!(counters.dispatch().count(), 0);
    }
}
