//! How Redis itself is: fields of its `INFO`, and what follows from them, in a hash and a history that `ctl serve` keeps.

use std::time::{Duration, Instant};

use protocol::{
    history::{STEP, append, beginning},
    limits,
    time::{Millis, read_moment, show_moment},
};

use super::{
    error::Error,
    fleet::{Fleet, text},
    redis_info::RedisInfo,
};

/// The fields of `INFO` that are kept, as they are.
const COPIED: [&str; 29] = [
    "redis_version",
    "uptime_in_seconds",
    "role",
    "used_memory",
    "used_memory_peak",
    "used_memory_rss",
    "maxmemory",
    "maxmemory_policy",
    "total_system_memory",
    "mem_fragmentation_ratio",
    "connected_clients",
    "blocked_clients",
    "maxclients",
    "rejected_connections",
    "instantaneous_ops_per_sec",
    "evicted_keys",
    "expired_keys",
    "loading",
    "aof_enabled",
    "aof_last_write_status",
    "aof_last_bgrewrite_status",
    "rdb_last_bgsave_status",
    "rdb_last_save_time",
    "rdb_changes_since_last_save",
    "connected_slaves",
    "master_repl_offset",
    "master_link_status",
    "master_last_io_seconds_ago",
    "total_commands_processed",
];

/// What follows from them, as numbers that rules compare.
const DERIVED: [&str; 9] = [
    "memory_usage",
    "keys",
    "ping_ms",
    "evicted_keys_per_second",
    "rejected_connections_per_second",
    "replica_lag_seconds",
    "replica_lag_bytes",
    "replication_broken",
    "persistence_failing",
];

/// The fields that the history has.
pub(super) const KEPT: [&str; 9] = [
    "used_memory",
    "memory_usage",
    "connected_clients",
    "instantaneous_ops_per_sec",
    "keys",
    "ping_ms",
    "evicted_keys_per_second",
    "replica_lag_seconds",
    "replica_lag_bytes",
];

/// When it was looked at.
const CHECKED: &str = "checked_at";

/// Bytes of a text that are kept.
const TEXT: usize = 64;

/// How Redis itself is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisStatus {
    /// When it was looked at, by its own clock.
    pub checked_ms: Millis,
    /// How often it is looked at.
    pub every: Duration,
    /// Names and values, in the order in which they are shown.
    pub fields: Vec<(&'static str, String)>,
}

/// Looks at Redis again and again, and keeps what it sees for others.
#[derive(Debug, Default)]
pub struct RedisWatch {
    last: Option<(RedisInfo, Instant)>,
}

impl RedisStatus {
    /// Whether a look is missing.
    pub fn is_stale(&self, now: Millis) -> bool {
        let patience = self.every * 3 + Duration::from_secs(60);
        now.saturating_sub(self.checked_ms) > protocol::clock::millis(patience)
    }

    fn of(info: &RedisInfo, before: Option<(&RedisInfo, Duration)>, ping: Duration) -> Self {
        let copied = COPIED.into_iter().filter_map(|name| Some((name, info.text(name)?)));
        let mut fields: Vec<_> =
            copied.map(|(name, value)| (name, value.chars().take(TEXT).collect::<String>())).collect();
        fields.extend(derived(info, before, ping).map(|(name, figure)| (name, rounded(figure))));
        Self { fields, ..Self::default() }
    }

    fn figures(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let field = |name: &str| self.fields.iter().find(|(known, _)| *known == name)?.1.parse().ok();
        KEPT.into_iter().filter_map(move |name| Some((name, field(name)?)))
    }
}

