//! Bringing a release here: its content, and from that its directory.

use nix::unistd::{Uid, User, geteuid};
use protocol::artifact::Artifact;

use super::{
    error::DeployError,
    release::{Course, Source},
    unpack::{Unpacked, unpack},
    work::Work,
};
use crate::{
    artifacts::Artifacts,
    detached,
    fault::{self, Point},
};

impl Work {
    /// Fetches and unpacks the release.
    pub(super) async fn bring(
        &mut self,
        course: &Course,
        artifact: Artifact,
        source: Source,
        artifacts: &Artifacts,
    ) -> Result<(), DeployError> {
        let user = self.app.user.clone();
        let owner = match user {
            Some(user) => detached::call(move || find_owner(&user)).await.map_err(DeployError::Disk)?,
            None => Ok(None),
        };
        let owner = owner.map_err(DeployError::User)?;
        let fetched = match source {
            Source::Redis(key) => {
                let fetched = artifacts.fetch(artifact, key, self.owner.job, &self.stop, &self.live).await;
                fetched.map_err(DeployError::from)
            }
            Source::Url(url) => {
                let fetched = artifacts.download(artifact, &url, self.owner.job, &self.stop, &self.live).await;
                fetched.map_err(DeployError::from)
            }
        };
        let mut fetched = match fetched {
            Err(_) if self.stop.is_cancelled() => return Err(DeployError::Stopped),
            fetched => fetched?,
        };
        let resumed = fetched.resumed();
        let resumed = if resumed > 0 { format!(", {resumed} of them already there") } else { String::new() };
        let (bytes, digest) = (artifact.bytes(), &artifact.sha256()[..12]);
        self.did.push(format!("fetch {bytes} bytes, SHA-256 {digest}…{resumed}"));
        fault::point(Point::Fetched);

        let (version, bounds, stop) = (course.version.clone(), self.app.bounds, self.stop.clone());
        let draft = self.disk(move |releases| releases.begin(&version)).await?;
        let unpacked = detached::call(move || unpack(fetched.file(), &draft, owner, bounds, &|| stop.is_cancelled()));
        let Unpacked { bytes, files, tamed } = unpacked.await.map_err(DeployError::Disk)??;
        let tamed =
            if tamed > 0 { format!("; {tamed} without rights that their modes gave to others") } else { String::new() };
        self.did.push(format!("unpack {files} files and directories, {bytes} bytes{tamed}"));
        let version = course.version.clone();
        self.disk(move |releases| releases.sync(&version, owner)).await?;
        fault::point(Point::Unpacked);
        let version = course.version.clone();
        self.disk(move |releases| releases.place(&version)).await?;
        fault::point(Point::Placed);
        Ok(())
    }
}

/// User and group of the files of a release; `None` where they are this process's.
fn find_owner(user: &str) -> Result<Option<(u32, u32)>, String> {
    let found = match user.parse() {
        Ok(id) => User::from_uid(Uid::from_raw(id)),
        Err(_) => User::from_name(user),
    };
    let found = found.map_err(|error| format!("'{user}' cannot be looked up: {error}"))?;
    let found = found.ok_or_else(|| format!("there is no user '{user}'"))?;
    if found.uid == geteuid() {
        return Ok(None);
    }
    if geteuid().is_root() {
        Ok(Some((found.uid.as_raw(), found.gid.as_raw())))
    } else {
        Err(format!("the worker must be root to give a release to '{user}'"))
    }
}
