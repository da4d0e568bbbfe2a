//! Hosts: their names, and what they publish about themselves.

use std::{collections::HashMap, sync::Arc};

use protocol::{
    action::ActionSpec, keys::Keys, metrics::MetricGroup, name::HostName, outcome::State, status::Status, time::Millis,
    trust::key::Key,
};
use redis::{Cmd, RedisError};
use serde_json::{Map, Value};

use super::{
    error::{Error, WrongType},
    events::Absent,
    fleet::{Fleet, RawHash, text, text_fields},
};

/// A host of the fleet.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// Its last heartbeat in the index of hosts.
    pub seen_ms: Option<Millis>,
    /// Its liveness.
    pub status: Option<Status>,
    /// Its catalogue of actions.
    pub actions: Option<Catalogue>,
    /// A key of the host that cannot be read. What it holds counts as not published.
    pub damage: Option<WrongType>,
}

/// The actions that a host offers. Hosts with equal catalogues share one.
pub type Catalogue = Arc<Vec<ActionSpec>>;

/// The labels of a host.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// Those of its own settings.
    pub own: Map<String, Value>,
    /// Those that controllers have set. One of the same name as an own one does not count.
    pub set: Map<String, Value>,
}

/// What a host publishes about itself.
#[derive(Clone, Debug, Default)]
pub struct HostDetails {
    /// Inventory, without the catalogue of actions.
    pub facts: Map<String, Value>,
    /// Its labels.
    pub labels: Labels,
    /// Current figures by metric group, and by own action (`custom:NAME`). What is not kept current is absent.
    pub metrics: Map<String, Value>,
}

impl Host {
    /// Whether it has ever reported.
    pub const fn is_known(&self) -> bool {
        self.seen_ms.is_some() || self.status.is_some() || self.damage.is_some()
    }

    /// Whether it is online at `now`.
    pub fn is_online(&self, now: Millis) -> bool {
        self.status.as_ref().is_some_and(|status| status.is_online(now))
    }

    /// `online`, `offline`, `stopped` where it ended in order, or `damaged` where a key cannot be read.
    pub fn state(&self, now: Millis) -> &'static str {
        match &self.status {
            _ if self.damage.is_some() => "damaged",
            Some(status) if status.is_online(now) => "online",
            Some(status) if status.stopped => "stopped",
            _ => "offline",
        }
    }

    /// Its last heartbeat.
    pub fn last_seen_ms(&self) -> Option<Millis> {
        self.status.as_ref().map(|status| status.last_seen_ms).max(self.seen_ms)
    }

    /// Its description of an action.
    pub fn action(&self, name: &str) -> Option<&ActionSpec> {
        self.actions.iter().flat_map(|actions| actions.iter()).find(|action| action.name == name)
    }

    /// Its own actions whose figures are kept in Redis.
    pub(super) fn actions_with_figures(&self) -> Vec<String> {
        let actions = self.actions.iter().flat_map(|actions| actions.iter()).filter(|action| action.metrics);
        actions.map(|action| action.name.clone()).collect()
    }

    /// The host's absence, for a command that was just sent to it; `None` if it is online at `now`.
    pub fn absent(&self, now: Millis) -> Option<Absent> {
        let absent = || Absent { host: self.name.clone(), seen_ms: self.last_seen_ms(), state: State::Queued };
        (!self.is_online(now)).then(absent)
    }
}

/// Asks for a host's own labels, and those that controllers have set.
pub(super) fn ask_labels(keys: &Keys, host: &Host) -> [Cmd; 2] {
    [Cmd::hgetall(keys.labels(&host.name)), Cmd::hgetall(keys.set_labels(&host.name))]
}

impl Fleet {
    /// The names of all hosts, sorted.
    pub(super) async fn known(&mut self) -> Result<Vec<HostName>, Error> {
        let mut known: Vec<_> = self.host_names().await?.into_iter().map(|(name, _)| name).collect();
        known.sort();
        if known.is_empty() { Err(Error::NoHosts(self.address().to_string())) } else { Ok(known) }
    }

