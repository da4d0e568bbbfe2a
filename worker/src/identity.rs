//! Who this worker is.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use protocol::{
    keys::Keys,
    name::{HostName, Namespace},
    sealing::{SealingKey, UnsealingKey},
    signed::Signed,
    trust::{signing::SigningKey, sshsig::HOST},
};

use crate::{
    host_key::{HostKeyError, HostKeyFile},
    sealing_key::{self, SealingKeyError},
};

/// The private keys of a host.
#[derive(Debug)]
pub struct HostKeys {
    /// Signs what the host states.
    pub signing: SigningKey,
    /// Opens what is sealed to the host.
    pub unsealing: UnsealingKey,
}

/// Why a private key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The host's key.
    #[error(transparent)]
    Host(#[from] HostKeyError),
    /// The sealing key.
    #[error(transparent)]
    Sealing(#[from] SealingKeyError),
}

impl HostKeys {
    /// Reads the keys, or makes them.
    ///
    /// # Errors
    /// One of them cannot be used, or not be made.
    pub fn open(host: &HostName, host_key: &HostKeyFile, sealing_key: &Path) -> Result<Self, KeysError> {
        Ok(Self { signing: host_key.open(host)?, unsealing: sealing_key::open(sealing_key)? })
    }
}

/// What the worker's tasks need to name keys, to write logs and to sign.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) host: HostName,
    pub(crate) namespace: Option<Namespace>,
    /// The labels of the worker's own settings. Those that controllers set decide about nothing here.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) keys: Keys,
    /// Signs what this host states.
    pub(crate) key: SigningKey,
    /// Opens what is sealed to this host.
    pub(crate) unsealing: UnsealingKey,
}

impl Identity {
    pub(crate) fn new(
        host: HostName,
        namespace: Option<Namespace>,
        labels: BTreeMap<String, String>,
        keys: HostKeys,
    ) -> Arc<Self> {
        let HostKeys { signing: key, unsealing } = keys;
        Arc::new(Self { host, keys: Keys::new(namespace.as_ref()), namespace, labels, key, unsealing })
    }

    /// The public half of the sealing key, as a signed fact.
    pub(crate) fn sealing_fact(&self) -> String {
        let signed = Signed::unsigned(&self.unsealing.public(self.namespace.clone(), self.host.clone()));
        let signature = self.key.sign(HOST, &signed.bytes);
        SealingKey::to_fact(&signed.with_signature(signature))
    }
}
