//! What a single key makes of bytes (RFC 4253 §6.6; PROTOCOL.u2f for hardware keys): the inner part of an SSHSIG and of
//! a certificate.
//!
//! It is read here and not by the `ssh-key` library, which cannot write the one of an ECDSA hardware key again.

use super::wire::{self, Malformed};

/// The names of the types of hardware keys begin with this.
const HARDWARE: &str = "sk-";

/// The flag of a hardware key that somebody touched it.
const PRESENT: u8 = 1;

/// A scalar of the curve P-256 takes so many bytes.
const SCALAR: usize = 32;

/// A signature by one key. Nothing is verified yet.
#[derive(Clone, Debug)]
pub(super) struct KeySignature {
    algorithm: String,
    bytes: Vec<u8>,
    trailer: Option<[u8; 5]>,
}

impl KeySignature {
    /// Reads a signature in the SSH encoding.
    pub(super) fn from_bytes(mut rest: &[u8]) -> Result<Self, Malformed> {
        let algorithm = wire::text(&mut rest)?.to_owned();
        let bytes = wire::string(&mut rest)?.to_vec();
        let trailer = if algorithm.starts_with(HARDWARE) { Some(wire::array(&mut rest)?) } else { None };
        if rest.is_empty() { Ok(Self { algorithm, bytes, trailer }) } else { Err(Malformed) }
    }

    /// The same signature in the SSH encoding.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        wire::push(&mut bytes, self.algorithm.as_bytes());
        wire::push(&mut bytes, &self.bytes);
        bytes.extend(self.trailer.iter().flatten());
        bytes
    }

    /// The type of the key that made it.
    pub(super) fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// Flags and counter of a hardware key.
    pub(super) const fn trailer(&self) -> Option<[u8; 5]> {
        self.trailer
    }

    /// Whether a hardware key says that somebody touched it.
    pub(super) const fn is_touched(&self) -> bool {
        matches!(self.trailer, Some([flags, ..]) if flags & PRESENT != 0)
    }

    /// The signature as one of ed25519.
    pub(super) fn ed25519(&self) -> Option<ed25519_dalek::Signature> {
        ed25519_dalek::Signature::from_slice(&self.bytes).ok()
    }

    /// The signature as one of ECDSA: two numbers, each in its shortest form.
    pub(super) fn p256(&self) -> Option<p256::ecdsa::Signature> {
        let mut rest = &self.bytes[..];
        let (r, s) = (scalar(&mut rest)?, scalar(&mut rest)?);
        if rest.is_empty() { p256::ecdsa::Signature::from_scalars(r, s).ok() } else { None }
    }
}

/// The library's signatures, which have the trailer at the end of the bytes.
impl From<ssh_key::Signature> for KeySignature {
    fn from(signature: ssh_key::Signature) -> Self {
        let algorithm = signature.algorithm().as_str().to_owned();
        let (bytes, trailer) = match signature.as_bytes().split_last_chunk() {
            Some((bytes, trailer)) if algorithm.starts_with(HARDWARE) => (bytes, Some(*trailer)),
            _ => (signature.as_bytes(), None),
        };
        Self { algorithm, bytes: bytes.to_vec(), trailer }
    }
}

/// A positive number (RFC 4251 §5, "mpint"), filled up with zeros at the front.
fn scalar(rest: &mut &[u8]) -> Option<[u8; SCALAR]> {
    let number = match wire::string(rest).ok()? {
        [0, digits @ ..] if digits.first().is_some_and(|digit| digit & 0x80 != 0) => digits,
        digits if digits.first().is_some_and(|digit| *digit != 0 && digit & 0x80 == 0) => digits,
        _ => return None,
    };
    let mut scalar = [0; SCALAR];
    scalar[SCALAR.checked_sub(number.len())?..].copy_from_slice(number);
    Some(scalar)
}
