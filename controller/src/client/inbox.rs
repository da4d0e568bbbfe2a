//! A host's inbox as a controller reads it: where a command is in it, and which commands a worker has taken.

use std::{collections::HashMap, time::Duration};

use protocol::{
    clock::millis,
    command::Manifest,
    keys::{CONSUMER_GROUP, Keys},
    name::{HostName, JobId},
    signed::Signed,
    time::Millis,
};
use redis::Cmd;

use super::{
    error::{Error, WrongType},
    fleet::{Fleet, RawHash, fields},
};

/// Commands of one host that are looked at, of those that its worker has taken.
const TAKEN: usize = 100;

/// Entries of one inbox that are read at once, to find a command among others.
const SEARCHED: usize = 16;

/// How far the clocks of two Redis servers may be apart, before and after a failover.
const CLOCK_MARGIN: Duration = Duration::from_secs(1);

/// Where to look for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It was this entry.
    Entry(String),
    /// It was sent at this moment or later.
    Since(Millis),
    /// It is not among the entries up to this one.
    Behind(String),
}

/// What a look at a [`Place`] has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// This entry is the command.
    Entry(String),
    /// It is farther behind, if anywhere.
    Farther(Place),
    /// It is not in the inbox.
    Nothing,
}

/// The reply to `XRANGE`.
pub(super) type Entries = Vec<(String, RawHash)>;
/// The reply to `XPENDING`: entry, consumer, idle time in milliseconds, deliveries.
type Pending = Vec<(String, String, Millis, u64)>;

impl Fleet {
    /// Looks for the command with this manifest in inboxes.
    pub(super) async fn find_command(
        &mut self,
        manifest: &Signed<Manifest>,
        places: &[(HostName, Place)],
    ) -> Result<Vec<Found>, Error> {
        let ask = |keys: &Keys, (host, place): &(HostName, Place)| {
            let inbox = keys.commands(host);
            [match place {
                Place::Entry(id) => Cmd::xrange(inbox, id, id),
                // Mostly it is the first: few commands are sent at the same moment.
                Place::Since(moment) => Cmd::xrange_count(inbox, first_id(*moment), "+", 1),
                Place::Behind(id) => Cmd::xrange_count(inbox, format!("({id}"), "+", SEARCHED),
            }]
        };
        let read = |(_, place): &(HostName, Place), entries: Entries, damage: Option<WrongType>| {
            if damage.is_some() {
                return Found::Farther(place.clone());
            }
            let Some((last, _)) = entries.last() else { return Found::Nothing };
            let farther = Found::Farther(Place::Behind(last.clone()));
            let is_meant = |(_, values): &(String, RawHash)| {
                matches!(place, Place::Entry(_)) || signed(values).is_some_and(|found| found.bytes == manifest.bytes)
            };
            let meant = entries.into_iter().find(is_meant);
            meant.map_or(farther, |(id, _)| Found::Entry(id))
        };
        match self.query_each(places, ask, read).await {
            Err(error) if error.is_forbidden() => {
                Ok(places.iter().map(|(_, place)| Found::Farther(place.clone())).collect())
            }
            found => found,
        }
    }

    /// The jobs whose commands the workers of these hosts have taken and not acknowledged, of those sent since the
    /// given moments; with each, since when nothing was heard of it. Of one host, the oldest hundred are looked at. Who
    /// may not look into inboxes, such as the user `reader`, learns of none.
    pub(super) async fn taken_commands(
        &mut self,
        hosts: &[(HostName, Millis)],
    ) -> Result<Vec<HashMap<JobId, Millis>>, Error> {
        let ask = |keys: &Keys, (host, since): &(HostName, Millis)| {
            let mut pending = redis::cmd("XPENDING");
            pending.arg(keys.commands(host)).arg(CONSUMER_GROUP).arg(first_id(*since)).arg("+").arg(TAKEN);
            [pending]
        };
        let read = |_: &_, pending: Option<Pending>, _: Option<WrongType>| pending.unwrap_or_default();
        let pending = match self.query_each(hosts, ask, read).await {
            Err(error) if error.is_forbidden() => return Ok(vec![HashMap::new(); hosts.len()]),
            pending => pending?,
        };
        let now = self.now();
        let entries = pending.into_iter().enumerate().flat_map(|(at, pending)| {
            pending.into_iter().map(move |(id, _, idle, deliveries)| (at, moment(&id, now, idle, deliveries), id))
        });
        let entries: Vec<(usize, Millis, String)> = entries.collect();

        let ask =
            |keys: &Keys, (at, _, id): &(usize, Millis, String)| [Cmd::xrange(keys.commands(&hosts[*at].0), id, id)];
        let read = |(at, since, _): &(usize, Millis, String), mut entries: Entries, _: Option<WrongType>| {
            let (_, values) = entries.pop()?;
            Some((*at, signed(&values)?.open().ok()?.job, *since))
        };
        let mut taken = vec![HashMap::new(); hosts.len()];
        for (at, job, since) in self.query_each(&entries, ask, read).await?.into_iter().flatten() {
            taken[at].insert(job, since);
        }
        Ok(taken)
    }
}

/// The first id that an entry of this moment can have.
fn first_id(moment: Millis) -> String {
    moment.saturating_sub(millis(CLOCK_MARGIN)).to_string()
}

/// When a pending entry was delivered; where it was delivered again since, when it was added.
fn moment(id: &str, now: Millis, idle: Millis, deliveries: u64) -> Millis {
    let added = id.split('-').next().and_then(|moment| moment.parse().ok());
    added.filter(|_| deliveries > 1).unwrap_or_else(|| now.saturating_sub(idle))
}

/// The command of an entry.
pub(super) fn signed(values: &RawHash) -> Option<Signed<Manifest>> {
    Signed::take(&mut fields(values.clone())).ok()
}
