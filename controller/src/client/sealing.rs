//! Secrets are sealed to hosts: the hosts' sealing keys, as they have signed them, and the keys of jobs, as Redis keeps
//! them.

use std::collections::HashMap;

use protocol::{
    keys::Keys,
    name::{HostName, JobId},
    sealing::{SealedKey, SealingKey},
    signed::Signed,
};
use redis::Cmd;

use super::{
    error::Error,
    fleet::{Fleet, RawHash, text},
    witness::{Said, Strangers, Unsealable},
};

impl Fleet {
    /// The sealing keys of these hosts, in their order. A host that was not known becomes known by it, as by a result.
    ///
    /// # Errors
    /// One of them publishes none that is signed by the host's key.
    pub(super) async fn sealing_keys(&mut self, hosts: &[&HostName]) -> Result<Vec<SealingKey>, Error> {
        let ask = |keys: &Keys, host: &&HostName| [Cmd::hget(keys.facts(*host), "sealing_key")];
        let read = |_: &&HostName, (fact,): (Option<Vec<u8>>,), _| SealingKey::from_fact(&text(&fact?));
        let published: Vec<Option<Signed<SealingKey>>> = self.query_each(hosts, ask, read).await?;
        let unsealable = |host: &HostName, reason| Error::Unsealable { host: host.clone(), reason };
        let mut said = Vec::with_capacity(hosts.len());
        for (host, signed) in hosts.iter().zip(&published) {
            let Signed { bytes: document, signature, .. } =
                signed.as_ref().ok_or_else(|| unsealable(host, Unsealable::Missing))?;
            said.push(Said { host, document, signature });
        }
        let verdicts = self.witness.judge(self.namespace.as_ref(), &said, Strangers::Meet);
        let mut keys = Vec::with_capacity(hosts.len());
        for ((host, signed), verdict) in hosts.iter().zip(published.iter().flatten()).zip(verdicts) {
            verdict.map_err(|error| unsealable(host, error.into()))?;
            let own = |key: &SealingKey| key.host == **host && key.namespace == self.namespace;
            let key = signed.open().ok().filter(own);
            keys.push(key.ok_or_else(|| unsealable(host, Unsealable::Foreign))?);
        }
        Ok(keys)
    }

    /// The keys of a job's secrets by host, as they were sealed when it was sent.
    pub(super) async fn sealed_keys(&mut self, job: JobId) -> Result<HashMap<HostName, SealedKey>, Error> {
        let (hash,): (RawHash,) = self.query(redis::pipe().hgetall(self.keys().job_keys(job))).await?;
        let sealed =
            hash.into_iter().filter_map(|(host, key)| Some((text(&host).parse().ok()?, SealedKey::from_bytes(key))));
        Ok(sealed.collect())
    }
}
