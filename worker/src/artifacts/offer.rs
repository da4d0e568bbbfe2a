//! Handing a file over to `ctl`: piece by piece, and no faster than `ctl` takes them.

use std::{
    fs::File,
    io::{self, Read},
    time::Duration,
};

use protocol::{
    artifact::{Artifact, ContentKey, Digester},
    clock::millis,
    limits,
    name::JobId,
};
use redis::pipe;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Artifacts,
    link::{Link, LinkError},
};
use crate::{detached, live::Live};

/// How often it is looked whether `ctl` has taken a piece, at first and at last.
const LOOK_EVERY: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Why a file was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// Nobody takes it.
    #[error("nobody has taken the file for {} s: ctl has ended, or lost its connection", limits::FILE_PIECE_WAIT.as_secs())]
    NotTaken,
    /// It grew while it was read.
    #[error("the file is larger than the {} MiB that can be fetched", limits::ARTIFACT_BYTES >> 20)]
    TooLarge,
    /// Redis has not replied.
    #[error("the file cannot be handed over")]
    Link(#[from] LinkError),
    /// The disk.
    #[error("the file cannot be read")]
    Disk(#[from] io::Error),
}

/// A file that is being read.
struct Source {
    file: File,
    /// How many bytes are still to be read.
    rest: u64,
    content: Digester,
    key: ContentKey,
}

impl Source {
    /// The next piece, encrypted; `None` at the end. A file that has become shorter ends there.
    fn piece(&mut self, number: u64) -> io::Result<Option<Vec<u8>>> {
        let most = self.rest.min(limits::ARTIFACT_PIECE_BYTES as u64);
        let mut piece = Vec::with_capacity(usize::try_from(most).unwrap_or(0));
        (&mut self.file).take(most).read_to_end(&mut piece)?;
        self.rest -= piece.len() as u64;
        self.content.update(&piece);
        Ok((!piece.is_empty()).then(|| self.key.seal(number, &piece)))
    }
}

impl Artifacts {
    /// Hands over the first `bytes` bytes of a file, and returns what they were.
    ///
    /// # Errors
    /// The file cannot be read, nobody takes it, or `stop` was cancelled.
    pub async fn offer(
        &self,
        job: JobId,
        file: File,
        bytes: u64,
        key: ContentKey,
        stop: &CancellationToken,
        live: &Live,
    ) -> Result<Artifact, OfferError> {
        if bytes > limits::ARTIFACT_BYTES as u64 {
            return Err(OfferError::TooLarge);
        }
        let mut source = Source { file, rest: bytes, content: Digester::default(), key: key.of_host(&self.host) };
        let mut link = Link::new(&self.redis, stop);
        let mut report_at = Instant::now() + REPORT_EVERY;
        for number in 0_u64.. {
            let read = detached::call(move || {
                let piece = source.piece(number);
                (source, piece)
            });
            let (grown, piece) = read.await?;
            source = grown;
            let Some(piece) = piece? else { break };
            if let Some(oldest) = number.checked_sub(limits::FILE_PIECES as u64) {
                self.wait_taken(&mut link, job, oldest).await?;
            }
            let mut put = pipe();
            put.cmd("SET").arg(self.keys.job_file(job, &self.host, number)).arg(piece);
            put.arg("PX").arg(millis(limits::FILE_PIECE_KEEP)).ignore();
            link.query::<()>(&put).await?;
            if Instant::now() >= report_at {
                report_at = Instant::now() + REPORT_EVERY;
                live.progress(format!("handed over {} of {} MiB", source.content.bytes() >> 20, bytes >> 20));
            }
        }
        Ok(source.content.artifact())
    }

    /// Waits until `ctl` has taken a piece.
    async fn wait_taken(&self, link: &mut Link<'_>, job: JobId, number: u64) -> Result<(), OfferError> {
        let mut ask = pipe();
        ask.exists(self.keys.job_file(job, &self.host, number));
        let (since, [mut delay, longest]) = (Instant::now(), LOOK_EVERY);
        loop {
            let (waits,): (bool,) = link.query(&ask).await?;
            if !waits {
                return Ok(());
            }
            if since.elapsed() >= limits::FILE_PIECE_WAIT {
                return Err(OfferError::NotTaken);
            }
            link.pause(delay).await?;
            delay = (delay * 2).min(longest);
        }
    }
}
