//! How long a command takes from its dispatch to its outcome, compared with the least that Redis itself needs
//! for that, in the same run: `make bench`.
//!
//! The floor is a bare loop on the same Redis: XADD → a blocked XREADGROUP wakes → HSET, XADD, XACK,
//! XDEL → a blocked XREAD wakes. Floor and ours alternate in small blocks, so that a drift of the machine's speed
//! affects both. Quote the ratios: the times depend on the machine.
//!
//! The last row compares a `ping` with both signatures, the operator's and the host's, with one by a worker that was built
//! to skip them. What making the one and verifying the other takes here is part of its time.

use std::{
    fs::File,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use protocol::{
    command::{Envelope, Manifest},
    event::{Event, EventKind},
    keys::Keys,
    name::HostName,
    outcome::State,
    secret::digest,
    signed::{Fields, Signed},
    statement::{Report, Subject},
    targets::{Proof, Targets},
    trust::{
        batch::{self, Claim},
        key::Key,
        sshsig,
    },
};
use redis::{Connection, Value, cmd, pipe};
use tests::{Raw, Redis, Worker, operator, released, unsigned};

const BLOCKS: usize = 40;
const IN_A_BLOCK: usize = 25;
const HOST: &str = "web1";

/// How many times as long as without them a `ping` with both signatures may take.
const SIGNED_AT_MOST: f64 = 1.6;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, url, directory] = arguments.as_slice()
        && role == "--floor"
    {
        return floor_consumer(url, directory);
    }
    let redis = Redis::start();
    let directory = redis.directory().to_str().expect("a path of ours is text").to_owned();
    let mut floor = Command::new(std::env::current_exe().expect("a program knows its path"))
        .args(["--floor", &redis.url(), &directory])
        .stdin(Stdio::null())
        .spawn()
        .expect("the floor's consumer starts");
    let worker = Worker::on(&redis).program(released("worker")).allow_exec().start();
    worker.wait_online();
    let mut bench = Bench { raw: Raw::on(&redis), connection: redis.blocking(), last: "0".into() };
    bench.wait_for_floor();

    let kinds: [(&str, Kind, &str); 4] = [
        ("ping", Kind::Ours("ping", &[]), "floor"),
        ("collect-cpu", Kind::Ours("collect-cpu", &[]), "floor"),
        ("exec true", Kind::Ours("exec", &["true"]), "floor + fork + 2 syncs"),
        ("ping beside exec", Kind::Beside, "floor"),
    ];
    println!("{:<18} {:>10} {:>10} {:>7}   floor is", "", "floor", "ours", "ratio");
    for (name, kind, floor_name) in kinds {
        let runs = matches!(kind, Kind::Ours("exec", _));
        let (mut floors, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..BLOCKS {
            floors.extend((0..IN_A_BLOCK).map(|_| bench.floor(runs)));
            ours.extend((0..IN_A_BLOCK).map(|_| bench.ours(&kind)));
        }
        let (floor, ours) = (median(floors), median(ours));
        let ratio = ours.as_secs_f64() / floor.as_secs_f64();
        println!("{name:<18} {floor:>10.1?} {ours:>10.1?} {ratio:>7.2}   {floor_name}");
    }
    println!("one sync of the disk: {:.1?}", median((0..200).map(|_| sync(&directory)).collect()));
    bench.memory();
    println!("the worker's memory after all this: {} KB", worker.rss_kb());
    floor.kill().expect("the floor's consumer is ours");
    floor.wait().expect("it has been started");
    compare_signed();
}

/// Prints what both signatures add to a ping.
fn compare_signed() {
    let mut fleets = [Fleet::new(false), Fleet::new(true)];
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..BLOCKS {
        for (fleet, took) in fleets.iter_mut().zip(&mut took) {
            took.extend((0..IN_A_BLOCK).map(|_| fleet.ping()));
        }
    }
    let [unsigned, signed] = took.map(median);
    let ratio = signed.as_secs_f64() / unsigned.as_secs_f64();
    println!("\n{:<23} {:>10} {:>10} {:>7}   bar", "", "unsigned", "signed", "ratio");
    let name = "ping, signed / unsigned";
    println!("{name:<23} {unsigned:>10.1?} {signed:>10.1?} {ratio:>7.2}   at most {SIGNED_AT_MOST:.2}");
}

