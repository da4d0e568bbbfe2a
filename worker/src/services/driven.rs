//! A service, whatever drives it.

use super::{Commands, Driver, ServiceError, Standing, State, Supervised, Systemd, Tools, Up, Verb};

/// A service's driver.
#[derive(Clone)]
pub(crate) enum Driven {
    /// systemd.
    Systemd(Systemd),
    /// A supervisor.
    Supervised(Supervised),
    /// Commands.
    Commands(Commands),
}

impl Driven {
    /// See [`Driver::standing`].
    pub(crate) async fn standing(&self, tools: &Tools<'_>) -> Result<Standing, ServiceError> {
        match self {
            Self::Systemd(driver) => driver.standing(tools).await,
            Self::Supervised(driver) => driver.standing(tools).await,
            Self::Commands(driver) => driver.standing(tools).await,
        }
    }

    /// Restarts it, or starts it where it does not run; returns when it is up.
    pub(crate) async fn restart(&self, up: &Up, tools: &Tools<'_>) -> Result<(), ServiceError> {
        let verb = if self.standing(tools).await?.state == State::Down { Verb::Start } else { Verb::Restart };
        match self {
            Self::Systemd(driver) => driver.raise(verb, up, tools).await,
            Self::Supervised(driver) => driver.raise(verb, up, tools).await,
            Self::Commands(driver) => driver.raise(verb, up, tools).await,
        }
    }

    /// See [`Driver::last_lines`].
    pub(crate) async fn last_lines(&self, lines: usize, tools: &Tools<'_>) -> String {
        match self {
            Self::Systemd(driver) => driver.last_lines(lines, tools).await,
            Self::Supervised(driver) => driver.last_lines(lines, tools).await,
            Self::Commands(driver) => driver.last_lines(lines, tools).await,
        }
    }
}
