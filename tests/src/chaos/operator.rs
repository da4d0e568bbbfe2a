//! A smaller share of the load goes through the real `ctl`, as a person would use it, and what it says
//! is held against what happened.

use std::{
    io::Read,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use redis::{Connection, RedisResult};
use serde_json::Value;

use super::{
    command::{Work, argv},
    evidence::Evidence,
    fleet::Fleet,
    history::About,
    profile::Profile,
};
use crate::{Ctl, Log};

/// A `ctl` that has not ended so long after all was healed is never coming back: no command lasts a
/// second.
const PATIENCE: Duration = Duration::from_secs(25);

/// What an operator asked, and what he was told.
pub(super) struct Told {
    who: String,
    work: Work,
    host: usize,
    /// The exit code; none where it did not come back.
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Told {
    /// For the counts.
    pub(super) fn verdict(&self) -> String {
        self.code.map_or_else(|| "never ended".into(), |code| format!("exit code {code}"))
    }
}

/// Asks one thing after another until the disturbance ends.
pub(super) fn operate(fleet: &Fleet, seed: u64) -> Vec<Told> {
    let mut random = Rng::with_seed(seed);
    let ctl = Ctl::alone().env("REDFLEET_REDIS", &fleet.proxy.url());
    let mut told = Vec::new();
    // `ctl` refuses to ask a host that nobody has heard of.
    thread::sleep(Duration::from_millis(500));
    while fleet.is_disturbed() {
        let host = random.usize(..fleet.hosts.len());
        let (lines, pause) = (random.u64(..300), Duration::from_millis(random.u64(..200)));
        let work = Work::Exec { lines, pause, code: 0 };
        let who = format!("ctl{}", told.len());
        let name = fleet.hosts[host].name.as_str();
        let mut words: Vec<String> = ["run", "--host", name, "-o", "json", "exec", "--"].map(str::to_owned).into();
        words.extend(argv(lines, pause, 0, &who, &fleet.evidence));
        fleet.history.note(About::Host(host), format!("an operator asks with ctl ({who})"));
        let mut child = ctl.command(words).spawn().expect("ctl starts");
        let (stdout, stderr) = (follow(child.stdout.take()), follow(child.stderr.take()));
        let code = end(fleet, &mut child);
        fleet.history.note(About::Host(host), format!("ctl ({who}) ends: {code:?}"));
        told.push(Told { who, work, host, code, stdout: stdout.wait_closed(), stderr: stderr.wait_closed() });
        thread::sleep(Duration::from_millis(random.u64(..200)));
    }
    told
}

fn follow(pipe: Option<impl Read + Send + 'static>) -> Log {
    let log = Log::default();
    if let Some(pipe) = pipe {
        log.follow(pipe);
    }
    log
}

fn end(fleet: &Fleet, child: &mut Child) -> Option<i32> {
    let mut end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if fleet.is_disturbed() {
            end = Instant::now() + PATIENCE;
        }
        if let Some(status) = child.try_wait().expect("one's own child can be waited for") {
            return status.code();
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = (child.kill(), child.wait());
    None
}

/// What operators were told must be what happened, and what Redis says in the end.
pub(super) fn judge(
    fleet: &Fleet,
    told: &[Told],
    evidence: &Evidence,
    redis: &mut Connection,
) -> RedisResult<Vec<String>> {
    let mut wrong = Vec::new();
    for Told { who, work, host, code, stdout, stderr } in told {
        let answer: Value = serde_json::from_str(stdout).unwrap_or_default();
        let said = &answer["hosts"][0];
        let (starts, ends) = evidence.count(who);
        let fits = match code {
            Some(0) => {
                let printed = said["stdout"].as_str().is_some_and(|text| text.as_bytes() == work.prints());
                (starts, ends) == (1, 1) && said["state"] == "succeeded" && printed
            }
            // Failed, no answer, incomplete: interrupted, rejected for want of a journal, expired.
            Some(1..=4) => starts <= 1 && said["state"] != "succeeded",
            _ => false,
        };
        let name = &fleet.hosts[*host].name;
        if !fits {
            wrong.push(format!(
                "{who} on {name}: ctl ended with {code:?}, but it started {starts} times and ended {ends} times; ctl \
                 said {said}, {stderr}\n{}",
                evidence.lines(who).join("\n")
            ));
        }
        if let (Some(job), false) =
            (answer["job"].as_str(), matches!(fleet.profile, Profile::PowerCuts | Profile::Forgetful))
        {
            let job = job.parse().expect("ctl prints ids");
            let state: Option<String> =
                redis::cmd("HGET").arg(fleet.keys.job_hosts(job)).arg(name.as_str()).query(redis)?;
            let ended = ["queued", "delivered", "running"].iter().all(|open| said["state"] != *open);
            if ended && state.as_deref() != said["state"].as_str() {
                wrong.push(format!("{who}: job {job} is {state:?} on {name}, and ctl said {said}"));
            }
        }
    }
    Ok(wrong)
}
