//! Finding the hosts that a selection means.

use std::collections::{BTreeMap, HashMap};

use protocol::{
    clock::millis,
    keys::Keys,
    name::HostName,
    status::Status,
    time::{Millis, read_moment, show_duration},
};
use redis::Cmd;

use super::{
    Selection,
    field::Field,
    filter::{Filter, Truth},
};
use crate::client::{error::Error, fleet::Fleet, hosts::Host};

/// How old a figure may be to count as known.
const FRESH: std::time::Duration = std::time::Duration::from_secs(300);

/// When the figures of a metric group were read.
const SAMPLED: &str = "sampled_at";

/// A host of which it is not known whether it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The host.
    pub host: HostName,
    /// What is not known.
    pub reason: String,
}

/// The hosts for each reason.
pub fn by_reason(unknown: &[Unknown]) -> BTreeMap<&str, Vec<&HostName>> {
    let mut reasons: BTreeMap<&str, Vec<&HostName>> = BTreeMap::new();
    for Unknown { host, reason } in unknown {
        reasons.entry(reason).or_default().push(host);
    }
    reasons
}

/// The hosts that are meant.
#[derive(Debug)]
pub struct Selected {
    /// Sorted, each once.
    pub hosts: Vec<Host>,
    /// Those of which it is not known whether they are, sorted.
    pub unknown: Vec<Unknown>,
}

impl Fleet {
    /// The hosts that are meant.
    ///
    /// # Errors
    /// A name that no host has, a pattern that no host matches, or nothing that is left of them.
    pub async fn select(&mut self, selection: &Selection) -> Result<Selected, Error> {
        let mut names = self.named(selection).await?;
        names.sort();
        names.dedup();
        names.retain(|name| !selection.except.iter().any(|word| word.matches(name)));
        let considered = names.len();
        let mut unknown = Vec::new();
        if let Some(filter) = &selection.filter {
            (names, unknown) = self.filtered(names, filter).await?;
        }
        if let Some(limit) = selection.limit {
            names.truncate(limit.of(names.len()));
        }
        if names.is_empty() {
            let filter = selection.filter.as_ref().map(|filter| filter.text().to_owned());
            return Err(Error::NoneMeant { considered, filter, unknown });
        }

        let hosts = self.hosts(&names).await?;
        match hosts.iter().find(|host| !host.is_known()) {
            None => Ok(Selected { hosts, unknown }),
            Some(stranger) => Err(Error::UnknownHost { name: stranger.name.clone(), known: self.known().await? }),
        }
    }

    /// The hosts that the words mean.
    async fn named(&mut self, selection: &Selection) -> Result<Vec<HostName>, Error> {
        let words = &selection.words;
        if words.is_empty() {
            return self.known().await;
        }
        // Names alone need no list of all hosts: one round trip less.
        if words.iter().all(|word| word.exact().is_some()) {
            return Ok(words.iter().filter_map(|word| word.exact()).flatten().cloned().collect());
        }
        let known = self.known().await?;
        let mut names = Vec::new();
        for word in words {
            let before = names.len();
            match word.exact() {
                Some(exact) => names.extend(exact.iter().cloned()),
                None => names.extend(known.iter().filter(|name| word.matches(name)).cloned()),
            }
            if names.len() == before {
                return Err(Error::NoMatch { pattern: word.text().to_owned(), known });
            }
        }
        Ok(names)
    }

    /// Those of the hosts for which the filter holds, and those of which that is not known. Only what it asks for is read.
    async fn filtered(
        &mut self,
        names: Vec<HostName>,
        filter: &Filter,
    ) -> Result<(Vec<HostName>, Vec<Unknown>), Error> {
        let statuses = self.statuses(&names).await?;
        let known: HashMap<&HostName, &Option<Status>> = names.iter().zip(&statuses).collect();
        let fields = filter.fields();
        let mut values = vec![HashMap::new(); names.len()];
        for field in &fields {
            let read = self.values(&names, field).await?;
            values.iter_mut().zip(read).for_each(|(values, value)| drop(values.insert(*field, value)));
        }

        let now = self.now();
        let (mut meant, mut unknown) = (Vec::new(), Vec::new());
        for (name, values) in names.iter().zip(values) {
            let status = known.get(name).copied().and_then(Option::as_ref);
            let truth = filter.judge(&|field| value(field, name, status, values.get(field), now));
            match truth {
                Truth::Yes => meant.push(name.clone()),
                Truth::No => {}
                Truth::Unknown(reason) => unknown.push(Unknown { host: name.clone(), reason }),
            }
        }
        Ok((meant, unknown))
    }

    /// What tells whether these hosts are online.
    async fn statuses(&mut self, names: &[HostName]) -> Result<Vec<Option<Status>>, Error> {
        const FIELDS: [&str; 3] = ["last_seen", "state", "clock_ahead_ms"];
        let ask = |keys: &Keys, name: &HostName| [Cmd::hmget(keys.status(name), &FIELDS)];
        let read = |_: &HostName, (values,): (Vec<Option<String>>,), _| {
            let fields = FIELDS.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
            Status::from_fields(&fields.collect())
        };
        self.query_each(names, ask, read).await
    }

    /// A field of these hosts; with a figure, when it was read.
    async fn values(&mut self, names: &[HostName], field: &Field) -> Result<Vec<Found>, Error> {
        let sampled = if matches!(field, Field::Metric(..)) { SAMPLED } else { "" };
        let ask = |keys: &Keys, name: &HostName| {
            let (key, place) = field.place(keys, name).unwrap_or_default();
            [Cmd::hmget(key, &[place, sampled])]
        };
        if matches!(field, Field::Host | Field::State) {
            return Ok(vec![(None, None); names.len()]);
        }
        let read = |_: &HostName, (values,): (Vec<Option<String>>,), _| {
            let mut values = values.into_iter();
            let value = values.next().flatten();
            (value, values.next().flatten().as_deref().and_then(read_moment))
        };
        self.query_each(names, ask, read).await
    }
}

/// A value as Redis has it, and when it was read by the host's clock.
type Found = (Option<String>, Option<Millis>);

/// A field of a host, or why it is not known.
fn value(
    field: &Field,
    host: &HostName,
    status: Option<&Status>,
    found: Option<&Found>,
    now: Millis,
) -> Result<String, String> {
    let Some(status) = status else { return Err("it has never reported".into()) };
    let is_online = status.is_online(now);
    let (value, sampled_at) = found.cloned().unwrap_or_default();
    match field {
        Field::Host => Ok(host.to_string()),
        Field::State if is_online => Ok("online".into()),
        Field::State => Ok(if status.stopped { "stopped" } else { "offline" }.into()),
        Field::Label(_) => Ok(value.unwrap_or_default()),
        _ if field.is_live() && !is_online => Err(format!("{field} is not known, as it is offline")),
        Field::Metric(..) => {
            let value = value.ok_or_else(|| format!("it has no {field}"))?;
            let sampled_at = sampled_at.map(|at| at.saturating_add_signed(-status.clock_ahead_ms));
            let age = sampled_at.map_or(Millis::MAX, |at| now.saturating_sub(at));
            if age > millis(FRESH) {
                let age = show_duration(std::time::Duration::from_secs(age / 1000));
                return Err(format!("its {field} is {age} old"));
            }
            Ok(value)
        }
        _ => value.ok_or_else(|| format!("it has no {field}")),
    }
}
