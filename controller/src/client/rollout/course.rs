//! How a rolling run goes from host to host, and when it stops: pure, so that every course can be tried.

use std::collections::VecDeque;

use protocol::{name::HostName, rollout::Waves};

/// The course of a rolling run.
#[derive(Clone, Debug)]
pub struct Course {
    waves: Waves,
    /// Hosts that were not reached, in order.
    waiting: VecDeque<HostName>,
    total: usize,
    /// How many waves were begun.
    begun: usize,
    /// How many hosts have failed.
    failed: usize,
}

impl Course {
    /// The course over these hosts, in this order.
    pub fn new(hosts: impl IntoIterator<Item = HostName>, waves: &Waves) -> Self {
        let waiting: VecDeque<_> = hosts.into_iter().collect();
        Self { waves: waves.clone(), total: waiting.len(), waiting, begun: 0, failed: 0 }
    }

    /// The size of each wave, if none stops the run.
    fn sizes(&self) -> impl Iterator<Item = usize> {
        let mut left = self.total;
        (0..).map_while(move |number| {
            let size = self.size(number).min(left);
            left -= size;
            (size > 0).then_some(size)
        })
    }

    /// How many hosts a wave has, where there are enough.
    fn size(&self, number: usize) -> usize {
        let Waves { canary, batch, .. } = self.waves;
        let size = if number == 0 && canary > 0 { canary } else { batch.max(1) };
        usize::try_from(size).unwrap_or(usize::MAX)
    }

    fn budget(&self) -> usize {
        usize::try_from(self.waves.max_fail).unwrap_or(usize::MAX)
    }

    /// How many waves there are, if none stops the run.
    pub fn count(&self) -> usize {
        self.sizes().count()
    }

    /// The most hosts that can fail: of those before a wave as many as do not stop the run, and then the whole wave. Also
    /// the two numbers of the worst wave.
    pub fn worst_case(&self) -> (usize, usize) {
        let mut before = 0;
        let worst = self.sizes().map(|size| {
            let failed = before.min(self.budget());
            before += size;
            (failed, size)
        });
        worst.max_by_key(|(failed, size)| failed + size).unwrap_or_default()
    }

    /// Begins the next wave; `None` where no host is left, or too many have failed.
    pub fn begin(&mut self) -> Option<Vec<HostName>> {
        if self.has_overrun() {
            return None;
        }
        let size = self.size(self.begun).min(self.waiting.len());
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
    pub fn has_overrun(&self) -> bool {
        self.failed > self.budget()
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
        let worst = |count, waves: Waves| Course::new(hosts(count), &waves).worst_case();
        assert_eq!(worst(30, waves(1, 5, 3)), (3, 5));
        // All hosts that there are.
        assert_eq!(worst(3, waves(0, 5, 3)), (0, 3));
        assert_eq!(worst(6, waves(0, 5, 3)), (0, 5));
        // The canary's failure stops it.
        assert_eq!(worst(30, waves(1, 5, 0)), (0, 5));
        assert_eq!(worst(0, waves(1, 5, 0)), (0, 0));
        // The last wave may be smaller than those before it.
        assert_eq!(worst(12, waves(0, 10, 9)), (9, 2));
        assert_eq!(Course::new(hosts(30), &waves(1, 5, 3)).count(), 7);
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
            let (failed, in_flight) = course.worst_case();
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
