//! Secret arguments. Redis never has them in clear.
//!
//! Each job with secrets has a key of its own. The manifest carries the secrets encrypted under it, so the operator's
//! signature covers them. The key travels beside the manifest, sealed to each host: see [`crate::sealing`].

use std::{collections::BTreeSet, fmt};

use crypto_secretbox::{KeyInit, XSalsa20Poly1305, aead::Aead};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    action::Arguments,
    limits,
    name::JobId,
    signed::{self, DocumentError},
    unique::unique,
};

/// A SHA-256 digest.
pub type Digest = ByteArray<32>;

/// The SHA-256 digest of some bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::new(<Sha256 as sha2::Digest>::digest(bytes).into())
}

/// What decoders call the secrets.
const FIELD: &str = "sealed";

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

/// The key under which the secrets of one job are encrypted. It is not shown.
pub struct JobKey(Zeroizing<[u8; 32]>);

impl JobKey {
    /// A new key.
    ///
    /// # Panics
    /// The system has no random numbers.
    pub fn generate() -> Self {
        Self(Zeroizing::new(random()))
    }

    /// A key that was unsealed.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes, to be sealed.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn cipher(&self) -> XSalsa20Poly1305 {
        XSalsa20Poly1305::new(self.expose().into())
    }
}

impl fmt::Debug for JobKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JobKey(***)")
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// The secret arguments of a job, encrypted: XSalsa20-Poly1305, the `secretbox` of `NaCl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The names of their parameters, which anybody may see.
    pub names: BTreeSet<String>,
    nonce: ByteArray<24>,
    bytes: ByteBuf,
}

/// What is encrypted.
#[derive(Serialize, Deserialize)]
struct Content {
    job: JobId,
    #[serde(deserialize_with = "unique")]
    arguments: Arguments,
}

/// Why secrets cannot be used. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The job's key did not come with the manifest.
    #[error("the key of its secret arguments is missing")]
    MissingKey,
    /// The job's key is not sealed to this host, or was altered.
    #[error("the key of its secret arguments is not sealed to this host's sealing key, or was altered; send it anew")]
    ForeignKey,
    /// The job's key belongs to another manifest.
    #[error("the key of its secret arguments belongs to another command")]
    MisplacedKey,
    /// The field with the job's key is larger than its limit.
    #[error("the key of its secret arguments has {0} bytes")]
    OversizeKey(usize),
    /// The secrets are not encrypted under this key.
    #[error("the secret arguments do not open with their key")]
    Locked,
    /// The secrets are those of another job.
    #[error("the secret arguments belong to another job")]
    Foreign,
    /// The secrets have other names than the manifest says.
    #[error("the secret arguments are not those that the manifest names")]
    Misnamed,
    /// The secrets are larger than their limit.
    #[error("the secret arguments have {0} bytes")]
    Oversize(usize),
    /// The secrets cannot be decoded. The decoder's message may quote a secret, so it is dropped.
    #[error("the secret arguments are malformed")]
    Malformed,
}

impl From<DocumentError> for SecretError {
    fn from(error: DocumentError) -> Self {
        if let DocumentError::Oversize(_, bytes) = error { Self::Oversize(bytes) } else { Self::Malformed }
    }
}

impl Sealed {
    /// Encrypts secret arguments of a job.
    ///
    /// # Errors
    /// They are larger than [`limits::SECRETS_BYTES`].
    ///
    /// # Panics
    /// The system has no random numbers.
    pub fn seal(job: JobId, arguments: Arguments, key: &JobKey) -> Result<Self, SecretError> {
        let names = arguments.keys().cloned().collect();
        let content = Zeroizing::new(signed::encode(&Content { job, arguments }));
        if content.len() > limits::SECRETS_BYTES {
            return Err(SecretError::Oversize(content.len()));
        }
        let nonce = random();
        let bytes = key.cipher().encrypt(&nonce.into(), content.as_slice()).expect("so few bytes can be encrypted");
        Ok(Self { names, nonce: ByteArray::new(nonce), bytes: ByteBuf::from(bytes) })
    }

    /// The secret arguments, which must be those of `job`.
    ///
    /// # Errors
    /// They do not open with this key, or are not what the manifest says.
    pub fn open(&self, job: JobId, key: &JobKey) -> Result<Arguments, SecretError> {
        let content = key.cipher().decrypt(&(*self.nonce).into(), self.bytes.as_slice());
        let content = Zeroizing::new(content.map_err(|_| SecretError::Locked)?);
        let content: Content = signed::decode(FIELD, &content, limits::SECRETS_BYTES)?;
        if content.job != job {
            return Err(SecretError::Foreign);
        }
        if content.arguments.keys().eq(&self.names) { Ok(content.arguments) } else { Err(SecretError::Misnamed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Argument;

    fn arguments() -> Arguments {
        Arguments::from([("token".into(), Argument::Text("hunter2".into()))])
    }

    #[test]
    fn secrets_read_back_with_their_key_and_are_never_shown() {
        let (job, key) = (JobId::new(), JobKey::generate());
        let sealed = Sealed::seal(job, arguments(), &key).unwrap();
        assert_eq!(sealed.open(job, &key).unwrap(), arguments());
        let bytes = signed::encode(&sealed);
        assert!(!bytes.windows(7).any(|part| part == b"hunter2"));
        let shown = format!("{:?} {sealed:?} {key:?}", Secret("hunter2".into()));
        assert!(!shown.contains("hunter2") && shown.contains("JobKey(***)"), "{shown}");
    }

    #[test]
    fn equal_secrets_are_not_seen_to_be_equal() {
        let (job, key) = (JobId::new(), JobKey::generate());
        let [one, other] = [(); 2].map(|()| Sealed::seal(job, arguments(), &key).unwrap());
        assert_ne!(one.bytes, other.bytes);
    }

    #[test]
    fn what_is_not_the_jobs_own_does_not_open() {
        let (job, key) = (JobId::new(), JobKey::generate());
        let sealed = Sealed::seal(job, arguments(), &key).unwrap();
        let error = |sealed: &Sealed, job, key: &JobKey| sealed.open(job, key).unwrap_err();
        assert!(matches!(error(&sealed, job, &JobKey::generate()), SecretError::Locked));
        assert!(matches!(error(&sealed, JobId::new(), &key), SecretError::Foreign));
        let misnamed = Sealed { names: ["argv".to_owned()].into(), ..sealed.clone() };
        assert!(matches!(error(&misnamed, job, &key), SecretError::Misnamed));
        for at in 0..sealed.bytes.len() {
            let mut altered = sealed.clone();
            altered.bytes[at] ^= 1;
            assert!(matches!(error(&altered, job, &key), SecretError::Locked));
        }
        let short = Sealed { bytes: ByteBuf::new(), ..sealed };
        assert!(matches!(error(&short, job, &key), SecretError::Locked));
    }

    #[test]
    fn secrets_are_bounded() {
        let large = Arguments::from([("token".into(), Argument::Text("x".repeat(limits::SECRETS_BYTES)))]);
        let refused = Sealed::seal(JobId::new(), large, &JobKey::generate());
        assert!(matches!(refused, Err(SecretError::Oversize(_))));
    }
}
