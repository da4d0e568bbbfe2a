//! The file of those who are trusted, in OpenSSH's format (`ssh-keygen`(1), "ALLOWED SIGNERS").
//!
//! A line is `PRINCIPALS [OPTIONS] TYPE KEY [COMMENT]`. Whoever edits the file may err, and an error must not let
//! somebody in: whatever is unknown or odd breaks the whole file.

use super::{
    certificate::Certificate,
    fault::Fault,
    key::{self, Key, KeyError},
    moment,
    pattern::matches_list,
};
use crate::limits;

/// A pattern must be shorter, or OpenSSH does not match it.
const PATTERN_BYTES: usize = 1023;

/// The file, with its keys parsed.
#[derive(Clone, Debug, Default)]
pub struct AllowedSigners {
    version: u64,
    lines: Vec<Line>,
}

/// The line that lets a key, or what an authority's key certifies, speak for `principal` in one namespace. `None` where
/// the name would not stand for this one alone.
pub fn line(
    principal: &str,
    key: &Key,
    is_authority: bool,
    namespace: &str,
    valid_before: Option<&str>,
) -> Option<String> {
    let authority = if is_authority { "cert-authority," } else { "" };
    let until = valid_before.map(|until| format!(",valid-before=\"{until}\"")).unwrap_or_default();
    let line = format!("{principal} {authority}namespaces=\"{namespace}\"{until} {}", key.words());
    let is_odd = |letter: char| letter.is_whitespace() || letter.is_control() || "*?!,\"\\".contains(letter);
    let is_plain = !principal.starts_with('#') && !principal.contains(is_odd);
    Some(line).filter(|line| is_plain && Line::parse(1, line).is_ok_and(|line| line.is_for(principal)))
}

/// Whether a line of the file is the comment that states the version.
pub fn states_version(line: &str) -> bool {
    stated_version(line.trim()).is_some()
}

fn stated_version(line: &str) -> Option<&str> {
    line.strip_prefix('#')?.trim_start().strip_prefix("version:")
}

/// One line: whom a key speaks for.
#[derive(Clone, Debug)]
pub struct Line {
    number: usize,
    principals: String,
    options: Options,
    key: Key,
    comment: String,
}

#[derive(Clone, Debug, Default)]
struct Options {
    authority: bool,
    namespaces: Option<String>,
    valid_after: Option<u64>,
    valid_before: Option<u64>,
}

impl AllowedSigners {
    /// Reads the file.
    ///
    /// # Errors
    /// Anything in it is odd.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() > limits::TRUST_BYTES {
            let reason =
                format!("the file is larger than {} bytes; split the fleet, or use certificates", limits::TRUST_BYTES);
            return Err(Fault { line: 0, reason });
        }
        let mut version = None;
        let mut lines = Vec::new();
        for (line, number) in text.split('\n').zip(1..) {
            let fault = |reason| Fault { line: number, reason };
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.contains(|letter: char| letter == '\u{feff}' || (letter.is_control() && letter != '\t')) {
                return Err(fault("it has a control character; remove it".to_owned()));
            }
            let line = line.trim_matches([' ', '\t']);
            if line.starts_with('#') {
                let stated = stated_version(line).map(self::version);
                if let Some(stated) = stated.transpose().map_err(fault)?
                    && version.replace(stated).is_some()
                {
                    return Err(fault("the file states a second version; remove one of them".to_owned()));
                }
            } else if !line.is_empty() {
                lines.push(Line::parse(number, line).map_err(fault)?);
            }
        }
        Ok(Self { version: version.unwrap_or(0), lines })
    }

    /// What the comment `# version: N` says; 0 where there is none.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The lines, in the file's order.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
}

