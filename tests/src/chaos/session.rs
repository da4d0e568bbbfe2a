//! What `ctl` reports to operators must be what happened, and what Redis holds in the end.

use protocol::{
    name::{HostName, JobId},
    outcome::State,
    time::Millis,
};
use redis::{Connection, RedisResult};
use serde_json::Value;

use super::{
    checker::{BEFORE_START, Traces},
    command::{Work, bounded},
    evidence::Evidence,
    fleet::Fleet,
    history::About,
    operator,
    printed::{Excuse, Printed},
};

/// How many characters of a long output a violation shows.
const SHOWN: usize = 500;

/// Which command of `ctl` an operator uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// `ctl run`, with the result as JSON.
    Run,
    /// `ctl run --follow`.
    Follow,
    /// `ctl run --detach`, and soon after `ctl job cancel`.
    Cancel,
}

/// The output of a run of `ctl`.
#[derive(Debug, Default)]
pub(super) struct CtlOutput {
    /// The exit code; none where `ctl` had to be killed.
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// What an operator did, and what `ctl` reported.
pub(super) struct Session {
    /// What the session's programs call themselves in the evidence.
    pub(super) who: String,
    pub(super) at: Millis,
    pub(super) errand: Errand,
    pub(super) work: Work,
    pub(super) hosts: Vec<HostName>,
    pub(super) output: CtlOutput,
    /// The job, where `ctl` has printed its id.
    pub(super) job: Option<JobId>,
    /// The evidence at the moment when `ctl job cancel` had ended.
    pub(super) at_cancel: Evidence,
}

/// Judges all sessions; returns everything that is wrong.
pub(super) fn judge(
    fleet: &Fleet,
    sessions: &[Session],
    evidence: &Evidence,
    redis: &mut Connection,
) -> RedisResult<Vec<String>> {
    let mut all = Vec::new();
    for session in sessions {
        let mut wrong = session.against_evidence(fleet, evidence);
        wrong.extend(session.against_redis(fleet, redis)?);
        all.extend(wrong.into_iter().map(|text| format!("{text}; {}", session.describe(evidence))));
    }
    Ok(all)
}

impl Session {
    /// The command, for the counts.
    pub(super) const fn command(&self) -> &'static str {
        match self.errand {
            Errand::Run => "ctl run",
            Errand::Follow => "ctl run --follow",
            Errand::Cancel if self.job.is_none() => "ctl run --detach",
            Errand::Cancel => "ctl job cancel",
        }
    }

    /// How the command ended, for the counts.
    pub(super) fn end(&self) -> String {
        self.output.code.map_or_else(|| "never ended".into(), |code| format!("exit code {code}"))
    }

    /// The job that `ctl run` named.
    pub(super) fn named_job(&self) -> Option<JobId> {
        match self.errand {
            Errand::Run => self.result()["job"].as_str()?.parse().ok(),
            Errand::Follow => None,
            Errand::Cancel => self.output.stdout.trim().parse().ok(),
        }
    }

    /// The program started on the chosen hosts only, at most once on each; and `ctl` reports what happened.
    fn against_evidence(&self, fleet: &Fleet, evidence: &Evidence) -> Vec<String> {
        let starts = |host| evidence.count_on(&self.who, host).0;
        let everyone = fleet.hosts.iter().map(|host| &host.name);
        let too_often = everyone.filter(|host| starts(host) > usize::from(self.hosts.contains(host)));
        let mut wrong: Vec<_> = too_often.map(|host| format!("it started {} times on {host}", starts(host))).collect();
        match (self.errand, self.output.code) {
            // `ctl` could not dispatch it, or there was nothing left to cancel.
            (_, Some(1)) => {}
            (Errand::Run, Some(0 | 2..=4)) => wrong.extend(self.check_run(evidence)),
            (Errand::Follow, Some(0 | 2..=4)) => wrong.extend(self.check_follow(fleet, evidence)),
            (Errand::Cancel, Some(0 | 2 | 4)) if self.job.is_some() => wrong.extend(self.check_cancel(evidence)),
            _ => wrong.push("ctl has no such exit code here".into()),
        }
        wrong
    }

    /// Each host's reported state is what happened there, and the exit code sums them up.
    fn check_run(&self, evidence: &Evidence) -> Vec<String> {
        let prints = bounded(&self.work.full_output()).kept;
        let fits = |host: &&HostName| {
            let (reported, counts) = (self.result_of(host), evidence.count_on(&self.who, host));
            match reported["state"].as_str() {
                Some("succeeded") => {
                    counts == (1, 1) && reported["stdout"].as_str().map(str::as_bytes) == Some(&prints)
                }
                // A worker whose clock was stepped may expire it.
                Some("rejected" | "expired") => counts.0 == 0,
                Some("queued" | "delivered" | "running" | "interrupted") => true,
                _ => false,
            }
        };
        let unfit = self.hosts.iter().filter(|host| !fits(host));
        let mut wrong: Vec<_> = unfit.map(|host| format!("{host} did not do what ctl reports")).collect();
        let all = self.hosts.iter().all(|host| self.result_of(host)["state"] == "succeeded");
        if all != (self.output.code == Some(0)) {
            wrong.push("the exit code does not fit the results".into());
        }
        wrong
    }

    /// `ctl` printed what the programs print; after exit code 0, all of it.
    fn check_follow(&self, fleet: &Fleet, evidence: &Evidence) -> Vec<String> {
        let mut wrong = Vec::new();
        for host in &self.hosts {
            let (printed, full, excuse) =
                (self.printed(&self.output, host), self.full_output(), self.excuse(fleet, host));
            let succeeded = self.output.code == Some(0);
            if succeeded && evidence.count_on(&self.who, host) != (1, 1) {
                wrong.push(format!("it did not succeed on {host}"));
            }
            let verdict = if succeeded { printed.whole(&full, excuse) } else { printed.beginning(&full, excuse) };
            wrong.extend(verdict.err().map(|text| format!("ctl printed something else for {host}: {text}")));
        }
        wrong
    }

