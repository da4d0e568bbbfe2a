//! Log lines: readable on a terminal, or one JSON object a line.

use std::{fmt, io::IsTerminal, str::FromStr};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("'{text}' is not a log format: use text or json")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Sends all that is traced at `level` or above to standard error.
pub fn init(level: tracing::Level, format: Format) {
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(std::io::stderr);
    match format {
        Format::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).init();
        }
        Format::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
    }
}

/// Text from outside, fit to stand in a line: at most `limit` characters, none that controls a terminal.
pub fn excerpt(text: &str, limit: usize) -> String {
    let mut rest = text.chars().map(|char| if char.is_control() { '?' } else { char });
    let mut kept: String = rest.by_ref().take(limit).collect();
    if rest.next().is_some() {
        kept.push('…');
    }
    kept
}

/// How much of a name from outside is shown.
pub const NAME: usize = 80;

/// How much of a sentence that may quote what came from outside is shown.
pub const SENTENCE: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_stays_in_its_line() {
        assert_eq!(excerpt("exec", 80), "exec");
        assert_eq!(excerpt("a\n\x1b[2Jé", 80), "a??[2Jé");
        assert_eq!(excerpt("ééé", 2), "éé…");
    }
}
