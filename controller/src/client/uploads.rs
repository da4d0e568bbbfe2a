//! Content that hosts shall fetch: it lies in Redis, encrypted, for as long as somebody needs it. See
//! [`protocol::artifact`].

use std::time::Duration;

use protocol::{
    artifact::{Artifact, ContentKey},
    clock::millis,
    name::JobId,
    scripts::RELEASE_ARTIFACT,
    time::Millis,
};
use redis::Pipeline;

use super::{error::Error, fleet::Fleet};

/// Content on its way to hosts. Where it is not released, it expires.
#[derive(Debug)]
pub struct Upload {
    artifact: Artifact,
    key: ContentKey,
    /// Who needs it: this upload.
    user: JobId,
    until_ms: Millis,
}

impl Upload {
    /// What it is.
    pub const fn artifact(&self) -> &Artifact {
        &self.artifact
    }
}

impl Fleet {
    /// Begins to put content into Redis, to stay there for so long unless it is released before. Others may have put the
    /// same there: it stays until nobody needs it.
    pub async fn begin_upload(&mut self, artifact: Artifact, key: ContentKey, keep: Duration) -> Result<Upload, Error> {
        // The users of content go by Redis' clock.
        self.query_with_time::<()>(&redis::pipe()).await?;
        let until_ms = self.now().saturating_add(millis(keep));
        let upload = Upload { artifact, key, user: JobId::new(), until_ms };
        let users = self.keys().artifact_users(&artifact);
        let mut claim = redis::pipe();
        claim.atomic().zadd(&users, upload.user.to_string(), upload.until_ms).ignore();
        self.keep(&mut claim, &users, &upload);
        self.persist::<()>(&claim).await?;
        Ok(upload)
    }

    /// Puts a piece of the content into Redis, encrypted. The pieces are numbered from 0, and each but the last one has
    /// [`protocol::limits::ARTIFACT_PIECE_BYTES`].
    pub async fn upload(&mut self, upload: &Upload, number: u64, piece: &[u8]) -> Result<(), Error> {
        let key = self.keys().artifact(&upload.artifact, number);
        let mut put = redis::pipe();
        // Equal content has equal pieces: what somebody else may read at this moment stays the same.
        put.atomic().cmd("SET").arg(&key).arg(upload.key.seal(number, piece)).arg("KEEPTTL").ignore();
        self.keep(&mut put, &key, upload);
        self.persist(&put).await
    }

    /// Ends the need of this upload. Returns whether the content was deleted, as nobody else needs it.
    pub async fn release(&mut self, upload: &Upload) -> Result<bool, Error> {
        let Upload { artifact, user, .. } = upload;
        let keys = self.keys().clone();
        let mut release = redis::pipe();
        release.cmd("EVAL").arg(RELEASE_ARTIFACT).arg(1 + artifact.pieces()).arg(keys.artifact_users(artifact));
        release.arg((0..artifact.pieces()).map(|number| keys.artifact(artifact, number)).collect::<Vec<_>>());
        release.arg(user.to_string()).arg(self.now());
        let (deleted,): (bool,) = self.query(&release).await?;
        Ok(deleted)
    }

    /// Lets a key expire with the upload, unless somebody needs it for longer.
    fn keep(&self, pipeline: &mut Pipeline, key: &str, upload: &Upload) {
        let left = upload.until_ms.saturating_sub(self.now()).max(1);
        for condition in ["NX", "GT"] {
            pipeline.cmd("PEXPIRE").arg(key).arg(left).arg(condition).ignore();
        }
    }
}
