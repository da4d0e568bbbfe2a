//! Finding the hosts that a selection means.

use std::{collections::HashMap, time::Duration};

use protocol::{
    clock::millis,
    keys::Keys,
    name::HostName,
    status::Status,
    time::{Millis, read_moment, show_duration},
};
use redis::Cmd;

use super::{
    error::{Error, WrongType},
    fleet::{Fleet, text},
    groups,
    hosts::Host,
    targeting::{Field, Filter, Limit, Truth, Unknown, Word, WordError},
};

/// How old a figure may be to count as known.
const FRESH: Duration = Duration::from_secs(300);

/// When the figures of a metric group were read.
pub const SAMPLED: &str = "sampled_at";

/// Some hosts of the fleet.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Those with these names; none: all that have ever reported.
    pub words: Vec<Word>,
    /// Without these.
    pub except: Vec<Word>,
    /// Of them, those for which this holds.
    pub filter: Option<Filter>,
    /// Of them, no more than this.
    pub limit: Option<Limit>,
}

impl Selection {
    /// All hosts that have ever reported.
    pub const fn all() -> Self {
        Self { words: Vec::new(), except: Vec::new(), filter: None, limit: None }
    }

    /// The hosts that these words mean.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, WordError> {
        let words = words.into_iter().map(str::parse).collect::<Result<Vec<Word>, _>>()?;
        Ok(Self { words, ..Self::all() })
    }

    /// The hosts that were named, themselves or by ranges.
    pub(super) fn named(&self) -> impl Iterator<Item = &HostName> {
        self.words.iter().filter_map(Word::exact).flatten()
    }

    /// Whether this host was named, itself or by a range.
    pub fn is_named(&self, host: &HostName) -> bool {
        self.named().any(|name| name == host)
    }
}

/// What else is known of a field of a host, or why it is not; `None` where Redis is to be asked.
pub type Known<'a> = dyn Fn(&HostName, &Field) -> Option<Result<String, String>> + Sync + 'a;

/// A selection in which groups are taken for what they are now.
struct SpelledOut {
    /// What must hold for its hosts.
    filter: Option<Filter>,
    /// What groups name that is nowhere.
    doubts: Vec<String>,
    /// All hosts, sorted, where they had to be read.
    known: Option<Vec<HostName>>,
}

/// The hosts that are meant.
#[derive(Debug)]
pub struct Selected {
    /// Sorted, each once.
    pub hosts: Vec<Host>,
    /// Those of which it is not known whether they are, sorted.
    pub unknown: Vec<Unknown>,
    /// What was asked for and is nowhere: it may be misspelt.
    pub doubts: Vec<String>,
}

/// The names of the hosts that are meant.
#[derive(Default)]
pub(super) struct Meant {
    /// Sorted, each once.
    pub(super) names: Vec<HostName>,
    /// See [`Selected::unknown`].
    pub(super) unknown: Vec<Unknown>,
    /// See [`Selected::doubts`].
    pub(super) doubts: Vec<String>,
    /// How many there are without the filter and the limit.
    pub(super) considered: usize,
    /// What had to hold for them.
    pub(super) filter: Option<String>,
}

impl Fleet {
    /// The hosts that are meant.
    ///
    /// # Errors
    /// A name that no host has, a pattern that no host matches, or nothing that is left of them.
    pub async fn select(&mut self, selection: &Selection) -> Result<Selected, Error> {
        let Meant { names, unknown, doubts, considered, filter } = self.meant(selection).await?;
        if names.is_empty() {
            return Err(Error::NoneMeant { considered, filter, unknown });
        }

        let hosts = self.hosts(&names).await?;
        match hosts.iter().find(|host| !host.is_known()) {
            None => Ok(Selected { hosts, unknown, doubts }),
            Some(stranger) => Err(self.stranger(&stranger.name).await?),
        }
    }

