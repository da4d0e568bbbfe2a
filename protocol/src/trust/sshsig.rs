//! SSHSIG: the signature format of `ssh-keygen -Y sign` (OpenSSH, PROTOCOL.sshsig).
//!
//! Signatures travel in binary; [`Signature::to_pem`] gives the file that `ssh-keygen -Y verify` reads.

use sha2::{Digest, Sha256, Sha512};
use ssh_key::{private::KeypairData, public::KeyData};

use super::{
    certificate::Certificate,
    key::{self, Key, KeyError},
    key_signature::KeySignature,
    wire,
};

/// The namespace of jobs, orders to cancel and approvals.
pub const JOB: &str = "redfleet-job@v1";

/// The namespace of plans of rolling runs. No worker takes a plan for a command.
pub const ROLLOUT: &str = "redfleet-rollout@v1";

/// The namespace of standing orders. Whoever has such an order can run what it says when it says so, again and again: no
/// signature over a single job may pass for one.
pub const STANDING: &str = "redfleet-standing-order@v1";

/// What an operator's key signs for, as the option `namespaces` of a trust file lists it.
pub const OPERATOR: &str = "redfleet-job@v1,redfleet-rollout@v1,redfleet-standing-order@v1";

/// The namespace of outcomes, and of all else that a host states.
pub const HOST: &str = "redfleet-host@v1";

/// What every signature begins with.
const MAGIC: &[u8] = b"SSHSIG";

/// A signature, with the key that made it. Nothing is verified yet.
#[derive(Clone, Debug)]
pub struct Signature {
    key: Signer,
    namespace: String,
    hash: Hash,
    by_key: KeySignature,
}

/// The key that made a signature.
#[derive(Clone, Debug)]
pub enum Signer {
    /// A plain public key.
    Key(Box<Key>),
    /// A certificate, whose own validity is still to be judged.
    Certificate(Box<Certificate>),
}

/// A signature, taken apart. Neither its key nor what the key made is parsed.
pub(super) struct Parts<'a> {
    /// The public key or certificate in the SSH encoding.
    pub(super) blob: &'a [u8],
    namespace: &'a str,
    hash: Hash,
    /// What the key made, in the SSH encoding.
    signature: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha512,
}

impl<'a> Parts<'a> {
    /// Takes a binary signature apart.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, SignatureError> {
        if bytes.is_empty() {
            return Err(SignatureError::Missing);
        }
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(SignatureError::Malformed)?;
        let version = wire::word(&mut rest)?;
        let blob = wire::string(&mut rest)?;
        let namespace = wire::text(&mut rest)?;
        // Not signed, and to be ignored, says the format.
        let _reserved = wire::string(&mut rest)?;
        let hash = wire::string(&mut rest)?;
        let signature = wire::string(&mut rest)?;
        if version != 1 || !rest.is_empty() {
            return Err(SignatureError::Malformed);
        }
        let hash = match hash {
            b"sha256" => Hash::Sha256,
            b"sha512" => Hash::Sha512,
            _ => return Err(SignatureError::Malformed),
        };
        Ok(Self { blob, namespace, hash, signature })
    }

    /// Of a signature by a key of type ed25519: what that key has signed, and its 64 bytes.
    pub(super) fn ed25519(&self, namespace: &str, document: &[u8]) -> Result<(Vec<u8>, [u8; 64]), SignatureError> {
        if self.namespace != namespace {
            return Err(SignatureError::Namespace(key::shown(self.namespace)));
        }
        let mut rest = self.signature;
        let (name, bytes) = (wire::string(&mut rest)?, wire::string(&mut rest)?);
        match bytes.try_into() {
            Ok(bytes) if name == b"ssh-ed25519" && rest.is_empty() => Ok((data(namespace, self.hash, document), bytes)),
            _ => Err(SignatureError::Malformed),
        }
    }
}

/// Why a signature cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error("it is not signed")]
    Missing,
    /// It is no SSHSIG.
    #[error("its signature is malformed")]
    Malformed,
    /// It is of a kind that is not accepted.
    #[error("its signature is by a key of type {0}; use ed25519, ecdsa-p256 or a hardware key of these types")]
    Algorithm(String),
    /// It was made for another purpose.
    #[error("its signature was made for another purpose ('{0}')")]
    Namespace(String),
    /// It does not belong to these bytes.
    #[error("its signature does not belong to it: it was altered")]
    Altered,
}

