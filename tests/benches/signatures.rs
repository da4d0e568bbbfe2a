//! What signatures cost: `make bench`.
//!
//! The same programs, built once as released and once so that they neither sign nor verify, run on equal fleets in one
//! run, by turns. Quote the ratios: the times depend on the machine.

use std::{
    env,
    time::{Duration, Instant},
};

use tests::{Ctl, Redis, Worker, released, unsigned};

/// How many hosts the larger fleet has, unless `HOSTS` says so.
const HOSTS: usize = 500;

/// How often each is measured.
const ROUNDS: usize = 15;

fn main() {
    let hosts = env::var("HOSTS").ok().and_then(|hosts| hosts.parse().ok()).unwrap_or(HOSTS);
    println!("{:<34} {:>10} {:>10} {:>7}", "", "unsigned", "signed", "ratio");
    for hosts in [1, hosts] {
        let fleets = [Fleet::new(hosts, unsigned), Fleet::new(hosts, released)];
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (fleet, took) in fleets.iter().zip(&mut took) {
                took.push(fleet.ping());
            }
        }
        let [unsigned, signed] = took.map(median);
        let (name, ratio) =
            (format!("ctl run --all ping, {hosts} hosts"), signed.as_secs_f64() / unsigned.as_secs_f64());
        println!("{name:<34} {unsigned:>10.1?} {signed:>10.1?} {ratio:>7.2}");
    }
}

/// Workers on a Redis of their own, and the `ctl` of the same build.
struct Fleet {
    ctl: Ctl,
    _workers: Vec<Worker>,
    _redis: Redis,
}

impl Fleet {
    fn new(hosts: usize, build: fn(&str) -> std::path::PathBuf) -> Self {
        let redis = Redis::start();
        let start = |number| {
            let options = Worker::on(&redis).host(&format!("h{number}")).program(build("worker"));
            options.config("slots = 2\nsample_interval = '60s'").start()
        };
        let workers: Vec<_> = (0..hosts).map(start).collect();
        workers.iter().for_each(Worker::wait_online);
        let fleet = Self { ctl: Ctl::on(&redis).program(build("ctl")), _workers: workers, _redis: redis };
        // The first time `ctl` gets to know the hosts' keys.
        fleet.ping();
        fleet
    }

    fn ping(&self) -> Duration {
        let begun = Instant::now();
        self.ctl.run(["run", "--all", "--quiet", "ping"]).expect(0);
        begun.elapsed()
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
