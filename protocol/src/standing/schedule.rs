//! When a standing order runs. Controllers, which look for the next time, and workers, which check one, use this code.

use serde::{Deserialize, Serialize};

use super::cron::Cron;
pub use super::cron::ScheduleError;
use crate::{limits, time::Millis};

/// When something runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// At the times of a cron expression, by the clocks of a time zone.
    Cron {
        /// Five fields (minute, hour, day, month, weekday), six with seconds in front, seven with a year behind; or a
        /// nickname such as `@daily`.
        expression: String,
        /// The zone's name, for people.
        zone: String,
        /// What the zone's clocks show when: a `TZif` file (RFC 9636). Empty for UTC. It is part of the order, so that
        /// all who read the order agree, whatever time zone data they have.
        #[serde(with = "serde_bytes")]
        tzif: Vec<u8>,
    },
    /// Again and again after equal spans of real time.
    Every {
        /// The span, in milliseconds.
        period_ms: u64,
        /// The first time.
        anchor_ms: Millis,
    },
    /// Once.
    At {
        /// When.
        instant_ms: Millis,
    },
}

/// The times of a schedule, ready to be asked for.
#[derive(Clone, Debug)]
pub struct Times(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Cron(Cron),
    Every { period_ms: u64, anchor_ms: Millis },
    At(Millis),
}

impl Schedule {
    /// Its times.
    ///
    /// # Errors
    /// Something in it is malformed, or beyond its bound.
    pub fn times(&self) -> Result<Times, ScheduleError> {
        let kind = match self {
            Self::Cron { expression, zone, tzif } => Kind::Cron(Cron::new(expression, zone, tzif)?),
            Self::Every { period_ms, anchor_ms } => {
                let bounds = crate::clock::millis(limits::PERIOD_MIN)..=crate::clock::millis(limits::STANDING_MAX);
                if !bounds.contains(period_ms) {
                    return Err(ScheduleError::Period);
                }
                Kind::Every { period_ms: *period_ms, anchor_ms: *anchor_ms }
            }
            Self::At { instant_ms } => Kind::At(*instant_ms),
        };
        Ok(Times(kind))
    }
}

impl Times {
    /// Whether this is one of its times. It takes about as long for any moment: nothing is searched for.
    pub fn is_instant(&self, moment: Millis) -> bool {
        match &self.0 {
            Kind::Cron(cron) => cron.is_instant(moment),
            Kind::Every { period_ms, anchor_ms } => {
                moment.checked_sub(*anchor_ms).is_some_and(|since| since.is_multiple_of(*period_ms))
            }
            Kind::At(instant) => moment == *instant,
        }
    }

    /// The first of its times behind this moment. `None` where there is none that can be found.
    pub fn next_after(&self, moment: Millis) -> Option<Millis> {
        match &self.0 {
            Kind::Cron(cron) => cron.next_after(moment),
            Kind::Every { period_ms, anchor_ms } => match moment.checked_sub(*anchor_ms) {
                None => Some(*anchor_ms),
                Some(since) => anchor_ms.checked_add((since / period_ms).checked_add(1)?.checked_mul(*period_ms)?),
            },
            Kind::At(instant) => Some(*instant).filter(|instant| moment < *instant),
        }
    }

    /// Its times behind this moment, in order.
    pub fn after(&self, moment: Millis) -> impl Iterator<Item = Millis> {
        std::iter::successors(self.next_after(moment), |instant| self.next_after(*instant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_counted_from_their_anchor() {
        let times = Schedule::Every { period_ms: 1500, anchor_ms: 10_000 }.times().unwrap();
        assert_eq!(times.after(0).take(3).collect::<Vec<_>>(), [10_000, 11_500, 13_000]);
        assert_eq!(times.next_after(10_000), Some(11_500));
        for (moment, expected) in [(8_500, false), (10_000, true), (11_500, true), (11_501, false)] {
            assert_eq!(times.is_instant(moment), expected, "{moment}");
        }
        let last = Schedule::Every { period_ms: 1500, anchor_ms: 1 }.times().unwrap();
        assert_eq!(last.next_after(u64::MAX), None);
    }

    #[test]
    fn what_is_to_run_once_has_one_time() {
        let times = Schedule::At { instant_ms: 7 }.times().unwrap();
        assert_eq!(times.after(0).collect::<Vec<_>>(), [7]);
        assert!(times.is_instant(7) && !times.is_instant(6) && times.next_after(7).is_none());
    }

    #[test]
    fn spans_have_bounds() {
        for period_ms in [0, 999, u64::MAX] {
            let times = Schedule::Every { period_ms, anchor_ms: 0 }.times();
            assert_eq!(times.unwrap_err(), ScheduleError::Period, "{period_ms}");
        }
    }
}
