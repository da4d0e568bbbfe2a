//! Who this worker is.

use std::sync::Arc;

use protocol::{
    keys::Keys,
    name::{HostName, Namespace},
};

/// What the worker's tasks need to name keys and write logs.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) host: HostName,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) keys: Keys,
}

impl Identity {
    pub(crate) fn new(host: HostName, namespace: Option<Namespace>) -> Arc<Self> {
        Arc::new(Self { host, keys: Keys::new(namespace.as_ref()), namespace })
    }
}
