//! What a page of figures for Prometheus costs: `make bench`.
//!
//! 1,000 hosts, whose hashes are as real ones. A process of `ctl serve` tells them; its processor time is what the kernel
//! counts for its threads. The floor is to read the same hashes raw, in pipelines over one connection, by turns with ours.
//! Quote the ratio.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use protocol::{keys::Keys, metrics::MetricGroup, name::HostName, status::Status, time::show_moment};
use redis::Connection;
use tests::{Ctl, Raw, Redis, binary};

const HOSTS: usize = 1_000;

/// Hosts that are read raw in one round trip.
const CHUNK: usize = 500;

/// How often each is measured.
const ROUNDS: usize = 30;

/// Processor time of a page at most, on the machine that the figures of the README are from.
const AT_MOST: Duration = Duration::from_millis(50);

/// Memory of the process at most, in kB.
const AT_MOST_KB: u64 = 40 * 1024;

fn main() {
    let redis = Redis::start();
    let keys = Keys::new(None);
    let hosts: Vec<HostName> = (1..=HOSTS).map(|number| format!("web{number}").parse().expect("a name")).collect();
    fill(&redis, &keys, &hosts);

    let ctl = Ctl::on(&redis).program(binary("ctl"));
    let config = ctl.write("serve.toml", "[http]\nlisten = '127.0.0.1:0'\n");
    let running = ctl.spawn(["serve", config.to_str().expect("text")]);
    let line = running.wait_stderr("http: listens on ");
    let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    running.wait_stderr(": ready");
    let (address, pid) = (SocketAddr::from(([127, 0, 0, 1], port)), running.pid());
    let idle_kb = memory_kb(pid, "VmRSS:");

    let mut raw = redis.blocking();
    // The first page also reads the catalogues of all hosts.
    let first = timed(pid, || page(address).len());
    let (mut floor, mut ours, mut bytes, mut samples) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..ROUNDS {
        floor.push(timed(std::process::id(), || read(&mut raw, &keys, &hosts)).1);
        let (page, used) = timed(pid, || page(address));
        assert_eq!(page.lines().filter(|line| line.starts_with("node_load1{")).count(), HOSTS);
        samples = page.lines().filter(|line| !line.starts_with('#')).count();
        bytes = page.len();
        ours.push(used);
    }
    let [floor, ours] = [floor, ours].map(median);
    let ratio = ours.0.as_secs_f64() / floor.0.as_secs_f64();
    println!("{HOSTS} hosts, {samples} samples, {bytes} bytes");
    println!("processor time of their hashes, raw {:>9.1?}   of a page {:>9.1?}   {ratio:.2}", floor.0, ours.0);
    println!("from beginning to end           raw {:>9.1?}   a page    {:>9.1?}", floor.1, ours.1);
    println!("the first page {:>9.1?}; any other is to take {AT_MOST:.1?} of processor time at most", first.1.0);
    let (kept, peak) = (memory_kb(pid, "VmRSS:"), memory_kb(pid, "VmHWM:"));
    println!(
        "memory of ctl serve {idle_kb} kB before, {kept} kB after, {peak} kB at most; to be {AT_MOST_KB} kB at most"
    );
    assert!(peak < AT_MOST_KB, "{peak} kB");
}

