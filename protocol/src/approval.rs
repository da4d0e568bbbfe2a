//! Approvals: signatures of others over a manifest, where a host's rules ask for more than the operator's own.
//!
//! An approval is a signature over exactly the manifest's bytes, for the same purpose as the operator's. On its way to
//! a host it travels beside the manifest, in a job's hash it is a field of its own: two who approve at once lose
//! nothing.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    limits,
    signed::{self, DocumentError, Fields},
    trust::sshsig::{self, Signature},
};

/// The field of a stream entry that holds approvals.
const FIELD: &str = "approvals";

/// What the name of a field begins with that holds an approval in a job's hash. The principal follows.
const KEPT: &str = "approval:";

/// Somebody's signature over a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who approves. Only a trust file can tell whether the key speaks for this principal.
    pub principal: String,
    /// A binary SSHSIG.
    #[serde(with = "serde_bytes")]
    pub signature: Vec<u8>,
}

impl Approval {
    /// The field of the job's hash that keeps it.
    pub fn field(&self) -> String {
        format!("{KEPT}{}", self.principal)
    }
}

/// The approvals of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approvals(pub Vec<Approval>);

impl Approvals {
    /// The field and value to add to a stream entry.
    pub fn entry_field(&self) -> Option<(&'static str, Vec<u8>)> {
        (!self.0.is_empty()).then(|| (FIELD, signed::encode(&self.0)))
    }

    /// Takes the approvals out of a stream entry, which may have none. No signature is verified.
    ///
    /// # Errors
    /// They are too large, too many, or malformed.
    pub fn take(fields: &mut Fields) -> Result<Self, DocumentError> {
        let bytes = match signed::take(fields, FIELD, limits::APPROVALS_BYTES) {
            Err(DocumentError::Missing(_)) => return Ok(Self::default()),
            bytes => bytes?,
        };
        let approvals: Vec<Approval> = signed::decode(FIELD, &bytes, limits::APPROVALS_BYTES)?;
        if approvals.len() > limits::APPROVALS {
            return Err(DocumentError::TooMany(FIELD, approvals.len()));
        }
        Ok(Self(approvals))
    }

    /// Takes the approvals out of a job's hash. Those that do not belong to this manifest, or that repeat a principal
    /// or key, are left out: they would count at no host.
    pub(crate) fn take_kept(fields: &mut Fields, operator: &str, manifest: &[u8], signature: &[u8]) -> Self {
        let kept = fields.extract_if(|name, _| name.starts_with(KEPT));
        let kept = kept.filter(|(_, signature)| signature.len() <= limits::SIGNATURE_BYTES);
        let kept = kept.map(|(name, signature)| Approval { principal: name[KEPT.len()..].to_owned(), signature });
        let mut kept: Vec<_> = kept.collect();
        kept.sort_by(|one, other| one.principal.cmp(&other.principal));

        let requester = Signature::from_bytes(signature).ok();
        let mut signatories = Signatories::begin(operator, requester.as_ref());
        kept.retain(|approval| {
            let signature = Signature::from_bytes(&approval.signature);
            let signature = signature.ok().filter(|signature| signature.verify(sshsig::JOB, manifest).is_ok());
            signature.is_some_and(|signature| signatories.admit(&approval.principal, &signature).is_ok())
        });
        kept.truncate(limits::APPROVALS);
        Self(kept)
    }
}

/// Those whose signatures over one manifest count: each principal once, and each key once.
#[derive(Debug)]
pub struct Signatories {
    principals: BTreeSet<String>,
    /// The plain keys, under a certificate too.
    keys: BTreeSet<Vec<u8>>,
}

/// Why a signature does not count besides those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Repeated {
    /// The principal has signed already.
    #[error("this principal has already signed")]
    Principal,
    /// The key has signed already, for another principal.
    #[error("the key has signed already under another name, and counts once")]
    Key,
}

