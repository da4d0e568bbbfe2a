//! SSH certificates (OpenSSH, PROTOCOL.certkeys): a key, and what an authority certifies about it.
//!
//! They are read here and not by the `ssh-key` library, which cannot read one without an end, as `ssh-keygen -s`
//! makes them by default.

use super::{
    key::{self, CERTIFIED, Key, KeyError, shown},
    key_signature::KeySignature,
    moment::show,
    wire,
};

/// The type of a certificate for people. The other one is for hosts.
const USER: u32 = 1;

/// How many principals a certificate may name: as many as OpenSSH reads.
const PRINCIPALS: usize = 256;

/// A certificate of a user or a host. Nothing is verified yet.
#[derive(Clone, Debug)]
pub struct Certificate {
    key: Key,
    serial: u64,
    kind: u32,
    id: String,
    principals: Vec<String>,
    valid_after: u64,
    valid_before: u64,
    /// The name of the first option that must be understood.
    critical: Option<String>,
    authority: Key,
    blob: Vec<u8>,
    /// How much of it the authority signed.
    signed: usize,
    signature: KeySignature,
}

/// Why a certificate does not speak for somebody.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// It is for a host.
    #[error("it is no certificate for users; have the key signed without 'ssh-keygen -h'")]
    Type,
    /// It names nobody.
    #[error("it names no principals; have the key signed with 'ssh-keygen -n {0}'")]
    NoPrincipals(String),
    /// It names others.
    #[error("it is for {names}, not for '{principal}'")]
    Principal {
        /// Whom it names.
        names: String,
        /// Who was asked for.
        principal: String,
    },
    /// Its time has not come.
    #[error("it is not valid before {0}")]
    NotYetValid(String),
    /// Its time is over.
    #[error("it was valid until {0}; have the key signed again")]
    Expired(String),
    /// It has an option that must be understood; none is.
    #[error("it has the critical option '{0}', and none is supported; have the key signed without options")]
    Critical(String),
    /// Nobody whom the trust file names signed it.
    #[error("its authority {0} is not trusted; add a line with 'cert-authority' for it to the trust file")]
    Authority(String),
    /// It was altered, or the authority did not sign it.
    #[error("its authority's signature does not belong to it: it was altered")]
    Altered,
}

impl Certificate {
    /// Whether the name of a type is the one of a certificate.
    pub(super) fn is_named(name: &str) -> bool {
        name.ends_with(CERTIFIED)
    }

    /// Reads a certificate in the SSH encoding.
    ///
    /// # Errors
    /// It is none, or its key or its authority's is of a type that is not accepted.
    pub fn from_bytes(blob: &[u8]) -> Result<Self, KeyError> {
        let mut rest = blob;
        let key = certified_key(&mut rest)?;
        let serial = wire::number(&mut rest)?;
        let kind = wire::word(&mut rest)?;
        let id = wire::text(&mut rest)?.to_owned();
        let principals = names(wire::string(&mut rest)?)?;
        let valid_after = wire::number(&mut rest)?;
        let valid_before = wire::number(&mut rest)?;
        let critical = options(wire::string(&mut rest)?)?;
        let _extensions = options(wire::string(&mut rest)?)?;
        let _reserved = wire::string(&mut rest)?;
        let authority = Key::from_bytes(wire::string(&mut rest)?)?;
        let signed = blob.len() - rest.len();
        let signature = KeySignature::from_bytes(wire::string(&mut rest)?)?;
        if !rest.is_empty() {
            return Err(KeyError::Malformed);
        }
        Ok(Self {
            key,
            serial,
            kind,
            id,
            principals,
            valid_after,
            valid_before,
            critical,
            authority,
            blob: blob.to_vec(),
            signed,
            signature,
        })
    }

    /// Reads a certificate as `ssh-keygen -s` writes it to a file: type, base64 and a comment.
    ///
    /// # Errors
    /// It is none, or its key or its authority's is of a type that is not accepted.
    pub fn from_openssh(text: &str) -> Result<Self, KeyError> {
        let mut words = text.split_ascii_whitespace();
        let (name, base64) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Self::from_bytes(&key::blob(name, base64)?)
    }

    /// The certificate in the SSH encoding.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The key that it certifies.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// The key of the authority that it claims to be from.
    pub const fn authority(&self) -> &Key {
        &self.authority
    }

    /// The number that the authority gave it; 0 where it gave none.
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// What the authority calls it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it lets its key speak for `principal` at a time in Unix seconds. Whether its authority is trusted is
    /// another question.
    ///
    /// # Errors
    /// What it lacks.
    pub fn judge(&self, principal: &str, at: u64) -> Result<(), CertificateFault> {
        if self.kind != USER {
            return Err(CertificateFault::Type);
        }
        if let Some(option) = &self.critical {
            return Err(CertificateFault::Critical(shown(option)));
        }
        if self.principals.is_empty() {
            return Err(CertificateFault::NoPrincipals(shown(principal)));
        }
        if !self.principals.iter().any(|name| name == principal) {
            let names = shown(&self.principals.join(","));
            return Err(CertificateFault::Principal { names, principal: shown(principal) });
        }
        if at < self.valid_after {
            return Err(CertificateFault::NotYetValid(show(self.valid_after)));
        }
        if at >= self.valid_before {
            return Err(CertificateFault::Expired(show(self.valid_before)));
        }
        if !self.authority.has_signed(&self.blob[..self.signed], &self.signature) {
            return Err(CertificateFault::Altered);
        }
        Ok(())
    }
}

/// What a certificate begins with: its type, a random string, and the fields of the certified key.
fn certified_key(rest: &mut &[u8]) -> Result<Key, KeyError> {
    let certificate = wire::text(rest)?;
    let (name, fields) = match certificate.strip_suffix(CERTIFIED) {
        Some("ssh-ed25519") => ("ssh-ed25519", 1),
        Some("ecdsa-sha2-nistp256") => ("ecdsa-sha2-nistp256", 2),
        Some("sk-ssh-ed25519") => ("sk-ssh-ed25519@openssh.com", 2),
        Some("sk-ecdsa-sha2-nistp256") => ("sk-ecdsa-sha2-nistp256@openssh.com", 3),
        _ => return Err(KeyError::Algorithm(shown(certificate))),
    };
    let _nonce = wire::string(rest)?;
    let mut blob = Vec::new();
    wire::push(&mut blob, name.as_bytes());
    for _ in 0..fields {
        wire::push(&mut blob, wire::string(rest)?);
    }
    Key::from_bytes(&blob)
}

/// The principals: strings within a string.
fn names(mut rest: &[u8]) -> Result<Vec<String>, KeyError> {
    let mut names = Vec::new();
    while !rest.is_empty() {
        if names.len() == PRINCIPALS {
            return Err(KeyError::Malformed);
        }
        names.push(wire::text(&mut rest)?.to_owned());
    }
    Ok(names)
}

/// Options are pairs of name and value. Returns the first name.
fn options(mut rest: &[u8]) -> Result<Option<String>, KeyError> {
    let mut first = None;
    while !rest.is_empty() {
        let name = wire::text(&mut rest)?;
        let _value = wire::string(&mut rest)?;
        first.get_or_insert_with(|| name.to_owned());
    }
    Ok(first)
}
