//! What a controller may conclude from what it has heard of a host, and from what it has not.
//!
//! Only the worker writes its state. The controller judges silence by the job's two deadlines, and
//! by whether the host is there; should the worker speak up after all, its word stands.

use std::time::Duration;

use protocol::{
    clock::millis,
    command::Manifest,
    name::HostName,
    outcome::{Outcome, State},
    time::Millis,
};

/// After the start-by, for a state that is on its way.
const MARGIN: Duration = Duration::from_secs(2);
/// After the timeout, for ending the process group and reporting it.
const GRACE: Duration = Duration::from_secs(30);
/// The same for a host that is there and should know how it stands: it may be busy with other commands.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where a host stands.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The host.
    pub host: HostName,
    /// Its state: as the worker wrote it, or as derived from the deadlines. Not terminal: no answer.
    pub state: State,
    /// What the worker wrote at the end.
    pub outcome: Option<Outcome>,
}

/// What has been heard of a host.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Where it stands.
    pub answer: Answer,
    /// When it was seen to start.
    pub started_ms: Option<Millis>,
    /// The worker has said that it ended.
    pub ended: bool,
    /// Nothing more is awaited: it ended, or was judged.
    pub done: bool,
    /// The operator knows that the host is not there.
    pub told_absent: bool,
}

/// What silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An answer can still come.
    Wait,
    /// It was not started in time and will not be.
    Expired,
    /// It is not known how it ended, and waiting will not tell.
    Unanswered,
}

impl Progress {
    /// Nothing heard yet.
    pub const fn new(host: HostName) -> Self {
        let answer = Answer { host, state: State::Queued, outcome: None };
        Self { answer, started_ms: None, ended: false, done: false, told_absent: false }
    }

    /// Notes a state that the worker wrote, and when, if that is known.
    pub fn heard(&mut self, state: State, at: Option<Millis>) {
        if state == State::Running {
            self.started_ms = self.started_ms.or(at);
        }
        // Events may be older than what was read from the hashes: an end is final.
        if !self.ended && (!self.done || state.is_terminal()) {
            self.answer.state = state;
        }
    }

    /// Judges the silence at `now`. `vanished_ms`: since when the job is gone from Redis.
    pub fn judge(&self, job: &Manifest, online: bool, vanished_ms: Option<Millis>, now: Millis) -> Verdict {
        let passed = |moment: Millis, tolerance: Duration| now > moment.saturating_add(millis(tolerance));
        if self.answer.state == State::Queued {
            // The inbox went the way of the job; but a worker may have read it just before.
            if vanished_ms.is_some_and(|vanished| passed(vanished, MARGIN)) {
                return Verdict::Unanswered;
            }
            return if passed(job.start_by_ms, MARGIN) { Verdict::Expired } else { Verdict::Wait };
        }
        let end = self.started_ms.unwrap_or(job.start_by_ms).saturating_add(job.timeout_ms);
        if passed(end, if online { PATIENCE } else { GRACE }) { Verdict::Unanswered } else { Verdict::Wait }
    }
}

/// The last moment at which any answer can be awaited.
pub fn last_moment(job: &Manifest) -> Millis {
    job.start_by_ms.saturating_add(job.timeout_ms).saturating_add(millis(PATIENCE))
}

/// How long to listen before looking again: `longest`, or until a verdict falls due.
pub fn pause(job: &Manifest, now: Millis, longest: Duration) -> Duration {
    let due = job.start_by_ms.saturating_add(millis(MARGIN)).saturating_add(1);
    if due > now { longest.min(Duration::from_millis(due - now)) } else { longest }
}

#[cfg(test)]
mod tests {
    use protocol::{action::Arguments, name::JobId, targets::Targets};

    use super::*;

    const ISSUED: Millis = 1_790_000_000_000;
    const START_BY: Millis = ISSUED + 300_000;

    fn job() -> Manifest {
        Manifest {
            job: JobId::new(),
            action: "ping".into(),
            arguments: Arguments::new(),
            operator: "ann@desk".into(),
            issued_at_ms: ISSUED,
            start_by_ms: START_BY,
            timeout_ms: 60_000,
            retention_ms: 1000,
            targets: Targets::new([]).root(),
            trace: None,
        }
    }

    fn seen(state: State, started_ms: Option<Millis>) -> Progress {
        let mut progress = Progress::new("web1".parse().unwrap());
        progress.heard(state, started_ms);
        progress
    }

    #[test]
    fn what_was_never_begun_expires_after_its_start_by() {
        let queued = Progress::new("web1".parse().unwrap());
        for online in [true, false] {
            assert_eq!(queued.judge(&job(), online, None, START_BY + 2000), Verdict::Wait);
            assert_eq!(queued.judge(&job(), online, None, START_BY + 2001), Verdict::Expired);
        }
    }

    #[test]
    fn what_was_begun_is_given_its_timeout_and_grace() {
        let running = seen(State::Running, Some(ISSUED));
        let end = ISSUED + 60_000;
        assert_eq!(running.judge(&job(), false, None, end + 30_000), Verdict::Wait);
        assert_eq!(running.judge(&job(), false, None, end + 30_001), Verdict::Unanswered);
        assert_eq!(running.judge(&job(), true, None, end + 30_001), Verdict::Wait);
        assert_eq!(running.judge(&job(), true, None, end + 300_001), Verdict::Unanswered);
        // When it started is not known: as late as it may have.
        let delivered = seen(State::Delivered, None);
        assert_eq!(delivered.judge(&job(), false, None, START_BY + 90_000), Verdict::Wait);
        assert_eq!(delivered.judge(&job(), false, None, START_BY + 90_001), Verdict::Unanswered);
    }

    #[test]
    fn a_job_gone_from_redis_will_not_be_begun() {
        let queued = Progress::new("web1".parse().unwrap());
        assert_eq!(queued.judge(&job(), true, Some(ISSUED), ISSUED + 1000), Verdict::Wait);
        assert_eq!(queued.judge(&job(), true, Some(ISSUED), ISSUED + 3000), Verdict::Unanswered);
        let running = seen(State::Running, Some(ISSUED));
        assert_eq!(running.judge(&job(), true, Some(ISSUED), ISSUED + 3000), Verdict::Wait);
    }

    #[test]
    fn a_late_truth_wins_over_a_guess_but_an_old_event_does_not() {
        let mut progress = Progress::new("web1".parse().unwrap());
        progress.answer.state = State::Expired;
        progress.done = true;
        progress.heard(State::Delivered, None);
        assert_eq!(progress.answer.state, State::Expired);
        progress.heard(State::Succeeded, None);
        assert_eq!(progress.answer.state, State::Succeeded);
        progress.ended = true;
        progress.heard(State::Running, None);
        assert_eq!(progress.answer.state, State::Succeeded);
    }

    #[test]
    fn listening_ends_when_a_verdict_falls_due() {
        let longest = Duration::from_secs(2);
        assert_eq!(pause(&job(), ISSUED, longest), longest);
        assert_eq!(pause(&job(), START_BY + 1000, longest), Duration::from_millis(1001));
        assert_eq!(pause(&job(), START_BY + 9000, longest), longest);
    }
}
