//! What systemd is told about `ctl serve`, where it wants to know (`NOTIFY_SOCKET`).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

use super::Health;

/// A service that has not gone round for so long hangs. Far longer than Redis may let one wait.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// All services do their work.
pub fn ready(name: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("{name} runs"))]);
}

/// It has been told to stop, and finishes what it has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishes what it has begun")]);
}

/// How it is at the moment, in words.
pub fn status(words: &str) {
    tell(&[NotifyState::Status(words)]);
}

/// Keeps systemd's watchdog quiet as long as no service hangs. Never returns.
pub async fn guard(health: Health) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        if is_alive(&health, Instant::now()) {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(patience / 3).await;
    }
}

/// Whether no service hangs. One that does not go round is not judged.
fn is_alive(health: &Health, now: Instant) -> bool {
    let turned = health.vitals().into_iter().filter_map(|(_, vital)| vital.turned);
    turned.into_iter().all(|turned| now.saturating_duration_since(turned) < HANGS_AFTER)
}

fn tell(states: &[NotifyState]) {
    // Where nobody listens, nobody misses it.
    let _ = sd_notify::notify(states);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Services;

    #[tokio::test]
    async fn a_service_that_goes_round_no_more_hangs() {
        let mut services = Services::default();
        services.start("turns", |life| async move {
            life.turns();
            life.stopped().await;
            Ok(())
        });
        // It says nothing about its rounds.
        services.start("waits", |life| async move {
            life.stopped().await;
            Ok(())
        });
        let health = services.health().clone();
        assert!(is_alive(&health, Instant::now()));
        while health.vitals().iter().all(|(_, vital)| vital.turned.is_none()) {
            tokio::task::yield_now().await;
        }
        let now = Instant::now();
        assert!(is_alive(&health, now));
        assert!(!is_alive(&health, now + HANGS_AFTER));
    }
}