/// What a row of the table measures.
enum Kind {
    /// A command of Redfleet's and its arguments.
    Ours(&'static str, &'static [&'static str]),
    /// A ping while an `exec` is running: it must not wait for the syncs of the `exec`.
    Beside,
}

struct Bench {
    raw: Raw,
    connection: Connection,
    /// The id of the floor's last reply that was read.
    last: String,
}

impl Bench {
    fn wait_for_floor(&mut self) {
        self.floor(false);
    }

    /// One round trip of the floor.
    fn floor(&mut self, runs: bool) -> Duration {
        let begun = Instant::now();
        let runs = if runs { "1" } else { "0" };
        let (_, reply): (String, Value) = pipe()
            .cmd("XADD")
            .arg("floor:commands")
            .arg("*")
            .arg("runs")
            .arg(runs)
            .arg("body")
            .arg([7_u8; 300].as_slice())
            .cmd("XREAD")
            .arg("BLOCK")
            .arg(10_000)
            .arg("STREAMS")
            .arg("floor:events")
            .arg(&self.last)
            .query(&mut self.connection)
            .expect("the floor replies");
        let took = begun.elapsed();
        self.last = last_id(reply).expect("the floor replies in time");
        took
    }

    /// One round trip of Redfleet's, as `ctl` does it: write the job, its place in the index and the command, then
    /// read the job's events until its end.
    fn ours(&mut self, kind: &Kind) -> Duration {
        match kind {
            Kind::Ours(action, argv) => {
                let manifest = match argv {
                    [] => self.raw.manifest(&[HOST], action),
                    argv => self.raw.exec(&[HOST], argv),
                };
                self.round_trip(&manifest)
            }
            Kind::Beside => {
                let exec = self.raw.exec(&[HOST], &["true"]);
                let ping = self.raw.manifest(&[HOST], "ping");
                self.raw.send(HOST, &exec);
                let took = self.round_trip(&ping);
                self.await_end(&exec);
                took
            }
        }
    }

    fn round_trip(&mut self, manifest: &Manifest) -> Duration {
        let envelope = Raw::envelope(manifest, &[HOST]);
        let begun = Instant::now();
        dispatch(&mut self.connection, manifest, &envelope);
        self.await_end(manifest);
        begun.elapsed()
    }

    fn await_end(&mut self, manifest: &Manifest) {
        let events = Keys::new(None).job_events(manifest.job);
        let mut after = "0".to_owned();
        loop {
            let reply: redis::streams::StreamReadReply = cmd("XREAD")
                .arg("BLOCK")
                .arg(10_000)
                .arg("STREAMS")
                .arg(&events)
                .arg(&after)
                .query(&mut self.connection)
                .expect("Redis replies");
            for entry in reply.keys.into_iter().flat_map(|key| key.ids) {
                let fields = entry
                    .map
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, redis::from_redis_value(value).ok()?)));
                if let Some(Event { kind: EventKind::State(state), .. }) = Event::from_fields(&fields.collect())
                    && state.is_terminal()
                {
                    assert_eq!(state.as_str(), "succeeded");
                    return;
                }
                after = entry.id;
            }
        }
    }

    /// What a finished job costs Redis until it expires.
    fn memory(&mut self) {
        for (name, manifest) in
            [("ping", self.raw.manifest(&[HOST], "ping")), ("collect-cpu", self.raw.manifest(&[HOST], "collect-cpu"))]
        {
            self.round_trip(&manifest);
            let (keys, host) = (Keys::new(None), HOST.parse::<HostName>().expect("a name"));
            let job = manifest.job;
            let all = [keys.job(job), keys.job_hosts(job), keys.job_result(job, &host), keys.job_events(job)];
            let bytes: u64 = all.iter().map(|key| self.raw.query::<u64>(&["MEMORY", "USAGE", key])).sum();
            println!("Redis memory of a finished {name} on one host: {bytes} bytes in {} keys", all.len());
        }
    }
}

/// Writes a job, its place in the index and its one command, as `ctl` does.
fn dispatch(connection: &mut Connection, manifest: &Manifest, envelope: &Envelope<Manifest>) {
    let keys = Keys::new(None);
    let job = keys.job(manifest.job);
    let mut dispatch = pipe();
    dispatch.hset_multiple(&job, &envelope.signed.fields()).ignore();
    dispatch.expire(&job, 3600).ignore();
    dispatch.zadd(keys.jobs(), manifest.job.to_string(), manifest.issued_at_ms).ignore();
    dispatch.zremrangebyrank(keys.jobs(), 0, -10_001).ignore();
    dispatch.xadd(keys.commands(&host()), "*", &envelope.fields()).ignore();
    let () = dispatch.query(connection).expect("Redis takes the command");
}

fn host() -> HostName {
    HOST.parse().expect("a name")
}

/// A worker on a Redis of its own, and the operator who pings it. Both sign and verify, or neither does.
struct Fleet {
    raw: Raw,
    connection: Connection,
    signs: bool,
    /// The key that the host's results are signed with.
    host_key: Option<Key>,
    proof: Proof,
    _worker: Worker,
    _redis: Redis,
}

