//! The bounded log of a service: what its processes print, and what the supervisor does to them.
//!
//! A thread of its own writes it, so that a slow disk does not keep the supervisor from its work. The processes wait then
//! once their pipes are full.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::SystemTime,
};

use protocol::{limits, time::show_moment};
use tokio::sync::{mpsc, oneshot};

/// The name of the newest part of the log, in the directory of the service.
pub(crate) const FILE: &str = "log";

/// The name of the part before it.
pub(crate) const BEFORE: &str = "log.1";

/// Pieces of output that wait for the disk.
const WAITING: usize = 16;

enum Piece {
    Bytes(Vec<u8>),
    /// Replies when all before it is written.
    Mark(oneshot::Sender<()>),
}

/// Where what is printed goes.
#[derive(Clone)]
pub(super) struct Log(mpsc::Sender<Piece>);

impl Log {
    /// Appends to the log in this directory.
    pub(super) fn open(directory: &Path) -> std::io::Result<Self> {
        let (sender, mut receiver) = mpsc::channel(WAITING);
        let mut file = LogFile::open(directory.join(FILE), directory.join(BEFORE));
        thread::Builder::new().name("log".into()).stack_size(128 * 1024).spawn(move || {
            while let Some(piece) = receiver.blocking_recv() {
                match piece {
                    Piece::Bytes(bytes) => file.append(&bytes),
                    Piece::Mark(written) => drop(written.send(())),
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// Writes what a process has printed.
    pub(super) async fn print(&self, bytes: Vec<u8>) {
        let _ = self.0.send(Piece::Bytes(bytes)).await;
    }

    /// Writes a line of the supervisor's own, if the disk is not too slow for it.
    pub(super) fn note(&self, text: &str) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let line = format!("[redfleet {}] {text}\n", show_moment(protocol::clock::millis(now)));
        let _ = self.0.try_send(Piece::Bytes(line.into_bytes()));
    }

    /// Waits until what came before is written.
    pub(super) async fn flush(&self) {
        let (written, done) = oneshot::channel();
        if self.0.send(Piece::Mark(written)).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// Two files of half the bound each: the newest, and the one before.
struct LogFile {
    path: PathBuf,
    before: PathBuf,
    file: Option<File>,
    size: usize,
}

impl LogFile {
    fn open(path: PathBuf, before: PathBuf) -> Self {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).ok();
        let size = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |found| found.len());
        Self { path, before, file, size: usize::try_from(size).unwrap_or(usize::MAX) }
    }

    /// Appends, as well as the disk permits: a service does not end because its log cannot be written.
    fn append(&mut self, bytes: &[u8]) {
        if self.size.saturating_add(bytes.len()) > limits::SERVICE_LOG_BYTES / 2 || self.file.is_none() {
            self.file = None;
            let _ = fs::rename(&self.path, &self.before);
            *self = Self::open(std::mem::take(&mut self.path), std::mem::take(&mut self.before));
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(bytes);
            self.size += bytes.len();
        }
    }
}

/// The same log for a service without a supervisor, whose processes write to it themselves. It is made where it is missing.
pub(crate) fn open(directory: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(directory.join(FILE))
}

/// Keeps such a log within its bound. Those that write to it go on at its new end; what they write meanwhile is lost.
pub(crate) fn bound(directory: &Path) -> io::Result<()> {
    let most = limits::SERVICE_LOG_BYTES as u64 / 2;
    let mut file = match OpenOptions::new().read(true).write(true).open(directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let length = file.metadata()?.len();
    if length <= most {
        return Ok(());
    }
    file.seek(SeekFrom::Start(length - most))?;
    let mut newest = Vec::new();
    (&file).take(most).read_to_end(&mut newest)?;
    super::replace(&directory.join(BEFORE), &newest)?;
    file.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_others_write_is_bounded_too() {
        let directory = tempfile::tempdir().unwrap();
        bound(directory.path()).unwrap();
        let mut log = open(directory.path()).unwrap();
        log.write_all(&[&vec![b'x'; limits::SERVICE_LOG_BYTES][..], b"newest\n"].concat()).unwrap();
        bound(directory.path()).unwrap();
        log.write_all(b"more\n").unwrap();
        bound(directory.path()).unwrap();
        let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
        assert!(read(BEFORE).len() == limits::SERVICE_LOG_BYTES / 2 && read(BEFORE).ends_with(b"xnewest\n"));
        assert_eq!(read(FILE), b"more\n");
    }

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let (path, before) = (directory.path().join(FILE), directory.path().join(BEFORE));
        let mut log = LogFile::open(path.clone(), before.clone());
        let line = [vec![b'x'; 1023], b"\n".to_vec()].concat();
        for _ in 0..=2 * limits::SERVICE_LOG_BYTES / line.len() {
            log.append(&line);
        }
        log.append(b"last\n");
        let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
        assert!(size(&path) + size(&before) <= limits::SERVICE_LOG_BYTES as u64);
        assert!(size(&before) > limits::SERVICE_LOG_BYTES as u64 / 3);
        assert!(fs::read(&path).unwrap().ends_with(b"x\nlast\n"));
        // The next supervisor goes on where this one ended.
        LogFile::open(path.clone(), before).append(b"more\n");
        assert!(fs::read(&path).unwrap().ends_with(b"last\nmore\n"));
    }
}
