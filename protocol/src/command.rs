//! A command on the wire: the stream entry that a controller adds to a host's inbox.
//!
//! | field | content |
//! |---|---|
//! | `version` | the wire version in decimal |
//! | `manifest` | the [`Manifest`]: `MessagePack` with named fields, the same bytes for all of a job's hosts |
//! | `signature` | the operator's over exactly the manifest's bytes: a binary SSHSIG, namespace `redfleet-job@v1`; of a run of a standing order, what vouches for it: see [`crate::standing`] |
//! | `proof` | this host's [`Proof`] of being a target, `MessagePack` with named fields |
//! | `key` | the key of the secrets in the manifest, sealed to this host, see [`crate::sealing`]; absent where there are none |
//! | `approvals` | signatures of others over the manifest, see [`crate::approval`]; absent where there are none |

use serde::{Deserialize, Serialize};

use crate::{
    WIRE_VERSION,
    action::Arguments,
    limits,
    name::{HostName, JobId, Namespace, Salt},
    secret::Sealed,
    signed::{self, Document, DocumentError, Fields, Signed},
    targets::{Proof, TargetRoot},
    time::Millis,
    unique::unique,
};

/// The content of a command. Unknown fields are ignored, so that newer controllers can add some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The job, the same for all its hosts: see [`JobId::derive`].
    pub job: JobId,
    /// Makes the job's id unique.
    pub salt: Salt,
    /// The action's name; a worker that does not know it reports `rejected`.
    pub action: String,
    /// The action's arguments, without those that are secret.
    #[serde(default, deserialize_with = "unique")]
    pub arguments: Arguments,
    /// The secret arguments, encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Sealed>,
    /// The operator: the principal whose key signed the manifest.
    pub operator: String,
    /// When the command was issued.
    pub issued_at_ms: Millis,
    /// The command must not start after this moment.
    pub start_by_ms: Millis,
    /// How long it may run, in milliseconds.
    pub timeout_ms: u64,
    /// How long its results are kept, in milliseconds.
    pub retention_ms: u64,
    /// How many bytes of each output stream its result keeps, where not [`limits::OUTPUT_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_output: Option<u64>,
    /// The hosts that the command is meant for.
    pub targets: TargetRoot,
    /// The namespace of the hosts: hosts of other fleets may have the same names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// W3C trace context (`traceparent`), where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

impl Manifest {
    /// Whether the job's id is the one that its operator can give it.
    pub fn has_its_own_id(&self) -> bool {
        self.job == JobId::derive(&self.operator, self.issued_at_ms, &self.salt)
    }

    /// The names of its secret arguments.
    pub fn secret_names(&self) -> impl Iterator<Item = &String> {
        self.sealed.iter().flat_map(|sealed| &sealed.names)
    }

    /// How many bytes of each output stream its result keeps, within the bound.
    pub fn kept_output(&self) -> usize {
        let wanted = self.keep_output.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        wanted.unwrap_or(limits::OUTPUT_BYTES).min(limits::OUTPUT_BYTES_MAX)
    }
}

impl Document for Manifest {
    const FIELD: &'static str = "manifest";
    const MAX_BYTES: usize = limits::MANIFEST_BYTES;
    const VOUCHER_BYTES: usize = limits::VOUCHER_BYTES;
}

/// A document that is meant for certain hosts.
pub trait Addressed: Document {
    /// The hosts that the document is meant for.
    fn targets(&self) -> &TargetRoot;
}

impl Addressed for Manifest {
    fn targets(&self) -> &TargetRoot {
        &self.targets
    }
}

/// A document on its way to one of its hosts.
#[derive(Clone, Debug)]
pub struct Envelope<T> {
    /// The same for all its hosts.
    pub signed: Signed<T>,
    /// The proof that the host is one of them.
    pub proof: Proof,
}

