//! The service that keeps how Redis itself is, for people, rules and the exporter.

use std::time::Duration;

use protocol::clock::millis;

use super::Life;
use crate::client::{Error, Fleet, RedisWatch};

/// How often Redis is looked at where nothing else is set.
pub const EVERY: Duration = Duration::from_secs(60);
/// The least and the most that can be set.
pub const EVERY_MIN: Duration = Duration::from_secs(1);
/// See [`EVERY_MIN`].
pub const EVERY_MAX: Duration = Duration::from_secs(600);

/// The longest pause until it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Looks at Redis at the beginning of each step of `every`, by Redis' clock. `say` is told the first error of each time in
/// which that fails, and that it is over.
///
/// # Errors
/// None: what fails is tried again. A user without the rights for it holds up no other service.
pub async fn keep(
    life: Life,
    mut fleet: Fleet,
    every: Duration,
    say: impl Fn(Option<Error>) + Send,
) -> anyhow::Result<()> {
    let mut watch = RedisWatch::default();
    let mut fails = false;
    life.ready();
    while !life.is_stopped() {
        let wait = match watch.look(&mut fleet, every).await {
            Ok(()) => {
                if std::mem::take(&mut fails) {
                    say(None);
                }
                life.worked();
                let step = millis(every).max(1);
                Duration::from_millis(step - fleet.now() % step)
            }
            Err(error) => {
                if !std::mem::replace(&mut fails, true) {
                    say(Some(error));
                }
                // Where there is no connection, the next attempt fails with the dead one.
                let _ = fleet.reconnect().await;
                RETRY.min(every)
            }
        };
        tokio::select! {
            () = life.stopped() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    Ok(())
}
