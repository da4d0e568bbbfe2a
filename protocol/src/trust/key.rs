//! The public keys that are accepted, parsed once.

use base64ct::{Base64, Base64Unpadded, Encoding};
use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};
use ssh_key::public::KeyData;

use super::wire;

/// The types that are accepted, as they are called in files.
pub const ACCEPTED: [&str; 4] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"];

/// Types that OpenSSH knows and that are not accepted: they are too weak, or nobody misses them.
pub(super) const OTHERS: [&str; 4] = ["ssh-rsa", "ssh-dss", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"];

/// What the name of a certificate's type ends with.
pub(super) const CERTIFIED: &str = "-cert-v01@openssh.com";

/// The flag of a hardware key that somebody touched it (PROTOCOL.u2f).
const PRESENT: u8 = 1;

/// A public key of a type that is accepted.
#[derive(Clone, Debug)]
pub struct Key {
    blob: Vec<u8>,
    data: KeyData,
    /// Nearly all keys are of this type: the library without detours.
    ed25519: Option<VerifyingKey>,
}

/// Why a key cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no key.
    #[error("the key is malformed")]
    Malformed,
    /// It is of a type that is not accepted.
    #[error("a key of type {0} is not accepted; use ed25519, ecdsa-p256 or a hardware key of these types")]
    Algorithm(String),
}

impl From<wire::Malformed> for KeyError {
    fn from(_: wire::Malformed) -> Self {
        Self::Malformed
    }
}

impl Key {
    /// Reads a key in the SSH encoding.
    ///
    /// # Errors
    /// It is none, or of a type that is not accepted.
    pub fn from_bytes(blob: &[u8]) -> Result<Self, KeyError> {
        let name = wire::text(&mut &blob[..])?;
        if !ACCEPTED.contains(&name) {
            return Err(KeyError::Algorithm(shown(name)));
        }
        let key = ssh_key::PublicKey::from_bytes(blob).map_err(|_| KeyError::Malformed)?;
        // The library is lenient; a key must have one spelling, as trust files are searched for it.
        if key.to_bytes().ok().as_deref() != Some(blob) {
            return Err(KeyError::Malformed);
        }
        let data = KeyData::from(key);
        let ed25519 = match &data {
            KeyData::Ed25519(key) => {
                let key = VerifyingKey::from_bytes(&key.0).map_err(|_| KeyError::Malformed)?;
                // Anybody can sign with a weak key.
                if key.is_weak() {
                    return Err(KeyError::Malformed);
                }
                Some(key)
            }
            _ => None,
        };
        Ok(Self { blob: blob.to_vec(), data, ed25519 })
    }

    /// Reads a key as files have it: type and base64.
    ///
    /// # Errors
    /// It is none, or of a type that is not accepted, or of another type than its name says.
    pub fn from_words(name: &str, base64: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&blob(name, base64)?)
    }

    /// The key in the SSH encoding.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The key as the library has it.
    pub const fn data(&self) -> &KeyData {
        &self.data
    }

    /// How `ssh-keygen -l` calls the key.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.blob)
    }

    /// Whether this key signed `data`.
    pub(super) fn has_signed(&self, data: &[u8], signature: &ssh_key::Signature) -> bool {
        if signature.algorithm() != self.data.algorithm() {
            return false;
        }
        if let Some(key) = &self.ed25519 {
            let signature = ed25519_dalek::Signature::from_slice(signature.as_bytes());
            return signature.and_then(|signature| key.verify_strict(data, &signature)).is_ok();
        }
        // A hardware key says in its flags whether somebody touched it. Four bytes of a counter follow them.
        let is_hardware = matches!(self.data, KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_));
        let flags = signature.as_bytes().iter().rev().nth(4).copied().unwrap_or(0);
        if is_hardware && flags & PRESENT == 0 {
            return false;
        }
        signature::Verifier::verify(&self.data, data, signature).is_ok()
    }
}

/// How `ssh-keygen -l` calls a key.
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", Base64Unpadded::encode_string(&Sha256::digest(blob)))
}

/// The bytes of a key, whose type is the one that its name says.
pub(super) fn blob(name: &str, base64: &str) -> Result<Vec<u8>, KeyError> {
    let blob = Base64::decode_vec(base64).map_err(|_| KeyError::Malformed)?;
    if wire::text(&mut &blob[..])? == name { Ok(blob) } else { Err(KeyError::Malformed) }
}

/// Reads a signature in the SSH encoding, which must have one spelling.
pub(super) fn signature(bytes: &[u8]) -> Result<ssh_key::Signature, wire::Malformed> {
    let signature = ssh_key::Signature::try_from(bytes).map_err(|_| wire::Malformed)?;
    let spelt = Vec::<u8>::try_from(signature.clone()).map_err(|_| wire::Malformed)?;
    if spelt == bytes { Ok(signature) } else { Err(wire::Malformed) }
}

/// What comes from others, as far as it may stand in a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).map(printable).collect()
}

fn printable(letter: char) -> char {
    if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }
}
