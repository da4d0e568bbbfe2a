//! What a round must not leave behind: pending entries, processes, keys without bounds, memory.

use std::{collections::HashSet, fs};

use protocol::{
    keys::{CONSUMER_GROUP, Retention},
    limits,
};
use redis::{Connection, RedisResult};

use super::{fleet::Fleet, lock};

/// The limit of a worker's resident memory in kB. It is a debug build, and its outputs are of bounded size.
const MEMORY_KB: u64 = 96 * 1024;

/// The streams with entries that are not acknowledged yet.
pub(super) fn unsettled(redis: &mut Connection, fleet: &Fleet) -> RedisResult<Vec<String>> {
    let mut left = Vec::new();
    for host in &fleet.hosts {
        for (key, name) in [(fleet.keys.commands(&host.name), "inbox"), (fleet.keys.control(&host.name), "control")] {
            let queued: u64 = redis::cmd("XLEN").arg(&key).query(redis)?;
            let (pending,): (u64,) =
                match redis::cmd("XPENDING").arg(&key).arg(CONSUMER_GROUP).query::<Vec<redis::Value>>(redis) {
                    Ok(summary) => (summary.into_iter().next().map_or(Ok(0), redis::from_redis_value)?,),
                    // FLUSHALL has just removed the stream.
                    Err(error) if error.code() == Some("NOGROUP") => (0,),
                    Err(error) => return Err(error),
                };
            if queued + pending > 0 {
                left.push(format!("{queued} queued and {pending} pending entries in the {name} of {}", host.name));
            }
        }
    }
    Ok(left)
}

/// Processes whose environment names one of this round's jobs.
pub(super) fn processes(fleet: &Fleet) -> Vec<String> {
    let jobs: HashSet<String> = lock(&fleet.commands).iter().map(|command| command.job().to_string()).collect();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let orphan = |process: fs::DirEntry| {
        let environment = fs::read(process.path().join("environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let job = variables.find_map(|variable| variable.strip_prefix(b"REDFLEET_JOB="))?;
        let job = String::from_utf8_lossy(job).into_owned();
        jobs.contains(&job)
            .then(|| format!("process {} of job {job} still runs", process.file_name().to_string_lossy()))
    };
    processes.flatten().filter_map(orphan).collect()
}

/// Keys without a bound.
pub(super) fn keys(redis: &mut Connection, fleet: &Fleet) -> RedisResult<Vec<String>> {
    let mut wrong = Vec::new();
    let mut cursor = 0;
    loop {
        let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN").arg(cursor).arg("COUNT").arg(1000).query(redis)?;
        let mut pipeline = redis::pipe();
        for key in &keys {
            pipeline.ttl(key);
        }
        let lives: Vec<i64> = if keys.is_empty() { Vec::new() } else { pipeline.query(redis)? };
        for (key, life) in keys.iter().zip(lives) {
            match fleet.keys.retention(key) {
                None => wrong.push(format!("the key {key} is not one of Redfleet's")),
                Some(Retention::Expires(_)) if life == -1 => wrong.push(format!("the key {key} never expires")),
                Some(_) => {}
            }
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let jobs: usize = redis::cmd("ZCARD").arg(fleet.keys.jobs()).query(redis)?;
    if jobs > limits::JOBS {
        wrong.push(format!("the index names {jobs} jobs"));
    }
    Ok(wrong)
}

/// The most memory that a worker uses, in kB, and the workers above the limit. Slow growth does not show here:
/// `budget` measures it.
pub(super) fn memory(fleet: &Fleet) -> (u64, Vec<String>) {
    let used = fleet.hosts.iter().map(|host| (host.rss_kb(), &host.name));
    let wrong = used.clone().filter(|(kb, _)| *kb > MEMORY_KB).map(|(kb, name)| format!("{name} uses {kb} kB"));
    (used.clone().map(|(kb, _)| kb).max().unwrap_or(0), wrong.collect())
}
