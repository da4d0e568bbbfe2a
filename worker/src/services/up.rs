//! Waiting until a service is really up.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Driver, ServiceError, State, Tools, Up, check::Check};

/// How often a check that does not pass is repeated.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// After so many changes of the main process, a service counts as one that does not stay up.
const UNSTEADY: u32 = 3;

/// How often a driver is asked, and for how long it may say that a service is down which has just been started.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub(super) every: Duration,
    pub(super) lag: Duration,
}

/// Waits until the service is up.
///
/// # Errors
/// It failed, does not stay up, or was not up when the command had to end.
pub(super) async fn until_up<D: Driver>(
    driver: &D,
    pace: Pace,
    up: &Up,
    tools: &Tools<'_>,
) -> Result<(), ServiceError> {
    let started = Instant::now();
    let mut since: Option<(Instant, Option<i32>)> = None;
    let mut changes = 0;
    let mut problem = "nothing is known of it yet".to_owned();
    loop {
        let standing = match driver.standing(tools).await {
            Ok(standing) => standing,
            // What the driver runs was ended with the command.
            Err(_) if tools.stop.is_cancelled() => return Err(ServiceError::NotInTime(problem)),
            Err(error) => return Err(error),
        };
        let found = match standing.state {
            State::Down if since.is_none() && started.elapsed() < pace.lag => standing.detail,
            State::Down | State::Failed => return Err(ServiceError::NotUp(standing.detail)),
            State::Starting | State::Stopping => {
                changes += u32::from(since.take().is_some());
                standing.detail
            }
            State::Up => {
                let same = since.filter(|(_, pid)| *pid == standing.main_pid);
                changes += u32::from(same.is_none() && since.is_some());
                let (begin, _) = *since.insert(same.unwrap_or_else(|| (Instant::now(), standing.main_pid)));
                if begin.elapsed() < up.settle {
                    format!("{} for only {:.1} s", standing.detail, begin.elapsed().as_secs_f64())
                } else if let Some(check) = &up.check {
                    match check.run(tools).await {
                        Ok(()) if driver.standing(tools).await?.main_pid == standing.main_pid => return Ok(()),
                        Ok(()) => "its main process changed during the check".to_owned(),
                        Err(problem) => problem,
                    }
                } else {
                    return Ok(());
                }
            }
        };
        // A check that was ended with the command says nothing.
        if !tools.stop.is_cancelled() {
            problem = found;
        }
        if changes >= UNSTEADY {
            return Err(ServiceError::Unsteady(changes, problem));
        }
        tokio::select! {
            () = sleep(pace.every) => {}
            () = tools.stop.cancelled() => return Err(ServiceError::NotInTime(problem)),
        }
    }
}

/// Checks again and again until it passes.
///
/// # Errors
/// It did not pass until the command had to end.
pub(super) async fn until_passed(check: &Check, tools: &Tools<'_>) -> Result<(), ServiceError> {
    loop {
        let Err(problem) = check.run(tools).await else { return Ok(()) };
        tokio::select! {
            () = sleep(CHECK_EVERY) => {}
            () = tools.stop.cancelled() => return Err(ServiceError::NotInTime(problem)),
        }
    }
}
