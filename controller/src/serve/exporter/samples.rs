//! What the figures of a fleet are called as Prometheus knows them: families, and samples of them.
//!
//! Where `node_exporter` has a figure of the same meaning, its name is used. Units are base units; what only rises ends
//! with `_total`. A sample has the labels `host` and `instance` (the same text, as dashboards ask for either). No sample
//! names a job: their number has no bound.

use std::{borrow::Cow, sync::Arc};

use smallvec::SmallVec;

/// Bytes of a label's value; what is longer is cut.
pub const VALUE_BYTES: usize = 256;

/// What the samples of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A figure that rises and falls.
    Gauge,
    /// A figure that only rises, but for restarts.
    Counter,
    /// How many were up to certain sizes: samples with the suffixes `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// Samples of one name.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// The name.
    pub name: &'static str,
    /// What it is, in one line.
    pub help: &'static str,
    /// What its samples are.
    pub kind: Kind,
    /// The unit at the end of the name (`seconds`); empty where it has none.
    pub unit: &'static str,
}

/// Name and value of a label. Most samples have one at most, besides the host.
pub type Label = (Cow<'static, str>, Arc<str>);

/// A figure with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What follows the family's name: nothing, or what a histogram needs.
    pub suffix: &'static str,
    /// The host that it is of.
    pub host: Option<Arc<str>>,
    /// Names and values of further labels. Names are valid and none comes twice; values are any text up to
    /// [`VALUE_BYTES`].
    pub labels: SmallVec<[Label; 1]>,
    /// The figure, in the family's unit.
    pub value: f64,
}

/// Some samples of a family. Batches of one family follow each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The family.
    pub family: &'static Family,
    /// Some of its samples.
    pub samples: Vec<Sample>,
}

impl Kind {
    /// As the text format writes it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

impl Sample {
    /// A sample without labels.
    pub fn bare(value: f64) -> Self {
        Self { suffix: "", host: None, labels: SmallVec::new(), value }
    }

    /// A sample with one label.
    pub fn labelled(name: &'static str, value: &str, figure: f64) -> Self {
        Self::bare(figure).with(name, label_value(value))
    }

    /// A sample of a host.
    pub fn of_host(host: &Arc<str>, value: f64) -> Self {
        Self { host: Some(Arc::clone(host)), ..Self::bare(value) }
    }

    /// The same with one label more.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: Arc<str>) -> Self {
        self.labels.push((name.into(), value));
        self
    }

    /// Names and values of all of its labels.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let host = self.host.iter().flat_map(|host| ["host", "instance"].map(|name| (name, &**host)));
        host.chain(self.labels.iter().map(|(name, value)| (&**name, &**value)))
    }
}

