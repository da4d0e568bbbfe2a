//! Reads groups whose hashes have figures of items: mounts, interfaces.
//!
//! Most of such a hash is names, and figures that no family has. Which fields it has rarely changes. So what was wanted of it
//! is asked for by name the next time, together with the number of its fields. Where that has changed, or a field is missing,
//! the hash is read whole again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protocol::{keys::Keys, name::HostName};
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::{
    columns::{Rows, Table},
    hosts::{self, ITEMS, Known, LeftOut, PAGE},
    samples::VALUE_BYTES,
};
use crate::client::{Error, Fleet, SAMPLED};

/// A hash of which more fields are wanted is read whole.
const WANTED: usize = 128;

/// How long a shape counts as known. It is noticed when it changes; this is for what nobody thought of.
const KEEP: Duration = Duration::from_secs(300);

/// Shapes that are known at a time; hosts with another one are read whole. Many hosts have the same.
const SHAPES: usize = 1_000;

/// The field that tells by being there.
const STATE: &str = "state";

/// What hashes of one group are known to have.
#[derive(Debug, Default)]
pub struct Items(Mutex<Shapes>);

#[derive(Debug, Default)]
struct Shapes {
    hosts: HashMap<HostName, (Instant, Arc<Shape>)>,
    all: HashSet<Arc<Shape>>,
}

/// The fields of a hash.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Shape {
    /// Their number, with those that are not wanted.
    len: usize,
    wanted: Vec<Wanted>,
    items: Vec<Arc<str>>,
    /// Fields that are beyond a bound.
    beyond: u64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Wanted {
    field: Vec<u8>,
    item: usize,
    column: usize,
}

/// What a hash has.
struct Found<'a> {
    shape: Arc<Shape>,
    sampled: Option<&'a [u8]>,
    /// As the shape wants them.
    values: Vec<&'a [u8]>,
}

impl Items {
    /// Reads the figures of all hosts that are online.
    pub async fn read(
        &self,
        fleet: &mut Fleet,
        known: &[Known],
        table: &'static Table,
        key: impl Fn(&Keys, &HostName) -> String,
        left_out: &mut LeftOut,
    ) -> Result<Rows, Error> {
        self.forget(KEEP);
        let mut rows = Rows::of(table);
        for page in hosts::online(known, 0..known.len()).chunks(PAGE) {
            let keys = fleet.keys().clone();
            let key = |at: usize| key(&keys, &known[at].host);
            let shapes = self.of(page.iter().map(|at| &known[*at].host));

            let of_shapes: Vec<_> = page.iter().zip(shapes).filter_map(|(at, shape)| Some((*at, shape?))).collect();
            let ask = of_shapes.iter().flat_map(|(at, shape)| shape.ask(&key(*at)));
            let parts = hosts::ask(fleet, ask).await?;
            let mut found: HashMap<usize, Found<'_>> = HashMap::new();
            for ((at, shape), reply) in of_shapes.iter().zip(parts.chunks_exact(2)) {
                found.extend(shape.part(reply).map(|part| (*at, part)));
            }

            let others: Vec<usize> = page.iter().copied().filter(|at| !found.contains_key(at)).collect();
            let wholes = hosts::ask(fleet, others.iter().map(|at| Cmd::hgetall(key(*at)))).await?;
            let mut read: Vec<_> = wholes.iter().map(|reply| Found::whole(reply, table)).collect();
            let hosts = others.iter().map(|at| &known[*at].host);
            self.learn(hosts.zip(read.iter_mut().map(|found| &mut found.shape)));
            found.extend(others.into_iter().zip(read));

            let now = fleet.now();
            for at in page {
                let Some(found) = found.get(at) else { continue };
                if !found.shape.items.is_empty() && !known[*at].is_fresh(found.sampled, now) {
                    left_out.old += 1;
                    continue;
                }
                found.add(*at, &mut rows, left_out);
            }
        }
        Ok(rows)
    }

    /// What is known of each of these hosts.
    fn of<'a>(&self, hosts: impl Iterator<Item = &'a HostName>) -> Vec<Option<Arc<Shape>>> {
        let shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.map(|host| shapes.hosts.get(host).map(|(_, shape)| Arc::clone(shape))).collect()
    }

    /// Keeps what the hashes of these hosts have. Equal shapes become one.
    fn learn<'a>(&self, read: impl Iterator<Item = (&'a HostName, &'a mut Arc<Shape>)>) {
        let mut shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        for (host, shape) in read {
            shapes.hosts.remove(host);
            if let Some(known) = shapes.all.get(shape) {
                *shape = Arc::clone(known);
            } else if shape.wanted.len() > WANTED || shapes.all.len() >= SHAPES {
                continue;
            } else {
                shapes.all.insert(Arc::clone(shape));
            }
            shapes.hosts.insert(host.clone(), (at, Arc::clone(shape)));
        }
    }

    /// Forgets hosts that are gone, and what only they had.
    fn forget(&self, keep: Duration) {
        let mut shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shapes.hosts.retain(|_, (at, _)| at.elapsed() < keep);
        // One that is only here is no host's.
        shapes.all.retain(|shape| Arc::strong_count(shape) > 1);
    }
}

impl Shape {
    /// What asks a hash for it.
    fn ask(&self, key: &str) -> [Cmd; 2] {
        let fields = [SAMPLED.as_bytes()].into_iter().chain(self.wanted.iter().map(|wanted| &*wanted.field));
        let values = hosts::hmget(key, fields);
        let mut len = redis::cmd("HLEN");
        len.arg(key);
        [len, values]
    }

