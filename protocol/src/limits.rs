//! Every limit of the protocol, defined once; the reference documentation is printed from here.

use std::time::Duration;

/// A limit as the reference documentation shows it.
pub struct Limit {
    /// Its name in this module.
    pub name: &'static str,
    /// What it bounds.
    pub summary: &'static str,
    /// Its value with the unit.
    pub value: String,
}

/// How a limit's value reads in the documentation.
trait Shown {
    fn shown(&self) -> String;
}

impl Shown for usize {
    fn shown(&self) -> String {
        if *self >= 1024 && self.is_multiple_of(1024) { format!("{} KiB", self / 1024) } else { self.to_string() }
    }
}

impl Shown for Duration {
    fn shown(&self) -> String {
        crate::time::show_duration(*self)
    }
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $value:expr;)+) => {
        $($(#[doc = $doc])+ pub const $name: $type = $value;)+

        /// All limits, in the order of this file.
        pub fn all() -> Vec<Limit> {
            vec![$(Limit {
                name: stringify!($name),
                summary: concat!($($doc),+).trim(),
                value: Shown::shown(&$name),
            }),+]
        }
    };
}

limits! {
    /// Bytes of a command's manifest; a larger entry is dropped and counted as `oversize`.
    MANIFEST_BYTES: usize = 128 * 1024;
    /// Bytes of a command's signature.
    SIGNATURE_BYTES: usize = 16 * 1024;
    /// Bytes of a command's target proof.
    PROOF_BYTES: usize = 2 * 1024;
    /// Hosts that one job may name.
    TARGETS: usize = 100_000;
    /// Bytes kept of each of a command's output streams; head and tail are kept, the middle is cut.
    OUTPUT_BYTES: usize = 64 * 1024;
    /// Bytes of an outcome's structured data; larger data is replaced by an error.
    DATA_BYTES: usize = 256 * 1024;
    /// Entries in a job's event stream.
    EVENTS: usize = 100_000;
    /// Jobs in the index of recent jobs.
    JOBS: usize = 10_000;
    /// Hosts in the index of hosts.
    HOSTS: usize = 100_000;
    /// Bytes of a command's live output, per stream; what comes later is in the result only.
    LIVE_BYTES: usize = 256 * 1024;
    /// Commands that a worker holds while they wait for their lane or exclusion key. Only beyond that
    /// is anything behind them, a `ping` too, held up.
    WAITING: usize = 5_000;
    /// Bytes of their manifests.
    WAITING_BYTES: usize = 8 * 1024 * 1024;
    /// Commands that a worker's journal knows, up to eight days back; at the bound it refuses what must not run twice.
    JOURNAL_RECORDS: usize = 1_000_000;
    /// Orders to cancel in a worker's journal, up to eight days back; what comes beyond stays in the control stream.
    JOURNAL_CANCELLED: usize = 100_000;
    /// Entries in a host's control stream.
    CONTROL_ENTRIES: usize = 10_000;
    /// How long an offline host's inbox keeps a command, unless `--start-by` says otherwise.
    START_BY_DEFAULT: Duration = Duration::from_secs(5 * 60);
    /// The longest start-by; older entries are trimmed, as they could not start any more.
    START_BY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
    /// How long a command may run where neither `--timeout` nor the action says otherwise.
    TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
    /// The longest timeout.
    TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
    /// How long results are kept after they were written.
    RETENTION_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
    /// The longest retention of results.
    RETENTION_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
    /// How often a worker says that it lives (jittered by a tenth).
    HEARTBEAT: Duration = Duration::from_secs(5);
    /// A host not heard of for so long is shown as offline: three heartbeats.
    OFFLINE_AFTER: Duration = Duration::from_secs(15);
    /// How long a host's facts, labels and status outlive its last heartbeat.
    HOST_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
    /// How long a host's metrics outlive the last sample.
    METRICS_RETENTION: Duration = Duration::from_secs(3600);
}
