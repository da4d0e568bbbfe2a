//! Who else has signed a command, and whose signature does not count.

use protocol::{
    approval::{Approvals, Signatories},
    trust::sshsig::{self, Signature},
};

use crate::{
    fault::{self, Bug},
    log::{self, excerpt, with_sources},
    trust::Trusted,
};

/// How many that do not count a message names.
const NAMED: usize = 3;

/// The approvals of one command, each verified like the operator's own signature.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// The principals that count, the operator not among them, and the keys that signed.
    pub(crate) by: Vec<(String, Vec<u8>)>,
    /// Whose approval does not count, and why.
    discounted: Vec<String>,
}

impl Counted {
    /// Verifies approvals of a manifest that its operator has signed.
    pub(super) fn of(
        approvals: &Approvals,
        operator: &str,
        signature: Option<&Signature>,
        manifest: &[u8],
        trusted: &Trusted,
    ) -> Self {
        let mut signatories = Signatories::begin(operator, signature);
        let mut counted = Self::default();
        for approval in &approvals.0 {
            let principal = &approval.principal;
            let verified = trusted.verify(sshsig::JOB, principal, manifest, &approval.signature);
            let blob = |signature: &Signature| signature.blob().to_vec();
            let counts = match verified {
                Err(unsigned) => Err(with_sources(&unsigned)),
                Ok(Some(signature)) if !fault::planted(Bug::NoDistinct) => signatories
                    .admit(principal, &signature)
                    .map(|()| blob(&signature))
                    .map_err(|repeated| repeated.to_string()),
                // A check is switched off.
                Ok(signature) => Ok(signature.as_ref().map(blob).unwrap_or_default()),
            };
            match counts {
                Ok(signer) => counted.by.push((principal.clone(), signer)),
                Err(why) => counted.discounted.push(format!("{}: {why}", excerpt(principal, log::NAME))),
            }
        }
        counted
    }

    /// What a refusal adds about those that do not count: nothing, or `; bob: the key … is revoked`.
    pub(super) fn remark(&self) -> String {
        let named = self.discounted.iter().take(NAMED).map(|discounted| format!("; {discounted}"));
        let more = self.discounted.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("; and {more} more that do not count"));
        named.chain(more).collect()
    }
}
