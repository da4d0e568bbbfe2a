//! Faults in a working fleet. Several threads inject them, each at random from a seed of its own.

use std::{fs, path::PathBuf, sync::atomic::Ordering, thread, time::Duration, time::Instant};

use fastrand::Rng;

use super::{
    disk::Disk,
    fleet::{Fleet, Host},
    history::About,
    lock,
    profile::{Bug, Profile},
    proxy::{Conditions, Cut},
};

const TAKEN: &str = "worker killed at Taken";
const SETTLED: &str = "worker killed at Settled";

/// Where a worker can be made to die, in the order of a command's life.
const POINTS: [&str; 6] = [
    TAKEN,
    "worker killed at Begun",
    "worker killed at Ended",
    "worker killed at Recorded",
    "worker killed at Published",
    SETTLED,
];

/// Longer than a heartbeat's interval. A round is too short for a halt of three heartbeats.
const BEYOND_HEARTBEAT: Duration = Duration::from_millis(6500);

/// Longer than a worker waits for a reply.
const BEYOND_PATIENCE: Duration = Duration::from_secs(11);

fn some(random: &mut Rng, millis: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(millis))
}

/// Waits for so long, but not beyond the end of the disturbance.
fn pass(fleet: &Fleet, time: Duration) {
    let end = Instant::now() + time;
    while fleet.is_disturbed() && Instant::now() < end {
        thread::sleep(Duration::from_millis(10).min(end.saturating_duration_since(Instant::now())));
    }
}

