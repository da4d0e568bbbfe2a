//! Patterns for names and for single words. They are narrow on purpose: what they let through is handed to programs.
//!
//! `*` stands for any number of plain characters, `?` for one, `\` takes the special meaning from the next character.
//! Plain are letters, digits and `-_.:@,+=%`. So a wildcard takes no `/`, no blank, no quote, nothing that a shell
//! interprets, and no control character. It does not take `..` or a leading `-` either: neither can a path be left,
//! nor can an option be smuggled in. All of these are matched only where the pattern spells them out.

use std::fmt;

/// A pattern, matched against a whole word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Literal(char),
    One,
    Any,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing would match it.
    #[error("it is empty")]
    Empty,
    /// It cannot be meant.
    #[error("it has more than {LONGEST} characters")]
    Long,
    /// A word with control characters is never matched.
    #[error("it has control characters, which nothing may match")]
    Control,
    /// The character that should be taken literally is missing.
    #[error("it ends with a lone '\\' (write '\\\\' for a backslash)")]
    Escape,
    /// Elsewhere this means more than one star.
    #[error("it has '**': '*' never takes a '/', so name each part of the path")]
    Stars,
    /// A path could be left by it.
    #[error("it has '..' besides a wildcard: write the path that is meant")]
    Parent,
}

/// Longer patterns cannot be meant.
const LONGEST: usize = 1024;

/// What a wildcard takes.
fn is_plain(char: char) -> bool {
    char.is_alphanumeric() || "-_.:@,+=%".contains(char)
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The text is no pattern, or one that is easily misunderstood.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.chars().nth(LONGEST).is_some() {
            return Err(PatternError::Long);
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::Control);
        }

        let (mut parts, mut chars) = (Vec::new(), text.chars());
        while let Some(char) = chars.next() {
            parts.push(match char {
                '\\' => Part::Literal(chars.next().ok_or(PatternError::Escape)?),
                '?' => Part::One,
                '*' => Part::Any,
                char => Part::Literal(char),
            });
        }
        if parts.windows(2).any(|pair| pair == [Part::Any, Part::Any]) {
            return Err(PatternError::Stars);
        }
        let pattern = Self { text: text.to_owned(), parts };
        let dots = [Part::Literal('.'), Part::Literal('.')];
        if pattern.is_wild() && pattern.parts.windows(2).any(|pair| pair == dots) {
            return Err(PatternError::Parent);
        }
        Ok(pattern)
    }

    /// Whether it has wildcards.
    pub fn is_wild(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Literal(_)))
    }

    /// The one word that it matches, where it has no wildcards.
    pub fn literal(&self) -> Option<String> {
        let literal = |part: &Part| if let Part::Literal(char) = part { Some(*char) } else { None };
        self.parts.iter().map(literal).collect()
    }

    /// Whether it matches all of `word`. The time is at most the product of both lengths.
    pub fn matches(&self, word: &str) -> bool {
        self.walk(word, || ())
    }

    /// Calls `step` for each character that is looked at, as often as that happens.
    fn walk(&self, word: &str, mut step: impl FnMut()) -> bool {
        let word: Vec<char> = word.chars().collect();
        if self.is_wild() && word.windows(2).any(|pair| pair == ['.', '.']) {
            return false;
        }
        let takes = |at: usize| is_plain(word[at]) && !(at == 0 && word[at] == '-');
        // After a mismatch, the last star takes one character more.
        let (mut part, mut at, mut star) = (0, 0, None);
        while at < word.len() {
            step();
            match self.parts.get(part) {
                Some(Part::Literal(char)) if *char == word[at] => (part, at) = (part + 1, at + 1),
                Some(Part::One) if takes(at) => (part, at) = (part + 1, at + 1),
                Some(Part::Any) => {
                    star = Some((part, at));
                    part += 1;
                }
                _ => match star {
                    Some((starred, from)) if takes(from) => {
                        star = Some((starred, from + 1));
                        (part, at) = (starred + 1, from + 1);
                    }
                    _ => return false,
                },
            }
        }
        self.parts[part..].iter().all(|part| *part == Part::Any)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, word: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(word)
    }

    #[test]
    fn patterns_match_whole_words() {
        for (pattern, word) in [
            ("ping", "ping"),
            ("collect-*", "collect-cpu"),
            ("collect-*", "collect-"),
            ("*@ops.example", "alice@ops.example"),
            ("web?", "web1"),
            ("a*b*c", "aXbXbXc"),
            (r"\*", "*"),
            (r"\...", "..."),
            ("/srv/*/log", "/srv/shop/log"),
            ("--now=*", "--now=yes"),
            ("-?", "-v"),
            ("../x", "../x"),
        ] {
            assert!(matches(pattern, word), "{pattern} {word}");
        }
        for (pattern, word) in [
            ("ping", "pin"),
            ("ping", "pings"),
            ("ping", "Ping"),
            ("web?", "web"),
            ("web?", "web12"),
            ("*@ops.example", "alice@ops.example.evil"),
            ("*@ops.example", "alice@opsXexample"),
            ("a*b", "abc"),
            ("?", ""),
        ] {
            assert!(!matches(pattern, word), "{pattern} {word}");
        }
    }

    #[test]
    fn wildcards_take_only_what_is_harmless() {
        for word in [
            "web; rm -rf /",
            "web$(id)",
            "web`id`",
            "web|id",
            "web&",
            "web>x",
            "web\n",
            "web\0",
            "web\u{1b}[2J",
            "web\u{202e}",
            "web\u{200b}",
            "web\u{2028}",
            "web 1",
            "web'",
            "web\"",
            "web/x",
            "web/../../etc/passwd",
            "web..",
            "web\\",
            "web*",
            "web{1,2}",
            "web#",
            "web~",
            "web!",
        ] {
            assert!(!matches("web*", word), "{word:?}");
        }
        for word in ["-rf", "--help", "-", "..", "/etc", ""] {
            assert!(!matches("?*", word), "{word:?}");
        }
        assert!(!matches("/srv/*/x", "/srv/../x") && !matches("/srv/.*", "/srv/.."));
    }

    #[test]
    fn what_is_easily_misunderstood_is_no_pattern() {
        for text in ["", "a\nb", "/srv/**", "a\\", "../*", "*.."] {
            assert!(Pattern::new(text).is_err(), "{text:?}");
        }
        assert!(Pattern::new(&"x".repeat(LONGEST + 1)).is_err());
    }

    #[test]
    fn no_pattern_takes_long() {
        let pattern = Pattern::new(&"a*".repeat(LONGEST / 2)).unwrap();
        let word = format!("{}!", "a".repeat(50_000));
        let mut steps = 0;
        assert!(!pattern.walk(&word, || steps += 1));
        // Backtracking over all stars would take more steps than there is time for.
        assert!(steps <= pattern.parts.len() * word.len(), "{steps}");
    }
}
