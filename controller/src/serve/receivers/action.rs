//! An action on the hosts of an alert. Nobody signs at night, so it is the standing order of a paused schedule that runs: an
//! operator has signed what may run, on which hosts, and how often at most.

use protocol::{
    clock::millis,
    connection::Address,
    name::{Namespace, ScheduleName},
    time::Millis,
};
use serde::Deserialize;
use std::{collections::BTreeSet, time::Duration};

use crate::{
    client::{
        Fleet, Ordered,
        alerts::{Notification, Phase},
    },
    serve::web::Failure,
};

/// What has not begun so long behind the alert is not begun any more.
const TOO_LATE: Duration = Duration::from_secs(600);

/// Its settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What rules call it.
    pub name: String,
    /// The schedule whose order is to run. It must be paused, so that it does not run at its times as well.
    schedule: ScheduleName,
}

/// The order that runs, and where the fleet is.
#[derive(Clone, Debug)]
pub struct Action {
    /// The schedule of the order.
    pub schedule: ScheduleName,
    /// Where its Redis is.
    pub fleet: Option<(Address, Option<Namespace>)>,
}

impl Setting {
    /// The receiver.
    pub fn judge(self) -> Action {
        Action { schedule: self.schedule, fleet: None }
    }
}

impl Action {
    /// Runs the order on the hosts whose alerts go on. What has ended asks for nothing.
    ///
    /// # Errors
    /// It could not be sent.
    pub async fn send(&self, notification: &Notification) -> Result<(), Failure> {
        let going_on = notification.alerts.iter().filter(|alert| alert.phase == Phase::Firing);
        let hosts: BTreeSet<_> = going_on.filter_map(|alert| alert.host.clone()).collect();
        if hosts.is_empty() {
            return Ok(());
        }
        let Some((address, namespace)) = &self.fleet else { return Err(Failure::passing("no fleet is connected")) };
        let away = |error: crate::client::Error| Failure::passing(error.to_string());
        let mut fleet = Fleet::connect(address, namespace.as_ref()).await.map_err(away)?;
        if is_late(notification.at_ms, fleet.now()) {
            return Err(Failure::lasting("the action did not begin within 10 min"));
        }
        let hosts: Vec<_> = hosts.into_iter().collect();
        match fleet.run_ordered(&self.schedule, &hosts, notification.at_ms).await.map_err(away)? {
            Ordered::Sent(_) => Ok(()),
            Ordered::NotYet(reason) => Err(Failure::passing(reason)),
            Ordered::Never(reason) => Err(Failure::lasting(reason)),
        }
    }
}

fn is_late(at_ms: Millis, now: Millis) -> bool {
    now.saturating_sub(at_ms) > millis(TOO_LATE)
}
