//! What signatures cost: `make bench`.
//!
//! The same programs, built once as released and once so that they neither sign nor verify, run on equal fleets in one
//! run, by turns. Quote the ratios: the times depend on the machine.
//!
//! Then what one signature for many hosts costs, without Redis: to make the job and the entries of all hosts, with
//! and without signature and proofs.

use std::{
    env,
    hint::black_box,
    time::{Duration, Instant},
};

use protocol::{
    command::{Envelope, Manifest},
    job::JobRecord,
    keys::Keys,
    name::HostName,
    signed::Signed,
    targets::{Proof, Targets},
    trust::{
        Trust,
        sshsig::{self, Signature},
    },
};
use tests::{Ctl, Raw, Redis, Worker, operator, released, unsigned};

/// How many hosts the larger fleet has, unless `HOSTS` says so.
const HOSTS: usize = 500;

/// How many hosts share one signature.
const MANY: usize = 10_000;

/// How many times as long as without signatures a command to all hosts may take.
const SIGNED_AT_MOST: f64 = 1.25;

/// How often each is measured.
const ROUNDS: usize = 15;

fn main() {
    let hosts = env::var("HOSTS").ok().and_then(|hosts| hosts.parse().ok()).unwrap_or(HOSTS);
    println!("{:<34} {:>10} {:>10} {:>7}   bar", "", "unsigned", "signed", "ratio");
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
        println!("{name:<34} {unsigned:>10.1?} {signed:>10.1?} {ratio:>7.2}   at most {SIGNED_AT_MOST:.2}");
    }
    one_signature_for_many();
}

/// Prints what it takes to make a job for many hosts, and to verify one of its commands.
fn one_signature_for_many() {
    let hosts: Vec<HostName> = (0..MANY).map(|number| format!("h{number}").parse().expect("a name")).collect();
    let manifest = Raw::unsent();
    let mut took = [(); 3].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        took[0].push(time(|| entries_without(&manifest, &hosts)));
        took[1].push(time(|| entries_with(&manifest, &hosts)));
        took[2].push(time(|| operator().sign(&manifest)));
    }
    let [without, with, signing] = took.map(median);
    let (name, ratio) = (format!("entries of a job, {MANY} hosts"), with.as_secs_f64() / without.as_secs_f64());
    println!("{name:<34} {without:>10.1?} {with:>10.1?} {ratio:>7.2}");
    println!("  of which the one signature: {signing:.1?}");
    verify_one(manifest, hosts);
}

/// The entries of all hosts: no signature, no proof that a host is one of them.
fn entries_without(manifest: &Manifest, hosts: &[HostName]) -> Vec<redis::Cmd> {
    let record = JobRecord::unsigned(manifest.clone(), Targets::new([]));
    let none = Proof { index: 0, path: Vec::new() };
    hosts.iter().map(|host| record.write_command(&Keys::new(None), host, none.clone(), None, 0)).collect()
}

/// The entries of all hosts as `ctl` sends them: one root, one signature, and each host's proof.
fn entries_with(manifest: &Manifest, hosts: &[HostName]) -> Vec<redis::Cmd> {
    let record = signed(manifest.clone(), hosts.to_vec());
    let entry = |(host, proof)| record.write_command(&Keys::new(None), host, proof, None, 0);
    record.targets.proofs().map(entry).collect()
}

fn signed(mut manifest: Manifest, hosts: Vec<HostName>) -> JobRecord {
    let targets = Targets::new(hosts);
    manifest.targets = targets.root();
    operator().record(manifest, targets)
}

/// What a host does with its entry before it knows that the command is meant for it, and by whom.
fn verify_one(manifest: Manifest, hosts: Vec<HostName>) {
    let record = signed(manifest, hosts);
    let (host, proof) = record.targets.proofs().next().expect("a host");
    let path_bytes = proof.path.len();
    let envelope = Envelope { signed: record.signed.clone(), proof };
    let proof_bytes = envelope.fields().last().map_or(0, |(_, proof)| proof.len());
    let trust = Trust::parse(&operator().line("*", ""), None).expect("a trust file");
    let mut took = [(); 2].map(|()| Vec::new());
    for _ in 0..100 * ROUNDS {
        took[0].push(time(|| envelope.open(host).expect("it is meant for this host")));
        took[1].push(time(|| {
            let Signed { bytes, signature, .. } = &envelope.signed;
            let signature = Signature::from_bytes(signature).expect("a signature");
            trust.verify(sshsig::JOB, &record.manifest.operator, bytes, &signature, 0).expect("one who is trusted");
        }));
    }
    let [target, signature] = took.map(median);
    println!("  each entry's proof: {proof_bytes} bytes, of which {path_bytes} are the path in the tree");
    println!("  one entry verified: {target:.1?} for the manifest and its target, {signature:.1?} for the signature");
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let begun = Instant::now();
    let made = black_box(work());
    let took = begun.elapsed();
    drop(made);
    took
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