impl RedisWatch {
    /// Looks at Redis, and writes down how it is. Of several that look within a step of `every` (whole seconds), the first
    /// one's figures are in the history.
    ///
    /// # Errors
    /// [`Error::Redis`]: it cannot be reached, or the user may not do that (`ctl acl print --controller`).
    pub async fn look(&mut self, fleet: &mut Fleet, every: Duration) -> Result<(), Error> {
        let begun = Instant::now();
        let () = fleet.query_with_time(redis::pipe().cmd("PING").ignore()).await?;
        let (ping, now) = (begun.elapsed(), fleet.now());
        let info = fleet.redis_info().await?;
        let before = self.last.as_ref().map(|(before, then)| (before, then.elapsed()));
        let status = RedisStatus::of(&info, before, ping);
        self.last = Some((info, Instant::now()));

        let (hash, history) = (fleet.keys().redis_status(), fleet.keys().redis_history());
        let mut write = redis::pipe();
        write.atomic().del(&hash).ignore();
        write.cmd("HSET").arg(&hash).arg(CHECKED).arg(show_moment(now)).arg(STEP).arg(every.as_secs());
        write.arg(&status.fields).ignore();
        write.cmd("EXPIRE").arg(&hash).arg(limits::REDIS_STATUS_RETENTION.as_secs()).ignore();
        let () = fleet.query(&write).await?;
        let mut write = redis::pipe();
        write.add_command(append(&history, beginning(now, every), every, status.figures())).ignore();
        fleet.query(&write).await
    }
}

impl Fleet {
    /// How Redis itself is, as the newest look of a `ctl serve` has found it; `None` where there was none in the last hour.
    /// Reads its clock, too.
    ///
    /// # Errors
    /// [`Error::Redis`].
    pub async fn redis_status(&mut self) -> Result<Option<RedisStatus>, Error> {
        let names: Vec<_> = [CHECKED, STEP].into_iter().chain(COPIED).chain(DERIVED).collect();
        let mut look = redis::pipe();
        look.cmd("HMGET").arg(self.keys().redis_status()).arg(&names);
        let (values,): (Vec<Option<Vec<u8>>>,) = self.query_with_time(&look).await?;
        let mut values = values.into_iter().map(|value| {
            let value = value?;
            Some(text(&value[..value.len().min(TEXT)]))
        });
        let mut next = || values.next().flatten();
        let (checked, every) = (next(), next());
        let fields = COPIED.into_iter().chain(DERIVED).filter_map(|name| Some((name, next()?))).collect();
        let Some(checked_ms) = checked.as_deref().and_then(read_moment) else { return Ok(None) };
        let seconds = every.and_then(|every| every.parse().ok()).unwrap_or(60);
        Ok(Some(RedisStatus { checked_ms, every: Duration::from_secs(u64::min(seconds, 3600)), fields }))
    }

    /// When the newest step of the history of Redis itself began, if there is one.
    ///
    /// # Errors
    /// [`Error::Redis`].
    pub async fn redis_last_kept(&mut self) -> Result<Option<Millis>, Error> {
        let history = self.redis_history(limits::HISTORY_SPAN).await?;
        Ok(history.points.last().map(|point| point.at_ms))
    }
}

/// What follows from `INFO`, and from an earlier one. What is not known is left out.
fn derived(
    info: &RedisInfo,
    before: Option<(&RedisInfo, Duration)>,
    ping: Duration,
) -> impl Iterator<Item = (&'static str, f64)> {
    let number = |name: &str| info.number(name) as f64;
    let limit = [number("maxmemory"), number("total_system_memory")].into_iter().find(|limit| *limit > 0.0);
    let keys: u64 = info.numbered("db").filter_map(|line| part(line, "keys")?.parse::<u64>().ok()).sum();
    let rate = |name: &str| {
        let (before, span) = before?;
        // Behind a restart they count from zero again.
        let more = info.number(name).saturating_sub(before.number(name)) as f64;
        Some(more / span.as_secs_f64().max(0.001))
    };
    let replicas: Vec<_> = info.numbered("slave").collect();
    let is_replica = info.text("role") == Some("slave");
    let lag = |name: &'static str| replicas.iter().filter_map(move |line| part(line, name)?.parse::<f64>().ok());
    let lag_seconds = if is_replica {
        info.text("master_last_io_seconds_ago").and_then(|text| text.parse().ok()).filter(|lag| *lag >= 0.0)
    } else {
        lag("lag").reduce(f64::max)
    };
    let lag_bytes = lag("offset").map(|offset| (number("master_repl_offset") - offset).max(0.0)).reduce(f64::max);
    let link_down = is_replica && info.text("master_link_status") != Some("up");
    let replication_broken = link_down || replicas.iter().any(|line| part(line, "state") != Some("online"));
    let failed = |name: &str| info.text(name).is_some_and(|status| status != "ok");
    let aof_failing =
        info.is("aof_enabled") && (failed("aof_last_write_status") || failed("aof_last_bgrewrite_status"));
    let failing = aof_failing || failed("rdb_last_bgsave_status");
    let figures = [
        limit.map(|limit| 100.0 * number("used_memory") / limit),
        Some(keys as f64),
        Some(ping.as_secs_f64() * 1000.0),
        rate("evicted_keys"),
        rate("rejected_connections"),
        lag_seconds,
        lag_bytes,
        Some(f64::from(u8::from(replication_broken))),
        Some(f64::from(u8::from(failing))),
    ];
    DERIVED.into_iter().zip(figures).filter_map(|(name, figure)| Some((name, figure?)))
}

