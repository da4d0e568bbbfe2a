//! Unpacking an archive (`.tar.gz`, `.tar.zst`) that may be hostile.
//!
//! All is written below one directory, the draft of a release, which nobody else can enter. A member is judged before
//! anything of it is written: by its name, its kind, and where a link of it leads. Directories are opened one below the
//! other without following any link, so whatever was judged wrongly could still not lead out. The reader of the format
//! (`tar`, raw headers) is told nothing about names and links: those of the formats GNU and PAX are read here, with bounds.
//!
//! Kept of a member are its name, its content, and its mode without what gives rights to others: set-user-id,
//! set-group-id, the sticky bit, and writing by group and others. Its owner is the one that the settings name, and its
//! time is now.

mod member;
mod root;

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read},
    path::Path,
};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::StreamingDecoder;
use tar::Archive;

pub use self::{member::MemberError, root::RootError};
use self::{
    member::{Kind, Member, Overrides},
    root::Root,
};
use crate::log::{self, excerpt};

/// How much may be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, directories and links.
    pub files: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: 1 << 30, files: 100_000 }
    }
}

/// Bytes of a member besides its content, at most: its header, names in the format of GNU, and attributes of PAX.
const MEMBER_OVERHEAD: u64 = 4096;

/// Zeros behind the last member.
const PADDING: u64 = 1 << 20;

/// What a window of zstd may take of memory.
const WINDOW: u64 = 8 << 20;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, directories and links.
    pub files: u64,
    /// How many had a mode that gave rights to others, which they do not have now.
    pub tamed: u64,
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Neither format.
    #[error("it is neither a .tar.gz nor a .tar.zst")]
    Format,
    /// It cannot be decompressed.
    #[error("it is damaged or cut off: {0}")]
    Damaged(String),
    /// It is not a tar archive.
    #[error("what is compressed in it is no tar archive: {0}")]
    NoArchive(String),
    /// It has no end.
    #[error("the archive is cut off: its end is missing")]
    CutOff,
    /// There is something behind it.
    #[error("there is something behind the end of the archive")]
    Behind,
    /// Nothing is in it.
    #[error("there is no file in it")]
    Empty,
    /// Too large.
    #[error("it unpacks to more than {0} bytes (max_bytes in the settings)")]
    Bytes(u64),
    /// Too many members.
    #[error("it has more than {0} files (max_files in the settings)")]
    Files(u64),
    /// Too much that is no content.
    #[error("it has far more headers and padding than files")]
    Overhead,
    /// A window that takes too much memory.
    #[error(
        "its zstd window of {0} bytes is larger than the {WINDOW} that are allowed: compress it without --long and --ultra"
    )]
    Window(u64),
    /// A member is not taken.
    #[error("{0}: {1}")]
    Member(String, MemberError),
    /// A member cannot be written.
    #[error("{0}: {1}")]
    Root(String, RootError),
    /// The command was ended.
    #[error("it was ended before all was unpacked")]
    Stopped,
}

/// Unpacks an archive into an empty directory. What is there after an error is to be removed. `owner`: user and group of
/// all, where they are not those of this process. `is_stopped` is asked now and then.
///
/// # Errors
/// The archive is refused, or cannot be written.
pub fn unpack(
    archive: impl Read,
    into: &Path,
    owner: Option<(u32, u32)>,
    bounds: Bounds,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Unpacked, UnpackError> {
    let root = Root::open(into, owner).map_err(|error| UnpackError::Root(".".into(), error))?;
    let mut work = Unpacking { root, bounds, is_stopped, done: Unpacked::default() };
    let mut archive = BufReader::with_capacity(BUFFER, archive);
    match *archive.fill_buf().map_err(damaged)? {
        [0x1f, 0x8b, ..] => work.members(GzDecoder::new(&mut archive))?,
        [0x28, 0xb5, 0x2f, 0xfd, ref header @ ..] => {
            let window = window(header).ok_or_else(|| UnpackError::Damaged("its header is cut off".into()))?;
            if window > WINDOW {
                return Err(UnpackError::Window(window));
            }
            let decoder = StreamingDecoder::new(&mut archive);
            work.members(decoder.map_err(|error| UnpackError::Damaged(log::with_sources(&error)))?)?;
        }
        _ => return Err(UnpackError::Format),
    }
    if !archive.fill_buf().map_err(damaged)?.is_empty() {
        return Err(UnpackError::Behind);
    }
    if work.done.files == 0 {
        return Err(UnpackError::Empty);
    }
    Ok(work.done)
}

/// Bytes that are read or copied at once.
const BUFFER: usize = 64 * 1024;

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err calls")]
fn damaged(error: io::Error) -> UnpackError {
    UnpackError::Damaged(log::with_sources(&error))
}

/// The window of a zstd frame, by what stands behind its magic number: see RFC 8878, 3.1.1.1.
fn window(header: &[u8]) -> Option<u64> {
    let (descriptor, rest) = header.split_first()?;
    if descriptor & 0x20 == 0 {
        let byte = u64::from(*rest.first()?);
        let base = 1_u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // The whole content is the window. Its size stands behind the id of a dictionary.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (bytes, add) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let size = rest.get(dictionary..dictionary + bytes)?;
    Some(size.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte)) + add)
}

/// What comes out of the decoder, of which no more is read than the bounds can need.
struct Metered<R> {
    reader: R,
    left: u64,
    /// Why nothing more came.
    ended: Option<Ended>,
}

