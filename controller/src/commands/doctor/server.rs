//! Checks of the Redis server itself.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use protocol::clock::millis;

use super::{CLOCK_MS, Finding, Level, WRONG_CLOCK, permitted};
use crate::{
    client::{
        Error, Fleet,
        redis_info::{OLDEST, RedisInfo},
    },
    output::{figures, moments},
};

/// PINGs that are sent; their median counts.
const PINGS: usize = 9;
/// Replies slower than this delay every command noticeably.
const SLOW: Duration = Duration::from_millis(50);

/// The checks that need the reply to `INFO`, as they are named where it is not permitted.
const OF_INFO: &str = "version, persistence, eviction, memory and clients";

pub async fn check(fleet: &mut Fleet) -> Result<Vec<Finding>, Error> {
    let finding = |check, (level, message)| Finding::new(check, level, message);
    let reached = permitted("redis", reach(fleet).await)?;
    let mut findings = vec![reached.map_or_else(|missing| missing, |reached| finding("redis", reached))];

    match permitted("info", fleet.redis_info().await)? {
        Ok(info) => {
            let checks = [
                ("version", version(&info)),
                ("persistence", persistence(&info, &config(fleet).await?)),
                ("eviction", eviction(&info)),
                ("memory", memory(&info)),
                ("clients", clients(&info)),
            ];
            findings.extend(checks.map(|(check, found)| finding(check, found)));
            findings.extend(faults(&info));
        }
        Err(missing) => findings.push(Finding { message: format!("{OF_INFO} are {}", missing.message), ..missing }),
    }

    let clock = permitted("clock", clock(fleet).await)?;
    findings.push(clock.map_or_else(|missing| missing, |clock| finding("clock", clock)));
    Ok(findings)
}

async fn reach(fleet: &mut Fleet) -> Result<(Level, String), Error> {
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let begun = Instant::now();
        let () = fleet.query(redis::pipe().cmd("PING").ignore()).await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let (middle, slowest) = (times[PINGS / 2], times[PINGS - 1]);
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
    let message = format!("{} answers in {} (slowest of {PINGS}: {})", fleet.address(), ms(middle), ms(slowest));
    Ok((if middle < SLOW { Level::Ok } else { Level::Warning }, message))
}

fn version(info: &RedisInfo) -> (Level, String) {
    let (product, (major, minor)) = (info.product(), OLDEST);
    if info.is_supported() {
        (Level::Ok, product)
    } else {
        (Level::Problem, format!("{product} is too old: {major}.{minor} or newer is needed"))
    }
}

/// The settings of the server that concern persistence; none where this user may not ask.
async fn config(fleet: &mut Fleet) -> Result<HashMap<String, String>, Error> {
    match fleet.query(redis::pipe().cmd("CONFIG").arg("GET").arg(&["appendfsync", "save"])).await {
        Ok((config,)) => Ok(config),
        Err(Error::Redis { source, .. }) if source.code().is_some() => Ok(HashMap::new()),
        Err(error) => Err(error),
    }
}

fn persistence(info: &RedisInfo, config: &HashMap<String, String>) -> (Level, String) {
    let setting = |name: &str| config.get(name).map(String::as_str);
    if !info.is("aof_enabled") {
        let changes = info.number("rdb_changes_since_last_save");
        let loss = match setting("save") {
            Some("") => "none: a restart loses everything".to_owned(),
            _ => format!("snapshots only: a crash now loses the last {changes} changes"),
        };
        return (Level::Warning, format!("{loss}; set appendonly to yes"));
    }
    let (level, synced) = match setting("appendfsync") {
        Some("always") => (Level::Ok, "synced before each reply: nothing acknowledged is lost"),
        Some("everysec") => (Level::Ok, "synced every second: a crash of its machine can lose the last second"),
        Some(_) => {
            let loss = "synced when the system likes: a crash of its machine can lose half a minute; \
                        set appendfsync to everysec";
            (Level::Warning, loss)
        }
        None => (Level::Ok, "how often it is synced may not be read (CONFIG GET)"),
    };
    (level, format!("append-only file, {synced}"))
}

/// Faults that do not keep other checks from running. Each is reported only where it exists.
fn faults(info: &RedisInfo) -> impl Iterator<Item = Finding> {
    let failed = |name: &str| info.text(name).is_some_and(|status| status != "ok");
    let aof_failed = |name: &str| info.is("aof_enabled") && failed(name);
    let (problem, warning) = (Level::Problem, Level::Warning);
    let bgsave = "the last snapshot failed, and Redis may refuse writes: look into its log";
    let write = "the last write to the append-only file failed: look into its log";
    let rewrite = "the append-only file could not be rewritten and grows: look into its log";
    let replica = "this is a replica: give ctl and the workers the URL of its master";
    [
        (aof_failed("aof_last_write_status"), Finding::new("persistence", problem, write)),
        (failed("rdb_last_bgsave_status"), Finding::new("persistence", problem, bgsave)),
        (aof_failed("aof_last_bgrewrite_status"), Finding::new("persistence", warning, rewrite)),
        (info.text("role") == Some("slave"), Finding::new("role", problem, replica)),
    ]
    .into_iter()
    .filter_map(|(is_so, finding)| is_so.then_some(finding))
}