impl Fleet {
    fn new(signs: bool) -> Self {
        let redis = Redis::start();
        let worker = Worker::on(&redis).program(if signs { released("worker") } else { unsigned("worker") }).start();
        worker.wait_online();
        let (raw, connection) = (Raw::on(&redis), redis.blocking());
        let targets = Targets::new([host()]);
        let (_, proof) = targets.proofs().next().expect("one host");
        let mut fleet = Self { raw, connection, signs, host_key: None, proof, _worker: worker, _redis: redis };
        let first = fleet.raw.manifest(&[HOST], "ping");
        let (_, report) = fleet.run(&first);
        let signature = &report.signed.signature;
        assert_eq!(signs, !signature.is_empty(), "the worker was built for this fleet");
        if signs {
            let blob = batch::claimed_key(signature).expect("a signature");
            fleet.host_key = Some(Key::from_bytes(blob).expect("a key"));
        }
        for _ in 0..BLOCKS {
            fleet.ping();
        }
        fleet
    }

    /// From the encoding of the manifest to the outcome that `ctl` would show.
    fn ping(&mut self) -> Duration {
        let manifest = self.raw.manifest(&[HOST], "ping");
        let host = host();
        let begun = Instant::now();
        let (sent, report) = self.run(&manifest);
        if let Some(key) = &self.host_key {
            let Signed { bytes, signature, .. } = &report.signed;
            let verdicts = batch::verify(sshsig::HOST, &[Claim { key, document: bytes, signature }]);
            assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
        }
        let manifest_digest = Some(digest(&sent));
        let about =
            Subject { namespace: None, job: manifest.job, host: &host, manifest: manifest_digest, unverified: None };
        let outcome = report.open(&about).expect("an outcome of this ping");
        let took = begun.elapsed();
        assert_eq!(outcome.state, State::Succeeded);
        took
    }

    /// Sends the job, and reads its events and the host's result in one round trip. Returns the bytes of the manifest,
    /// too.
    fn run(&mut self, manifest: &Manifest) -> (Vec<u8>, Report) {
        let mut signed = Signed::unsigned(manifest);
        if self.signs {
            signed.signature = operator().sign_bytes(sshsig::JOB, &signed.bytes);
        }
        let envelope = Envelope { signed, proof: self.proof.clone() };
        dispatch(&mut self.connection, manifest, &envelope);
        let keys = Keys::new(None);
        let (events, result) = (keys.job_events(manifest.job), keys.job_result(manifest.job, &host()));
        let mut read = pipe();
        read.cmd("XREAD").arg("BLOCK").arg(10_000).arg("STREAMS").arg(&events).arg("0").ignore();
        read.hgetall(&result);
        loop {
            let (fields,): (Fields,) = read.query(&mut self.connection).expect("Redis replies");
            // An event that is not the end is of a worker that was slow.
            if !fields.is_empty() {
                return (envelope.signed.bytes, Report::take(fields).expect("a statement"));
            }
        }
    }
}

/// The consumer of the floor: the least that Redis needs to deliver a message and return a reply.
fn floor_consumer(url: &str, directory: &str) {
    let client = redis::Client::open(url).expect("the URL is ours");
    let mut connection = client.get_connection().expect("Redis is there");
    let () = cmd("XGROUP")
        .arg("CREATE")
        .arg("floor:commands")
        .arg("g")
        .arg("0")
        .arg("MKSTREAM")
        .query(&mut connection)
        .expect("a new group");
    loop {
        let read: redis::streams::StreamReadReply = cmd("XREADGROUP")
            .arg("GROUP")
            .arg("g")
            .arg("c")
            .arg("COUNT")
            .arg(4)
            .arg("BLOCK")
            .arg(60_000)
            .arg("STREAMS")
            .arg("floor:commands")
            .arg(">")
            .query(&mut connection)
            .expect("Redis replies");
        for entry in read.keys.into_iter().flat_map(|key| key.ids) {
            if entry.get::<String>("runs").as_deref() == Some("1") {
                sync(directory);
                let ran =
                    Command::new("true").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
                assert!(ran.is_ok_and(|output| output.status.success()));
                sync(directory);
            }
            let () = pipe()
                .hset_multiple("floor:result", &[("status", "succeeded"), ("finished_at", "now")])
                .ignore()
                .xadd_maxlen("floor:events", redis::streams::StreamMaxlen::Approx(1000), "*", &[("state", "succeeded")])
                .ignore()
                .xack("floor:commands", "g", &[&entry.id])
                .ignore()
                .xdel("floor:commands", &[&entry.id])
                .ignore()
                .query(&mut connection)
                .expect("Redis takes the reply");
        }
    }
}

/// One durable write of a page, like the journal's.
fn sync(directory: &str) -> Duration {
    let begun = Instant::now();
    let mut file = File::create(format!("{directory}/sync")).expect("the directory is ours");
    file.write_all(&[7; 4096]).expect("there is room");
    file.sync_data().expect("the disk syncs");
    begun.elapsed()
}

fn last_id(reply: Value) -> Option<String> {
    let reply: redis::streams::StreamReadReply = redis::from_redis_value(reply).ok()?;
    reply.keys.into_iter().flat_map(|key| key.ids).next_back().map(|entry| entry.id)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