impl Line {
    fn parse(number: usize, line: &str) -> Result<Self, String> {
        let (principals, mut rest) = principals(line)?;
        check_patterns("principals", principals)?;
        let mut options = Options::default();
        if !is_key_type(first_word(rest)) {
            let (parsed, behind) = Options::parse(rest)?;
            options = parsed;
            rest = behind;
        }
        let (name, rest) = word(rest);
        let (base64, comment) = word(rest);
        if base64.is_empty() {
            return Err("it has no key; a line is 'PRINCIPALS [OPTIONS] TYPE KEY [COMMENT]'".to_owned());
        }
        if Certificate::is_named(name) {
            return Err(
                "it has a certificate; put the key of its authority here, with the option 'cert-authority'".to_owned()
            );
        }
        let key = Key::from_words(name, base64).map_err(|error| match error {
            KeyError::Malformed => {
                format!("its key is no key of type '{}'; copy it again from the .pub file", key::shown(name))
            }
            error @ KeyError::Algorithm(_) => error.to_string(),
        })?;
        Ok(Self { number, principals: principals.to_owned(), options, key, comment: comment.to_owned() })
    }

    /// Its number in the file, from 1.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Whom the key speaks for: patterns between commas.
    pub fn principals(&self) -> &str {
        &self.principals
    }

    /// Whether it speaks for this one.
    pub fn is_for(&self, principal: &str) -> bool {
        matches_list(principal, &self.principals)
    }

    /// Whether the key signs certificates, and nothing else.
    pub const fn is_authority(&self) -> bool {
        self.options.authority
    }

    /// The purposes that the key may sign for, as patterns; `None` is all.
    pub fn namespaces(&self) -> Option<&str> {
        self.options.namespaces.as_deref()
    }

    /// Whether the key may sign for this purpose.
    pub fn allows(&self, namespace: &str) -> bool {
        self.namespaces().is_none_or(|list| matches_list(namespace, list))
    }

    /// From when on it holds, in Unix seconds.
    pub const fn valid_after(&self) -> Option<u64> {
        self.options.valid_after
    }

    /// The last second in which it holds, in Unix seconds.
    pub const fn valid_before(&self) -> Option<u64> {
        self.options.valid_before
    }

    /// The key.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// What stands behind the key.
    pub fn comment(&self) -> &str {
        &self.comment
    }
}

impl Options {
    /// Reads the options at the beginning of `rest`; returns what is behind them.
    fn parse(mut rest: &str) -> Result<(Self, &str), String> {
        let mut options = Self::default();
        loop {
            let end = rest.find([',', '=', ' ', '\t', '"']).unwrap_or(rest.len());
            let (name, behind) = rest.split_at(end);
            rest = behind;
            let value = match rest.strip_prefix('=') {
                Some(quoted) => {
                    let (value, behind) = unquote(quoted).ok_or_else(|| {
                        format!(
                            "the value of its option '{}' is not in double quotes; write {0}=\"…\"",
                            key::shown(name)
                        )
                    })?;
                    rest = behind;
                    Some(value)
                }
                None => None,
            };
            options.set(&name.to_ascii_lowercase(), value)?;
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None if rest.is_empty() || rest.starts_with([' ', '\t']) => break,
                None => return Err("something stands between its options; put a comma between two of them".to_owned()),
            }
        }
        if let (Some(after), Some(before)) = (options.valid_after, options.valid_before)
            && before <= after
        {
            return Err("it is never valid: its 'valid-before' is not later than its 'valid-after'".to_owned());
        }
        Ok((options, rest.trim_start_matches([' ', '\t'])))
    }

    fn set(&mut self, name: &str, value: Option<String>) -> Result<(), String> {
        let is_second = match (name, value) {
            ("cert-authority", None) => std::mem::replace(&mut self.authority, true),
            ("namespaces", Some(list)) => {
                check_patterns("namespaces", &list)?;
                self.namespaces.replace(list).is_some()
            }
            ("valid-after", Some(moment)) => self.valid_after.replace(moment::parse(&moment)?).is_some(),
            ("valid-before", Some(moment)) => self.valid_before.replace(moment::parse(&moment)?).is_some(),
            ("cert-authority", Some(_)) => return Err("its option 'cert-authority' takes no value".to_owned()),
            ("namespaces" | "valid-after" | "valid-before", None) => {
                return Err(format!("its option '{name}' has no value; write {name}=\"…\""));
            }
            (name, _) if is_key_type(name) => return Err(format!("it has no key behind '{name}'")),
            (name, _) => {
                return Err(format!(
                    "its option '{}' is unknown; there are cert-authority, namespaces, valid-after and valid-before",
                    key::shown(name)
                ));
            }
        };
        if is_second { Err(format!("it has the option '{name}' twice; remove one of them")) } else { Ok(()) }
    }
}