/// Restarts dead workers. Most of them must die again at a named point.
pub(super) fn keep_workers(fleet: &Fleet, bug: Option<Bug>, seed: u64) {
    let mut random = Rng::with_seed(seed);
    while fleet.is_disturbed() {
        for number in 0..fleet.hosts.len() {
            if fleet.reap_worker(number) {
                pass(fleet, some(&mut random, 0..400));
                // A planted bug shows at a certain point: the worker must reach that point soon.
                let (point, dies, nth) = match bug {
                    Some(Bug::AckBeforeResult) => (SETTLED, true, random.u8(1..4)),
                    Some(Bug::IgnorePending) => (TAKEN, true, random.u8(1..4)),
                    _ => (POINTS[random.usize(..POINTS.len())], random.u8(..100) < 60, random.u8(1..16)),
                };
                fleet.start_worker(number, dies.then_some((point, nth)));
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Disturbs workers and their connections to Redis, one after another.
pub(super) fn disturb_workers(fleet: &Fleet, seed: u64) {
    let mut random = Rng::with_seed(seed);
    while fleet.is_disturbed() {
        let number = random.usize(..fleet.hosts.len());
        let about = About::Host(number);
        let host = &fleet.hosts[number];
        let fault = |name, text: String| fleet.history.fault(name, about, text);
        match random.u8(..100) {
            0..22 => {
                fault("worker kill -9", String::new());
                host.kill9();
            }
            22..26 => {
                fault("worker SIGTERM", String::new());
                host.term();
            }
            26..38 => {
                let long = random.u8(..8) == 0;
                let time = if long { BEYOND_HEARTBEAT } else { some(&mut random, 20..1200) };
                fault("worker SIGSTOP", format!("{time:?}"));
                host.halt();
                pass(fleet, time);
                host.cont();
            }
            38..52 => {
                let cut = Cut::ALL[random.usize(..4)];
                fault(cut_name(cut), String::new());
                host.proxy.cut(cut);
            }
            52..64 => stall(fleet, host, &mut random, about),
            64..72 => {
                let (delay, time) = (some(&mut random, 2..150), some(&mut random, 200..2500));
                fault("delay", format!("{delay:?} each way for {time:?}"));
                under(fleet, host, Conditions { delay, ..Conditions::default() }, time);
            }
            72..82 => {
                let time = some(&mut random, 50..1500);
                fault("replies lost", format!("for {time:?}, then cut"));
                under(fleet, host, Conditions { lose_replies: true, ..Conditions::default() }, time);
                host.proxy.cut(Cut::Both);
            }
            // Where Redis loses writes, a copy may end otherwise under a right clock than under a wrong one.
            82..88 if !fleet.profile.loses() => {
                let step_seconds = random.i64(-3600..3600);
                let time = some(&mut random, 300..3000);
                fault("clock step", format!("{step_seconds} s for {time:?}"));
                // A worker reads the clock on every new connection.
                host.proxy.set(Conditions { step_seconds, ..Conditions::default() });
                host.proxy.cut(Cut::Both);
                pass(fleet, time);
                host.proxy.set(Conditions::default());
                host.proxy.cut(Cut::Both);
            }
            88..92 => {
                let time = some(&mut random, 100..1500);
                fleet.history.fault("controller's replies lost", About::Everybody, format!("for {time:?}, then cut"));
                fleet.proxy.set(Conditions { lose_replies: true, ..Conditions::default() });
                pass(fleet, time);
                fleet.proxy.set(Conditions::default());
                fleet.proxy.cut(Cut::Both);
            }
            _ => {}
        }
        if let (Some(disk), 0..35) = (&host.disk, random.u8(..100)) {
            fill(fleet, disk, &mut random, about);
        }
        pass(fleet, some(&mut random, 0..350));
    }
}

fn cut_name(cut: Cut) -> &'static str {
    match cut {
        Cut::Both => "cut",
        Cut::Unnoticed => "cut unnoticed by Redis",
        Cut::Requests => "half-close of requests",
        Cut::Replies => "half-close of replies",
    }
}

fn stall(fleet: &Fleet, host: &Host, random: &mut Rng, about: About) {
    let (hold_requests, hold_replies) = [(true, false), (false, true), (true, true)][random.usize(..3)];
    let time = if random.u8(..15) == 0 { BEYOND_PATIENCE } else { some(random, 50..2000) };
    let what = format!("requests {hold_requests}, replies {hold_replies}, for {time:?}");
    fleet.history.fault("stall", about, what);
    under(fleet, host, Conditions { hold_requests, hold_replies, ..Conditions::default() }, time);
}

/// Puts the host's connection under these conditions for so long.
fn under(fleet: &Fleet, host: &Host, conditions: Conditions, time: Duration) {
    host.proxy.set(conditions);
    pass(fleet, time);
    host.proxy.set(Conditions::default());
}

fn fill(fleet: &Fleet, disk: &Disk, random: &mut Rng, about: About) {
    let time = some(random, 100..2500);
    fleet.history.fault("full disk", about, format!("for {time:?}"));
    disk.fill();
    pass(fleet, time);
    disk.free();
    fleet.history.note(about, "the disk has room again");
}

/// Disturbs Redis.
pub(super) fn disturb_redis(fleet: &Fleet, seed: u64) {
    let mut random = Rng::with_seed(seed);
    let everybody = About::Everybody;
    pass(fleet, some(&mut random, 300..1500));
    while fleet.is_disturbed() {
        match (fleet.profile, random.u8(..100)) {
            (Profile::Forgetful, 0..40) => {
                fleet.history.fault("FLUSHALL", everybody, "");
                lock(&fleet.redis).cli(["FLUSHALL"]);
                fleet.losses.fetch_add(1, Ordering::Relaxed);
            }
            (Profile::PowerCuts, 0..50) => power_cut(fleet, &mut random),
            (_, 0..45) => {
                let time = some(&mut random, 0..1200);
                fleet.history.fault("Redis SIGKILL", everybody, format!("away for {time:?}"));
                lock(&fleet.redis).kill9();
                pass(fleet, time);
                lock(&fleet.redis).restart();
            }
            (_, 45..75) => {
                fleet.history.fault("CLIENT KILL", everybody, "of all clients");
                lock(&fleet.redis).cli(["CLIENT", "KILL", "TYPE", "normal"]);
            }
            _ => {
                let time = some(&mut random, 20..1500);
                fleet.history.fault("Redis SIGSTOP", everybody, format!("{time:?}"));
                lock(&fleet.redis).freeze();
                pass(fleet, time);
                lock(&fleet.redis).thaw();
            }
        }
        pass(fleet, some(&mut random, 200..4000));
    }
}

/// Cuts the power of Redis: the writes that are not synced yet, up to a second of them, are lost.
fn power_cut(fleet: &Fleet, random: &mut Rng) {
    let Some((file, synced)) = newest_aof(fleet) else { return };
    pass(fleet, some(random, 0..1000));
    let away = some(random, 0..1000);
    let mut redis = lock(&fleet.redis);
    redis.kill9();
    let size = fs::metadata(&file).map_or(0, |file| file.len());
    fs::File::options().write(true).open(&file).and_then(|file| file.set_len(synced)).expect("the AOF can be cut");
    let text = format!("{} bytes of the AOF are lost, away for {away:?}", size.saturating_sub(synced));
    fleet.history.fault("power cut", About::Everybody, text);
    pass(fleet, away);
    redis.restart();
    drop(redis);
    fleet.losses.fetch_add(1, Ordering::Relaxed);
}

/// The file to which Redis appends at present, and its length.
fn newest_aof(fleet: &Fleet) -> Option<(PathBuf, u64)> {
    let directory = lock(&fleet.redis).directory().join("appendonlydir");
    let files = fs::read_dir(directory).ok()?.flatten().map(|file| file.path());
    let file = files.filter(|file| file.to_string_lossy().ends_with(".incr.aof")).max()?;
    let length = fs::metadata(&file).ok()?.len();
    Some((file, length))
}
