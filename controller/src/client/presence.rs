//! Watching which hosts are there: they join, stop, go away, and come back.
//!
//! The index of hosts tells when each was heard of last. It is read once a second, and of the hosts only the status of
//! those that were heard of since. So of 1,000 hosts, which are heard of every five seconds, some 200 are read a second.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use protocol::{clock::millis, connection::Backoff, limits, name::HostName, status::Status, time::Millis};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    error::Error,
    fleet::{BLOCK, Fleet},
    select::Selection,
};

/// How often is looked.
const EVERY: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Debug)]
pub enum Happening {
    /// A host came, went, or changed.
    Host {
        /// The host.
        host: HostName,
        /// What it did.
        change: Change,
        /// When that was noticed.
        at_ms: Millis,
        /// Its last heartbeat.
        seen_ms: Option<Millis>,
        /// When its worker was started.
        started_at_ms: Option<Millis>,
    },
    /// Redis is away, and tried again.
    Disconnected(Error),
    /// Redis is back. What has happened meanwhile is reported now.
    Reconnected,
}

/// What a host did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Joined,
    /// Its worker has stopped in order.
    Stopped,
    /// Nothing was heard of it for [`limits::OFFLINE_AFTER`].
    Offline,
    /// It was away, and is back.
    Returned,
    /// It was away, and is back with a new process of its worker.
    ReturnedAnew,
    /// Its worker was replaced by a new process.
    Restarted,
    /// Redis keeps nothing of it any more.
    Forgotten,
}

/// Whether a host is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Online,
    Offline,
    Stopped,
}

/// What is known of a host.
#[derive(Debug)]
struct Known {
    /// Its place in the index.
    seen_ms: Millis,
    status: Option<Status>,
    state: State,
    is_meant: bool,
}

/// Hosts that are watched.
#[derive(Debug)]
pub struct Presence {
    whom: Selection,
    hosts: BTreeMap<HostName, Known>,
    /// What was not delivered yet.
    events: VecDeque<Happening>,
    next_look: Instant,
    /// Attempts to reach Redis again, while it is away.
    away: Option<Backoff>,
    /// Before that, Redis was away, and a missing heartbeat says nothing.
    heartbeats_from: Millis,
}

impl Presence {
    /// Begins to watch the hosts that are meant, also those that join later. Groups are taken for what they are now. Returns
    /// also what was asked for and is nowhere.
    ///
    /// # Errors
    /// A group cannot be used, or an error of Redis.
    pub async fn begin(fleet: &mut Fleet, selection: &Selection) -> Result<(Self, Vec<String>), Error> {
        let (whom, mut doubts) = fleet.whom(selection).await?;
        let mut presence = Self {
            whom,
            hosts: BTreeMap::new(),
            events: VecDeque::new(),
            next_look: Instant::now() + EVERY,
            away: None,
            heartbeats_from: 0,
        };
        presence.look(fleet).await?;
        presence.events.clear();
        let strangers = selection.named().filter(|name| !presence.hosts.contains_key(*name));
        doubts.extend(strangers.map(|name| format!("no host is called {name} yet")));
        Ok((presence, doubts))
    }

    /// How many hosts are watched now, and how many of them are not online.
    pub fn count(&self) -> (usize, usize) {
        let meant = || self.hosts.values().filter(|known| known.is_meant);
        (meant().count(), meant().filter(|known| known.state != State::Online).count())
    }

