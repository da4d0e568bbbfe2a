//! What operators were told must be what happened, and what Redis says in the end.

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

/// Characters of a long answer that are shown of it.
const SHOWN: usize = 500;

/// What an operator wants of `ctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// `ctl run`, with the answer as JSON.
    Run,
    /// `ctl run --follow`.
    Follow,
    /// `ctl run --detach`, and soon after `ctl job cancel`.
    Cancel,
}

/// What a run of `ctl` left.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The exit code; none where it did not come back.
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// What an operator asked, and what he was told.
pub(super) struct Told {
    pub(super) who: String,
    pub(super) at: Millis,
    pub(super) errand: Errand,
    pub(super) work: Work,
    pub(super) hosts: Vec<HostName>,
    pub(super) said: Said,
    /// The job, where its id was told.
    pub(super) job: Option<JobId>,
    /// What had happened when a cancel was answered.
    pub(super) then: Evidence,
}

/// Judges all that was told; says everything that is wrong.
pub(super) fn judge(
    fleet: &Fleet,
    told: &[Told],
    evidence: &Evidence,
    redis: &mut Connection,
) -> RedisResult<Vec<String>> {
    let mut all = Vec::new();
    for told in told {
        let mut wrong = told.against_evidence(fleet, evidence);
        wrong.extend(told.against_redis(fleet, redis)?);
        all.extend(wrong.into_iter().map(|text| format!("{text}; {}", told.tell(evidence))));
    }
    Ok(all)
}

