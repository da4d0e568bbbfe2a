//! Private ed25519 keys that are at hand: parsed once, they sign in microseconds.

use std::fmt::{self, Debug, Formatter};

use ed25519_dalek::SigningKey as Secret;
use ssh_key::{
    LineEnding, PrivateKey,
    private::{Ed25519Keypair, KeypairData},
};

use super::{
    key::{self, Key},
    sshsig, wire,
};

/// The name of the only type.
const TYPE: &str = "ssh-ed25519";

/// A key of a host. It cannot be copied, and is not shown.
pub struct SigningKey {
    secret: Secret,
    /// Its public half in the SSH encoding.
    blob: Vec<u8>,
}

/// Why a file holds no such key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// It is no private key.
    #[error("it holds no private key in OpenSSH's format")]
    Malformed,
    /// The key is encrypted, and nobody is there to be asked.
    #[error("its key needs a passphrase; use a key without one")]
    Encrypted,
    /// The key is of another type.
    #[error("its key is of type {0}; use one of type ssh-ed25519")]
    Algorithm(String),
}

impl SigningKey {
    /// A new key.
    ///
    /// # Panics
    /// The system has no random numbers.
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the system has random numbers");
        Self::from_seed(&seed)
    }

    fn from_seed(seed: &[u8; 32]) -> Self {
        let secret = Secret::from_bytes(seed);
        let mut blob = Vec::new();
        wire::push(&mut blob, TYPE.as_bytes());
        wire::push(&mut blob, secret.verifying_key().as_bytes());
        Self { secret, blob }
    }

    /// Reads the file that `ssh-keygen -t ed25519` makes.
    ///
    /// # Errors
    /// There is no such key in it, or it cannot be used.
    pub fn from_openssh(text: &[u8]) -> Result<Self, SigningKeyError> {
        let key = PrivateKey::from_openssh(text).map_err(|_| SigningKeyError::Malformed)?;
        match key.key_data() {
            KeypairData::Ed25519(pair) => Ok(Self::from_seed(&pair.private.to_bytes())),
            KeypairData::Encrypted(_) => Err(SigningKeyError::Encrypted),
            _ => Err(SigningKeyError::Algorithm(key.algorithm().to_string())),
        }
    }

    /// The file that [`Self::from_openssh`] reads.
    ///
    /// # Panics
    /// Never: every such key has such a file.
    pub fn to_openssh(&self, comment: &str) -> String {
        let pair = Ed25519Keypair::from_seed(self.secret.as_bytes());
        let key = PrivateKey::new(pair.into(), comment).expect("a pair of keys");
        key.to_openssh(LineEnding::LF).expect("a plain key").to_string()
    }

    /// The public half, as files have it: type and base64.
    pub fn line(&self) -> String {
        key::line(&self.blob)
    }

    /// How `ssh-keygen -l` calls the key.
    pub fn fingerprint(&self) -> String {
        key::fingerprint(&self.blob)
    }

    /// The public half.
    ///
    /// # Panics
    /// Never: the half of such a key is one.
    pub fn public(&self) -> Key {
        Key::from_bytes(&self.blob).expect("a key of a type that is accepted")
    }

    /// Signs a document for a purpose: a binary SSHSIG.
    pub fn sign(&self, namespace: &str, document: &[u8]) -> Vec<u8> {
        let data = sshsig::signed_data(namespace, document);
        let bytes = signature::Signer::sign(&self.secret, &data).to_bytes();
        let mut signature = Vec::new();
        wire::push(&mut signature, TYPE.as_bytes());
        wire::push(&mut signature, &bytes);
        sshsig::envelope(&self.blob, namespace, "sha512", &signature)
    }
}

/// Shows the key by its fingerprint only.
impl Debug for SigningKey {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("SigningKey").field(&self.fingerprint()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::sshsig::{HOST, Signature};

    #[test]
    fn it_signs_as_the_library_does() {
        let key = SigningKey::from_seed(&[7; 32]);
        let pair = Ed25519Keypair::from_seed(&[7; 32]);
        let library = PrivateKey::new(pair.into(), "").unwrap();
        let signature = key.sign(HOST, b"document");
        assert_eq!(signature, sshsig::sign(&library, HOST, b"document").unwrap().to_bytes());
        Signature::from_bytes(&signature).unwrap().verify(HOST, b"document").unwrap();
        assert_eq!(key.line(), library.public_key().to_openssh().unwrap());
        assert_eq!(key.public().fingerprint(), key.fingerprint());
    }

    #[test]
    fn it_reads_back_from_its_file_and_is_not_shown() {
        let key = SigningKey::generate();
        let read = SigningKey::from_openssh(key.to_openssh("web1").as_bytes()).unwrap();
        assert_eq!((read.line(), read.sign(HOST, b"x")), (key.line(), key.sign(HOST, b"x")));
        assert_ne!(key.line(), SigningKey::generate().line());
        assert_eq!(format!("{key:?}"), format!("SigningKey(\"{}\")", key.fingerprint()));
        assert_eq!(SigningKey::from_openssh(b"").unwrap_err(), SigningKeyError::Malformed);
        assert_eq!(SigningKey::from_openssh(key.line().as_bytes()).unwrap_err(), SigningKeyError::Malformed);
    }
}
