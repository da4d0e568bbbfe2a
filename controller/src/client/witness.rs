//! Whether what Redis has as a result is what its host states.
//!
//! Who can write to Redis can write results. So a result counts only if it is signed by the key of its host.

use std::{collections::HashSet, path::PathBuf};

use protocol::{
    name::{HostName, JobId, Namespace},
    secret::{Digest, digest},
    statement::{self, Report},
    trust::{
        UNSIGNED,
        batch::{self, Claim},
        key::{self, Key},
        sshsig::{HOST, SignatureError},
    },
};

use super::known_hosts::{KnownHosts, known_name};

/// A host whose key was not known before, and is trusted from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// The host.
    pub host: HostName,
    /// How `ssh-keygen -l` calls its key.
    pub fingerprint: String,
}

/// A result that is signed by another key than that of its host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is signed by the key {shown}, and not by the host's own, {known}")]
pub struct ChangedKey {
    /// The host.
    pub host: HostName,
    /// How `ssh-keygen -l` calls the key that signed.
    pub shown: String,
    /// How it calls those that are known.
    pub known: String,
    /// The file that has these.
    pub file: Option<PathBuf>,
}

/// Why a result is not known to be by its host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unverified {
    /// It is not signed, or was altered.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Another key signed it.
    #[error(transparent)]
    Key(#[from] ChangedKey),
    /// The host's key is not known, and cannot be recorded.
    #[error("the host's key {shown} is not known, and cannot be recorded: {reason}")]
    Unknown {
        /// How `ssh-keygen -l` calls the key that signed.
        shown: String,
        /// Why it cannot be recorded.
        reason: String,
    },
}

/// Why secrets cannot be sealed to a host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unsealable {
    /// The host has not published a sealing key.
    #[error("it publishes no sealing key: its worker is an older one, or has not reported yet")]
    Missing,
    /// The key that it seems to publish is not known to be its own.
    #[error("its sealing key cannot be trusted: {0}")]
    Unverified(#[from] Unverified),
    /// The key is one of another host or fleet, or none.
    #[error("what it publishes as its sealing key is another host's, or malformed")]
    Foreign,
}

/// A result as it was read, and the command that it should be about.
#[derive(Debug)]
pub(super) struct Testimony<'a> {
    pub(super) host: &'a HostName,
    pub(super) job: JobId,
    pub(super) names: Names,
    pub(super) report: Report,
}

/// What a host's statements may name a command by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// The digest of the manifest's bytes.
    pub(super) manifest: Digest,
    /// See [`statement::unverified`].
    pub(super) unverified: Digest,
}

impl Names {
    pub(super) fn of(manifest: &[u8], signature: &[u8]) -> Self {
        Self { manifest: digest(manifest), unverified: statement::unverified(manifest, signature) }
    }
}

/// A document that names a host as its signer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said<'a> {
    pub(super) host: &'a HostName,
    pub(super) document: &'a [u8],
    pub(super) signature: &'a [u8],
}

/// What an operator should know about keys.
#[derive(Debug)]
pub(super) enum Notice {
    New(Vec<NewKey>),
    Changed(ChangedKey),
}

/// What becomes of the keys of hosts of which none is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strangers {
    /// They are recorded, and trusted from then on.
    Meet,
    /// A signature by one counts, and nothing is recorded: who only looks decides nothing.
    Overlook,
}

/// Verifies what hosts state, and remembers what an operator should know about keys.
#[derive(Debug, Default)]
pub(super) struct Witness {
    pub(super) known: KnownHosts,
    pub(super) notices: Vec<Notice>,
    /// Hosts whose other key was reported.
    alarmed: HashSet<HostName>,
}

