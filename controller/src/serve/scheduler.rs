//! The service that sends the runs of schedules.

use std::{sync::Arc, time::Duration};

use protocol::time::Millis;
use tokio::time::Instant;

use super::{Life, counters::Counters, notify};
use crate::client::{Error, Fleet, Scheduler, Scheduling};

/// The shortest sleep.
const NAP: Duration = Duration::from_millis(10);

/// What it says.
pub enum Said {
    /// Redis cannot be asked.
    Away(Error),
    /// It can again.
    Back,
    /// What became of a run, or of a schedule.
    Done(Scheduling),
}

/// Sends what standing orders ask for.
///
/// # Errors
/// None: while Redis is away, it is tried again.
pub async fn run(
    life: Life,
    mut fleet: Fleet,
    name: String,
    interval: Duration,
    counters: Arc<Counters>,
    say: impl Fn(Said) + Send,
) -> anyhow::Result<()> {
    let mut scheduler = Scheduler::new(name);
    let mut is_away = false;
    while !life.is_stopped() {
        let begun = Instant::now();
        let ticked = scheduler.tick(&mut fleet).await;
        let said = scheduler.take();
        count(&said, &counters, begun, fleet.now());
        for said in said {
            say(Said::Done(said));
        }
        let wait = match ticked {
            Ok(next) => {
                if std::mem::take(&mut is_away) {
                    notify::status("runs");
                    say(Said::Back);
                }
                life.worked();
                life.turns();
                let until = next.map(|next| Duration::from_millis(next.saturating_sub(fleet.now())));
                until.unwrap_or(interval).clamp(NAP, interval)
            }
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    notify::status("Redis cannot be asked: it is tried again");
                    say(Said::Away(error));
                }
                life.turns();
                // Where there is no connection, the next attempt fails with the dead one.
                let _ = fleet.reconnect().await;
                interval
            }
        };
        tokio::select! {
            () = life.stopped() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    Ok(())
}

/// Counts what a look at the schedules has come to, which has begun then.
fn count(said: &[Scheduling], counters: &Counters, begun: Instant, now: Millis) {
    let mut sends = false;
    for said in said {
        match said {
            Scheduling::Sent { job, fate, .. } => {
                sends = true;
                // A run is issued at its instant.
                let lag = now.saturating_sub(job.issued_at_ms());
                counters.count_run(fate.word(), Some(Duration::from_millis(lag)));
            }
            Scheduling::Left { fate, .. } => counters.count_run(fate.word(), None),
            _ => {}
        }
    }
    if sends {
        counters.count_dispatch(begun.elapsed());
    }
}
