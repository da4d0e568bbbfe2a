//! That a playbook is being undone: whoever resumes its run must go on with that, and not with its steps.

use std::time::Duration;

use protocol::{clock::millis, limits, name::JobId};

use super::{error::Error, fleet::Fleet};

impl Fleet {
    /// Records that a run of a playbook is being undone since this step failed. `retention`: how long its results are kept.
    ///
    /// # Errors
    /// Redis cannot record it.
    pub async fn begin_undoing(&mut self, run: JobId, step: &str, retention: Duration) -> Result<(), Error> {
        let longest = limits::START_BY_MAX + limits::QUEUE_MAX + limits::TIMEOUT_MAX + retention;
        let mut set = redis::pipe();
        set.cmd("SET").arg(self.keys().job_undo(run)).arg(step).arg("PX").arg(millis(longest)).ignore();
        self.persist::<()>(&set).await
    }

    /// The step whose failure has begun to undo a run of a playbook.
    pub async fn undoing(&mut self, run: JobId) -> Result<Option<String>, Error> {
        let (step,): (Option<String>,) = self.query(redis::pipe().get(self.keys().job_undo(run))).await?;
        Ok(step)
    }
}
