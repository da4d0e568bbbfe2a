//! Says that this instance of `ctl serve` lives, so that workers and `ctl doctor` notice when none does any more.

use std::time::Duration;

use protocol::limits;

use super::Life;
use crate::client::Fleet;

/// How long it may take to say that it has ended.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Says so with each heartbeat, until it is told to stop.
///
/// # Errors
/// None: it is tried again. A Redis that is full, or must not write, ends no service: some need no write.
pub async fn announce(life: Life, mut fleet: Fleet, name: String) -> anyhow::Result<()> {
    while !life.is_stopped() {
        match fleet.announce_serving(&name).await {
            Ok(()) => life.worked(),
            // The scheduler says that Redis is away, and `/readyz` that this has not worked.
            Err(_) => drop(fleet.reconnect().await),
        }
        life.turns();
        tokio::select! {
            () = life.stopped() => {}
            () = tokio::time::sleep(limits::HEARTBEAT) => {}
        }
    }
    // Where it cannot be said, others see it in time.
    let _ = tokio::time::timeout(LEAVE_WITHIN, fleet.leave_serving(&name)).await;
    Ok(())
}
