//! Lists of patterns, as OpenSSH matches them.

/// Whether a text matches a comma-separated list of patterns: one of them, and none of those behind a `!`.
///
/// Bytes are matched and not letters, as OpenSSH does: a `?` that stood for a whole letter would accept more.
pub(super) fn matches_list(text: &str, list: &str) -> bool {
    let mut is_matched = false;
    for pattern in list.split(',') {
        let (is_negated, pattern) = pattern.strip_prefix('!').map_or((false, pattern), |pattern| (true, pattern));
        if matches(text.as_bytes(), pattern.as_bytes()) {
            if is_negated {
                return false;
            }
            is_matched = true;
        }
    }
    is_matched
}

/// Whether a text matches one pattern with `*` and `?`. The time is bounded by the product of the lengths.
fn matches(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut pattern_at) = (0, 0);
    // Behind the last star, and what of the text it stands before.
    let mut retry = None;
    while at < text.len() {
        match pattern.get(pattern_at) {
            Some(b'*') => {
                pattern_at += 1;
                retry = Some((pattern_at, at));
            }
            Some(letter) if *letter == b'?' || *letter == text[at] => {
                at += 1;
                pattern_at += 1;
            }
            _ => {
                let Some((behind, from)) = retry else { return false };
                pattern_at = behind;
                at = from + 1;
                retry = Some((behind, at));
            }
        }
    }
    pattern[pattern_at..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the words of the manual say, without a thought of time.
    fn plainly(text: &[u8], pattern: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|taken| plainly(&text[taken..], rest)),
            Some((letter, rest)) => {
                text.first().is_some_and(|first| *letter == b'?' || letter == first) && plainly(&text[1..], rest)
            }
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_the_manual_says(text in "[ab]{0,8}", pattern in "[ab*?]{0,8}") {
            prop_assert_eq!(matches(text.as_bytes(), pattern.as_bytes()), plainly(text.as_bytes(), pattern.as_bytes()));
        }
    }

    #[test]
    fn a_negated_pattern_outweighs_all_others() {
        for (list, expected) in
            [("ann", true), ("*,!ann", false), ("!ann,*", false), ("!bob", false), ("!bob,a*", true), ("", false)]
        {
            assert_eq!(matches_list("ann", list), expected, "{list}");
        }
    }
}