    /// The names of the hosts that are meant, maybe none. Whether a host that was named has ever reported is not known yet.
    pub(super) async fn meant(&mut self, selection: &Selection) -> Result<Meant, Error> {
        let SpelledOut { filter, mut doubts, known } = self.spelled_out(selection).await?;
        let mut names = self.named(selection, known.as_deref()).await?;
        names.sort();
        names.dedup();
        doubts.extend(self.exclude(selection, known, &mut names).await?);
        let considered = names.len();
        let mut unknown = Vec::new();
        if let Some(filter) = &filter {
            let found = self.filtered(&names, filter, selection, &|_, _| None).await?;
            doubts.extend(found.doubts);
            (names, unknown) = (found.meant, found.unknown);
        }
        if let Some(limit) = selection.limit {
            names.truncate(limit.of(names.len()));
        }
        Ok(Meant { names, unknown, doubts, considered, filter: filter.map(|filter| filter.text().to_owned()) })
    }

    /// Whom a selection means now and later. Returns also what its groups name that is nowhere.
    pub(super) async fn whom(&mut self, selection: &Selection) -> Result<(Selection, Vec<String>), Error> {
        let SpelledOut { filter, doubts, .. } = self.spelled_out(selection).await?;
        let by_group = selection.words.iter().any(|word| word.group().is_some());
        let words = if by_group { Vec::new() } else { selection.words.clone() };
        Ok((Selection { words, except: selection.except.clone(), filter, limit: None }, doubts))
    }

    /// Those of these hosts that are meant, and those of which that is not known.
    pub(super) async fn those_of(
        &mut self,
        whom: &Selection,
        names: &[HostName],
    ) -> Result<(Vec<HostName>, Vec<HostName>), Error> {
        let matches = |words: &[Word], name: &HostName| words.iter().any(|word| word.matches(name.as_str()));
        let is_meant =
            |name: &&HostName| (whom.words.is_empty() || matches(&whom.words, name)) && !matches(&whom.except, name);
        let names: Vec<_> = names.iter().filter(is_meant).cloned().collect();
        let Some(filter) = &whom.filter else { return Ok((names, Vec::new())) };
        let Filtered { meant, unknown, .. } = self.filtered(&names, filter, &Selection::all(), &|_, _| None).await?;
        Ok((meant, unknown.into_iter().map(|unknown| unknown.host).collect()))
    }

    /// That there is no such host.
    pub(super) async fn stranger(&mut self, name: &HostName) -> Result<Error, Error> {
        Ok(Error::UnknownHost { name: name.clone(), known: self.known().await? })
    }

    /// What must hold for the hosts besides what their names tell: the filter, and the groups among the words.
    async fn spelled_out(&mut self, selection: &Selection) -> Result<SpelledOut, Error> {
        let Selection { words, except, filter, .. } = selection;
        let except: Vec<Word> = except.iter().filter(|word| word.group().is_some()).cloned().collect();
        let is_by_group = words.iter().any(|word| word.group().is_some());
        let mut names: Vec<_> = words.iter().chain(&except).filter_map(Word::group).collect();
        names.extend(filter.iter().flat_map(Filter::groups));
        if names.is_empty() {
            return Ok(SpelledOut { filter: filter.clone(), doubts: Vec::new(), known: None });
        }
        let all = self.groups().await?;
        let groups = all.within(names)?;
        let excluding =
            except.iter().chain(groups.iter().flat_map(|(_, group)| group.except())).filter_map(Word::group);
        let known = self.known().await?;
        let doubts = groups::doubts(&groups, &all.within(excluding)?, &known)?;

        let words = is_by_group.then(|| Filter::of_words(words));
        let except = (!except.is_empty()).then(|| Filter::of_words(&except).not());
        let filter = words.into_iter().chain(except).chain(filter.clone()).reduce(Filter::and);
        let groups = groups.into_iter().map(|(name, group)| (name, group.filter())).collect();
        Ok(SpelledOut { filter: filter.map(|filter| filter.knowing(groups)), doubts, known: Some(known) })
    }

