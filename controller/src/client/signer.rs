//! The operator's key: signs jobs, orders to cancel and approvals.
//!
//! Nothing is asked here. A key that needs a passphrase is opened by the caller.

use std::fmt::{self, Debug, Formatter};

use protocol::trust::{
    certificate::Certificate,
    sshsig::{self, SignatureError},
};
use ssh_key::{Fingerprint, HashAlg, PrivateKey, PublicKey};

/// A key that can sign.
#[derive(Clone)]
pub struct Signer {
    public: PublicKey,
    /// Signatures carry it instead of the bare key.
    certificate: Option<Box<Certificate>>,
    key: Box<PrivateKey>,
}

/// Why nothing was signed. The text of each error is complete without its source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// The private key must be decrypted first.
    #[error("the key {0} is encrypted")]
    Encrypted(Fingerprint),
    /// The certificate is for another key.
    #[error("the certificate is not for the key {0}")]
    Certificate(Fingerprint),
    /// Keys of this type are not accepted.
    #[error("cannot sign with a key of type {0}; use ed25519, ecdsa-p256 or a hardware key of these types")]
    Algorithm(String),
    /// The key refused.
    #[error("cannot sign: {0}")]
    Signature(#[source] SignatureError),
}

impl Signer {
    /// Signs with a private key that is at hand.
    ///
    /// # Errors
    /// The key is encrypted.
    pub fn from_private(key: PrivateKey) -> Result<Self, SignerError> {
        let public = key.public_key().clone();
        if key.is_encrypted() {
            return Err(SignerError::Encrypted(public.fingerprint(HashAlg::Sha256)));
        }
        Ok(Self { public, certificate: None, key: Box::new(key) })
    }

    /// Signs with a certificate for the key, so that hosts need to trust only the authority that issued it.
    ///
    /// # Errors
    /// It is for another key.
    pub fn certified(mut self, certificate: Certificate) -> Result<Self, SignerError> {
        if certificate.key().data() != self.public.key_data() {
            return Err(SignerError::Certificate(self.fingerprint()));
        }
        self.certificate = Some(Box::new(certificate));
        Ok(self)
    }

    /// The public key.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// What signatures carry instead of the bare key.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }

    /// The key's fingerprint, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.public.fingerprint(HashAlg::Sha256)
    }

    /// Signs the document for a purpose: a binary SSHSIG. A hardware key may wait until somebody touches it.
    ///
    /// # Errors
    /// The key refuses, or is of a type that is not accepted.
    #[expect(clippy::unused_async, reason = "keys in an agent answer later")]
    pub async fn sign(&self, namespace: &str, document: &[u8]) -> Result<Vec<u8>, SignerError> {
        let signature = sshsig::sign(&self.key, namespace, document).map_err(SignerError::from)?;
        let signature = match &self.certificate {
            Some(certificate) => signature.certified(certificate)?,
            None => signature,
        };
        Ok(signature.to_bytes())
    }
}

/// Shows the key by its fingerprint only.
impl Debug for Signer {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Signer").field(&self.fingerprint().to_string()).finish()
    }
}

impl From<SignatureError> for SignerError {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::Algorithm(name) => Self::Algorithm(name),
            other => Self::Signature(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::trust::sshsig::{JOB, Signature};
    use ssh_key::private::Ed25519Keypair;

    use super::*;

    #[tokio::test]
    async fn what_it_signs_verifies_and_its_secret_is_not_shown() {
        let key = PrivateKey::new(Ed25519Keypair::from_seed(&[7; 32]).into(), "ann@desk").unwrap();
        let signer = Signer::from_private(key).unwrap();
        let signature = Signature::from_bytes(&signer.sign(JOB, b"document").await.unwrap()).unwrap();
        signature.verify(JOB, b"document").unwrap();
        assert_eq!(signature.signer().key(), signer.public().key_data());
        assert_eq!(format!("{signer:?}"), format!("Signer(\"{}\")", signer.fingerprint()));
    }
}
