//! Secret arguments. Their values travel to the hosts and are kept nowhere.
//!
//! The manifest, which is kept in the job's hash, has only a digest of each: SHA-256 over a nonce and the
//! value. The nonce travels with the value, so a short secret cannot be found by trying. A signature over
//! the manifest covers the secrets through their digests.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;
use serde_bytes::{ByteArray, ByteBuf};
use sha2::Sha256;

use crate::{
    action::{Argument, Arguments},
    limits,
    signed::{self, DocumentError, Fields},
};

/// A SHA-256 digest.
pub type Digest = ByteArray<32>;

/// The SHA-256 digest of some bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::new(<Sha256 as sha2::Digest>::digest(bytes).into())
}

/// The field of a stream entry that holds secrets.
const FIELD: &str = "secrets";

/// Bytes of a nonce.
const NONCE: usize = 32;

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

/// Secret arguments on their way to a host, by parameter name: each the nonce and the encoded value.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, ByteBuf>);

/// Why secrets do not belong to a manifest.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The manifest has a digest without a value.
    #[error("the value of the secret argument '{0}' is missing")]
    Missing(String),
    /// The value does not match its digest.
    #[error("the secret argument '{0}' is not the one that was asked for")]
    Changed(String),
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

impl Secrets {
    /// Seals `arguments` with fresh nonces.
    ///
    /// # Panics
    /// The system has no random numbers.
    pub fn seal(arguments: &Arguments) -> Self {
        let seal = |argument: &Argument| {
            let mut bytes = vec![0; NONCE];
            getrandom::fill(&mut bytes).expect("the system has random numbers");
            bytes.extend(signed::encode(argument));
            ByteBuf::from(bytes)
        };
        Self(arguments.iter().map(|(name, argument)| (name.clone(), seal(argument))).collect())
    }

    /// Their digests, as the manifest carries them.
    pub fn digests(&self) -> BTreeMap<String, Digest> {
        self.0.iter().map(|(name, bytes)| (name.clone(), digest(bytes))).collect()
    }

    /// Whether there are no secrets.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes that they add to a stream entry; at most [`limits::SECRETS_BYTES`] are read.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, bytes)| name.len() + bytes.len() + 16).sum()
    }

    /// The field and value to add to a stream entry.
    pub fn field(&self) -> Option<(&'static str, Vec<u8>)> {
        (!self.is_empty()).then(|| (FIELD, signed::encode(&self.0)))
    }

    /// Takes the secrets out of a stream entry, which may have none.
    ///
    /// # Errors
    /// The secrets are too large or malformed.
    pub fn take(fields: &mut Fields) -> Result<Self, SecretError> {
        match signed::take(fields, FIELD, limits::SECRETS_BYTES) {
            Err(DocumentError::Missing(_)) => Ok(Self::default()),
            bytes => Ok(Self(signed::decode(FIELD, &bytes?, limits::SECRETS_BYTES)?)),
        }
    }

    /// The values that belong to these digests. Values without a digest are left out.
    ///
    /// # Errors
    /// A value is missing or does not match its digest.
    pub fn open(&self, digests: &BTreeMap<String, Digest>) -> Result<Arguments, SecretError> {
        let open = |(name, wanted): (&String, &Digest)| {
            let bytes = self.0.get(name).ok_or_else(|| SecretError::Missing(name.clone()))?;
            if digest(bytes) != *wanted || bytes.len() < NONCE {
                return Err(SecretError::Changed(name.clone()));
            }
            Ok((name.clone(), signed::decode(FIELD, &bytes[NONCE..], limits::SECRETS_BYTES)?))
        };
        digests.iter().map(open).collect()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> Arguments {
        Arguments::from([("token".into(), Argument::Text("hunter2".into()))])
    }

    #[test]
    fn secrets_read_back_and_are_never_shown() {
        let secrets = Secrets::seal(&arguments());
        assert!(!format!("{secrets:?}").contains("hunter2"));
        let mut fields = Fields::from_iter(secrets.field().map(|(name, value)| (name.to_owned(), value)));
        let taken = Secrets::take(&mut fields).unwrap();
        assert_eq!(taken.open(&secrets.digests()).unwrap(), arguments());
        assert!(Secrets::take(&mut fields).unwrap().is_empty());
        assert!(!format!("{:?}", Secret("hunter2".into())).contains("hunter2"));
    }

    /// The bytes of wire version 1, frozen: every later version must read them.
    #[test]
    fn wire_1_fixture_is_read() {
        let bytes = include_bytes!("../fixtures/secrets-v1.msgpack").to_vec();
        let secrets = Secrets::take(&mut Fields::from([(FIELD.to_owned(), bytes)])).unwrap();
        assert_eq!(secrets.open(&secrets.digests()).unwrap(), arguments());
    }

    #[test]
    fn the_digest_hides_the_value_and_binds_it() {
        let (one, other) = (Secrets::seal(&arguments()), Secrets::seal(&arguments()));
        assert_ne!(one.digests(), other.digests(), "equal secrets must not be seen to be equal");
        assert!(matches!(one.open(&other.digests()), Err(SecretError::Changed(name)) if name == "token"));
        assert!(matches!(Secrets::default().open(&one.digests()), Err(SecretError::Missing(_))));
        let short = Secrets(BTreeMap::from([("token".into(), ByteBuf::from(vec![1]))]));
        assert!(short.open(&short.digests()).is_err());
    }
}