impl Told {
    /// What was asked, for the counts.
    pub(super) const fn question(&self) -> &'static str {
        match self.errand {
            Errand::Run => "ctl run",
            Errand::Follow => "ctl run --follow",
            Errand::Cancel if self.job.is_none() => "ctl run --detach",
            Errand::Cancel => "ctl job cancel",
        }
    }

    /// How it went, for the counts.
    pub(super) fn verdict(&self) -> String {
        self.said.code.map_or_else(|| "never ended".into(), |code| format!("exit code {code}"))
    }

    /// The job that `ctl run` named.
    pub(super) fn named_job(&self) -> Option<JobId> {
        match self.errand {
            Errand::Run => self.answer()["job"].as_str()?.parse().ok(),
            Errand::Follow => None,
            Errand::Cancel => self.said.stdout.trim().parse().ok(),
        }
    }

    /// It started where it was asked and at most once; and ctl said what happened.
    fn against_evidence(&self, fleet: &Fleet, evidence: &Evidence) -> Vec<String> {
        let starts = |host| evidence.count_on(&self.who, host).0;
        let everyone = fleet.hosts.iter().map(|host| &host.name);
        let too_often = everyone.filter(|host| starts(host) > usize::from(self.hosts.contains(host)));
        let mut wrong: Vec<_> = too_often.map(|host| format!("it started {} times on {host}", starts(host))).collect();
        match (self.errand, self.said.code) {
            // It could not be asked, or there was nothing left to cancel.
            (_, Some(1)) => {}
            (Errand::Run, Some(0 | 2..=4)) => wrong.extend(self.ran(evidence)),
            (Errand::Follow, Some(0 | 2..=4)) => wrong.extend(self.followed(fleet, evidence)),
            (Errand::Cancel, Some(0 | 2 | 4)) if self.job.is_some() => wrong.extend(self.cancelled(evidence)),
            _ => wrong.push("ctl does not end like this".into()),
        }
        wrong
    }

    /// Each host stands as it says, and the exit code is by all of them.
    fn ran(&self, evidence: &Evidence) -> Vec<String> {
        let prints = bounded(&self.work.prints()).kept;
        let fits = |host: &&HostName| {
            let (said, counts) = (self.answer_of(host), evidence.count_on(&self.who, host));
            match said["state"].as_str() {
                Some("succeeded") => counts == (1, 1) && said["stdout"].as_str().map(str::as_bytes) == Some(&prints),
                // A clock that was stepped may think that it is too late.
                Some("rejected" | "expired") => counts.0 == 0,
                Some("queued" | "delivered" | "running" | "interrupted") => true,
                _ => false,
            }
        };
        let unfit = self.hosts.iter().filter(|host| !fits(host));
        let mut wrong: Vec<_> = unfit.map(|host| format!("{host} did not do what ctl says")).collect();
        let all = self.hosts.iter().all(|host| self.answer_of(host)["state"] == "succeeded");
        if all != (self.said.code == Some(0)) {
            wrong.push("the exit code is not that of the answers".into());
        }
        wrong
    }

    /// What was printed is what the programs print; where all is well, all of it.
    fn followed(&self, fleet: &Fleet, evidence: &Evidence) -> Vec<String> {
        let mut wrong = Vec::new();
        for host in &self.hosts {
            let (printed, full, excuse) = (self.printed(&self.said, host), self.prints(), self.excuse(fleet, host));
            let well = self.said.code == Some(0);
            if well && evidence.count_on(&self.who, host) != (1, 1) {
                wrong.push(format!("it did not succeed on {host}"));
            }
            let like = if well { printed.whole(&full, excuse) } else { printed.beginning(&full, excuse) };
            wrong.extend(like.err().map(|text| format!("{host} printed something else: {text}")));
        }
        wrong
    }

    /// Once a cancel is confirmed nothing more happens; what had ended before has ended.
    fn cancelled(&self, evidence: &Evidence) -> Vec<String> {
        let done = |host: &HostName| {
            let (counts, then) = (evidence.count_on(&self.who, host), self.then.count_on(&self.who, host));
            let words = self.words_on(host);
            let fits = if let Some(reason) = words.strip_prefix("cancelled: ") {
                counts == then && (reason != BEFORE_START || counts == (0, 0))
            } else if words == "has ended already: succeeded" {
                counts == (1, 1)
            } else if words.starts_with("ended before it could be cancelled: ") {
                self.said.code == Some(2) && (!words.ends_with(": succeeded") || counts == (1, 1))
            } else if words == "has not answered yet" {
                matches!(self.said.code, Some(2 | 4))
            } else {
                words.starts_with("offline; ") || words.starts_with("has ended already: ")
            };
            (!fits).then(|| format!("{host} did not do what ctl says: {words:?}, then {then:?}, in the end {counts:?}"))
        };
        self.hosts.iter().filter_map(done).collect()
    }

    /// What Redis keeps is what was told, and what `ctl job logs` prints.
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
            let traces = Traces::ask(redis, fleet, job, host)?;
            let told = self.end_on(host);
            if told.is_some() && traces.state() != told && !loses {
                wrong.push(format!("job {job} is {:?} on {host}, and ctl said {told:?}", traces.state()));
            }
            let (printed, full, excuse) = (self.printed(&logs, host), self.prints(), self.excuse(fleet, host));
            let written = traces.outcome().map_or(0, |outcome| outcome.stdout.written_bytes);
            let written = usize::try_from(written).unwrap_or(usize::MAX);
            let open = matches!(traces.state(), None | Some(State::Running | State::Interrupted));
            let like = match full.get(..written) {
                // Nobody can say how much it had printed.
                Some("") if open => printed.beginning(&full, excuse),
                Some(kept) => printed.whole(kept, excuse),
                None => Err(format!("{written} bytes are kept of {}", full.len())),
            };
            wrong.extend(like.err().map(|text| format!("the logs of job {job} on {host} are wrong: {text}")));
        }
        Ok(wrong)
    }

    /// The end of which `ctl` told on this host; none where it told of none.
    fn end_on(&self, host: &HostName) -> Option<State> {
        let state: State = match self.errand {
            Errand::Run => self.answer_of(host)["state"].as_str()?.parse().ok()?,
            Errand::Follow => return None,
            Errand::Cancel => self.words_on(host).strip_prefix("cancelled: ").map(|_| State::Cancelled)?,
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

    fn answer(&self) -> Value {
        serde_json::from_str(&self.said.stdout).unwrap_or_default()
    }

    fn answer_of(&self, host: &HostName) -> Value {
        let answer = self.answer();
        let hosts = answer["hosts"].as_array().into_iter().flatten();
        hosts.into_iter().find(|answer| answer["host"] == host.as_str()).cloned().unwrap_or_default()
    }

    /// The last that was said of this host beside the result.
    fn words_on(&self, host: &HostName) -> &str {
        let words =
            self.said.stderr.lines().rev().find_map(|line| line.strip_prefix(host.as_str())?.strip_prefix(": "));
        words.unwrap_or_default()
    }

    fn printed(&self, said: &Said, host: &HostName) -> Printed {
        Printed::of(host, self.hosts.len() > 1, &said.stdout, &said.stderr)
    }

    /// What its programs print if they run to their end.
    fn prints(&self) -> String {
        String::from_utf8(self.work.prints()).expect("numbers")
    }

    fn tell(&self, evidence: &Evidence) -> String {
        let Self { who, hosts, said: Said { stdout, stderr, .. }, .. } = self;
        let hosts: Vec<_> = hosts.iter().map(HostName::as_str).collect();
        let shown: String = stdout.chars().take(SHOWN).collect();
        let lines = evidence.lines(who).join("\n");
        format!(
            "{who}, {} on {}: {}, said {shown} and {stderr}\n{lines}",
            self.question(),
            hosts.join(","),
            self.verdict()
        )
    }
}
