//! The beginning of an artifact on this host's disk, which grows piece by piece until it is whole.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::libc::O_NOFOLLOW;
use protocol::{
    artifact::{Artifact, ContentKey, Digester},
    limits,
    name::JobId,
};

use crate::{
    fault::{self, Bug},
    private_file::make_directory,
};

/// How the name of such a file ends.
const ENDING: &str = "part";

/// The beginning of an artifact. Its file stays when it is dropped, so that a later command can go on from there.
pub(super) struct Partial {
    artifact: Artifact,
    /// None where pieces come as they are.
    key: Option<ContentKey>,
    path: PathBuf,
    /// Locked.
    file: File,
    content: Digester,
    /// How many bytes were there before this command.
    resumed: u64,
}

/// Why a piece was not added.
#[derive(Debug)]
pub(super) enum AppendError {
    /// It is not that piece.
    Altered,
    /// The disk does not take it.
    Disk(io::Error),
}

impl Partial {
    /// Opens what is there of the artifact, or begins. May take its time: what is there is read.
    ///
    /// Another command may be fetching the same at this moment: then this one has a file of its own.
    pub(super) fn open(directory: &Path, artifact: Artifact, key: Option<ContentKey>, job: JobId) -> io::Result<Self> {
        make_directory(directory)?;
        let shared = directory.join(format!("{}.{ENDING}", artifact.sha256()));
        let (path, file) = if let Some(file) = open(&shared)? {
            (shared, file)
        } else {
            let own = directory.join(format!("{}.{job}.{ENDING}", artifact.sha256()));
            let taken = || io::Error::other("the file is in use by another process");
            (own.clone(), open(&own)?.ok_or_else(taken)?)
        };
        let mut partial = Self { artifact, key, path, file, content: Digester::default(), resumed: 0 };
        partial.resume()?;
        Ok(partial)
    }

    /// Reads what is there, in whole pieces.
    fn resume(&mut self) -> io::Result<()> {
        let found = self.file.metadata()?.len();
        let mut buffer = vec![0; limits::ARTIFACT_PIECE_BYTES];
        loop {
            let number = self.content.bytes().div_ceil(limits::ARTIFACT_PIECE_BYTES as u64);
            let piece = self.artifact.piece_bytes(number);
            if piece == 0 || self.content.bytes() + piece as u64 > found {
                break;
            }
            self.file.read_exact(&mut buffer[..piece])?;
            self.content.update(&buffer[..piece]);
        }
        self.resumed = self.content.bytes();
        self.file.set_len(self.resumed)
    }

    /// Forgets all that is there.
    pub(super) fn begin_anew(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        (self.content, self.resumed) = (Digester::default(), 0);
        Ok(())
    }

    /// The number of the piece that comes next; `None` where all are there.
    pub(super) fn next(&self) -> Option<u64> {
        let number = self.content.bytes().div_ceil(limits::ARTIFACT_PIECE_BYTES as u64);
        (number < self.artifact.pieces()).then_some(number)
    }

    /// How many bytes are there.
    pub(super) const fn bytes(&self) -> u64 {
        self.content.bytes()
    }

    /// Whether some of it was there before this command.
    pub(super) const fn is_resumed(&self) -> bool {
        self.resumed > 0
    }

    /// Decrypts and adds the piece that comes next.
    pub(super) fn append(&mut self, number: u64, sealed: &[u8]) -> Result<(), AppendError> {
        let believed = || fault::planted(Bug::NoPiece).then(|| sealed.get(16..).unwrap_or_default().to_vec());
        let piece = self.key.as_ref().and_then(|key| key.open(number, sealed)).or_else(believed);
        let piece = piece.filter(|piece| piece.len() == self.artifact.piece_bytes(number));
        let piece = piece.ok_or(AppendError::Altered)?;
        self.append_plain(&piece).map_err(AppendError::Disk)
    }

    /// Adds the bytes that come next.
    pub(super) fn append_plain(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.content.update(bytes);
        Ok(())
    }

    /// Whether what is there is the artifact.
    pub(super) fn is_whole(&self) -> bool {
        self.content.artifact() == self.artifact
    }

    /// Removes the file: nobody shall go on from there.
    pub(super) fn discard(self) {
        remove(&self.path);
    }

    /// The content, for its use.
    pub(super) fn finish(mut self) -> io::Result<Fetched> {
        self.file.rewind()?;
        let Self { path, file, resumed, artifact, .. } = self;
        Ok(Fetched { path, file, resumed, artifact })
    }
}

