//! Reads what hosts publish, page by page. What comes from Redis is not trusted: every text and number is judged.

use std::{collections::HashMap, ops::Range, sync::Arc};

use protocol::{command::EntryError, limits, name::HostName, outcome::State, status::Status, time};
use redis::{Cmd, Value};

use super::{
    columns::{COMMANDS, DROPPED, LIVENESS, Rows, Table},
    samples::{Sample, VALUE_BYTES, label_value},
};
use crate::client::{Error, Fleet, SAMPLED, is_fresh};

/// Hosts that are read in one round trip.
pub const PAGE: usize = 200;

/// Items (mounts, interfaces) of one host, and figures of one of its actions.
pub const ITEMS: usize = 128;

/// The longest text that can be a figure.
const FIGURE_BYTES: usize = 40;

/// The fields of a status that say how a host is. Others are counters.
const STATUS: [&str; 11] = [
    "last_seen",
    "state",
    "version",
    "started_at",
    "running",
    "slots",
    "read_age_ms",
    "clock_ahead_ms",
    "refuses",
    "trust",
    "actions",
];

/// How commands end.
const ENDS: [State; 7] = [
    State::Succeeded,
    State::Failed,
    State::TimedOut,
    State::Cancelled,
    State::Interrupted,
    State::Rejected,
    State::Expired,
];

/// Why entries are dropped, besides those that cannot be read.
const DROPS: [&str; 4] = ["duplicate", "early", "untrusted", "cancel_forgotten"];

/// A host, and what decides which of its figures count.
#[derive(Debug)]
pub struct Known {
    /// Its name.
    pub host: HostName,
    /// Its place in the index of hosts.
    pub seen_ms: time::Millis,
    /// Whether it is online.
    pub is_online: bool,
    /// When its worker was started.
    pub started_ms: time::Millis,
    /// The release of its worker.
    pub version: Arc<str>,
    /// See [`Status::clock_ahead_ms`].
    clock_ahead_ms: i64,
}

/// What is read of liveness.
#[derive(Debug)]
pub struct Liveness {
    /// How each host is.
    pub hosts: Rows,
    /// Its commands.
    pub commands: Rows,
    /// What it has dropped.
    pub dropped: Rows,
}

/// How much had to be left out, by reason.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeftOut {
    /// Texts that are no number or no name.
    pub unreadable: u64,
    /// What is beyond a bound.
    pub beyond: u64,
    /// Figures that are too old.
    pub old: u64,
}

impl Known {
    /// A host of the index, of which nothing else is known yet.
    pub fn of((host, seen_ms): (HostName, time::Millis)) -> Self {
        Self { host, seen_ms, is_online: false, started_ms: 0, version: "".into(), clock_ahead_ms: 0 }
    }

    /// Whether figures that were read at this moment of the host's clock still say how it is.
    pub fn is_fresh(&self, sampled: Option<&[u8]>, now: time::Millis) -> bool {
        let sampled = sampled.and_then(short_text).and_then(time::read_moment);
        is_fresh(&Status { clock_ahead_ms: self.clock_ahead_ms, ..Status::default() }, sampled, now)
    }
}

/// The places of the hosts that are online, of those in this range.
pub fn online(hosts: &[Known], range: Range<usize>) -> Vec<usize> {
    range.filter(|at| hosts[*at].is_online).collect()
}

/// `HMGET`. With many fields, memory is asked for once.
pub fn hmget<F: AsRef<[u8]>>(key: &str, fields: impl Iterator<Item = F> + Clone) -> Cmd {
    let bytes = key.len() + 8 + fields.clone().map(|field| field.as_ref().len()).sum::<usize>();
    let mut command = Cmd::with_capacity(fields.clone().count() + 2, bytes);
    command.arg("HMGET").arg(key);
    for field in fields {
        command.arg(field.as_ref());
    }
    command
}

/// The replies to one command for each host.
pub async fn ask(fleet: &mut Fleet, commands: impl Iterator<Item = Cmd>) -> Result<Vec<Value>, Error> {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    for command in commands {
        pipeline.add_command(command);
    }
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    let replies: Vec<Result<Value, redis::RedisError>> = fleet.query_once_with_time(pipeline).await?;
    // A key of the wrong type counts as missing: `ctl doctor` names it.
    Ok(replies.into_iter().map(|reply| reply.unwrap_or(Value::Nil)).collect())
}

