//! The connection to the fleet's Redis, and what is read through it about hosts.

use std::{collections::HashMap, rc::Rc, time::Duration};

use anyhow::Context;
use protocol::{
    action::ActionSpec,
    clock::FleetClock,
    connection::{Address, is_broken},
    keys::Keys,
    name::{HostName, Namespace},
    status::Status,
    time::Millis,
};
use redis::{
    ErrorKind, FromRedisValue, Pipeline, RedisError, ServerError, ServerErrorKind, aio::MultiplexedConnection,
    from_redis_value,
};

use crate::error::Advice;

/// The longest blocking read. Short enough that nothing derived from deadlines is told late.
pub const BLOCK: Duration = Duration::from_secs(2);

/// Hosts asked about, or commands sent, in one round trip.
pub const CHUNK: usize = 500;

/// A fleet: its Redis, its keys and its clock.
pub struct Fleet {
    /// The keys of this fleet.
    pub keys: Keys,
    /// The fleet's clock: the local one until the first answer.
    pub clock: FleetClock,
    /// One connection for everything, as only one thing is asked at a time; it may block up to [`BLOCK`].
    pub connection: MultiplexedConnection,
    /// Where Redis is.
    pub address: Address,
}

/// What the fleet knows of a host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// Its last heartbeat in the index of hosts.
    pub seen_ms: Option<Millis>,
    /// Its liveness.
    pub status: Option<Status>,
    /// The actions that it offers; hosts with equal catalogues share one.
    pub actions: Option<Rc<Vec<ActionSpec>>>,
}

impl Host {
    /// Whether the fleet has ever heard of it.
    pub const fn is_known(&self) -> bool {
        self.seen_ms.is_some() || self.status.is_some()
    }

    /// Whether it is there at `now`.
    pub fn is_online(&self, now: Millis) -> bool {
        self.status.as_ref().is_some_and(|status| status.is_online(now))
    }

    /// When it was last heard of.
    pub fn last_seen_ms(&self) -> Option<Millis> {
        self.status.as_ref().map(|status| status.last_seen_ms).max(self.seen_ms)
    }

    /// What it says of an action.
    pub fn action(&self, name: &str) -> Option<&ActionSpec> {
        self.actions.iter().flat_map(|actions| actions.iter()).find(|action| action.name == name)
    }
}

impl Fleet {
    /// Connects.
    ///
    /// # Errors
    /// Says what is wrong and what to do about it.
    pub async fn connect(address: &Address, namespace: Option<&Namespace>) -> anyhow::Result<Self> {
        let connection = address.connect_blocking(BLOCK).await.map_err(|error| explain(&error, address))?;
        Ok(Self { keys: Keys::new(namespace), clock: FleetClock::local(), connection, address: address.clone() })
    }

    /// Replaces a connection that broke.
    pub async fn reconnect(&mut self) -> Result<(), RedisError> {
        self.connection = self.address.connect_blocking(BLOCK).await?;
        Ok(())
    }

    /// One round trip, with Redis' own errors.
    pub async fn query<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> Result<T, RedisError> {
        pipeline.query_async(&mut self.connection).await
    }

    /// One round trip, with errors explained.
    pub async fn ask<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> anyhow::Result<T> {
        Ok(self.query(pipeline).await.map_err(|error| self.explain(&error))?)
    }

    /// What an error of Redis means and what to do about it.
    pub fn explain(&self, error: &RedisError) -> Advice {
        explain(error, &self.address)
    }

    /// All hosts by their last heartbeat, the latest first.
    pub async fn names(&mut self) -> anyhow::Result<Vec<(HostName, Millis)>> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME").cmd("ZREVRANGE").arg(self.keys.servers()).arg(0).arg(-1).arg("WITHSCORES");
        let (time, hosts): (_, Vec<(Vec<u8>, f64)>) = self.ask(&pipeline).await?;
        self.clock = FleetClock::from_redis(time);
        let host = |(name, seen): (Vec<u8>, f64)| Some((text(&name).parse().ok()?, score_millis(seen)));
        Ok(hosts.into_iter().filter_map(host).collect())
    }

    /// What is known of these hosts, in their order.
    pub async fn hosts(&mut self, names: &[HostName]) -> anyhow::Result<Vec<Host>> {
        let mut catalogues = HashMap::new();
        let mut hosts = Vec::with_capacity(names.len());
        for chunk in names.chunks(CHUNK) {
            let mut pipeline = redis::pipe();
            pipeline.cmd("TIME");
            for name in chunk {
                pipeline.cmd("ZSCORE").arg(self.keys.servers()).arg(name.as_str());
                pipeline.cmd("HGETALL").arg(self.keys.status(name));
                pipeline.cmd("HGET").arg(self.keys.facts(name)).arg("actions");
            }
            let mut replies = self.ask::<Vec<redis::Value>>(&pipeline).await?.into_iter();
            let mut next = || replies.next().unwrap_or(redis::Value::Nil);
            self.clock = FleetClock::from_redis(from_redis_value(next())?);
            for name in chunk {
                let seen: Option<f64> = from_redis_value(next())?;
                let status = Status::from_fields(&text_fields(from_redis_value(next())?));
                let actions: Option<Vec<u8>> = from_redis_value(next())?;
                let actions = actions.map(|text| catalogue(&mut catalogues, name, text)).transpose()?;
                hosts.push(Host { name: name.clone(), seen_ms: seen.map(score_millis), status, actions });
            }
        }
        Ok(hosts)
    }

    /// What is known of all hosts.
    pub async fn all_hosts(&mut self) -> anyhow::Result<Vec<Host>> {
        let names: Vec<_> = self.names().await?.into_iter().map(|(name, _)| name).collect();
        self.hosts(&names).await
    }
}

