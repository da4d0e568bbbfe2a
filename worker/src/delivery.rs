//! Commands and other entries as Redis delivered them.

use std::{sync::Arc, time::Duration};

use protocol::{
    command::Manifest,
    event::Decision,
    limits,
    name::JobId,
    secret::Digest,
    trust::sshsig::{self, Signature},
};
use tokio::sync::OwnedSemaphorePermit;

use crate::log::{self, excerpt};

/// Who asked for something, as far as this host knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asker {
    /// The operator, as the controller claims.
    pub(crate) operator: String,
    /// The signer, as the trust file names them; none where nothing is verified.
    pub(crate) principal: Option<String>,
    /// The fingerprint of the signer's key.
    pub(crate) key: Option<String>,
    /// The signer's key or certificate, in the SSH encoding; empty where nothing is verified.
    pub(crate) signer: Vec<u8>,
    /// The others who have signed.
    pub(crate) approved_by: Vec<String>,
    /// The schedule of whose standing order it is a run; none where it was signed itself, or nobody is believed.
    pub(crate) standing_order: Option<String>,
    /// Whether it ends prior runs of that schedule.
    pub(crate) ends_prior: bool,
    /// Each principal who counts, and the key or certificate that signed, in the SSH encoding.
    pub(crate) signatories: Vec<(String, Vec<u8>)>,
}

impl Asker {
    /// Whoever an unsigned document names.
    pub(crate) fn claimed(operator: &str) -> Self {
        let operator = excerpt(operator, log::NAME);
        Self { operator, ..Self::default() }
    }

    /// It is a run of this schedule.
    pub(crate) fn stands(&mut self, name: &str, ends_prior: bool) {
        // In full, though it is long: two names may begin alike. Its characters are those of a name.
        self.standing_order = Some(name.to_owned());
        self.ends_prior = ends_prior;
    }

    /// Whether this is another run of the same principal's schedule.
    pub(crate) fn is_of_schedule(&self, other: &Self) -> bool {
        self.standing_order.is_some()
            && (&self.standing_order, &self.principal) == (&other.standing_order, &other.principal)
    }

    /// What the signatures are for.
    pub(crate) const fn purpose(&self) -> &'static str {
        if self.standing_order.is_some() { sshsig::STANDING } else { sshsig::JOB }
    }

    /// This operator's signature was verified.
    pub(crate) fn has_signed(&mut self, principal: &str, signature: Option<&Signature>) {
        self.principal = Some(excerpt(principal, log::NAME));
        self.signer = signature.map(|signature| signature.blob().to_vec()).unwrap_or_default();
        self.signatories.extend(signature.map(|signature| (principal.to_owned(), signature.blob().to_vec())));
        self.key = signature.map(|signature| signature.signer().plain().fingerprint());
    }

    /// These have signed it, too.
    pub(crate) fn is_approved_by(&mut self, approvals: &[(String, Vec<u8>)]) {
        self.approved_by = approvals.iter().map(|(principal, _)| excerpt(principal, log::NAME)).collect();
        self.signatories.extend_from_slice(approvals);
    }

    /// What an event says about a decision.
    pub(crate) fn decided(&self, accepted: bool, reason: Option<&str>) -> Decision {
        let Self { operator, principal, key, .. } = self.clone();
        Decision { accepted, operator, principal, key, reason: reason.map(str::to_owned) }
    }
}

/// A command's job, its entry of the inbox, how long its results are to be kept, and who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) job: JobId,
    /// What the host's statements name it by: the digest of its manifest's bytes, or [`protocol::statement::unverified`].
    /// Absent in the journals of earlier builds.
    pub(crate) manifest: Option<Digest>,
    /// The stream entry's id.
    pub(crate) entry: String,
    pub(crate) retention: Duration,
    /// None where the command is known from the journal alone.
    pub(crate) asker: Option<Arc<Asker>>,
}

impl Delivery {
    pub(crate) fn new(entry: String, manifest: &Manifest, digest: Digest, asker: Arc<Asker>) -> Self {
        let retention = Duration::from_millis(manifest.retention_ms);
        let retention = retention.clamp(Duration::from_secs(60), limits::RETENTION_MAX);
        Self { job: manifest.job, manifest: Some(digest), entry, retention, asker: Some(asker) }
    }
}

/// An entry of the control stream. As long as it exists it takes room: only so many are handled at a time, and none is
/// read while there is no room.
#[derive(Debug)]
pub(crate) struct ControlEntry {
    /// The stream entry's id.
    pub(crate) id: String,
    _room: OwnedSemaphorePermit,
}

impl ControlEntry {
    pub(crate) fn new(id: String, room: OwnedSemaphorePermit) -> Self {
        Self { id, _room: room }
    }
}
