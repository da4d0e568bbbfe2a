//! The fleet that many tests begin with, and a scenario that several share.

use protocol::outcome::State;

use crate::{Ctl, Evidence, Gate, Raw, Redis, Worker};

/// A server, its worker `web1`, and a raw connection. The worker is online and may run programs.
pub fn fleet() -> (Redis, Worker, Raw) {
    fleet_with("")
}

/// The same, with lines of TOML for the worker's settings.
pub fn fleet_with(config: &str) -> (Redis, Worker, Raw) {
    let redis = Redis::start();
    let worker = Worker::on(&redis).config(config).allow_exec().start();
    worker.wait_online();
    let raw = Raw::on(&redis);
    (redis, worker, raw)
}

/// The same, with `ctl` in place of the raw connection.
pub fn fleet_with_ctl(config: &str) -> (Redis, Worker, Ctl) {
    let (redis, worker, _) = fleet_with(config);
    let ctl = Ctl::on(&redis);
    (redis, worker, ctl)
}

/// A program runs when Redis dies and ends while Redis is away. Its outcome is published once Redis is back, and
/// the program has run once.
#[track_caller]
pub fn outlive_a_redis_outage(redis: &mut Redis, worker: &Worker) {
    let mut raw = Raw::on(redis);
    let (evidence, mut gate) = (Evidence::new(redis, "evidence"), Gate::new(redis, "gate"));
    let manifest = raw.shell("web1", &format!("{}; {}; echo done", evidence.script(), gate.script()));
    raw.send("web1", &manifest);
    gate.reached();
    raw.wait_state("web1", &manifest, State::Running);
    redis.kill9();
    worker.wait_log("is away");
    gate.open();
    worker.wait_log("succeeded in ");
    redis.restart();
    let mut raw = Raw::on(redis);
    let outcome = raw.outcome("web1", &manifest);
    assert_eq!((outcome.state, &*outcome.stdout.kept), (State::Succeeded, &b"done\n"[..]));
    raw.ping("web1");
    raw.wait_settled("web1");
    assert_eq!(evidence.count(), 1);
}
