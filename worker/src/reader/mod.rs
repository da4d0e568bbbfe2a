//! Reads the host's inbox and control stream, over a connection of its own that blocks.
//!
//! After every (re)connect the reader first reads the pending entries, from `0`: the entries of a reply to a broken
//! connection count as delivered, and `>` never returns them again. Then it waits for new entries with `>`. Redis may
//! not notice at once that a connection broke, and delivers to it for a while. Therefore the pending entries are read
//! once more when that must have ended. The reader takes as many commands as there are free slots. While no slot is
//! free, it waits on the control stream alone.
//!
//! The streams may hold any number of entries. They are read page by page, and each page is handed over before the next
//! one is read.

mod seen;
mod streams;

use std::{sync::Arc, time::Duration};

use protocol::{
    clock::{FleetClock, millis},
    command::EntryError,
    connection::{Address, Backoff, Connection},
    control::Control,
    diagnosis::diagnose,
    outcome::State,
    time::Millis,
};
use redis::{RedisError, cmd, pipe};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use self::{
    seen::Seen,
    streams::{Entries, NEW, is_gone},
};
use crate::{
    admission::{self, Opened},
    delivery::ControlEntry,
    fault::{self, Bug},
    identity::Identity,
    trust::Trusted,
};

/// How long a read blocks. Short enough that a dead connection and a stalled reader show soon.
const BLOCK: Duration = Duration::from_secs(5);

/// Bytes of entries after whose reading a connection is replaced when there is nothing to do: its buffer keeps the size
/// of the largest reply.
const BLOATED: usize = 8 * 1024 * 1024;

/// The longest wait between attempts to reach Redis.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// How often the pending entries are read again: Redis may serve the last read of a broken connection much later.
/// Entries that are being handled are skipped.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// The most entries that one read takes where there may be many.
const PAGE: u32 = 100;

/// The most commands that one read takes where those before them were garbage, for which no slot is needed.
pub(crate) const LARGE_PAGE: u32 = 500;

/// About how many bytes of fields such a read returns at most.
const LARGE_PAGE_BYTES: usize = 256 * 1024;

/// The most entries that a read of the control stream alone takes.
const CONTROL_PAGE: u32 = 30;

/// How many entries of the control stream are handled at a time. While so many wait for the journal or for Redis, no
/// more are read.
const CONTROL_MOST: u32 = 2 * CONTROL_PAGE;

/// How long to wait for room for the control stream before the commands are read again.
const NO_ROOM: Duration = Duration::from_millis(100);

/// How far the clocks of controller, old and new Redis may be apart when it is judged whether a command
/// may be older than this process.
const CLOCK_MARGIN: Duration = Duration::from_secs(60);

/// The result of one read.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) commands: Vec<Command>,
    pub(crate) control: Vec<ControlRead>,
    /// The fleet's clock, read anew after a connect.
    pub(crate) clock: Option<FleetClock>,
    /// The streams had vanished (FLUSHALL, a restart without persistence) and were made again.
    pub(crate) recreated: bool,
    /// Whether the commands were pending when this process made its first read: they had been delivered to a
    /// prior process.
    pub(crate) prior: bool,
    /// Whether more commands of a prior process may come.
    pub(crate) more_prior: bool,
    /// Receives the number of free slots once the dispatcher has handled the batch.
    pub(crate) taken: Option<oneshot::Sender<usize>>,
}

/// A command's stream entry.
pub(crate) struct Command {
    /// The entry's id.
    pub(crate) entry: String,
    /// The command, or why the entry cannot be used.
    pub(crate) opened: Result<Opened, EntryError>,
    /// The command's published state, if one was looked up and found.
    pub(crate) published: Option<State>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Reader {
    identity: Arc<Identity>,
    /// Whose commands are obeyed.
    trusted: watch::Receiver<Trusted>,
    address: Address,
    batches: mpsc::Sender<Batch>,
    /// Whether entries may be left that were delivered to a prior process.
    more_prior: bool,
    /// Whether the streams have existed; if they are gone later, data was lost.
    had_streams: bool,
    /// Whether the streams were made again since the last batch.
    recreated: bool,
    free: u32,
    /// What to do about the refusal that was logged last, while Redis refuses this worker.
    refusal: Option<&'static str>,
    /// How many commands to read next, where the last ones were garbage.
    garbage_page: Option<u32>,
    /// Whether the connection has read so much at once that it still holds much memory.
    is_bloated: bool,
    /// The room for entries of the control stream.
    control_room: Arc<Semaphore>,
    /// When this process first reached Redis.
    started: Option<Millis>,
    seen: Seen,
}

impl Reader {
    pub(crate) fn new(
        identity: Arc<Identity>,
        trusted: watch::Receiver<Trusted>,
        address: Address,
        batches: mpsc::Sender<Batch>,
    ) -> Self {
        Self {
            identity,
            trusted,
            address,
            batches,
            more_prior: true,
            had_streams: false,
            recreated: false,
            free: 0,
            refusal: None,
            garbage_page: None,
            is_bloated: false,
            control_room: Arc::new(Semaphore::new(CONTROL_MOST as usize)),
            started: None,
            seen: Seen::default(),
        }
    }