/// The principals at the beginning of a line, without their quotes, and what is behind them.
fn principals(line: &str) -> Result<(&str, &str), String> {
    let (principals, behind) = if let Some(quoted) = line.strip_prefix('"') {
        quoted.split_once('"').ok_or("its principals have no closing quote")?
    } else {
        line.split_at(line.find([' ', '\t']).unwrap_or(line.len()))
    };
    // OpenSSH glues quoted parts and plain ones together. Nobody means that.
    if principals.contains('"') || !(behind.is_empty() || behind.starts_with([' ', '\t'])) {
        return Err("its principals are quoted in part; put quotes around all of them, or none".to_owned());
    }
    Ok((principals, behind.trim_start_matches([' ', '\t'])))
}

/// Refuses lists that OpenSSH would not match as they look.
fn check_patterns(what: &str, list: &str) -> Result<(), String> {
    for pattern in list.split(',') {
        let bare = pattern.strip_prefix('!').unwrap_or(pattern);
        if bare.is_empty() {
            return Err(format!("its {what} have an empty pattern; put exactly one comma between two of them"));
        }
        if bare.len() >= PATTERN_BYTES {
            return Err(format!("its {what} have a pattern of {PATTERN_BYTES} bytes or more; shorten it"));
        }
        if bare.starts_with(['!', ' ', '\t']) || bare.ends_with([' ', '\t']) {
            return Err(format!("its {what} have blanks around a pattern, or '!' twice; remove them"));
        }
    }
    Ok(())
}

/// The text in double quotes at the beginning, in which `\"` stands for a quote; and what is behind it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let inner = quoted.strip_prefix('"')?;
    let mut text = String::new();
    let mut letters = inner.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((text, &inner[at + 1..])),
            '\\' if letters.next_if(|(_, next)| *next == '"').is_some() => text.push('"'),
            letter => text.push(letter),
        }
    }
    None
}

fn is_key_type(word: &str) -> bool {
    key::ACCEPTED.contains(&word) || key::OTHERS.contains(&word) || Certificate::is_named(word)
}

fn first_word(text: &str) -> &str {
    word(text).0
}

/// The first word, and what is behind it and its blanks.
fn word(text: &str) -> (&str, &str) {
    let (word, behind) = text.split_at(text.find([' ', '\t']).unwrap_or(text.len()));
    (word, behind.trim_start_matches([' ', '\t']))
}

fn version(stated: &str) -> Result<u64, String> {
    let digits = stated.trim();
    let number = if digits.bytes().all(|digit| digit.is_ascii_digit()) { digits.parse().ok() } else { None };
    number.ok_or_else(|| "its version is no number; write '# version: 1', and raise it with each change".to_owned())
}

#[cfg(test)]
mod tests {
    use base64ct::{Base64, Encoding};
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = String> {
        any::<[u8; 32]>().prop_map(|seed| {
            let pair = ssh_key::private::Ed25519Keypair::from_seed(&seed);
            let key = ssh_key::PrivateKey::new(pair.into(), "").expect("a key");
            key.public_key().to_openssh().expect("a line")
        })
    }

