//! The inbox: a connection of its own that blocks on the host's streams.
//!
//! After every (re)connect it first reads what is pending from `0`, because a reply to a reader that
//! died is *delivered* and `>` never gives it again; then it waits for new entries with `>`. Where a
//! connection broke without Redis noticing, the dead reader blocks there for a while and is given what
//! comes; so the pending ones are read once more when it must have ended. The reader takes
//! as many commands as there are free slots; with none free it waits on the control stream alone.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use protocol::{
    clock::{FleetClock, millis},
    command::{EntryError, Envelope, Fields, Manifest},
    connection::{Address, Backoff},
    control::Control,
    keys::GROUP,
    name::JobId,
    outcome::State,
    time::Millis,
};
use redis::{RedisError, Value, aio::MultiplexedConnection, cmd, pipe};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    Identity,
    fault::{self, Bug},
};

/// How long a read blocks. Short enough that a dead connection and a stalled reader show soon.
const BLOCK: Duration = Duration::from_secs(5);

/// The longest wait between attempts to reach Redis.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// How often the pending entries are looked through again: a read that was on its way when its
/// connection broke may be served long after. What is in hand is passed over.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Entries that are read at once where there may be many.
const PAGE: usize = 100;

/// How far the clocks of controller, old and new Redis may be apart when it is judged whether a command
/// may be older than this process.
const CLOCK_MARGIN: Duration = Duration::from_secs(60);

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
    /// Whether there may be more of that kind to come.
    pub(crate) inherits: bool,
    /// Answered with the number of free slots once all of this is in hand.
    pub(crate) taken: Option<oneshot::Sender<usize>>,
}

/// A command's stream entry.
pub(crate) struct Command {
    /// The entry's id.
    pub(crate) entry: String,
    /// What it says, or why it says nothing.
    pub(crate) content: Result<(Envelope, Manifest), EntryError>,
    /// The state that was published for it, where there may be one.
    pub(crate) published: Option<State>,
}

