//! A run: the clock jumps from time to time, until the years are over or something is wrong.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    thread::sleep,
    time::{Duration, Instant},
};

use fastrand::Rng;
use protocol::time::{Millis, show_moment};

use super::{
    calendar::{ALL, Daily},
    fleet::Fleet,
    judge::{self, Expected, judge},
};

const MINUTE: Millis = 60_000;
const DAY: Millis = 24 * 60 * MINUTE;

/// A standing order lives no longer than 366 days: so each year has schedules of its own.
const YEAR: Millis = 365 * DAY;

/// In a short run, so long before and after each change of clocks no time is jumped over in order to go on.
const AROUND: Millis = 36 * 60 * MINUTE;

/// What is due must have come to an end within this time. It decides only how soon a broken run fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks. Meanwhile the fleet's clock is put forward, so that nothing that is waited for takes long.
const LOOK: Duration = Duration::from_millis(25);
const LOOKS_PER_SECOND: u32 = 8;

/// After so long, by the fleet's clock, what was done is judged.
const JUDGE_EVERY: Millis = 30 * DAY;

/// A bug that is planted in each `ctl serve`. The judge must find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// What a dead scheduler has claimed is left alone.
    NoTakeOver,
    /// What is given up is not withdrawn.
    NoFence,
    /// A run begins however late it is.
    NoGrace,
    /// Of times at which nothing runs there is no record.
    ForgetMissed,
}

/// The options of a run.
#[derive(Clone, Copy, Debug)]
pub struct Nights {
    /// The seed of all that is random. The same seed gives the same jumps and faults; their timing is up to the machine.
    pub seed: u64,
    /// So many years pass.
    pub years: u32,
    /// Only the days around changes of clocks are lived through: the others pass at one jump.
    pub short: bool,
    /// The bug.
    pub bug: Option<Bug>,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    options: String,
    /// How many times came to each state.
    pub states: BTreeMap<String, usize>,
    /// How many `ctl serve` were killed.
    pub kills: usize,
    /// How many were frozen.
    pub freezes: usize,
    /// What is wrong.
    pub violations: Vec<String>,
    logs: String,
}

/// A year of a run.
struct Year {
    /// The schedules, by their names.
    schedules: BTreeMap<String, Daily>,
    /// What is due of each.
    due: BTreeMap<String, Vec<Millis>>,
    /// What has come, and what to.
    expected: BTreeMap<String, Expected>,
    until: Millis,
    /// The spans that are lived through.
    windows: Vec<(Millis, Millis)>,
}

impl Bug {
    /// All planted bugs.
    pub const ALL: [Self; 4] = [Self::NoTakeOver, Self::NoFence, Self::NoGrace, Self::ForgetMissed];
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|bug| format!("{bug:?}") == text);
        found.ok_or_else(|| format!("there is no bug '{text}', but {:?}", Self::ALL))
    }
}

impl Nights {
    /// Runs until the years are over, or until something is wrong.
    pub fn run(&self) -> Report {
        let options = self.to_string();
        println!("{options}");
        let mut report = Report { options, ..Report::default() };
        let mut fleet = Fleet::start(self.bug);
        let mut random = Rng::with_seed(self.seed);
        let mut step = 0;
        for number in 1..=self.years {
            let mut year = Year::begin(number, self, &mut fleet);
            if let Err(violations) = year.live(&mut fleet, &mut random, &mut step, &mut report) {
                report.violations = violations;
                report.logs = fleet.logs();
                break;
            }
            year.end(&fleet);
        }
        (report.kills, report.freezes) = (fleet.kills, fleet.freezes);
        report
    }
}

impl Year {
    fn begin(number: u32, nights: &Nights, fleet: &mut Fleet) -> Self {
        let name = |daily: &Daily| format!("{}-{number}", daily.name);
        // A run that may be late is sent by whoever takes it over, and never given up.
        let of_bug = |daily: Daily| if nights.bug == Some(Bug::NoFence) { daily.never_late() } else { daily };
        let schedules: BTreeMap<_, _> = ALL.into_iter().map(|daily| (name(&daily), of_bug(daily))).collect();
        let issued: BTreeMap<_, _> = schedules
            .iter()
            .map(|(name, daily)| (name.clone(), fleet.add(name, &daily.cron(), daily.zone, daily.late)))
            .collect();
        let now = fleet.now();
        let until = now + YEAR;
        let due = schedules
            .iter()
            .map(|(name, daily)| (name.clone(), daily.due(issued[name], issued[name] + YEAR + DAY)))
            .collect();
        let mut windows = vec![(now, until)];
        if nights.short {
            let changes = ALL.iter().flat_map(|daily| daily.changes(now, until));
            windows = changes.map(|change| (change - AROUND, change + AROUND)).collect();
            windows.sort_unstable();
        }
        let expected = schedules.keys().map(|name| (name.clone(), Expected::new())).collect();
        Self { schedules, due, expected, until, windows }
    }

