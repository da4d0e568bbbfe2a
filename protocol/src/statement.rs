//! What a host states about the end of a command: the fields of a result hash.
//!
//! | field | content |
//! |---|---|
//! | `statement` | the [`Statement`]: `MessagePack` with named fields |
//! | `signature` | SSHSIG by the host's key over exactly these bytes, in the namespace [`HOST`] |
//! | `stdout`, `stderr`, `data` | what the statement has digests of |
//! | all others | the statement once more, in plain text for people: programs never read them |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    limits,
    name::{HostName, JobId, Namespace},
    outcome::{Captured, Outcome, State},
    secret::{Digest, digest},
    signed::{Document, DocumentError, Fields, Signed},
    time,
    trust::{UNSIGNED, signing::SigningKey, sshsig::HOST},
};

/// The command that a statement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The fleet.
    pub namespace: Option<&'a Namespace>,
    /// The job.
    pub job: JobId,
    /// The host.
    pub host: &'a HostName,
    /// The digest of the manifest's bytes, as they were received, or as the order to cancel names it. None where a
    /// journal of an earlier build does not tell.
    pub manifest: Option<Digest>,
    /// Its name where the host does not accept the operator's signature: see [`unverified`]. None for whoever writes a
    /// statement.
    pub unverified: Option<Digest>,
}

/// Names a command whose operator's signature a host does not accept. It depends on the signature, too: the host's
/// refusal of a copy without the true signature must not pass for its refusal of the command.
pub fn unverified(manifest: &[u8], signature: &[u8]) -> Digest {
    digest(&[b"redfleet-unverified@v1", &digest(manifest)[..], signature].concat())
}

/// A host's statement about the end of a command: the document that its signature covers. It names the command, so that
/// it cannot be moved to another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Statement {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<Namespace>,
    job: JobId,
    host: HostName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<Digest>,
    /// The outcome without output and data.
    outcome: Outcome,
    /// Digests of the fields that hold output and data, by field name.
    digests: BTreeMap<String, Digest>,
}

impl Document for Statement {
    const FIELD: &'static str = "statement";
    const MAX_BYTES: usize = limits::STATEMENT_BYTES;
}

/// Fields of a result hash that may be large: the statement has digests of them.
const BULKY: [&str; 3] = ["stdout", "stderr", "data"];

/// Why a result is not what its host states about this command.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// The statement is absent or malformed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The statement is about another job, host or fleet.
    #[error("the statement is about another command")]
    Foreign,
    /// The statement is about a command that somebody else sent under the id of this job.
    #[error("the statement is about another command with the id of this job")]
    Manifest,
    /// A field is not the one that the statement has a digest of.
    #[error("the field '{0}' was altered")]
    Altered(&'static str),
}

