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
    machines[0].run(Run::new(&hosts, 0, &mut random).words());
    let longest = begun.elapsed();
    while kills < wanted {
        runs += 1;
        let run = Run::new(&hosts, runs, &mut random);
        for attempt in 0.. {
            assert!(attempt < 20, "run {runs} does not end");
            let machine = &machines[attempt % machines.len()];
            let is_begun = run.is_begun(machine);
            let words = if is_begun { Run::resume() } else { run.words() };
            resumed += usize::from(is_begun);
            if attempt < KILLS_OF_ONE && kills < wanted {
                // Where it has ended before, there may be something to resume all the same.
                kills += usize::from(begin_and_kill(machine, &words, longest.mul_f64(random.f64())));
                continue;
            }
            // It fails on some hosts the first time, and goes on elsewhere.
            let output = machine.run(&words);
            if output.code == 0 {
                run.expect_done(&output);
                break;
            }
            assert_eq!(output.code, 2, "{output}");
        }
    }
    println!(
        "ctl was killed {kills} times in {runs} runs over {HOSTS} hosts, which were resumed {resumed} times: 0 hosts repeated, 0 forgotten"
    );
}

/// Returns whether it was killed before its end.
fn begin_and_kill(machine: &Ctl, words: &[String], after: Duration) -> bool {
    let mut running = machine.spawn(words);
    // The moment itself is what is tried.
    thread::sleep(after);
    running.kill9()
}

/// A run, with evidence of its own.
struct Run<'a> {
    hosts: &'a Hosts,
    /// What tells its jobs from those of other runs.
    mark: String,
    /// Hosts on which it fails the first time.
    failing: Vec<String>,
}

impl<'a> Run<'a> {
    fn new(hosts: &'a Hosts, number: usize, random: &mut Rng) -> Self {
        fs::remove_dir_all(hosts.directory("ran"))
            .and_then(|()| fs::create_dir(hosts.directory("ran")))
            .expect("a directory");
        let failing: Vec<_> = (0..random.usize(..3)).map(|_| format!("web{}", random.usize(1..=HOSTS))).collect();
        for host in &failing {
            hosts.fail(host);
        }
        Self { hosts, mark: format!("mark-{number}-"), failing }
    }

    fn words(&self) -> Vec<String> {
        let fails = self.hosts.directory("fails");
        let fails = fails.display();
        let ran = self.hosts.directory("ran");
        let once = format!("test ! -e {fails}/$REDFLEET_HOST || {{ rm {fails}/$REDFLEET_HOST; exit 1; }}");
        let script = format!(": {}; echo ran >> {}/$REDFLEET_HOST; {once}", self.mark, ran.display());
        let flags = "run --all --yes --canary 1 --batch 7 --max-fail 20 exec -- sh -c";
        flags.split(' ').map(str::to_owned).chain([script]).collect()
    }

    fn resume() -> Vec<String> {
        ["job", "resume", "last", "--yes"].map(str::to_owned).into()
    }

    /// Whether a job of this run was sent.
    fn is_begun(&self, machine: &Ctl) -> bool {
        machine.run(["job", "list", "-n", "3", "-o", "json"]).expect(0).stdout.contains(&self.mark)
    }

    #[track_caller]
    fn expect_done(&self, output: &Output) {
        let times = |host: &String| if self.failing.contains(host) { 2 } else { 1 };
        let hosts = (1..=HOSTS).map(|number| format!("web{number}"));
        let expected: BTreeMap<_, _> = hosts.map(|host| (host.clone(), times(&host))).collect();
        assert_eq!(self.hosts.ran(), expected, "{output}");
    }
}
