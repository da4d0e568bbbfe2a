//! How text looks on a terminal. The printer takes the colours off where they are not wanted.

use std::borrow::Cow;

use anstyle::{AnsiColor, Style};
use protocol::outcome::State;

use super::terminal::is_harmful;

/// Headings of tables, names of fields.
pub const HEADING: Style = Style::new().bold();
/// Success.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Failure.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// A warning.
pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Advice.
pub const HINT: Style = AnsiColor::Cyan.on_default();
/// Ordinary text.
pub const PLAIN: Style = Style::new();
/// Less important text.
pub const DIM: Style = Style::new().dimmed();

/// `text` in that style.
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// The style of a state.
pub const fn of_state(state: State) -> Style {
    match state {
        State::Succeeded => GOOD,
        State::Queued | State::Delivered | State::Running => DIM,
        State::Expired | State::Cancelled => WARNING,
        State::Failed | State::TimedOut | State::Interrupted | State::Rejected | State::Unverified => BAD,
    }
}

/// Text from elsewhere that must stay in its line or cell: characters that could move the cursor or forge a line are
/// replaced.
pub fn plain(text: &str) -> String {
    text.chars().map(|character| if is_harmful(character) { '\u{fffd}' } else { character }).collect()
}

/// A word as a shell reads it.
pub fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.,~:%=+@".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''")).into()
}

/// A word of which nothing is hidden: characters that nobody sees are written as escapes, as in `$'a\nb'`.
pub fn exact(word: &str) -> Cow<'_, str> {
    let is_hidden = |letter: char| !matches!(letter, '\'' | '"' | '\\') && letter.escape_debug().len() > 1;
    if word.contains(is_hidden) { format!("$'{}'", word.escape_debug()).into() } else { quoted(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_alter_them() {
        let shown = ["-y", "a=b", "two words", "", "it's", "$HOME"].map(|word| quoted(word).into_owned());
        assert_eq!(shown, ["-y", "a=b", "'two words'", "''", r"'it'\''s'", "'$HOME'"]);
    }

    #[test]
    fn nothing_of_an_exact_word_is_hidden() {
        let shown = ["uname", "it's", "a\nb", "\u{202e}cod", "x\u{200b}", "größe"].map(|word| exact(word).into_owned());
        assert_eq!(shown, ["uname", r"'it'\''s'", r"$'a\nb'", r"$'\u{202e}cod'", r"$'x\u{200b}'", "'größe'"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