/// The bytes of a reply.
pub fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// The values of `HMGET`.
pub fn values(reply: &Value) -> &[Value] {
    if let Value::Array(values) = reply { values } else { &[] }
}

/// The fields of `HGETALL`.
pub fn pairs(reply: &Value) -> impl Iterator<Item = (&[u8], &[u8])> {
    let (flat, map): (&[Value], &[(Value, Value)]) = match reply {
        Value::Array(values) => (values, &[]),
        Value::Map(pairs) => (&[], pairs),
        _ => (&[], &[]),
    };
    let flat = flat.chunks_exact(2).map(|pair| (&pair[0], &pair[1]));
    flat.chain(map.iter().map(|(name, value)| (name, value)))
        .filter_map(|(name, value)| Some((bytes(name)?, bytes(value)?)))
}

/// A text that is short enough for a label, without control characters.
pub fn label(bytes: &[u8]) -> Arc<str> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(VALUE_BYTES)]);
    if text.contains(char::is_control) { label_value(&text.replace(char::is_control, "?")) } else { label_value(&text) }
}

/// A number; `None` where it is none that a figure can be.
pub fn figure(bytes: &[u8]) -> Option<f64> {
    short_text(bytes)?.parse().ok().filter(|figure: &f64| figure.is_finite())
}

fn short_text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.len() <= FIGURE_BYTES)
}

/// The counters of a status, with the label of each.
fn counters() -> impl Iterator<Item = (&'static str, String, bool)> {
    let ended = ENDS.into_iter().map(State::as_str).map(|state| (state, format!("ended_{state}"), true));
    let reasons = EntryError::REASONS.into_iter().chain(DROPS);
    ended.chain(reasons.map(|reason| (reason, format!("dropped_{reason}"), false)))
}

/// Reads how all hosts are.
pub async fn liveness(fleet: &mut Fleet, hosts: &mut [Known], left_out: &mut LeftOut) -> Result<Liveness, Error> {
    let counters: Vec<_> = counters().map(|(label, field, ended)| (Arc::<str>::from(label), field, ended)).collect();
    let fields: Vec<&str> = STATUS.into_iter().chain(counters.iter().map(|(_, field, _)| field.as_str())).collect();
    let mut read = Liveness { hosts: Rows::of(&LIVENESS), commands: Rows::of(&COMMANDS), dropped: Rows::of(&DROPPED) };
    let mut versions: HashMap<String, Arc<str>> = HashMap::new();
    for (page, known) in hosts.chunks_mut(PAGE).enumerate() {
        let keys = fleet.keys().clone();
        let replies = ask(fleet, known.iter().map(|known| hmget(&keys.status(&known.host), fields.iter()))).await?;
        let now = fleet.now();
        for (at, (known, reply)) in known.iter_mut().zip(&replies).enumerate() {
            let place = page * PAGE + at;
            let found = values(reply);
            let status = status(found);
            let mut row = [f64::NAN; LIVENESS.width()];
            row[0] = 0.0;
            row[1] = seconds(status.as_ref().map_or(0, |status| status.last_seen_ms).max(known.seen_ms));
            if let Some(status) = status {
                known.is_online = status.is_online(now);
                known.started_ms = status.started_at_ms;
                known.clock_ahead_ms = status.clock_ahead_ms;
                row[0] = f64::from(u8::from(known.is_online));
                if known.is_online {
                    let problem = |problem: &Option<String>| f64::from(u8::from(problem.is_some()));
                    row[2] = seconds(status.started_at_ms);
                    row[3] = status.running as f64;
                    row[4] = status.slots as f64;
                    row[5] = status.read_age_ms as f64 / 1000.0;
                    row[6] = status.clock_ahead_ms as f64 / 1000.0;
                    row[7] = problem(&status.refuses);
                    row[8] = problem(&status.trust);
                    row[9] = problem(&status.actions);
                }
                if versions.len() > PAGE {
                    versions.clear();
                }
                let version = versions.entry(status.version);
                known.version = Arc::clone(version.or_insert_with_key(|version| label(version.as_bytes())));
            }
            left_out.beyond += u64::from(!read.hosts.add(place, None, &row));
            if !known.is_online {
                continue;
            }
            for ((label, _, ended), value) in counters.iter().zip(found.iter().skip(STATUS.len())) {
                let Some(text) = bytes(value) else { continue };
                let Some(count) = figure(text) else {
                    left_out.unreadable += 1;
                    continue;
                };
                let rows = if *ended { &mut read.commands } else { &mut read.dropped };
                left_out.beyond += u64::from(!rows.add(place, Some(Arc::clone(label)), &[count, f64::NAN]));
            }
        }
    }
    Ok(read)
}