    /// Lets the year pass.
    fn live(
        &mut self,
        fleet: &mut Fleet,
        random: &mut Rng,
        step: &mut u64,
        report: &mut Report,
    ) -> Result<(), Vec<String>> {
        let mut counts = BTreeMap::new();
        let mut at = fleet.now();
        let mut judged = at;
        while at < self.until {
            *step += 1;
            let target = self.target(at, random);
            fleet.disturb(*step, random);
            let now = fleet.now();
            let span = target.saturating_sub(now);
            fleet.pass(span);
            // The jump was not later than this.
            let before = fleet.now() - span;
            if random.u32(..4) == 0 {
                // Some are killed right in the middle of it.
                sleep(Duration::from_millis(random.u64(..120)));
                fleet.disturb(*step, random);
            }
            let settled = self.settle(at, *step, fleet).map_err(|wrong| vec![wrong])?;
            self.expect(at, before, target, settled);
            at = settled;
            if at >= judged + JUDGE_EVERY || at >= self.until {
                judged = at;
                let wrong = judge(fleet, &self.expected, at, &mut counts);
                println!(
                    "{}: step {step}, {counts:?}, {} killed, {} frozen",
                    show_moment(at),
                    fleet.kills,
                    fleet.freezes
                );
                if !wrong.is_empty() {
                    return Err(wrong);
                }
            }
        }
        for (state, count) in counts {
            *report.states.entry(state).or_default() += count;
        }
        Ok(())
    }

    /// Where the clock jumps to next.
    fn target(&self, at: Millis, random: &mut Rng) -> Millis {
        let next = |after: Millis| {
            let firsts = self.due.values().filter_map(|due| due.iter().find(|instant| **instant > after));
            firsts.min().copied().unwrap_or(self.until).min(self.until)
        };
        let window = self.windows.iter().find(|(_, end)| *end > at);
        match window {
            None => return self.until,
            Some((begin, _)) if *begin > at => return *begin,
            Some(_) => {}
        }
        let first = next(at);
        match random.u32(..20) {
            // Just before it, or at it: it runs.
            0..4 => (first - random.u64(..300)).max(at),
            4..16 => first + random.u64(..1500),
            // Later, and within the grace.
            16..18 => first + random.u64(MINUTE..5 * MINUTE),
            // Too late, for it and for some more.
            _ => {
                let mut last = first;
                for _ in 0..random.u32(..8) {
                    last = next(last);
                }
                (last + random.u64(12 * MINUTE..60 * MINUTE)).min(self.until + 1)
            }
        }
    }

    /// Waits until all that is due is accounted for, and what was begun has ended. Returns when that was.
    ///
    /// # Errors
    /// What has not.
    fn settle(&self, since: Millis, step: u64, fleet: &mut Fleet) -> Result<Millis, String> {
        let begun = Instant::now();
        for look in 1_u32.. {
            let waits = fleet.look_after(step);
            let now = fleet.now();
            let mut open = None;
            for (name, due) in &self.due {
                let Some(last) = due.iter().rfind(|instant| **instant <= now) else { continue };
                if *last <= since {
                    continue;
                }
                let (accounted, runs) = fleet.standing(name);
                if accounted < *last || runs > 0 {
                    open = Some((name, *last, accounted, runs));
                }
            }
            let Some((name, last, accounted, runs)) = open else {
                if waits {
                    sleep(LOOK);
                    fleet.pass(1000);
                    continue;
                }
                return Ok(now);
            };
            if begun.elapsed() > PATIENCE {
                let (last, accounted) = (show_moment(last), show_moment(accounted));
                let told: Vec<_> = fleet.history(name).into_iter().filter(|instant| instant["end"].is_null()).collect();
                let told: Vec<_> = told.iter().take(3).map(ToString::to_string).collect();
                return Err(format!(
                    "{name}: {last} is not accounted for ({accounted}), or {runs} runs do not end: {}",
                    told.join(", ")
                ));
            }
            sleep(LOOK);
            if look.is_multiple_of(LOOKS_PER_SECOND) {
                fleet.pass(1000);
            }
        }
        unreachable!("it looks until the patience is over")
    }

    /// Notes what follows from the time until `before`, a jump to `target`, and the time until all was settled.
    fn expect(&mut self, since: Millis, before: Millis, target: Millis, settled: Millis) {
        for (name, due) in &self.due {
            let late = self.schedules[name].late;
            let expected = self.expected.get_mut(name).expect("each has a list");
            let between =
                |from: Millis, to: Millis| due.iter().filter(move |instant| (from + 1..=to).contains(*instant));
            expected.extend(between(since, before).map(|instant| (*instant, judge::open())));
            let jumped: Vec<_> = between(before, target).collect();
            if let Some((last, passed)) = jumped.split_last() {
                expected.extend(passed.iter().map(|instant| (**instant, judge::passed())));
                expected.insert(**last, judge::after(target - **last, settled - **last, late));
            }
            let came = between(target.max(before), settled);
            expected.extend(came.map(|instant| (*instant, judge::after(0, settled - instant, late))));
        }
    }

    /// Removes its schedules.
    fn end(self, fleet: &Fleet) {
        self.schedules.keys().for_each(|name| fleet.remove(name));
        fleet.forget_evidence();
    }
}

impl fmt::Display for Nights {
    /// The command that repeats it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, years, short, bug } = self;
        write!(out, "make nights SEED={seed} YEARS={years}{}", if *short { " SHORT=1" } else { "" })?;
        bug.map_or(Ok(()), |bug| write!(out, " BUG={bug:?}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, states, kills, freezes, violations, logs } = self;
        let all: usize = states.values().sum();
        writeln!(out, "{options}: {all} times: {states:?}; {kills} killed, {freezes} frozen")?;
        for violation in violations.iter().take(20) {
            writeln!(out, "VIOLATION {violation}")?;
        }
        if !violations.is_empty() {
            writeln!(out, "{} violations; the last words of each ctl serve:\n{logs}", violations.len())?;
        }
        Ok(())
    }
}
