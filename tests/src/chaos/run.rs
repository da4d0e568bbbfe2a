//! A run: rounds, until the time is over or a violation is found.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{
    profile::{Bug, Profile},
    report::Report,
    round::Round,
};

/// The options of a run.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// The seed of all that is random. The same seed gives the same commands and faults; their timing is up to
    /// the machine.
    pub seed: u64,
    /// How long the run takes.
    pub time: Duration,
    /// The kinds of rounds, taken in turn.
    pub profiles: Vec<Profile>,
    /// A bug to plant in the workers.
    pub bug: Option<Bug>,
    /// How long the fleet is disturbed in a round.
    pub round: Duration,
}

/// The time that a round takes at least beyond its disturbance. With less time left there is no further round.
const MARGIN: Duration = Duration::from_secs(4);

impl Chaos {
    /// A run of all profiles, without a bug.
    pub fn new(seed: u64, time: Duration) -> Self {
        // A minute has room for every profile; a longer run has room for the longest faults too.
        let round = Duration::from_secs(if time > Duration::from_secs(120) { 30 } else { 9 });
        Self { seed, time, profiles: Profile::ALL.into(), bug: None, round }
    }

    /// A hunt for a planted bug: short rounds in which Redis loses nothing that could excuse the bug.
    pub fn hunt(bug: Bug, seed: u64, time: Duration) -> Self {
        let round = Duration::from_secs(6);
        Self { profiles: vec![Profile::Durable], bug: Some(bug), round, ..Self::new(seed, time) }
    }

    /// Runs until the time is over, or until a round has a violation.
    pub fn run(&self) -> Report {
        let end = Instant::now() + self.time;
        let mut report = Report { seed: self.seed, replay: self.replay(), ..Report::default() };
        let mut random = Rng::with_seed(self.seed);
        for profile in self.profiles.iter().copied().cycle() {
            let round = Round { profile, bug: self.bug, seed: random.u64(..) };
            let left = end.saturating_duration_since(Instant::now());
            if !report.violations.is_empty() || left < MARGIN * 2 {
                break;
            }
            report.add(round.run(self.round.min(left.saturating_sub(MARGIN))));
        }
        report
    }

    /// The command that repeats this run.
    fn replay(&self) -> String {
        let minutes = self.time.as_secs_f64() / 60.0;
        let profiles: Vec<_> = self.profiles.iter().map(ToString::to_string).collect();
        let bug = self.bug.map(|bug| format!(" BUG={bug:?}")).unwrap_or_default();
        format!("make chaos SEED={} MINUTES={minutes} PROFILES={}{bug}", self.seed, profiles.join(","))
    }
}