/// A part of a line such as `keys=5,expires=1`.
fn part<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// With two decimals.
fn rounded(figure: f64) -> String {
    ((figure * 100.0).round() / 100.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status by these lines of `INFO`.
    fn of(lines: &str, before: Option<(&str, u64)>) -> impl Fn(&str) -> Option<String> + use<> {
        let read = |lines: &str| RedisInfo::read(&lines.replace(' ', "\r\n"));
        let before = before.map(|(lines, seconds)| (read(lines), Duration::from_secs(seconds)));
        let before = before.as_ref().map(|(info, span)| (info, *span));
        let status = RedisStatus::of(&read(lines), before, Duration::from_micros(1500));
        move |name| status.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn persistence_fails_where_any_part_of_it_does() {
        let fine = "aof_enabled:1 aof_last_write_status:ok aof_last_bgrewrite_status:ok rdb_last_bgsave_status:ok";
        assert_eq!(of(fine, None)("persistence_failing").as_deref(), Some("0"));
        for name in ["aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"] {
            let status = of(&fine.replace(&format!("{name}:ok"), &format!("{name}:err")), None);
            assert_eq!(status("persistence_failing").as_deref(), Some("1"), "{name}");
            assert_eq!(status(name).as_deref(), Some("err"));
        }
        let off = "aof_enabled:0 aof_last_write_status:err rdb_last_bgsave_status:ok";
        assert_eq!(of(off, None)("persistence_failing").as_deref(), Some("0"));
    }

    #[test]
    fn the_replica_that_is_farthest_behind_counts() {
        let replicas = "role:master connected_slaves:2 master_repl_offset:1000 \
                        slave0:ip=::1,port=1,state=online,offset=990,lag=0 slave1:ip=::1,port=2,state=online,offset=400,lag=7";
        let status = of(replicas, None);
        let is = |name: &str| status(name).unwrap_or_default();
        assert_eq!([is("replica_lag_seconds"), is("replica_lag_bytes"), is("replication_broken")], ["7", "600", "0"]);
        let sick = of(&replicas.replacen("state=online", "state=wait_bgsave", 1), None);
        assert_eq!(sick("replication_broken").as_deref(), Some("1"));
        let alone = of("role:master connected_slaves:0 master_repl_offset:1000", None);
        assert_eq!((alone("replica_lag_bytes"), alone("replication_broken").as_deref()), (None, Some("0")));
        let cut = of("role:slave master_link_status:down master_last_io_seconds_ago:-1", None);
        assert_eq!((cut("replica_lag_seconds"), cut("replication_broken").as_deref()), (None, Some("1")));
    }

    #[test]
    fn rates_and_shares_are_known_only_where_their_parts_are() {
        let before = ("evicted_keys:10 rejected_connections:5", 60);
        let now = "used_memory:30 maxmemory:40 total_system_memory:1000 evicted_keys:40 rejected_connections:0 \
                   db0:keys=5,expires=1 db3:keys=2,expires=0 dbx:keys=9";
        let status = of(now, Some(before));
        let is = |name: &str| status(name).unwrap_or_default();
        let rates = [is("evicted_keys_per_second"), is("rejected_connections_per_second")];
        assert_eq!(rates, ["0.5", "0"], "it has restarted");
        assert_eq!([is("memory_usage"), is("keys"), is("ping_ms")], ["75", "7", "1.5"]);
        let status = of("used_memory:30", None);
        assert_eq!((status("evicted_keys_per_second"), status("memory_usage")), (None, None));
    }

    #[test]
    fn a_look_that_is_missing_makes_it_stale() {
        let status = RedisStatus { checked_ms: 1_000_000, every: Duration::from_secs(60), fields: Vec::new() };
        assert!(!status.is_stale(1_240_000) && status.is_stale(1_240_001));
    }
}
