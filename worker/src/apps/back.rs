//! What is done about a release that does not work.

use protocol::clock::millis;
use tokio::time::Instant;

use super::{
    release::Course,
    settings::Rollback,
    state::{Ending, Step},
    work::Work,
};
use crate::{
    fault::{self, Point},
    log::with_sources,
};

/// How a release failed after the switch to it.
pub(super) struct Fallen {
    pub(super) result: Ending,
    /// In words.
    pub(super) problem: String,
    /// Milliseconds from the failed check to the first step back.
    pub(super) rollback_started_ms: Option<u64>,
    /// The last lines of its log.
    pub(super) lines: String,
}

impl Work {
    /// Ends what has switched nothing. Returns what to say.
    pub(super) async fn give_up(&mut self, course: &Course, what: String) -> String {
        let (version, is_known) = (course.version.clone(), self.state().release(&course.version).is_some());
        let newly = course.artifact.is_some() && !course.is_here;
        if newly {
            self.state().releases.retain(|release| release.version != version);
        }
        let removed = self
            .disk(
                move |releases| if newly || !is_known { releases.remove(&version) } else { releases.discard(&version) },
            )
            .await;
        let stays = course.prior.as_deref().map_or_else(String::new, |prior| format!("; {prior} stays"));
        self.state().end(Self::now(), Ending::Failed, Some(what.clone()));
        let saved = self.save().await;
        let trouble =
            [removed.err(), saved.err()].into_iter().flatten().map(|error| format!("; {}", with_sources(&error)));
        format!("{what}{stays}{}", trouble.collect::<String>())
    }

    /// Goes back to what was proven.
    pub(super) async fn fall_back(&mut self, course: &Course, what: String, failed_at: Instant) -> Fallen {
        let version = &course.version;
        let safe = self.state().safe(version);
        let target = safe.filter(|_| self.app.rollback == Rollback::Automatic);
        let Some(target) = target else {
            let why = match self.app.rollback {
                Rollback::Forbidden => "its rollback is forbidden",
                Rollback::Automatic => "no release was proven before",
            };
            self.state().end(Self::now(), Ending::Kept, Some(what.clone()));
            let saved = self.save().await.err().map(|error| format!("; {}", with_sources(&error))).unwrap_or_default();
            self.prune(course.prior.as_deref()).await;
            let problem = format!("{what}; it stays, as {why}{saved}");
            let lines = self.last_lines().await.unwrap_or_default();
            return Fallen { result: Ending::Kept, problem, rollback_started_ms: None, lines };
        };

        // A state that cannot be written must not keep anybody from going back.
        let recorded = self.advance(Step::RollingBack).await;
        fault::point(Point::RollingBack);
        // Nobody waits for a log.
        let lines = self.last_lines();
        let begun_ms = millis(failed_at.elapsed());
        let gone = self.go_to(&target).await;
        fault::point(Point::TakenBack);
        if let Err(error) = &gone
            && !self.is_at(&target).await
        {
            // The rollback stays recorded: it is tried again before the next deploy, and when the worker starts.
            let problem = format!("{what}; it cannot be rolled back to {target}: {}", with_sources(error));
            let lines = lines.await.unwrap_or_default();
            return Fallen { result: Ending::Kept, problem, rollback_started_ms: Some(begun_ms), lines };
        }
        let end = match (gone, recorded) {
            (Ok(()), Ok(())) if self.service.is_some() => format!("rolled back to {target}, which is up"),
            (Ok(()), Ok(())) => format!("rolled back to {target}"),
            (Ok(()), Err(error)) => format!("rolled back to {target}; {}", with_sources(&error)),
            (Err(error), _) => format!("rolled back to {target}, which is not well either: {}", with_sources(&error)),
        };
        self.state().current = Some(target.clone());
        let now = Self::now();
        self.state().end(now, Ending::RolledBack, Some(what.clone()));
        let saved = self.save().await.err().map(|error| format!("; {}", with_sources(&error))).unwrap_or_default();
        fault::point(Point::Restored);
        self.prune(Some(target.as_str())).await;
        let (problem, lines) = (format!("{what}; {end}{saved}"), lines.await.unwrap_or_default());
        Fallen { result: Ending::RolledBack, problem, rollback_started_ms: Some(begun_ms), lines }
    }
}
