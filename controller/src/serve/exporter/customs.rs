//! Which actions of their own hosts have whose figures are kept in Redis.
//!
//! The catalogues of hosts say it. They are large, so what was read is kept until the worker is another process, or for
//! five minutes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protocol::{limits, name::HostName, time::Millis};
use redis::Cmd;
use serde::Deserialize;
use tokio::time::Instant;

use super::hosts::{self, Known};
use crate::client::{Error, Fleet};

/// How long a catalogue counts as known.
const KEEP: Duration = Duration::from_secs(300);

/// Catalogues of one page that are read anew because of their age: so not all of them are read at once again.
const AGED: usize = 20;

/// Bytes of a catalogue; a longer one counts as empty.
const CATALOGUE_BYTES: usize = 4 * 1024 * 1024;

/// The names of the actions of a host.
pub type Actions = Arc<[Arc<str>]>;

/// What is known of hosts.
#[derive(Debug, Default)]
pub struct Customs(Mutex<HashMap<HostName, Read>>);

#[derive(Debug)]
struct Read {
    started_ms: Millis,
    at: Instant,
    actions: Actions,
}

/// What matters of an action here.
#[derive(Deserialize)]
struct Action {
    name: String,
    #[serde(default)]
    metrics: bool,
}

impl Customs {
    /// The actions of each of these hosts.
    pub async fn of<'a>(
        &self,
        hosts: impl Iterator<Item = &'a Known>,
        fleet: &mut Fleet,
    ) -> Result<Vec<Actions>, Error> {
        let hosts: Vec<_> = hosts.collect();
        let unknown = self.unknown(&hosts);
        let keys = fleet.keys().clone();
        let ask = unknown.iter().map(|known| Cmd::hget(keys.facts(&known.host), "actions"));
        let replies = hosts::ask(fleet, ask).await?;
        // Most hosts have the same catalogue.
        let mut texts: HashMap<&[u8], Actions> = HashMap::new();
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if read.len() + unknown.len() > limits::HOSTS {
            read.clear();
        }
        let at = Instant::now();
        for (known, reply) in unknown.iter().zip(&replies) {
            let text = hosts::bytes(reply).filter(|text| text.len() <= CATALOGUE_BYTES).unwrap_or_default();
            let actions = Arc::clone(texts.entry(text).or_insert_with(|| actions(text)));
            read.insert(known.host.clone(), Read { started_ms: known.started_ms, at, actions });
        }
        let actions = |known: &&Known| read.get(&known.host).map(|read| Arc::clone(&read.actions)).unwrap_or_default();
        Ok(hosts.iter().map(actions).collect())
    }

    /// Those of these hosts whose actions must be read.
    fn unknown<'a>(&self, hosts: &[&'a Known]) -> Vec<&'a Known> {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut aged = 0;
        let is_unknown = |known: &&&Known| match read.get(&known.host) {
            Some(read) if read.started_ms != known.started_ms => true,
            Some(read) if read.at.elapsed() > KEEP => {
                aged += 1;
                aged <= AGED
            }
            Some(_) => false,
            None => true,
        };
        hosts.iter().filter(is_unknown).copied().collect()
    }
}

/// The actions with figures in a catalogue. One that cannot be read has none.
fn actions(text: &[u8]) -> Actions {
    let all: Vec<Action> = serde_json::from_slice(text).unwrap_or_default();
    let names = all.into_iter().filter(|action| action.metrics && is_name(&action.name));
    names.take(limits::ACTION_FILES).map(|action| action.name.into()).collect()
}

/// Whether an action can have this name, which becomes a part of a key.
fn is_name(name: &str) -> bool {
    let is_allowed = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
    name.len() <= 64 && name.chars().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_actions_with_figures_count_and_broken_catalogues_have_none() {
        let catalogue = br#"[{"name": "ping"}, {"name": "backup", "metrics": true}, {"name": "a b", "metrics": true}]"#;
        assert_eq!(&*actions(catalogue), [Arc::from("backup")]);
        for broken in [&b""[..], b"{}", b"[1]", b"[{\"metrics\": true}]"] {
            assert!(actions(broken).is_empty());
        }
    }
}
