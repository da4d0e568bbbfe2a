//! Judging a member of an archive, before anything of it is written.

use std::{collections::BTreeSet, io::Read};

use tar::{EntryType, Header};

use crate::log::{self, excerpt};

/// Bytes of a name.
const NAME_BYTES: u64 = 4096;

/// Bytes of the attributes of PAX of one member.
const PAX_BYTES: u64 = 64 * 1024;

/// Directories below each other.
const DEPTH: usize = 64;

/// Bits of a mode that are kept: all of the owner, and reading and executing of others.
const KEPT: u32 = 0o755;

/// Why a member is not taken.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Its name leads nowhere, or out.
    #[error("its name {0}")]
    Name(&'static str),
    /// It is no file, directory or link.
    #[error("it is {0}, which no release may have")]
    Kind(&'static str),
    /// Where it leads.
    #[error("it is a link to '{0}', which {1}")]
    Link(String, &'static str),
    /// Two places say different things of it.
    #[error("the archive says two things about it: {0}")]
    Confused(&'static str),
    /// What describes it is too long.
    #[error("its name or its attributes are too long")]
    Long,
    /// What describes it is malformed.
    #[error("its attributes (PAX) are malformed")]
    Pax,
    /// It has content where there can be none.
    #[error("it is no file, and has content")]
    Content,
}

/// What is to be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// With its target as it is written.
    Symbolic(String),
    /// With the names of its target, from the root on.
    Hard(Vec<String>),
}

/// A member that may be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its names, from the root on; none for the root itself.
    pub(super) path: Vec<String>,
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) mode: u32,
    /// Whether its mode gave rights to others that are not kept.
    pub(super) is_tamed: bool,
}

