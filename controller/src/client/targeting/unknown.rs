//! Hosts of which it is not known whether they are meant.

use std::collections::BTreeMap;

use protocol::name::HostName;

/// A host of which it is not known whether it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The host.
    pub host: HostName,
    /// What is not known.
    pub reason: String,
}

/// The hosts for each reason.
pub fn by_reason(unknown: &[Unknown]) -> BTreeMap<&str, Vec<&HostName>> {
    let mut reasons: BTreeMap<&str, Vec<&HostName>> = BTreeMap::new();
    for Unknown { host, reason } in unknown {
        reasons.entry(reason).or_default().push(host);
    }
    reasons
}