    /// The hosts that the words mean. Where there are groups among them, all: which of them are meant is a matter of
    /// [`Self::spelled_out`]. `known`: all hosts, where they have been read.
    async fn named(&mut self, selection: &Selection, known: Option<&[HostName]>) -> Result<Vec<HostName>, Error> {
        let words = &selection.words;
        // Names alone need no list of all hosts: one round trip less.
        if !words.is_empty() && words.iter().all(|word| word.exact().is_some()) {
            return Ok(words.iter().filter_map(|word| word.exact()).flatten().cloned().collect());
        }
        let known = match known {
            Some(known) => known.to_vec(),
            None => self.known().await?,
        };
        if words.is_empty() {
            return Ok(known);
        }
        let mut names = Vec::new();
        for word in words {
            let before = names.len();
            match word.exact() {
                Some(exact) => names.extend(exact.iter().cloned()),
                None if word.group().is_some() => names.extend(known.iter().cloned()),
                None => names.extend(known.iter().filter(|name| word.matches(name.as_str())).cloned()),
            }
            if names.len() == before {
                return Err(Error::NoMatch { pattern: word.text().to_owned(), known });
            }
        }
        Ok(names)
    }

    /// Takes away the hosts that are excluded. A name that no host has is an error: it was meant to protect one. Returns the
    /// patterns that match none. `known`: all hosts, where they have been read.
    async fn exclude(
        &mut self,
        selection: &Selection,
        mut known: Option<Vec<HostName>>,
        names: &mut Vec<HostName>,
    ) -> Result<Vec<String>, Error> {
        let mut doubts = Vec::new();
        for word in selection.except.iter().filter(|word| word.group().is_none()) {
            match word.exact() {
                Some(exact) => {
                    let is_other = |name: &HostName| names.binary_search(name).is_err();
                    if known.is_none() && exact.iter().any(is_other) {
                        known = Some(self.known().await?);
                    }
                    let all = known.as_deref().unwrap_or_default();
                    if let Some(stranger) = exact.iter().find(|name| is_other(name) && all.binary_search(name).is_err())
                    {
                        return Err(Error::UnknownHost { name: stranger.clone(), known: all.to_vec() });
                    }
                }
                None if !names.iter().any(|name| word.matches(name.as_str())) => {
                    doubts.push(format!("no host matches '{}', which is to be excluded", word.text()));
                }
                None => {}
            }
        }
        names.retain(|name| !selection.except.iter().any(|word| word.matches(name.as_str())));
        Ok(doubts)
    }

    /// Of these hosts, those for which the filter holds, and those of which that is not known. `known`: what the caller
    /// knows of a host, or why it does not.
    pub async fn judge(
        &mut self,
        hosts: &[HostName],
        filter: &Filter,
        known: &Known<'_>,
    ) -> Result<(Vec<HostName>, Vec<Unknown>), Error> {
        let Filtered { meant, unknown, .. } = self.filtered(hosts, filter, &Selection::all(), known).await?;
        Ok((meant, unknown))
    }