    /// Reads until the dispatcher has gone; reconnects for ever.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(LONGEST_BACKOFF);
        let mut away: Option<Instant> = None;
        loop {
            let error = match self.address.connect_blocking(BLOCK).await {
                Ok(connection) => match self.session(connection, &mut away, &mut backoff).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if self.batches.is_closed() {
                return;
            }
            let refusal = refusal(&error);
            if away.is_none() || refusal != self.refusal {
                away.get_or_insert_with(Instant::now);
                self.refusal = refusal;
                if let Some(remedy) = refusal {
                    tracing::error!("Redis at {} refuses this worker: {error}; {remedy}; trying again", self.address);
                } else {
                    let reason = match diagnose(&self.address, &error).await {
                        Some(mistake) => format!("{} {mistake}; {}", self.address, mistake.remedy()),
                        None => error.to_string(),
                    };
                    tracing::warn!("Redis at {} is away: {reason}; trying until it is back", self.address);
                }
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    /// Reads over one connection until it breaks, or is to be replaced by one that holds less memory.
    async fn session(
        &mut self,
        mut redis: Connection,
        away: &mut Option<Instant>,
        backoff: &mut Backoff,
    ) -> Result<(), RedisError> {
        self.make_streams(&mut redis).await?;
        let clock = FleetClock::from_redis(cmd("TIME").query_async(&mut redis).await?);
        if let Some(since) = away.take() {
            let back = if self.refusal.take().is_some() { "accepts this worker" } else { "is back" };
            tracing::info!("Redis {back} after {:.1} s", since.elapsed().as_secs_f64());
        }
        backoff.reset();
        // Where Redis' clock cannot be trusted, every command may be older than this process.
        let believed = clock.local_ahead_ms().unsigned_abs() <= millis(CLOCK_MARGIN);
        self.started.get_or_insert(if believed { clock.now() } else { Millis::MAX });
        // The control stream comes first: a job that was cancelled while this host was away must not start.
        self.hand_over(Batch { clock: Some(clock), ..Batch::default() }).await?;
        self.drain_control(&mut redis, "0").await?;
        self.drain_control(&mut redis, NEW).await?;
        let mut pending_after = first_pending();
        // First after `BLOCK`, as Redis may still serve a read of the prior connection; then every `READ_AGAIN`.
        let (mut read_again_at, mut interval) = (Instant::now() + BLOCK, BLOCK);
        loop {
            if pending_after.is_none() && Instant::now() >= read_again_at {
                pending_after = first_pending();
                self.drain_control(&mut redis, "0").await?;
            }
            let take = self.free > 0;
            let waits = pending_after.is_none();
            let (commands, control) = match self.read(&mut redis, pending_after.as_deref(), take).await {
                Ok(read) => read,
                Err(error) if is_gone(&error) => {
                    self.make_streams(&mut redis).await?;
                    self.hand_over(Batch::default()).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (prior, bytes) = (self.more_prior && pending_after.is_some(), streams::size(&commands));
            // An empty reply means that no entry is pending behind that id any more.
            if pending_after.is_some() && take {
                pending_after = commands.last().map(|(id, _)| id.clone());
                if pending_after.is_none() {
                    self.more_prior = false;
                    read_again_at = Instant::now() + std::mem::replace(&mut interval, READ_AGAIN);
                }
            }
            let commands = self.open_commands(&mut redis, commands, prior).await?;
            if take {
                self.garbage_page = garbage_page(&commands, bytes);
            }
            let idle = waits && commands.is_empty() && control.is_empty();
            self.hand_over(Batch { commands, control, prior, ..Batch::default() }).await?;
            if idle && std::mem::take(&mut self.is_bloated) {
                return Ok(());
            }
        }
    }

    /// Reads entries, see [`streams::read`].
    async fn entries(
        &mut self,
        redis: &mut Connection,
        wanted: &[(&str, &str)],
        count: u32,
        block: Option<Duration>,
    ) -> Result<Vec<Entries>, RedisError> {
        let entries = streams::read(redis, wanted, count as usize, block).await?;
        self.is_bloated |= entries.iter().any(|entries| streams::size(entries) > BLOATED);
        Ok(entries)
    }

    /// Reads the whole control stream, from the first pending entry (`0`) or the new ones, and hands over each page.
    async fn drain_control(&mut self, redis: &mut Connection, from: &str) -> Result<(), RedisError> {
        let mut after = from.to_owned();
        loop {
            let room = Arc::clone(&self.control_room).acquire_many_owned(CONTROL_PAGE).await.expect("never closed");
            let key = self.control_key();
            let entries = self.entries(redis, &[(&key, &after)], CONTROL_PAGE, None).await?.concat();
            let Some((last, _)) = entries.last() else { return Ok(()) };
            if after != NEW {
                after.clone_from(last);
            }
            self.hand_over(Batch { control: open_control(entries, room), ..Batch::default() }).await?;
        }
    }

    /// Gives the batch to the dispatcher, which replies how many slots are free then.
    ///
    /// # Errors
    /// The dispatcher has gone: the worker is stopping.
    async fn hand_over(&mut self, mut batch: Batch) -> Result<(), RedisError> {
        let gone = || RedisError::from((redis::ErrorKind::Io, "the worker is stopping"));
        let (taken, free) = oneshot::channel();
        batch.taken = Some(taken);
        batch.recreated = std::mem::take(&mut self.recreated);
        batch.more_prior = self.more_prior;
        self.batches.send(batch).await.map_err(|_| gone())?;
        self.free = free.await.map_err(|_| gone())?.try_into().unwrap_or(u32::MAX);
        Ok(())
    }

    /// Makes streams and groups where they are missing; notes whether they had been there before.
    async fn make_streams(&mut self, redis: &mut Connection) -> Result<(), RedisError> {
        let mut made = false;
        for key in [self.commands_key(), self.control_key()] {
            made |= streams::make(redis, &key).await?;
        }
        self.recreated |= made && self.had_streams;
        self.had_streams = true;
        Ok(())
    }

    fn commands_key(&self) -> String {
        self.identity.keys.commands(&self.identity.host)
    }

    fn control_key(&self) -> String {
        self.identity.keys.control(&self.identity.host)
    }

    /// Reads the next entries of both streams, and waits for them if there are none. With `take` unset the commands are
    /// left alone; without room for more of its entries, the control stream.
    async fn read(
        &mut self,
        redis: &mut Connection,
        pending_after: Option<&str>,
        take: bool,
    ) -> Result<(Entries, Vec<ControlRead>), RedisError> {
        let count = match pending_after {
            // Pending commands have been taken already.
            Some(_) => PAGE,
            None if take => self.garbage_page.unwrap_or_else(|| self.free.min(PAGE)),
            None => CONTROL_PAGE,
        };
        // There is no room for a large page of control entries: it is read for itself.
        let room = self.try_room(count);
        let (commands, control) = (self.commands_key(), self.control_key());
        let mut wanted = Vec::new();
        if room.is_some() {
            wanted.push((&*control, NEW));
        }
        if take {
            wanted.push((&*commands, pending_after.unwrap_or(NEW)));
        }

        // A read that leaves out one of the streams must not wait for the other one.
        let block = room.is_some().then_some(BLOCK);
        let mut entries =
            if wanted.is_empty() { Vec::new() } else { self.entries(redis, &wanted, count, block).await? };
        let commands = if take { entries.pop() } else { None }.unwrap_or_default();
        if room.is_none() && commands.is_empty() {
            let _ = timeout(NO_ROOM, self.control_room.acquire_many(CONTROL_PAGE)).await;
        }
        let first = entries.pop().unwrap_or_default();
        let more = room.is_none() || first.len() == count as usize;
        let mut orders = room.map(|room| open_control(first, room)).unwrap_or_default();
        if more && let Some(room) = self.try_room(CONTROL_PAGE) {
            let entries = self.entries(redis, &[(&control, NEW)], CONTROL_PAGE, None).await?.concat();
            orders.extend(open_control(entries, room));
        }
        Ok((commands, orders))
    }

    /// Room for so many entries of the control stream, if there is.
    fn try_room(&self, count: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.control_room).try_acquire_many_owned(count).ok()
    }

    /// Opens the entries, and reads the states that were published for them.
    async fn open_commands(
        &mut self,
        redis: &mut Connection,
        entries: Entries,
        prior: bool,
    ) -> Result<Vec<Command>, RedisError> {
        let mut commands: Vec<Command> = {
            let trusted = self.trusted.borrow();
            let open = |fields| admission::open(fields, &self.identity, &trusted);
            let command = |(entry, fields)| Command { entry, opened: open(fields), published: None };
            entries.into_iter().map(command).collect()
        };
        let mut asked = Vec::new();
        for (at, command) in commands.iter().enumerate() {
            if let Ok(opened) = &command.opened
                && self.may_have_ended(opened, prior)
            {
                asked.push((at, opened.manifest.job));
            }
        }
        if asked.is_empty() {
            return Ok(commands);
        }

        let mut pipeline = pipe();
        // Where a key of another type stands in the place of the states, nothing was published.
        pipeline.ignore_errors();
        let Identity { keys, host, .. } = &*self.identity;
        for (_, job) in &asked {
            pipeline.hget(keys.job_result(*job, host), "status").hget(keys.job_hosts(*job), host.as_str());
        }
        let replies: Vec<Result<Option<String>, RedisError>> = pipeline.query_async(redis).await?;
        let state = |reply: &Result<Option<String>, _>| reply.as_ref().ok()?.as_ref()?.parse::<State>().ok();
        for ((at, _), reply) in asked.iter().zip(replies.chunks(2)) {
            // Other hosts can write states of a job, but no results of this host.
            let unended = || state(&reply[1]).filter(|state| !state.is_terminal());
            commands[*at].published = state(&reply[0]).or_else(unended);
        }
        Ok(commands)
    }

    /// Whether the command may have an outcome: a prior process may have published one, or this one when the
    /// command came the first time.
    fn may_have_ended(&mut self, opened: &Opened, prior: bool) -> bool {
        let manifest = &opened.manifest;
        // What nobody has signed has no end to find, and must not displace what is remembered.
        if !opened.is_signed() {
            return false;
        }
        let young = self.started.map_or(0, |started| started.saturating_add(millis(CLOCK_MARGIN)));
        let issued = manifest.issued_at_ms;
        !self.seen.add(manifest.job, issued) || prior || issued <= young.max(self.seen.forgotten_ms)
    }
}

/// An entry of the control stream, and what it says.
type ControlRead = (ControlEntry, Result<Control, EntryError>);

/// Reads the entries, of which each takes a part of `room`.
fn open_control(entries: Entries, mut room: OwnedSemaphorePermit) -> Vec<ControlRead> {
    let open = |(id, fields)| Some((ControlEntry::new(id, room.split(1)?), Control::from_fields(fields)));
    entries.into_iter().map_while(open).collect()
}

/// The id behind which all pending entries are.
fn first_pending() -> Option<String> {
    (!fault::planted(Bug::IgnorePending)).then(|| "0".to_owned())
}

/// How many commands to read next, after commands that had so many bytes: more and more while all are garbage.
fn garbage_page(commands: &[Command], bytes: usize) -> Option<u32> {
    if commands.is_empty() || commands.iter().any(|command| command.opened.is_ok()) {
        return None;
    }
    let fitting = LARGE_PAGE_BYTES * commands.len() / bytes.max(1);
    Some((commands.len() * 2).min(fitting).try_into().unwrap_or(LARGE_PAGE).clamp(1, LARGE_PAGE))
}

/// What to do if Redis is there and refuses this worker.
fn refusal(error: &RedisError) -> Option<&'static str> {
    match error.code() {
        Some("NOAUTH") => Some("it wants a password: name a file with it (redis_password_file)"),
        Some("WRONGPASS") => Some("correct its user or password (redis, redis_password_file)"),
        Some("NOPERM") => Some("give its user the right in Redis (ACL LOG shows what was refused)"),
        _ if error.kind() == redis::ErrorKind::AuthenticationFailed => {
            Some("correct its user or password (redis, redis_password_file)")
        }
        _ => None,
    }
}
