//! Floods of entries: a worker takes them in bounded steps, with bounded memory and a short log, and still replies. The
//! large ones are for the optimised worker, which `make test` builds.

use std::time::{Duration, Instant};

use protocol::{
    control::Control,
    limits,
    outcome::{Outcome, State},
};
use redis::Pipeline;
use tests::{Aof, Evidence, Gate, Raw, Redis, Worker, eventually, optimised, within};

const FLOOD: u64 = 200_000;

/// The largest flood.
const MILLION: u64 = 1_000_000;

/// How long a flood may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A worker that is stopped while others write to its streams.
struct Target {
    redis: Redis,
    worker: Worker,
    raw: Raw,
    rss_kb: u64,
}

impl Target {
    fn new() -> Self {
        let redis = Redis::options().aof(Aof::Off).start();
        let worker = Worker::on(&redis).program(optimised("worker")).allow_exec().start();
        worker.wait_online();
        let mut raw = Raw::on(&redis);
        (0..20).for_each(|_| raw.ping("web1"));
        let rss_kb = worker.rss_kb();
        worker.stop();
        Self { redis, worker, raw, rss_kb }
    }

    /// Adds many entries to one of the host's streams.
    fn flood(&self, stream: &str, count: u64, entry: impl Fn() -> Vec<(&'static str, Vec<u8>)>) {
        let mut redis = self.redis.blocking();
        let key = format!("server:{{web1}}:{stream}");
        for _ in 0..count / 2000 {
            let mut some = Pipeline::new();
            for _ in 0..2000 {
                some.xadd(&key, "*", &entry()).ignore();
            }
            some.query::<()>(&mut redis).expect("XADD");
        }
    }

    /// A `ping` behind the flood is executed soon, and the whole flood is dropped and counted. Then the worker has given
    /// back its memory, and has logged little.
    #[track_caller]
    fn survives(mut self, reason: &str, dropped: u64) {
        let ping = self.raw.manifest(&["web1"], "ping");
        self.raw.send("web1", &ping);
        let begun = Instant::now();
        self.worker.cont();
        let ended = within(PATIENCE, || self.raw.state("web1", &ping).filter(|state| state.is_terminal()));
        assert_eq!(ended, Some(State::Succeeded));
        println!("the ping took {:?}", begun.elapsed());

        let counted = || {
            let status = self.worker.status()?;
            status.dropped.iter().any(|(name, count)| name == reason && *count == dropped).then_some(())
        };
        within(PATIENCE, counted).unwrap_or_else(|| panic!("not all was dropped: {:?}", self.worker.status()));
        println!("all was counted after {:?}", begun.elapsed());
        self.raw.ping("web1");
        let grown = self.worker.rss_kb().saturating_sub(self.rss_kb);
        println!("grown by {grown} kB from {} kB", self.rss_kb);
        assert!(grown < 2048, "grown by {grown} kB");
        let lines = self.worker.log().lines().count();
        assert!(lines < 50, "{lines} lines:\n{}", self.worker.log());
        assert!(self.worker.terminate().success());
    }
}

fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    vec![("hello", b"world".into())]
}

#[test]
#[ignore = "needs the optimised build (make test makes it)"]
fn of_orders_to_cancel() {
    let target = Target::new();
    target.flood("control", FLOOD, || Raw::cancel_order("web1", &Raw::unsent()).fields());
    let remembered = (limits::JOURNAL_CANCELLED + limits::CONTROL_ENTRIES) as u64;
    target.survives("cancel_forgotten", FLOOD - remembered);
}

#[test]
#[ignore = "needs the optimised build (make test makes it)"]
fn of_garbage_in_the_inbox() {
    let target = Target::new();
    target.flood("commands", FLOOD, garbage);
    target.survives("malformed", FLOOD);
}

#[test]
#[ignore = "needs the optimised build (make test makes it)"]
fn of_a_million_small_entries() {
    let target = Target::new();
    target.flood("commands", MILLION, garbage);
    target.survives("malformed", MILLION);
}

#[test]
#[ignore = "needs the optimised build (make test makes it)"]
fn of_garbage_in_the_control_stream() {
    let target = Target::new();
    target.flood("control", FLOOD, garbage);
    target.survives("malformed", FLOOD);
}

#[test]
fn a_command_that_runs_keeps_its_entry_while_garbage_behind_it_is_deleted() {
    let redis = Redis::start();
    let _worker = Worker::on(&redis).allow_exec().start();
    let (mut raw, mut gate) = (Raw::on(&redis), Gate::new(&redis, "gate"));
    let manifest = raw.shell("web1", &gate.script());
    raw.send("web1", &manifest);
    gate.reached();
    let mut some = Pipeline::new();
    for _ in 0..2000 {
        some.xadd("server:{web1}:commands", "*", &garbage()).ignore();
    }
    some.query::<()>(&mut redis.blocking()).expect("XADD");
    eventually("the garbage to be deleted", || (raw.queued("web1") == 1).then_some(()));
    assert_eq!(raw.pending("web1"), 1);
    gate.open();
    assert_eq!(raw.outcome("web1", &manifest).state, State::Succeeded);
    raw.wait_settled("web1");
}

#[test]
fn a_command_that_was_cancelled_behind_many_other_orders_while_its_host_was_away_never_starts() {
    let redis = Redis::start();
    let mut worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    worker.terminate();
    let (mut raw, evidence) = (Raw::on(&redis), Evidence::new(&redis, "evidence"));
    let manifest = raw.shell("web1", &evidence.script());
    raw.send("web1", &manifest);
    let mut orders = Pipeline::new();
    let others = (0..3000).map(|_| Raw::unsent());
    for job in others.chain([manifest.clone()]) {
        let order: Control = Raw::cancel_order("web1", &job);
        orders.xadd("server:{web1}:control", "*", &order.fields()).ignore();
    }
    orders.query::<()>(&mut redis.blocking()).expect("XADD");
    let _worker = worker.options().start();
    let Outcome { state, reason, .. } = raw.outcome("web1", &manifest);
    assert_eq!((state, reason.as_deref()), (State::Cancelled, Some("before it started")));
    raw.wait_control_settled("web1");
    assert_eq!(evidence.count(), 0);
}
