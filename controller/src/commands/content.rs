//! Content that is sent to hosts: a file of this machine, or what somebody else writes.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use protocol::{
    artifact::{Artifact, ContentKey, Surveyor},
    limits,
};

use crate::{
    client::{Fleet, Upload},
    output::{Advice, Printer, figures},
};

/// Larger content is worth a word before it is sent.
const LARGE: u64 = 8 * 1024 * 1024;

/// Time for a host to notice that it has fetched the content.
const MARGIN: Duration = Duration::from_secs(60);

/// Content that was read once.
pub struct Content {
    file: File,
    artifact: Artifact,
    key: ContentKey,
}

impl Content {
    /// A file, or standard input where its name is `-`.
    ///
    /// # Errors
    /// It cannot be read, or is too large.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        if path == Path::new("-") {
            return Self::spool(&[], io::stdin()).context("cannot send standard input");
        }
        let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let about = file.metadata().with_context(|| format!("cannot read {shown}"))?;
        if about.is_dir() {
            bail!(
                Advice::new(format!("{shown} is a directory")).hint(format!("pack it first: tar -czf x.tgz {shown}"))
            );
        }
        // A pipe can be read only once.
        let content = if about.is_file() { Self::survey(file) } else { Self::spool(&[], file) };
        content.with_context(|| format!("cannot send {shown}"))
    }

    /// What was read already, and the rest of it. It is kept in a file without a name.
    ///
    /// # Errors
    /// It cannot be read or kept, or is too large.
    pub fn spool(begin: &[u8], rest: impl Read) -> anyhow::Result<Self> {
        Self::written(|file| {
            file.write_all(begin)?;
            io::copy(&mut rest.take(limits::ARTIFACT_BYTES as u64 + 1), file)?;
            Ok(())
        })
    }

    /// What somebody writes. It is kept in a file without a name.
    ///
    /// # Errors
    /// It cannot be written or kept, or is too large.
    pub fn written(write: impl FnOnce(&mut File) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let mut file = tempfile::tempfile().context("cannot keep it in a temporary file")?;
        write(&mut file)?;
        file.rewind()?;
        Self::survey(file)
    }

    fn survey(mut file: File) -> anyhow::Result<Self> {
        let (mut surveyor, mut buffer) = (Surveyor::default(), vec![0; limits::ARTIFACT_PIECE_BYTES]);
        loop {
            let count = file.read(&mut buffer)?;
            surveyor.update(&buffer[..count]);
            if surveyor.bytes() > limits::ARTIFACT_BYTES as u64 {
                return Err(too_large().into());
            }
            if count == 0 {
                break;
            }
        }
        let (artifact, key) = surveyor.finish();
        Ok(Self { file, artifact, key })
    }

    /// What it is.
    pub const fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The key under which it is sent.
    pub const fn key(&self) -> &ContentKey {
        &self.key
    }

    /// How it begins.
    pub fn beginning<const N: usize>(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.rewind()?;
        (&mut self.file).take(N as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// All of it.
    pub fn read(&mut self) -> io::Result<impl Read> {
        self.file.rewind()?;
        Ok(&mut self.file)
    }

    /// Puts it into Redis, where it stays until it is released, or until a command that is sent now must have ended.
    ///
    /// # Errors
    /// It cannot be sent, or has changed since it was read. Nothing of it is left then, as far as Redis can be reached.
    pub async fn upload(
        &mut self,
        start_by: Duration,
        timeout: Duration,
        fleet: &mut Fleet,
        printer: &Printer,
    ) -> anyhow::Result<Upload> {
        if self.artifact.bytes() > LARGE {
            printer.note(&format!("sending {} to Redis", figures::bytes(self.artifact.bytes() as f64)));
        }
        let keep = start_by + limits::QUEUE_MAX + timeout + MARGIN;
        let upload = fleet.begin_upload(self.artifact, self.key.clone(), keep).await?;
        let sent = tokio::select! {
            sent = self.send(&upload, fleet) => sent,
            // Where the signal cannot be caught, it ends the process as it always did.
            Ok(()) = tokio::signal::ctrl_c() => Err(Advice::new("interrupted; nothing was sent").into()),
        };
        if let Err(error) = sent {
            release(&upload, fleet, printer).await;
            return Err(error);
        }
        Ok(upload)
    }

    async fn send(&mut self, upload: &Upload, fleet: &mut Fleet) -> anyhow::Result<()> {
        self.file.rewind()?;
        let (mut surveyor, mut buffer) = (Surveyor::default(), vec![0; limits::ARTIFACT_PIECE_BYTES]);
        for number in 0..self.artifact.pieces() {
            let piece = &mut buffer[..self.artifact.piece_bytes(number)];
            let read = self.file.read_exact(piece);
            read.or_else(|error| if error.kind() == io::ErrorKind::UnexpectedEof { Ok(()) } else { Err(error) })?;
            surveyor.update(piece);
            fleet.upload(upload, number, piece).await?;
        }
        if surveyor.finish().0 == self.artifact { Ok(()) } else { bail!("it has changed while it was read") }
    }
}

/// The error for content that is larger than what can be sent.
pub fn too_large() -> Advice {
    let large = format!("it is larger than {} MiB, the most that can be sent", limits::ARTIFACT_BYTES >> 20);
    Advice::new(large).hint("let the hosts fetch it themselves: ctl run … exec -- curl …")
}

/// Removes content from Redis. Where that fails, it expires.
pub async fn release(upload: &Upload, fleet: &mut Fleet, printer: &Printer) {
    if let Err(error) = fleet.release(upload).await {
        printer.warn(&format!("the content stays in Redis until it expires: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_pipes_are_the_same_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        let mut named = Content::open(&path).unwrap();
        let spooled = Content::spool(b"#!/bin", &b"/sh\nexit 0\n"[..]).unwrap();
        assert_eq!(named.artifact(), spooled.artifact());
        assert_eq!(named.key().to_text(), spooled.key().to_text());
        assert_eq!(named.beginning::<2>().unwrap(), b"#!");
        assert_eq!(named.artifact().bytes(), 17);
    }

    #[test]
    fn what_cannot_be_sent_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let refused = |path: &Path| format!("{:#}", Content::open(path).err().expect("an error"));
        assert!(refused(directory.path()).ends_with("is a directory"));
        assert!(refused(&directory.path().join("nothing")).starts_with("cannot read /"));
        let large = directory.path().join("large");
        File::create(&large).unwrap().set_len(limits::ARTIFACT_BYTES as u64 + 1).unwrap();
        assert!(refused(&large).contains("it is larger than 512 MiB"));
    }
}