impl Signatories {
    /// Only the one who asks has signed.
    pub fn begin(requester: &str, signature: Option<&Signature>) -> Self {
        let keys = signature.map(key).into_iter().collect();
        Self { principals: BTreeSet::from([requester.to_owned()]), keys }
    }

    /// Counts one more.
    ///
    /// # Errors
    /// It does not count.
    pub fn admit(&mut self, principal: &str, signature: &Signature) -> Result<(), Repeated> {
        if self.principals.contains(principal) {
            return Err(Repeated::Principal);
        }
        if !self.keys.insert(key(signature)) {
            return Err(Repeated::Key);
        }
        self.principals.insert(principal.to_owned());
        Ok(())
    }
}

fn key(signature: &Signature) -> Vec<u8> {
    signature.signer().plain().blob().to_vec()
}

#[cfg(test)]
mod tests {
    use ssh_key::{PrivateKey, private::Ed25519Keypair};

    use super::*;

    fn sign(seed: u8, document: &[u8]) -> Vec<u8> {
        let key = PrivateKey::new(Ed25519Keypair::from_seed(&[seed; 32]).into(), "").unwrap();
        sshsig::sign(&key, sshsig::JOB, document).unwrap().to_bytes()
    }

    fn approval(principal: &str, seed: u8) -> Approval {
        Approval { principal: principal.into(), signature: sign(seed, b"manifest") }
    }

    #[test]
    fn approvals_travel_within_their_bounds() {
        let taken = |approvals: &[Approval]| {
            let field = Approvals(approvals.to_vec()).entry_field();
            Approvals::take(&mut field.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
        };
        let some = [approval("bob", 2), approval("carol", 3)];
        assert_eq!(taken(&some).unwrap(), Approvals(some.to_vec()));
        assert_eq!(taken(&[]).unwrap(), Approvals::default());
        let bob = || Approval { principal: "bob".into(), signature: vec![7] };
        let many: Vec<_> = std::iter::repeat_with(bob).take(limits::APPROVALS + 1).collect();
        assert!(matches!(taken(&many), Err(DocumentError::TooMany(FIELD, 16))));
        assert!(taken(&many[1..]).is_ok());
        let large = Approval { signature: vec![0; limits::APPROVALS_BYTES], ..bob() };
        assert!(matches!(taken(&[large]), Err(DocumentError::Oversize(..))));
    }

    #[test]
    fn of_a_hash_only_those_are_read_that_can_count() {
        let kept = [
            approval("ann", 4),   // asks herself
            approval("annie", 1), // has ann's key
            approval("bob", 2),
            approval("robert", 2),
            Approval { principal: "carol".into(), signature: sign(3, b"another manifest") },
            Approval { principal: "dave".into(), signature: b"none".to_vec() },
        ];
        let mut fields: Fields = kept.into_iter().map(|approval| (approval.field(), approval.signature)).collect();
        fields.insert("action".into(), b"ping".to_vec());
        let read = Approvals::take_kept(&mut fields, "ann", b"manifest", &sign(1, b"manifest"));
        assert_eq!(read, Approvals(vec![approval("bob", 2)]));
        assert_eq!(fields.len(), 1);
    }

    #[test]
    fn a_principal_and_a_key_count_once() {
        let signature = |seed| Signature::from_bytes(&sign(seed, b"manifest")).unwrap();
        let mut signatories = Signatories::begin("ann", Some(&signature(1)));
        assert_eq!(signatories.admit("ann", &signature(9)), Err(Repeated::Principal));
        assert_eq!(signatories.admit("annie", &signature(1)), Err(Repeated::Key));
        assert_eq!(signatories.admit("bob", &signature(2)), Ok(()));
        assert_eq!(signatories.admit("bob", &signature(3)), Err(Repeated::Principal));
        // What did not count leaves no trace.
        assert_eq!(signatories.admit("carol", &signature(3)), Ok(()));
    }
}
