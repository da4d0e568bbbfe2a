//! The connection to the fleet's Redis.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use protocol::{
    clock::{FleetClock, millis},
    connection::{Address, Backoff, Connection},
    keys::Keys,
    limits,
    name::{HostName, JobId, Namespace},
    outcome::State,
    signed::Fields,
    time::Millis,
};
use redis::{Arg, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, Value, from_redis_value};

use super::{
    error::{Error, WrongType},
    known_hosts::KnownHosts,
    redis_info::RedisInfo,
    witness::Witness,
};

/// The longest blocking read. Short enough that states derived from deadlines are reported in time.
pub(super) const BLOCK: Duration = Duration::from_secs(2);

/// How long a write is tried again where its reply was lost, or Redis cannot take it for the moment.
const PERSIST_WITHIN: Duration = Duration::from_secs(30);

/// Hosts that are read, or sent commands, in one round trip.
pub(super) const CHUNK: usize = 500;

/// A fleet: its Redis, its keys and its clock. It has one connection, as it makes one call at a time.
pub struct Fleet {
    pub(super) namespace: Option<Namespace>,
    keys: Keys,
    /// Unknown until Redis' clock has been read.
    clock: Option<FleetClock>,
    connection: Connection,
    /// Whether a call that may block Redis was not completed: then Redis may still block for it.
    blocks: bool,
    address: Address,
    pub(super) witness: Witness,
    /// Ends of commands that their hosts have signed, for the jobs that were listed last: these never change.
    pub(super) ends: HashMap<JobId, HashMap<HostName, State>>,
}

impl Fleet {
    /// Connects to the fleet whose keys are in `namespace`.
    ///
    /// # Errors
    /// [`Error::Redis`], as with all calls that ask Redis.
    pub async fn connect(address: &Address, namespace: Option<&Namespace>) -> Result<Self, Error> {
        let connection = address.connect_blocking(BLOCK).await.map_err(|error| Error::redis(error, address))?;
        let (namespace, keys, address) = (namespace.cloned(), Keys::new(namespace), address.clone());
        let (witness, ends) = (Witness::default(), HashMap::new());
        Ok(Self { namespace, keys, clock: None, connection, blocks: false, address, witness, ends })
    }

    /// The same fleet, whose hosts are known by their keys. Without these no result is believed.
    #[must_use]
    pub fn knowing(mut self, hosts: KnownHosts) -> Self {
        self.witness.known = hosts;
        self
    }

    /// The keys of its hosts.
    pub const fn known_hosts(&mut self) -> &mut KnownHosts {
        &mut self.witness.known
    }

    /// Replaces the connection.
    pub async fn reconnect(&mut self) -> Result<(), Error> {
        self.connection = self.address.connect_blocking(BLOCK).await.map_err(|error| self.failure(error))?;
        self.blocks = false;
        Ok(())
    }

    /// Where its Redis is.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The keys of this fleet.
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The fleet's clock: the local one until Redis' clock has been read.
    pub fn clock(&self) -> FleetClock {
        self.clock.unwrap_or_else(FleetClock::local)
    }

    /// The namespace of its keys.
    pub const fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// The moment now, by the fleet's clock.
    pub fn now(&self) -> Millis {
        self.clock().now()
    }

    /// The Redis server's reply to `INFO`.
    pub async fn redis_info(&mut self) -> Result<RedisInfo, Error> {
        self.ensure_unblocked().await?;
        RedisInfo::load(&mut self.connection).await.map_err(|error| self.failure(error))
    }

    /// Sends commands in one round trip, for tasks that this library has no call for. If a command writes, all must
    /// be on keys of the same slot.
    pub async fn query<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> Result<T, Error> {
        self.ensure_unblocked().await?;
        let reply = pipeline.query_async(&mut self.connection).await;
        reply.map_err(|error| self.failure_of(pipeline, error))
    }