    /// Waits for what happens next. While Redis is away, it is tried again. Cancel-safe.
    ///
    /// # Errors
    /// An error of Redis that does not pass.
    pub async fn next(&mut self, fleet: &mut Fleet) -> Result<Happening, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match self.advance(fleet).await {
                Ok(()) if self.away.take().is_some() => self.events.push_front(Happening::Reconnected),
                Ok(()) => {}
                Err(error) if error.is_transient() => {
                    if self.away.is_none() {
                        self.away = Some(Backoff::new(BLOCK));
                        self.events.push_back(Happening::Disconnected(error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn advance(&mut self, fleet: &mut Fleet) -> Result<(), Error> {
        if let Some(backoff) = &mut self.away {
            sleep(backoff.delay()).await;
            fleet.reconnect().await?;
        } else {
            sleep_until(self.next_look).await;
        }
        self.next_look = Instant::now() + EVERY;
        self.look(fleet).await
    }

    /// Compares what Redis has with what is known. Nothing is changed before all is read.
    async fn look(&mut self, fleet: &mut Fleet) -> Result<(), Error> {
        let index: BTreeMap<_, _> = fleet.host_names().await?.into_iter().collect();
        let is_heard = |(name, seen): &(&HostName, &Millis)| {
            self.hosts.get(*name).is_none_or(|known| known.seen_ms != **seen || known.status.is_none())
        };
        let heard: Vec<HostName> = index.iter().filter(is_heard).map(|(name, _)| name.clone()).collect();
        let statuses = fleet.statuses(&heard).await?;
        // A status that cannot be read is none: `ctl host list` names it.
        let mut statuses: BTreeMap<_, _> =
            heard.into_iter().zip(statuses).filter_map(|(name, status)| Some((name, status.ok()??))).collect();
        let now = fleet.now();
        let heartbeats_from = if self.away.is_some() { now } else { self.heartbeats_from };

        let names: BTreeSet<&HostName> = self.hosts.keys().chain(index.keys()).collect();
        let mut changes = Vec::new();
        let mut fresh = BTreeMap::new();
        for name in names {
            let (known, seen_ms) = (self.hosts.get(name), index.get(name).copied());
            let before = known.and_then(|known| known.status.as_ref());
            let status = statuses.remove(name).or_else(|| before.cloned());
            let state = state(status.as_ref(), now, heartbeats_from);
            let started = |status: Option<&Status>| status.map(|status| status.started_at_ms);
            let is_new = before.is_some() && started(before) != started(status.as_ref());
            // A living host that Redis has lost is there again with its next heartbeat.
            let is_gone = seen_ms.is_none() && state != State::Online;
            // One that is there for the first time may have stopped since.
            let joined = known.is_none().then_some(Change::Joined);
            let state_before = known.map_or(State::Online, |known| known.state);
            let change = if is_gone { Some(Change::Forgotten) } else { change(state_before, state, is_new) };
            let is_meant = known.is_none_or(|known| known.is_meant);
            changes.extend(joined.into_iter().chain(change).map(|change| (name.clone(), change, status.clone())));
            if !is_gone {
                let seen_ms = seen_ms.or_else(|| known.map(|known| known.seen_ms)).unwrap_or_default();
                fresh.insert(name.clone(), Known { seen_ms, status, state, is_meant });
            }
        }
        self.tell(changes, &mut fresh, now, fleet).await?;
        (self.hosts, self.heartbeats_from) = (fresh, heartbeats_from);
        Ok(())
    }

    /// Tells the changes of hosts that are meant. `fresh`: what is known of all now.
    async fn tell(
        &mut self,
        changes: Vec<(HostName, Change, Option<Status>)>,
        fresh: &mut BTreeMap<HostName, Known>,
        now: Millis,
        fleet: &mut Fleet,
    ) -> Result<(), Error> {
        let names: Vec<_> = changes.iter().map(|(name, ..)| name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let (meant, unknown) = fleet.those_of(&self.whom, &names).await?;
        let (meant, unknown): (BTreeSet<_>, BTreeSet<_>) = (meant.into_iter().collect(), unknown.into_iter().collect());
        for (host, change, status) in changes {
            // What is not known of a host any more, or not yet, hides none of its changes.
            let was_meant = self.hosts.get(&host).is_none_or(|known| known.is_meant);
            let is_meant = meant.contains(&host) || (unknown.contains(&host) && was_meant);
            if let Some(known) = fresh.get_mut(&host) {
                known.is_meant = is_meant;
            }
            if is_meant {
                let seen_ms = status.as_ref().map(|status| status.last_seen_ms);
                let started_at_ms = status.map(|status| status.started_at_ms);
                self.events.push_back(Happening::Host { host, change, at_ms: now, seen_ms, started_at_ms });
            }
        }
        Ok(())
    }
}

/// Whether a host is there, if Redis was away before `heartbeats_from`.
fn state(status: Option<&Status>, now: Millis, heartbeats_from: Millis) -> State {
    match status {
        Some(status) if status.stopped => State::Stopped,
        Some(status)
            if now.saturating_sub(status.last_seen_ms.max(heartbeats_from)) < millis(limits::OFFLINE_AFTER) =>
        {
            State::Online
        }
        _ => State::Offline,
    }
}

/// What a host did that was in one state and is in another. `is_new`: with another process of its worker.
const fn change(before: State, now: State, is_new: bool) -> Option<Change> {
    match (before, now) {
        (State::Online, State::Online) if is_new => Some(Change::Restarted),
        (State::Online, State::Online) | (State::Offline, State::Offline) | (State::Stopped, State::Stopped) => None,
        (_, State::Online) if is_new => Some(Change::ReturnedAnew),
        (_, State::Online) => Some(Change::Returned),
        (_, State::Stopped) => Some(Change::Stopped),
        (_, State::Offline) => Some(Change::Offline),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_as_what_it_is() {
        use State::{Offline, Online, Stopped};
        for (before, now, is_new, told) in [
            (Online, Online, false, None),
            (Online, Online, true, Some(Change::Restarted)),
            (Online, Offline, false, Some(Change::Offline)),
            (Online, Stopped, false, Some(Change::Stopped)),
            (Offline, Stopped, false, Some(Change::Stopped)),
            (Offline, Online, false, Some(Change::Returned)),
            (Stopped, Online, true, Some(Change::ReturnedAnew)),
            (Stopped, Stopped, false, None),
            (Offline, Offline, false, None),
        ] {
            assert_eq!(change(before, now, is_new), told, "{before:?} → {now:?}");
        }
    }

    #[test]
    fn while_redis_was_away_no_host_went_away() {
        let status = Status { last_seen_ms: 100_000, ..Status::default() };
        let away = millis(limits::OFFLINE_AFTER);
        assert_eq!(state(Some(&status), 100_000 + away - 1, 0), State::Online);
        assert_eq!(state(Some(&status), 100_000 + away, 0), State::Offline);
        assert_eq!(state(Some(&status), 300_000, 299_000), State::Online);
        assert_eq!(state(Some(&status), 299_000 + away, 299_000), State::Offline);
        assert_eq!(state(Some(&Status { stopped: true, ..status }), 300_000, 299_000), State::Stopped);
        assert_eq!(state(None, 300_000, 0), State::Offline);
    }
}
