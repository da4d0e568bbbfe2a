//! A command on the wire: the stream entry that a controller adds to a host's inbox.
//!
//! | field | content |
//! |---|---|
//! | `version` | the wire version in decimal |
//! | `manifest` | the [`Manifest`]: `MessagePack` with named fields, the same bytes for all of a job's hosts |
//! | `signature` | over exactly the manifest's bytes; empty while commands are unsigned |
//! | `proof` | this host's [`Proof`] of being a target, `MessagePack` with named fields |

use std::collections::HashMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    WIRE_VERSION,
    action::Arguments,
    limits,
    name::{HostName, JobId},
    targets::{Proof, TargetRoot},
    time::Millis,
};

/// What is asked. Unknown fields are ignored, so that new controllers can add some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The job, the same for all its hosts.
    pub job: JobId,
    /// The action's name; a worker that does not know it answers `rejected`.
    pub action: String,
    /// The action's arguments.
    #[serde(default)]
    pub arguments: Arguments,
    /// Who asks, as the controller claims.
    pub operator: String,
    /// When it was asked.
    pub issued_at_ms: Millis,
    /// After this moment it must not start any more.
    pub start_by_ms: Millis,
    /// How long it may run, in milliseconds.
    pub timeout_ms: u64,
    /// How long its results are kept, in milliseconds.
    pub retention_ms: u64,
    /// For which hosts it is meant.
    pub targets: TargetRoot,
    /// W3C trace context (`traceparent`), where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

/// A command as it travels, with the exact bytes that were (or will be) signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The encoded [`Manifest`].
    pub manifest: Vec<u8>,
    /// The signature over [`Self::manifest`]; empty while commands are unsigned.
    pub signature: Vec<u8>,
    /// The host's proof.
    pub proof: Proof,
}

/// Why a stream entry is not a command. Such an entry names no job that could be answered, so it is
/// dropped and counted under [`EntryError::reason`].
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// A field is missing.
    #[error("the entry has no field '{0}'")]
    Missing(&'static str),
    /// A field is larger than its limit.
    #[error("the field '{0}' has {1} bytes")]
    Oversize(&'static str, usize),
    /// Written by a controller whose wire version this worker cannot read.
    #[error("wire version '{0}' is not {WIRE_VERSION}")]
    Version(String),
    /// Not the encoding that the version promises.
    #[error("the field '{0}' is malformed: {1}")]
    Malformed(&'static str, String),
}

impl EntryError {
    /// The name of the drop counter in the host's status: `dropped_` and this.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::Malformed(..) => "malformed",
            Self::Oversize(..) => "oversize",
            Self::Version(_) => "unknown_version",
        }
    }

    /// All reasons.
    pub const REASONS: [&'static str; 3] = ["malformed", "oversize", "unknown_version"];
}

impl Manifest {
    /// The bytes that travel and are signed.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads what [`Self::encode`] wrote; bytes behind it are refused.
    ///
    /// # Errors
    /// [`EntryError::Oversize`] before anything is decoded, [`EntryError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        decode("manifest", bytes, limits::MANIFEST_BYTES)
    }
}

/// A stream entry's fields.
pub type Fields = HashMap<String, Vec<u8>>;

impl Envelope {
    /// The stream entry's fields and values.
    pub fn fields(&self) -> [(&'static str, Vec<u8>); 4] {
        [
            ("version", WIRE_VERSION.to_string().into_bytes()),
            ("manifest", self.manifest.clone()),
            ("signature", self.signature.clone()),
            ("proof", encode(&self.proof)),
        ]
    }

    /// Reads a stream entry: sizes first, then the version, then the encoding.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn from_fields(mut fields: Fields) -> Result<(Self, Manifest), EntryError> {
        let version = take(&mut fields, "version", 16)?;
        if version != WIRE_VERSION.to_string().as_bytes() {
            return Err(EntryError::Version(String::from_utf8_lossy(&version).into_owned()));
        }
        let manifest = take(&mut fields, "manifest", limits::MANIFEST_BYTES)?;
        let signature = take(&mut fields, "signature", limits::SIGNATURE_BYTES)?;
        let proof = take(&mut fields, "proof", limits::PROOF_BYTES)?;
        let proof = decode("proof", &proof, limits::PROOF_BYTES)?;
        let decoded = Manifest::decode(&manifest)?;
        Ok((Self { manifest, signature, proof }, decoded))
    }