    /// Like [`Self::query`], for commands that block Redis up to [`BLOCK`]. If its future is dropped, the next call
    /// replaces the connection, so that it need not wait behind them.
    pub(super) async fn query_blocking<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> Result<T, Error> {
        self.ensure_unblocked().await?;
        self.blocks = true;
        let reply = pipeline.query_async(&mut self.connection).await;
        self.blocks = false;
        reply.map_err(|error| self.failure_of(pipeline, error))
    }

    /// Like [`Self::query`], for writes that may be sent twice: they are, until Redis takes them.
    pub(super) async fn persist<T: FromRedisValue>(&mut self, writes: &Pipeline) -> Result<T, Error> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(BLOCK);
        loop {
            match self.query(writes).await {
                Err(error) if error.is_transient() && begun.elapsed() < PERSIST_WITHIN => {
                    tokio::time::sleep(backoff.delay()).await;
                    // Where there is no connection, the next attempt fails with the dead one.
                    let _ = self.reconnect().await;
                }
                done => return done,
            }
        }
    }

    async fn ensure_unblocked(&mut self) -> Result<(), Error> {
        if self.blocks { Box::pin(self.reconnect()).await } else { Ok(()) }
    }

    /// Like [`Self::query`], and reads Redis' clock in the same round trip.
    pub async fn query_with_time<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> Result<T, Error> {
        self.query_once_with_time(pipeline.clone()).await
    }

    /// Like [`Self::query_with_time`], for what is too large to be copied.
    pub async fn query_once_with_time<T: FromRedisValue>(&mut self, mut pipeline: Pipeline) -> Result<T, Error> {
        pipeline.cmd("TIME");
        let mut replies: Vec<Value> = self.query(&pipeline).await?;
        let time = from_redis_value(replies.pop().unwrap_or(Value::Nil)).map_err(|error| self.failure(error.into()))?;
        self.clock = Some(FleetClock::from_redis(time));
        from_redis_value(Value::Array(replies)).map_err(|error| self.failure(error.into()))
    }

    /// Sends the commands that `ask` makes for each item, in round trips of bounded size, and reads Redis' clock
    /// each time. Returns in order what `read` makes of the replies. A key of the wrong type reads as if
    /// there were none, and is named.
    pub(super) async fn query_each<I, T: FromRedisValue, R, const N: usize>(
        &mut self,
        items: &[I],
        ask: impl Fn(&Keys, &I) -> [Cmd; N],
        mut read: impl FnMut(&I, T, Option<WrongType>) -> R,
    ) -> Result<Vec<R>, Error> {
        let mut results = Vec::with_capacity(items.len());
        for chunk in items.chunks(CHUNK) {
            let commands: Vec<[Cmd; N]> = chunk.iter().map(|item| ask(&self.keys, item)).collect();
            let mut pipeline = redis::pipe();
            pipeline.ignore_errors();
            for command in commands.iter().flatten() {
                pipeline.add_command(command.clone());
            }
            let replies: Vec<Result<Value, RedisError>> = self.query_with_time(&pipeline).await?;
            let mut replies = replies.into_iter();
            for (item, commands) in chunk.iter().zip(&commands) {
                let (reply, damage) = self.reply(commands, replies.by_ref().take(N))?;
                results.push(read(item, reply, damage));
            }
        }
        Ok(results)
    }

    /// What Redis replied to the commands of one item.
    fn reply<T: FromRedisValue>(
        &self,
        commands: &[Cmd],
        replies: impl Iterator<Item = Result<Value, RedisError>>,
    ) -> Result<(T, Option<WrongType>), Error> {
        let mut damage = None;
        let mut values = Vec::with_capacity(commands.len());
        for (command, reply) in commands.iter().zip(replies) {
            match reply {
                Ok(value) => values.push(value),
                Err(error) if error.code() == Some("WRONGTYPE") => {
                    damage = damage.or_else(|| Some(self.wrong_type(command)));
                    values.push(Value::Nil);
                }
                // No worker has read that stream yet.
                Err(error) if error.code() == Some("NOGROUP") => values.push(Value::Nil),
                Err(error) => return Err(self.failure(error)),
            }
        }
        let parsed: Result<Vec<T>, _> = from_redis_value(Value::Array(values));
        let parsed = parsed.map_err(|error| self.failure(error.into()))?.pop();
        let missing = || self.failure((ErrorKind::UnexpectedReturnType, "a reply is missing").into());
        parsed.map(|reply| (reply, damage)).ok_or_else(missing)
    }

    /// The moment to sign as that of a document. It decides when the document is valid, so Redis alone must not set it.
    ///
    /// # Errors
    /// Redis' clock and that of this machine are too far apart.
    pub(super) async fn signing_moment(&mut self) -> Result<Millis, Error> {
        let is_sound = |clock: FleetClock| clock.local_ahead_ms().unsigned_abs() <= millis(limits::SIGNING_MARGIN);
        if self.clock.is_none_or(|clock| !is_sound(clock)) {
            // Since the clock was read, this machine may have slept.
            self.query_with_time::<()>(&redis::pipe()).await?;
        }
        let clock = self.clock();
        if is_sound(clock) { Ok(clock.now()) } else { Err(Error::Clocks { local_ahead_ms: clock.local_ahead_ms() }) }
    }

    /// Sends transactions, each on the keys of one slot. See [`Connection::transact`].
    pub(super) async fn transact(
        &mut self,
        transactions: &[Pipeline],
    ) -> Result<Vec<Result<Vec<Value>, Error>>, Error> {
        self.ensure_unblocked().await?;
        let replies = self.connection.transact(transactions).await.map_err(|error| self.failure(error))?;
        Ok(replies.into_iter().map(|reply| reply.map_err(|error| self.failure(error))).collect())
    }

    /// Names the key of which Redis says that its type is wrong.
    fn failure_of(&self, pipeline: &Pipeline, error: RedisError) -> Error {
        let failed = error.clone().into_server_errors().and_then(|errors| errors.first().cloned());
        let command = failed.filter(|(_, error)| error.code() == "WRONGTYPE");
        match command.and_then(|(at, _)| pipeline.cmd_iter().nth(at)) {
            Some(command) => self.wrong_type(command).into(),
            None => self.failure(error),
        }
    }

    fn wrong_type(&self, command: &Cmd) -> WrongType {
        let words = command.args_iter().filter_map(|word| match word {
            Arg::Simple(word) => Some(text(word)),
            _ => None,
        });
        let mut keys = words.filter(|word| self.keys.retention(word).is_some());
        WrongType(keys.next().unwrap_or_default())
    }

    fn failure(&self, error: RedisError) -> Error {
        Error::redis(error, &self.address)
    }
}

/// A hash as Redis holds it: any bytes.
pub(super) type RawHash = HashMap<Vec<u8>, Vec<u8>>;

/// A hash with its names as text.
pub(super) fn fields(hash: RawHash) -> Fields {
    hash.into_iter().map(|(name, value)| (text(&name), value)).collect()
}

/// A hash with names and values as text; bytes that are none are replaced.
pub(super) fn text_fields(hash: RawHash) -> HashMap<String, String> {
    hash.into_iter().map(|(name, value)| (text(&name), text(&value))).collect()
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Follower, Request, Selection, Signer};

    /// Compiles only if the futures of the library can be moved to other threads.
    #[expect(dead_code, reason = "to compile is the test")]
    fn futures_are_send(fleet: &mut Fleet, follower: &mut Follower<'_>, request: Request, signer: &Signer) {
        fn is_send(_: impl Send) {}
        is_send(follower.next(fleet));
        is_send(fleet.select(&Selection::all()));
        is_send(fleet.find_job("abc"));
        is_send(fleet.dispatch(request, signer, |_| {}));
    }
}
