//! Every limit of the protocol, defined once; the reference documentation is printed from here.

use std::time::Duration;

/// How a limit's value reads in the documentation.
trait Shown {
    fn shown(&self) -> String;
}

impl Shown for usize {
    fn shown(&self) -> String {
        const MIB: usize = 1024 * 1024;
        if *self >= MIB && self.is_multiple_of(MIB) {
            return format!("{} MiB", self / MIB);
        }
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

        /// Names of all limits, their values with units, and what they bound, in the order of this file.
        pub fn all() -> Vec<(&'static str, String, &'static str)> {
            vec![$((stringify!($name), $name.shown(), concat!($($doc),+).trim())),+]
        }
    };
}

limits! {
    /// Bytes of a command's manifest; a larger entry is dropped and counted as `oversize`.
    MANIFEST_BYTES: usize = 128 * 1024;
    /// Bytes of a command's secret arguments. Encrypted, they count among those of the manifest.
    SECRETS_BYTES: usize = 64 * 1024;
    /// Bytes of the key of a command's secret arguments, sealed to a host.
    SEALED_KEY_BYTES: usize = 112;
    /// Bytes of the document with a host's sealing key.
    SEALING_KEY_BYTES: usize = 1024;
    /// Bytes of standard input that a program is given: text, which travels as a secret argument.
    INPUT_BYTES: usize = 60 * 1024;
    /// Bytes of content that is sent to hosts, or fetched from them, as a file. What is sent lies in Redis until the hosts
    /// have it.
    ARTIFACT_BYTES: usize = 512 * 1024 * 1024;
    /// Bytes of a piece in which such content travels.
    ARTIFACT_PIECE_BYTES: usize = 512 * 1024;
    /// Pieces of a file on its way from a host that wait in Redis until `ctl` takes them; then the host waits.
    FILE_PIECES: usize = 8;
    /// How long such a piece is kept in Redis. In so long a time a host has waited in vain for each of them.
    FILE_PIECE_KEEP: Duration = Duration::from_secs(600);
    /// How long a host waits for `ctl` to take a piece before it gives up.
    FILE_PIECE_WAIT: Duration = Duration::from_secs(60);
    /// Bytes of a script that is sent to be run.
    SCRIPT_BYTES: usize = 16 * 1024 * 1024;
    /// Bytes of the plan of a rolling run.
    PLAN_BYTES: usize = 132 * 1024;
    /// Bytes of a standing order: those of a manifest, of its selector and of its time zone.
    STANDING_ORDER_BYTES: usize = 160 * 1024;
    /// Bytes of what vouches for a command: its operator's signature, or a standing order.
    VOUCHER_BYTES: usize = 180 * 1024;
    /// Bytes of the cron expression of a standing order.
    CRON_BYTES: usize = 256;
    /// Bytes of the data of its time zone.
    ZONE_BYTES: usize = 16 * 1024;
    /// Words that say which hosts it is for, and as many labels.
    SELECTOR_WORDS: usize = 256;
    /// The shortest span between two runs of what runs after equal spans.
    PERIOD_MIN: Duration = Duration::from_secs(1);
    /// How long a standing order may be valid.
    STANDING_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
    /// How long it is valid where nothing else is said.
    STANDING_DEFAULT: Duration = Duration::from_secs(90 * 24 * 3600);
    /// How long before its time, by Redis' clock, a run of it is taken: clocks that were set tell another time again.
    STANDING_EARLY: Duration = Duration::from_secs(60);
    /// How often a run of a standing order may be tried again where it has failed.
    STANDING_RETRIES: usize = 5;
    /// Schedules of a fleet.
    SCHEDULES: usize = 1_000;
    /// Instances of `ctl serve` that are remembered: the newest.
    SERVING: usize = 100;
    /// Runs of a schedule that are kept in its history: the newest.
    KEPT_RUNS: usize = 1_000;
    /// Runs of a schedule of which it is not known how they have ended; then no more are begun.
    OPEN_RUNS: usize = 100;
    /// The longest time between two rounds of remote write.
    REMOTE_WRITE_INTERVAL_MAX: Duration = Duration::from_secs(5 * 60);
    /// How long an instance of `ctl serve` keeps the right to send figures to a remote receiver, unless it renews it.
    REMOTE_WRITE_LEASE_MAX: Duration = Duration::from_secs(15 * 60);
    /// Rules of alerts.
    ALERT_RULES: usize = 1_000;
    /// Bytes of such a rule.
    ALERT_RULE_BYTES: usize = 8 * 1024;
    /// Alerts that are pending or fire; no more begin then.
    ALERT_STATES: usize = 200_000;
    /// Silences of alerts.
    ALERT_SILENCES: usize = 1_000;
    /// Notifications that wait for their receivers; no more are made then, until there is room.
    ALERT_OUTBOX: usize = 10_000;
    /// Those of them that wait for one receiver: one that is away must leave room for the others.
    ALERT_OUTBOX_SHARE: usize = 1_000;
    /// Notifications that were delivered or given up and are kept in the log: the newest.
    ALERT_LOG: usize = 1_000;
    /// Alerts in one notification; more come in further ones.
    ALERTS_TOLD: usize = 500;
    /// How long the delivery of a notification is tried.
    ALERT_DELIVERY_MAX: Duration = Duration::from_secs(24 * 3600);
    /// How long a silence may last.
    SILENCE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
    /// Bytes of an order to cancel.
    ORDER_BYTES: usize = 4 * 1024;
    /// Bytes of what a host states about the end of a command, without output and data.
    STATEMENT_BYTES: usize = 16 * 1024;
    /// Bytes of a signature.
    SIGNATURE_BYTES: usize = 16 * 1024;
    /// Approvals of one job, besides its operator's own signature.
    APPROVALS: usize = 15;
    /// Bytes of a job's approvals.
    APPROVALS_BYTES: usize = 64 * 1024;
    /// Bytes of a trust file.
    TRUST_BYTES: usize = 256 * 1024;
    /// Bytes of a revocation list.
    REVOKED_BYTES: usize = 1024 * 1024;
    /// Bytes of a file that defines an action of the host's own.
    ACTION_FILE_BYTES: usize = 16 * 1024;
    /// Such files of one host; those beyond it, by name, are not read.
    ACTION_FILES: usize = 128;
    /// Bytes of a command's target proof.
    PROOF_BYTES: usize = 2 * 1024;
    /// Hosts that one job may name.
    TARGETS: usize = 100_000;
    /// Bytes that a result keeps of each output stream, unless `--keep-output` says otherwise; head and tail are kept,
    /// the middle is cut.
    OUTPUT_BYTES: usize = 64 * 1024;
    /// The most that `--keep-output` can ask for.
    OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
    /// Bytes of an outcome's structured data; larger data is replaced by an error.
    DATA_BYTES: usize = 256 * 1024;
    /// Entries in a job's event stream.
    EVENTS: usize = 100_000;
    /// Jobs in the index of recent jobs.
    JOBS: usize = 10_000;
    /// Hosts in the index of hosts.
    HOSTS: usize = 100_000;
    /// Groups of hosts.
    GROUPS: usize = 1_000;
    /// Labels that controllers may set for a host.
    SET_LABELS: usize = 64;
    /// Bytes of the name of such a label, and of its value.
    LABEL_BYTES: usize = 256;
    /// Bytes of what a group of hosts stands for.
    GROUP_BYTES: usize = 8 * 1024;
    /// Bytes of a command's live output that Redis keeps for readers who come late: the beginning and the newest, half
    /// of it each.
    LIVE_BYTES: usize = 1024 * 1024;
    /// How far a reader may lag behind the live output of a running command; and how much of it waits in the worker
    /// while Redis is slow or away. What is more is missing.
    LIVE_LAG_BYTES: usize = 4 * 1024 * 1024;
    /// Bytes of output that wait in a worker for Redis before it takes and starts no more commands.
    UNPUBLISHED_BYTES: usize = 64 * 1024 * 1024;
    /// Commands that a worker holds while they wait for their lane or exclusion key. Only beyond that
    /// is anything behind them, a `ping` too, held up.
    WAITING: usize = 5_000;
    /// Bytes of their manifests.
    WAITING_BYTES: usize = 8 * 1024 * 1024;
    /// Commands that a worker's journal knows, up to eight days back; at the bound it refuses what must not run twice.
    JOURNAL_RECORDS: usize = 1_000_000;
    /// Orders to cancel in a worker's journal, up to eight days back. As many as a control stream holds are remembered
    /// beyond that and stay there; more are dropped and counted as `cancel_forgotten`.
    JOURNAL_CANCELLED: usize = 4_000;
    /// Bytes of a worker's audit trail before it is put aside under a number and a new file begun.
    AUDIT_BYTES: usize = 8 * 1024 * 1024;
    /// Files of the audit trail that are kept besides the newest.
    AUDIT_FILES: usize = 10;
    /// Characters of a command's arguments that its line in the audit trail shows.
    AUDIT_ARGUMENTS: usize = 4 * 1024;
    /// Bytes of the log of a service that the worker supervises itself: the newest half is always complete.
    SERVICE_LOG_BYTES: usize = 2 * 1024 * 1024;
    /// Entries in a host's control stream.
    CONTROL_ENTRIES: usize = 10_000;
    /// How long a command may lie in a host's inbox until its worker takes it, unless `--start-by` says otherwise.
    START_BY_DEFAULT: Duration = Duration::from_secs(5 * 60);
    /// How long a proposal waits for approvals and then for its workers, unless `--start-by` or the settings say longer.
    PROPOSAL_DEFAULT: Duration = Duration::from_secs(3600);
    /// How long a command that a worker has taken may wait there for its lock or slot. Its start-by does not count then.
    QUEUE_MAX: Duration = Duration::from_secs(12 * 3600);
    /// The longest start-by; older entries are trimmed, as they could not start any more.
    START_BY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
    /// How far two clocks may differ: a command from farther in the future is refused, and a host whose own clock is
    /// farther ahead of Redis' judges deadlines by its own.
    CLOCK_MARGIN: Duration = Duration::from_secs(3600);
    /// How far Redis' clock and an operator's machine may differ: otherwise `ctl` signs nothing, as whoever sets Redis'
    /// clock would decide from when and until when a job is valid.
    SIGNING_MARGIN: Duration = Duration::from_secs(5 * 60);
    /// How long a worker's journal keeps a record: longer than any command may wait, with a margin for clocks and long
    /// runs.
    JOURNAL_KEEP: Duration = START_BY_MAX.saturating_add(Duration::from_secs(24 * 3600));
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
    /// No `ctl serve` lives where none has been heard of for so long.
    SERVE_MISSING_AFTER: Duration = Duration::from_secs(120);
    /// How often a worker looks whether one does.
    SERVE_LOOK: Duration = Duration::from_secs(60);
    /// A host not heard of for so long is shown as offline: three heartbeats.
    OFFLINE_AFTER: Duration = Duration::from_secs(15);
    /// How long a host's facts, labels and status outlive its last heartbeat.
    HOST_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
    /// How long a worker keeps the beginning of content whose fetching was broken off, to go on from there.
    PARTIAL_KEEP: Duration = Duration::from_secs(24 * 3600);
    /// How long a host's metrics outlive the last sample.
    METRICS_RETENTION: Duration = Duration::from_secs(3600);
    /// How far back the history of figures reaches.
    HISTORY_SPAN: Duration = Duration::from_secs(24 * 3600);
    /// How long the history of figures outlives its last entry.
    HISTORY_RETENTION: Duration = Duration::from_secs(25 * 3600);
    /// Entries of a history, however short its steps are.
    HISTORY_ENTRIES: usize = 1_440;
    /// How long the state of Redis itself is kept after somebody has last looked at it.
    REDIS_STATUS_RETENTION: Duration = Duration::from_secs(3600);
}
