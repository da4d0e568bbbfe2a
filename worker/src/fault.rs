//! Named points at which a test may kill the worker, and bugs that it may plant to see whether the
//! checker finds them. Compiled in with the feature `chaos` only; nothing of it is in a release.

/// A command's way, and then a deploy's, in order: what has just happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Point {
    /// The entry was read, nothing is recorded.
    Taken,
    /// The decision is in the audit trail, nothing else is recorded.
    Audited,
    /// The start is recorded, nothing has started.
    Begun,
    /// The action has ended, nothing is recorded of that.
    Ended,
    /// The outcome is recorded, not published.
    Recorded,
    /// The outcome is published, the entry not acknowledged.
    Published,
    /// The entry is acknowledged.
    Settled,
    /// A deploy is recorded, nothing has happened.
    Recording,
    /// Its content is here.
    Fetched,
    /// Its draft is on the disk.
    Unpacked,
    /// The draft is a release.
    Placed,
    /// The hook has run.
    Hooked,
    /// A process of it was checked at a private port.
    Tried,
    /// A process of it is ready to take over.
    Prepared,
    /// The switch is recorded, nothing is switched.
    Switching,
    /// The link leads to it.
    Linked,
    /// The service runs it.
    TakenOver,
    /// It is healthy, which is not recorded.
    Healthy,
    /// It is recorded as proven.
    Proven,
    /// An old release is removed, which is not recorded.
    Pruned,
    /// A rollback is recorded, nothing has happened.
    RollingBack,
    /// The link leads back.
    LinkedBack,
    /// The service runs what ran before.
    TakenBack,
    /// The end of the rollback is recorded.
    Restored,
}

/// A bug that can be planted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bug {
    /// Start first, record afterwards.
    JournalAfterStart,
    /// Acknowledge first, publish afterwards.
    AckBeforeResult,
    /// Run whatever is read.
    NoDedup,
    /// Never read what is pending.
    IgnorePending,
    /// Trim the inbox, whatever is in it.
    TrimLive,
    /// Take a document without a signature.
    NoSignature,
    /// Believe a key that the trust file does not know for the principal.
    NoSigners,
    /// Believe a key before and after its time.
    NoWindow,
    /// Believe a key for any purpose.
    NoPurpose,
    /// Believe what is revoked.
    NoRevocation,
    /// Believe any certificate of an authority.
    NoCertificate,
    /// Believe a signature over other bytes.
    NoDigest,
    /// Take any job's id for that of its operator.
    NoId,
    /// Take what is meant for other hosts.
    NoTarget,
    /// Let anybody cancel any job.
    NoOwner,
    /// Let every known signer run everything that is on.
    NoPolicy,
    /// Let a standing order run at any time.
    NoInstant,
    /// Let a standing order run before it was issued, and after its end.
    NoOrderEnd,
    /// Let a standing order run before its time has come.
    NoBeginning,
    /// Take a standing order that is for other hosts.
    NoSelector,
    /// Take any command for one that its standing order asks for.
    NoRun,
    /// Let everybody give standing orders.
    NoStandingRight,
    /// Count one who signs twice, or one key under two names, twice.
    NoDistinct,
    /// Start what may have been forgotten.
    NoFloor,
    /// Refuse without a record.
    NoLastWord,
    /// Do not look again who has signed what has waited.
    NoSecondLook,
    /// Judge deadlines by Redis' clock alone.
    NoClock,
    /// Take an older trust file.
    NoVersion,
    /// Take a trust file that locks out whoever sends it.
    NoLockOut,
    /// Take any piece of content.
    NoPiece,
    /// Follow symbolic links on the way to a file.
    NoFollow,
    /// Switch to a release first, record it afterwards.
    SwitchBeforeRecord,
    /// Leave alone what a dead worker has left of a deploy.
    NoRecovery,
}

/// Dies here, as by `kill -9`, if `REDFLEET_CHAOS_KILL=POINT:N` says so and this is the Nth time.
#[cfg(feature = "chaos")]
pub(crate) fn point(point: Point) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };
    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("REDFLEET_CHAOS_KILL").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_lowercase(), count.parse().ok()?))
    });
    let Some((name, count)) = wanted else { return };
    if format!("{point:?}").to_lowercase() == *name && REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *count {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(not(feature = "chaos"))]
pub(crate) const fn point(_: Point) {}

/// Whether `REDFLEET_CHAOS_BUG` plants this bug.
#[cfg(feature = "chaos")]
pub(crate) fn planted(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var("REDFLEET_CHAOS_BUG").unwrap_or_default()) == format!("{bug:?}")
}

#[cfg(not(feature = "chaos"))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

/// Makes the disk slow: waits `REDFLEET_CHAOS_SLOW_SYNC` milliseconds before a sync.
#[cfg(feature = "chaos")]
pub(crate) fn slow_sync() {
    let wait = std::env::var("REDFLEET_CHAOS_SLOW_SYNC").ok().and_then(|wait| wait.parse().ok());
    std::thread::sleep(std::time::Duration::from_millis(wait.unwrap_or(0)));
}

#[cfg(not(feature = "chaos"))]
pub(crate) const fn slow_sync() {}