    /// Whether this command is meant for `host`.
    pub fn is_for(&self, manifest: &Manifest, host: &HostName) -> bool {
        manifest.targets.includes(host, &self.proof)
    }
}

fn take(fields: &mut Fields, name: &'static str, limit: usize) -> Result<Vec<u8>, EntryError> {
    let value = fields.remove(name).ok_or(EntryError::Missing(name))?;
    if value.len() > limit { Err(EntryError::Oversize(name, value.len())) } else { Ok(value) }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("plain data always encodes")
}

fn decode<T: DeserializeOwned>(name: &'static str, bytes: &[u8], limit: usize) -> Result<T, EntryError> {
    if bytes.len() > limit {
        return Err(EntryError::Oversize(name, bytes.len()));
    }
    let malformed = |reason: String| EntryError::Malformed(name, reason);
    let mut decoder = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
    // Far above what the types need, far below what could exhaust the stack.
    decoder.set_max_depth(16);
    let value = T::deserialize(&mut decoder).map_err(|error| malformed(error.to_string()))?;
    let rest = bytes.len() as u64 - decoder.get_ref().position();
    if rest > 0 { Err(malformed(format!("{rest} bytes behind the end"))) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{action::Argument, targets::Targets};

    fn manifest(targets: &Targets) -> Manifest {
        Manifest {
            job: "019a0000-0000-7000-8000-000000000000".parse().unwrap(),
            action: "exec".into(),
            arguments: Arguments::from([("argv".into(), Argument::List(vec!["uname".into(), "-a".into()]))]),
            operator: "ann@desk".into(),
            issued_at_ms: 1_790_000_000_000,
            start_by_ms: 1_790_000_300_000,
            timeout_ms: 60_000,
            retention_ms: 604_800_000,
            targets: targets.root(),
            trace: None,
        }
    }

    fn entry() -> Fields {
        let targets = Targets::new(["web1".parse().unwrap()]);
        let (_, proof) = targets.proofs().next().unwrap();
        let envelope = Envelope { manifest: manifest(&targets).encode(), signature: vec![], proof };
        envelope.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn an_entry_reads_back() {
        let (envelope, decoded) = Envelope::from_fields(entry()).unwrap();
        assert_eq!(decoded.action, "exec");
        assert!(envelope.is_for(&decoded, &"web1".parse().unwrap()));
        assert!(!envelope.is_for(&decoded, &"web2".parse().unwrap()));
    }

    /// The bytes of wire version 1, frozen: what was written then must be read for ever.
    #[test]
    fn wire_1_fixture_is_read() {
        let bytes = include_bytes!("../fixtures/manifest-v1.msgpack");
        let targets = Targets::new(["web1".parse().unwrap()]);
        assert_eq!(Manifest::decode(bytes).unwrap(), manifest(&targets));
    }

    #[test]
    fn fields_from_the_future_are_ignored_and_absent_optional_ones_filled() {
        #[derive(Serialize)]
        struct Newer {
            #[serde(flatten)]
            manifest: Manifest,
            mood: &'static str,
        }
        let manifest = manifest(&Targets::new(["web1".parse().unwrap()]));
        let bytes = encode(&Newer { manifest: manifest.clone(), mood: "calm" });
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
    }

    #[test]
    fn bad_entries_are_named() {
        let reason = |change: &dyn Fn(&mut Fields)| {
            let mut fields = entry();
            change(&mut fields);
            Envelope::from_fields(fields).unwrap_err().reason()
        };
        assert_eq!(reason(&|fields| drop(fields.remove("proof"))), "malformed");
        assert_eq!(reason(&|fields| drop(fields.insert("version".into(), b"2".to_vec()))), "unknown_version");
        assert_eq!(reason(&|fields| drop(fields.insert("manifest".into(), vec![0; 200_000]))), "oversize");
        assert_eq!(reason(&|fields| fields.get_mut("manifest").unwrap().push(0)), "malformed");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, at: usize, flip: u8) {
            let _ = Manifest::decode(&bytes);
            let mut fields = entry();
            let manifest = fields.get_mut("manifest").unwrap();
            let at = at % manifest.len();
            manifest[at] ^= flip;
            let _ = Envelope::from_fields(fields);
        }
    }
}
