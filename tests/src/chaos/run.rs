//! A run: rounds, until the time is over or something is found.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{
    profile::{Bug, Profile},
    report::Report,
    round::Round,
};

/// What to run.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// From which all that is random comes. The same seed gives the same commands and faults; how
    /// they meet is up to the machine.
    pub seed: u64,
    /// How long.
    pub time: Duration,
    /// Kinds of rounds, in turn.
    pub profiles: Vec<Profile>,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// How long the fleet is disturbed in a round.
    pub round: Duration,
}

/// What a round takes beyond that at least; less time is no round.
const MARGIN: Duration = Duration::from_secs(4);

impl Chaos {
    /// All profiles, no bug.
    pub fn new(seed: u64, time: Duration) -> Self {
        // A minute must see every profile; what has more time gives the longest faults room too.
        let round = Duration::from_secs(if time > Duration::from_secs(120) { 30 } else { 9 });
        Self { seed, time, profiles: Profile::ALL.into(), bug: None, round }
    }

    /// A hunt for a planted bug: short rounds, where Redis loses nothing that could excuse it.
    pub fn hunt(bug: Bug, seed: u64, time: Duration) -> Self {
        let round = Duration::from_secs(6);
        Self { profiles: vec![Profile::Durable], bug: Some(bug), round, ..Self::new(seed, time) }
    }

    /// Runs until the time is over, or the first round in which something is wrong.
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

    /// The command that does this again.
    fn replay(&self) -> String {
        let minutes = self.time.as_secs_f64() / 60.0;
        let profiles: Vec<_> = self.profiles.iter().map(ToString::to_string).collect();
        let bug = self.bug.map(|bug| format!(" BUG={bug:?}")).unwrap_or_default();
        format!("make chaos SEED={} MINUTES={minutes} PROFILES={}{bug}", self.seed, profiles.join(","))
    }
}
