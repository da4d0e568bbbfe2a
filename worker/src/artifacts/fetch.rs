//! Fetching an artifact: piece by piece, from where a prior command has come to.

use std::{io, path::PathBuf, time::Duration};

use protocol::{
    artifact::{Artifact, ContentKey, SEALED_PIECE_BYTES},
    name::JobId,
};
use redis::pipe;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Artifacts, Fetched,
    link::{Link, LinkError, is_wrong_type},
    partial::{AppendError, Partial},
};
use crate::{detached, live::Live};

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Why an artifact was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Redis has lost it, or somebody has removed it.
    #[error("piece {number} of {pieces} of the content is not in Redis any more: send it again")]
    Missing {
        /// The piece, counted from 1.
        number: u64,
        /// All pieces.
        pieces: u64,
    },
    /// Somebody has put something else there.
    #[error("piece {number} of {pieces} of the content was altered in Redis: somebody who can write there did that")]
    Altered {
        /// The piece, counted from 1.
        number: u64,
        /// All pieces.
        pieces: u64,
    },
    /// All pieces are right, but the whole is not what was signed: whoever has sent it made a mistake.
    #[error("the content does not have the digest that was signed")]
    Digest,
    /// Redis has not replied.
    #[error("the content cannot be fetched")]
    Link(#[from] LinkError),
    /// The disk.
    #[error("the content cannot be kept in {path}: {1}", path = .0.display())]
    Disk(PathBuf, #[source] io::Error),
}

impl Artifacts {
    /// Fetches an artifact. A connection that breaks is made again, and what is there already is not fetched again: the
    /// bytes that this command has fetched, or one before it, even in another process.
    ///
    /// # Errors
    /// The content is not there, not the right one, or cannot be kept; or `stop` was cancelled.
    pub async fn fetch(
        &self,
        artifact: Artifact,
        key: ContentKey,
        job: JobId,
        stop: &CancellationToken,
        live: &Live,
    ) -> Result<Fetched, FetchError> {
        let directory = self.directory.clone();
        let disk = |error| FetchError::Disk(self.directory.clone(), error);
        let mut partial = detached::call(move || Partial::open(&directory, artifact, Some(key), job))
            .await
            .flatten()
            .map_err(disk)?;
        let mut link = Link::new(&self.redis, stop);
        loop {
            partial = self.complete(partial, artifact, &mut link, live).await?;
            if partial.is_whole() {
                return detached::call(move || partial.finish()).await.flatten().map_err(disk);
            }
            if !partial.is_resumed() {
                partial.discard();
                return Err(FetchError::Digest);
            }
            // The disk may have lost a part of what was there.
            let begin_anew = move || {
                partial.begin_anew()?;
                Ok(partial)
            };
            partial = detached::call(begin_anew).await.flatten().map_err(disk)?;
        }
    }

    /// Fetches the pieces that are missing.
    async fn complete(
        &self,
        mut partial: Partial,
        artifact: Artifact,
        link: &mut Link<'_>,
        live: &Live,
    ) -> Result<Partial, FetchError> {
        let mut report_at = Instant::now() + REPORT_EVERY;
        while let Some(number) = partial.next() {
            let pieces = artifact.pieces();
            let altered = || FetchError::Altered { number: number + 1, pieces };
            let mut ask = pipe();
            // A byte more than there may be tells what is too large, and no more than that is read of it.
            ask.getrange(self.keys.artifact(&artifact, number), 0, SEALED_PIECE_BYTES.cast_signed());
            let (sealed,): (Vec<u8>,) = link.query(&ask).await.map_err(|error| match error {
                LinkError::Refused(error) if is_wrong_type(&error) => altered(),
                error => error.into(),
            })?;
            if sealed.is_empty() {
                return Err(FetchError::Missing { number: number + 1, pieces });
            }
            let appended = detached::call(move || {
                let appended = partial.append(number, &sealed);
                (partial, appended)
            });
            let disk = |error| FetchError::Disk(self.directory.clone(), error);
            let (grown, appended) = appended.await.map_err(disk)?;
            match appended {
                Ok(()) => partial = grown,
                Err(AppendError::Altered) => return Err(altered()),
                Err(AppendError::Disk(error)) => {
                    // A full disk gets its space back.
                    grown.discard();
                    return Err(disk(error));
                }
            }
            if Instant::now() >= report_at {
                report_at = Instant::now() + REPORT_EVERY;
                live.progress(format!("fetched {} of {} MiB", partial.bytes() >> 20, artifact.bytes() >> 20));
            }
        }
        Ok(partial)
    }
}
