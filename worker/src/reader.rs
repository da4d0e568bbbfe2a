//! The inbox: a connection of its own that blocks on the host's streams.
//!
//! After every (re)connect it first reads what is pending from `0`, because a reply to a reader that
//! died is *delivered* and `>` never gives it again; then it waits for new entries with `>`. Where a
//! connection broke without Redis noticing, the dead reader blocks there for a while and is given what
//! comes; so the pending ones are read once more when it must have ended. The reader takes
//! as many commands as there are free slots; with none free it waits on the control stream alone.

use std::{sync::Arc, time::Duration};

use protocol::{
    clock::{FleetClock, millis},
    command::{EntryError, Envelope, Fields, Manifest},
    connection::{Address, Backoff},
    control::Control,
    keys::GROUP,
    outcome::State,
};
use redis::{RedisError, Value, aio::MultiplexedConnection, cmd};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::Identity;

/// How long a read blocks. Short enough that a dead connection and a stalled reader show soon.
const BLOCK: Duration = Duration::from_secs(5);

/// The longest wait between attempts to reach Redis.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// The consumer's name: there is one per host, and it is stable, so that pending entries stay its own.
const CONSUMER: &str = "worker";

/// What one read brought.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) commands: Vec<Command>,
    pub(crate) control: Vec<(String, Option<Control>)>,
    /// The fleet's clock, read anew after a connect.
    pub(crate) clock: Option<FleetClock>,
    /// The streams had vanished (FLUSHALL, a restart without persistence) and were made again.
    pub(crate) gap: bool,
    /// Whether the commands were pending when this process made its first read: a process before
    /// this one had them.
    pub(crate) inherited: bool,
    /// Answered with the number of free slots once all of this is in hand.
    pub(crate) taken: Option<oneshot::Sender<usize>>,
}

/// A command's stream entry.
pub(crate) struct Command {
    /// The entry's id.
    pub(crate) entry: String,
    /// What it says, or why it says nothing.
    pub(crate) content: Result<(Envelope, Manifest), EntryError>,
    /// For an inherited one: the state that was published for it.
    pub(crate) published: Option<State>,
}

pub(crate) struct Reader {
    identity: Arc<Identity>,
    address: Address,
    batches: mpsc::Sender<Batch>,
    /// Until all that was pending at the first connect has been read.
    inherits: bool,
    /// Whether the streams have been seen; if they are gone later, something was lost.
    seen: bool,
    free: usize,
}

/// The dispatcher has gone: the worker is stopping.
struct Gone;

/// Why reading stopped.
enum Halt {
    Redis(RedisError),
    Gone,
}

impl From<RedisError> for Halt {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<Gone> for Halt {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl Reader {
    pub(crate) fn new(identity: Arc<Identity>, address: Address, batches: mpsc::Sender<Batch>) -> Self {
        Self { identity, address, batches, inherits: true, seen: false, free: 0 }
    }

    /// Reads until the dispatcher has gone; reconnects for ever.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(LONGEST_BACKOFF);
        let mut away: Option<Instant> = None;
        loop {
            let connected = self.address.connect_blocking(BLOCK).await;
            let halt = match connected {
                Ok(connection) => match self.session(connection, &mut away, &mut backoff).await {
                    Ok(never) => match never {},
                    Err(halt) => halt,
                },
                Err(error) => Halt::Redis(error),
            };
            let Halt::Redis(error) = halt else { return };
            if away.is_none() {
                away = Some(Instant::now());
                tracing::warn!("Redis at {} is away: {error}; trying until it is back", self.address);
            }
            tokio::time::sleep(backoff.delay()).await;
            if self.batches.is_closed() {
                return;
            }
        }
    }