impl From<wire::Malformed> for SignatureError {
    fn from(_: wire::Malformed) -> Self {
        Self::Malformed
    }
}

impl From<KeyError> for SignatureError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Malformed => Self::Malformed,
            KeyError::Algorithm(name) => Self::Algorithm(name),
        }
    }
}

impl Signer {
    /// Reads a public key or certificate in the SSH encoding.
    ///
    /// # Errors
    /// It is none, or of a type that is not accepted.
    pub fn from_bytes(blob: &[u8]) -> Result<Self, KeyError> {
        if Certificate::is_named(wire::text(&mut &blob[..])?) {
            return Ok(Self::Certificate(Box::new(Certificate::from_bytes(blob)?)));
        }
        Ok(Self::Key(Box::new(Key::from_bytes(blob)?)))
    }

    /// The key that signed: of a certificate, the certified one.
    pub const fn key(&self) -> &KeyData {
        self.plain().data()
    }

    /// The same key, ready to verify with.
    pub const fn plain(&self) -> &Key {
        match self {
            Self::Key(key) => key,
            Self::Certificate(certificate) => certificate.key(),
        }
    }
}

impl Signature {
    /// Reads a binary signature. Only what the bytes say is checked.
    ///
    /// # Errors
    /// [`SignatureError::Missing`], [`SignatureError::Malformed`], [`SignatureError::Algorithm`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignatureError> {
        let Parts { blob, namespace, hash, signature } = Parts::of(bytes)?;
        let key = Signer::from_bytes(blob)?;
        let signature = KeySignature::from_bytes(signature)?;
        if signature.algorithm() != key.plain().type_name() {
            return Err(SignatureError::Malformed);
        }
        Ok(Self { key, namespace: namespace.to_owned(), hash, by_key: signature })
    }

    /// Puts together what a key, perhaps in an agent, has signed: `signature` is over [`signed_data`].
    ///
    /// # Errors
    /// The key, or the signature, is of a kind that is not accepted.
    pub fn new(blob: &[u8], namespace: &str, signature: ssh_key::Signature) -> Result<Self, SignatureError> {
        let key = Signer::from_bytes(blob)?;
        let by_key = KeySignature::from(signature);
        Ok(Self { key, namespace: namespace.to_owned(), hash: Hash::Sha512, by_key })
    }

    /// The same signature, under the certificate of the key that made it: what is signed does not name the key.
    ///
    /// # Errors
    /// The certificate is for another key.
    pub fn certified(self, certificate: &Certificate) -> Result<Self, SignatureError> {
        if certificate.key().blob() != self.blob() {
            return Err(SignatureError::Malformed);
        }
        Ok(Self { key: Signer::Certificate(Box::new(certificate.clone())), ..self })
    }

    /// The signature in binary.
    pub fn to_bytes(&self) -> Vec<u8> {
        let hash = match self.hash {
            Hash::Sha256 => "sha256",
            Hash::Sha512 => "sha512",
        };
        envelope(self.blob(), &self.namespace, hash, &self.by_key.to_bytes())
    }

    /// The signature as the file that `ssh-keygen -Y verify -s` reads.
    pub fn to_pem(&self) -> String {
        pem(&self.to_bytes())
    }

    /// The key that made it.
    pub const fn signer(&self) -> &Signer {
        &self.key
    }

    /// The public key or certificate in the SSH encoding: what a trust file is searched for.
    pub fn blob(&self) -> &[u8] {
        match &self.key {
            Signer::Key(key) => key.blob(),
            Signer::Certificate(certificate) => certificate.blob(),
        }
    }

    /// Whether it is a signature over `document` for `namespace`, by its own key. Whether that key is trusted is
    /// another question.
    ///
    /// # Errors
    /// [`SignatureError::Namespace`], [`SignatureError::Altered`].
    pub fn verify(&self, namespace: &str, document: &[u8]) -> Result<(), SignatureError> {
        if self.namespace != namespace {
            return Err(SignatureError::Namespace(key::shown(&self.namespace)));
        }
        let data = data(namespace, self.hash, document);
        if self.key.plain().has_signed(&data, &self.by_key) { Ok(()) } else { Err(SignatureError::Altered) }
    }
}