/// A status from its fields. Texts that are too long count as missing.
fn status(found: &[Value]) -> Option<Status> {
    let fields = STATUS.into_iter().zip(found).filter_map(|(name, value)| {
        let bytes = bytes(value)?;
        let bytes = &bytes[..bytes.len().min(VALUE_BYTES)];
        Some((name.to_owned(), String::from_utf8_lossy(bytes).into_owned()))
    });
    Status::from_fields(&fields.collect())
}

/// Reads a group whose fields are about the host as a whole.
pub async fn whole(
    fleet: &mut Fleet,
    hosts: &[Known],
    table: &'static Table,
    key: impl Fn(&protocol::keys::Keys, &HostName) -> String,
    left_out: &mut LeftOut,
) -> Result<Rows, Error> {
    let fields: Vec<&str> = table.fields.iter().copied().chain([SAMPLED]).collect();
    let mut rows = Rows::of(table);
    let mut row = vec![f64::NAN; table.width()];
    for page in online(hosts, 0..hosts.len()).chunks(PAGE) {
        let keys = fleet.keys().clone();
        let commands = page.iter().map(|at| hmget(&key(&keys, &hosts[*at].host), fields.iter()));
        let replies = ask(fleet, commands).await?;
        let now = fleet.now();
        for (at, reply) in page.iter().zip(&replies) {
            let found = values(reply);
            if found.iter().all(|value| *value == Value::Nil) {
                continue;
            }
            let sampled = found.last().and_then(bytes);
            if !hosts[*at].is_fresh(sampled, now) {
                left_out.old += 1;
                continue;
            }
            for (place, value) in row.iter_mut().zip(found) {
                *place = bytes(value).and_then(figure).unwrap_or(f64::NAN);
            }
            let unreadable = |(figure, value): &(&f64, &Value)| figure.is_nan() && **value != Value::Nil;
            left_out.unreadable += row.iter().zip(found).take(table.fields.len()).filter(unreadable).count() as u64;
            row[table.fields.len()] = moment(sampled);
            left_out.beyond += u64::from(!rows.add(*at, None, &row));
        }
    }
    Ok(rows)
}

/// Labels of a host, its own before those that controllers have set: no more than [`limits::SET_LABELS`] of each.
pub fn labels(mut sample: Sample, own: &Value, set: &Value, left_out: &mut LeftOut) -> Sample {
    let mut known: Vec<String> = Vec::new();
    for source in [own, set] {
        let mut pairs: Vec<_> = pairs(source).collect();
        left_out.beyond += pairs.len().saturating_sub(limits::SET_LABELS) as u64;
        pairs.truncate(limits::SET_LABELS);
        pairs.sort_unstable();
        for (name, value) in pairs {
            let name = super::samples::name_part(&String::from_utf8_lossy(&name[..name.len().min(VALUE_BYTES)]));
            // Two names can become the same.
            if !known.contains(&name) {
                sample = sample.with(format!("label_{name}"), label(value));
                known.push(name);
            }
        }
    }
    sample
}

/// Milliseconds since the epoch in seconds.
pub fn seconds(moment: time::Millis) -> f64 {
    moment as f64 / 1000.0
}

/// A moment that is written as text, in seconds since the epoch.
pub fn moment(text: Option<&[u8]>) -> f64 {
    text.and_then(short_text).and_then(time::read_moment).map_or(f64::NAN, seconds)
}