    /// After a confirmed cancel nothing more happens; a command reported as ended has ended.
    fn check_cancel(&self, evidence: &Evidence) -> Vec<String> {
        let check = |host: &HostName| {
            let (counts, then) = (evidence.count_on(&self.who, host), self.at_cancel.count_on(&self.who, host));
            let message = self.message_on(host);
            let fits = if let Some(reason) = message.strip_prefix("cancelled: ") {
                counts == then && (reason != BEFORE_START || counts == (0, 0))
            } else if message == "already ended (succeeded)" {
                counts == (1, 1)
            } else if message.starts_with("ended before it could be cancelled: ") {
                self.output.code == Some(2) && (!message.ends_with(": succeeded") || counts == (1, 1))
            } else if message == "has not replied yet" {
                matches!(self.output.code, Some(2 | 4))
            } else {
                message.starts_with("offline; ") || message.starts_with("already ended (")
            };
            (!fits).then(|| {
                format!("{host} did not do what ctl reports: {message:?}, then {then:?}, in the end {counts:?}")
            })
        };
        self.hosts.iter().filter_map(check).collect()
    }

    /// Redis holds what `ctl` reported, and `ctl job logs` prints what Redis holds.
    fn against_redis(&self, fleet: &Fleet, redis: &mut Connection) -> RedisResult<Vec<String>> {
        let (Some(job), loses) = (self.job, fleet.profile.loses()) else { return Ok(Vec::new()) };
        let logs = operator::logs(fleet, job);
        // A job that Redis has lost cannot be shown.
        if loses && logs.code == Some(1) {
            return Ok(Vec::new());
        }
        let mut wrong = Vec::new();
        if logs.code != Some(0) {
            wrong.push(format!("the logs of job {job} cannot be shown: {}", logs.stderr));
        }
        for host in &self.hosts {
            let traces = Traces::read(redis, fleet, job, host)?;
            let reported = self.terminal_state_on(host);
            if reported.is_some() && traces.state() != reported && !loses {
                wrong.push(format!("job {job} is {:?} on {host}, and ctl reported {reported:?}", traces.state()));
            }
            let (printed, full, excuse) = (self.printed(&logs, host), self.full_output(), self.excuse(fleet, host));
            let written = traces.outcome().map_or(0, |outcome| outcome.stdout.written_bytes);
            let written = usize::try_from(written).unwrap_or(usize::MAX);
            let unknown = matches!(traces.state(), None | Some(State::Running | State::Interrupted));
            let verdict = match full.get(..written) {
                // How much it had printed is not known.
                Some("") if unknown => printed.beginning(&full, excuse),
                Some(kept) => printed.whole(kept, excuse),
                None => Err(format!("{written} bytes are kept of {}", full.len())),
            };
            wrong.extend(verdict.err().map(|text| format!("the logs of job {job} on {host} are wrong: {text}")));
        }
        Ok(wrong)
    }

    /// The terminal state that `ctl` reported for this host; none where it reported none.
    fn terminal_state_on(&self, host: &HostName) -> Option<State> {
        let state: State = match self.errand {
            Errand::Run => self.result_of(host)["state"].as_str()?.parse().ok()?,
            Errand::Follow => return None,
            Errand::Cancel => self.message_on(host).strip_prefix("cancelled: ").map(|_| State::Cancelled)?,
        };
        state.is_terminal().then_some(state)
    }

    fn excuse(&self, fleet: &Fleet, host: &HostName) -> Excuse {
        let number = fleet.hosts.iter().position(|other| other.name == *host).expect("a host of the fleet");
        let mut deaths = fleet.history.moments(About::Host(number), "worker has died").into_iter();
        match fleet.profile.loses() {
            true => Excuse::RedisLost,
            false if deaths.any(|death| death >= self.at) => Excuse::WorkerDied,
            false => Excuse::Nothing,
        }
    }

    fn result(&self) -> Value {
        serde_json::from_str(&self.output.stdout).unwrap_or_default()
    }

    fn result_of(&self, host: &HostName) -> Value {
        let result = self.result();
        let hosts = result["hosts"].as_array().into_iter().flatten();
        hosts.into_iter().find(|result| result["host"] == host.as_str()).cloned().unwrap_or_default()
    }

    /// The last message about this host on standard error.
    fn message_on(&self, host: &HostName) -> &str {
        let message =
            self.output.stderr.lines().rev().find_map(|line| line.strip_prefix(host.as_str())?.strip_prefix(": "));
        message.unwrap_or_default()
    }

    fn printed(&self, output: &CtlOutput, host: &HostName) -> Printed {
        Printed::of(host, self.hosts.len() > 1, &output.stdout)
    }

    /// What each of its programs prints if it runs to its end.
    fn full_output(&self) -> String {
        String::from_utf8(self.work.full_output()).expect("numbers")
    }

    fn describe(&self, evidence: &Evidence) -> String {
        let Self { who, hosts, output: CtlOutput { stdout, stderr, .. }, .. } = self;
        let hosts: Vec<_> = hosts.iter().map(HostName::as_str).collect();
        let shown: String = stdout.chars().take(SHOWN).collect();
        let lines = evidence.lines(who).join("\n");
        format!(
            "{who}, {} on {}: {}, printed {shown} and {stderr}\n{lines}",
            self.command(),
            hosts.join(","),
            self.end()
        )
    }
}
