//! The public keys that are accepted, parsed once.

use base64ct::{Base64, Base64Unpadded, Encoding};
use sha2::{Digest, Sha256};
use signature::Verifier as _;
use ssh_key::public::{EcdsaPublicKey, KeyData};

use super::{key_signature::KeySignature, wire};

/// The types that are accepted, as they are called in files.
pub const ACCEPTED: [&str; 4] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"];

/// Types that OpenSSH knows and that are not accepted: they are too weak, or nobody misses them.
pub(super) const OTHERS: [&str; 4] = ["ssh-rsa", "ssh-dss", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"];

/// What the name of a certificate's type ends with.
pub(super) const CERTIFIED: &str = "-cert-v01@openssh.com";

/// What a point of a curve begins with that has both coordinates (SEC 1).
const UNCOMPRESSED: u8 = 4;

/// A public key of a type that is accepted.
#[derive(Clone, Debug)]
pub struct Key {
    blob: Vec<u8>,
    data: KeyData,
    verifier: Verifier,
    /// What a hardware key signs for, as a digest. It signs that together with the data.
    application: Option<[u8; 32]>,
}

/// The key as the libraries of its curve have it. They are used without the detour over the `ssh-key` library.
#[derive(Clone, Debug)]
enum Verifier {
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
    P256(Box<p256::ecdsa::VerifyingKey>),
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
        let (verifier, application) = match &data {
            KeyData::Ed25519(key) => (Verifier::ed25519(&key.0), None),
            KeyData::SkEd25519(key) => (Verifier::ed25519(&key.public_key().0), Some(key.application())),
            KeyData::Ecdsa(EcdsaPublicKey::NistP256(point)) => (Verifier::p256(point.as_bytes()), None),
            KeyData::SkEcdsaSha2NistP256(key) => (Verifier::p256(key.ec_point().as_bytes()), Some(key.application())),
            _ => return Err(KeyError::Malformed),
        };
        // OpenSSH ends its texts at a NUL.
        if application.is_some_and(|application| application.contains('\0')) {
            return Err(KeyError::Malformed);
        }
        let application = application.map(|application| Sha256::digest(application).into());
        let verifier = verifier.ok_or(KeyError::Malformed)?;
        Ok(Self { blob: blob.to_vec(), data, verifier, application })
    }

    /// Reads a key as files have it: type and base64.
    ///
    /// # Errors
    /// It is none, or of a type that is not accepted, or of another type than its name says.
    pub fn from_words(name: &str, base64: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&blob(name, base64)?)
    }

    /// Its type, as it is called in files.
    pub fn type_name(&self) -> &str {
        wire::text(&mut &self.blob[..]).unwrap_or_default()
    }

    /// The key as files have it: type and base64.
    pub fn words(&self) -> String {
        format!("{} {}", self.type_name(), Base64::encode_string(&self.blob))
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

    /// The key as files have it: type and base64.
    pub fn line(&self) -> String {
        line(&self.blob)
    }

    /// The key for the library, where it is a plain one of type ed25519.
    pub(super) fn ed25519(&self) -> Option<&ed25519_dalek::VerifyingKey> {
        match &self.verifier {
            Verifier::Ed25519(key) if self.application.is_none() => Some(key),
            _ => None,
        }
    }

    /// Whether this key signed `data`; a hardware key, when somebody had touched it.
    pub(super) fn has_signed(&self, data: &[u8], signature: &KeySignature) -> bool {
        if signature.algorithm() != self.type_name() {
            return false;
        }
        match (self.application, signature.trailer()) {
            (None, None) => self.verifier.has_signed(data, signature),
            (Some(application), Some(trailer)) if signature.is_touched() => {
                let data = [&application[..], &trailer, &Sha256::digest(data)].concat();
                self.verifier.has_signed(&data, signature)
            }
            _ => false,
        }
    }
}

impl Verifier {
    fn ed25519(bytes: &[u8; 32]) -> Option<Self> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).ok()?;
        // Anybody can sign with a weak key.
        if key.is_weak() { None } else { Some(Self::Ed25519(Box::new(key))) }
    }

    fn p256(point: &[u8]) -> Option<Self> {
        // A key must have one spelling, and OpenSSH reads no point in a shorter one.
        if point.first() != Some(&UNCOMPRESSED) {
            return None;
        }
        p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok().map(|key| Self::P256(Box::new(key)))
    }

    fn has_signed(&self, data: &[u8], signature: &KeySignature) -> bool {
        match self {
            Self::Ed25519(key) => {
                signature.ed25519().is_some_and(|signature| key.verify_strict(data, &signature).is_ok())
            }
            Self::P256(key) => signature.p256().is_some_and(|signature| key.verify(data, &signature).is_ok()),
        }
    }
}

/// How `ssh-keygen -l` calls a key.
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", Base64Unpadded::encode_string(&Sha256::digest(blob)))
}

/// A key as files have it: type and base64.
pub(super) fn line(blob: &[u8]) -> String {
    let name = wire::text(&mut &blob[..]).unwrap_or_default();
    format!("{name} {}", Base64::encode_string(blob))
}

/// The bytes of a key, whose type is the one that its name says.
pub(super) fn blob(name: &str, base64: &str) -> Result<Vec<u8>, KeyError> {
    let blob = Base64::decode_vec(base64).map_err(|_| KeyError::Malformed)?;
    if wire::text(&mut &blob[..])? == name { Ok(blob) } else { Err(KeyError::Malformed) }
}

/// What comes from others, as far as it may stand in a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).map(printable).collect()
}

fn printable(letter: char) -> char {
    if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }
}
