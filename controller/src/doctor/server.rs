//! Checks of the Redis server itself.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use protocol::clock::FleetClock;

use super::Finding;
use crate::{
    fleet::Fleet,
    moments,
    redis_info::{OLDEST, RedisInfo},
};

/// PINGs of which the middle one counts.
const PINGS: usize = 9;
/// An answer slower than this is felt in every command.
const SLOW: Duration = Duration::from_millis(50);
/// Clocks further apart than this confuse whoever compares times.
pub(super) const CLOCK_MS: u64 = 1000;

pub(super) async fn check(fleet: &mut Fleet) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![reach(fleet).await?];
    let info = match RedisInfo::load(&mut fleet.connection).await {
        Ok(info) => info,
        Err(error) => return Err(fleet.explain(&error).into()),
    };
    let config = Config::load(fleet).await?;
    findings.extend([version(&info), persistence(&info, &config)]);
    findings.extend(failed_writes(&info));
    findings.extend(replica(&info));
    findings.extend([eviction(&info), memory(&info), clients(&info)]);
    findings.push(clock(fleet).await?);
    Ok(findings)
}

/// What `CONFIG GET` says; nothing where this user may not ask.
struct Config(HashMap<String, String>);

impl Config {
    async fn load(fleet: &mut Fleet) -> anyhow::Result<Self> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg(&["appendfsync", "save"]);
        match command.query_async(&mut fleet.connection).await {
            Ok(config) => Ok(Self(config)),
            Err(error) if error.code().is_some() => Ok(Self(HashMap::new())),
            Err(error) => Err(fleet.explain(&error).into()),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

async fn reach(fleet: &mut Fleet) -> anyhow::Result<Finding> {
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let begun = Instant::now();
        let () = fleet.ask(redis::pipe().cmd("PING").ignore()).await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let (middle, slowest) = (times[PINGS / 2], times[PINGS - 1]);
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
    let message = format!("{} answers in {} (slowest of {PINGS}: {})", fleet.address, ms(middle), ms(slowest));
    Ok(if middle < SLOW { Finding::ok("redis", message) } else { Finding::warning("redis", message) })
}

fn version(info: &RedisInfo) -> Finding {
    let product = info.product();
    if !info.is_supported() {
        let (major, minor) = OLDEST;
        return Finding::problem("version", format!("{product} is too old: {major}.{minor} or newer is needed"));
    }
    // Valkey has none of what Redis added to streams since.
    let newer = match info.version() {
        _ if info.is_valkey() => "",
        version if version < (7, 2) => "; 7.2 adds WAITAOF, 8.2 XACKDEL, 8.6 idempotent XADD: useful, not needed",
        version if version < (8, 2) => "; 8.2 adds XACKDEL, 8.6 idempotent XADD: useful, not needed",
        version if version < (8, 6) => "; 8.6 adds idempotent XADD: useful, not needed",
        _ => "",
    };
    Finding::ok("version", format!("{product}{newer}"))
}

fn persistence(info: &RedisInfo, config: &Config) -> Finding {
    let check = "persistence";
    if info.is("aof_enabled") {
        return match config.get("appendfsync") {
            Some("always") => {
                Finding::ok(check, "append-only file, synced before each reply: nothing acknowledged is lost")
            }
            Some("everysec") => Finding::ok(
                check,
                "append-only file, synced every second: a crash of its machine can lose up to the last second",
            ),
            Some(_) => Finding::warning(
                check,
                "append-only file, synced when the system likes: a crash of its machine can lose half a minute; \
                 set appendfsync to everysec",
            ),
            None => Finding::ok(check, "append-only file; how often it is synced may not be asked (CONFIG GET)"),
        };
    }
    let advice = "set appendonly to yes";
    if config.get("save") == Some("") {
        return Finding::warning(check, format!("none: a restart loses everything; {advice}"));
    }
    let changes = info.number("rdb_changes_since_last_save");
    Finding::warning(check, format!("snapshots only: a crash now loses the last {changes} changes; {advice}"))
}

fn failed_writes(info: &RedisInfo) -> impl Iterator<Item = Finding> {
    let failed = |name: &str| info.text(name).is_some_and(|status| status != "ok");
    let aof = (info.is("aof_enabled") && failed("aof_last_write_status"))
        .then(|| Finding::problem("persistence", "the last write to the append-only file failed: look into its log"));
    let snapshot = failed("rdb_last_bgsave_status").then(|| {
        Finding::problem("persistence", "the last snapshot failed, and Redis may refuse writes: look into its log")
    });
    let rewrite = failed("aof_last_bgrewrite_status").then(|| {
        Finding::warning(
            "persistence",
            "the append-only file could not be rewritten and goes on growing: look into its log",
        )
    });
    [aof, snapshot, rewrite].into_iter().flatten()
}

fn replica(info: &RedisInfo) -> Option<Finding> {
    let is_replica = info.text("role") == Some("slave");
    is_replica.then(|| Finding::problem("role", "this is a replica: give ctl and the workers the URL of its master"))
}

fn eviction(info: &RedisInfo) -> Finding {
    let check = "eviction";
    let policy = info.text("maxmemory_policy").unwrap_or("unknown");
    let evicted = info.number("evicted_keys");
    let advice = "set maxmemory-policy to noeviction";
    if evicted > 0 {
        let message = format!(
            "{evicted} keys have been evicted since it started ({policy}): commands or results are lost; {advice}"
        );
        Finding::problem(check, message)
    } else if policy == "noeviction" {
        Finding::ok(check, "noeviction: a full Redis refuses writes and loses nothing")
    } else if info.number("maxmemory") > 0 {
        Finding::problem(check, format!("{policy}: when memory is full, commands and results are lost; {advice}"))
    } else {
        Finding::warning(check, format!("{policy}, though without maxmemory nothing is evicted yet; {advice}"))
    }
}

fn memory(info: &RedisInfo) -> Finding {
    let used = info.number("used_memory");
    let (limit, of_what) = match info.number("maxmemory") {
        0 => (info.number("total_system_memory"), "of the machine's, no maxmemory is set"),
        limit => (limit, "of maxmemory"),
    };
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    let share = used as f64 / limit.max(1) as f64 * 100.0;
    let message = format!("{} used, {share:.1}% {of_what} ({})", mib(used), mib(limit));
    match share {
        90.0.. => Finding::problem("memory", format!("{message}: writes will soon be refused")),
        75.0.. => Finding::warning("memory", message),
        _ => Finding::ok("memory", message),
    }
}

fn clients(info: &RedisInfo) -> Finding {
    let (connected, most) = (info.number("connected_clients"), info.number("maxclients"));
    let message = format!("{connected} connected, maxclients is {most}");
    let rejected = info.number("rejected_connections");
    // A worker has two connections; those that come next are refused.
    if connected.saturating_mul(10) >= most.saturating_mul(9) {
        Finding::problem("clients", format!("{message}: raise it"))
    } else if rejected > 0 {
        Finding::warning("clients", format!("{message}; {rejected} connections have been refused since it started"))
    } else {
        Finding::ok("clients", message)
    }
}

async fn clock(fleet: &mut Fleet) -> anyhow::Result<Finding> {
    let begun = Instant::now();
    let (time,): ((u64, u64),) = fleet.ask(redis::pipe().cmd("TIME")).await?;
    let way = begun.elapsed() / 2;
    fleet.clock = FleetClock::from_redis(time);
    // Redis read its clock about half a round trip ago.
    let ahead = fleet.clock.local_ahead_ms().saturating_sub_unsigned(protocol::clock::millis(way));
    let message = format!("this machine's clock is {} Redis'", ahead_of(ahead));
    Ok(if ahead.unsigned_abs() < CLOCK_MS {
        Finding::ok("clock", message)
    } else {
        Finding::warning("clock", format!("{message}; deadlines go by Redis' clock, but times in logs will not agree"))
    })
}

/// `3 ms ahead of`, `2 min behind`.
fn ahead_of(ms: i64) -> String {
    let span = moments::span(Duration::from_millis(ms.unsigned_abs()));
    format!("{span} {}", if ms < 0 { "behind" } else { "ahead of" })
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn info(lines: &[&str]) -> RedisInfo {
        RedisInfo::read(&lines.join("\r\n"))
    }

    #[test]
    fn versions_say_what_newer_ones_bring() {
        let said = |lines: &[&str]| version(&info(lines));
        assert_eq!(said(&["redis_version:6.2.0"]).level, Level::Problem);
        assert!(said(&["redis_version:7.0.15"]).message.contains("WAITAOF"));
        assert_eq!(said(&["redis_version:8.6.0"]).message, "redis 8.6.0");
        let valkey = ["redis_version:7.2.4", "server_name:valkey", "valkey_version:9.0.0"];
        assert_eq!(said(&valkey).message, "valkey 9.0.0");
    }

    #[test]
    fn persistence_says_what_can_be_lost() {
        let said = |lines: &[&str], config: &[(&str, &str)]| {
            let config = config.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let finding = persistence(&info(lines), &Config(config));
            (finding.level, finding.message)
        };
        let aof = ["aof_enabled:1"];
        assert_eq!(said(&aof, &[("appendfsync", "always")]).0, Level::Ok);
        assert!(said(&aof, &[("appendfsync", "everysec")]).1.contains("last second"));
        assert_eq!(said(&aof, &[("appendfsync", "no")]).0, Level::Warning);
        assert_eq!(said(&aof, &[]).0, Level::Ok);
        let none = ["aof_enabled:0", "rdb_changes_since_last_save:7"];
        assert!(said(&none, &[("save", "")]).1.contains("loses everything"));
        assert!(said(&none, &[("save", "3600 1")]).1.contains("last 7 changes"));
        let failed = info(&["aof_enabled:1", "aof_last_write_status:err", "rdb_last_bgsave_status:ok"]);
        assert_eq!(failed_writes(&failed).count(), 1);
    }

    #[test]
    fn eviction_is_a_problem_once_it_can_happen() {
        let level = |lines: &[&str]| eviction(&info(lines)).level;
        assert_eq!(level(&["maxmemory_policy:noeviction"]), Level::Ok);
        assert_eq!(level(&["maxmemory_policy:allkeys-lru", "maxmemory:0"]), Level::Warning);
        assert_eq!(level(&["maxmemory_policy:allkeys-lru", "maxmemory:100"]), Level::Problem);
        assert_eq!(level(&["maxmemory_policy:noeviction", "evicted_keys:1"]), Level::Problem);
    }

    #[test]
    fn memory_and_clients_run_out_gradually() {
        let level = |used: u64| memory(&info(&["maxmemory:100", &format!("used_memory:{used}")])).level;
        assert_eq!([level(74), level(75), level(90)], [Level::Ok, Level::Warning, Level::Problem]);
        let level = |connected: u64, rejected: u64| {
            let lines = [format!("connected_clients:{connected}"), format!("rejected_connections:{rejected}")];
            clients(&info(&["maxclients:100", &lines[0], &lines[1]])).level
        };
        assert_eq!([level(89, 0), level(89, 1), level(90, 0)], [Level::Ok, Level::Warning, Level::Problem]);
    }

    #[test]
    fn clocks_are_ahead_or_behind() {
        assert_eq!(ahead_of(3), "3 ms ahead of");
        assert_eq!(ahead_of(-180_000), "3 min behind");
    }
}
