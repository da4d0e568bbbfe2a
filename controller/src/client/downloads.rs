//! Files that hosts hand over, taken piece by piece as they come. See [`protocol::artifact`].
//!
//! A host puts some pieces into Redis and waits until they are taken. What is taken is deleted with the next request, so a
//! reply that is lost is asked for again.

use std::{collections::BTreeMap, time::Duration};

use protocol::{
    artifact::{ContentKey, SEALED_PIECE_BYTES},
    limits,
    name::{HostName, JobId},
};
use redis::Value;

use super::{error::Error, fleet::Fleet, jobs::Job};

/// Hosts whose pieces are asked for in one round trip.
const AT_ONCE: usize = 16;

/// How long to wait where no host has a new piece, at first and at last.
const PAUSE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// The files that the hosts of a job hand over.
#[derive(Debug)]
pub struct Download {
    job: JobId,
    hosts: BTreeMap<HostName, Source>,
    /// Hosts from which nothing more is taken, and the number of the piece that would come next.
    closed: Vec<(HostName, u64)>,
    /// The host that is asked first the next time.
    first: usize,
}

/// A host's file.
#[derive(Debug)]
struct Source {
    key: ContentKey,
    /// The number of the piece that comes next.
    next: u64,
    /// The pieces before this one are deleted.
    deleted: u64,
}

/// A piece of a host's file.
#[derive(Debug)]
pub struct Piece {
    /// The host.
    pub host: HostName,
    /// Its bytes; `None` where what is in Redis is not what the host has put there.
    pub bytes: Option<Vec<u8>>,
}

impl Download {
    /// The files of this job, whose secret argument is `key`.
    pub fn new(job: &Job, key: &ContentKey) -> Self {
        let source = |host: &HostName| (host.clone(), Source { key: key.of_host(host), next: 0, deleted: 0 });
        Self { job: job.id(), hosts: job.targets().hosts().map(source).collect(), closed: Vec::new(), first: 0 }
    }

    /// Takes nothing more from a host.
    pub fn close(&mut self, host: &HostName) {
        self.closed.extend(self.hosts.remove_entry(host).map(|(host, source)| (host, source.next)));
    }

    /// Deletes what is left of the files of all hosts from which nothing more is taken. It would expire soon.
    pub async fn clear(&mut self, fleet: &mut Fleet) -> Result<(), Error> {
        let window = limits::FILE_PIECES as u64;
        let mut delete = redis::pipe();
        for (host, next) in &self.closed {
            let left = next.saturating_sub(window)..next + window;
            let keys: Vec<_> = left.map(|number| fleet.keys().job_file(self.job, host, number)).collect();
            delete.del(keys).ignore();
        }
        if self.closed.is_empty() {
            return Ok(());
        }
        fleet.query::<()>(&delete).await?;
        self.closed.clear();
        Ok(())
    }

    /// Waits for the pieces that come next, in order for each host. Cancel-safe. Where all hosts are closed, it waits for
    /// ever.
    ///
    /// # Errors
    /// An error of Redis. What was not taken can be asked for again.
    pub async fn next(&mut self, fleet: &mut Fleet) -> Result<Vec<Piece>, Error> {
        let [mut pause, longest] = PAUSE;
        loop {
            let pieces = if self.hosts.is_empty() { std::future::pending().await } else { self.ask(fleet).await? };
            if !pieces.is_empty() {
                return Ok(pieces);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Asks some hosts for their next piece.
    async fn ask(&mut self, fleet: &mut Fleet) -> Result<Vec<Piece>, Error> {
        let keys = fleet.keys().clone();
        self.first %= self.hosts.len();
        let asked: Vec<_> = self.hosts.iter().cycle().skip(self.first).take(self.hosts.len().min(AT_ONCE)).collect();
        let mut pipeline = redis::pipe();
        for (host, source) in &asked {
            pipeline.getrange(keys.job_file(self.job, *host, source.next), 0, SEALED_PIECE_BYTES.cast_signed());
            // One of them may have been written once more, after a reply that the host has lost.
            let window = limits::FILE_PIECES as u64;
            let taken = if source.deleted < source.next { source.next.saturating_sub(window) } else { source.next };
            let taken = taken..source.next;
            let taken: Vec<_> = taken.map(|number| keys.job_file(self.job, *host, number)).collect();
            if !taken.is_empty() {
                pipeline.del(taken).ignore();
            }
        }
        let names: Vec<_> = asked.into_iter().map(|(host, _)| host.clone()).collect();
        let replies: Vec<Value> = fleet.query(&pipeline).await?;
        self.first += names.len();
        let mut pieces = Vec::new();
        for (host, reply) in names.into_iter().zip(replies) {
            if let Some(source) = self.hosts.get_mut(&host) {
                source.deleted = source.next;
            }
            let sealed = if let Value::BulkString(sealed) = reply { sealed } else { Vec::new() };
            let Some(source) = self.hosts.get_mut(&host).filter(|_| !sealed.is_empty()) else { continue };
            let bytes = source.key.open(source.next, &sealed);
            source.next += 1;
            pieces.push(Piece { host, bytes });
        }
        Ok(pieces)
    }
}
