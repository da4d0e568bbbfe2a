//! `ctl` is killed at random moments of rolling runs. Another goes on, and may be killed too. By evidence on the hosts no
//! host is repeated, and none forgotten.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use tests::{Ctl, Output};

use super::Hosts;

/// Hosts.
const HOSTS: usize = 20;

/// How often `ctl` is killed.
const KILLS: usize = 1_000;
const SOME_KILLS: usize = 20;

/// Kills in one run at most.
const KILLS_OF_ONE: usize = 3;

#[test]
fn no_host_is_repeated_or_forgotten_when_ctl_is_killed() {
    kill(SOME_KILLS);
}

#[test]
#[ignore = "takes a quarter of an hour: `make rollouts` runs it by itself"]
fn no_host_is_repeated_or_forgotten_when_ctl_is_killed_a_thousand_times() {
    kill(KILLS);
}

fn kill(wanted: usize) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let hosts = Hosts::start(HOSTS);
    let machines = [Ctl::on(&hosts.redis), Ctl::on(&hosts.redis)];
    let (mut kills, mut runs, mut resumed) = (0, 0, 0);

    // How long a run takes: within that time it is killed.
    let begun = Instant::now();
    machines[0].run(Run::new(&hosts, &mut random).words());
    let longest = begun.elapsed();
    while kills < wanted {
        runs += 1;
        let run = Run::new(&hosts, &mut random);
        // By this it is resumed. Before it is printed, nothing is sent.
        let mut id: Option<String> = None;
        for attempt in 0.. {
            assert!(attempt < 20, "run {runs} does not end");
            let machine = &machines[attempt % machines.len()];
            let words = id.as_ref().map_or_else(|| run.words(), |id| resume(id));
            resumed += usize::from(id.is_some());
            let stderr = if attempt < KILLS_OF_ONE && kills < wanted {
                let (is_killed, stderr) = begin_and_kill(machine, &words, longest.mul_f64(random.f64()));
                // Where it has ended before, there may be something to resume all the same.
                kills += usize::from(is_killed);
                stderr
            } else {
                // It fails on some hosts the first time, and goes on elsewhere.
                let output = machine.run(&words);
                if output.code == 0 {
                    run.expect_done(&output);
                    break;
                }
                assert_eq!(output.code, 2, "{output}");
                output.stderr
            };
            id = id.or_else(|| printed_id(&stderr));
            assert!(id.is_some() || hosts.ran().is_empty(), "it was begun, and nobody knows its id");
        }
    }
    println!(
        "ctl was killed {kills} times in {runs} runs over {HOSTS} hosts, which were resumed {resumed} times: 0 hosts repeated, 0 forgotten"
    );
}

/// Returns whether it was killed before its end, and what it has printed.
fn begin_and_kill(machine: &Ctl, words: &[String], after: Duration) -> (bool, String) {
    let mut running = machine.spawn(words);
    // The moment itself is what is tried.
    thread::sleep(after);
    (running.kill9(), running.all_stderr())
}

fn printed_id(stderr: &str) -> Option<String> {
    stderr.lines().find_map(|line| Some(line.strip_prefix("should this end early: ctl job resume ")?.to_owned()))
}

fn resume(id: &str) -> Vec<String> {
    ["job", "resume", id, "--yes"].map(str::to_owned).into()
}

/// A run, with evidence of its own.
struct Run<'a> {
    hosts: &'a Hosts,
    /// Hosts on which it fails the first time.
    failing: Vec<String>,
}

impl<'a> Run<'a> {
    fn new(hosts: &'a Hosts, random: &mut Rng) -> Self {
        fs::remove_dir_all(hosts.directory("ran"))
            .and_then(|()| fs::create_dir(hosts.directory("ran")))
            .expect("a directory");
        let failing: Vec<_> = (0..random.usize(..3)).map(|_| format!("web{}", random.usize(1..=HOSTS))).collect();
        for host in &failing {
            hosts.fail(host);
        }
        Self { hosts, failing }
    }

    fn words(&self) -> Vec<String> {
        let fails = self.hosts.directory("fails");
        let fails = fails.display();
        let ran = self.hosts.directory("ran");
        let once = format!("test ! -e {fails}/$REDFLEET_HOST || {{ rm {fails}/$REDFLEET_HOST; exit 1; }}");
        let script = format!("echo ran >> {}/$REDFLEET_HOST; {once}", ran.display());
        let flags = "run --all --yes --canary 1 --batch 7 --max-fail 20 exec -- sh -c";
        flags.split(' ').map(str::to_owned).chain([script]).collect()
    }

    #[track_caller]
    fn expect_done(&self, output: &Output) {
        let times = |host: &String| if self.failing.contains(host) { 2 } else { 1 };
        let hosts = (1..=HOSTS).map(|number| format!("web{number}"));
        let expected: BTreeMap<_, _> = hosts.map(|host| (host.clone(), times(&host))).collect();
        assert_eq!(self.hosts.ran(), expected, "{output}");
    }
}