    /// One connection's life.
    async fn session(
        &mut self,
        mut redis: MultiplexedConnection,
        away: &mut Option<Instant>,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, Halt> {
        let mut gap = self.make_streams(&mut redis).await?;
        let clock = Some(FleetClock::from_redis(cmd("TIME").query_async(&mut redis).await?));
        if let Some(since) = away.take() {
            tracing::info!("Redis is back after {:.1} s", since.elapsed().as_secs_f64());
        }
        backoff.reset();
        self.hand_over(Batch { clock, gap, ..Batch::default() }).await?;
        let pending = || Some("0".to_owned());
        let (mut commands_after, mut control_after) = (pending(), pending());
        let mut look_again = Some(Instant::now() + BLOCK);
        loop {
            if commands_after.is_none() && look_again.is_some_and(|at| Instant::now() >= at) {
                look_again = None;
                (commands_after, control_after) = (pending(), pending());
            }
            let take = self.free > 0;
            let read = self.read(&mut redis, commands_after.as_deref(), control_after.as_deref(), take).await;
            let (commands, control) = match read {
                Ok(entries) => entries,
                Err(error) if is_gone(&error) => {
                    gap = self.make_streams(&mut redis).await?;
                    self.hand_over(Batch { gap, ..Batch::default() }).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let mut batch = Batch { inherited: self.inherits && commands_after.is_some(), ..Batch::default() };
            // An empty answer means that nothing is pending behind that id any more.
            if commands_after.is_some() && take {
                commands_after = commands.last().map(|(id, _)| id.clone());
            }
            if control_after.is_some() {
                control_after = control.last().map(|(id, _)| id.clone());
            }
            batch.control = control.into_iter().map(|(id, fields)| (id, Control::from_fields(&fields))).collect();
            for (entry, fields) in commands {
                let content = Envelope::from_fields(fields);
                let published = match &content {
                    Ok((_, manifest)) if batch.inherited => self.published(&mut redis, manifest).await?,
                    _ => None,
                };
                batch.commands.push(Command { entry, content, published });
            }
            if commands_after.is_none() {
                self.inherits = false;
            }
            self.hand_over(batch).await?;
        }
    }

    /// Gives the batch to the dispatcher and learns how many slots are free then.
    async fn hand_over(&mut self, mut batch: Batch) -> Result<(), Gone> {
        let (taken, free) = oneshot::channel();
        batch.taken = Some(taken);
        self.batches.send(batch).await.map_err(|_| Gone)?;
        self.free = free.await.map_err(|_| Gone)?;
        Ok(())
    }

    /// Makes streams and groups where they are missing; says whether they had been there before.
    async fn make_streams(&mut self, redis: &mut MultiplexedConnection) -> Result<bool, RedisError> {
        let Identity { host, keys } = &*self.identity;
        let mut made = false;
        for key in [keys.commands(host), keys.control(host)] {
            // At 0, not at $: what was queued before the group existed must be read too.
            let create =
                cmd("XGROUP").arg("CREATE").arg(key).arg(GROUP).arg(0).arg("MKSTREAM").query_async(redis).await;
            match create {
                Ok(()) => made = true,
                Err(error) if error.code() == Some("BUSYGROUP") => {}
                Err(error) => return Err(error),
            }
        }
        let gap = made && self.seen;
        self.seen = true;
        Ok(gap)
    }

    /// One XREADGROUP. With `take` unset the commands are left alone.
    async fn read(
        &self,
        redis: &mut MultiplexedConnection,
        commands_after: Option<&str>,
        control_after: Option<&str>,
        take: bool,
    ) -> Result<(Vec<(String, Fields)>, Vec<(String, Fields)>), RedisError> {
        let Identity { host, keys } = &*self.identity;
        let (commands, control) = (keys.commands(host), keys.control(host));
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(CONSUMER).arg("COUNT").arg(self.free.max(1));
        read.arg("BLOCK").arg(millis(BLOCK)).arg("STREAMS").arg(&control);
        if take {
            read.arg(&commands);
        }
        read.arg(control_after.unwrap_or(">"));
        if take {
            read.arg(commands_after.unwrap_or(">"));
        }
        let reply: Value = read.query_async(redis).await?;
        let mut streams = parse(reply);
        Ok((take_stream(&mut streams, &commands), take_stream(&mut streams, &control)))
    }

    /// What was published for an inherited command: after a crash it may have been finished but not acknowledged.
    async fn published(
        &self,
        redis: &mut MultiplexedConnection,
        manifest: &Manifest,
    ) -> Result<Option<State>, RedisError> {
        let key = self.identity.keys.job_hosts(manifest.job);
        let state: Option<String> = cmd("HGET").arg(key).arg(self.identity.host.as_str()).query_async(redis).await?;
        Ok(state.and_then(|state| state.parse().ok()))
    }
}

/// The stream or its group does not exist any more (the codes differ between Redis versions).
fn is_gone(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}

type Entries = Vec<(String, Fields)>;

fn take_stream(streams: &mut Vec<(String, Entries)>, key: &str) -> Entries {
    let at = streams.iter().position(|(name, _)| name == key);
    at.map(|at| streams.swap_remove(at).1).unwrap_or_default()
}

/// Reads an XREADGROUP reply by hand: entries trimmed while they were pending have a null body, which
/// must be passed over, not fail the whole read. Fields whose names are not text are left out.
fn parse(reply: Value) -> Vec<(String, Entries)> {
    items(reply)
        .into_iter()
        .filter_map(|stream| {
            let mut stream = items(stream).into_iter();
            let (key, entries) = (text(stream.next()?)?, stream.next()?);
            Some((key, items(entries).into_iter().filter_map(parse_entry).collect()))
        })
        .collect()
}

fn parse_entry(entry: Value) -> Option<(String, Fields)> {
    let mut entry = items(entry).into_iter();
    let id = text(entry.next()?)?;
    let mut flat = items(entry.next().unwrap_or(Value::Nil)).into_iter();
    let mut fields = Fields::new();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        if let (Some(name), Value::BulkString(value)) = (text(name), value) {
            fields.insert(name, value);
        }
    }
    Some((id, fields))
}

fn items(value: Value) -> Vec<Value> {
    if let Value::Array(items) = value { items } else { Vec::new() }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