    fn blanks() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![" ", "\t", "  ", " \t "])
    }

    /// A list of patterns that is taken as it looks.
    fn patterns() -> impl Strategy<Value = String> {
        prop::collection::vec("!?[a-z*?@.\u{e9}]{1,9}", 1..4).prop_map(|patterns| patterns.join(","))
    }

    proptest! {
        #[test]
        fn a_line_says_what_it_was_written_to_say(
            principals in patterns(),
            is_quoted: bool,
            namespaces in prop::option::of(patterns()),
            after in prop::option::of(1..4_000_000_000_u64),
            authority: bool,
            is_loud: bool,
            key in key(),
            blanks in blanks(),
            end in prop::sample::select(vec!["", "\n", "\r\n", " \n", "\n\n"]),
        ) {
            let mut options = Vec::new();
            options.extend(authority.then(|| "cert-authority".to_owned()));
            options.extend(namespaces.as_ref().map(|list| format!("namespaces=\"{list}\"")));
            let moment = |at: u64| moment::show(at).replace(['-', 'T', ':'], "");
            options.extend(after.map(|at| format!("valid-after=\"{}\",valid-before=\"{}\"", moment(at), moment(at + 9))));
            let options = options.join(",");
            let options = if is_loud { options.replace("namespaces", "NameSpaces") } else { options };
            let quote = if is_quoted { "\"" } else { "" };
            let line = format!("{blanks}{quote}{principals}{quote}{blanks}{options}{blanks}{key}{blanks}a remark{end}");
            let file = AllowedSigners::parse(&line).unwrap();
            let [line] = file.lines() else { panic!("one line") };
            prop_assert_eq!(line.principals(), principals);
            prop_assert_eq!(line.namespaces(), namespaces.as_deref());
            prop_assert_eq!(line.valid_after(), after);
            prop_assert_eq!(line.valid_before(), after.map(|at| at + 9));
            prop_assert_eq!(line.is_authority(), authority);
            prop_assert_eq!(format!("ssh-ed25519 {}", Base64::encode_string(line.key().blob())), key);
            prop_assert_eq!(line.comment(), "a remark");
        }

        #[test]
        fn one_odd_line_breaks_the_whole_file(
            before in prop::collection::vec(key(), 0..4),
            odd in prop::sample::select(vec![
                "ann", "ann ssh-ed25519", "ann ssh-ed25519 AAAA", "ann,,bob KEY", "\"ann KEY", "ann\"x\" KEY", "! KEY",
                "ann restrict KEY", "ann namespaces=git KEY", "ann namespaces=\"git KEY", "ann cert-authority,,x KEY",
                "ann valid-after=\"20301231\" KEY", "ann valid-before=\"20301331Z\" KEY", "ann\u{0} KEY", "ann\u{b}KEY",
                "ann valid-after=\"20300102Z\",valid-before=\"20300101Z\" KEY", "# version: one", "ann,bob ,eve KEY",
                "ann cert-authority,cert-authority KEY", "ann cert-authority=\"yes\" KEY", "\u{feff}# BOM",
            ]),
            behind in prop::collection::vec(key(), 0..4),
            key in key(),
        ) {
            let line = |key: &String| format!("ann {key}\n");
            let front: String = before.iter().map(line).collect();
            let back: String = behind.iter().map(line).collect();
            let sound = format!("{front}{back}");
            prop_assert!(AllowedSigners::parse(&sound).is_ok());
            let fault = AllowedSigners::parse(&format!("{front}{}\n{back}", odd.replace("KEY", &key))).unwrap_err();
            prop_assert_eq!(fault.line, before.len() + 1);
        }

        #[test]
        fn garbage_never_panics(text in "[ -~\t\r\n\u{e9}\"\",,!*]{0,200}") {
            if let Err(fault) = AllowedSigners::parse(&text) {
                prop_assert!(fault.line <= text.split('\n').count() && !fault.reason.is_empty());
            }
        }
    }

    #[test]
    fn a_file_beyond_the_limit_is_not_read() {
        let comment = "#".repeat(limits::TRUST_BYTES);
        assert!(AllowedSigners::parse(&comment).is_ok());
        assert!(AllowedSigners::parse(&(comment + "\n")).is_err_and(|fault| fault.reason.contains("larger than")));
    }
}
