//! A proposal, and whether somebody may approve it. Only the hosts decide whether the signatures suffice: what is checked
//! here spares a refusal.

use std::fmt;

use protocol::{
    approval::{Repeated, Signatories},
    job::JobRecord,
    signed::Signed,
    trust::sshsig::{self, Signature, SignatureError},
};

/// How far a proposal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// How many have signed it, the operator included.
    pub signed: usize,
    /// How many must.
    pub needed: usize,
}

impl fmt::Display for Proposal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of {}", self.signed, self.needed)
    }
}

/// Why a job cannot be proposed or approved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposalError {
    /// It is no proposal, or none any more.
    #[error("it waits for no approval: it was sent, or withdrawn")]
    Over,
    /// It must not start any more.
    #[error("it is too late: its start-by has passed")]
    Late,
    /// The operator signs once.
    #[error("you asked for it yourself ({0}): somebody else must approve it")]
    Own(String),
    /// Nobody signs twice.
    #[error("{0} has approved it already")]
    Twice(String),
    /// A key counts once, whatever its owner is called.
    #[error("your key has signed it already, under another name: a key counts once")]
    SameKey,
    /// The signature of the operator does not hold, so that no host would take it.
    #[error("no host would take it: {0}")]
    Unsigned(#[source] SignatureError),
    /// Its id is another job's.
    #[error("no host would take it: its id is not one that its operator can give it")]
    Id,
    /// Another one has taken its place.
    #[error(
        "its record was replaced while it was approved: what it says now is not what you have signed, and was not sent"
    )]
    Replaced,
    /// It says more than this release can show.
    #[error("it holds something that this release of ctl does not know, and cannot show: approve it with a newer one")]
    Unknown,
}

/// Whether the manifest is sound, and whether this principal's signature would count besides those that are there.
pub(super) fn check(record: &JobRecord, principal: &str, signature: Option<&Signature>) -> Result<(), ProposalError> {
    let manifest = &record.manifest;
    let requester = Signature::from_bytes(&record.signed.signature).map_err(ProposalError::Unsigned)?;
    requester.verify(sshsig::JOB, &record.signed.bytes).map_err(ProposalError::Unsigned)?;
    if !manifest.has_its_own_id() {
        return Err(ProposalError::Id);
    }
    // What is shown is what was decoded: bytes that say more would be signed unseen.
    if Signed::unsigned(manifest).bytes != record.signed.bytes {
        return Err(ProposalError::Unknown);
    }
    if principal == manifest.operator {
        return Err(ProposalError::Own(principal.to_owned()));
    }
    let mut signatories = Signatories::begin(&manifest.operator, Some(&requester));
    for approval in &record.approvals.0 {
        if approval.principal == principal {
            return Err(ProposalError::Twice(principal.to_owned()));
        }
        if let Ok(signature) = Signature::from_bytes(&approval.signature) {
            // Those that are read from a hash all count.
            let _ = signatories.admit(&approval.principal, &signature);
        }
    }
    match signature.map(|signature| signatories.admit(principal, signature)) {
        Some(Err(Repeated::Key)) => Err(ProposalError::SameKey),
        Some(Err(Repeated::Principal)) => Err(ProposalError::Twice(principal.to_owned())),
        Some(Ok(())) | None => Ok(()),
    }
}
