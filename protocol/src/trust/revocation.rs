//! Keys and certificates that are trusted no more: a list as `ssh-keygen -k` writes it (OpenSSH, PROTOCOL.krl), or
//! public keys, one a line.
//!
//! A part of a list that is not understood may revoke somebody, so it breaks the whole list.

use std::collections::HashSet;

use base64ct::{Base64, Encoding};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::{
    certificate::Certificate,
    fault::Fault,
    key::{self, Key, KeyError},
    sshsig::Signer,
    wire::{self, Malformed},
};
use crate::limits;

const MAGIC: &[u8] = b"SSHKRL\n\0";

/// The bytes of a bitmap that OpenSSH reads, which are as many as those of any number.
const BITMAP_BYTES: usize = 2048;

/// Kinds of sections of a list.
mod section {
    pub(super) const CERTIFICATES: u8 = 1;
    pub(super) const KEYS: u8 = 2;
    pub(super) const SHA1: u8 = 3;
    pub(super) const SHA256: u8 = 5;
}

/// Kinds of parts of a section about certificates.
mod part {
    pub(super) const SERIALS: u8 = 0x20;
    pub(super) const RANGE: u8 = 0x21;
    pub(super) const BITMAP: u8 = 0x22;
    pub(super) const IDS: u8 = 0x23;
}

/// A list as a text that travels in a command: lines of public keys as they are, all else in base64.
pub fn to_text(list: &[u8]) -> String {
    match std::str::from_utf8(list) {
        Ok(text) if is_text(list) => text.to_owned(),
        _ => Base64::encode_string(list),
    }
}

/// Whether it is a list of lines, rather than one of `ssh-keygen -k`.
pub fn is_text(list: &[u8]) -> bool {
    !list.starts_with(MAGIC)
}

/// The list that such a text holds. No line of a public key is base64 as a whole: it has blanks.
pub fn from_text(text: &str) -> Vec<u8> {
    Base64::decode_vec(text.trim()).unwrap_or_else(|_| text.as_bytes().to_vec())
}

/// What is revoked.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    keys: HashSet<Vec<u8>>,
    sha1: HashSet<[u8; 20]>,
    sha256: HashSet<[u8; 32]>,
    certificates: Vec<Certificates>,
}

/// What is revoked of one authority's certificates.
#[derive(Clone, Debug)]
struct Certificates {
    /// Empty stands for every authority.
    authority: Vec<u8>,
    serials: Vec<Serials>,
    ids: HashSet<String>,
}

#[derive(Clone, Debug)]
enum Serials {
    /// From the first to the last.
    Range(u64, u64),
    /// The bits of a number, of which the lowest stands for the first serial.
    Bitmap(u64, Vec<u8>),
}

