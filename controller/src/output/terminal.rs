//! Text from hosts made harmless on a terminal.
//!
//! A terminal obeys what it is sent: an escape sequence can set its title, fill the clipboard, or paint over what is
//! on the screen. Of all that, only colours pass. Everything else is shown instead of obeyed: `\x1b]0;title\x07`.

use std::borrow::Cow;

/// The control character that begins every sequence.
const ESCAPE: u8 = 0x1b;

/// Takes all colours off.
const RESET: &str = "\x1b[0m";

/// Bytes of a colour sequence at most; longer ones are shown.
const SEQUENCE: usize = 64;

/// Bytes of the sequences that made the current colours at most; beyond that the newest is enough.
const COLOURS: usize = 4 * SEQUENCE;

/// Whether a terminal would obey this character, or let it change the order of the text around it.
pub fn is_harmful(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON whose strings hold no such character: JSON itself escapes the first 32 characters only.
pub fn harmless_json(text: &str) -> Cow<'_, str> {
    let is_bad = |character: char| character != '\n' && is_harmful(character);
    if !text.contains(is_bad) {
        return text.into();
    }
    let escaped = |character: char| {
        if is_bad(character) { format!("\\u{:04x}", u32::from(character)) } else { character.to_string() }
    };
    text.chars().map(escaped).collect::<String>().into()
}

/// A whole text made harmless. Colours, line ends and tabs pass.
pub fn harmless(text: &str) -> String {
    let mut filter = Filter::of_lines();
    filter.pass(text.as_bytes()) + &filter.end()
}

/// Makes one stream of bytes harmless, in pieces of any size.
#[derive(Default)]
pub struct Filter {
    /// A sequence or character whose end has not arrived.
    begun: Vec<u8>,
    /// The sequences that made the current colours.
    colours: String,
    /// Whether a carriage return is shown rather than obeyed, except at the end of a line.
    shows_returns: bool,
}

/// What stands at the beginning of some bytes.
enum Token {
    /// This character.
    Text(char),
    /// A sequence of so many bytes that sets colours.
    Colour(usize),
    /// A byte that is no text.
    Byte(u8),
    /// More must arrive to tell.
    Incomplete,
}

impl Filter {
    /// For lines that begin with their host's name, which no carriage return may paint over.
    pub fn of_lines() -> Self {
        Self { shows_returns: true, ..Self::default() }
    }

    /// The next bytes made harmless. Colours end with the piece and go on with the next, so that nothing else that is
    /// printed has them.
    pub fn pass(&mut self, bytes: &[u8]) -> String {
        let bytes = [std::mem::take(&mut self.begun).as_slice(), bytes].concat();
        let (before, mut text) = (self.colours.clone(), String::new());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let length = match token(rest) {
                Token::Incomplete => {
                    self.begun = rest.to_vec();
                    break;
                }
                Token::Colour(length) => {
                    let sequence = String::from_utf8_lossy(&rest[..length]);
                    self.paint(&sequence);
                    text.push_str(&sequence);
                    length
                }
                Token::Text('\r') if self.shows_returns => {
                    text.push_str(if rest.get(1) == Some(&b'\n') { "" } else { "\\r" });
                    1
                }
                Token::Text(character) => {
                    text.push_str(&shown(character));
                    character.len_utf8()
                }
                Token::Byte(byte) => {
                    text.push_str(&hexadecimal(byte));
                    1
                }
            };
            rest = &rest[length..];
        }

        if text.is_empty() {
            return text;
        }
        text.insert_str(0, &before);
        if !self.colours.is_empty() {
            // The background of the next line would keep the colour.
            let end = text.strip_suffix('\n').map_or(text.len(), str::len);
            text.insert_str(end, RESET);
        }
        text
    }

    /// What has begun and never ends.
    pub fn end(&mut self) -> String {
        let begun = std::mem::take(&mut self.begun);
        let visible = |byte: u8| if byte.is_ascii_graphic() { char::from(byte).into() } else { hexadecimal(byte) };
        begun.into_iter().map(visible).collect()
    }

    /// Takes note of a sequence that sets colours.
    fn paint(&mut self, sequence: &str) {
        let parameters = &sequence[2..sequence.len() - 1];
        let first = parameters.split(';').next().unwrap_or_default();
        if first.bytes().all(|digit| digit == b'0') || self.colours.len() + sequence.len() > COLOURS {
            self.colours.clear();
        }
        if parameters.bytes().any(|byte| !matches!(byte, b'0' | b';' | b':')) {
            self.colours.push_str(sequence);
        }
    }
}

/// The first token of some bytes, which are at least one.
fn token(bytes: &[u8]) -> Token {
    if bytes[0] == ESCAPE {
        return sequence(bytes);
    }
    // No character is longer than four bytes.
    let window = &bytes[..bytes.len().min(4)];
    let error = match str::from_utf8(window) {
        Ok(text) => return text.chars().next().map_or(Token::Incomplete, Token::Text),
        Err(error) => error,
    };
    let text = str::from_utf8(&window[..error.valid_up_to()]).unwrap_or_default();
    match text.chars().next() {
        Some(character) => Token::Text(character),
        None if error.error_len().is_none() => Token::Incomplete,
        None => Token::Byte(bytes[0]),
    }
}

