//! What happened in a round, in the order of time. It explains a violation.

use std::{collections::BTreeMap, sync::Mutex};

use protocol::time::{Millis, show_moment};

use super::{lock, now};

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Command(usize),
    Host(usize),
    Everybody,
}

struct Note {
    at: Millis,
    about: About,
    text: String,
}

/// All notes of a round.
#[derive(Default)]
pub(super) struct History {
    notes: Mutex<Vec<Note>>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
}

/// Faults that were at most so long before the first or after the last note of a command belong to its history.
const NEARBY_MS: Millis = 1500;

impl History {
    pub(super) fn note(&self, about: About, text: impl Into<String>) {
        lock(&self.notes).push(Note { at: now(), about, text: text.into() });
    }

    /// Notes a fault and counts it.
    pub(super) fn fault(&self, name: &'static str, about: About, text: impl Into<String>) {
        *lock(&self.faults).entry(name).or_default() += 1;
        let text = text.into();
        self.note(about, if text.is_empty() { format!("FAULT {name}") } else { format!("FAULT {name}: {text}") });
    }

    /// How many faults there were, by kind.
    pub(super) fn faults(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.faults).clone()
    }

    /// When notes that contain `text` were made about `about`.
    pub(super) fn moments(&self, about: About, text: &str) -> Vec<Millis> {
        let notes = lock(&self.notes);
        notes.iter().filter(|note| note.about == about && note.text.contains(text)).map(|note| note.at).collect()
    }

    /// A command's history: its own notes, the faults near them, and further lines that begin with their time, in
    /// the order of time.
    pub(super) fn of_command(&self, command: usize, host: usize, more: Vec<String>) -> String {
        let notes = lock(&self.notes);
        let own = || notes.iter().filter(|note| note.about == About::Command(command)).map(|note| note.at);
        let from = own().min().unwrap_or(0).saturating_sub(NEARBY_MS);
        let to = own().max().unwrap_or(0).saturating_add(NEARBY_MS);
        let near = |note: &&Note| match note.about {
            About::Command(number) => number == command,
            About::Host(number) => number == host && (from..=to).contains(&note.at),
            About::Everybody => (from..=to).contains(&note.at),
        };
        let mut lines: Vec<String> =
            notes.iter().filter(near).map(|note| format!("{} {}", show_moment(note.at), note.text)).collect();
        lines.extend(more);
        // The common part of all times: workers write microseconds, the harness milliseconds.
        lines.sort_by_key(|line| line.chars().take("2026-11-22T12:00:00.123".len()).collect::<String>());
        lines.join("\n")
    }
}