/// Reads a catalogue, each distinct text once.
fn catalogue(
    known: &mut HashMap<Vec<u8>, Rc<Vec<ActionSpec>>>,
    host: &HostName,
    text: Vec<u8>,
) -> anyhow::Result<Rc<Vec<ActionSpec>>> {
    if let Some(actions) = known.get(&text) {
        return Ok(actions.clone());
    }
    let actions =
        serde_json::from_slice(&text).with_context(|| format!("{host} publishes no readable list of actions"))?;
    let actions = Rc::new(actions);
    known.insert(text, Rc::clone(&actions));
    Ok(actions)
}

/// A hash as Redis holds it: any bytes.
pub type RawHash = HashMap<Vec<u8>, Vec<u8>>;

/// A hash's fields as text; bytes that are none are replaced.
pub fn text_fields(fields: RawHash) -> HashMap<String, String> {
    fields.into_iter().map(|(name, value)| (text(&name), text(&value))).collect()
}

/// A hash's fields with text for names only.
pub fn fields(fields: RawHash) -> HashMap<String, Vec<u8>> {
    fields.into_iter().map(|(name, value)| (text(&name), value)).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A score of a sorted set by time.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
const fn score_millis(score: f64) -> Millis {
    score as Millis
}

/// Whether an error is one that time may heal.
pub fn passes(error: &RedisError) -> bool {
    let healing = [
        ServerErrorKind::BusyLoading,
        ServerErrorKind::TryAgain,
        ServerErrorKind::MasterDown,
        ServerErrorKind::ClusterDown,
    ];
    is_broken(error) || matches!(error.kind(), ErrorKind::Server(kind) if healing.contains(&kind))
}

fn explain(error: &RedisError, address: &Address) -> Advice {
    // A failed pipeline lists the errors of its commands: the first says it, but not that of a transaction.
    let errors = error.clone().into_server_errors();
    let telling = |(_, error): &&(usize, ServerError)| error.kind() != Some(ServerErrorKind::ExecAbort);
    let first = errors.and_then(|errors| errors.iter().find(telling).map(|(_, error)| error.clone()));
    let error = &first.map_or_else(|| error.clone(), RedisError::from);
    let detail = error.detail().unwrap_or_default();
    match error.code() {
        Some("OOM") => {
            Advice::new(format!("Redis at {address} is full: it has reached maxmemory and drops nothing (noeviction)"))
                .hint("raise maxmemory, or find what fills it: ctl doctor")
        }
        Some("NOAUTH") => Advice::new(format!("Redis at {address} wants a password"))
            .hint("put it into the URL: redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST"),
        Some("WRONGPASS") => Advice::new(format!("Redis at {address} does not accept this user or password")),
        Some("NOPERM") => Advice::new(format!("Redis at {address} does not permit this user to do that: {detail}")),
        Some("MISCONF") => {
            Advice::new(format!("Redis at {address} refuses to write, because it cannot save to its disk"))
                .hint("look into the log of redis-server; the disk may be full")
        }
        _ => explain_kind(error, address),
    }
}

fn explain_kind(error: &RedisError, address: &Address) -> Advice {
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            Advice::new(format!("Redis at {address} does not accept this user or password"))
        }
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            Advice::new(format!("Redis at {address} is a read-only replica")).hint("give the URL of its master")
        }
        ErrorKind::Server(ServerErrorKind::BusyLoading) => {
            Advice::new(format!("Redis at {address} is still loading its data")).hint("try again in a moment")
        }
        _ if error.is_connection_refusal() => {
            Advice::new(format!("cannot reach Redis at {address}: nothing answers there"))
                .hint("is redis-server running, and is this its URL?")
                .maybe_hint(address.socket().map(|_| "if it is the one of `ctl up`, start it again: ctl up"))
        }
        _ if error.is_timeout() => Advice::new(format!("Redis at {address} does not answer")),
        _ if error.is_connection_dropped() || error.is_io_error() => {
            Advice::new(format!("no connection to Redis at {address}: {error}"))
        }
        _ => Advice::new(format!("Redis at {address}: {error}")),
    }
}