impl Revocations {
    /// Reads a list in either format.
    ///
    /// # Errors
    /// Anything in it is odd.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let fault = |reason: String| Fault { line: 0, reason };
        if bytes.len() > limits::REVOKED_BYTES {
            return Err(fault(format!(
                "it is larger than {} bytes; revoke by serial or authority",
                limits::REVOKED_BYTES
            )));
        }
        let mut revocations = Self::default();
        if let Some(rest) = bytes.strip_prefix(MAGIC) {
            revocations.read_list(rest).map_err(fault)?;
        } else {
            let text = std::str::from_utf8(bytes).map_err(|_| {
                fault("it is neither a list of ssh-keygen -k nor lines of public keys; make it again".to_owned())
            })?;
            for (line, number) in text.split('\n').zip(1..) {
                revocations.read_line(line).map_err(|reason| Fault { line: number, reason })?;
            }
        }
        Ok(revocations)
    }

    /// Why a signer is revoked, if it is.
    pub fn reason(&self, signer: &Signer) -> Option<String> {
        if self.has_key(signer.plain()) {
            return Some(format!("the key {} is revoked", signer.plain().fingerprint()));
        }
        let Signer::Certificate(certificate) = signer else { return None };
        if self.has_key(certificate.authority()) {
            return Some(format!(
                "the authority {} of its certificate is revoked",
                certificate.authority().fingerprint()
            ));
        }
        let is_revoked = self.certificates.iter().any(|revoked| revoked.has(certificate));
        let (id, serial) = (key::shown(certificate.id()), certificate.serial());
        is_revoked.then(|| format!("the certificate '{id}' with serial {serial} is revoked"))
    }

    fn has_key(&self, key: &Key) -> bool {
        self.keys.contains(key.blob())
            || (!self.sha1.is_empty() && self.sha1.contains::<[u8; 20]>(&Sha1::digest(key.blob()).into()))
            || (!self.sha256.is_empty() && self.sha256.contains::<[u8; 32]>(&Sha256::digest(key.blob()).into()))
    }

    fn read_line(&mut self, line: &str) -> Result<(), String> {
        // OpenSSH takes a line with nothing but a carriage return for a broken key.
        if line.trim_start_matches([' ', '\t']) == "\r" {
            return Err("it is empty but for a carriage return; end the lines with a line feed alone".to_owned());
        }
        let line = line.strip_suffix('\r').unwrap_or(line).trim_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let (name, base64) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if Certificate::is_named(name) {
            return Err("it is a certificate; revoke it with ssh-keygen -k, or put its key here".to_owned());
        }
        let blob =
            key::blob(name, base64).map_err(|_| "it is no public key; a line is 'TYPE KEY [COMMENT]'".to_owned())?;
        self.add_key(&blob).map_err(|error| error.to_string())
    }

    fn add_key(&mut self, blob: &[u8]) -> Result<(), KeyError> {
        if let Some(key) = known(blob)? {
            self.keys.insert(key.blob().to_vec());
        }
        Ok(())
    }

    fn read_list(&mut self, mut rest: &[u8]) -> Result<(), String> {
        let broken = |_: Malformed| "it is cut off or damaged; make it again with ssh-keygen -k".to_owned();
        let version = wire::word(&mut rest).map_err(broken)?;
        let (_number, _made) = (wire::number(&mut rest).map_err(broken)?, wire::number(&mut rest).map_err(broken)?);
        let flags = wire::number(&mut rest).map_err(broken)?;
        let reserved = wire::string(&mut rest).map_err(broken)?;
        let comment = wire::string(&mut rest).map_err(broken)?;
        if comment.contains(&0) {
            return Err(broken(Malformed));
        }
        if version != 1 || flags != 0 || !reserved.is_empty() {
            return Err("it is of a newer format; make it with ssh-keygen -k of this machine".to_owned());
        }
        while !rest.is_empty() {
            let kind = wire::byte(&mut rest).map_err(broken)?;
            let content = wire::string(&mut rest).map_err(broken)?;
            self.read_section(kind, content)?;
        }
        Ok(())
    }

    fn read_section(&mut self, kind: u8, mut rest: &[u8]) -> Result<(), String> {
        let broken = |_: Malformed| "a section of it is damaged; make it again with ssh-keygen -k".to_owned();
        if kind == section::CERTIFICATES {
            let certificates = Certificates::read(rest)?;
            self.certificates.push(certificates);
            return Ok(());
        }
        while !rest.is_empty() {
            let item = wire::string(&mut rest).map_err(broken)?;
            match kind {
                section::KEYS => {
                    self.add_key(item).map_err(|error| format!("one of its keys cannot be read: {error}"))?;
                }
                section::SHA1 => _ = self.sha1.insert(item.try_into().map_err(|_| broken(Malformed))?),
                section::SHA256 => _ = self.sha256.insert(item.try_into().map_err(|_| broken(Malformed))?),
                _ => return Err(unknown(kind)),
            }
        }
        match kind {
            section::KEYS | section::SHA1 | section::SHA256 => Ok(()),
            _ => Err(unknown(kind)),
        }
    }
}

