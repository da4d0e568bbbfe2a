//! Who this worker is.

use std::sync::Arc;

use protocol::{
    keys::Keys,
    name::{HostName, Namespace},
    trust::signing::SigningKey,
};

/// What the worker's tasks need to name keys, to write logs and to sign.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) host: HostName,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) keys: Keys,
    /// Signs what this host states.
    pub(crate) key: SigningKey,
}

impl Identity {
    pub(crate) fn new(host: HostName, namespace: Option<Namespace>, key: SigningKey) -> Arc<Self> {
        Arc::new(Self { host, keys: Keys::new(namespace.as_ref()), namespace, key })
    }
}
