//! The hosts of the fleet as Prometheus' HTTP service discovery wants them.

use std::collections::BTreeMap;

use redis::{Cmd, Value};
use serde::Serialize;

use super::{
    hosts::{self, Known, LeftOut, PAGE},
    samples::Sample,
    whom::Whom,
};
use crate::client::{Error, Fleet};

/// The port of `node_exporter`.
const PORT: u16 = 9100;

/// What is asked for: `?port=9100`, and `?by=address` for addresses in the place of names.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    port: u16,
    by_address: bool,
}

/// Hosts that are told page by page.
#[derive(Debug)]
pub struct Discovery {
    hosts: Vec<Known>,
    wanted: Wanted,
    at: usize,
}

/// A host as Prometheus reads it.
#[derive(Debug, Serialize)]
struct Group {
    targets: [String; 1],
    labels: BTreeMap<String, String>,
}

impl Wanted {
    /// Reads the pairs of a request. Others than these are left to others.
    ///
    /// # Errors
    /// One of them means nothing, and why.
    pub fn read<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut wanted = Self { port: PORT, by_address: false };
        for (name, value) in pairs {
            match (name, value) {
                ("port", port) => {
                    let port = port.parse().ok().filter(|port| *port > 0);
                    wanted.port = port.ok_or("port is no number from 1 to 65535")?;
                }
                ("by", "name") => wanted.by_address = false,
                ("by", "address") => wanted.by_address = true,
                ("by", _) => return Err("by: write name or address".into()),
                _ => {}
            }
        }
        Ok(wanted)
    }
}

impl Discovery {
    /// Reads which hosts there are.
    ///
    /// # Errors
    /// An error of Redis.
    pub async fn begin(fleet: &mut Fleet, whom: &Whom, wanted: Wanted) -> Result<Self, Error> {
        let mut hosts: Vec<_> = fleet.host_names().await?.into_iter().map(Known::of).collect();
        hosts.retain(|known| whom.has(known.host.as_str()));
        hosts.sort_unstable_by(|one, other| one.host.cmp(&other.host));
        hosts::liveness(fleet, &mut hosts, &mut LeftOut::default()).await?;
        Ok(Self { hosts, wanted, at: 0 })
    }

    /// The next part of the document. `None`: that was all.
    ///
    /// # Errors
    /// An error of Redis.
    pub async fn next(&mut self, fleet: &mut Fleet) -> Result<Option<String>, Error> {
        if self.at > self.hosts.len() {
            return Ok(None);
        }
        let page = &self.hosts[self.at..self.hosts.len().min(self.at + PAGE)];
        let mut text = if self.at == 0 { "[".to_owned() } else { String::new() };
        let keys = fleet.keys().clone();
        let ask = page.iter().flat_map(|Known { host, .. }| {
            let facts = Cmd::hmget(keys.facts(host), &["addresses", "os", "os_version", "architecture"]);
            [facts, Cmd::hgetall(keys.labels(host)), Cmd::hgetall(keys.set_labels(host))]
        });
        let replies = hosts::ask(fleet, ask).await?;
        for (at, (known, replies)) in page.iter().zip(replies.chunks_exact(3)).enumerate() {
            if self.at + at > 0 {
                text.push(',');
            }
            text.push('\n');
            let group = group(known, replies, self.wanted);
            text.push_str(&serde_json::to_string(&group).unwrap_or_else(|_| "{}".into()));
        }
        self.at += page.len();
        if self.at == self.hosts.len() {
            self.at += 1;
            text.push_str("\n]\n");
        }
        Ok(Some(text))
    }
}

fn group(known: &Known, replies: &[Value], wanted: Wanted) -> Group {
    let [facts, own, set] = replies else { return Group { targets: [String::new()], labels: BTreeMap::new() } };
    let facts = hosts::values(facts);
    let address = || {
        let list: Vec<std::net::IpAddr> = serde_json::from_slice(hosts::bytes(facts.first()?)?).ok()?;
        let address = list.into_iter().find(|address| !address.is_loopback())?;
        Some(if address.is_ipv6() { format!("[{address}]") } else { address.to_string() })
    };
    let address = if wanted.by_address { address() } else { None };
    let target = address.unwrap_or_else(|| known.host.to_string());
    let labels = hosts::labels(Sample::bare(1.0), own, set, &mut LeftOut::default()).labels;
    let labels = labels.into_iter().map(|(name, value)| (name.into_owned(), value.to_string()));
    let facts = ["os", "os_version", "architecture"].into_iter().zip(facts.iter().skip(1));
    let facts =
        facts.filter_map(|(name, value)| Some((name.to_owned(), hosts::label(hosts::bytes(value)?).to_string())));
    let up = if known.is_online { "1" } else { "0" };
    let known = [("host", known.host.as_str()), ("up", up), ("version", &known.version)];
    let known = known.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let labels = known.into_iter().chain(facts).chain(labels);
    let labels = labels.map(|(name, value)| (format!("__meta_redfleet_{name}"), value)).collect();
    Group { targets: [format!("{target}:{}", wanted.port)], labels }
}