impl Witness {
    /// Whether each document is signed by the key of its host, in order.
    pub(super) fn judge(
        &mut self,
        namespace: Option<&Namespace>,
        all: &[Said<'_>],
        strangers: Strangers,
    ) -> Vec<Result<(), Unverified>> {
        if UNSIGNED {
            return all.iter().map(|_| Ok(())).collect();
        }
        let names: Vec<_> = all.iter().map(|said| known_name(namespace, said.host)).collect();
        let refused = if strangers == Strangers::Meet { self.meet(all, &names) } else { None };
        let is_overlooked = |name: &str| strangers == Strangers::Overlook && self.known.keys(name).is_empty();
        let claimed = |(said, name): (&Said<'_>, &String)| if is_overlooked(name) { said.claimed_key() } else { None };
        let claimed: Vec<Option<Key>> = all.iter().zip(&names).map(claimed).collect();

        let mut verdicts = Vec::with_capacity(all.len());
        let (mut claims, mut places) = (Vec::new(), Vec::new());
        for (place, (said, name)) in all.iter().zip(&names).enumerate() {
            let known = match find(&self.known, name, said) {
                Ok(Some(key)) => Ok(key),
                Ok(None) => claimed[place].as_ref().ok_or_else(|| stranger(said, refused.as_deref())),
                Err(error) => Err(error),
            };
            verdicts.push(known.map(|key| {
                claims.push(said.claim(key));
                places.push(place);
            }));
        }
        for (place, verified) in places.into_iter().zip(batch::verify(HOST, &claims)) {
            verdicts[place] = verified.map_err(Unverified::from);
        }
        for verdict in &verdicts {
            if let Err(Unverified::Key(changed)) = verdict
                && self.alarmed.insert(changed.host.clone())
            {
                self.notices.push(Notice::Changed(changed.clone()));
            }
        }
        verdicts
    }

    /// Records the keys of hosts of which none is known and which have signed with it. Returns why that is impossible.
    fn meet(&mut self, all: &[Said<'_>], names: &[String]) -> Option<String> {
        let strangers = all.iter().zip(names).filter(|(_, name)| self.known.keys(name).is_empty());
        let signed = strangers.filter_map(|(said, name)| {
            let key = said.claimed_key()?;
            let is_true = batch::verify(HOST, &[said.claim(&key)]).iter().all(Result::is_ok);
            is_true.then(|| (said.host, (name.clone(), key)))
        });
        let (hosts, keys): (Vec<_>, Vec<_>) = signed.unzip();
        if keys.is_empty() {
            return None;
        }
        if let Err(error) = self.known.add(&keys) {
            return Some(error.to_string());
        }
        let mut new: Vec<NewKey> = Vec::new();
        for (host, (name, key)) in hosts.into_iter().zip(&keys) {
            // Another process may have met the host with another key meanwhile.
            let is_taken = self.known.keys(name).iter().any(|known| known.blob() == key.blob());
            if is_taken && new.iter().all(|known| known.host != *host) {
                new.push(NewKey { host: host.clone(), fingerprint: key.fingerprint() });
            }
        }
        if !new.is_empty() {
            self.notices.push(Notice::New(new));
        }
        None
    }
}

impl Testimony<'_> {
    pub(super) fn said(&self) -> Said<'_> {
        Said { host: self.host, document: &self.report.signed.bytes, signature: &self.report.signed.signature }
    }
}

impl<'a> Said<'a> {
    /// The key that has signed it, as its signature says.
    fn claimed_key(&self) -> Option<Key> {
        Key::from_bytes(batch::claimed_key(self.signature).ok()?).ok()
    }

    const fn claim(&self, key: &'a Key) -> Claim<'a> {
        Claim { key, document: self.document, signature: self.signature }
    }
}

/// The key of the host that has signed, as it claims; none where the host has no key.
fn find<'a>(known: &'a KnownHosts, name: &str, said: &Said<'_>) -> Result<Option<&'a Key>, Unverified> {
    let blob = batch::claimed_key(said.signature)?;
    let keys = known.keys(name);
    let fingerprints = || keys.iter().map(Key::fingerprint).collect::<Vec<_>>().join(" or ");
    match keys.iter().find(|key| key.blob() == blob) {
        None if keys.is_empty() => Ok(None),
        None => Err(Unverified::Key(ChangedKey {
            host: said.host.clone(),
            shown: key::fingerprint(blob),
            known: fingerprints(),
            file: known.path().map(Into::into),
        })),
        key => Ok(key),
    }
}

/// Why a host without a key has not become known. `refused`: no key could be recorded.
fn stranger(said: &Said<'_>, refused: Option<&str>) -> Unverified {
    match (refused, batch::claimed_key(said.signature)) {
        (_, Err(error)) => error.into(),
        (Some(reason), Ok(blob)) => Unverified::Unknown { shown: key::fingerprint(blob), reason: reason.to_owned() },
        (None, Ok(_)) => SignatureError::Altered.into(),
    }
}
