//! Schedules: what an operator has ordered runs by schedulers that hold no key. What ran is known by evidence on the hosts.

mod conduct;
mod kills;
mod silent;
mod typed;

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::Value;
use tests::{Ctl, Raw, Redis, Running, Worker, eventually};

/// Hosts `web1`, `web2` and so on that obey standing orders, and an operator.
struct Hosts {
    redis: Redis,
    workers: Vec<Worker>,
    ctl: Ctl,
}

/// The beginning of a name and its number.
fn scheduler(redis: &Redis, name: &str) -> Running {
    // It has no key: nothing but the right to talk with Redis.
    let ctl = Ctl::keyless().through(redis, &redis.url());
    let config = ctl.write("serve.toml", &format!("name = {name:?}\ninterval = '200ms'\n"));
    let running = ctl.spawn(["serve", config.to_str().expect("text")]);
    running.wait_stderr(": ready");
    running
}

impl Hosts {
    fn start(count: usize) -> Self {
        Self::with(count, Redis::start())
    }

    fn with(count: usize, redis: Redis) -> Self {
        let allowed = "[actions]\nallow = ['exec', 'standing-order']";
        let start = |number: usize| Worker::on(&redis).host(&format!("web{number}")).config(allowed).start();
        let workers: Vec<_> = (1..=count).map(start).collect();
        workers.iter().for_each(Worker::wait_online);
        let ctl = Ctl::on(&redis);
        let hosts = Self { redis, workers, ctl };
        fs::create_dir(hosts.directory()).expect("a directory");
        hosts
    }

    fn directory(&self) -> PathBuf {
        self.redis.directory().join("ran")
    }

    /// A line of shell that leaves evidence: its job, in the file of its host.
    fn script(&self) -> String {
        format!("echo $REDFLEET_JOB >> {}/$REDFLEET_HOST", self.directory().display())
    }

    fn serve(&self, name: &str) -> Running {
        scheduler(&self.redis, name)
    }

    /// Adds the schedule `tidy` with these flags, on all hosts.
    fn add(&self, flags: &str, script: &str) {
        let flags = flags.split_whitespace().map(str::to_owned);
        let words = ["exec", "--", "sh", "-c", script].map(str::to_owned);
        let words = ["schedule", "add", "tidy", "--all"].map(str::to_owned).into_iter().chain(flags).chain(words);
        self.ctl.run(words).expect(0);
    }

    /// The jobs that have left evidence on a host, in order.
    fn ran(&self, host: &str) -> Vec<String> {
        let text = fs::read_to_string(self.directory().join(host)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What became of each instant, the oldest first.
    fn history(&self) -> Vec<Value> {
        let words = ["schedule", "history", "tidy", "-n", "1000", "-o", "json"];
        let mut history = self.ctl.run(words).expect(0).json().as_array().expect("a list").clone();
        history.reverse();
        history
    }

    /// Waits until this holds for what became of the instants.
    #[track_caller]
    fn wait(&self, what: &str, look: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(what, || Some(self.history()).filter(|history| look(history)))
    }

    fn show(&self) -> Value {
        self.ctl.run(["schedule", "show", "tidy", "-o", "json"]).expect(0).json()
    }

    /// Waits until so many milliseconds have passed by Redis' clock.
    #[track_caller]
    fn wait_ms(&self, span: u64) {
        let mut raw = Raw::on(&self.redis);
        let until = raw.now() + span;
        eventually("time to pass", || (raw.now() >= until).then_some(()));
    }
}

/// How many instants have come to this.
fn count(history: &[Value], state: &str) -> usize {
    history.iter().filter(|instant| instant["state"] == state).count()
}

fn jobs(history: &[Value]) -> BTreeMap<String, &Value> {
    let job = |instant: &&Value| Some(instant["job"].as_str()?.to_owned());
    history.iter().filter_map(|instant| Some((job(&instant)?, instant))).collect()
}

fn ended(history: &[Value], end: &str) -> usize {
    history.iter().filter(|instant| instant["end"] == end).count()
}

/// Whether nothing more becomes of an instant: it was not to run, could not be sent, or its run has ended.
fn is_settled(instant: &Value) -> bool {
    match instant["state"].as_str().expect("a state") {
        "claimed" => false,
        "ran" | "late" => !instant["end"].is_null(),
        _ => true,
    }
}

/// How many runs were sent, or are about to be.
fn begun(history: &[Value]) -> usize {
    ["claimed", "ran", "late"].into_iter().map(|state| count(history, state)).sum()
}

fn moment(instant: &Value) -> u64 {
    protocol::time::read_moment(instant["at"].as_str().expect("text")).expect("a moment")
}