impl Certificates {
    fn read(mut rest: &[u8]) -> Result<Self, String> {
        let broken =
            |_: Malformed| "a section about certificates is damaged; make it again with ssh-keygen -k".to_owned();
        let authority = wire::string(&mut rest).map_err(broken)?;
        let _reserved = wire::string(&mut rest).map_err(broken)?;
        if !authority.is_empty() {
            known(authority).map_err(|error| format!("an authority in it cannot be read: {error}"))?;
        }
        let mut certificates = Self { authority: authority.to_vec(), serials: Vec::new(), ids: HashSet::new() };
        while !rest.is_empty() {
            let kind = wire::byte(&mut rest).map_err(broken)?;
            let content = wire::string(&mut rest).map_err(broken)?;
            if !matches!(kind, part::SERIALS..=part::IDS) {
                return Err(unknown(kind));
            }
            certificates.read_part(kind, content).map_err(broken)?;
        }
        Ok(certificates)
    }

    fn read_part(&mut self, kind: u8, mut rest: &[u8]) -> Result<(), Malformed> {
        match kind {
            part::RANGE => {
                let (first, last) = (wire::number(&mut rest)?, wire::number(&mut rest)?);
                self.serials.push(Serials::range(first, last)?);
            }
            part::BITMAP => {
                let first = wire::number(&mut rest)?;
                self.serials.push(Serials::bitmap(first, wire::string(&mut rest)?)?);
            }
            part::SERIALS => {
                while !rest.is_empty() {
                    let serial = wire::number(&mut rest)?;
                    self.serials.push(Serials::range(serial, serial)?);
                }
            }
            _ => {
                while !rest.is_empty() {
                    self.ids.insert(wire::text(&mut rest)?.to_owned());
                }
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    fn has(&self, certificate: &Certificate) -> bool {
        (self.authority.is_empty() || self.authority == certificate.authority().blob())
            && (self.ids.contains(certificate.id())
                || self.serials.iter().any(|serials| serials.has(certificate.serial())))
    }
}

impl Serials {
    /// Zero is what a certificate without a serial has. OpenSSH does not let it be revoked.
    const fn range(first: u64, last: u64) -> Result<Self, Malformed> {
        if first == 0 || first > last { Err(Malformed) } else { Ok(Self::Range(first, last)) }
    }

    fn bitmap(first: u64, number: &[u8]) -> Result<Self, Malformed> {
        // A number whose highest bit is set would be negative.
        if number.first().is_some_and(|byte| byte & 0x80 != 0) {
            return Err(Malformed);
        }
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let bits = &number[zeros..];
        let Some((highest, lower)) = bits.split_first() else { return Ok(Self::Bitmap(first, Vec::new())) };
        let last = u64::from(highest.ilog2()) + 8 * lower.len() as u64;
        let has_zero = first == 0 && bits.last().is_some_and(|byte| byte & 1 == 1);
        if bits.len() > BITMAP_BYTES || has_zero || first.checked_add(last).is_none() {
            return Err(Malformed);
        }
        Ok(Self::Bitmap(first, bits.to_vec()))
    }

    fn has(&self, serial: u64) -> bool {
        match self {
            Self::Range(first, last) => (*first..=*last).contains(&serial),
            Self::Bitmap(first, bits) => serial.checked_sub(*first).is_some_and(|bit| {
                let byte = usize::try_from(bit / 8).ok().and_then(|byte| bits.iter().rev().nth(byte));
                byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
            }),
        }
    }
}

/// The key, unless it is of a type that is never accepted: such a one needs no revoking. In another spelling it would
/// never be found.
fn known(blob: &[u8]) -> Result<Option<Key>, KeyError> {
    match Key::from_bytes(blob) {
        Ok(key) => Ok(Some(key)),
        Err(KeyError::Algorithm(name)) if key::OTHERS.contains(&name.as_str()) => {
            ssh_key::PublicKey::from_bytes(blob).map(|_| None).map_err(|_| KeyError::Malformed)
        }
        Err(error) => Err(error),
    }
}

fn unknown(kind: u8) -> String {
    format!("it has a part of the unknown kind {kind}; make it with ssh-keygen -k of this machine")
}
