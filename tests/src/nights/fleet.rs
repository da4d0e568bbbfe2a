//! The fleet of a run: one Redis, two hosts, three `ctl serve`, and a clock that all of them share.

use std::{collections::BTreeMap, fs, path::PathBuf};

use fastrand::Rng;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protocol::{acl::Role, keys::Keys, name::ScheduleName, time::Millis};
use serde_json::Value;

use super::run::Bug;
use crate::{Aof, Ctl, Raw, Redis, Running, Worker, beside, chaos_worker};

pub(super) const HOSTS: [&str; 2] = ["web1", "web2"];

/// So many `ctl serve` run at once. The first one is killed, but never frozen: so one is always at work.
const SERVING: usize = 3;

/// A `ctl serve`, and how long it is frozen.
struct Serving {
    running: Running,
    frozen_until: Option<Until>,
}

/// How long a `ctl serve` is frozen.
#[derive(Clone, Copy)]
enum Until {
    /// Until that step begins.
    Step(u64),
    /// Until that moment, by the fleet's clock. The step does not end before.
    Moment(Millis),
}

/// Frozen for so long between two steps of its own, a `ctl serve` finds that another one has taken over.
const TAKEN_OVER_MS: Millis = 20_000;

/// The fleet, and what was done to it.
pub(super) struct Fleet {
    redis: Redis,
    raw: Raw,
    keys: Keys,
    _workers: Vec<Worker>,
    ctl: Ctl,
    serving: Vec<Serving>,
    started: usize,
    bug: Option<Bug>,
    clock: PathBuf,
    ahead_ms: Millis,
    pub(super) kills: usize,
    pub(super) freezes: usize,
}

/// The variable that names the file of the clock.
const CLOCK: &str = "REDFLEET_CHAOS_CLOCK";

fn chaos_ctl() -> PathBuf {
    let path = beside("chaos-ctl");
    path.unwrap_or_else(|| panic!("ctl with its feature `chaos` is missing: scripts/chaos-worker builds it"))
}

impl Fleet {
    pub(super) fn start(bug: Option<Bug>) -> Self {
        let redis = Redis::options().aof(Aof::Off).start();
        let clock = redis.directory().join("clock");
        fs::write(&clock, "0").expect("a file");
        fs::create_dir(redis.directory().join("ran")).expect("a directory");
        let path = clock.to_str().expect("text");
        let allowed = "[actions]\nallow = ['exec', 'standing-order']";
        let start =
            |host: &str| Worker::on(&redis).host(host).config(allowed).program(chaos_worker()).env(CLOCK, path).start();
        let workers: Vec<_> = HOSTS.into_iter().map(start).collect();
        workers.iter().for_each(Worker::wait_online);
        let ctl = Ctl::on(&redis).program(chaos_ctl()).env(CLOCK, path);
        let (raw, keys) = (Raw::on(&redis), Keys::new(None));
        let mut fleet = Self {
            redis,
            raw,
            keys,
            _workers: workers,
            ctl,
            serving: Vec::new(),
            started: 0,
            bug,
            clock,
            ahead_ms: 0,
            kills: 0,
            freezes: 0,
        };
        fleet.serving = (0..SERVING).map(|_| fleet.serve(None)).collect();
        fleet.serving.iter().for_each(|serving| drop(serving.running.wait_stderr(": ready")));
        fleet
    }

    /// Starts a `ctl serve`, with the rights of one. `end`: where it dies or freezes by itself.
    fn serve(&mut self, end: Option<(&str, &str)>) -> Serving {
        self.started += 1;
        let url = self.redis.url_of(&Role::Serve, None);
        let mut ctl = Ctl::keyless().program(chaos_ctl()).env("REDFLEET_REDIS", &url);
        ctl = ctl.env(CLOCK, self.clock.to_str().expect("text"));
        if let Some(bug) = self.bug {
            ctl = ctl.env("REDFLEET_CHAOS_BUG", &format!("{bug:?}"));
        }
        if let Some((variable, point)) = end {
            ctl = ctl.env(variable, point);
        }
        let config = ctl.write("serve.toml", &format!("name = 's{}'\ninterval = '100ms'\n", self.started));
        let running = ctl.spawn(["serve", config.to_str().expect("text")]);
        Serving { running, frozen_until: None }
    }

    /// The fleet's clock.
    pub(super) fn now(&mut self) -> Millis {
        self.raw.now() + self.ahead_ms
    }

    /// Puts the clock forward by so much, for all at once.
    pub(super) fn pass(&mut self, span_ms: Millis) {
        self.ahead_ms += span_ms;
        let new = self.clock.with_extension("new");
        fs::write(&new, self.ahead_ms.to_string()).expect("a file");
        fs::rename(new, &self.clock).expect("it is renamed");
    }

    /// Adds a schedule, and returns when its order was issued. `late`: its runs may be sent late.
    pub(super) fn add(&self, name: &str, cron: &str, zone: &str, late: bool) -> Millis {
        let script = format!("echo $REDFLEET_JOB >> {}/ran/$REDFLEET_HOST", self.redis.directory().display());
        let flags = ["schedule", "add", name, "--all", "--cron", cron, "--tz", zone, "--valid-for", "366d"];
        let rest = ["--grace", "10m", "--overlap", "allow", "exec", "--", "sh", "-c", &script];
        self.ctl.run(flags.into_iter().chain(late.then_some("--late")).chain(rest)).expect(0);
        let shown = self.ctl.run(["schedule", "show", name, "-o", "json"]).expect(0).json();
        protocol::time::read_moment(shown["issued_at"].as_str().expect("text")).expect("a moment")
    }

