//! The words of an expression, with their places.

use std::{borrow::Cow, ops::Range};

use winnow::{
    LocatingSlice, ModalResult, Parser,
    ascii::multispace0,
    combinator::{alt, opt, preceded, repeat_till},
    error::ErrMode,
    token::{any, take_while},
};

/// A word of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name, a number, or an unquoted text.
    Word(String),
    /// A text between quotes.
    Text(String),
    /// A comparison.
    Sign(Sign),
    Open,
    Close,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// `=`
    Is,
    /// `!=`
    IsNot,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
    /// `~`
    Like,
    /// `!~`
    Unlike,
}

impl Sign {
    /// All, each behind those that begin like it.
    const ALL: [(&str, Self); 9] = [
        ("!=", Self::IsNot),
        ("!~", Self::Unlike),
        ("<=", Self::AtMost),
        (">=", Self::AtLeast),
        ("==", Self::Is),
        ("=", Self::Is),
        ("<", Self::Less),
        (">", Self::More),
        ("~", Self::Like),
    ];

    /// As it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Is => "=",
            Self::IsNot => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::AtLeast => ">=",
            Self::Like => "~",
            Self::Unlike => "!~",
        }
    }
}

type Input<'a> = LocatingSlice<&'a str>;

/// A word with the bytes that it takes.
pub(super) type Placed = (Token, Range<usize>);

/// Takes an expression apart.
///
/// # Errors
/// The place of what cannot be read, and what is wrong with it.
pub(super) fn read(text: &str) -> Result<Vec<Placed>, (Range<usize>, &'static str)> {
    let mut input = LocatingSlice::new(text);
    let mut tokens = Vec::new();
    loop {
        let skipped: ModalResult<&str> = multispace0.parse_next(&mut input);
        if skipped.is_err() || input.is_empty() {
            return Ok(tokens);
        }
        let at = text.len() - input.len();
        match token.with_span().parse_next(&mut input) {
            Ok(placed) => tokens.push(placed),
            Err(_) if text[at..].starts_with(['"', '\'']) => return Err((at..text.len(), "its quote is never closed")),
            Err(_) => {
                let length = text[at..].chars().next().map_or(0, char::len_utf8);
                return Err((at..at + length, "it means nothing here; put texts with such characters in quotes"));
            }
        }
    }
}

fn token(input: &mut Input<'_>) -> ModalResult<Token> {
    alt((
        '('.value(Token::Open),
        ')'.value(Token::Close),
        quoted('"').map(Token::Text),
        quoted('\'').map(Token::Text),
        sign.map(Token::Sign),
        take_while(1.., is_plain).map(|word: &str| Token::Word(word.to_owned())),
    ))
    .parse_next(input)
}

/// What needs no quotes.
fn is_plain(char: char) -> bool {
    char.is_alphanumeric() || "_-.:/*?%+@".contains(char)
}

/// A text as an expression has it: in quotes where it would mean something else without.
pub(super) fn quoted_if_needed(text: &str) -> Cow<'_, str> {
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into();
    }
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"")).into()
}

fn sign(input: &mut Input<'_>) -> ModalResult<Sign> {
    for (text, sign) in Sign::ALL {
        if opt(text).parse_next(input)?.is_some() {
            return Ok(sign);
        }
    }
    Err(ErrMode::Backtrack(winnow::error::ContextError::new()))
}

/// A text between quotes, in which a backslash takes the meaning from the next character.
fn quoted<'a>(quote: char) -> impl Parser<Input<'a>, String, ErrMode<winnow::error::ContextError>> {
    let char = alt((preceded('\\', any), any));
    preceded(quote, repeat_till(0.., char, quote).map(|(text, _): (String, char)| text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_signs_and_texts_are_told_apart() {
        let tokens = read(r#"cpu.usage>=80% and(os ~ "a \"b\" (" )"#).unwrap();
        let tokens: Vec<_> = tokens.into_iter().map(|(token, _)| token).collect();
        let word = |text: &str| Token::Word(text.to_owned());
        let expected = [
            word("cpu.usage"),
            Token::Sign(Sign::AtLeast),
            word("80%"),
            word("and"),
            Token::Open,
            word("os"),
            Token::Sign(Sign::Like),
            Token::Text("a \"b\" (".to_owned()),
            Token::Close,
        ];
        assert_eq!(tokens, expected);
        assert_eq!(read("  ").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_read_has_a_place() {
        assert_eq!(read("os = 'x").unwrap_err().0, 5..7);
        assert_eq!(read("os = ä & b").unwrap_err().0, 8..9);
        assert_eq!(read("os ! b").unwrap_err().0, 3..4);
    }
}
