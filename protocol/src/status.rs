//! A host's liveness, as the fields of its status hash.

use std::collections::HashMap;

use crate::{
    clock::millis,
    limits,
    time::{self, Millis},
};

/// What a worker publishes about itself with each heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The time of the heartbeat, by the fleet's clock.
    pub last_seen_ms: Millis,
    /// Set when the worker stopped in order; a worker that died leaves it unset.
    pub stopped: bool,
    /// The worker's release and wire version.
    pub version: String,
    /// Changes with every boot of the machine.
    pub boot_id: String,
    /// When the worker started, by the fleet's clock.
    pub started_at_ms: Millis,
    /// Process id.
    pub pid: u32,
    /// Commands that run now.
    pub running: u64,
    /// Commands that may run at once.
    pub slots: u64,
    /// Age of the inbox reader's last completed read, in milliseconds. A connection alone does not renew it.
    pub read_age_ms: u64,
    /// How far the host's wall clock is ahead of the fleet's, in milliseconds.
    pub clock_ahead_ms: i64,
    /// Why the worker refuses `once` actions; `None` where it does not.
    pub refuses: Option<String>,
    /// What is wrong with the host's trust files; `None` where nothing is.
    pub trust: Option<String>,
    /// What is wrong with the files of the host's own actions; `None` where nothing is.
    pub actions: Option<String>,
    /// Since when no `ctl serve` lives in a fleet that had one, by the fleet's clock; `None` where one does, or none ever did.
    pub serve_missing_ms: Option<Millis>,
    /// The version of the trust file that is in force.
    pub trust_version: u64,
    /// The digest of both trust files that are in force ([`crate::trust::digest`]); empty where none ever was.
    pub trust_digest: String,
    /// Commands rejected since start.
    pub rejected: u64,
    /// Commands that have ended here since start, by their state.
    pub ended: Vec<(String, u64)>,
    /// Entries dropped since start, by reason.
    pub dropped: Vec<(String, u64)>,
}

impl Status {
    /// Whether the host counts as online at `now`.
    pub fn is_online(&self, now: Millis) -> bool {
        !self.stopped && now.saturating_sub(self.last_seen_ms) < millis(limits::OFFLINE_AFTER)
    }

    /// The status hash's fields.
    pub fn fields(&self) -> Vec<(String, String)> {
        let mut fields: Vec<(String, String)> = [
            ("last_seen", time::show_moment(self.last_seen_ms)),
            ("state", if self.stopped { "stopped" } else { "up" }.into()),
            ("version", self.version.clone()),
            ("boot_id", self.boot_id.clone()),
            ("started_at", time::show_moment(self.started_at_ms)),
            ("pid", self.pid.to_string()),
            ("running", self.running.to_string()),
            ("slots", self.slots.to_string()),
            ("read_age_ms", self.read_age_ms.to_string()),
            ("clock_ahead_ms", self.clock_ahead_ms.to_string()),
            ("refuses", self.refuses.clone().unwrap_or_default()),
            ("trust", self.trust.clone().unwrap_or_default()),
            ("actions", self.actions.clone().unwrap_or_default()),
            ("serve_missing_since", self.serve_missing_ms.map(time::show_moment).unwrap_or_default()),
            ("trust_version", self.trust_version.to_string()),
            ("trust_digest", self.trust_digest.clone()),
            ("rejected", self.rejected.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        fields.extend(self.ended.iter().map(|(state, count)| (format!("ended_{state}"), count.to_string())));
        fields.extend(self.dropped.iter().map(|(reason, count)| (format!("dropped_{reason}"), count.to_string())));
        fields
    }

    /// Reads a status hash; `None` where the host has never reported.
    pub fn from_fields(fields: &HashMap<String, String>) -> Option<Self> {
        let text = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        let number = |name: &str| text(name).parse().unwrap_or(0);
        let counts = |prefix: &str| {
            let count = |(name, value): (&String, &String)| {
                Some((name.strip_prefix(prefix)?.to_owned(), value.parse::<u64>().ok()?))
            };
            let mut counts: Vec<_> = fields.iter().filter_map(count).collect();
            counts.sort();
            counts
        };
        Some(Self {
            last_seen_ms: time::read_moment(fields.get("last_seen")?)?,
            stopped: text("state") == "stopped",
            version: text("version").into(),
            boot_id: text("boot_id").into(),
            started_at_ms: time::read_moment(text("started_at")).unwrap_or(0),
            pid: text("pid").parse().unwrap_or(0),
            running: number("running"),
            slots: number("slots"),
            read_age_ms: number("read_age_ms"),
            clock_ahead_ms: text("clock_ahead_ms").parse().unwrap_or(0),
            refuses: Some(text("refuses").to_owned()).filter(|text| !text.is_empty()),
            trust: Some(text("trust").to_owned()).filter(|text| !text.is_empty()),
            actions: Some(text("actions").to_owned()).filter(|text| !text.is_empty()),
            serve_missing_ms: time::read_moment(text("serve_missing_since")),
            trust_version: number("trust_version"),
            trust_digest: text("trust_digest").into(),
            rejected: number("rejected"),
            ended: counts("ended_"),
            dropped: counts("dropped_"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_back_and_grows_old() {
        let status = Status {
            last_seen_ms: 1_790_000_000_000,
            version: "1".into(),
            slots: 4,
            clock_ahead_ms: -7,
            refuses: Some("no journal".into()),
            trust: Some("trust: it is gone".into()),
            actions: Some("dump.toml, line 3: no".into()),
            serve_missing_ms: Some(1_790_000_000_000),
            trust_version: 7,
            trust_digest: "0123456789abcdef".into(),
            rejected: 3,
            ended: vec![("succeeded".into(), 12)],
            dropped: vec![("malformed".into(), 2)],
            ..Status::default()
        };
        assert_eq!(Status::from_fields(&status.fields().into_iter().collect()), Some(status.clone()));
        assert!(status.is_online(status.last_seen_ms + 14_000));
        assert!(!status.is_online(status.last_seen_ms + 15_000));
        assert!(!Status { stopped: true, ..status.clone() }.is_online(status.last_seen_ms));
        // A clock that ran backwards does not make a host offline.
        assert!(status.is_online(status.last_seen_ms - 1));
    }
}
