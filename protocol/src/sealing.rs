//! The sealing key of a host: what is sealed to it, only that host can open.
//!
//! A worker publishes the public half with its facts, in the field `sealing_key`: the [`SealingKey`] (`MessagePack` with
//! named fields), a blank, and an SSHSIG by the host's key over exactly these bytes, in the namespace `redfleet-host@v1`;
//! both in base64.
//!
//! A command with secrets has one more field in its stream entry: `key`, the job's key as a sealed box of `NaCl`. In it
//! is the key and the SHA-256 digest of the manifest's bytes, so it opens the secrets of that manifest and of no other.

use std::fmt;

use base64ct::{Base64, Encoding};
use crypto_box::{PublicKey, SecretKey, aead::OsRng};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;
use zeroize::Zeroizing;

use crate::{
    limits,
    name::{HostName, Namespace},
    secret::{Digest, JobKey, SecretError},
    signed::{self, Document, DocumentError, Fields, Signed},
};

/// The field of a stream entry that holds the job's key.
const FIELD: &str = "key";

/// The first word of a file with the private half.
const TYPE: &str = "x25519";

/// The public half of a host's sealing key, as the host publishes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingKey {
    /// The fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// The host.
    pub host: HostName,
    /// X25519.
    #[serde(rename = "sealing_key")]
    key: ByteArray<32>,
}

impl Document for SealingKey {
    const FIELD: &'static str = "sealing_key";
    const MAX_BYTES: usize = limits::SEALING_KEY_BYTES;
}

/// The private half. It is not shown.
pub struct UnsealingKey(SecretKey);

/// The key of a job's secrets, sealed to one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKey(Vec<u8>);

impl SealingKey {
    /// The signed document as the text of a fact: its bytes and the signature in base64.
    pub fn to_fact(signed: &Signed<Self>) -> String {
        [&signed.bytes, &signed.signature].map(|bytes| Base64::encode_string(bytes)).join(" ")
    }

    /// Reads what [`Self::to_fact`] writes. Nothing is verified. `None` where it is something else, or too large.
    pub fn from_fact(text: &str) -> Option<Signed<Self>> {
        let (document, signature) = text.split_once(' ')?;
        let decode = |text: &str, limit| {
            let is_small = text.len() <= 2 * limit;
            is_small.then(|| Base64::decode_vec(text).ok())?.filter(|bytes| bytes.len() <= limit)
        };
        let signature = decode(signature, limits::SIGNATURE_BYTES)?;
        Some(Signed::of_bytes(decode(document, Self::MAX_BYTES)?, signature))
    }

    /// Seals the key of a job's secrets to the host. `manifest` is the digest of the manifest's bytes.
    ///
    /// # Panics
    /// The system has no random numbers.
    pub fn seal(&self, key: &JobKey, manifest: &Digest) -> SealedKey {
        let content = Zeroizing::new([&key.expose()[..], &manifest[..]].concat());
        let sealed = PublicKey::from_bytes(*self.key).seal(&mut OsRng, &content);
        SealedKey(sealed.expect("so few bytes can be sealed"))
    }
}

impl UnsealingKey {
    /// A new key.
    ///
    /// # Panics
    /// The system has no random numbers.
    pub fn generate() -> Self {
        Self(SecretKey::generate(&mut OsRng))
    }

    /// Reads the text that [`Self::to_text`] writes.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim_ascii().strip_prefix(TYPE)?.trim_ascii_start();
        let bytes = Zeroizing::new(Base64::decode_vec(text).ok()?);
        Some(Self(SecretKey::from_slice(&bytes).ok()?))
    }

    /// The key as the text of a file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new(self.0.to_bytes());
        let base64 = Zeroizing::new(Base64::encode_string(&*bytes));
        Zeroizing::new(format!("{TYPE} {}\n", *base64))
    }

    /// The public half, for this host to publish.
    pub fn public(&self, namespace: Option<Namespace>, host: HostName) -> SealingKey {
        SealingKey { namespace, host, key: ByteArray::new(*self.0.public_key().as_bytes()) }
    }

    /// Opens the key of the secrets in the manifest with this digest.
    ///
    /// # Errors
    /// It is not sealed to this host, or belongs to another manifest.
    pub fn open(&self, sealed: &SealedKey, manifest: &Digest) -> Result<JobKey, SecretError> {
        let content = Zeroizing::new(self.0.unseal(&sealed.0).map_err(|_| SecretError::ForeignKey)?);
        let (key, bound) = content.split_first_chunk().ok_or(SecretError::ForeignKey)?;
        if bound == &manifest[..] { Ok(JobKey::from_bytes(*key)) } else { Err(SecretError::MisplacedKey) }
    }
}

impl fmt::Debug for UnsealingKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("UnsealingKey(***)")
    }
}

impl SealedKey {
    /// A sealed key as it was read.
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The field and value to add to a stream entry.
    pub fn field(&self) -> (&'static str, Vec<u8>) {
        (FIELD, self.0.clone())
    }