    /// Removes a schedule.
    pub(super) fn remove(&self, name: &str) {
        self.ctl.run(["schedule", "rm", name, "--yes"]).expect(0);
    }

    /// How far a schedule is accounted for, and how many of its runs have not ended.
    pub(super) fn standing(&mut self, name: &str) -> (Millis, usize) {
        let name: ScheduleName = name.parse().expect("a name");
        let accounted: String = self.raw.query(&["HGET", &self.keys.schedule(&name), "accounted_until"]);
        let accounted = accounted.split(' ').next().and_then(|moment| moment.parse().ok());
        (accounted.expect("a moment"), self.raw.query(&["HLEN", &self.keys.schedule_open(&name)]))
    }

    /// What `ctl` tells of the times of a schedule.
    pub(super) fn history(&self, name: &str) -> Vec<Value> {
        let told = self.ctl.run(["schedule", "history", name, "-n", "2000", "-o", "jsonl"]).expect(0);
        told.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// How often each job has run on a host, by the evidence that it has left there.
    pub(super) fn evidence(&self, host: &str) -> BTreeMap<String, usize> {
        let text = fs::read_to_string(self.redis.directory().join("ran").join(host)).unwrap_or_default();
        let mut ran = BTreeMap::new();
        text.lines().for_each(|job| *ran.entry(job.to_owned()).or_default() += 1);
        ran
    }

    /// Forgets what has run.
    pub(super) fn forget_evidence(&self) {
        for host in HOSTS {
            let _ = fs::remove_file(self.redis.directory().join("ran").join(host));
        }
    }

    /// Now and then, kills or freezes one, or arms one that will die or freeze between two steps of its own.
    pub(super) fn disturb(&mut self, step: u64, random: &mut Rng) {
        let ends: &[_] = match self.bug {
            Some(Bug::NoFence) => &[Some(("REDFLEET_CHAOS_STOP", "judged:1"))],
            _ => &[
                None,
                Some(("REDFLEET_CHAOS_KILL", "claimed:1")),
                Some(("REDFLEET_CHAOS_KILL", "claimed:2")),
                Some(("REDFLEET_CHAOS_KILL", "recorded:1")),
                Some(("REDFLEET_CHAOS_KILL", "sent:1")),
                Some(("REDFLEET_CHAOS_KILL", "withdrawn:1")),
                Some(("REDFLEET_CHAOS_STOP", "claimed:1")),
                Some(("REDFLEET_CHAOS_STOP", "judged:1")),
                Some(("REDFLEET_CHAOS_STOP", "recorded:1")),
                Some(("REDFLEET_CHAOS_STOP", "sent:1")),
            ],
        };
        // What this bug does shows only behind such a halt.
        let killed = if self.bug == Some(Bug::NoFence) { 7 } else { 3 };
        match random.u32(..10) {
            chance if chance < killed => {
                let victim = random.usize(..SERVING);
                let end = if victim == 0 { None } else { ends[random.usize(..ends.len())] };
                self.serving[victim].running.kill9();
                self.kills += 1;
                self.serving[victim] = self.serve(end);
            }
            ..5 => {
                let victim = random.usize(1..SERVING);
                if self.serving[victim].frozen_until.is_none() {
                    signal(&self.serving[victim].running, Signal::SIGSTOP);
                    self.serving[victim].frozen_until = Some(Until::Step(step + random.u64(1..4)));
                    self.freezes += 1;
                }
            }
            _ => {}
        }
    }

    /// Starts again what has died by itself, and lets those go on that were frozen for long enough. Returns whether the step
    /// must go on until more of them do.
    pub(super) fn look_after(&mut self, step: u64) -> bool {
        let now = self.now();
        let mut waits = false;
        for at in 0..SERVING {
            let serving = &mut self.serving[at];
            match (state(serving.running.pid()), serving.frozen_until) {
                (None | Some('Z' | 'X'), _) => {
                    self.kills += 1;
                    self.serving[at] = self.serve(None);
                }
                (Some('T'), None) => {
                    self.freezes += 1;
                    let until = if self.freezes.is_multiple_of(3) && self.bug != Some(Bug::NoFence) {
                        Until::Step(step + 1)
                    } else {
                        Until::Moment(now + TAKEN_OVER_MS)
                    };
                    serving.frozen_until = Some(until);
                    waits |= matches!(until, Until::Moment(_));
                }
                (Some('T'), Some(until)) => {
                    let is_over = match until {
                        Until::Step(until) => step >= until,
                        Until::Moment(until) => now >= until,
                    };
                    if is_over {
                        signal(&serving.running, Signal::SIGCONT);
                        serving.frozen_until = None;
                    }
                    waits |= !is_over && matches!(until, Until::Moment(_));
                }
                _ => {}
            }
        }
        waits
    }

    /// The last lines of those that live, for a failure.
    pub(super) fn logs(&self) -> String {
        let tail = |serving: &Serving| {
            let text = serving.running.stderr();
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        self.serving.iter().map(tail).collect::<Vec<_>>().join("\n--\n")
    }
}

/// The state of a process, by its letter.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn signal(running: &Running, signal: Signal) {
    kill(Pid::from_raw(running.pid().cast_signed()), signal).expect("one's own child can be signalled");
}
