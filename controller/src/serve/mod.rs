//! The long-running services of `ctl serve`: how each starts, says that it is ready, and stops.
//!
//! A service is a future that is given its [`Life`]. It says once that it is [ready](Life::ready), and returns soon after it was
//! [told to stop](Life::stopped), when what it had begun is done. If one ends by itself, all of them are stopped: what runs
//! `ctl serve` starts it again, and half of it must not go on unnoticed.

pub mod alerts;
pub mod config;
pub mod counters;
pub mod dead_man;
pub mod exporter;
pub mod http;
pub mod notify;
pub mod presence;
pub mod receivers;
pub mod redis_status;
pub mod remote_write;
pub mod scheduler;
pub mod secret_file;
#[cfg(test)]
mod shipped;
pub mod span;
pub mod web;

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How long services may take to stop. Then they are given up.
pub const DRAIN: Duration = Duration::from_secs(30);

/// What a service knows about its own life.
#[derive(Clone, Debug)]
pub struct Life {
    stop: CancellationToken,
    ready: watch::Sender<bool>,
    name: &'static str,
    health: Health,
}

/// How the services are: shared by all of them.
#[derive(Clone, Debug, Default)]
pub struct Health {
    services: Arc<Mutex<Vec<(&'static str, Vital)>>>,
}

/// How a service is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vital {
    /// Whether it has said that it is ready.
    pub is_ready: bool,
    /// When it last did what it is there for.
    pub worked: Option<Instant>,
    /// When it last ended a round, whether or not it could do its work in it; `None` where it says nothing of rounds.
    pub turned: Option<Instant>,
}

/// How a service has ended.
#[derive(Debug)]
pub struct Ended {
    /// The service.
    pub name: &'static str,
    /// Why, if it should not have.
    pub error: Option<anyhow::Error>,
}

/// Services that run together.
#[derive(Debug, Default)]
pub struct Services {
    stop: CancellationToken,
    tasks: JoinSet<Ended>,
    ready: Vec<watch::Receiver<bool>>,
    health: Health,
}

impl Health {
    /// How each service is, by its name.
    pub fn vitals(&self) -> Vec<(&'static str, Vital)> {
        // A panic of a service while it held the lock cannot have left half a value.
        self.services.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, name: &'static str, change: impl FnOnce(&mut Vital)) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, vital)) = services.iter_mut().find(|(known, _)| *known == name) {
            change(vital);
        }
    }
}

impl Life {
    /// Says that the service does its work from now on.
    pub fn ready(&self) {
        self.ready.send_replace(true);
        self.health.change(self.name, |vital| vital.is_ready = true);
    }

    /// Says that it is ready, and that it has just done what it is there for: a round with all that it had to read and write.
    pub fn worked(&self) {
        self.ready();
        self.health.change(self.name, |vital| vital.worked = Some(Instant::now()));
    }

    /// Says that it has ended a round, whether or not it could do its work: it does not hang. From then on it must say so
    /// again and again.
    pub fn turns(&self) {
        self.health.change(self.name, |vital| vital.turned = Some(Instant::now()));
    }

    /// How all services are.
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Returns when the service is to stop.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the service is to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }
}

