//! How a rolling run goes from host to host, and when it stops: pure, so that every course can be tried.

use std::collections::VecDeque;

use protocol::{name::HostName, rollout::Waves};

/// What lies ahead of a rolling run, if nothing stops it.
#[derive(Clone, Copy, Debug)]
pub struct Outlook {
    total: usize,
    canary: usize,
    batch: usize,
    budget: usize,
}

impl Outlook {
    /// The outlook for so many hosts.
    pub fn of(total: usize, waves: &Waves) -> Self {
        let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let (canary, batch) = (number(waves.canary).min(total), number(waves.batch).clamp(1, total.max(1)));
        Self { total, canary, batch, budget: number(waves.max_fail) }
    }

    /// How many hosts it has.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// How many hosts the first wave has, where that is not [`Self::batch`]; otherwise 0.
    pub const fn canary(&self) -> usize {
        self.canary
    }

    /// How many hosts the other waves have, where there are enough.
    pub const fn batch(&self) -> usize {
        self.batch
    }

    /// The size of a wave, where there are enough hosts.
    const fn size(&self, number: usize) -> usize {
        if number == 0 && self.canary > 0 { self.canary } else { self.batch }
    }

    /// The size of each wave.
    fn sizes(self) -> impl Iterator<Item = usize> {
        let mut left = self.total;
        (0..).map_while(move |number| {
            let size = self.size(number).min(left);
            left -= size;
            (size > 0).then_some(size)
        })
    }

    /// How many waves there are.
    pub fn count(self) -> usize {
        self.sizes().count()
    }

    /// The most hosts that can fail: of those before a wave as many as do not stop the run, and then the whole wave. These
    /// are the two numbers of the worst wave.
    pub fn worst_case(self) -> (usize, usize) {
        let mut before = 0;
        let worst = self.sizes().map(|size| {
            let failed = before.min(self.budget);
            before += size;
            (failed, size)
        });
        worst.max_by_key(|(failed, size)| failed + size).unwrap_or_default()
    }
}

/// The course of a rolling run.
#[derive(Clone, Debug)]
pub struct Course {
    outlook: Outlook,
    /// Hosts that were not reached, in order.
    waiting: VecDeque<HostName>,
    /// How many waves were begun.
    begun: usize,
    /// How many hosts have failed.
    failed: usize,
}

impl Course {
    /// The course over these hosts, in this order.
    pub fn new(hosts: impl IntoIterator<Item = HostName>, waves: &Waves) -> Self {
        let waiting: VecDeque<_> = hosts.into_iter().collect();
        Self { outlook: Outlook::of(waiting.len(), waves), waiting, begun: 0, failed: 0 }
    }

    /// What lay ahead of it at its beginning.
    pub const fn outlook(&self) -> Outlook {
        self.outlook
    }

    /// Begins the next wave; `None` where no host is left, or too many have failed.
    pub fn begin(&mut self) -> Option<Vec<HostName>> {
        if self.has_overrun() {
            return None;
        }
        let size = self.outlook.size(self.begun).min(self.waiting.len());
        self.begun += usize::from(size > 0);
        (size > 0).then(|| self.waiting.drain(..size).collect())
    }

    /// The wave that was begun last was sent nothing.
    pub fn put_back(&mut self, wave: Vec<HostName>) {
        self.begun -= usize::from(!wave.is_empty());
        wave.into_iter().rev().for_each(|host| self.waiting.push_front(host));
    }

    /// So many hosts of the wave that was begun last have failed.
    pub const fn failed(&mut self, hosts: usize) {
        self.failed += hosts;
    }

    /// How many hosts have failed.
    pub const fn failures(&self) -> usize {
        self.failed
    }

    /// Whether more hosts have failed than may.
    pub const fn has_overrun(&self) -> bool {
        self.failed > self.outlook.budget
    }

    /// How many waves were begun.
    pub const fn begun(&self) -> usize {
        self.begun
    }

