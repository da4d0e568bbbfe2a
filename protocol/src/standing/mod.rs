//! Standing orders: what an operator has signed once, and a scheduler runs again and again.
//!
//! An order says what runs, where, when, and until when. A *run* of it is a [`Manifest`] like any other, which follows
//! from the order's exact bytes, an instant of its schedule and the hosts ([`Standing::run`]): so whoever makes it makes
//! the same, and the host knows it. In the place of the operator's signature over the manifest stands a
//! [voucher](Standing::voucher): the order with the operator's signature over it, of which each host judges for itself
//! whether the run is one that the order asks for.
//!
//! So a scheduler holds no key. Whoever takes it over, or Redis, can run what was signed, on hosts that were meant, at
//! the times that were meant, and nothing else; and not more often, as a run has one id.

mod cron;
pub mod schedule;
pub mod selector;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::{
    schedule::{Schedule, ScheduleError},
    selector::{Selector, SelectorError},
};
use crate::{
    action::Arguments,
    clock::millis,
    command::Manifest,
    limits,
    name::{HostName, JobId, Namespace, Salt, ScheduleName},
    signed::{self, Document, DocumentError, Signed},
    targets::TargetRoot,
    time::{Millis, show_duration, show_moment},
    unique::unique,
};

/// What runs again and again. Unknown fields are refused: a host must not obey an order of which it understands only a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandingOrder {
    /// What operators call the schedule.
    pub name: ScheduleName,
    /// The action's name.
    pub action: String,
    /// Its arguments. None of them can be secret: a scheduler has nobody's secrets.
    #[serde(default, deserialize_with = "unique")]
    pub arguments: Arguments,
    /// The operator: the principal whose key signed the order.
    pub operator: String,
    /// Makes the order, and the ids of its runs, unique.
    pub salt: Salt,
    /// When it was issued. Nothing of it runs at an earlier instant.
    pub issued_at_ms: Millis,
    /// Nothing of it runs at a later instant.
    pub valid_until_ms: Millis,
    /// How long after its instant a run may still start, in milliseconds.
    pub start_within_ms: u64,
    /// How long a run may take, in milliseconds.
    pub timeout_ms: u64,
    /// How long the results of a run are kept, in milliseconds.
    pub retention_ms: u64,
    /// How many bytes of each output stream a result keeps, where not [`limits::OUTPUT_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_output: Option<u64>,
    /// The namespace of the hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// Which hosts it is for.
    pub selector: Selector,
    /// When it runs.
    pub schedule: Schedule,
    /// What the scheduler does where a run cannot go as it was meant.
    pub conduct: Conduct,
}

/// What a scheduler does where a run cannot go as it was meant. It is signed, but a host can only check the retries: the
/// rest decides which runs are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conduct {
    /// If the prior run has not ended.
    pub overlap: Overlap,
    /// Whether a run that could not start at its instant starts later, as long as it may.
    pub late: bool,
    /// Each run waits up to so long behind its instant, in milliseconds: not all schedules begin at once.
    pub jitter_ms: u64,
    /// After so many failed runs in a row the schedule is paused. 0: never.
    pub pause_after: u32,
    /// How often a failed run is tried again, as long as it may start.
    pub retries: u32,
}

/// What happens at an instant when the prior run has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Nothing runs.
    Skip,
    /// One run waits until the prior one has ended, as long as it may.
    Queue,
    /// It runs beside the prior one.
    Allow,
    /// It runs, and each host ends the prior one: a scheduler has no key that could order that.
    Cancel,
}

impl Document for StandingOrder {
    const FIELD: &'static str = "standing_order";
    const MAX_BYTES: usize = limits::STANDING_ORDER_BYTES;
}

/// A standing order as it was signed.
#[derive(Clone, Debug)]
pub struct Standing {
    order: StandingOrder,
    signed: Signed<StandingOrder>,
}

/// A standing order in the place of a signature.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Voucher {
    #[serde(with = "serde_bytes")]
    standing_order: Vec<u8>,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

/// What the field of a voucher is called in errors.
const VOUCHER: &str = "voucher";

/// What the salts of runs are made of, besides the order.
const RUN: &[u8] = b"redfleet-standing-run@v1";

/// Why a standing order does not vouch for a command.
#[derive(Debug, thiserror::Error)]
pub enum Unfounded {
    /// It cannot be read.
    #[error("its standing order cannot be read")]
    Document(#[from] DocumentError),
    /// Its schedule cannot be used.
    #[error("the standing order '{0}' has no schedule that can be used")]
    Schedule(ScheduleName, #[source] ScheduleError),
    /// Its selector cannot be used.
    #[error("the standing order '{0}' does not say which hosts are meant")]
    Selector(ScheduleName, #[source] SelectorError),
    /// It would be valid for too long.
    #[error("the standing order '{0}' is valid for more than {most}", most = show_duration(limits::STANDING_MAX))]
    Life(ScheduleName),
    /// The command is another one than the order asks for.
    #[error(
        "it is not what the standing order '{0}' asks for: action, arguments, deadlines, attempt or fleet are others"
    )]
    Other(ScheduleName),
    /// It is for none of the order's times.
    #[error("the standing order '{name}' has no run at {}", show_moment(*.instant_ms))]
    Instant {
        /// The schedule.
        name: ScheduleName,
        /// The moment that is none of its times.
        instant_ms: Millis,
    },
    /// It is for a time before the order was issued.
    #[error("the standing order '{0}' was issued later than this run's time")]
    Early(ScheduleName),
    /// It is for a time behind the order's end.
    #[error("the standing order '{name}' ended at {}; its operator can sign a new one (ctl schedule add --replace)", show_moment(*.until_ms))]
    Ended {
        /// The schedule.
        name: ScheduleName,
        /// When it ended.
        until_ms: Millis,
    },
    /// The order is for other hosts.
    #[error("the standing order '{0}' is not for this host: its name, or the labels of its own settings, are others")]
    Host(ScheduleName),
}

impl Standing {
    /// Reads an order as it was received. Its signature is still to be verified.
    ///
    /// # Errors
    /// It is too large or malformed.
    pub fn open(signed: Signed<StandingOrder>) -> Result<Self, DocumentError> {
        Ok(Self { order: signed.open()?, signed })
    }

