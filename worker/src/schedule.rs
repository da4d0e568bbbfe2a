//! Which command may start next: slots, the lane kept for repeatable actions, and exclusion keys.

use std::collections::{HashSet, VecDeque};

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
    waiting: VecDeque<Waiting<T>>,
    /// What the waiting ones hold of memory, about.
    waiting_bytes: usize,
    running: Vec<Claim>,
}

struct Waiting<T> {
    claim: Claim,
    bytes: usize,
    command: T,
}

impl<T> Schedule<T> {
    /// `reserved` of the `slots` are for repeatable actions only.
    pub(crate) fn new(slots: usize, reserved: usize) -> Self {
        let reserved = reserved.min(slots - 1);
        Self { slots, reserved, waiting: VecDeque::new(), waiting_bytes: 0, running: Vec::new() }
    }

    /// Queues a command that takes about so many bytes of memory.
    pub(crate) fn push(&mut self, claim: Claim, command: T, bytes: usize) {
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting { claim, bytes, command });
    }

    /// The first command that may start; it counts as running from now on.
    pub(crate) fn next(&mut self) -> Option<(Claim, T)> {
        if self.free() == 0 {
            return None;
        }
        let once = self.running.iter().filter(|running| !running.repeatable).count();
        let once_may = once < self.slots - self.reserved;
        let mut held: HashSet<&str> = self.running.iter().filter_map(|claim| claim.exclusion.as_deref()).collect();
        let at = self.waiting.iter().position(|Waiting { claim, .. }| {
            // The first one that waits for a key holds up those behind it, even where it lacks a lane.
            let turn = claim.exclusion.as_deref().is_none_or(|key| held.insert(key));
            turn && (claim.repeatable || once_may)
        })?;
        self.start(at)
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
        let at = self.waiting.iter().position(|waiting| is_it(&waiting.command))?;
        self.start(at)
    }

    /// How many wait.
    pub(crate) fn waits(&self) -> usize {
        self.waiting.len()
    }

    /// Commands that wait, in order.
    pub(crate) fn waiting(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        self.waiting.iter_mut().map(|waiting| &mut waiting.command)
    }

    /// How many more commands are worth taking: no more than there are free slots. Behind those that
    /// wait for their lane or key there may be others that could start, so these are looked for as far
    /// as memory allows.
    pub(crate) fn room(&self) -> usize {
        let more = limits::WAITING.saturating_sub(self.waiting.len());
        if self.waiting_bytes < limits::WAITING_BYTES { self.free().min(more) } else { 0 }
    }

    fn free(&self) -> usize {
        self.slots.saturating_sub(self.running.len())
    }

    fn start(&mut self, at: usize) -> Option<(Claim, T)> {
        let Waiting { claim, bytes, command } = self.waiting.remove(at)?;
        self.waiting_bytes -= bytes;
        self.running.push(claim.clone());
        Some((claim, command))
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
        (0..3).for_each(|n| schedule.push(claim(false, None), n, 1));
        assert_eq!(started(&mut schedule), [0, 1]);
        assert_eq!(schedule.room(), 0);
        schedule.ended(&claim(false, None));
        assert_eq!(started(&mut schedule), [2]);
    }

    #[test]
    fn the_reserved_lane_is_for_repeatable_ones() {
        let mut schedule = Schedule::new(2, 1);
        (0..2).for_each(|n| schedule.push(claim(false, None), n, 1));
        assert_eq!(started(&mut schedule), [0]);
        assert_eq!(schedule.room(), 1, "a ping must be found behind the one that waits");
        schedule.push(claim(true, None), 9, 1);
        assert_eq!(started(&mut schedule), [9]);
        // A single slot cannot be reserved, or nothing would ever change.
        let mut single = Schedule::new(1, 1);
        single.push(claim(false, None), 0, 1);
        assert_eq!(started(&mut single), [0]);
    }

    #[test]
    fn the_same_key_runs_in_arrival_order_and_holds_up_nobody_else() {
        let mut schedule = Schedule::new(4, 0);
        for (n, key) in [(0, Some("app")), (1, Some("app")), (2, Some("db")), (3, None), (4, Some("app"))] {
            schedule.push(claim(false, key), n, 1);
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
    fn a_first_one_without_a_lane_keeps_its_place() {
        let mut schedule = Schedule::new(3, 1);
        let mut push = |repeatable, key, n| schedule.push(claim(repeatable, key), n, 1);
        push(false, None, 0);
        push(false, None, 1);
        push(false, Some("app"), 2);
        push(true, Some("app"), 3);
        push(true, None, 4);
        assert_eq!(started(&mut schedule), [0, 1, 4], "3 must not overtake 2");
    }

    #[test]
    fn as_long_as_a_slot_is_free_more_is_taken_within_the_bounds_of_memory() {
        let waits = |count: usize, bytes: usize| {
            let mut schedule = Schedule::new(4, 1);
            (0..=count).zip(0..).for_each(|(_, n)| schedule.push(claim(false, Some("app")), n, bytes));
            assert_eq!(started(&mut schedule), [0]);
            assert_eq!(schedule.waits(), count);
            schedule
        };
        assert_eq!(waits(limits::WAITING - 1, 1).room(), 1);
        assert_eq!(waits(limits::WAITING, 1).room(), 0);
        let mut large = waits(2, limits::WAITING_BYTES / 2);
        assert_eq!(large.room(), 0);
        assert!(large.take(|n| *n == 2).is_some());
        assert_eq!(large.room(), 2);
    }
}