    /// Judges the hosts. Only what the filter asks for is read, and only of hosts of which the name does not decide.
    async fn filtered(
        &mut self,
        names: &[HostName],
        filter: &Filter,
        selection: &Selection,
        known: &Known<'_>,
    ) -> Result<Filtered, Error> {
        let by_name = |name: &HostName| {
            filter.judge(&|field| if *field == Field::Host { Ok(name.to_string()) } else { Err(String::new()) })
        };
        let (mut meant, mut open) = (Vec::new(), Vec::new());
        for name in names {
            match by_name(name) {
                Truth::Yes => meant.push(name.clone()),
                Truth::No => {}
                Truth::Unknown(_) => open.push(name.clone()),
            }
        }
        let names = &open[..];
        let statuses = self.statuses(names).await?;
        let stranger =
            names.iter().zip(&statuses).find(|(name, status)| matches!(status, Ok(None)) && selection.is_named(name));
        if let Some((stranger, _)) = stranger {
            return Err(self.stranger(stranger).await?);
        }
        let (mut values, mut doubts) = (vec![HashMap::new(); names.len()], Vec::new());
        for field in filter.fields() {
            let found = self.values(names, field).await?;
            let is_nowhere = !found.is_empty() && found.iter().all(|found| matches!(found, Found::Value(None, _)));
            if let Field::Label(label) = field
                && is_nowhere
            {
                doubts.push(format!("no host has the label '{label}'"));
            }
            values.iter_mut().zip(found).for_each(|(values, found)| drop(values.insert(field, found)));
        }

        let now = self.now();
        let mut unknown = Vec::new();
        for ((name, status), values) in names.iter().zip(&statuses).zip(values) {
            let truth = match status {
                Ok(Some(status)) => filter.judge(&|field| {
                    known(name, field).unwrap_or_else(|| value(field, name, status, values.get(field), now))
                }),
                Ok(None) => Truth::Unknown("it has never reported".into()),
                Err(damage) => Truth::Unknown(damage.to_string()),
            };
            match truth {
                Truth::Yes => meant.push(name.clone()),
                Truth::No => {}
                Truth::Unknown(reason) => unknown.push(Unknown { host: name.clone(), reason }),
            }
        }
        meant.sort();
        Ok(Filtered { meant, unknown, doubts })
    }

    /// Hands what is known of each of these hosts to `see`: whether it is online, and the values of these fields, or why they
    /// are not known.
    pub(super) async fn look_at(
        &mut self,
        names: &[HostName],
        fields: &[&Field],
        mut see: impl FnMut(&HostName, bool, &dyn Fn(&Field) -> Result<String, String>),
    ) -> Result<(), Error> {
        let statuses = self.statuses(names).await?;
        let mut values = vec![HashMap::new(); names.len()];
        for field in fields {
            let found = self.values(names, field).await?;
            values.iter_mut().zip(found).for_each(|(values, found)| drop(values.insert(*field, found)));
        }
        let now = self.now();
        for ((name, status), values) in names.iter().zip(&statuses).zip(&values) {
            match status {
                Ok(Some(status)) => {
                    see(name, status.is_online(now), &|field| value(field, name, status, values.get(field), now));
                }
                Ok(None) => see(name, false, &|_| Err("it has never reported".into())),
                Err(damage) => see(name, true, &|_| Err(damage.to_string())),
            }
        }
        Ok(())
    }

    /// What tells whether these hosts are online, and since when.
    pub(super) async fn statuses(
        &mut self,
        names: &[HostName],
    ) -> Result<Vec<Result<Option<Status>, WrongType>>, Error> {
        const FIELDS: [&str; 4] = ["last_seen", "state", "started_at", "clock_ahead_ms"];
        let ask = |keys: &Keys, name: &HostName| [Cmd::hmget(keys.status(name), &FIELDS)];
        let read = |_: &HostName, (values,): (Option<Texts>,), damage: Option<WrongType>| {
            let values = FIELDS.iter().zip(values.unwrap_or_default());
            let fields = values.filter_map(|(name, value)| Some(((*name).to_owned(), text(&value?))));
            damage.map_or_else(|| Ok(Status::from_fields(&fields.collect())), Err)
        };
        self.query_each(names, ask, read).await
    }

