//! Redfleet's worker: reads its host's commands from Redis, executes them, writes the results back.
//!
//! # Theory of operation
//!
//! One current-thread runtime, tasks that own their state, messages between them, no locks:
//!
//! - the [`reader`] owns the blocking connection. It hands what it read to the dispatcher and is
//!   told how many slots are free, so that while none is free it takes nothing;
//! - the [`dispatcher`] owns everything that is decided: what runs, what was dropped, the clock and the
//!   timers;
//! - the [`inbox`] says which entries are in hand, the [`schedule`] which command may start next;
//! - an [`executor`] runs one command and ends with its outcome;
//! - the [`journal`] has a thread of its own: it knows what must never start again;
//! - the [`publisher`] owns the writing connection. Outcomes wait in it while Redis is away.

pub mod actions;
pub mod cli;
pub mod config;
mod detached;
mod dispatcher;
mod executor;
mod fault;
mod inbox;
mod journal;
pub mod live;
pub mod log;
pub mod metrics;
pub mod process;
mod publisher;
mod reader;
mod schedule;

use std::sync::Arc;

pub use config::Config;
use protocol::{
    keys::Keys,
    name::{HostName, Namespace},
};
use tokio_util::sync::CancellationToken;

/// Who this worker is: what its tasks need to name keys and write logs.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) host: HostName,
    pub(crate) keys: Keys,
}

impl Identity {
    fn new(host: HostName, namespace: Option<&Namespace>) -> Arc<Self> {
        Arc::new(Self { host, keys: Keys::new(namespace) })
    }
}

/// A worker as a library, so that a process may run one or thousands.
pub struct Worker;

impl Worker {
    /// Works until `shutdown` is cancelled: stops reading, lets what runs finish within the grace
    /// period, publishes what is finished, then returns. Redis being away is no reason to return.
    pub async fn run(config: Config, shutdown: CancellationToken) {
        let identity = Identity::new(config.host.clone(), config.namespace.as_ref());
        dispatcher::Dispatcher::new(config, identity).run(shutdown).await;
    }
}