pub(crate) struct Reader {
    identity: Arc<Identity>,
    address: Address,
    batches: mpsc::Sender<Batch>,
    /// Until all that was pending at the first connect has been read.
    inherits: bool,
    /// Whether the streams have been there; if they are gone later, something was lost.
    had_streams: bool,
    /// Whether something was lost that the dispatcher has not been told of.
    gap: bool,
    free: usize,
    /// When this process first reached Redis.
    started: Option<Millis>,
    seen: Seen,
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
        Self {
            identity,
            address,
            batches,
            inherits: true,
            had_streams: false,
            gap: false,
            free: 0,
            started: None,
            seen: Seen::default(),
        }
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
        self.make_streams(&mut redis).await?;
        let clock = FleetClock::from_redis(cmd("TIME").query_async(&mut redis).await?);
        if let Some(since) = away.take() {
            tracing::info!("Redis is back after {:.1} s", since.elapsed().as_secs_f64());
        }
        backoff.reset();
        // Where Redis' clock cannot be believed, everything may be older than this process.
        let believed = clock.local_ahead_ms().unsigned_abs() <= millis(CLOCK_MARGIN);
        self.started.get_or_insert(if believed { clock.now() } else { Millis::MAX });
        // All control first: what was cancelled while this host was away must not start.
        let mut control = self.drain_control(&mut redis, Some("0")).await?;
        control.extend(self.drain_control(&mut redis, None).await?);
        let control = read_control(control);
        self.hand_over(Batch { clock: Some(clock), control, ..Batch::default() }).await?;
        let mut pending_after = first_pending();
        // Soon once, as a read of the connection before may still be served; then now and then.
        let (mut look_again, mut gap) = (Instant::now() + BLOCK, BLOCK);
        loop {
            let mut forgotten = Entries::new();
            if pending_after.is_none() && Instant::now() >= look_again {
                pending_after = first_pending();
                forgotten = self.drain_control(&mut redis, Some("0")).await?;
            }
            let take = self.free > 0;
            let read = self.read(&mut redis, pending_after.as_deref(), take).await;
            let (commands, mut control) = match read {
                Ok(entries) => entries,
                Err(error) if is_gone(&error) => {
                    self.make_streams(&mut redis).await?;
                    self.hand_over(Batch::default()).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            control.extend(forgotten);
            if control.len() >= self.free.max(1) {
                control.extend(self.drain_control(&mut redis, None).await?);
            }
            let inherited = self.inherits && pending_after.is_some();
            // An empty answer means that nothing is pending behind that id any more.
            if pending_after.is_some() && take {
                pending_after = commands.last().map(|(id, _)| id.clone());
                if pending_after.is_none() {
                    self.inherits = false;
                    look_again = Instant::now() + std::mem::replace(&mut gap, LOOK_AGAIN);
                }
            }
            let control = read_control(control);
            let commands = self.read_commands(&mut redis, commands, inherited).await?;
            self.hand_over(Batch { commands, control, inherited, ..Batch::default() }).await?;
        }
    }

    /// Everything in the control stream: what is pending behind an id, or what is new.
    async fn drain_control(
        &self,
        redis: &mut MultiplexedConnection,
        after: Option<&str>,
    ) -> Result<Entries, RedisError> {
        let Identity { host, keys } = &*self.identity;
        let key = keys.control(host);
        let mut after = after.map(str::to_owned);
        let mut all = Entries::new();
        loop {
            let mut read = cmd("XREADGROUP");
            read.arg("GROUP").arg(GROUP).arg(CONSUMER).arg("COUNT").arg(PAGE).arg("STREAMS").arg(&key);
            let reply: Value = read.arg(after.as_deref().unwrap_or(">")).query_async(redis).await?;
            let entries = take_stream(&mut parse(reply), &key);
            let Some((last, _)) = entries.last() else { return Ok(all) };
            after = after.map(|_| last.clone());
            all.extend(entries);
        }
    }

    /// Gives the batch to the dispatcher and learns how many slots are free then.
    async fn hand_over(&mut self, mut batch: Batch) -> Result<(), Gone> {
        let (taken, free) = oneshot::channel();
        batch.taken = Some(taken);
        batch.gap = std::mem::take(&mut self.gap);
        batch.inherits = self.inherits;
        self.batches.send(batch).await.map_err(|_| Gone)?;
        self.free = free.await.map_err(|_| Gone)?;
        Ok(())
    }

    /// Makes streams and groups where they are missing; notes whether they had been there before.
    async fn make_streams(&mut self, redis: &mut MultiplexedConnection) -> Result<(), RedisError> {
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
        self.gap |= made && self.had_streams;
        self.had_streams = true;
        Ok(())
    }

    /// One blocking read of both streams. With `take` unset the commands are left alone.
    async fn read(
        &self,
        redis: &mut MultiplexedConnection,
        pending_after: Option<&str>,
        take: bool,
    ) -> Result<(Entries, Entries), RedisError> {
        let Identity { host, keys } = &*self.identity;
        let (commands, control) = (keys.commands(host), keys.control(host));
        // What is pending has been taken already.
        let count = if pending_after.is_some() { PAGE } else { self.free.max(1) };
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(CONSUMER).arg("COUNT").arg(count);
        read.arg("BLOCK").arg(millis(BLOCK)).arg("STREAMS").arg(&control);
        if take {
            read.arg(&commands).arg(">").arg(pending_after.unwrap_or(">"));
        } else {
            read.arg(">");
        }
        let reply: Value = read.query_async(redis).await?;
        let mut streams = parse(reply);
        Ok((take_stream(&mut streams, &commands), take_stream(&mut streams, &control)))
    }

    /// What the entries say, and the states that were published for them.
    async fn read_commands(
        &mut self,
        redis: &mut MultiplexedConnection,
        entries: Entries,
        inherited: bool,
    ) -> Result<Vec<Command>, RedisError> {
        let read = |(entry, fields)| Command { entry, content: Envelope::from_fields(fields), published: None };
        let mut commands: Vec<Command> = entries.into_iter().map(read).collect();
        let mut asked = Vec::new();
        for (at, command) in commands.iter().enumerate() {
            if let Ok((_, manifest)) = &command.content
                && self.may_be_answered(manifest, inherited)
            {
                asked.push((at, manifest.job));
            }
        }
        if asked.is_empty() {
            return Ok(commands);
        }
        let mut pipeline = pipe();
        // Where something else stands in the place of the states, nothing of ours does.
        pipeline.ignore_errors();
        for (_, job) in &asked {
            pipeline.hget(self.identity.keys.job_hosts(*job), self.identity.host.as_str());
        }
        let states: Vec<Result<Option<String>, RedisError>> = pipeline.query_async(redis).await?;
        for ((at, _), state) in asked.iter().zip(states) {
            commands[*at].published = state.ok().flatten().and_then(|state| state.parse().ok());
        }
        Ok(commands)
    }

    /// Whether there may be an answer: a process before this one may have answered it, or this one when
    /// it came the first time.
    fn may_be_answered(&mut self, manifest: &Manifest, inherited: bool) -> bool {
        let young = self.started.map_or(0, |started| started.saturating_add(millis(CLOCK_MARGIN)));
        let issued = manifest.issued_at_ms;
        !self.seen.add(manifest.job, issued) || inherited || issued <= young.max(self.seen.forgotten_ms)
    }
}

/// The jobs that were read lately.
#[derive(Default)]
struct Seen {
    jobs: HashSet<JobId>,
    order: VecDeque<(JobId, Millis)>,
    /// Of jobs issued up to then some are forgotten.
    forgotten_ms: Millis,
}

impl Seen {
    /// How many are remembered: some 5 MB if that many really come.
    const MOST: usize = 65_536;

    /// Whether the job is new, as far as is remembered.
    fn add(&mut self, job: JobId, issued_at_ms: Millis) -> bool {
        if !self.jobs.insert(job) {
            return false;
        }
        self.order.push_back((job, issued_at_ms));
        if self.order.len() > Self::MOST
            && let Some((oldest, issued_at_ms)) = self.order.pop_front()
        {
            self.jobs.remove(&oldest);
            self.forgotten_ms = self.forgotten_ms.max(issued_at_ms);
        }
        true
    }
}

/// The stream or its group does not exist any more (the codes differ between Redis versions).
fn is_gone(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
}

type Entries = Vec<(String, Fields)>;

/// The id behind which all pending entries are.
fn first_pending() -> Option<String> {
    (!fault::planted(Bug::IgnorePending)).then(|| "0".to_owned())
}

fn read_control(entries: Entries) -> Vec<(String, Option<Control>)> {
    entries.into_iter().map(|(id, fields)| (id, Control::from_fields(&fields))).collect()
}

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