/// The signature in binary: `blob` is the public key, `signature` what it made, both in the SSH encoding.
pub(super) fn envelope(blob: &[u8], namespace: &str, hash: &str, signature: &[u8]) -> Vec<u8> {
    let mut bytes = [MAGIC, &1_u32.to_be_bytes()].concat();
    for part in [blob, namespace.as_bytes(), b"", hash.as_bytes(), signature] {
        wire::push(&mut bytes, part);
    }
    bytes
}

/// What the key signs: not the document itself, but its hash with the namespace.
pub fn signed_data(namespace: &str, document: &[u8]) -> Vec<u8> {
    data(namespace, Hash::Sha512, document)
}

fn data(namespace: &str, hash: Hash, document: &[u8]) -> Vec<u8> {
    let (name, digest) = match hash {
        Hash::Sha256 => ("sha256", Sha256::digest(document).to_vec()),
        Hash::Sha512 => ("sha512", Sha512::digest(document).to_vec()),
    };
    let mut data = MAGIC.to_vec();
    for part in [namespace.as_bytes(), b"", name.as_bytes(), &digest] {
        wire::push(&mut data, part);
    }
    data
}

/// The armour of `ssh-keygen`: base64 in lines of 70 characters.
fn pem(bytes: &[u8]) -> String {
    let text = <base64ct::Base64 as base64ct::Encoding>::encode_string(bytes);
    let lines = text.as_bytes().chunks(70).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN SSH SIGNATURE-----\n{}-----END SSH SIGNATURE-----\n", lines.collect::<String>())
}

/// Signs with a private key that is at hand.
///
/// # Errors
/// The key is encrypted, or of a type that is not accepted.
pub fn sign(key: &ssh_key::PrivateKey, namespace: &str, document: &[u8]) -> Result<Signature, SignatureError> {
    let blob = key.public_key().to_bytes().map_err(|_| SignatureError::Malformed)?;
    let data = signed_data(namespace, document);
    let signature = if let KeypairData::Ed25519(pair) = key.key_data() {
        // The library without detours: a private key is parsed once, and signs in microseconds.
        let key = ed25519_dalek::SigningKey::from_bytes(pair.private.as_ref());
        let bytes = signature::Signer::sign(&key, &data).to_bytes();
        ssh_key::Signature::new(ssh_key::Algorithm::Ed25519, bytes)
    } else {
        signature::Signer::try_sign(key, &data).map_err(|_| ssh_key::Error::AlgorithmUnknown)
    };
    let algorithm = || SignatureError::Algorithm(key.algorithm().to_string());
    Signature::new(&blob, namespace, signature.map_err(|_| algorithm())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ssh_key::PrivateKey {
        let seed = ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]);
        ssh_key::PrivateKey::new(seed.into(), "ann@desk").unwrap()
    }

    #[test]
    fn a_signature_is_for_its_document_and_purpose_only() {
        let signature = sign(&key(), JOB, b"document").unwrap();
        let read = Signature::from_bytes(&signature.to_bytes()).unwrap();
        read.verify(JOB, b"document").unwrap();
        assert!(matches!(read.verify(JOB, b"documenu"), Err(SignatureError::Altered)));
        assert!(matches!(read.verify(HOST, b"document"), Err(SignatureError::Namespace(_))));
        assert_eq!(read.signer().key(), key().public_key().key_data());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = sign(&key(), JOB, b"document").unwrap().to_bytes();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let read = Signature::from_bytes(&changed).and_then(|read| {
                read.verify(JOB, b"document")?;
                Ok(read)
            });
            assert!(read.is_err(), "byte {at}");
        }
        for end in 0..bytes.len() {
            assert!(Signature::from_bytes(&bytes[..end]).is_err());
        }
        assert!(Signature::from_bytes(&[&bytes[..], b"x"].concat()).is_err());
    }
}
