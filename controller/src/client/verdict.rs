//! Judges how a job stands on a host: from the published states, and from silence.
//!
//! Only the worker writes its host's state. Silence is judged by the job's two deadlines, and by whether the
//! host is online. A command that waits in a living worker is awaited: it starts when its turn comes. A state that the
//! worker publishes after all replaces the judgement.

use std::time::Duration;

use protocol::{clock::millis, command::Manifest, name::HostName, outcome::State, time::Millis};

use super::events::HostResult;

/// The time after the start-by for a state that is on its way.
const MARGIN: Duration = Duration::from_secs(2);
/// The time after the timeout for ending the process group and publishing the result.
const GRACE: Duration = Duration::from_secs(30);
/// The time after the timeout for a host that is online: it may be busy with other commands.
const PATIENCE: Duration = Duration::from_secs(300);

/// A host of a job that is followed.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Awaited {
    /// How the job stands there.
    pub(super) result: HostResult,
    /// By when it had started, as far as is known.
    pub(super) started_ms: Option<Millis>,
    /// Nothing more is awaited: it has ended, or was judged.
    pub(super) done: bool,
    /// The host was offline at the last look, and has not begun.
    pub(super) offline: bool,
    /// That the host is absent has been reported.
    pub(super) absence_reported: bool,
    /// The host was online at the last look.
    pub(super) online: bool,
}

/// How a job goes on, for a caller that sees it now and then, and begins the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Course {
    /// Nothing more is awaited.
    Over,
    /// It is awaited only on hosts that are offline and have not begun.
    Left,
    /// It is awaited.
    GoesOn,
}

impl Awaited {
    /// A host whose state is not known.
    pub(super) const fn new(host: HostName) -> Self {
        let result = HostResult::new(host);
        Self { result, started_ms: None, done: false, offline: false, absence_reported: false, online: false }
    }

    /// Records a state that the worker published, what the command waits for, and a moment at which it was in this
    /// state, if one is known. Returns whether anything has changed.
    pub(super) fn observe(&mut self, state: State, waits_for: Option<String>, at: Option<Millis>) -> bool {
        self.result.heard_ms = self.result.heard_ms.max(at);
        if state == State::Running {
            self.started_ms = [self.started_ms, at].into_iter().flatten().min();
        }
        // Events may be older than the states that were read from the hashes: an end is final.
        let is_open = !self.result.has_ended() && (!self.done || state.is_terminal());
        let is_news = is_open && (self.result.state != state || self.result.waits_for != waits_for);
        if is_news {
            self.result.state = state;
            self.result.waits_for = waits_for;
        }
        is_news
    }

    /// The command is in its state at `now`: one that runs has started by then.
    pub(super) fn stands_at(&mut self, now: Millis) {
        if self.result.state == State::Running {
            self.started_ms = self.started_ms.or(Some(now));
        }
    }

    /// Judges the silence at `now`. Returns the final state if no report can be expected any more. `lost_ms`: since
    /// when the job is gone from Redis.
    pub(super) fn judge(&self, job: &Manifest, online: bool, lost_ms: Option<Millis>, now: Millis) -> Option<State> {
        let passed = |moment: Millis, tolerance: Duration| now > moment.saturating_add(millis(tolerance));
        let state = self.result.state;
        if state == State::Queued {
            // The inbox was lost with the job; but a worker may have read it just before.
            let lost = lost_ms.is_some_and(|lost| passed(lost, MARGIN));
            return if lost { Some(state) } else { passed(job.start_by_ms, MARGIN).then_some(State::Expired) };
        }
        if self.result.waits_for.is_some() && online {
            return None;
        }
        let end = self.started_ms.unwrap_or(job.start_by_ms).saturating_add(job.timeout_ms);
        passed(end, if online { PATIENCE } else { GRACE }).then_some(state)
    }

    /// How it goes on, as of the last look. Whoever looks for the first time does not know when a command began that
    /// runs: then the last moment decides.
    pub(super) fn course(&self, job: &Manifest, now: Millis) -> Course {
        let waits = self.online && self.result.waits_for.is_some();
        if self.done || (now > last_moment(job) && !waits) {
            return Course::Over;
        }
        if self.offline { Course::Left } else { Course::GoesOn }
    }
}

/// The last moment at which any result can be awaited.
pub(super) fn last_moment(job: &Manifest) -> Millis {
    job.start_by_ms.saturating_add(job.timeout_ms).saturating_add(millis(PATIENCE))
}

/// How long to listen before looking again: `longest`, or until a verdict falls due.
pub(super) fn pause(job: &Manifest, now: Millis, longest: Duration) -> Duration {
    let due = job.start_by_ms.saturating_add(millis(MARGIN)).saturating_add(1);
    if due > now { longest.min(Duration::from_millis(due - now)) } else { longest }
}

#[cfg(test)]
mod tests {
    use protocol::{action::Arguments, name::JobId, outcome::Outcome, targets::Targets};

    use super::*;

    const ISSUED: Millis = 1_790_000_000_000;
    const START_BY: Millis = ISSUED + 300_000;

    fn job() -> Manifest {
        Manifest {
            salt: JobId::salt(),
            job: JobId::new(),
            action: "ping".into(),
            arguments: Arguments::new(),
            sealed: None,
            operator: "ann@desk".into(),
            issued_at_ms: ISSUED,
            start_by_ms: START_BY,
            timeout_ms: 60_000,
            retention_ms: 1000,
            keep_output: None,
            targets: Targets::new([]).root(),
            namespace: None,
            trace: None,
        }
    }