    /// All hosts with their last heartbeat, the latest first.
    pub async fn host_names(&mut self) -> Result<Vec<(HostName, Millis)>, Error> {
        let (hosts,): (Vec<(Vec<u8>, f64)>,) =
            self.query_with_time(redis::pipe().zrevrange_withscores(self.keys().servers(), 0, -1)).await?;
        let host = |(name, seen): (Vec<u8>, f64)| Some((text(&name).parse().ok()?, score_millis(seen)));
        Ok(hosts.into_iter().filter_map(host).collect())
    }

    /// These hosts in their order, whether they are known or not.
    pub async fn hosts(&mut self, names: &[HostName]) -> Result<Vec<Host>, Error> {
        let ask = |keys: &Keys, name: &HostName| {
            let seen = Cmd::zscore(keys.servers(), name.as_str());
            [seen, Cmd::hgetall(keys.status(name)), Cmd::hget(keys.facts(name), "actions")]
        };
        let mut catalogues = HashMap::new();
        let read = |name: &HostName, (seen, status, actions): (Option<f64>, RawHash, Option<Vec<u8>>), damage| {
            let actions = actions.map(|text| catalogue(&mut catalogues, name, text)).transpose()?;
            let status = Status::from_fields(&text_fields(status));
            Ok(Host { name: name.clone(), seen_ms: seen.map(score_millis), status, actions, damage })
        };
        self.query_each(names, ask, read).await?.into_iter().collect()
    }

    /// All hosts, the latest heartbeat first.
    pub async fn all_hosts(&mut self) -> Result<Vec<Host>, Error> {
        let names: Vec<_> = self.host_names().await?.into_iter().map(|(name, _)| name).collect();
        self.hosts(&names).await
    }

    /// The CPU use of these hosts in percent, in their order; `None` where it is not kept current.
    pub async fn cpu_usage(&mut self, hosts: &[Host]) -> Result<Vec<Option<f64>>, Error> {
        let ask = |keys: &Keys, host: &Host| [Cmd::hget(keys.metrics(&host.name, MetricGroup::Cpu), "usage")];
        self.query_each(hosts, ask, |_, usage: Option<String>, _| usage?.parse().ok()).await
    }

    /// The labels of these hosts, in their order.
    pub async fn labels(&mut self, hosts: &[Host]) -> Result<Vec<Labels>, Error> {
        self.query_each(hosts, ask_labels, |_, (own, set), _| labels(own, set)).await
    }

    /// What a host publishes about itself.
    pub async fn host_details(&mut self, host: &Host) -> Result<HostDetails, Error> {
        let (host, own) = (&host.name, host.actions_with_figures());
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        pipeline.hgetall(self.keys().facts(host));
        pipeline.hgetall(self.keys().labels(host)).hgetall(self.keys().set_labels(host));
        for group in MetricGroup::ALL {
            pipeline.hgetall(self.keys().metrics(host, group));
        }
        for action in &own {
            pipeline.hgetall(self.keys().custom(host, action));
        }
        let replies: Vec<Result<OrderedHash, RedisError>> = self.query(&pipeline).await?;
        // A key of the wrong type is named by `ctl doctor`; the others are shown.
        let mut hashes = replies.into_iter().map(Result::unwrap_or_default);
        // A version, such as that of the system, is no figure.
        let is_figure = |name: &str| name == "cores" || name.ends_with("_bytes");
        let mut facts = values(hashes.next().unwrap_or_default(), is_figure);
        let labels = labels(hashes.next().unwrap_or_default(), hashes.next().unwrap_or_default());
        facts.remove("actions");
        facts.remove("sealing_key");
        facts.sort_keys();
        let names = MetricGroup::ALL.map(|group| group.name().to_owned()).into_iter();
        let names = names.chain(own.iter().map(|action| format!("custom:{action}")));
        let groups = names.zip(hashes).filter(|(_, figures)| !figures.is_empty());
        let metrics = groups.map(|(name, figures)| (name, values(figures, |_| true).into())).collect();
        Ok(HostDetails { facts, labels, metrics })
    }
}

