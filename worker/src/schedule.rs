//! Which command may start next: slots, the lane kept for repeatable actions, and exclusion keys.

use std::collections::VecDeque;

use protocol::limits;

/// What a command needs in order to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Repeatable actions may use the reserved lane too.
    pub(crate) repeatable: bool,
    /// Commands with the same key run one after another, in arrival order.
    pub(crate) exclusion: Option<String>,
}

/// Commands that wait and claims that run.
pub(crate) struct Schedule<T> {
    slots: usize,
    reserved: usize,
    waiting: VecDeque<(Claim, T)>,
    running: Vec<Claim>,
}

impl<T> Schedule<T> {
    /// `reserved` of the `slots` are for repeatable actions only.
    pub(crate) fn new(slots: usize, reserved: usize) -> Self {
        Self { slots, reserved: reserved.min(slots - 1), waiting: VecDeque::new(), running: Vec::new() }
    }

    /// Queues a command.
    pub(crate) fn push(&mut self, claim: Claim, command: T) {
        self.waiting.push_back((claim, command));
    }

    /// The first command that may start; it counts as running from now on.
    pub(crate) fn next(&mut self) -> Option<(Claim, T)> {
        let at = (0..self.waiting.len()).find(|at| self.may_start(*at))?;
        let (claim, command) = self.waiting.remove(at)?;
        self.running.push(claim.clone());
        Some((claim, command))
    }

    /// A running command has ended.
    pub(crate) fn ended(&mut self, claim: &Claim) {
        if let Some(at) = self.running.iter().position(|running| running == claim) {
            self.running.swap_remove(at);
        }
    }

    /// Takes a waiting command out of its turn: one that will not really run. It counts as running
    /// until [`Self::ended`].
    pub(crate) fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<(Claim, T)> {
        let at = self.waiting.iter().position(|(_, command)| is_it(command))?;
        let (claim, command) = self.waiting.remove(at)?;
        self.running.push(claim.clone());
        Some((claim, command))
    }

    /// How many wait.
    pub(crate) fn waits(&self) -> usize {
        self.waiting.len()
    }

    /// Commands that wait, in order.
    pub(crate) fn waiting(&mut self) -> impl Iterator<Item = &mut T> {
        self.waiting.iter_mut().map(|(_, command)| command)
    }

    /// How many more commands are worth taking: no more than could start. Behind one that waits for
    /// its lane or key there may be others that could, so some more are taken, within bounds.
    pub(crate) fn room(&self) -> usize {
        let free = self.slots.saturating_sub(self.running.len());
        if self.waiting.is_empty() { free } else { free.min(limits::WAITING.saturating_sub(self.waiting.len())) }
    }

    fn may_start(&self, at: usize) -> bool {
        let (claim, _) = &self.waiting[at];
        let once = self.running.iter().filter(|running| !running.repeatable).count();
        let lane = self.running.len() < self.slots && (claim.repeatable || once < self.slots - self.reserved);
        let same = |other: &Claim| claim.exclusion.is_some() && other.exclusion == claim.exclusion;
        lane && !self.running.iter().any(same) && !self.waiting.iter().take(at).any(|(other, _)| same(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(repeatable: bool, exclusion: Option<&str>) -> Claim {
        Claim { repeatable, exclusion: exclusion.map(str::to_owned) }
    }

    fn started(schedule: &mut Schedule<u32>) -> Vec<u32> {
        std::iter::from_fn(|| schedule.next().map(|(_, command)| command)).collect()
    }

    #[test]
    fn no_more_run_than_there_are_slots_and_no_more_are_taken() {
        let mut schedule = Schedule::new(2, 0);
        assert_eq!(schedule.room(), 2);
        (0..3).for_each(|n| schedule.push(claim(false, None), n));
        assert_eq!(started(&mut schedule), [0, 1]);
        assert_eq!(schedule.room(), 0);
        schedule.ended(&claim(false, None));
        assert_eq!(started(&mut schedule), [2]);
    }

    #[test]
    fn the_reserved_lane_is_for_repeatable_ones() {
        let mut schedule = Schedule::new(2, 1);
        (0..2).for_each(|n| schedule.push(claim(false, None), n));
        assert_eq!(started(&mut schedule), [0]);
        assert_eq!(schedule.room(), 1, "a ping must be found behind the one that waits");
        schedule.push(claim(true, None), 9);
        assert_eq!(started(&mut schedule), [9]);
        // A single slot cannot be reserved, or nothing would ever change.
        let mut single = Schedule::new(1, 1);
        single.push(claim(false, None), 0);
        assert_eq!(started(&mut single), [0]);
    }

    #[test]
    fn the_same_key_runs_in_arrival_order_and_holds_up_nobody_else() {
        let mut schedule = Schedule::new(4, 0);
        for (n, key) in [(0, Some("app")), (1, Some("app")), (2, Some("db")), (3, None), (4, Some("app"))] {
            schedule.push(claim(false, key), n);
        }
        assert_eq!(started(&mut schedule), [0, 2, 3]);
        schedule.ended(&claim(false, Some("app")));
        assert_eq!(started(&mut schedule), [1]);
        assert_eq!(schedule.take(|n| *n == 4).map(|(_, n)| n), Some(4));
        schedule.ended(&claim(false, Some("app")));
        schedule.ended(&claim(false, Some("app")));
        assert_eq!(started(&mut schedule), [0; 0]);
    }

    #[test]
    fn waiting_ones_are_bounded() {
        let mut schedule = Schedule::new(4, 1);
        (0..1000).for_each(|n| schedule.push(claim(false, Some("app")), n));
        started(&mut schedule);
        assert_eq!(schedule.room(), 0);
    }
}