/// What workers publish.
fn fill(redis: &Redis, keys: &Keys, hosts: &[HostName]) {
    let now = Raw::on(redis).now();
    let sampled_at = show_moment(now);
    let mut connection = redis.blocking();
    let action =
        |number: usize| format!(r#"{{"name":"action-{number}","summary":"{}","metrics":false}}"#, "x".repeat(300));
    let catalogue = format!("[{}]", (0..40).map(action).collect::<Vec<_>>().join(","));
    for host in hosts {
        let mut pipeline = redis::pipe();
        let status = Status {
            last_seen_ms: now + 3_600_000,
            version: "1".into(),
            slots: 4,
            ended: ["failed", "succeeded"].map(|state| (state.to_owned(), 12)).into(),
            dropped: ["malformed", "oversize", "duplicate", "early"].map(|reason| (reason.to_owned(), 0)).into(),
            ..Status::default()
        };
        pipeline.hset_multiple(keys.status(host), &status.fields()).ignore();
        let facts = [
            ("os", "Debian GNU/Linux"),
            ("os_version", "12"),
            ("kernel", "6.1.0-30-amd64"),
            ("architecture", "x86_64"),
            ("hostname", host.as_str()),
            ("booted_at", "2026-11-01T00:00:00Z"),
            ("actions", &catalogue),
        ];
        pipeline.hset_multiple(keys.facts(host), &facts).ignore();
        pipeline.hset_multiple(keys.labels(host), &[("role", "web"), ("zone", "a")]).ignore();
        for group in MetricGroup::ALL {
            let mut figures: Vec<_> = figures(group);
            figures.push(("sampled_at".into(), sampled_at.clone()));
            pipeline.hset_multiple(keys.metrics(host, group), &figures).ignore();
        }
        pipeline.zadd(keys.servers(), host.as_str(), now).ignore();
        pipeline.query::<()>(&mut connection).expect("Redis");
    }
}

/// The figures of a group as a worker publishes them.
fn figures(group: MetricGroup) -> Vec<(String, String)> {
    let (whole, items, parts): (&[&str], &[&str], &[&str]) = match group {
        MetricGroup::Cpu => (
            &["usage", "user_percent", "system_percent", "iowait_percent", "steal_percent", "idle_percent", "cores"],
            &[],
            &[],
        ),
        MetricGroup::Memory => (
            &[
                "usage",
                "total_bytes",
                "used_bytes",
                "available_bytes",
                "free_bytes",
                "buffers_bytes",
                "cached_bytes",
                "swap_total_bytes",
                "swap_used_bytes",
            ],
            &[],
            &[],
        ),
        MetricGroup::Load => {
            (&["load1", "load5", "load15", "cores", "running_tasks", "total_tasks", "uptime_seconds"], &[], &[])
        }
        MetricGroup::Disk => (
            &["usage", "mounts", "unresponsive_mounts"],
            &["/", "/var/lib/data"],
            &["usage", "total_bytes", "used_bytes", "available_bytes", "inodes_usage"],
        ),
        MetricGroup::Network => (
            &["receive_bytes_per_second", "transmit_bytes_per_second", "receive_bytes_total", "transmit_bytes_total"],
            &["eth0", "eth1"],
            &[
                "receive_bytes_per_second",
                "transmit_bytes_per_second",
                "receive_bytes_total",
                "transmit_bytes_total",
                "receive_errors",
                "transmit_errors",
                "receive_drops",
                "transmit_drops",
            ],
        ),
    };
    let of_items = items.iter().flat_map(|item| parts.iter().map(move |part| format!("{part}:{item}")));
    whole.iter().map(ToString::to_string).chain(of_items).map(|name| (name, "12345678.5".to_owned())).collect()
}

/// Reads the same hashes.
fn read(raw: &mut Connection, keys: &Keys, hosts: &[HostName]) {
    for chunk in hosts.chunks(CHUNK) {
        let mut pipeline = redis::pipe();
        for host in chunk {
            pipeline.hgetall(keys.status(host)).hgetall(keys.labels(host)).hgetall(keys.set_labels(host));
            let facts = ["os", "os_version", "kernel", "architecture", "hostname", "booted_at"];
            pipeline.cmd("HMGET").arg(keys.facts(host)).arg(&facts);
            for group in MetricGroup::ALL {
                pipeline.hgetall(keys.metrics(host, group));
            }
        }
        pipeline.query::<Vec<redis::Value>>(raw).expect("Redis");
    }
}

fn page(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it is sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    assert!(page.contains("\nredfleet_exporter_scrape_duration_seconds "), "it is whole");
    page
}

/// The processor time that a process needs meanwhile, and the time that passes.
fn timed<T>(pid: u32, run: impl FnOnce() -> T) -> (T, (Duration, Duration)) {
    let (begin, before) = (Instant::now(), used(pid));
    let done = run();
    (done, (used(pid).saturating_sub(before), begin.elapsed()))
}

/// The processor time of the threads of a process.
fn used(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let times = threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    times.filter_map(|text| text.split(' ').next()?.parse().ok()).map(Duration::from_nanos).sum()
}

fn memory_kb(pid: u32, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("a figure");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The median of each of both times.
fn median(times: Vec<(Duration, Duration)>) -> (Duration, Duration) {
    let middle = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (used, passed) = times.into_iter().unzip();
    (middle(used), middle(passed))
}