/// A text as the value of a label: cut at [`VALUE_BYTES`].
pub fn label_value(text: &str) -> Arc<str> {
    let mut end = text.len().min(VALUE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

/// A text as a part of a name: what no name may have becomes `_`.
pub fn name_part(text: &str) -> String {
    let allowed = |char: char| if char.is_ascii_alphanumeric() { char } else { '_' };
    text.chars().map(allowed).take(VALUE_BYTES).collect()
}

/// Defines the families from one row for each: constant, kind, name, unit, help.
macro_rules! families {
    ($($id:ident: $kind:ident $name:literal $unit:literal, $help:literal;)+) => {
        $(#[doc = $help] pub static $id: Family = Family {
            name: $name, help: $help, kind: Kind::$kind, unit: $unit,
        };)+

        /// Every family that there is.
        pub static FAMILIES: &[&Family] = &[$(&$id),+];
    };
}

families! {
    HOST_UP: Gauge "redfleet_host_up" "", "Whether the host's worker is online.";
    HOST_LAST_SEEN: Gauge "redfleet_host_last_seen_timestamp_seconds" "seconds",
        "The last heartbeat of the host's worker, by Redis' clock.";
    HOST_INFO: Gauge "redfleet_host_info" "", "Always 1: the release of the host's worker, and the host's labels.";
    HOST_STARTED: Gauge "redfleet_host_worker_start_time_seconds" "seconds", "When the host's worker was started.";
    HOST_RUNNING: Gauge "redfleet_host_commands_running" "", "Commands that run on the host.";
    HOST_SLOTS: Gauge "redfleet_host_command_slots" "", "Commands that may run on the host at once.";
    HOST_COMMANDS: Counter "redfleet_host_commands_total" "", "Commands that have ended since the worker's start, by state.";
    HOST_DROPPED: Counter "redfleet_host_dropped_entries_total" "",
        "Entries that the host's worker has dropped since its start, by reason.";
    HOST_READ_AGE: Gauge "redfleet_host_read_age_seconds" "seconds", "How long ago the host's worker has read its inbox.";
    HOST_CLOCK: Gauge "redfleet_host_clock_ahead_seconds" "seconds", "How far the host's clock is ahead of Redis' clock.";
    HOST_PROBLEM: Gauge "redfleet_host_problem" "",
        "1 where the host's worker reports that something is wrong with its journal, its trust files or its actions.";
    BOOT_TIME: Gauge "node_boot_time_seconds" "seconds", "When the host was booted.";
    UNAME_INFO: Gauge "node_uname_info" "", "Always 1: what uname says of the host.";
    OS_INFO: Gauge "node_os_info" "", "Always 1: the host's operating system.";
    CPU_USAGE: Gauge "redfleet_host_cpu_usage_ratio" "ratio", "CPU use over the last seconds, from 0 to 1.";
    CPU_MODE: Gauge "redfleet_host_cpu_mode_ratio" "ratio", "CPU use over the last seconds by mode, from 0 to 1.";
    CPUS: Gauge "redfleet_host_cpus" "", "Processors that are online.";
    MEM_TOTAL: Gauge "node_memory_MemTotal_bytes" "bytes", "Memory.";
    MEM_AVAILABLE: Gauge "node_memory_MemAvailable_bytes" "bytes", "Memory that programs can have without swapping.";
    MEM_FREE: Gauge "node_memory_MemFree_bytes" "bytes", "Memory that is not used at all.";
    MEM_BUFFERS: Gauge "node_memory_Buffers_bytes" "bytes", "Memory in buffers of block devices.";
    MEM_CACHED: Gauge "node_memory_Cached_bytes" "bytes", "Memory in the cache of files.";
    SWAP_TOTAL: Gauge "node_memory_SwapTotal_bytes" "bytes", "Swap space.";
    SWAP_FREE: Gauge "node_memory_SwapFree_bytes" "bytes", "Swap space that is not used.";
    LOAD1: Gauge "node_load1" "", "Load average of one minute.";
    LOAD5: Gauge "node_load5" "", "Load average of five minutes.";
    LOAD15: Gauge "node_load15" "", "Load average of fifteen minutes.";
    TASKS: Gauge "redfleet_host_tasks" "", "Tasks of the kernel, threads among them.";
    TASKS_RUNNING: Gauge "redfleet_host_tasks_running" "", "Tasks of the kernel that can run.";
    NODE_TIME: Gauge "node_time_seconds" "seconds", "The host's clock when its load was read.";
    DISK_SIZE: Gauge "node_filesystem_size_bytes" "bytes", "Size of the file system.";
    DISK_FREE: Gauge "node_filesystem_free_bytes" "bytes", "Free space, with what is reserved for root.";
    DISK_AVAIL: Gauge "node_filesystem_avail_bytes" "bytes", "Space that is there for everybody.";
    DISK_INODES: Gauge "redfleet_host_filesystem_inodes_usage_ratio" "ratio", "Inodes that are used, from 0 to 1.";
    DISK_ERROR: Gauge "node_filesystem_device_error" "", "1 where the file system does not respond, or reports an error.";
    NET_RECEIVE: Counter "node_network_receive_bytes_total" "bytes", "Bytes received.";
    NET_TRANSMIT: Counter "node_network_transmit_bytes_total" "bytes", "Bytes sent.";
    NET_RECEIVE_ERRS: Counter "node_network_receive_errs_total" "", "Errors while receiving.";
    NET_TRANSMIT_ERRS: Counter "node_network_transmit_errs_total" "", "Errors while sending.";
    NET_RECEIVE_DROP: Counter "node_network_receive_drop_total" "", "Packets that were dropped while receiving.";
    NET_TRANSMIT_DROP: Counter "node_network_transmit_drop_total" "", "Packets that were dropped while sending.";
    CUSTOM: Gauge "redfleet_custom_figure" "", "A figure of an action of the host's own: the last one that it has reported.";
    HOSTS: Gauge "redfleet_hosts" "", "Hosts that the fleet knows, in all shards.";
    REDIS_UP: Gauge "redfleet_redis_up" "", "Whether Redis replies.";
    REDIS_MEMORY: Gauge "redfleet_redis_memory_used_bytes" "bytes", "Memory that Redis uses.";
    REDIS_MEMORY_MAX: Gauge "redfleet_redis_memory_max_bytes" "bytes", "Memory that Redis may use; 0 where it has no bound.";
    REDIS_EVICTED: Counter "redfleet_redis_evicted_keys_total" "", "Keys that Redis has removed for want of memory.";
    REDIS_EXPIRED: Counter "redfleet_redis_expired_keys_total" "", "Keys that have expired.";
    REDIS_CLIENTS: Gauge "redfleet_redis_connected_clients" "", "Connections to Redis.";
    REDIS_CLIENTS_MAX: Gauge "redfleet_redis_max_clients" "", "Connections that Redis takes.";
    REDIS_REJECTED: Counter "redfleet_redis_rejected_connections_total" "", "Connections that Redis did not take.";
    REDIS_COMMANDS: Counter "redfleet_redis_commands_processed_total" "", "Commands that Redis has executed.";
    REDIS_UPTIME: Gauge "redfleet_redis_uptime_seconds" "seconds", "How long Redis runs.";
    REDIS_REPLICAS: Gauge "redfleet_redis_replicas" "", "Replicas that are connected.";
    REDIS_REPLICA_LAG: Gauge "redfleet_redis_replica_lag_seconds" "seconds",
        "How long ago Redis has heard of the replica.";
    REDIS_LINK_UP: Gauge "redfleet_redis_master_link_up" "",
        "Whether Redis is connected with its master; absent where it is one itself.";
    REDIS_SAVE_OK: Gauge "redfleet_redis_last_save_ok" "", "Whether the last snapshot was saved.";
    REDIS_SAVED: Gauge "redfleet_redis_last_save_timestamp_seconds" "seconds", "When the last snapshot was saved.";
    REDIS_AOF_OK: Gauge "redfleet_redis_aof_write_ok" "", "Whether the last write to the append-only file succeeded.";
    SERVE_INFO: Gauge "redfleet_serve_info" "", "Always 1: the instance of ctl serve that was asked, and its release.";
    SERVE_STARTED: Gauge "redfleet_serve_start_time_seconds" "seconds", "When this instance was started.";
    SERVE_READY: Gauge "redfleet_serve_service_ready" "", "Whether a service of this instance is ready.";
    SERVE_WORKED: Gauge "redfleet_serve_service_idle_seconds" "seconds",
        "How long ago a service of this instance has done what it is there for.";
    SERVE_RUNS: Counter "redfleet_serve_scheduled_runs_total" "",
        "What has become of instants of schedules in this instance, by outcome.";
    SERVE_LAG: Histogram "redfleet_serve_schedule_lag_seconds" "seconds",
        "How long after its instant a scheduled run was sent by this instance.";
    SERVE_DISPATCH: Histogram "redfleet_serve_dispatch_duration_seconds" "seconds",
        "How long this instance took for a look at the schedules in which it has sent runs.";
    SERVE_ALERTS: Gauge "redfleet_serve_alerts" "",
        "Alerts of the fleet by state, as this instance has evaluated them last.";
    LEFT_OUT: Gauge "redfleet_exporter_left_out" "",
        "What this scrape had to leave out, as it is beyond a bound or cannot be read, by reason.";
    SCRAPE_DURATION: Gauge "redfleet_exporter_scrape_duration_seconds" "seconds", "How long this scrape took.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn families_have_names_and_units_as_prometheus_wants_them() {
        let names: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            let Family { name, help, kind, unit } = family;
            let own = name.starts_with("redfleet_");
            assert!(own || name.starts_with("node_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(name.trim_end_matches("_total").ends_with(unit), "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}");
            assert!(!help.contains('\\'), "{name}");
        }
    }

    #[test]
    fn texts_become_values_and_parts_of_names() {
        assert_eq!(name_part("a.b-c/é"), "a_b_c__");
        assert_eq!(&*label_value("é"), "é");
        let long = "é".repeat(VALUE_BYTES);
        assert_eq!(label_value(&format!("x{long}")).len(), VALUE_BYTES - 1);
    }
}
