//! What it costs to find the hosts for which an expression holds: `make bench`.
//!
//! 10,000 hosts, whose status, labels, facts and figures are real hashes. The floor is to read the same hashes raw, in
//! pipelines of the same length over one connection, by turns with ours. Quote the ratios.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use controller::client::{Filter, Fleet, Selection};
use protocol::{keys::Keys, metrics::MetricGroup, name::HostName, status::Status};
use redis::{Connection, Pipeline};
use tests::{Raw, Redis};

/// Hosts.
const HOSTS: usize = 10_000;

/// Hosts that are read in one round trip.
const CHUNK: usize = 500;

/// How often each is measured.
const ROUNDS: usize = 15;

/// How many times as long as the floor it may take.
const AT_MOST: f64 = 1.5;

/// It holds for one host in a thousand: what follows for these is not measured.
const EXPRESSION: &str = r#"cpu.usage > 99.85 and label.env = "prod" and os ~ "debian*""#;

fn main() {
    let redis = Redis::start();
    let keys = Keys::new(None);
    let hosts: Vec<HostName> = (1..=HOSTS).map(|number| format!("web{number}").parse().expect("a name")).collect();
    let now = Raw::on(&redis).now();
    fill(&mut redis.blocking(), &keys, &hosts, now);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let address = redis.url().parse().expect("an address");
    let mut fleet = runtime.block_on(Fleet::connect(&address, None)).expect("Redis");
    let filter: Filter = EXPRESSION.parse().expect("an expression");
    let selection = Selection { filter: Some(filter.clone()), ..Selection::all() };
    let (mut whole, mut parts, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    let mut raw = redis.blocking();
    for _ in 0..ROUNDS {
        whole.push(timed(|| read(&mut raw, &keys, &hosts, false)));
        parts.push(timed(|| read(&mut raw, &keys, &hosts, true)));
        ours.push(timed(|| {
            let selected = runtime.block_on(fleet.select(&selection)).expect("hosts");
            assert_eq!((selected.hosts.len(), selected.unknown.len()), (HOSTS / 1000, 0));
        }));
    }
    let [whole, parts, ours] = [whole, parts, ours].map(median);
    println!("{HOSTS} hosts, {EXPRESSION}");
    for (name, floor, bar) in [
        ("the hashes, raw (HGETALL)", whole, format!("   at most {AT_MOST:.2}")),
        ("their fields, raw (HMGET)", parts, String::new()),
    ] {
        println!(
            "{name:<28} {floor:>9.1?}   --where {ours:>9.1?}   {:.2}{bar}",
            ours.as_secs_f64() / floor.as_secs_f64()
        );
    }

    let mut judged = Vec::new();
    for _ in 0..ROUNDS {
        judged.push(timed(|| {
            for _ in 0..HOSTS {
                black_box(filter.judge(&|field| {
                    Ok(match field.to_string().as_str() {
                        "cpu.usage" => "99.9",
                        "os" => "Debian GNU/Linux",
                        _ => "prod",
                    }
                    .to_owned())
                }));
            }
        }));
    }
    let judged = median(judged);
    println!(
        "the expression alone, {HOSTS} times: {judged:.1?}, {:.0} % of it",
        100.0 * judged.as_secs_f64() / ours.as_secs_f64()
    );
}

/// What workers publish, of as many fields.
fn fill(raw: &mut Connection, keys: &Keys, hosts: &[HostName], now: u64) {
    let sampled_at = protocol::time::show_moment(now);
    for (number, host) in hosts.iter().enumerate() {
        let mut pipeline = redis::pipe();
        let status = Status { last_seen_ms: now + 3_600_000, version: "1".into(), slots: 4, ..Status::default() };
        pipeline.hset_multiple(keys.status(host), &status.fields()).ignore();
        pipeline.hset_multiple(keys.labels(host), &[("env", "prod"), ("role", "web")]).ignore();
        let facts: Vec<_> = (0..12).map(|fact| (format!("fact{fact}"), "a value of some length")).collect();
        // Every worker publishes its architecture: without it nothing counts as published.
        let own = [("os", "Debian GNU/Linux"), ("architecture", "x86_64")];
        pipeline.hset_multiple(keys.facts(host), &facts).hset_multiple(keys.facts(host), &own).ignore();
        pipeline.hset(keys.set_labels(host), "tier", "gold").ignore();
        let figures: Vec<_> = (0..12).map(|figure| (format!("figure{figure}"), "12.5")).collect();
        let cpu = keys.metrics(host, MetricGroup::Cpu);
        let usage = (number % 1000) as f64 / 10.0;
        pipeline
            .hset_multiple(&cpu, &figures)
            .hset(&cpu, "usage", usage)
            .hset(&cpu, "sampled_at", &sampled_at)
            .ignore();
        pipeline.zadd(keys.servers(), host.as_str(), now).ignore();
        pipeline.query::<()>(raw).expect("Redis");
    }
}

/// Reads the five hashes of all hosts, or only the fields that the expression asks for.
fn read(raw: &mut Connection, keys: &Keys, hosts: &[HostName], is_part: bool) {
    for chunk in hosts.chunks(CHUNK) {
        let mut pipeline = Pipeline::new();
        for host in chunk {
            for (key, fields) in [
                (keys.status(host), &["last_seen", "state", "clock_ahead_ms"][..]),
                (keys.labels(host), &["env"]),
                (keys.set_labels(host), &["env"]),
                (keys.facts(host), &["os", "architecture"]),
                (keys.metrics(host, MetricGroup::Cpu), &["usage", "sampled_at"]),
            ] {
                if is_part {
                    pipeline.cmd("HMGET").arg(key).arg(fields);
                } else {
                    pipeline.cmd("HGETALL").arg(key);
                }
            }
        }
        black_box(pipeline.query::<Vec<redis::Value>>(raw).expect("Redis"));
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
