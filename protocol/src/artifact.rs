//! Content that is too large for a manifest, such as a file, on its way through Redis.
//!
//! An artifact is named by the SHA-256 of its content and by its size. Both stand in the signed manifest, so nothing
//! that Redis says about it is believed. It travels in pieces of [`limits::ARTIFACT_PIECE_BYTES`], each encrypted
//! (XSalsa20-Poly1305, the `secretbox` of `NaCl`) under the artifact's [`ContentKey`], with its number as the nonce.
//! So Redis never has the content in clear, and each piece is known to be the right one as soon as it is there. The key
//! travels as a secret argument.
//!
//! The key of what a controller sends is made of the content: equal content has equal pieces, and to send it twice is
//! harmless. The key of what a host sends is made of a random one by the host's name, so that no two contents share it.

use std::{fmt, str::FromStr};

use crypto_secretbox::{KeyInit, XSalsa20Poly1305, aead::Aead};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{limits, name::HostName};

/// Bytes by which an encrypted piece is longer.
const TAG: usize = 16;

/// Bytes of an encrypted piece at most.
pub const SEALED_PIECE_BYTES: usize = limits::ARTIFACT_PIECE_BYTES + TAG;

const PIECE: u64 = limits::ARTIFACT_PIECE_BYTES as u64;

/// The name of some content: its digest and its size. As text it is `SHA256:SIZE`, the digest in hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Artifact {
    sha256: [u8; 32],
    bytes: u64,
}

/// Why a text names no artifact, or no key of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// It is not of that form.
    #[error("it is not SHA256:SIZE, the digest in 64 lower-case hexadecimal digits")]
    Malformed,
    /// There is no such large content.
    #[error("{0} bytes are more than the {max} that can be sent", max = limits::ARTIFACT_BYTES)]
    TooLarge(u64),
    /// It is no key.
    #[error("its key is not 64 lower-case hexadecimal digits")]
    Key,
}

impl Artifact {
    /// The digest in hexadecimal digits.
    pub fn sha256(&self) -> String {
        to_hex(&self.sha256)
    }

    /// The size of the content.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many pieces it has. Empty content has none.
    pub const fn pieces(&self) -> u64 {
        self.bytes.div_ceil(PIECE)
    }

    /// The size of a piece before it is encrypted; 0 behind the last one.
    pub fn piece_bytes(&self, number: u64) -> usize {
        let before = number.saturating_mul(PIECE);
        usize::try_from(self.bytes.saturating_sub(before).min(PIECE)).unwrap_or(limits::ARTIFACT_PIECE_BYTES)
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.sha256(), self.bytes)
    }
}

impl FromStr for Artifact {
    type Err = ArtifactError;

    fn from_str(text: &str) -> Result<Self, ArtifactError> {
        let (digest, size) = text.split_once(':').ok_or(ArtifactError::Malformed)?;
        let sha256 = from_hex(digest).ok_or(ArtifactError::Malformed)?;
        let is_number = !size.is_empty() && size.bytes().all(|digit| digit.is_ascii_digit());
        let bytes = size.parse().ok().filter(|_| is_number).ok_or(ArtifactError::Malformed)?;
        if bytes > limits::ARTIFACT_BYTES as u64 {
            Err(ArtifactError::TooLarge(bytes))
        } else {
            Ok(Self { sha256, bytes })
        }
    }
}

/// The key under which the pieces of one artifact are encrypted. It is not shown.
#[derive(Clone)]
pub struct ContentKey(Zeroizing<[u8; 32]>);

impl ContentKey {
    /// A new key.
    ///
    /// # Panics
    /// The system has no random numbers.
    pub fn generate() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key).expect("the system has random numbers");
        Self(key)
    }

    /// The key in a secret argument.
    ///
    /// # Errors
    /// It is none.
    pub fn from_text(text: &str) -> Result<Self, ArtifactError> {
        from_hex(text).map(|key| Self(Zeroizing::new(key))).ok_or(ArtifactError::Key)
    }

    /// The key as a secret argument.
    pub fn to_text(&self) -> String {
        to_hex(&*self.0)
    }

    /// The key of what this host sends. All hosts of a job have the job's key, and no two may use the same one.
    #[must_use]
    pub fn of_host(&self, host: &HostName) -> Self {
        let digest = Sha256::new().chain_update(b"redfleet content of a host v1\0").chain_update(*self.0);
        Self(Zeroizing::new(digest.chain_update(host.as_str()).finalize().into()))
    }

    /// Encrypts a piece.
    ///
    /// # Panics
    /// The piece is larger than any memory.
    pub fn seal(&self, number: u64, piece: &[u8]) -> Vec<u8> {
        self.cipher().encrypt(&nonce(number).into(), piece).expect("so few bytes can be encrypted")
    }

    /// Decrypts a piece; `None` where it is not that piece of this artifact.
    pub fn open(&self, number: u64, sealed: &[u8]) -> Option<Vec<u8>> {
        self.cipher().decrypt(&nonce(number).into(), sealed).ok()
    }

    fn cipher(&self) -> XSalsa20Poly1305 {
        XSalsa20Poly1305::new((&*self.0).into())
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ContentKey(***)")
    }
}