    /// What the order says.
    pub const fn order(&self) -> &StandingOrder {
        &self.order
    }

    /// The order as it was signed.
    pub const fn signed(&self) -> &Signed<StandingOrder> {
        &self.signed
    }

    /// What stands in the place of a signature over each of its runs.
    pub fn voucher(&self) -> Vec<u8> {
        let Signed { bytes, signature, .. } = self.signed.clone();
        signed::encode(&Voucher { standing_order: bytes, signature })
    }

    /// Reads a voucher. The signature in it is still to be verified.
    ///
    /// # Errors
    /// It, or the order in it, is too large or malformed.
    pub fn of_voucher(voucher: &[u8]) -> Result<Self, DocumentError> {
        let Voucher { standing_order, signature } = signed::decode(VOUCHER, voucher, limits::VOUCHER_BYTES)?;
        if signature.len() > limits::SIGNATURE_BYTES {
            return Err(DocumentError::Oversize("signature", signature.len()));
        }
        Self::open(Signed::of_bytes(standing_order, signature))
    }

    /// The run of an instant, on these hosts. `attempt`: 0, or the number of the retry. All that make it make the same.
    pub fn run(&self, instant_ms: Millis, attempt: u32, targets: TargetRoot) -> Manifest {
        let order = self.order.clone();
        let salt = self.salt(attempt);
        Manifest {
            job: JobId::derive(&order.operator, instant_ms, &salt),
            salt,
            action: order.action,
            arguments: order.arguments,
            sealed: None,
            operator: order.operator,
            issued_at_ms: instant_ms,
            start_by_ms: instant_ms.saturating_add(order.start_within_ms),
            timeout_ms: order.timeout_ms,
            retention_ms: order.retention_ms,
            keep_output: order.keep_output,
            targets,
            namespace: order.namespace,
            trace: None,
        }
    }

    /// The salt of the runs of an attempt.
    fn salt(&self, attempt: u32) -> Salt {
        let hash = Sha256::new().chain_update(RUN).chain_update(attempt.to_be_bytes()).chain_update(&self.signed.bytes);
        let hash: [u8; 32] = hash.finalize().into();
        let mut salt = [0; 16];
        salt.copy_from_slice(&hash[..16]);
        Salt::new(salt)
    }

    /// Whether this command is a run that the order asks for, on whatever hosts.
    ///
    /// # Errors
    /// Why it is not.
    pub fn founds(&self, manifest: &Manifest) -> Result<(), Unfounded> {
        let order = &self.order;
        let (name, instant_ms) = (|| order.name.clone(), manifest.issued_at_ms);
        let retries = order.conduct.retries.min(u32::try_from(limits::STANDING_RETRIES).unwrap_or(0));
        // Nothing else decides about a run than what was signed: so all of its fields must be those that follow from that.
        let is_run = (0..=retries).any(|attempt| {
            self.salt(attempt) == manifest.salt && self.run(instant_ms, attempt, manifest.targets.clone()) == *manifest
        });
        if !is_run {
            return Err(Unfounded::Other(name()));
        }
        if instant_ms < order.issued_at_ms {
            return Err(Unfounded::Early(name()));
        }
        if instant_ms > order.valid_until_ms {
            return Err(Unfounded::Ended { name: name(), until_ms: order.valid_until_ms });
        }
        if order.valid_until_ms.saturating_sub(order.issued_at_ms) > millis(limits::STANDING_MAX) {
            return Err(Unfounded::Life(name()));
        }
        let times = order.schedule.times().map_err(|error| Unfounded::Schedule(name(), error))?;
        if times.is_instant(instant_ms) { Ok(()) } else { Err(Unfounded::Instant { name: name(), instant_ms }) }
    }

    /// Whether the order is for the host with this name and these labels of its own.
    ///
    /// # Errors
    /// Why it is not.
    pub fn selects(&self, host: &HostName, labels: &BTreeMap<String, String>) -> Result<(), Unfounded> {
        let name = || self.order.name.clone();
        let is_meant = self.order.selector.selects(host, labels);
        let is_meant = is_meant.map_err(|error| Unfounded::Selector(name(), error))?;
        if is_meant { Ok(()) } else { Err(Unfounded::Host(name())) }
    }
}

#[cfg(test)]
mod tests;
