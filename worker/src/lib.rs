//! Redfleet's worker: reads its host's commands from Redis, executes them, writes the results back.
//!
//! # Theory of operation
//!
//! One current-thread runtime, tasks that own their state, messages between them, no locks:
//!
//! - the [`reader`] owns the blocking connection. It hands what it read to the dispatcher, which replies
//!   how many more it takes: as many as there are free slots, and a few once all have been busy for long;
//! - [`admission`] judges what was read: pure functions of an entry and of what is known. `trust` says whose signature
//!   counts, [`policy`] who may run what;
//! - the [`dispatcher`] owns the state: what runs, what was dropped, the clock and the timers. [`pending`]
//!   holds the entries that are not acknowledged, [`schedule`] decides which command starts next;
//! - an [`executor`] runs one command and ends with its outcome. [`actions`] are what it can run,
//!   [`program`] runs programs for them, [`metrics`] reads the host's figures, `services` looks after the host's
//!   services, each of which may have a `supervisor`, a process of its own. [`artifacts`] brings content that is too
//!   large for a command, [`files`] puts it where it belongs, and [`apps`] makes it the release that a service runs;
//! - the [`journal`] has a thread of its own: it knows what must never start again;
//! - the [`audit`] trail has a thread of its own, too: a line for each decision, before a command starts that may change
//!   the host;
//! - the [`publisher`] owns the writing connection. Outcomes wait in it while Redis is away.

pub mod actions;
mod admission;
pub mod apps;
pub mod artifacts;
mod audit;
pub mod cli;
pub mod config;
mod delivery;
mod detached;
mod dispatcher;
mod executor;
pub mod explain;
mod fault;
mod file_id;
pub mod files;
mod guarded;
pub mod host_key;
mod identity;
mod journal;
pub mod live;
pub mod log;
pub mod metrics;
mod pending;
pub mod policy;
pub mod private_file;
pub mod program;
mod publisher;
mod reader;
mod schedule;
pub mod sealing_key;
mod services;
mod spelling;
mod supervisor;
pub mod trust;

use apps::Apps;
use config::Config;
use identity::Identity;
pub use identity::{HostKeys, KeysError};
use services::Registry;
use tokio_util::sync::CancellationToken;
use trust::{Changes, TrustFiles};

/// A worker as a library, so that a process may run one or thousands.
pub struct Worker;

impl Worker {
    /// Works until `shutdown` is cancelled: stops reading, lets what runs finish within the grace
    /// period, publishes what is finished, then returns. Redis being away is no reason to return. `keys`: see
    /// [`Config::open_keys`].
    pub async fn run(config: Config, keys: HostKeys, shutdown: CancellationToken) {
        let identity = Identity::new(config.host.clone(), config.namespace.clone(), config.labels.clone(), keys);
        let files = TrustFiles::open(config.trust.clone(), config.kept(""));
        let trusted = files.trusted();
        let (changes, requests) = Changes::new();
        let keeper = tokio::spawn(files.keep(requests));
        let registry = Registry::new(config.services.clone(), config.service_places(), config.apps.services());
        let supervisors = tokio::spawn(services::keep(registry.clone()));
        let apps = Apps::new(config.apps.clone(), config.kept("apps"), registry.clone(), config.host.clone());
        let recovery = tokio::spawn(apps.clone().recover());
        dispatcher::Dispatcher::new(config, identity, trusted, changes, registry, apps).run(shutdown).await;
        supervisors.abort();
        recovery.abort();
        keeper.abort();
    }
}