    fn seen(state: State, started_ms: Option<Millis>) -> Awaited {
        let mut awaited = Awaited::new("web1".parse().unwrap());
        awaited.observe(state, None, started_ms);
        awaited
    }

    #[test]
    fn what_was_never_begun_expires_after_its_start_by() {
        let queued = Awaited::new("web1".parse().unwrap());
        for online in [true, false] {
            assert_eq!(queued.judge(&job(), online, None, START_BY + 2000), None);
            assert_eq!(queued.judge(&job(), online, None, START_BY + 2001), Some(State::Expired));
        }
    }

    #[test]
    fn what_was_begun_is_given_its_timeout_and_grace() {
        let running = seen(State::Running, Some(ISSUED));
        let end = ISSUED + 60_000;
        assert_eq!(running.judge(&job(), false, None, end + 30_000), None);
        assert_eq!(running.judge(&job(), false, None, end + 30_001), Some(State::Running));
        assert_eq!(running.judge(&job(), true, None, end + 30_001), None);
        assert_eq!(running.judge(&job(), true, None, end + 300_001), Some(State::Running));
        // When it started is not known: as late as it may have.
        let delivered = seen(State::Delivered, None);
        assert_eq!(delivered.judge(&job(), false, None, START_BY + 90_000), None);
        assert_eq!(delivered.judge(&job(), false, None, START_BY + 90_001), Some(State::Delivered));
        // A living worker starts it when its turn comes, however late.
        let mut waiting = delivered.clone();
        waiting.observe(State::Delivered, Some("a slot".into()), None);
        assert_eq!(waiting.judge(&job(), true, None, START_BY + 3_600_000), None);
        assert_eq!(waiting.judge(&job(), false, None, START_BY + 90_001), Some(State::Delivered));
    }

    /// A host that dies at work publishes nothing more, and each look is the first one.
    #[test]
    fn what_was_begun_holds_nothing_up_beyond_the_last_moment() {
        let last = START_BY + 60_000 + 300_000;
        let mut running = seen(State::Running, None);
        for online in [true, false] {
            running.online = online;
            running.stands_at(last);
            assert_eq!(running.course(&job(), last), Course::GoesOn, "{online}");
            assert_eq!(running.course(&job(), last + 1), Course::Over, "{online}");
        }
        let mut waiting = seen(State::Delivered, None);
        waiting.observe(State::Delivered, Some("a slot".into()), None);
        assert_eq!(waiting.course(&job(), last + 1), Course::Over, "it died while it waited");
        waiting.online = true;
        assert_eq!(waiting.course(&job(), last + 1), Course::GoesOn);
    }

    #[test]
    fn what_waits_for_a_host_that_is_offline_is_left() {
        let mut queued = Awaited::new("web1".parse().unwrap());
        assert_eq!(queued.course(&job(), ISSUED), Course::GoesOn);
        queued.offline = true;
        assert_eq!(queued.course(&job(), ISSUED), Course::Left);
        queued.done = true;
        assert_eq!(queued.course(&job(), ISSUED), Course::Over);
    }

    #[test]
    fn what_began_late_is_given_its_timeout_from_then() {
        let late = START_BY + 600_000;
        let mut running = seen(State::Delivered, None);
        running.observe(State::Running, None, None);
        running.stands_at(late + 5000);
        running.observe(State::Running, None, Some(late));
        assert_eq!(running.judge(&job(), false, None, late + 90_000), None);
        assert_eq!(running.judge(&job(), false, None, late + 90_001), Some(State::Running));
    }

    #[test]
    fn a_job_gone_from_redis_will_not_be_begun() {
        let queued = Awaited::new("web1".parse().unwrap());
        assert_eq!(queued.judge(&job(), true, Some(ISSUED), ISSUED + 1000), None);
        assert_eq!(queued.judge(&job(), true, Some(ISSUED), ISSUED + 3000), Some(State::Queued));
        let running = seen(State::Running, Some(ISSUED));
        assert_eq!(running.judge(&job(), true, Some(ISSUED), ISSUED + 3000), None);
    }

    #[test]
    fn a_late_truth_wins_over_a_guess_but_an_old_event_does_not() {
        let mut awaited = Awaited::new("web1".parse().unwrap());
        awaited.result.state = State::Expired;
        awaited.done = true;
        awaited.observe(State::Delivered, None, None);
        assert_eq!(awaited.result.state, State::Expired);
        awaited.observe(State::Succeeded, None, None);
        assert_eq!(awaited.result.state, State::Succeeded);
        awaited.result.outcome = Some(Outcome::bare(State::Succeeded, None, ISSUED));
        awaited.observe(State::Running, None, None);
        assert_eq!(awaited.result.state, State::Succeeded);
    }

    #[test]
    fn listening_ends_when_a_verdict_falls_due() {
        let longest = Duration::from_secs(2);
        assert_eq!(pause(&job(), ISSUED, longest), longest);
        assert_eq!(pause(&job(), START_BY + 1000, longest), Duration::from_millis(1001));
        assert_eq!(pause(&job(), START_BY + 9000, longest), longest);
    }
}