fn eviction(info: &RedisInfo) -> (Level, String) {
    let policy = info.text("maxmemory_policy").unwrap_or("unknown");
    let evicted = info.number("evicted_keys");
    let (level, effect) = if evicted > 0 {
        let effect = format!("{evicted} keys were evicted since it started, so commands or results are lost");
        (Level::Problem, effect)
    } else if policy == "noeviction" {
        return (Level::Ok, "noeviction: a full Redis refuses writes and loses nothing".into());
    } else if info.number("maxmemory") > 0 {
        (Level::Problem, "when memory is full, commands and results are lost".into())
    } else {
        (Level::Warning, "without maxmemory nothing is evicted yet".into())
    };
    (level, format!("{policy}: {effect}; set maxmemory-policy to noeviction"))
}

fn memory(info: &RedisInfo) -> (Level, String) {
    let used = info.number("used_memory");
    let (limit, of_what) = match info.number("maxmemory") {
        0 => (info.number("total_system_memory"), "of the machine's, no maxmemory is set"),
        limit => (limit, "of maxmemory"),
    };
    let [shown_used, shown_limit] = [used, limit].map(|count| figures::bytes(count as f64));
    let share = used as f64 / limit.max(1) as f64 * 100.0;
    let message = format!("{shown_used} used, {share:.1}% {of_what} ({shown_limit})");
    match share {
        90.0.. => (Level::Problem, format!("{message}: writes will soon be refused")),
        75.0.. => (Level::Warning, message),
        _ => (Level::Ok, message),
    }
}

fn clients(info: &RedisInfo) -> (Level, String) {
    let (connected, most) = (info.number("connected_clients"), info.number("maxclients"));
    let message = format!("{connected} connected, maxclients is {most}");
    let rejected = info.number("rejected_connections");
    // A worker has two connections; those that come next are refused.
    if connected.saturating_mul(10) >= most.saturating_mul(9) {
        (Level::Problem, format!("{message}: raise it"))
    } else if rejected > 0 {
        (Level::Warning, format!("{message}; {rejected} connections have been refused since it started"))
    } else {
        (Level::Ok, message)
    }
}

async fn clock(fleet: &mut Fleet) -> Result<(Level, String), Error> {
    let begun = Instant::now();
    let () = fleet.query_with_time(&redis::pipe()).await?;
    let way = begun.elapsed() / 2;
    // Redis read its clock about half a round trip ago.
    let ahead_ms = fleet.clock().local_ahead_ms().saturating_sub_unsigned(millis(way));
    let message = format!("this machine's clock is {}", moments::offset(ahead_ms));
    Ok(if ahead_ms.unsigned_abs() < CLOCK_MS {
        (Level::Ok, message)
    } else {
        (Level::Warning, format!("{message}; {WRONG_CLOCK}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(lines: &[&str]) -> RedisInfo {
        RedisInfo::read(&lines.join("\r\n"))
    }

    #[test]
    fn an_old_redis_is_a_problem() {
        assert_eq!(version(&info(&["redis_version:6.2.0"])).0, Level::Problem);
        assert_eq!(version(&info(&["redis_version:7.0.15"])).1, "redis 7.0.15");
    }

    #[test]
    fn persistence_says_what_can_be_lost() {
        let found = |lines: &[&str], config: &[(&str, &str)]| {
            let config = config.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            persistence(&info(lines), &config)
        };
        let aof = ["aof_enabled:1"];
        assert_eq!(found(&aof, &[("appendfsync", "always")]).0, Level::Ok);
        assert!(found(&aof, &[("appendfsync", "everysec")]).1.contains("last second"));
        assert_eq!(found(&aof, &[("appendfsync", "no")]).0, Level::Warning);
        assert_eq!(found(&aof, &[]).0, Level::Ok);
        let none = ["aof_enabled:0", "rdb_changes_since_last_save:7"];
        assert!(found(&none, &[("save", "")]).1.contains("loses everything"));
        assert!(found(&none, &[("save", "3600 1")]).1.contains("last 7 changes"));
        let failed = info(&["aof_enabled:1", "aof_last_write_status:err", "rdb_last_bgsave_status:ok"]);
        assert_eq!(faults(&failed).count(), 1);
    }

    #[test]
    fn eviction_is_a_problem_once_it_can_happen() {
        let level = |lines: &[&str]| eviction(&info(lines)).0;
        assert_eq!(level(&["maxmemory_policy:noeviction"]), Level::Ok);
        assert_eq!(level(&["maxmemory_policy:allkeys-lru", "maxmemory:0"]), Level::Warning);
        assert_eq!(level(&["maxmemory_policy:allkeys-lru", "maxmemory:100"]), Level::Problem);
        assert_eq!(level(&["maxmemory_policy:noeviction", "evicted_keys:1"]), Level::Problem);
    }

    #[test]
    fn memory_and_clients_run_out_gradually() {
        let level = |used: u64| memory(&info(&["maxmemory:100", &format!("used_memory:{used}")])).0;
        assert_eq!([level(74), level(75), level(90)], [Level::Ok, Level::Warning, Level::Problem]);
        let level = |connected: u64, rejected: u64| {
            let lines = [format!("connected_clients:{connected}"), format!("rejected_connections:{rejected}")];
            clients(&info(&["maxclients:100", &lines[0], &lines[1]])).0
        };
        assert_eq!([level(89, 0), level(89, 1), level(90, 0)], [Level::Ok, Level::Warning, Level::Problem]);
    }
}