/// A sequence that sets colours (`ESC [ … m`), or else its first character alone.
fn sequence(bytes: &[u8]) -> Token {
    let alone = Token::Text(char::from(ESCAPE));
    match bytes.get(1) {
        None => return Token::Incomplete,
        Some(b'[') => {}
        Some(_) => return alone,
    }
    let end = bytes.iter().skip(2).position(|byte| !matches!(byte, b'0'..=b'9' | b';' | b':'));
    match end.map(|end| end + 2) {
        None if bytes.len() < SEQUENCE => Token::Incomplete,
        Some(end) if bytes[end] == b'm' && end < SEQUENCE => Token::Colour(end + 1),
        _ => alone,
    }
}

/// A character as it is shown.
fn shown(character: char) -> String {
    match u8::try_from(character) {
        Ok(b'\n' | b'\t' | b'\r') => character.into(),
        _ if !is_harmful(character) => character.into(),
        Ok(byte) if byte.is_ascii() => hexadecimal(byte),
        _ => format!("\\u{{{:x}}}", u32::from(character)),
    }
}

fn hexadecimal(byte: u8) -> String {
    format!("\\x{byte:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that arrives in pieces of `size` bytes.
    fn in_pieces(bytes: &[u8], size: usize) -> String {
        let mut filter = Filter::default();
        let text: String = bytes.chunks(size).map(|piece| filter.pass(piece)).collect();
        text + &filter.end()
    }

    #[test]
    fn only_colours_pass() {
        for (printed, expected) in [
            ("plain\ttext, é, 日本\n", "plain\ttext, é, 日本\n"),
            ("\x1b[2J\x1b[1;1Hgone", "\\x1b[2J\\x1b[1;1Hgone"),
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("\x1b]52;c;ZXZpbA==\x1b\\", "\\x1b]52;c;ZXZpbA==\\x1b\\"),
            ("\x1bP1$r\x1b\\", "\\x1bP1$r\\x1b\\"),
            ("\u{9b}2J\u{9d}0;x\u{9c}", "\\u{9b}2J\\u{9d}0;x\\u{9c}"),
            ("a\x08b\x0c\x7f\0", "a\\x08b\\x0c\\x7f\\x00"),
            ("10 %\r20 %\r\n", "10 %\r20 %\r\n"),
            ("safe\u{202e}exe", "safe\\u{202e}exe"),
            ("\x1b[?25l\x1b[>4m", "\\x1b[?25l\\x1b[>4m"),
            ("\x1b", "\\x1b"),
            ("\x1b[31", "\\x1b[31"),
        ] {
            for size in [1, 2, 3, 100] {
                assert_eq!(in_pieces(printed.as_bytes(), size), expected, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_shown() {
        for size in [1, 2, 100] {
            assert_eq!(in_pieces(b"\x9b2J \xff \xc3(", size), "\\x9b2J \\xff \\xc3(");
            assert_eq!(in_pieces("é日😀".as_bytes(), size), "é日😀");
        }
        assert_eq!(in_pieces(b"\xe6\x97", 1), "\\xe6\\x97");
    }

    #[test]
    fn colours_end_with_their_piece_and_go_on_with_the_next() {
        let mut filter = Filter::default();
        assert_eq!(filter.pass(b"\x1b[31mred\n"), "\x1b[31mred\x1b[0m\n");
        assert_eq!(filter.pass(b"\x1b[1mbold"), "\x1b[31m\x1b[1mbold\x1b[0m");
        assert_eq!(filter.pass(b"\x1b[mplain"), "\x1b[31m\x1b[1m\x1b[mplain");
        assert_eq!(filter.pass(b"still\n"), "still\n");
        assert_eq!(filter.pass(b"\x1b[0;32mgreen"), "\x1b[0;32mgreen\x1b[0m");
        for _ in 0..1000 {
            filter.pass(b"\x1b[38;2;10;20;30m");
        }
        assert!(filter.colours.len() <= COLOURS);
        let endless = [b"\x1b[".as_slice(), &[b'1'; 1000]].concat();
        assert!(in_pieces(&endless, 7).starts_with("\\x1b[111"));
    }

    #[test]
    fn a_line_behind_its_hosts_name_stays_behind_it() {
        assert_eq!(Filter::of_lines().pass(b"x\rweb2 | ok\r\n"), "x\\rweb2 | ok\n");
    }

    #[test]
    fn json_has_no_control_characters() {
        assert_eq!(harmless_json("{\n\"a\u{9b}\u{7f}é\": 1}"), "{\n\"a\\u009b\\u007fé\": 1}");
        assert_eq!(harmless("a\x1b[31mb\x07"), "a\x1b[31mb\\x07\x1b[0m");
    }
}