/// The result hash's fields: plain text for people, with units in the names, and the signed [`Statement`] for programs.
/// Absent values are left out.
pub fn fields(outcome: &Outcome, about: &Subject<'_>, key: &SigningKey) -> Vec<(&'static str, Vec<u8>)> {
    let moment = |moment| time::show_moment(moment).into_bytes();
    let mut fields: Vec<(&'static str, Vec<u8>)> = vec![("status", outcome.state.as_str().into())];
    let mut add = |name, value: Option<Vec<u8>>| fields.extend(value.map(|value| (name, value)));
    add("reason", outcome.reason.clone().map(String::into_bytes));
    add("exit_code", outcome.exit_code.map(|code| code.to_string().into_bytes()));
    add("signal", outcome.signal.map(|signal| signal.to_string().into_bytes()));
    add("started_at", outcome.started_at_ms.map(moment));
    add("finished_at", Some(moment(outcome.finished_at_ms)));
    for (captured, kept, written, cut) in [
        (&outcome.stdout, "stdout", "stdout_bytes", "stdout_cut_bytes"),
        (&outcome.stderr, "stderr", "stderr_bytes", "stderr_cut_bytes"),
    ] {
        let count = |bytes: u64| (bytes > 0).then(|| bytes.to_string().into_bytes());
        add(kept, (captured.written_bytes > 0).then(|| captured.kept.clone()));
        add(written, count(captured.written_bytes));
        add(cut, count(captured.cut_bytes));
    }
    add("data", outcome.data.as_ref().map(|data| serde_json::json!(data).to_string().into_bytes()));

    let bulky = fields.iter().filter(|(name, _)| BULKY.contains(name));
    let digests = bulky.map(|(name, value)| ((*name).to_owned(), digest(value))).collect();
    let mut signed = Signed::unsigned(&Statement::of(outcome, about, digests));
    if !UNSIGNED {
        signed.signature = key.sign(HOST, &signed.bytes);
    }
    fields.extend(signed.fields());
    fields
}

impl Statement {
    fn of(outcome: &Outcome, about: &Subject<'_>, digests: BTreeMap<String, Digest>) -> Self {
        let counts = |captured: &Captured| Captured { kept: Vec::new(), ..*captured };
        let (stdout, stderr, reason) = (counts(&outcome.stdout), counts(&outcome.stderr), outcome.reason.clone());
        Self {
            namespace: about.namespace.cloned(),
            job: about.job,
            host: about.host.clone(),
            manifest: about.manifest,
            outcome: Outcome { stdout, stderr, reason, data: None, ..*outcome },
            digests,
        }
    }

    /// The digest of the manifest that it is about.
    pub const fn manifest(&self) -> Option<Digest> {
        self.manifest
    }

    /// Whether it is about this command.
    fn is_about(&self, about: &Subject<'_>) -> Result<(), OutcomeError> {
        if self.namespace.as_ref() != about.namespace || self.job != about.job || self.host != *about.host {
            return Err(OutcomeError::Foreign);
        }
        let is_refused =
            self.outcome.state == State::Rejected && self.manifest.is_some() && self.manifest == about.unverified;
        if self.manifest == about.manifest || is_refused { Ok(()) } else { Err(OutcomeError::Manifest) }
    }
}

/// A result hash as it was read: nothing of it is decoded or believed yet.
#[derive(Clone, Debug)]
pub struct Report {
    /// The statement, whose signature is still to be verified.
    pub signed: Signed<Statement>,
    fields: Fields,
}

impl Report {
    /// Takes the statement out of a result hash. Only sizes are checked.
    ///
    /// # Errors
    /// There is no statement, or it is too large.
    pub fn take(mut fields: Fields) -> Result<Self, OutcomeError> {
        Ok(Self { signed: Signed::take(&mut fields)?, fields })
    }

    /// Decodes the outcome, of which the statement must be about this command and cover the output. Whoever calls has
    /// verified the signature.
    ///
    /// # Errors
    /// The statement is malformed, is about another command, or does not cover the output.
    pub fn open(mut self, about: &Subject<'_>) -> Result<Outcome, OutcomeError> {
        let statement = self.signed.open()?;
        statement.is_about(about)?;
        let mut take = |name: &'static str| match statement.digests.get(name) {
            None => Ok(None),
            Some(wanted) => match self.fields.remove(name) {
                Some(bytes) if digest(&bytes) == *wanted => Ok(Some(bytes)),
                _ => Err(OutcomeError::Altered(name)),
            },
        };
        let mut outcome = statement.outcome;
        outcome.stdout.kept = take("stdout")?.unwrap_or_default();
        outcome.stderr.kept = take("stderr")?.unwrap_or_default();
        let data = take("data")?.map(|data| serde_json::from_slice(&data)).transpose();
        outcome.data = data.map_err(|_| OutcomeError::Altered("data"))?;
        Ok(outcome)
    }

    /// The state that the statement names, of which the output is not at hand.
    ///
    /// # Errors
    /// The statement is malformed, or is about another command.
    pub fn state(&self, about: &Subject<'_>) -> Result<State, OutcomeError> {
        let statement = self.signed.open()?;
        statement.is_about(about)?;
        Ok(statement.outcome.state)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;
    use crate::trust::sshsig::Signature;

    const JOB: &str = "019a0000-0000-7000-8000-000000000000";

    fn outcome() -> Outcome {
        Outcome {
            exit_code: Some(3),
            reason: Some("exit code 3".into()),
            started_at_ms: Some(1_790_000_000_001),
            stdout: Captured { kept: vec![0xff, b'x'], written_bytes: 2, cut_bytes: 0 },
            data: Some(Map::from_iter([("usage".to_owned(), Value::from(7.5))])),
            ..Outcome::bare(State::Failed, None, 1_790_000_000_042)
        }
    }

    fn web1() -> HostName {
        "web1".parse().unwrap()
    }

    fn about(host: &HostName) -> Subject<'_> {
        let manifest = Some(digest(b"manifest"));
        Subject { namespace: None, job: JOB.parse().unwrap(), host, manifest, unverified: None }
    }

    fn hash(outcome: &Outcome, about: &Subject<'_>) -> Fields {
        let fields = fields(outcome, about, &SigningKey::generate());
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn read(fields: Fields, about: &Subject<'_>) -> Result<Outcome, OutcomeError> {
        Report::take(fields)?.open(about)
    }

    #[test]
    fn an_outcome_reads_back_from_its_hash() {
        let (web1, web2, prod) = (web1(), "web2".parse().unwrap(), "prod".parse().unwrap());
        let about = about(&web1);
        for outcome in [outcome(), Outcome::bare(State::Succeeded, None, 1_790_000_000_042)] {
            let hash = hash(&outcome, &about);
            assert_eq!(read(hash.clone(), &about).unwrap(), outcome);
            assert_eq!(Report::take(hash.clone()).unwrap().state(&about).unwrap(), outcome.state);
            for other in [
                Subject { host: &web2, ..about },
                Subject { job: JobId::new(), ..about },
                Subject { namespace: Some(&prod), ..about },
            ] {
                assert!(matches!(read(hash.clone(), &other), Err(OutcomeError::Foreign)));
                assert!(Report::take(hash.clone()).unwrap().state(&other).is_err());
            }
            for manifest in [Some(digest(b"another")), None] {
                assert!(matches!(read(hash.clone(), &Subject { manifest, ..about }), Err(OutcomeError::Manifest)));
            }
        }
        assert!(matches!(read(Fields::new(), &about), Err(OutcomeError::Document(_))));
    }

    #[test]
    fn the_refusal_of_a_copy_with_another_signature_is_about_another_command() {
        let web1 = web1();
        let refused = |signature: &[u8]| Subject { manifest: Some(unverified(b"manifest", signature)), ..about(&web1) };
        let reader = Subject { unverified: Some(unverified(b"manifest", b"true")), ..about(&web1) };
        let rejected = Outcome::bare(State::Rejected, Some("unknown key".into()), 1_790_000_000_042);
        assert_eq!(read(hash(&rejected, &refused(b"true")), &reader).unwrap().state, State::Rejected);
        for signature in [&b""[..], b"false"] {
            assert!(matches!(read(hash(&rejected, &refused(signature)), &reader), Err(OutcomeError::Manifest)));
        }
        let succeeded = Outcome::bare(State::Succeeded, None, 1_790_000_000_042);
        assert!(read(hash(&succeeded, &refused(b"true")), &reader).is_err(), "such a command never runs");
    }

    #[test]
    fn the_statement_is_signed() {
        let (web1, key) = (web1(), SigningKey::generate());
        let fields = fields(&outcome(), &about(&web1), &key);
        let report = Report::take(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()).unwrap();
        let signature = Signature::from_bytes(&report.signed.signature).unwrap();
        signature.verify(HOST, &report.signed.bytes).unwrap();
        assert_eq!(signature.blob(), key.public().blob());
    }

    /// The bytes of wire version 1, frozen: every later version must read them.
    #[test]
    fn wire_1_fixture_is_read() {
        let web1 = web1();
        let mut fields = hash(&outcome(), &about(&web1));
        fields.insert("statement".into(), include_bytes!("../fixtures/signed-statement-v1.msgpack").to_vec());
        fields.insert("signature".into(), include_bytes!("../fixtures/signed-statement-v1.sig").to_vec());
        let report = Report::take(fields).unwrap();
        let signature = Signature::from_bytes(&report.signed.signature).unwrap();
        signature.verify(HOST, &report.signed.bytes).unwrap();
        assert_eq!(signature.signer().plain().line(), include_str!("../fixtures/signed-statement-v1.pub").trim());
        assert_eq!(report.open(&about(&web1)).unwrap(), outcome());
        // The first ones named no manifest.
        let bytes = include_bytes!("../fixtures/statement-v1.msgpack").to_vec();
        let statement = Signed::<Statement>::of_bytes(bytes, Vec::new()).open().unwrap();
        assert_eq!((statement.job, statement.host, statement.manifest), (JOB.parse().unwrap(), web1, None));
    }

    #[test]
    fn what_the_statement_does_not_cover_is_not_believed() {
        let web1 = web1();
        let about = about(&web1);
        for name in ["stdout", "data"] {
            let mut fields = hash(&outcome(), &about);
            fields.insert(name.into(), b"{}".to_vec());
            let error = read(fields, &about).unwrap_err();
            assert!(matches!(error, OutcomeError::Altered(altered) if altered == name));
        }
        // The plain fields are for people; programs use the statement.
        let mut fields = hash(&outcome(), &about);
        fields.insert("status".into(), b"succeeded".to_vec());
        assert_eq!(read(fields, &about).unwrap().state, State::Failed);
    }
}
