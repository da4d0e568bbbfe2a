//! What a look at the fleet costs that `ctl top` takes every two seconds: `make bench`.
//!
//! 1,000 hosts, whose status and figures are real hashes, and 50 jobs that run. The floor is to read the same fields raw, in
//! pipelines over one connection, by turns with ours. Quote the ratio.

use std::time::{Duration, Instant};

use controller::client::{Fleet, Running, Selection};
use protocol::{keys::Keys, metrics::MetricGroup, name::HostName, status::Status};
use redis::Connection;
use tests::{Raw, Redis};

/// Hosts, and jobs.
const HOSTS: usize = 1000;
const JOBS: usize = 50;

/// Hosts that are read in one round trip.
const CHUNK: usize = 500;

/// How often each is measured.
const ROUNDS: usize = 30;

/// How many times as long as the floor it may take.
const AT_MOST: f64 = 2.0;

/// Round trips of a look at most.
const TRIPS: u64 = 8;

const STATUS: [&str; 8] =
    ["last_seen", "state", "clock_ahead_ms", "running", "slots", "version", "started_at", "refuses"];
const USAGE: [&str; 2] = ["sampled_at", "usage"];
const LOAD: [&str; 5] = ["sampled_at", "load1", "load5", "load15", "uptime_seconds"];

fn main() {
    let redis = Redis::start();
    let keys = Keys::new(None);
    let hosts: Vec<HostName> = (1..=HOSTS).map(|number| format!("web{number}").parse().expect("a name")).collect();
    fill(&redis, &keys, &hosts);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let address = redis.url().parse().expect("an address");
    let mut fleet = runtime.block_on(Fleet::connect(&address, None)).expect("Redis");
    let (mut raw, mut running, mut trips) = (redis.blocking(), Running::default(), 0);
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floor.push(timed(|| read(&mut raw, &keys, &hosts)));
        let before = clock_reads(&redis);
        ours.push(timed(|| {
            let look = runtime.block_on(fleet.overview(&Selection::all(), &mut running)).expect("a look");
            assert_eq!((look.hosts.len(), look.jobs.len(), look.unread_jobs), (HOSTS, JOBS, 0));
            assert!(look.hosts.iter().all(|vitals| vitals.figures.cpu.known().is_some()));
        }));
        // Each round trip reads Redis' clock.
        trips = trips.max(clock_reads(&redis) - before);
    }
    let [floor, ours] = [floor, ours].map(median);
    let ratio = ours.as_secs_f64() / floor.as_secs_f64();
    println!("{HOSTS} hosts and {JOBS} jobs that run");
    println!("their fields, raw {floor:>9.1?}   a look {ours:>9.1?}   {ratio:.2}   at most {AT_MOST:.2}");
    println!("round trips {trips:>15}   at most {TRIPS}");
    assert!(trips <= TRIPS, "a look takes a handful of round trips");
}

/// What workers publish, and jobs without an end.
fn fill(redis: &Redis, keys: &Keys, hosts: &[HostName]) {
    let mut raw = Raw::on(redis);
    let now = raw.now();
    let sampled_at = protocol::time::show_moment(now);
    let mut connection = redis.blocking();
    for host in hosts {
        let mut pipeline = redis::pipe();
        let status = Status { last_seen_ms: now + 3_600_000, version: "1".into(), slots: 4, ..Status::default() };
        pipeline.hset_multiple(keys.status(host), &status.fields()).ignore();
        for group in MetricGroup::ALL {
            let key = keys.metrics(host, group);
            let figures: Vec<_> = (0..12).map(|figure| (format!("figure{figure}"), "12.5")).collect();
            let own = LOAD.iter().chain(&USAGE).filter(|name| **name != "sampled_at").map(|name| (*name, "12.5"));
            pipeline.hset_multiple(&key, &figures).hset_multiple(&key, &own.collect::<Vec<_>>()).ignore();
            pipeline.hset(&key, "sampled_at", &sampled_at).ignore();
        }
        pipeline.zadd(keys.servers(), host.as_str(), now).ignore();
        pipeline.query::<()>(&mut connection).expect("Redis");
    }
    for number in 0..JOBS as u64 {
        let manifest = raw.manifest(&["web1", "web2"], "ping");
        let fields =
            tests::operator().record(manifest.clone(), protocol::targets::Targets::new(hosts[..2].to_vec())).fields();
        let mut pipeline = redis::pipe();
        pipeline.hset_multiple(keys.job(manifest.job), &fields).ignore();
        pipeline.hset(keys.job_hosts(manifest.job), "web1", "running").ignore();
        pipeline.zadd(keys.jobs(), manifest.job.to_string(), now + number).ignore();
        pipeline.query::<()>(&mut connection).expect("Redis");
    }
}

/// Reads the same fields of all hosts.
fn read(raw: &mut Connection, keys: &Keys, hosts: &[HostName]) {
    for chunk in hosts.chunks(CHUNK) {
        let mut pipeline = redis::pipe();
        for host in chunk {
            pipeline.cmd("HMGET").arg(keys.status(host)).arg(&STATUS);
            for group in [MetricGroup::Cpu, MetricGroup::Memory, MetricGroup::Disk] {
                pipeline.cmd("HMGET").arg(keys.metrics(host, group)).arg(&USAGE);
            }
            pipeline.cmd("HMGET").arg(keys.metrics(host, MetricGroup::Load)).arg(&LOAD);
        }
        pipeline.query::<Vec<redis::Value>>(raw).expect("Redis");
    }
}

/// How often Redis' clock was read.
fn clock_reads(redis: &Redis) -> u64 {
    redis.calls("time")
}

fn timed(run: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    run();
    begin.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