impl Fleet {
    /// The key that a host publishes; none where it publishes none. Whoever can write to Redis can publish another.
    pub async fn published_key(&mut self, host: &HostName) -> Result<Option<Key>, Error> {
        let facts = self.keys().facts(host);
        let (line,): (Option<String>,) = self.query(redis::pipe().hget(facts, "host_key")).await?;
        Ok(line.and_then(|line| line.split_once(' ').and_then(|(kind, key)| Key::from_words(kind, key).ok())))
    }
}

/// Reads a catalogue, each distinct text once.
fn catalogue(known: &mut HashMap<Vec<u8>, Catalogue>, host: &HostName, text: Vec<u8>) -> Result<Catalogue, Error> {
    if let Some(actions) = known.get(&text) {
        return Ok(Arc::clone(actions));
    }
    let actions = serde_json::from_slice(&text).map_err(|error| Error::Catalogue(host.clone(), error))?;
    Ok(Arc::clone(known.entry(text).or_insert(Arc::new(actions))))
}

/// A hash in the order in which Redis returns it.
type OrderedHash = Vec<(Vec<u8>, Vec<u8>)>;

/// The values of a hash. Redis holds lists as JSON, and figures as text.
fn values(hash: OrderedHash, is_figure: impl Fn(&str) -> bool) -> Map<String, Value> {
    let value = |name: &str, text: String| match serde_json::from_str(&text) {
        Ok(list @ Value::Array(_)) => list,
        Ok(figure @ Value::Number(_)) if is_figure(name) => figure,
        _ => Value::String(text),
    };
    hash.into_iter()
        .map(|(name, field)| {
            let name = text(&name);
            let value = value(&name, text(&field));
            (name, value)
        })
        .collect()
}

/// Own labels of a host, and those that controllers have set.
fn labels(own: OrderedHash, set: OrderedHash) -> Labels {
    let sorted = |hash| {
        let mut labels = values(hash, |_| false);
        labels.sort_keys();
        labels
    };
    Labels { own: sorted(own), set: sorted(set) }
}

/// A score of a sorted set by time.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
pub(super) const fn score_millis(score: f64) -> Millis {
    score as Millis
}

#[cfg(test)]
mod tests {
    use protocol::{clock::millis, limits};
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_become_numbers_and_words_stay() {
        let group = vec![(b"usage".to_vec(), b"7.5".to_vec()), (b"fullest_mount".to_vec(), b"/".to_vec())];
        assert_eq!(Value::Object(values(group, |_| true)), json!({ "usage": 7.5, "fullest_mount": "/" }));
    }

    #[test]
    fn a_host_is_online_stopped_or_offline() {
        let host =
            |status| Host { name: "web1".parse().unwrap(), seen_ms: Some(1000), status, actions: None, damage: None };
        let status = Status { last_seen_ms: 1000, ..Status::default() };
        assert_eq!(host(Some(status.clone())).state(2000), "online");
        assert_eq!(host(Some(status.clone())).state(99_000), "offline");
        assert_eq!(host(Some(Status { stopped: true, ..status })).state(2000), "stopped");
        assert_eq!(host(None).state(2000), "offline");
    }

    #[test]
    fn a_host_without_a_recent_heartbeat_is_absent() {
        let status = Some(Status { last_seen_ms: 1000, ..Status::default() });
        let host = Host { name: "web1".parse().unwrap(), seen_ms: Some(2000), status, actions: None, damage: None };
        assert!(host.absent(1000).is_none());
        assert_eq!(host.absent(1000 + millis(limits::OFFLINE_AFTER)).unwrap().seen_ms, Some(2000));
    }
}