    /// A field of these hosts; of a figure, when it was read.
    async fn values(&mut self, names: &[HostName], field: &Field) -> Result<Vec<Found>, Error> {
        let place = |keys: &Keys, name: &HostName, with: &str| {
            let (key, place) = field.place(keys, name).unwrap_or_default();
            Cmd::hmget(key, &[place, with])
        };
        match field {
            Field::Host | Field::State | Field::Result(..) | Field::Redis(_) => {
                Ok(vec![Found::Value(None, None); names.len()])
            }
            Field::Label(label) => {
                let ask = |keys: &Keys, name: &HostName| {
                    let set = Cmd::hget(keys.set_labels(name), label);
                    [place(keys, name, ""), set, Cmd::hget(keys.facts(name), PUBLISHED)]
                };
                // Labels and facts are published together: without facts, that a label is not there says nothing.
                let read =
                    |_: &HostName, (own, set, published): LabelReplies, damage: Option<_>| match Found::of(own, damage)
                    {
                        Found::Value(..) if published.is_none() => Found::Unpublished,
                        Found::Value(None, at) => Found::Value(set.map(|set| text(&set)), at),
                        found => found,
                    };
                self.query_each(names, ask, read).await
            }
            _ => {
                let ask = |keys: &Keys, name: &HostName| [place(keys, name, SAMPLED)];
                let read = |_: &HostName, (values,): (Option<Texts>,), damage: Option<_>| Found::of(values, damage);
                self.query_each(names, ask, read).await
            }
        }
    }
}

/// The reply to `HMGET`.
type Texts = Vec<Option<Vec<u8>>>;

/// A label of the host's own, one that a controller has set, and whether the host has published its labels.
type LabelReplies = (Option<Texts>, Option<Vec<u8>>, Option<Vec<u8>>);

/// A fact that every host publishes.
const PUBLISHED: &str = "architecture";

/// How the hosts were judged.
struct Filtered {
    meant: Vec<HostName>,
    unknown: Vec<Unknown>,
    doubts: Vec<String>,
}

/// What Redis has of a field.
#[derive(Clone, Debug)]
enum Found {
    /// The value, and when it was read by the host's clock.
    Value(Option<String>, Option<Millis>),
    /// The host has not published anything of that kind.
    Unpublished,
    /// Something else is there.
    Damaged(WrongType),
}

impl Found {
    /// What Redis replied: the value, and when it was read.
    fn of(values: Option<Texts>, damage: Option<WrongType>) -> Self {
        let mut values = values.unwrap_or_default().into_iter().map(|value| value.map(|value| text(&value)));
        let (value, sampled_at) = (values.next().flatten(), values.next().flatten());
        damage.map_or_else(|| Self::Value(value, sampled_at.as_deref().and_then(read_moment)), Self::Damaged)
    }
}

/// Whether figures that were read at this moment, by the host's clock, count as known.
pub fn is_fresh(status: &Status, sampled_at: Option<Millis>, now: Millis) -> bool {
    let sampled_at = sampled_at.map(|at| at.saturating_add_signed(status.clock_ahead_ms.saturating_neg()));
    sampled_at.is_some_and(|at| now.saturating_sub(at) <= millis(FRESH))
}

/// A field of a host, or why it is not known.
fn value(
    field: &Field,
    host: &HostName,
    status: &Status,
    found: Option<&Found>,
    now: Millis,
) -> Result<String, String> {
    let is_online = status.is_online(now);
    match field {
        Field::Host => return Ok(host.to_string()),
        Field::State if is_online => return Ok("online".into()),
        Field::State => return Ok(if status.stopped { "stopped" } else { "offline" }.into()),
        _ => {}
    }
    let (value, sampled_at) = match found {
        Some(Found::Value(value, sampled_at)) => (value.clone(), *sampled_at),
        Some(Found::Damaged(damage)) => return Err(damage.to_string()),
        Some(Found::Unpublished) | None => return Err(format!("it has not published {field} yet")),
    };
    match field {
        Field::Label(_) => Ok(value.unwrap_or_default()),
        _ if field.is_live() && !is_online => Err(format!("{field} is not known, as it is offline")),
        Field::Metric(..) => {
            let value = value.ok_or_else(|| format!("it has no {field}"))?;
            if is_fresh(status, sampled_at, now) {
                Ok(value)
            } else {
                Err(format!("its {field} is older than {}", show_duration(FRESH)))
            }
        }
        _ => value.ok_or_else(|| format!("it has no {field}")),
    }
}