/// Why a stream entry cannot be used. Such an entry names no job that a worker could report on, so it is dropped and
/// counted under [`EntryError::reason`].
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// A field is missing, too large or malformed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The entry has a wire version that this program cannot read.
    #[error("wire version '{0}' is not {WIRE_VERSION}")]
    Version(String),
    /// A control entry of a kind that this program does not know.
    #[error("unknown kind of control entry")]
    Kind,
    /// The document is meant for other hosts.
    #[error("it is not meant for this host")]
    NotForThisHost,
}

impl EntryError {
    /// The name of the drop counter in the host's status: `dropped_` and this.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Document(DocumentError::Oversize(..)) => "oversize",
            Self::Document(_) | Self::Kind => "malformed",
            Self::Version(_) => "unknown_version",
            Self::NotForThisHost => "not_for_this_host",
        }
    }

    /// All reasons.
    pub const REASONS: [&'static str; 4] = ["malformed", "oversize", "unknown_version", "not_for_this_host"];
}

impl<T: Addressed> Envelope<T> {
    /// The stream entry's fields and values.
    pub fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut fields = vec![("version", WIRE_VERSION.to_string().into_bytes())];
        fields.extend(self.signed.fields());
        fields.push(("proof", signed::encode(&self.proof)));
        fields
    }

    /// Takes an envelope out of a stream entry: sizes first, then the version. Nothing but the proof is
    /// decoded.
    ///
    /// # Errors
    /// Every [`EntryError`] but [`EntryError::NotForThisHost`].
    pub fn take(fields: &mut Fields) -> Result<Self, EntryError> {
        let version = signed::take(fields, "version", 16)?;
        match (Signed::take(fields), signed::take(fields, "proof", limits::PROOF_BYTES)) {
            (Err(oversize @ DocumentError::Oversize(..)), _) | (_, Err(oversize @ DocumentError::Oversize(..))) => {
                Err(oversize.into())
            }
            // An entry of another version may lack these fields.
            _ if version != WIRE_VERSION.to_string().as_bytes() => {
                Err(EntryError::Version(String::from_utf8_lossy(&version).into_owned()))
            }
            (signed, proof) => {
                Ok(Self { signed: signed?, proof: signed::decode("proof", &proof?, limits::PROOF_BYTES)? })
            }
        }
    }

    /// Decodes the document, which must be meant for `host`.
    ///
    /// # Errors
    /// The document is malformed, or meant for other hosts.
    pub fn open(&self, host: &HostName) -> Result<T, EntryError> {
        let document = self.signed.open()?;
        if document.targets().includes(host, &self.proof) { Ok(document) } else { Err(EntryError::NotForThisHost) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        action::Argument,
        control::CancelOrder,
        outcome::{Outcome, State},
        sealing::{SealingKey, UnsealingKey},
        statement::{self, Statement, Subject},
        targets::Targets,
        trust::signing::SigningKey,
    };

    fn manifest(targets: &Targets) -> Manifest {
        Manifest {
            job: JobId::derive("ann@desk", 1_790_000_000_000, &Salt::new([7; 16])),
            salt: Salt::new([7; 16]),
            action: "exec".into(),
            arguments: Arguments::from([("argv".into(), Argument::List(vec!["uname".into(), "-a".into()]))]),
            sealed: None,
            operator: "ann@desk".into(),
            issued_at_ms: 1_790_000_000_000,
            start_by_ms: 1_790_000_300_000,
            timeout_ms: 60_000,
            retention_ms: 604_800_000,
            keep_output: None,
            targets: targets.root(),
            namespace: None,
            trace: None,
        }
    }

    fn entry() -> Fields {
        let targets = Targets::new(["web1".parse().unwrap()]);
        let (_, proof) = targets.proofs().next().unwrap();
        let envelope = Envelope { signed: Signed::unsigned(&manifest(&targets)), proof };
        envelope.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn read(mut fields: Fields) -> Result<Manifest, EntryError> {
        Envelope::take(&mut fields)?.open(&"web1".parse().unwrap())
    }

    #[test]
    fn nobody_else_can_issue_a_job_of_that_id() {
        let manifest = manifest(&Targets::new(["web1".parse().unwrap()]));
        assert!(manifest.has_its_own_id());
        assert!(!Manifest { operator: "mallory".into(), ..manifest.clone() }.has_its_own_id());
        assert!(!Manifest { issued_at_ms: 0, ..manifest }.has_its_own_id());
    }

    #[test]
    fn an_entry_reads_back_on_its_host_only() {
        assert_eq!(read(entry()).unwrap().action, "exec");
        let envelope = Envelope::<Manifest>::take(&mut entry()).unwrap();
        assert_eq!(envelope.open(&"web2".parse().unwrap()).unwrap_err().reason(), "not_for_this_host");
    }

    /// The bytes of wire version 1, frozen: every later version must read them.
    #[test]
    fn wire_1_fixture_is_read() {
        let bytes = include_bytes!("../fixtures/manifest-v1.msgpack").to_vec();
        let targets = Targets::new(["web1".parse().unwrap()]);
        assert_eq!(bytes, Signed::unsigned(&manifest(&targets)).bytes);
        let fixture = Signed::<Manifest>::of_bytes(bytes, Vec::new());
        assert_eq!(fixture.open().unwrap(), manifest(&targets));
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
        let bytes = signed::encode(&Newer { manifest: manifest.clone(), mood: "calm" });
        assert_eq!(Signed::<Manifest>::of_bytes(bytes, Vec::new()).open().unwrap(), manifest);
    }

    fn opens<T: Document>(bytes: &[u8]) -> bool {
        Signed::<T>::of_bytes(bytes.to_vec(), Vec::new()).open().is_ok()
    }

    /// A signature must not be valid for another kind of document.
    #[test]
    fn no_document_opens_as_another() {
        let targets = Targets::new(["web1".parse().unwrap()]);
        let manifest = manifest(&targets);
        let (job, host) = (manifest.job, "web1".parse().unwrap());
        let order = CancelOrder::new(&manifest, &Signed::unsigned(&manifest), targets.root(), "ann".into(), 0);
        let about = Subject { namespace: None, job, host: &host, manifest: None, unverified: None };
        let outcome = statement::fields(&Outcome::bare(State::Succeeded, None, 0), &about, &SigningKey::generate());
        let (_, statement) = outcome.into_iter().find(|(name, _)| *name == Statement::FIELD).unwrap();
        let key = UnsealingKey::generate().public(None, "web1".parse().unwrap());
        let all = [signed::encode(&manifest), signed::encode(&order), statement, signed::encode(&key)];
        assert_eq!(all.each_ref().map(|bytes| opens::<Manifest>(bytes)), [true, false, false, false]);
        assert_eq!(all.each_ref().map(|bytes| opens::<CancelOrder>(bytes)), [false, true, false, false]);
        assert_eq!(all.each_ref().map(|bytes| opens::<Statement>(bytes)), [false, false, true, false]);
        assert_eq!(all.each_ref().map(|bytes| opens::<SealingKey>(bytes)), [false, false, false, true]);
    }

    #[test]
    fn bad_entries_are_named() {
        let reason = |change: &dyn Fn(&mut Fields)| {
            let mut fields = entry();
            change(&mut fields);
            read(fields).unwrap_err().reason()
        };
        assert_eq!(reason(&|fields| drop(fields.remove("proof"))), "malformed");
        assert_eq!(reason(&|fields| drop(fields.insert("version".into(), b"2".to_vec()))), "unknown_version");
        assert_eq!(reason(&|fields| drop(fields.insert("manifest".into(), vec![0; 200_000]))), "oversize");
        assert_eq!(reason(&|fields| fields.get_mut("manifest").unwrap().push(0)), "malformed");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, at: usize, flip: u8) {
            let _ = signed::decode::<Manifest>("manifest", &bytes, limits::MANIFEST_BYTES);
            let mut fields = entry();
            let manifest = fields.get_mut("manifest").unwrap();
            let at = at % manifest.len();
            manifest[at] ^= flip;
            let _ = read(fields);
        }
    }
}
