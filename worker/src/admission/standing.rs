//! Runs of standing orders: whether the order that comes with a command vouches for it, here and now.

use protocol::{
    clock::millis,
    command::Manifest,
    limits,
    signed::Signed,
    standing::{Overlap, Standing, Unfounded},
    time::Millis,
    trust::sshsig::{self, Signature},
};

use super::{Rejection, Untrusted};
use crate::{
    fault::{self, Bug},
    identity::Identity,
    log::{self, excerpt},
    policy::{Policy, STANDING_ORDER},
    trust::Trusted,
};

/// What a run comes with, once it is believed.
pub(super) struct Vouched {
    /// What operators call the schedule.
    pub(super) name: String,
    /// Whether prior runs of it that go on are to be ended.
    pub(super) ends_prior: bool,
    /// The operator's, over the order.
    pub(super) signature: Option<Signature>,
}

/// Judges the order: who has signed it, whether the command is a run of it, and whether it means this host.
pub(super) fn vouch(
    manifest: &Manifest,
    signed: &Signed<Manifest>,
    identity: &Identity,
    trusted: &Trusted,
) -> Result<Vouched, Untrusted> {
    let standing = Standing::of_voucher(&signed.signature).map_err(Unfounded::from)?;
    let (order, document) = (standing.order(), standing.signed());
    let signature = trusted.verify(sshsig::STANDING, &order.operator, &document.bytes, &document.signature)?;
    standing.founds(manifest).or_else(overlooked)?;
    // Hosts of an order that founds nothing are not looked for.
    standing.selects(&identity.host, &identity.labels).or_else(overlooked)?;
    let ends_prior = order.conduct.overlap == Overlap::Cancel;
    Ok(Vouched { name: order.name.to_string(), ends_prior, signature })
}

/// Whether a planted bug overlooks this.
fn overlooked(unfounded: Unfounded) -> Result<(), Unfounded> {
    if fault::planted(bug_of(&unfounded)) { Ok(()) } else { Err(unfounded) }
}

/// The bug that overlooks this.
const fn bug_of(unfounded: &Unfounded) -> Bug {
    match unfounded {
        Unfounded::Instant { .. } => Bug::NoInstant,
        Unfounded::Early(_) | Unfounded::Ended { .. } | Unfounded::Life(_) => Bug::NoOrderEnd,
        Unfounded::Host(_) | Unfounded::Selector(..) => Bug::NoSelector,
        Unfounded::Other(_) | Unfounded::Schedule(..) | Unfounded::Document(_) => Bug::NoRun,
    }
}

/// Whether the time of a run has come. `reached_ms`: what this host's clocks show at the least.
pub(super) fn has_begun(manifest: &Manifest, reached_ms: Millis) -> bool {
    let begins = manifest.issued_at_ms.saturating_sub(millis(limits::STANDING_EARLY));
    reached_ms >= begins || fault::planted(Bug::NoBeginning)
}

/// Whether the rules of this host let the operator give standing orders.
pub(super) fn may_run(operator: &str, policy: &Policy) -> Result<(), Rejection> {
    if policy.may_stand(operator) || fault::planted(Bug::NoStandingRight) {
        return Ok(());
    }
    Err(Rejection::Standing(excerpt(operator, log::NAME), STANDING_ORDER))
}