    /// Takes the key out of a stream entry. Only its size is checked.
    ///
    /// # Errors
    /// There is none, or it is too large.
    pub fn take(fields: &mut Fields) -> Result<Self, SecretError> {
        signed::take(fields, FIELD, limits::SEALED_KEY_BYTES).map(Self).map_err(|error| match error {
            DocumentError::Oversize(_, bytes) => SecretError::OversizeKey(bytes),
            _ => SecretError::MissingKey,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        action::{Argument, Arguments},
        name::JobId,
        secret::{Sealed, digest},
    };

    fn host() -> HostName {
        "web1".parse().unwrap()
    }

    fn sealed_to(key: &UnsealingKey, job: &JobKey, manifest: &Digest) -> SealedKey {
        key.public(None, host()).seal(job, manifest)
    }

    #[test]
    fn a_sealed_key_opens_on_its_host_for_its_manifest_only() {
        let (web1, web2, job) = (UnsealingKey::generate(), UnsealingKey::generate(), JobKey::generate());
        let (manifest, other) = (digest(b"manifest"), digest(b"other"));
        let sealed = sealed_to(&web1, &job, &manifest);
        assert_eq!(sealed.as_bytes().len(), limits::SEALED_KEY_BYTES);
        assert_eq!(web1.open(&sealed, &manifest).unwrap().expose(), job.expose());
        assert_ne!(sealed, sealed_to(&web1, &job, &manifest), "it tells nothing of the key");
        assert!(matches!(web2.open(&sealed, &manifest), Err(SecretError::ForeignKey)));
        assert!(matches!(web1.open(&sealed, &other), Err(SecretError::MisplacedKey)));
        for at in 0..limits::SEALED_KEY_BYTES {
            let mut altered = sealed.clone();
            altered.0[at] ^= 1;
            assert!(matches!(web1.open(&altered, &manifest), Err(SecretError::ForeignKey)), "byte {at}");
        }
        assert!(web1.open(&SealedKey::from_bytes(Vec::new()), &manifest).is_err());
    }

    #[test]
    fn a_sealed_key_travels_in_a_field_of_bounded_size() {
        let sealed = SealedKey::from_bytes(vec![7; limits::SEALED_KEY_BYTES]);
        let fields = |bytes: Vec<u8>| Fields::from([(FIELD.to_owned(), bytes)]);
        assert_eq!(SealedKey::take(&mut fields(sealed.field().1)).unwrap(), sealed);
        assert!(matches!(SealedKey::take(&mut fields(vec![0; 1000])), Err(SecretError::OversizeKey(1000))));
        assert!(matches!(SealedKey::take(&mut Fields::new()), Err(SecretError::MissingKey)));
    }

    #[test]
    fn the_private_half_reads_back_and_is_not_shown() {
        let key = UnsealingKey::generate();
        let read = UnsealingKey::from_text(key.to_text().as_bytes()).unwrap();
        assert_eq!(read.public(None, host()), key.public(None, host()));
        assert_eq!(format!("{key:?}"), "UnsealingKey(***)");
        for odd in ["", "x25519", "x25519 AAAA", "ed25519 AAAA", "x25519 \u{e9}"] {
            assert!(UnsealingKey::from_text(odd.as_bytes()).is_none(), "{odd}");
        }
    }

    #[test]
    fn the_public_half_reads_back_from_the_facts() {
        let public = UnsealingKey::generate().public(Some("prod".parse().unwrap()), host());
        let signed = Signed::unsigned(&public).with_signature(vec![7; 200]);
        let fact = SealingKey::to_fact(&signed);
        let read = SealingKey::from_fact(&fact).unwrap();
        assert_eq!((read.open().unwrap(), read.signature), (public, signed.signature));
        for odd in ["", " ", "AA", &format!("{fact} "), &format!("{} AAAA", "A".repeat(4000))] {
            assert!(SealingKey::from_fact(odd).is_none_or(|signed| signed.open().is_err()), "{odd}");
        }
    }

    /// The bytes of wire version 1, frozen: every later version must read them.
    #[test]
    fn wire_1_fixture_is_read() {
        let key = UnsealingKey::from_text(include_bytes!("../fixtures/sealing-key-v1")).unwrap();
        let public = include_bytes!("../fixtures/sealing-key-v1.msgpack").to_vec();
        assert_eq!(Signed::<SealingKey>::of_bytes(public, Vec::new()).open().unwrap(), key.public(None, host()));
        let sealed = SealedKey::from_bytes(include_bytes!("../fixtures/sealed-key-v1").to_vec());
        let job_key = key.open(&sealed, &digest(b"manifest")).unwrap();
        let secrets: Sealed = signed::decode("sealed", include_bytes!("../fixtures/sealed-v1.msgpack"), 1000).unwrap();
        let job: JobId = "019a0000-0000-7000-8000-000000000000".parse().unwrap();
        let expected = Arguments::from([("token".into(), Argument::Text("hunter2".into()))]);
        assert_eq!(secrets.open(job, &job_key).unwrap(), expected);
    }
}
