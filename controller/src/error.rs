//! Errors as they are told to people: what went wrong, and what to do about it.

use std::fmt;

/// An error with hints.
#[derive(Debug)]
pub struct Advice {
    message: String,
    hints: Vec<String>,
}

impl Advice {
    /// An error that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hints: Vec::new() }
    }

    /// Adds a line that says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a line where there is something to say.
    #[must_use]
    pub fn maybe_hint(self, hint: Option<impl Into<String>>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// What to do, a line each.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Advice {}

/// The hints that an error carries, however deep.
pub fn hints(error: &anyhow::Error) -> Vec<String> {
    let advice = error.chain().filter_map(|cause| cause.downcast_ref::<Advice>());
    advice.flat_map(|advice| advice.hints().to_vec()).collect()
}

/// The known word that `word` was probably meant to be.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Two slips in a short word, more in a longer one; a prefix typed short counts as close too.
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(word, candidate);
            let part = word.len() >= 3 && candidate.contains(word);
            (if part { distance.min(allowed) } else { distance }, candidate)
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["collect-cpu", "collect-memory", "ping", "exec"];
        for (typed, meant) in [("colect-cpu", "collect-cpu"), ("pnig", "ping"), ("memory", "collect-memory")] {
            assert_eq!(closest(typed, known), Some(meant));
        }
        assert_eq!(closest("restart", known), None);
    }

    #[test]
    fn hints_are_found_under_context() {
        let error = anyhow::Error::new(Advice::new("no").hint("yes")).context("outer");
        assert_eq!(hints(&error), ["yes"]);
    }
}