    /// The hosts that were not reached.
    pub fn unreached(&self) -> impl ExactSizeIterator<Item = &HostName> {
        self.waiting.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{prelude::*, test_runner::Config};

    use super::*;
    use crate::client::rollout::Standing;

    fn hosts(count: usize) -> Vec<HostName> {
        (1..=count).map(|number| format!("web{number}").parse().unwrap()).collect()
    }

    fn waves(canary: u64, batch: u64, max_fail: u64) -> Waves {
        Waves { canary, batch, wait_ms: 0, max_fail, abort_if: None }
    }

    #[test]
    fn the_worst_case_is_that_of_the_worst_wave() {
        let worst = |count, waves: Waves| Outlook::of(count, &waves).worst_case();
        assert_eq!(worst(30, waves(1, 5, 3)), (3, 5));
        // All hosts that there are.
        assert_eq!(worst(3, waves(0, 5, 3)), (0, 3));
        assert_eq!(worst(6, waves(0, 5, 3)), (0, 5));
        // The canary's failure stops it.
        assert_eq!(worst(30, waves(1, 5, 0)), (0, 5));
        assert_eq!(worst(0, waves(1, 5, 0)), (0, 0));
        // The last wave may be smaller than those before it.
        assert_eq!(worst(12, waves(0, 10, 9)), (9, 2));
        assert_eq!(Outlook::of(30, &waves(1, 5, 3)).count(), 7);
    }

    /// What becomes of a command on a host.
    fn ends() -> impl Strategy<Value = Standing> {
        prop_oneof![
            6 => Just(Standing::Succeeded),
            2 => Just(Standing::Failed),
            1 => Just(Standing::Expired),
            1 => Just(Standing::Open),
        ]
    }

    /// A run, and all that go on with it. What becomes of commands is decided by `ends`, in turn. A driver dies in the wave
    /// after so many as `deaths` says: that wave is sent, and nobody counts it. It may also find that it is not the driver any
    /// more, before it has sent a wave.
    fn simulate(count: usize, waves: &Waves, ends: &[Standing], deaths: &[(u8, bool)]) -> Result<(), TestCaseError> {
        let mut standings: BTreeMap<HostName, Standing> =
            hosts(count).into_iter().map(|host| (host, Standing::Unreached)).collect();
        let (mut ends, mut order) = (ends.iter().cycle(), 0);
        // After those who die, others come, until nothing is left to be done; from then on nothing fails.
        for life in 0..=deaths.len() + count {
            let is_open = |standing: &Standing| !matches!(standing, Standing::Succeeded | Standing::Open);
            let mut left: Vec<_> =
                standings.iter().filter(|(_, standing)| is_open(standing)).map(|(host, _)| host.clone()).collect();
            let before = left.len();
            if before == 0 {
                break;
            }
            order += 7;
            left.rotate_left(order % before);
            let mut course = Course::new(left, waves);
            let (failed, in_flight) = course.outlook().worst_case();
            let mut failures = 0;
            let death = deaths.get(life);
            while let Some(wave) = course.begin() {
                prop_assert!(!wave.is_empty());
                let dies = death.is_some_and(|(after, _)| course.begun() > usize::from(*after));
                if dies && death.is_some_and(|(_, is_sent)| !is_sent) {
                    let unsent = wave.len() + course.unreached().len();
                    course.put_back(wave);
                    prop_assert_eq!(course.unreached().len(), unsent);
                    break;
                }
                for host in wave {
                    let end = if death.is_some() { *ends.next().unwrap() } else { Standing::Succeeded };
                    let standing = standings.get_mut(&host).unwrap();
                    prop_assert!(is_open(standing), "{} was reached though it stood at {:?}", host, standing);
                    *standing = end;
                    failures += usize::from(end != Standing::Succeeded);
                    course.failed(usize::from(end != Standing::Succeeded && !dies));
                }
                prop_assert!(failures <= failed + in_flight, "{} of {} + {}", failures, failed, in_flight);
                if dies {
                    break;
                }
            }
            let is_over = course.unreached().len() == 0;
            prop_assert!(is_over || death.is_some(), "it stopped for no reason");
        }
        let is_done = |standing: &Standing| matches!(standing, Standing::Succeeded | Standing::Open);
        prop_assert!(standings.len() == count && standings.values().all(is_done), "a host was forgotten");
        Ok(())
    }

    proptest! {
        #![proptest_config(Config { cases: 100_000, failure_persistence: None, ..Config::default() })]
        #[test]
        fn no_course_fails_worse_than_foretold_repeats_a_host_or_forgets_one(
            count in 0..25_usize,
            (canary, batch, max_fail) in (0..6_u64, 0..12_u64, 0..12_u64),
            ends in prop::collection::vec(ends(), 1..20),
            deaths in prop::collection::vec((0..6_u8, any::<bool>()), 0..4),
        ) {
            simulate(count, &waves(canary, batch, max_fail), &ends, &deaths)?;
        }
    }
}
