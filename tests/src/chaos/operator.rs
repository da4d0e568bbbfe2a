//! A smaller share of the load goes through the real `ctl`, as people would use it.

use std::{
    io::Read,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use protocol::name::{HostName, JobId};

use super::{
    command::{Work, argv},
    evidence::Evidence,
    fleet::Fleet,
    history::About,
    now,
    told::{Errand, Said, Told},
};
use crate::{Ctl, Log};

/// A `ctl` that has not ended so long after all was healed is never coming back: no command lasts a
/// second.
const PATIENCE: Duration = Duration::from_secs(25);

/// Who asks.
struct Operator<'a> {
    fleet: &'a Fleet,
    name: &'a str,
    random: Rng,
    ctl: Ctl,
}

/// Asks one thing after another until the disturbance ends.
pub(super) fn operate(fleet: &Fleet, name: &str, seed: u64) -> Vec<Told> {
    let ctl = Ctl::alone().env("REDFLEET_REDIS", &fleet.proxy.url());
    let mut operator = Operator { fleet, name, random: Rng::with_seed(seed), ctl };
    let mut told = Vec::new();
    // `ctl` refuses to ask a host that nobody has heard of.
    thread::sleep(Duration::from_millis(500));
    while fleet.is_disturbed() {
        told.push(operator.one(told.len()));
        thread::sleep(Duration::from_millis(operator.random.u64(..200)));
    }
    told
}

/// What `ctl` says a job's programs have printed, past all proxies.
pub(super) fn logs(fleet: &Fleet, job: JobId) -> Said {
    run(fleet, &Ctl::alone().env("REDFLEET_REDIS", fleet.url()), &["job", "logs", &job.to_string()])
}

impl Operator<'_> {
    fn one(&mut self, number: usize) -> Told {
        let who = format!("{}{number}", self.name);
        let hosts = self.draw_hosts();
        let lines = [self.random.u64(..300), 3000, 20_000, 60_000][self.random.usize(..4)];
        let work = Work::Exec { lines, pause: Duration::from_millis(self.random.u64(..200)), code: 0 };
        let errand = [Errand::Run, Errand::Follow, Errand::Cancel][self.random.usize(..3)];
        let at = now();
        let said = self.ask(&who, errand, work, &hosts);
        let mut told = Told { who, at, errand, work, hosts, said, job: None, then: Evidence::default() };
        told.job = told.named_job();
        if let (Errand::Cancel, Some(job)) = (errand, told.job) {
            thread::sleep(Duration::from_millis(self.random.u64(..300)));
            told.said = self.say(&told.who, &["job", "cancel", &job.to_string()]);
            told.then = Evidence::read(&self.fleet.evidence);
        }
        told
    }

    /// One host, or all of them.
    fn draw_hosts(&mut self) -> Vec<HostName> {
        let all = self.fleet.hosts.iter().map(|host| host.name.clone());
        if self.random.bool() {
            all.collect()
        } else {
            all.skip(self.random.usize(..self.fleet.hosts.len())).take(1).collect()
        }
    }

    fn ask(&self, who: &str, errand: Errand, work: Work, hosts: &[HostName]) -> Said {
        let Work::Exec { lines, pause, code } = work else { unreachable!("operators run programs") };
        let names: Vec<_> = hosts.iter().map(HostName::as_str).collect();
        let flag = match errand {
            Errand::Run => "--output=json",
            Errand::Follow => "--follow",
            Errand::Cancel => "--detach",
        };
        let names = names.join(",");
        let program = argv(lines, pause, code, who, &self.fleet.evidence);
        let words = ["run", flag, "--host", &names, "exec", "--"].into_iter().chain(program.iter().map(String::as_str));
        self.say(who, &words.collect::<Vec<_>>())
    }

    /// Runs `ctl` to its end.
    fn say(&self, who: &str, words: &[&str]) -> Said {
        let note = |text: String| self.fleet.history.note(About::Everybody, text);
        note(format!("operator: ctl {} ({who})", words[..words.len().min(4)].join(" ")));
        let said = run(self.fleet, &self.ctl, words);
        note(format!("operator: ctl ends: {:?} ({who})", said.code));
        said
    }
}

fn run(fleet: &Fleet, ctl: &Ctl, words: &[&str]) -> Said {
    let mut child = ctl.command(words).spawn().expect("ctl starts");
    let (stdout, stderr) = (follow(child.stdout.take()), follow(child.stderr.take()));
    let code = end(fleet, &mut child);
    Said { code, stdout: stdout.wait_closed(), stderr: stderr.wait_closed() }
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