    /// What was replied to that. `None`: the hash has another shape.
    fn part<'a>(self: &Arc<Self>, reply: &'a [Value]) -> Option<Found<'a>> {
        let [Value::Int(len), values] = reply else { return None };
        let (sampled, values) = hosts::values(values).split_first()?;
        let values: Vec<_> = values.iter().map_while(hosts::bytes).collect();
        let is_same = usize::try_from(*len) == Ok(self.len) && values.len() == self.wanted.len();
        is_same.then(|| Found { shape: Arc::clone(self), sampled: hosts::bytes(sampled), values })
    }
}

impl<'a> Found<'a> {
    /// What a whole hash has.
    fn whole(reply: &'a Value, table: &Table) -> Self {
        let mut shape = Shape { len: 0, wanted: Vec::new(), items: Vec::new(), beyond: 0 };
        let (mut sampled, mut values) = (None, Vec::new());
        for (field, value) in hosts::pairs(reply) {
            shape.len += 1;
            let Some(colon) = field.iter().position(|byte| *byte == b':') else {
                if field == SAMPLED.as_bytes() {
                    sampled = Some(value);
                }
                continue;
            };
            let (figure, item) = (&field[..colon], &field[colon + 1..]);
            let Some(column) = table.fields.iter().position(|name| name.as_bytes() == figure) else { continue };
            if item.len() > VALUE_BYTES {
                shape.beyond += 1;
                continue;
            }
            let name = hosts::label(item);
            let place = shape.items.iter().position(|known| *known == name).unwrap_or(shape.items.len());
            if place == ITEMS {
                shape.beyond += 1;
                continue;
            }
            if place == shape.items.len() {
                shape.items.push(name);
            }
            shape.wanted.push(Wanted { field: field.to_owned(), item: place, column });
            values.push(value);
        }
        Self { shape: Arc::new(shape), sampled, values }
    }

    /// Adds a row for each item.
    fn add(&self, host: usize, rows: &mut Rows, left_out: &mut LeftOut) {
        let (shape, table) = (&self.shape, rows.table());
        let width = table.width();
        let mut figures = vec![f64::NAN; width * shape.items.len()];
        for (wanted, value) in shape.wanted.iter().zip(&self.values) {
            let is_state = table.fields[wanted.column] == STATE;
            let figure = if is_state { Some(1.0) } else { hosts::figure(value) };
            left_out.unreadable += u64::from(figure.is_none());
            figures[wanted.item * width + wanted.column] = figure.unwrap_or(f64::NAN);
        }
        left_out.beyond += shape.beyond;
        for (item, row) in shape.items.iter().zip(figures.chunks_exact(width)) {
            left_out.beyond += u64::from(!rows.add(host, Some(Arc::clone(item)), row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::columns::NETWORK, *};

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn whole(fields: &[(&str, &str)]) -> Value {
        Value::Array(fields.iter().flat_map(|(name, value)| [text(name), text(value)]).collect())
    }

    const HASH: [(&str, &str); 4] = [
        ("sampled_at", "2026-11-01T00:00:00Z"),
        ("receive_bytes_total:eth0", "1"),
        ("transmit_bytes_total:eth0", "2"),
        ("receive_bytes_per_second:eth0", "3"),
    ];

    #[test]
    fn what_is_asked_for_by_name_is_what_the_whole_hash_has() {
        let reply = whole(&HASH);
        let found = Found::whole(&reply, &NETWORK);
        assert_eq!((found.shape.len, found.values.len()), (4, 2));
        let part = [Value::Int(4), Value::Array(vec![text(HASH[0].1), text("1"), text("2")])];
        let again = found.shape.part(&part).expect("the same shape");
        assert_eq!((again.sampled, &again.values), (found.sampled, &found.values));
    }

    #[test]
    fn a_hash_that_has_changed_is_read_whole() {
        let reply = whole(&HASH);
        let shape = Found::whole(&reply, &NETWORK).shape;
        let values = || vec![text(HASH[0].1), text("1"), text("2")];
        let mut missing = values();
        missing[2] = Value::Nil;
        for reply in [
            [Value::Int(5), Value::Array(values())],
            [Value::Int(4), Value::Array(missing)],
            [Value::Int(0), Value::Nil],
            [Value::Nil, Value::Nil],
        ] {
            assert!(shape.part(&reply).is_none(), "{reply:?}");
        }
    }

    #[test]
    fn equal_shapes_are_kept_once_and_only_as_long_as_their_hosts_are_seen() {
        let items = Items::default();
        let host = |at: usize| -> HostName { format!("web{at}").parse().expect("a name") };
        let learn = |at: usize, len| {
            let mut shape = Arc::new(Shape { len, wanted: Vec::new(), items: Vec::new(), beyond: 0 });
            items.learn([(&host(at), &mut shape)].into_iter());
            shape
        };
        let kept = || {
            let shapes = items.0.lock().unwrap();
            (shapes.hosts.len(), shapes.all.len())
        };
        assert!(Arc::ptr_eq(&learn(1, 7), &learn(2, 7)));
        assert!(items.of([&host(1), &host(3)].into_iter())[1].is_none());
        for at in 0..2 * SHAPES {
            learn(at, at);
        }
        assert_eq!(kept(), (SHAPES, SHAPES), "those that are known stay");
        items.forget(KEEP);
        assert_eq!(kept(), (SHAPES, SHAPES));
        items.forget(Duration::ZERO);
        assert_eq!(kept(), (0, 0));
    }
}