enum Ended {
    /// That was all.
    Whole,
    /// The bounds.
    TooMuch,
    /// It cannot be decompressed.
    Damaged(String),
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.ended = Some(Ended::TooMuch);
            return Err(ErrorKind::Other.into());
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        match self.reader.read(&mut buffer[..most]) {
            Ok(0) if most > 0 => {
                self.ended = Some(Ended::Whole);
                Ok(0)
            }
            Ok(count) => {
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) => {
                self.ended = Some(Ended::Damaged(log::with_sources(&error)));
                Err(error)
            }
        }
    }
}

/// An archive being unpacked.
struct Unpacking<'a> {
    root: Root,
    bounds: Bounds,
    is_stopped: &'a dyn Fn() -> bool,
    done: Unpacked,
}

impl Unpacking<'_> {
    /// Unpacks all members, and reads on to the end.
    fn members(&mut self, reader: impl Read) -> Result<(), UnpackError> {
        let overhead = self.bounds.files.saturating_mul(MEMBER_OVERHEAD).saturating_add(PADDING);
        let mut metered = Metered { reader, left: self.bounds.bytes.saturating_add(overhead), ended: None };
        let unpacked = self.archive(&mut metered);

        // What the decoder said is nearer to the cause than what followed from it.
        match (unpacked, metered.ended.take()) {
            (_, Some(Ended::Damaged(how))) => return Err(UnpackError::Damaged(how)),
            (_, Some(Ended::TooMuch)) => return Err(UnpackError::Overhead),
            (Err(error), _) => return Err(error),
            (Ok(()), Some(Ended::Whole)) => return Err(UnpackError::CutOff),
            (Ok(()), None) => {}
        }
        metered.left = PADDING;
        let mut buffer = vec![0; BUFFER];
        loop {
            match metered.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) if buffer[..count].iter().any(|byte| *byte != 0) => return Err(UnpackError::Behind),
                Ok(_) => {}
                Err(_) if metered.left == 0 => return Err(UnpackError::Overhead),
                Err(error) => return Err(damaged(error)),
            }
        }
    }

    fn archive(&mut self, metered: &mut Metered<impl Read>) -> Result<(), UnpackError> {
        let malformed = |error: io::Error| UnpackError::NoArchive(excerpt(&error.to_string(), log::SENTENCE));
        let mut archive = Archive::new(metered);
        let mut overrides = Overrides::default();
        for entry in archive.entries().map_err(malformed)?.raw(true) {
            let mut entry = entry.map_err(malformed)?;
            if (self.is_stopped)() {
                return Err(UnpackError::Stopped);
            }
            let header = entry.header().clone();
            let shown = || excerpt(&String::from_utf8_lossy(&header.path_bytes()), log::NAME);
            let size = header.entry_size().map_err(malformed)?;
            let is_override = overrides.take(header.entry_type(), size, &mut entry);
            if is_override.map_err(|error| UnpackError::Member(shown(), error))? {
                continue;
            }
            let member = Member::judge(&header, size, std::mem::take(&mut overrides));
            let member = member.map_err(|(name, error)| UnpackError::Member(name.unwrap_or_else(shown), error))?;
            self.member(&member, &mut entry)?;
        }
        if overrides.is_empty() { Ok(()) } else { Err(UnpackError::CutOff) }
    }

    const fn count_files(&self) -> Result<(), UnpackError> {
        if self.done.files > self.bounds.files { Err(UnpackError::Files(self.bounds.files)) } else { Ok(()) }
    }

    fn member(&mut self, member: &Member, content: &mut impl Read) -> Result<(), UnpackError> {
        // The root itself is there.
        if member.path.is_empty() {
            return Ok(());
        }
        self.done.files += 1;
        self.done.bytes = self.done.bytes.saturating_add(member.size);
        self.done.tamed += u64::from(member.is_tamed);
        self.count_files()?;
        if self.done.bytes > self.bounds.bytes {
            return Err(UnpackError::Bytes(self.bounds.bytes));
        }
        let failed = |error| UnpackError::Root(excerpt(&member.path.join("/"), log::NAME), error);
        let (parents, name) = member.path.split_at(member.path.len() - 1);
        // Directories that are only implied count, too.
        self.done.files += self.root.enter(parents).map_err(failed)?;
        self.count_files()?;
        let name = name[0].as_str();
        match &member.kind {
            Kind::Directory => self.root.directory(name, member.mode).map_err(failed),
            Kind::Symbolic(target) => self.root.symbolic(name, target).map_err(failed),
            Kind::Hard(target) => self.root.hard(name, target).map_err(failed),
            Kind::File => {
                let mut file = self.root.file(name).map_err(failed)?;
                let (mut left, mut buffer) = (member.size, vec![0; BUFFER]);
                while left > 0 {
                    if (self.is_stopped)() {
                        return Err(UnpackError::Stopped);
                    }
                    let most = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
                    match content.read(&mut buffer[..most]).map_err(damaged)? {
                        0 => return Err(UnpackError::CutOff),
                        count => {
                            io::Write::write_all(&mut file, &buffer[..count]).map_err(|error| failed(error.into()))?;
                            left -= count as u64;
                        }
                    }
                }
                self.root.finish(name, member.mode).map_err(failed)
            }
        }
    }
}

#[cfg(test)]
mod tests;
