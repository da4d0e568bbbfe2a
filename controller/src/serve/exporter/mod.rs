//! The figures of the fleet for Prometheus.
//!
//! A [`Scrape`] reads them page by page and tells them family by family. Several may run at once, each with a connection of
//! its own; connections are kept for the next.

mod columns;
mod customs;
mod discovery;
mod facts;
mod hosts;
mod items;
mod own;
pub mod samples;
mod scrape;
pub mod text;
mod whom;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use protocol::{connection::Address, name::Namespace};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use self::{customs::Customs, items::Items, samples::Batch};
pub use self::{
    discovery::{Discovery, Wanted},
    scrape::Scrape,
    whom::Whom,
};
use super::{Health, counters::Counters};
use crate::client::{Error, Fleet};

/// Connections to Redis at a time. Who asks beyond them waits.
const CONNECTIONS: usize = 4;

/// How long it is waited for a connection: less than Prometheus usually waits for a page.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon a connection that was kept must reply. A new one is tried then.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);

/// Everything that is needed to tell the figures of a fleet.
pub struct Exporter {
    address: Address,
    namespace: Option<Namespace>,
    name: String,
    instance: String,
    /// Since the Unix epoch.
    started: Duration,
    health: Health,
    counters: Arc<Counters>,
    customs: Customs,
    mounts: Items,
    interfaces: Items,
    permits: Semaphore,
    idle: Mutex<Vec<Fleet>>,
}

/// A connection that is in use.
pub struct Lent<'a> {
    fleet: Fleet,
    _permit: SemaphorePermit<'a>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// All are in use, and none became free in time.
    #[error("too many scrapes at once: ask again")]
    Busy,
    /// Redis cannot be reached, for this reason.
    #[error("Redis: {0}")]
    Away(String),
}

impl Exporter {
    /// An exporter of the fleet that `fleet` is connected with, in the instance called `name`. Figures of its own have
    /// `instance` as a label, which stays the same when it is started again.
    pub fn new(fleet: &Fleet, name: &str, instance: &str, health: Health, counters: Arc<Counters>) -> Self {
        Self {
            address: fleet.address().clone(),
            namespace: fleet.namespace().cloned(),
            name: name.to_owned(),
            instance: instance.to_owned(),
            started: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
            health,
            counters,
            customs: Customs::default(),
            mounts: Items::default(),
            interfaces: Items::default(),
            permits: Semaphore::new(CONNECTIONS),
            idle: Mutex::default(),
        }
    }

    /// A connection with the fleet. Give it [back](Self::give_back) unless a call has failed.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(&self) -> Result<Lent<'_>, Refusal> {
        let permit = timeout(PATIENCE, self.permits.acquire()).await.ok().and_then(Result::ok).ok_or(Refusal::Busy)?;
        let connect = async {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            if let Some(mut fleet) = idle
                && timeout(ALIVE_WITHIN, is_alive(&mut fleet)).await == Ok(true)
            {
                return Ok(fleet);
            }
            Fleet::connect(&self.address, self.namespace.as_ref()).await.map_err(|error| error.to_string())
        };
        let connected = timeout(PATIENCE, connect).await.unwrap_or_else(|_| Err("it does not reply".into()));
        connected.map(|fleet| Lent { fleet, _permit: permit }).map_err(Refusal::Away)
    }

    /// Keeps a connection for the next who needs one.
    pub fn give_back(&self, lent: Lent<'_>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(lent.fleet);
    }

    /// What is told while Redis is away.
    pub fn without_redis(&self) -> Vec<Batch> {
        [own::no_redis()].into_iter().chain(self.own()).filter(|batch| !batch.samples.is_empty()).collect()
    }
}

impl Lent<'_> {
    /// The fleet.
    pub const fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Exporter").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whether a connection can still be used.
async fn is_alive(fleet: &mut Fleet) -> bool {
    let asked: Result<(), Error> = fleet.query_with_time(&redis::pipe()).await;
    asked.is_ok()
}