/// Content that was fetched and has the right digest. It is removed when it is dropped.
pub struct Fetched {
    path: PathBuf,
    file: File,
    resumed: u64,
    artifact: Artifact,
}

impl Fetched {
    /// Its file, at its beginning.
    pub const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Which content it is.
    pub const fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// How many bytes were there before: a prior command had fetched them.
    pub const fn resumed(&self) -> u64 {
        self.resumed
    }

    /// The file without a name: the content is gone when it is closed.
    ///
    /// # Errors
    /// The system refused.
    pub fn into_file(self) -> io::Result<File> {
        // It is locked as long as any copy of it is open, and has no name by then.
        self.file.try_clone()
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Opens and locks the file; `None` where somebody else has locked it.
fn open(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

/// Removes what has not grown for long, unless somebody has it open.
pub(super) fn prune(directory: &Path) {
    let now = SystemTime::now();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_old = || {
            let changed = entry.metadata().and_then(|about| about.modified()).ok()?;
            Some(now.duration_since(changed).ok()? > limits::PARTIAL_KEEP)
        };
        let is_partial = path.extension().is_some_and(|ending| ending == ENDING);
        if is_partial && is_old() == Some(true) && matches!(open(&path), Ok(Some(_))) {
            remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::artifact::Surveyor;

    use super::*;

    const PIECE: usize = limits::ARTIFACT_PIECE_BYTES;

    fn content() -> (Vec<u8>, Artifact, ContentKey) {
        let content: Vec<u8> = (0..=250).cycle().take(2 * PIECE + 5).collect();
        let mut surveyor = Surveyor::default();
        surveyor.update(&content);
        let (artifact, key) = surveyor.finish();
        (content, artifact, key)
    }

    #[test]
    fn what_is_there_is_not_fetched_again() {
        let directory = tempfile::tempdir().unwrap();
        let (content, artifact, key) = content();
        let open = || Partial::open(directory.path(), artifact, Some(key.clone()), JobId::new()).unwrap();
        let piece =
            |number: usize| key.seal(number as u64, &content[number * PIECE..content.len().min((number + 1) * PIECE)]);
        let mut partial = open();
        assert_eq!((partial.next(), partial.is_resumed()), (Some(0), false));
        partial.append(0, &piece(0)).unwrap();
        assert!(matches!(partial.append(1, &piece(0)), Err(AppendError::Altered)));
        // Half of the next piece, as of a worker that was killed while it wrote.
        partial.file.write_all(&content[PIECE..PIECE + 99]).unwrap();
        drop(partial);

        let mut partial = open();
        assert_eq!((partial.next(), partial.bytes()), (Some(1), PIECE as u64));
        // Another command does not share the file.
        assert_eq!(open().bytes(), 0);
        partial.append(1, &piece(1)).unwrap();
        assert!(!partial.is_whole());
        partial.append(2, &piece(2)).unwrap();
        assert!(partial.next().is_none() && partial.is_whole());
        let mut fetched = partial.finish().unwrap();
        assert_eq!(fetched.resumed(), PIECE as u64);
        let mut read = Vec::new();
        fetched.file().read_to_end(&mut read).unwrap();
        assert!(read == content);
        drop(fetched);
        assert!(!directory.path().join(format!("{}.part", artifact.sha256())).exists());
    }

    #[test]
    fn what_is_there_is_read_and_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let (content, artifact, key) = content();
        let path = directory.path().join(format!("{}.part", artifact.sha256()));
        fs::write(&path, [&content[..content.len() - 1], b"!"].concat()).unwrap();
        let mut partial = Partial::open(directory.path(), artifact, Some(key), JobId::new()).unwrap();
        assert!(partial.next().is_none() && !partial.is_whole() && partial.is_resumed());
        partial.begin_anew().unwrap();
        assert_eq!((partial.next(), partial.bytes()), (Some(0), 0));
    }

    #[test]
    fn what_nobody_goes_on_with_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, age: Duration| {
            let path = directory.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            path
        };
        let old = limits::PARTIAL_KEEP + Duration::from_secs(60);
        let [stale, young, other, used] =
            [("a.part", old), ("b.part", Duration::ZERO), ("c.txt", old), ("d.part", old)]
                .map(|(name, age)| file(name, age));
        let lock = open(&used).unwrap().unwrap();
        prune(directory.path());
        assert_eq!([stale, young, other, used].map(|path| path.exists()), [false, true, true, true]);
        drop(lock);
    }
}
