//! How text looks on a terminal. The printer takes the colours off where they are not wanted.

use anstyle::{AnsiColor, Style};
use protocol::outcome::State;

/// Headings of tables, names of fields.
pub const HEADING: Style = Style::new().bold();
/// What ended well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What failed.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What deserves a look.
pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Advice.
pub const HINT: Style = AnsiColor::Cyan.on_default();
/// What matters less.
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
        State::Failed | State::TimedOut | State::Interrupted | State::Rejected => BAD,
    }
}

/// Text from elsewhere made safe for a terminal: control characters, which could move the cursor or
/// forge a line, are replaced.
pub fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