/// What stands before a member, in place of its header: names of the format GNU, attributes of PAX.
#[derive(Default)]
pub(super) struct Overrides {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

/// Those attributes that matter.
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Overrides {
    /// Takes an entry if it is one of these. Returns whether it was.
    pub(super) fn take(&mut self, kind: EntryType, size: u64, content: &mut impl Read) -> Result<bool, MemberError> {
        match kind {
            EntryType::GNULongName => put(&mut self.long_name, long(size, content)?)?,
            EntryType::GNULongLink => put(&mut self.long_link, long(size, content)?)?,
            EntryType::XHeader => put(&mut self.pax, Pax::read(&read(size, PAX_BYTES, content)?)?)?,
            EntryType::XGlobalHeader => {
                let pax = Pax::read(&read(size, PAX_BYTES, content)?)?;
                if pax.path.is_some() || pax.link.is_some() || pax.size.is_some() {
                    return Err(MemberError::Confused("one name or size for all that follow"));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.long_link.is_none() && self.pax.is_none()
    }
}

fn put<T>(place: &mut Option<T>, value: T) -> Result<(), MemberError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(MemberError::Confused("two names, or two sets of attributes")),
    }
}

fn read(size: u64, most: u64, content: &mut impl Read) -> Result<Vec<u8>, MemberError> {
    let mut bytes = Vec::new();
    if size > most {
        return Err(MemberError::Long);
    }
    content.take(size).read_to_end(&mut bytes).map_err(|_| MemberError::Pax)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(MemberError::Pax) }
}

/// A name of the format GNU, which ends with a zero byte.
fn long(size: u64, content: &mut impl Read) -> Result<Vec<u8>, MemberError> {
    let mut name = read(size, NAME_BYTES + 1, content)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

impl Pax {
    /// Reads records of the form `LENGTH KEY=VALUE\n`, where LENGTH is that of the whole record.
    fn read(mut text: &[u8]) -> Result<Self, MemberError> {
        let (mut pax, mut seen) = (Self::default(), BTreeSet::new());
        while !text.is_empty() {
            let digits = text.iter().take(6).position(|byte| *byte == b' ').ok_or(MemberError::Pax)?;
            let length: usize =
                number(&text[..digits]).and_then(|length| length.try_into().ok()).ok_or(MemberError::Pax)?;
            if length <= digits + 1 || length > text.len() || text[length - 1] != b'\n' {
                return Err(MemberError::Pax);
            }
            let record = &text[digits + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(MemberError::Pax)?;
            let (key, value) = (&record[..equals], record[equals + 1..].to_vec());
            if !seen.insert(key.to_vec()) {
                return Err(MemberError::Confused("an attribute twice"));
            }
            match key {
                b"path" => pax.path = Some(value),
                b"linkpath" => pax.link = Some(value),
                b"size" => pax.size = Some(number(&value).ok_or(MemberError::Pax)?),
                key if key.starts_with(b"GNU.sparse") => return Err(MemberError::Kind("a sparse file")),
                // Times, owners, remarks.
                _ => {}
            }
            text = &text[length..];
        }
        Ok(pax)
    }
}

/// A number in decimal digits alone.
fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

impl Member {
    /// Judges a member by its header and by what stood before it. An error comes with its name, if that is known.
    pub(super) fn judge(
        header: &Header,
        size: u64,
        overrides: Overrides,
    ) -> Result<Self, (Option<String>, MemberError)> {
        let Overrides { long_name, long_link, pax } = overrides;
        let pax = pax.unwrap_or_default();
        let bare = |error| (None, error);
        let name = one(long_name, pax.path).map_err(bare)?.unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = excerpt(&String::from_utf8_lossy(&name), log::NAME);
        let failed = |error| (Some(shown.clone()), error);
        let path = names(&name).map_err(|problem| failed(MemberError::Name(problem)))?;
        if pax.size.is_some_and(|other| other != size) {
            return Err(failed(MemberError::Confused("its size")));
        }

        let link = one(long_link, pax.link).map_err(failed)?;
        let link = link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let kind = match header.entry_type() {
            EntryType::Regular if name.ends_with(b"/") => {
                return Err(failed(MemberError::Name("ends with a slash, and it is a file")));
            }
            EntryType::Regular => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symbolic(symbolic(&link, &path).map_err(failed)?),
            EntryType::Link => Kind::Hard(hard(&link).map_err(failed)?),
            EntryType::Char | EntryType::Block => return Err(failed(MemberError::Kind("a device"))),
            EntryType::Fifo => return Err(failed(MemberError::Kind("a named pipe"))),
            EntryType::GNUSparse => return Err(failed(MemberError::Kind("a sparse file"))),
            _ => return Err(failed(MemberError::Kind("of an unknown kind"))),
        };
        if path.is_empty() && kind != Kind::Directory {
            return Err(failed(MemberError::Name("is that of the release itself")));
        }
        if kind != Kind::File && size > 0 {
            return Err(failed(MemberError::Content));
        }
        let mode = header.mode().map_err(|_| failed(MemberError::Confused("its mode is none")))? & 0o7777;
        // Links have no mode of their own.
        let is_tamed = matches!(kind, Kind::File | Kind::Directory) && mode & !KEPT != 0;
        Ok(Self { path, kind, size, mode: mode & KEPT, is_tamed })
    }
}

/// What stands before a member twice is confused.
fn one(long: Option<Vec<u8>>, pax: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, MemberError> {
    match (long, pax) {
        (Some(_), Some(_)) => Err(MemberError::Confused("a name of the format GNU and one of PAX")),
        (long, pax) => Ok(long.or(pax)),
    }
}

/// Text without what would confuse whoever reads it.
fn text(bytes: &[u8]) -> Result<&str, &'static str> {
    if bytes.len() as u64 > NAME_BYTES {
        return Err("is too long");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    if text.is_empty() {
        Err("is empty")
    } else if text.chars().any(char::is_control) {
        Err("has a control character")
    } else {
        Ok(text)
    }
}

/// The names of a path from the root on. It may begin with `./`, and end with a slash.
fn names(path: &[u8]) -> Result<Vec<String>, &'static str> {
    let path = text(path)?;
    if path.starts_with('/') {
        return Err("is absolute");
    }
    let path = path.strip_prefix("./").unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() || path == "." {
        return Ok(Vec::new());
    }
    let names: Vec<String> = path.split('/').map(str::to_owned).collect();
    if names.iter().any(|name| name == "..") {
        Err("leads up (..)")
    } else if names.iter().any(|name| name.is_empty() || name == ".") {
        Err("has an empty part or a single dot")
    } else if names.len() > DEPTH {
        Err("is more than 64 directories deep")
    } else {
        Ok(names)
    }
}

/// The target of a symbolic link at `path`. Only at its beginning it may lead up: there it leads from a real directory
/// through real ones. Behind that may be other links, which all stay within, too.
fn symbolic(target: &[u8], path: &[String]) -> Result<String, MemberError> {
    let shown = || excerpt(&String::from_utf8_lossy(target), log::NAME);
    let failed = |problem| MemberError::Link(shown(), problem);
    let text = text(target).map_err(failed)?;
    if text.starts_with('/') {
        return Err(failed("is absolute"));
    }
    let (mut depth, mut is_down) = (path.len().saturating_sub(1), false);
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if is_down => return Err(failed("leads down and then up (..)")),
            ".." => depth = depth.checked_sub(1).ok_or_else(|| failed("leads out of the release"))?,
            _ => is_down = true,
        }
    }
    Ok(text.to_owned())
}

/// The target of a hard link: the names of a file from the root on.
fn hard(target: &[u8]) -> Result<Vec<String>, MemberError> {
    let failed = |problem| MemberError::Link(excerpt(&String::from_utf8_lossy(target), log::NAME), problem);
    let names = names(target).map_err(failed)?;
    if names.is_empty() { Err(failed("is the release itself")) } else { Ok(names) }
}
