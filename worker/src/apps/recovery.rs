//! What a worker that died in the middle of a deploy has left: link and service are brought to one whole release.

use super::{
    error::DeployError,
    releases::Releases,
    settings::Rollback,
    state::{Deploying, Ending, Step},
    work::Work,
};
use crate::{
    fault::{self, Bug},
    log::with_sources,
};

impl Work {
    /// Recovers from a deploy that nobody works at any more, and looks at what is there then.
    pub(super) async fn recover(&mut self) -> Result<(), DeployError> {
        self.disk(Releases::open).await.map_err(|error| match error {
            DeployError::Disk(error) => DeployError::Open(error),
            error => error,
        })?;
        let interrupted = self.state().deploying.clone().filter(|_| !fault::planted(Bug::NoRecovery));
        if let Some(interrupted) = interrupted {
            self.resolve(interrupted).await?;
        }
        self.disk(Releases::sweep).await?;
        self.take_stock().await
    }

    /// Looks at what is there.
    pub(super) async fn take_stock(&mut self) -> Result<(), DeployError> {
        // Somebody may have removed releases, or led the link elsewhere.
        let known: Vec<_> = self.state().releases.iter().map(|release| release.version.clone()).collect();
        let there =
            self.disk(move |releases| Ok(known.into_iter().filter(|known| releases.has(known)).collect::<Vec<_>>()));
        let there = there.await?;
        self.state().releases.retain(|release| there.contains(&release.version));
        let current = self.disk(Releases::current).await?;
        let current = current.filter(|current| self.releases.has(current));
        self.state().current = current;
        Ok(())
    }

    async fn resolve(&mut self, interrupted: Deploying) -> Result<(), DeployError> {
        let Deploying { version, from, step, job, .. } = interrupted;
        tracing::warn!("application {}: the deploy of {version} by job {job} was interrupted", self.app.name);
        let left = version.clone();
        let reason = if step == Step::Preparing {
            let is_known = self.state().release(&version).is_some();
            let remove =
                move |releases: &Releases| if is_known { releases.discard(&left) } else { releases.remove(&left) };
            self.disk(remove).await?;
            let stays = from.map_or_else(|| "nothing was switched".to_owned(), |from| format!("{from} stays"));
            format!("the worker ended before the switch to it; {stays}")
        } else {
            let safe = self.state().safe(&version).filter(|_| self.app.rollback == Rollback::Automatic);
            let target = safe.clone().unwrap_or_else(|| version.clone());
            if safe.is_some() {
                // Whoever recovers from this recovery must know that the service may not have followed the link.
                self.advance(Step::RollingBack).await?;
            }
            // Its commands have this recovery's own job: what is left of the interrupted one is being ended meanwhile.
            let brought = self.go_to(&target).await;
            if brought.is_err() && !self.is_at(&target).await {
                return brought;
            }
            self.state().current = Some(target.clone());
            let end = match (safe, self.app.rollback) {
                (Some(target), _) => format!("rolled back to {target}"),
                (None, Rollback::Forbidden) => "it stays, unproven, as its rollback is forbidden".to_owned(),
                (None, Rollback::Automatic) => "it stays, unproven, as no release was proven before".to_owned(),
            };
            let trouble = brought.err().map(|error| format!("; the service is not well: {}", with_sources(&error)));
            format!("the worker ended after the switch to it; {end}{}", trouble.unwrap_or_default())
        };
        tracing::warn!("application {}: {reason}", self.app.name);
        self.state().end(Self::now(), Ending::Interrupted, Some(reason));
        self.save().await?;
        self.prune(None).await;
        Ok(())
    }
}
