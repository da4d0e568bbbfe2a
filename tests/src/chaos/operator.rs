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
    lock, now,
    session::{CtlOutput, Errand, Session},
};
use crate::{Ctl, Log};

/// A `ctl` that has not ended so long after the fleet was healed never ends: no command lasts a second.
const PATIENCE: Duration = Duration::from_secs(25);

/// Somebody who uses `ctl`.
struct Operator<'a> {
    fleet: &'a Fleet,
    name: &'a str,
    random: Rng,
    ctl: Ctl,
}

/// Runs one session after another until the disturbance ends.
pub(super) fn operate(fleet: &Fleet, name: &str, seed: u64) -> Vec<Session> {
    let ctl = Ctl::alone().through(&lock(&fleet.redis), &fleet.proxy.url());
    let mut operator = Operator { fleet, name, random: Rng::with_seed(seed), ctl };
    let mut sessions = Vec::new();
    // `ctl` refuses a host that has never sent a heartbeat.
    thread::sleep(Duration::from_millis(500));
    while fleet.is_disturbed() {
        sessions.push(operator.run_session(sessions.len()));
        thread::sleep(Duration::from_millis(operator.random.u64(..200)));
    }
    sessions
}

/// What `ctl job logs` prints, past all proxies.
pub(super) fn logs(fleet: &Fleet, job: JobId) -> CtlOutput {
    run(fleet, &Ctl::on(&lock(&fleet.redis)), &["job", "logs", &job.to_string()])
}

impl Operator<'_> {
    fn run_session(&mut self, number: usize) -> Session {
        let who = format!("{}{number}", self.name);
        let hosts = self.draw_hosts();
        let lines = [self.random.u64(..300), 3000, 20_000, 60_000][self.random.usize(..4)];
        let work = Work::Exec { lines, pause: Duration::from_millis(self.random.u64(..200)), code: 0 };
        let errand = [Errand::Run, Errand::Follow, Errand::Cancel][self.random.usize(..3)];
        let at = now();
        let output = self.dispatch(&who, errand, work, &hosts);
        let mut session = Session { who, at, errand, work, hosts, output, job: None, at_cancel: Evidence::default() };
        session.job = session.named_job();
        if let (Errand::Cancel, Some(job)) = (errand, session.job) {
            thread::sleep(Duration::from_millis(self.random.u64(..300)));
            session.output = self.ctl(&session.who, &["job", "cancel", &job.to_string()]);
            session.at_cancel = Evidence::read(&self.fleet.evidence);
        }
        session
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

    fn dispatch(&self, who: &str, errand: Errand, work: Work, hosts: &[HostName]) -> CtlOutput {
        let Work::Exec { lines, pause, code } = work else { unreachable!("operators run programs") };
        let names: Vec<_> = hosts.iter().map(HostName::as_str).collect();
        let flags: &[&str] = match errand {
            Errand::Run => &["--output=json", "--wait"],
            Errand::Follow => &["--follow", "--wait"],
            Errand::Cancel => &["--detach"],
        };
        let names = names.join(",");
        let program = argv(lines, pause, code, who, &self.fleet.evidence);
        let program: Vec<_> = program.iter().map(String::as_str).collect();
        self.ctl(who, &[&["run"], flags, &["--host", &names, "exec", "--"], &program].concat())
    }

    /// Runs `ctl` to its end.
    fn ctl(&self, who: &str, words: &[&str]) -> CtlOutput {
        let note = |text: String| self.fleet.history.note(About::Everybody, text);
        note(format!("operator: ctl {} ({who})", words[..words.len().min(4)].join(" ")));
        let output = run(self.fleet, &self.ctl, words);
        note(format!("operator: ctl ends: {:?} ({who})", output.code));
        output
    }
}

fn run(fleet: &Fleet, ctl: &Ctl, words: &[&str]) -> CtlOutput {
    let mut child = ctl.command(words).spawn().expect("ctl starts");
    let (stdout, stderr) = (follow(child.stdout.take()), follow(child.stderr.take()));
    let code = end(fleet, &mut child);
    CtlOutput { code, stdout: stdout.wait_closed(), stderr: stderr.wait_closed() }
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
