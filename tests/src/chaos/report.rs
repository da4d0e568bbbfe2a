//! The report of a run.

use std::{collections::BTreeMap, fmt};

/// A broken promise.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) what: String,
    /// The history of the command that shows it.
    pub(super) history: String,
}

/// The report of a run; it is displayed for people.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed of all that was random.
    pub seed: u64,
    pub(super) rounds: Vec<String>,
    /// Commands by action and state.
    pub(super) commands: BTreeMap<(String, String), u64>,
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) violations: Vec<Violation>,
    pub(super) most_memory_kb: u64,
    pub(super) skipped: Vec<String>,
    pub(super) replay: String,
}

impl Report {
    /// How many commands were judged.
    pub fn commands(&self) -> u64 {
        self.commands.values().sum()
    }

    /// How many faults were injected.
    pub fn faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// The violations, in a line each.
    pub fn violations(&self) -> Vec<&str> {
        self.violations.iter().map(|violation| violation.what.as_str()).collect()
    }

    pub(super) fn add(&mut self, other: Self) {
        self.rounds.extend(other.rounds);
        other.commands.into_iter().for_each(|(key, count)| *self.commands.entry(key).or_default() += count);
        other.faults.into_iter().for_each(|(key, count)| *self.faults.entry(key).or_default() += count);
        self.violations.extend(other.violations);
        self.most_memory_kb = self.most_memory_kb.max(other.most_memory_kb);
        self.skipped.extend(other.skipped);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "chaos, seed {}: rounds {}", self.seed, self.rounds.join(", "))?;
        self.skipped.iter().try_for_each(|skipped| writeln!(out, "skipped: {skipped}"))?;
        writeln!(out, "{} commands:", self.commands())?;
        let mut actions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((action, state), count) in &self.commands {
            actions.entry(action).or_default().push(format!("{count} {state}"));
        }
        for (action, states) in actions {
            writeln!(out, "  {action:<16} {}", states.join(", "))?;
        }
        writeln!(out, "{} faults:", self.faults())?;
        self.faults.iter().try_for_each(|(name, count)| writeln!(out, "  {count:>6} {name}"))?;
        writeln!(out, "most memory of a worker: {} kB", self.most_memory_kb)?;
        writeln!(out, "{} violations", self.violations.len())?;
        self.violations.iter().take(20).try_for_each(|violation| writeln!(out, "  {}", violation.what))?;
        let first = self.violations.iter().find(|violation| !violation.history.is_empty());
        if let Some(first) = first {
            writeln!(out, "\nthe history of one of them:\n{}\n", first.history)?;
        }
        if !self.violations.is_empty() {
            writeln!(out, "again: {}", self.replay)?;
        }
        Ok(())
    }
}
