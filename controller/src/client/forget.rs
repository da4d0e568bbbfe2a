//! Hosts that are gone for good: all that Redis keeps of them is removed.

use std::collections::HashSet;

use protocol::{
    keys::Keys,
    name::{HostName, JobId},
};
use redis::Cmd;

use super::{
    error::{Error, WrongType},
    fleet::Fleet,
    inbox::{self, Entries},
};

/// Queued commands of a forgotten host whose jobs are named.
const NAMED: usize = 20;

/// A host of which Redis keeps nothing any more.
#[derive(Debug)]
pub struct Forgotten {
    /// The host.
    pub host: HostName,
    /// How many commands were in its inbox. They are thrown away.
    pub queued: usize,
    /// The jobs of the oldest of them.
    pub jobs: Vec<JobId>,
}

impl Fleet {
    /// Removes the keys of these hosts, and then their places in the index of hosts. A worker that is started later
    /// makes its host known again.
    ///
    /// # Errors
    /// One of the hosts is not known, or online: then nothing is removed.
    pub async fn forget(&mut self, names: &[HostName]) -> Result<Vec<Forgotten>, Error> {
        let hosts = self.hosts(names).await?;
        let now = self.now();
        if let Some(unknown) = hosts.iter().find(|host| !host.is_known()) {
            return Err(Error::UnknownHost { name: unknown.name.clone(), known: self.known().await? });
        }
        if let Some(online) = hosts.iter().find(|host| host.is_online(now)) {
            return Err(Error::HostOnline(online.name.clone()));
        }

        let ask = |keys: &Keys, host: &HostName| {
            let inbox = keys.commands(host);
            [Cmd::xlen(&inbox), Cmd::xrange_count(&inbox, "-", "+", NAMED)]
        };
        let read = |host: &HostName, (queued, entries): (Option<usize>, Entries), _: Option<WrongType>| {
            let job = |values| Some(inbox::signed(values)?.open().ok()?.job);
            let jobs = entries.iter().filter_map(|(_, values)| job(values)).collect();
            Forgotten { host: host.clone(), queued: queued.unwrap_or_default(), jobs }
        };
        let forgotten = self.query_each(names, ask, read).await?;
        for (name, host) in names.iter().zip(&hosts) {
            let (mut keys, mut index) = (redis::pipe(), redis::pipe());
            let own = host.actions_with_figures();
            let own = own.iter().map(|action| self.keys().custom(name, action));
            keys.del(self.keys().of_host(name).into_iter().chain(own).collect::<Vec<_>>());
            index.zrem(self.keys().servers(), name.as_str());
            self.transact(&[keys, index]).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        Ok(forgotten)
    }

    /// Those of these hosts of which Redis keeps neither an inbox nor a place in the index of hosts.
    pub(super) async fn forgotten(&mut self, names: &[HostName]) -> Result<HashSet<HostName>, Error> {
        let ask = |keys: &Keys, host: &HostName| {
            [Cmd::zscore(keys.servers(), host.as_str()), Cmd::exists(keys.commands(host))]
        };
        let read = |host: &HostName, (seen, inbox): (Option<f64>, bool), damage: Option<WrongType>| {
            (seen.is_none() && !inbox && damage.is_none()).then(|| host.clone())
        };
        Ok(self.query_each(names, ask, read).await?.into_iter().flatten().collect())
    }
}
