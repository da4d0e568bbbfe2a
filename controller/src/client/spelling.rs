//! What a word that is not known was probably meant to be.

/// The known word that `word` was probably meant to be.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the word's characters may differ, at least one, at most four. A part of a known word is close too.
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
}
