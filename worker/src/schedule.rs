//! Which command may start next: slots, the lane kept for repeatable actions, and exclusion keys.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    time::{Duration, Instant},
};

use protocol::limits;

/// How long all slots are busy before commands are taken all the same, so that they do not expire unread. Where slots are
/// soon free again, a command waits in the inbox: that costs nothing.
const TAKE_AFTER: Duration = Duration::from_secs(3);

/// How many commands are taken at a time then.
const TAKE: usize = 16;

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
    waiting: VecDeque<Queued<T>>,
    /// About how much memory the waiting commands take.
    waiting_bytes: usize,
    running: Vec<Claim>,
    /// Since when no slot is free.
    full_since: Option<Instant>,
}

/// What a command waits for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Obstacle<'a, T> {
    /// A running command has its key.
    Held(&'a str),
    /// This command with the same key is before it, and waits, too.
    Behind(&'a str, &'a T),
    /// All slots that it may use are busy.
    Slot { busy: usize, of: usize },
}

struct Queued<T> {
    claim: Claim,
    bytes: usize,
    command: T,
}

impl<T> Schedule<T> {
    /// `reserved` of the `slots` are for repeatable actions only.
    pub(crate) fn new(slots: usize, reserved: usize) -> Self {
        let reserved = reserved.min(slots - 1);
        Self { slots, reserved, waiting: VecDeque::new(), waiting_bytes: 0, running: Vec::new(), full_since: None }
    }

    /// Queues a command that takes about so many bytes of memory.
    pub(crate) fn push(&mut self, claim: Claim, command: T, bytes: usize) {
        self.waiting_bytes += bytes;
        self.waiting.push_back(Queued { claim, bytes, command });
    }

    /// What each waiting command waits for, in order.
    pub(crate) fn obstacles(&self) -> impl Iterator<Item = (&T, Obstacle<'_, T>)> {
        let once = self.running.iter().filter(|running| !running.repeatable).count();
        let mut first: HashMap<&str, &T> = HashMap::new();
        self.waiting.iter().map(move |Queued { claim, command, .. }| {
            let obstacle = match claim.exclusion.as_deref() {
                Some(key) if self.running.iter().any(|running| running.exclusion.as_deref() == Some(key)) => {
                    Obstacle::Held(key)
                }
                Some(key) => match first.entry(key) {
                    Entry::Occupied(before) => Obstacle::Behind(key, *before.get()),
                    Entry::Vacant(place) => {
                        place.insert(command);
                        self.lane(claim, once)
                    }
                },
                None => self.lane(claim, once),
            };
            (command, obstacle)
        })
    }

    fn lane(&self, claim: &Claim, once: usize) -> Obstacle<'_, T> {
        match (claim.repeatable, self.slots - self.reserved) {
            (false, most) if once >= most => Obstacle::Slot { busy: once, of: most },
            _ => Obstacle::Slot { busy: self.running.len(), of: self.slots },
        }
    }

    /// The first command that may start; it counts as running from now on.
    pub(crate) fn next(&mut self) -> Option<(Claim, T)> {
        if self.free() == 0 {
            return None;
        }
        let once = self.running.iter().filter(|running| !running.repeatable).count();
        let once_may = once < self.slots - self.reserved;
        let mut held: HashSet<&str> = self.running.iter().filter_map(|claim| claim.exclusion.as_deref()).collect();
        let at = self.waiting.iter().position(|Queued { claim, .. }| {
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
        if self.free() > 0 {
            self.full_since = None;
        }
    }

    /// Takes a waiting command out of its turn, as it will not really run. It counts as running until [`Self::ended`].
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

    /// How many more commands are worth taking: no more than there are free slots, or a few once all have been busy for
    /// a while. Behind those that wait for their lane or key there may be others that could start, so these are looked
    /// for as far as memory allows.
    pub(crate) fn room(&self) -> usize {
        self.room_at(Instant::now())
    }

    fn room_at(&self, now: Instant) -> usize {
        if self.waiting_bytes >= limits::WAITING_BYTES {
            return 0;
        }
        let room = match self.full_since {
            Some(since) if now.saturating_duration_since(since) >= TAKE_AFTER => TAKE,
            _ => self.free(),
        };
        room.min(limits::WAITING.saturating_sub(self.waiting.len()))
    }

    fn free(&self) -> usize {
        self.slots.saturating_sub(self.running.len())
    }

    fn start(&mut self, at: usize) -> Option<(Claim, T)> {
        let Queued { claim, bytes, command } = self.waiting.remove(at)?;
        self.waiting_bytes -= bytes;
        self.running.push(claim.clone());
        if self.free() == 0 {
            self.full_since.get_or_insert_with(Instant::now);
        }
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
    fn what_a_command_waits_for_is_named() {
        let mut schedule = Schedule::new(3, 1);
        for (n, key) in [(0, Some("app")), (1, Some("app")), (2, None), (3, None), (4, Some("db")), (5, Some("db"))] {
            schedule.push(claim(false, key), n, 1);
        }
        assert_eq!(started(&mut schedule), [0, 2]);
        let slot = || Obstacle::Slot { busy: 2, of: 2 };
        let obstacles: Vec<_> = schedule.obstacles().collect();
        assert_eq!(
            obstacles,
            [(&1, Obstacle::Held("app")), (&3, slot()), (&4, slot()), (&5, Obstacle::Behind("db", &4))]
        );
    }

    #[test]
    fn where_slots_stay_busy_commands_are_taken_all_the_same() {
        let mut schedule = Schedule::new(1, 0);
        (0..2).for_each(|n| schedule.push(claim(false, None), n, 1));
        assert_eq!(started(&mut schedule), [0]);
        let later = Instant::now() + TAKE_AFTER;
        assert_eq!((schedule.room(), schedule.room_at(later)), (0, TAKE));
        schedule.ended(&claim(false, None));
        assert_eq!(started(&mut schedule), [1]);
        assert_eq!(schedule.room(), 0, "the time begins anew");
        (0..limits::WAITING).for_each(|_| schedule.push(claim(false, None), 2, 1));
        assert_eq!(schedule.room_at(Instant::now() + TAKE_AFTER), 0);
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