fn nonce(number: u64) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce
}

/// Takes content piece by piece and names it.
#[derive(Clone, Default)]
pub struct Digester {
    digest: Sha256,
    bytes: u64,
}

impl Digester {
    /// Takes the bytes that follow.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// How many bytes were taken.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The name of the content.
    pub fn artifact(&self) -> Artifact {
        Artifact { sha256: self.digest.clone().finalize().into(), bytes: self.bytes }
    }
}

/// Takes content that is to be sent piece by piece, names it and makes its key.
#[derive(Clone)]
pub struct Surveyor {
    digester: Digester,
    key: Sha256,
}

impl Default for Surveyor {
    fn default() -> Self {
        Self { digester: Digester::default(), key: Sha256::new().chain_update(b"redfleet key of content v1\0") }
    }
}

impl Surveyor {
    /// Takes the bytes that follow.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digester.update(bytes);
        self.key.update(bytes);
    }

    /// How many bytes were taken.
    pub const fn bytes(&self) -> u64 {
        self.digester.bytes()
    }

    /// The name and the key of the content.
    pub fn finish(self) -> (Artifact, ContentKey) {
        (self.digester.artifact(), ContentKey(Zeroizing::new(self.key.finalize().into())))
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let is_lower_case = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 64 || !text.bytes().all(is_lower_case) {
        return None;
    }
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(content: &[u8]) -> (Artifact, ContentKey) {
        let mut surveyor = Surveyor::default();
        content.chunks(7).for_each(|piece| surveyor.update(piece));
        surveyor.finish()
    }

    #[test]
    fn names_read_back_and_others_are_refused() {
        let (artifact, _) = survey(b"hello");
        let name = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824:5";
        assert_eq!(artifact.to_string(), name);
        assert_eq!(name.parse(), Ok(artifact));
        let most = limits::ARTIFACT_BYTES;
        assert!(format!("{}:{most}", artifact.sha256()).parse::<Artifact>().is_ok());
        let larger = format!("{}:{}", artifact.sha256(), most + 1).parse::<Artifact>();
        assert_eq!(larger, Err(ArtifactError::TooLarge(most as u64 + 1)));
        for wrong in ["", ":5", &name.to_uppercase(), &name[..64], &format!("{}+5", &name[..65]), &name[1..], "é:5"] {
            assert_eq!(wrong.parse::<Artifact>(), Err(ArtifactError::Malformed), "{wrong}");
        }
    }

    #[test]
    fn pieces_add_up() {
        let piece = limits::ARTIFACT_PIECE_BYTES;
        for (size, sizes) in [(0, vec![0]), (5, vec![5, 0]), (piece, vec![piece, 0]), (piece + 1, vec![piece, 1, 0])] {
            let artifact = Artifact { sha256: [0; 32], bytes: size as u64 };
            let found: Vec<_> = (0..=artifact.pieces()).map(|number| artifact.piece_bytes(number)).collect();
            assert_eq!(found, sizes);
        }
    }

    #[test]
    fn a_piece_opens_in_its_place_under_its_key_alone() {
        let (_, key) = survey(b"hello");
        let sealed = key.seal(3, b"hello");
        assert_eq!(sealed.len(), 5 + TAG);
        assert!(!sealed.windows(5).any(|part| part == b"hello"));
        assert_eq!(key.open(3, &sealed).as_deref(), Some(&b"hello"[..]));
        assert_eq!(key.open(4, &sealed), None);
        assert_eq!(survey(b"hello!").1.open(3, &sealed), None);
        assert_eq!(key.of_host(&"web1".parse().unwrap()).open(3, &sealed), None);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(key.open(3, &altered), None);
        }
        assert_eq!(key.open(3, b""), None);
    }

    #[test]
    fn keys_read_back_and_are_not_shown() {
        let key = ContentKey::generate();
        assert_eq!(
            ContentKey::from_text(&key.to_text()).unwrap().open(0, &key.seal(0, b"x")).as_deref(),
            Some(&b"x"[..])
        );
        assert_eq!(format!("{key:?}"), "ContentKey(***)");
        assert!(ContentKey::from_text("hunter2").is_err());
        let equal = |one: &[u8], other: &[u8]| survey(one).1.to_text() == survey(other).1.to_text();
        assert!(equal(b"hello", b"hello") && !equal(b"hello", b"hellp"));
    }
}