impl Services {
    /// How all services are.
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Starts a service.
    pub fn start<F>(&mut self, name: &'static str, service: impl FnOnce(Life) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (ready, is_ready) = watch::channel(false);
        let health = self.health.clone();
        health.services.lock().unwrap_or_else(PoisonError::into_inner).push((name, Vital::default()));
        let service = service(Life { stop: self.stop.clone(), ready, name, health });
        self.ready.push(is_ready);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            // A panic of one must stop the others, too.
            let error = match tokio::spawn(service).await {
                Ok(Err(error)) => Some(error),
                Ok(Ok(())) if stop.is_cancelled() => None,
                Ok(Ok(())) => Some(anyhow::anyhow!("it has ended by itself")),
                Err(error) => Some(broken(&error)),
            };
            stop.cancel();
            Ended { name, error }
        });
    }

    /// Waits until `signal` comes or a service ends, stops all, and waits until they have stopped; `on_ready` is called once
    /// all are ready. Returns how each has ended; those that did not within `drain` are missing.
    pub async fn run(mut self, signal: impl Future, on_ready: impl FnOnce(), drain: Duration) -> Vec<Ended> {
        let ready = all_ready(std::mem::take(&mut self.ready));
        let until = async {
            tokio::select! {
                _ = signal => {}
                () = self.stop.cancelled() => {}
            }
        };
        let announced = async {
            if ready.await {
                on_ready();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = until => {}
            () = announced => {}
        }
        self.stop.cancel();
        let mut ended = Vec::new();
        let all = async {
            while let Some(task) = self.tasks.join_next().await {
                ended.extend(task.ok());
            }
        };
        // What hangs is dropped with the set.
        let _ = tokio::time::timeout(drain, all).await;
        ended
    }
}

/// Returns when all services are ready. `false`: one of them has ended before.
async fn all_ready(ready: Vec<watch::Receiver<bool>>) -> bool {
    for mut ready in ready {
        if ready.wait_for(|ready| *ready).await.is_err() {
            return false;
        }
    }
    true
}

fn broken(error: &JoinError) -> anyhow::Error {
    anyhow::anyhow!("it broke down: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a service behaves.
    #[derive(Clone, Copy)]
    enum Kind {
        Good,
        Slow,
        Ends,
        Fails,
        Panics,
        Hangs,
    }

    async fn service(life: Life, kind: Kind) -> anyhow::Result<()> {
        tokio::task::yield_now().await;
        match kind {
            Kind::Fails => anyhow::bail!("no luck"),
            Kind::Panics => panic!("as it was told to"),
            _ => life.ready(),
        }
        match kind {
            Kind::Ends => return Ok(()),
            Kind::Hangs => std::future::pending::<()>().await,
            _ => life.stopped().await,
        }
        for _ in 0..if matches!(kind, Kind::Slow) { 50 } else { 0 } {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn started(kinds: &[Kind]) -> Services {
        let mut services = Services::default();
        for kind in kinds.iter().copied() {
            services.start("test", move |life| service(life, kind));
        }
        services
    }

    /// Services of all kinds, in all orders, are started and stopped, many at once.
    #[tokio::test]
    async fn whatever_services_do_all_of_them_start_and_stop() {
        let kinds = [Kind::Good, Kind::Slow, Kind::Ends, Kind::Fails, Kind::Panics];
        for round in 0..400_usize {
            let chosen: Vec<_> = (0..=round % 7).map(|at| kinds[(round / 7 + at * (1 + round % 3)) % 5]).collect();
            let lasting = chosen.iter().all(|kind| matches!(kind, Kind::Good | Kind::Slow));
            let never_ready = chosen.iter().any(|kind| matches!(kind, Kind::Fails | Kind::Panics));
            let (told, signal) = tokio::sync::oneshot::channel();
            let told = std::cell::RefCell::new(Some(told));
            // Those that last are told to stop once they are ready; the others end by themselves.
            let on_ready = || {
                assert!(!never_ready, "round {round}");
                if lasting {
                    told.take().expect("once").send(()).expect("it is awaited");
                }
            };
            let signal = async { assert!(signal.await.is_ok()) };
            let ended = started(&chosen).run(signal, on_ready, DRAIN).await;
            assert_eq!(ended.len(), chosen.len(), "round {round}");
            let failed = ended.iter().filter(|ended| ended.error.is_some()).count();
            assert_eq!(failed == 0, lasting, "round {round}");
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_given_up() {
        let mut services = Services::default();
        services.start("hangs", |life| service(life, Kind::Hangs));
        let (told, signal) = tokio::sync::oneshot::channel();
        let on_ready = || told.send(()).expect("it is awaited");
        assert!(services.run(signal, on_ready, Duration::ZERO).await.is_empty());
    }
}
