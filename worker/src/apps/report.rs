//! How a deploy went.

use super::{release::Course, state::Ending, work::Work};

/// How it went.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) app: String,
    pub(crate) version: String,
    /// What runs now.
    pub(crate) running: Option<String>,
    /// What ran before.
    pub(crate) prior: Option<String>,
    pub(crate) result: Ending,
    /// Whether the link or the service is at another release than before.
    pub(crate) changed: bool,
    /// What was done; or in a dry run, what would be.
    pub(crate) steps: Vec<String>,
    pub(crate) is_dry: bool,
    /// Milliseconds from a failed check to the first step back.
    pub(crate) rollback_started_ms: Option<u64>,
    /// The last lines of the log of what failed.
    pub(crate) lines: String,
    /// In one sentence.
    pub(crate) problem: Option<String>,
}

impl Work {
    pub(super) fn report(
        &self,
        course: &Course,
        result: Ending,
        prior: Option<String>,
        running: Option<String>,
        steps: Vec<String>,
        is_dry: bool,
    ) -> Report {
        let state = &self.locked.state;
        let changed = !is_dry && (prior != running || course.prior != state.current);
        Report {
            app: self.app.name.clone(),
            version: course.version.clone(),
            running,
            prior,
            result,
            changed,
            steps,
            is_dry,
            rollback_started_ms: None,
            lines: String::new(),
            problem: None,
        }
    }
}
