//! Hints for words that are spelled nearly right.

/// The known word that was probably meant, as the end of a sentence.
pub(crate) fn did_you_mean(word: &str, known: &[&str]) -> String {
    let distance = |known: &&&str| strsim::damerau_levenshtein(word, known);
    let closest = known.iter().min_by_key(distance).filter(|known| distance(known) <= 2);
    closest.map(|known| format!(" (did you mean '{known}'?)")).unwrap_or_default()
}
