//! In which order the hosts are shown.

use std::cmp::Reverse;

use protocol::time::Millis;

use crate::{client::Vitals, output::natural::by_name};

/// What the hosts are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// CPU use, the highest first.
    #[default]
    Cpu,
    /// Memory use, the highest first.
    Memory,
    /// Use of the fullest disk, the highest first.
    Disk,
    /// Load, the highest first.
    Load,
    /// Running commands, the most first.
    Running,
    /// The name.
    Name,
    /// The state, those that are not online first.
    State,
}

impl Sort {
    /// All, with the key of each, in the order in which `s` takes them.
    pub const ALL: [(Self, char, &'static str); 7] = [
        (Self::Cpu, 'c', "CPU"),
        (Self::Memory, 'm', "memory"),
        (Self::Disk, 'd', "disk"),
        (Self::Load, 'l', "load"),
        (Self::Running, 'r', "running"),
        (Self::Name, 'n', "name"),
        (Self::State, 'o', "state"),
    ];

    /// The one of this key.
    pub fn of_key(key: char) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, own, _)| *own == key).map(|(sort, ..)| sort)
    }

    /// The next one.
    pub fn next(self) -> Self {
        let place = Self::ALL.iter().position(|(sort, ..)| *sort == self).unwrap_or_default();
        Self::ALL[(place + 1) % Self::ALL.len()].0
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(sort, ..)| *sort == self).map(|(.., name)| name).unwrap_or_default()
    }

    /// Whether small values come first, unless reversed.
    pub const fn is_ascending(self) -> bool {
        matches!(self, Self::Name | Self::State)
    }

    /// The hosts in this order; equal ones by name. Hosts without a value are the last, even if `reversed`,
    /// and of these the hosts that are not online.
    pub fn sorted(self, hosts: &[Vitals], reversed: bool, now: Millis) -> Vec<&Vitals> {
        let mut sorted: Vec<_> = hosts.iter().collect();
        sorted.sort_by(|one, other| by_name(&one.host.name, &other.host.name));
        let is_online = |vitals: &Vitals| vitals.host.state(now) == "online";
        match self {
            Self::Name => {}
            Self::State => sorted.sort_by_key(|vitals| (is_online(vitals), vitals.host.state(now))),
            _ => sorted.sort_by(|one, other| {
                let by_value = match (self.value(one, now), self.value(other, now)) {
                    (Some(one), Some(other)) if reversed => one.total_cmp(&other),
                    (Some(one), Some(other)) => other.total_cmp(&one),
                    (one, other) => Reverse(one.is_some()).cmp(&Reverse(other.is_some())),
                };
                let by_state = || Reverse(is_online(one)).cmp(&Reverse(is_online(other)));
                by_value.then_with(by_state)
            }),
        }
        if reversed && self.is_ascending() {
            sorted.reverse();
        }
        sorted
    }

    fn value(self, vitals: &Vitals, now: Millis) -> Option<f64> {
        let figures = &vitals.figures;
        match self {
            Self::Cpu => figures.cpu.known(),
            Self::Memory => figures.memory.known(),
            Self::Disk => figures.disk.known(),
            Self::Load => figures.load[0].known(),
            Self::Running => vitals.running(now).map(|(running, _)| running as f64),
            Self::Name | Self::State => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    #[test]
    fn hosts_are_sorted_and_what_is_not_known_comes_last() {
        let overview = sample::overview();
        let order = |sort: Sort, reversed| {
            let sorted = sort.sorted(&overview.hosts, reversed, overview.now);
            sorted.iter().map(|vitals| vitals.host.name.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(order(Sort::Cpu, false), "web2 web1 db1 old1 dead1");
        assert_eq!(order(Sort::Cpu, true), "db1 web1 web2 old1 dead1");
        assert_eq!(order(Sort::Memory, false), "db1 web1 web2 old1 dead1");
        assert_eq!(order(Sort::Running, false), "web1 db1 old1 web2 dead1");
        assert_eq!(order(Sort::Name, false), "db1 dead1 old1 web1 web2");
        assert_eq!(order(Sort::Name, true), "web2 web1 old1 dead1 db1");
        assert_eq!(order(Sort::State, false), "dead1 db1 old1 web1 web2");
    }

    #[test]
    fn each_order_has_a_key_and_a_successor() {
        let mut sort = Sort::default();
        for (expected, key, _) in Sort::ALL {
            assert_eq!((sort, Sort::of_key(key)), (expected, Some(expected)));
            sort = sort.next();
        }
        assert_eq!((sort, Sort::of_key('x')), (Sort::default(), None));
    }
}
