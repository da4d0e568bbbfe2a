//! The events that a fleet reports while a job is sent and followed.

use std::sync::Arc;

use protocol::{
    event::Stream,
    name::HostName,
    outcome::{Outcome, State},
    statement::OutcomeError,
    time::Millis,
};

use super::{
    error::{Error, WrongType},
    witness::{ChangedKey, NewKey, Unverified},
};

/// Something that happened to a job.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A program wrote something. The same bytes may come twice: see `offset`.
    Output {
        /// On which host.
        host: HostName,
        /// The stream that it was written to.
        stream: Stream,
        /// How many bytes it had written to that stream before these.
        offset: u64,
        /// The bytes that it wrote.
        data: Vec<u8>,
    },
    /// An action reports its progress.
    Progress {
        /// On which host.
        host: HostName,
        /// The progress, in words.
        text: String,
    },
    /// A command is in another state now, or waits for something else, and has not ended.
    State {
        /// On which host.
        host: HostName,
        /// The state.
        state: State,
        /// What it waits for, where its state is `delivered`: `lock 'deploy', held by job …`.
        waits_for: Option<String>,
    },
    /// A host is not awaited any more. It comes after all of that host's output. A result without an
    /// outcome may be followed by the real one, as long as other hosts are awaited.
    Finished(Box<HostResult>),
    /// Hosts that are awaited are offline. Each is reported once.
    Absent(Vec<Absent>),
    /// Hosts that have not ended were ordered to cancel the command. Each is reported once.
    CancelOrdered {
        /// Those that are online.
        online: Vec<HostName>,
        /// Those that are offline: they obey when they return.
        offline: Vec<HostName>,
    },
    /// A host does not obey an order to cancel the command.
    CancelRefused {
        /// The host.
        host: HostName,
        /// Who gave the order, as the order says.
        operator: String,
        /// Why the host does not obey.
        reason: String,
        /// When the host wrote this.
        at_ms: Option<Millis>,
    },
    /// Hosts whose keys were not known have signed results, or their sealing keys: their keys are recorded, and trusted from now on.
    NewHostKeys(Vec<NewKey>),
    /// A result, or a sealing key, is signed by another key than that of its host: somebody may be forging it. Each host is reported
    /// once.
    HostKeyChanged(ChangedKey),
    /// The job is gone from Redis.
    JobLost,
    /// Commands that no host has read are gone from Redis.
    CommandsLost {
        /// How many.
        count: usize,
    },
    /// Lost commands were sent again, under the same job id.
    Redispatched {
        /// To how many hosts.
        count: usize,
    },
    /// Lost commands cannot be sent again, as Redis has lost the keys of their secrets, too, and the job was read back
    /// from it. Reported once.
    CannotRedispatch,
    /// A dispatch failed in a way that may pass, and is tried again under the same job id. Reported once.
    Retrying(Error),
    /// Redis cannot be reached for the moment; it is tried again.
    Disconnected(Error),
    /// Redis can be reached again.
    Reconnected,
}

/// How a job stands on one host.
#[derive(Clone, Debug)]
pub struct HostResult {
    /// The host.
    pub host: HostName,
    /// Its state, as its worker published it or as the deadlines imply; `unverified` where its result is not known to be its
    /// host's, `failed` where its key is damaged.
    pub state: State,
    /// What it waits for in its worker, where its state is `delivered`.
    pub waits_for: Option<String>,
    /// The outcome that its worker published.
    pub outcome: Option<Outcome>,
    /// Why its worker's result cannot be trusted. There is no outcome then.
    pub damage: Option<Arc<Damage>>,
    /// When its worker was last heard of about the command, where that is known and it has not ended.
    pub heard_ms: Option<Millis>,
    /// When the host was ordered to cancel the command.
    pub cancel_ordered_ms: Option<Millis>,
    /// Whether the host was forgotten before it took the command, which was thrown away with it.
    pub forgotten: bool,
}

/// Why a result cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It is not known to be its host's.
    #[error(transparent)]
    Unverified(#[from] Unverified),
    /// It is incomplete, not covered by its statement, or about another command.
    #[error("its result cannot be trusted: {0}")]
    Outcome(#[from] OutcomeError),
    /// Something else stands in the place of its key.
    #[error(transparent)]
    Key(#[from] WrongType),
}

impl HostResult {
    /// A host whose state is not known.
    pub const fn new(host: HostName) -> Self {
        Self {
            host,
            state: State::Queued,
            waits_for: None,
            outcome: None,
            damage: None,
            heard_ms: None,
            cancel_ordered_ms: None,
            forgotten: false,
        }
    }

    /// Records that there is no result to trust, and never will be.
    pub(super) fn damage_with(&mut self, damage: Damage) {
        self.state = if matches!(damage, Damage::Key(_)) { State::Failed } else { State::Unverified };
        self.damage = Some(Arc::new(damage));
    }

    /// Whether its worker has published an end.
    pub const fn has_ended(&self) -> bool {
        self.outcome.is_some() || self.damage.is_some()
    }
}

/// A host that is offline.
#[derive(Clone, Debug)]
pub struct Absent {
    /// Its name.
    pub host: HostName,
    /// Its last heartbeat, where there was one.
    pub seen_ms: Option<Millis>,
    /// The last known state of its command.
    pub state: State,
}
