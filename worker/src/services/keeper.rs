//! Sees to it that each service that is to run has a supervisor: after a start of the machine, and when one has died. Keeps
//! the logs within their bound that have no supervisor, and tells of supervisors that belong to no service any more.

use std::{path::PathBuf, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::Registry;
use crate::{
    detached,
    log::with_sources,
    supervisor::{self, client::ensure},
};

/// How often it is looked whether a service is to run. A supervisor that has died is noticed at once.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often it is looked how long a log is that its service writes itself.
const BOUND_EVERY: Duration = Duration::from_secs(30);

/// A supervisor that has lived for less than this is not replaced at once.
const STEADY: Duration = Duration::from_secs(5);

/// Keeps supervisors for as long as it is polled. Ends at once where there are no services to supervise.
pub(crate) async fn keep(registry: Registry) {
    let mut guards: JoinSet<()> =
        registry.supervised().map(|(name, program, directory)| guard(name, program, directory)).collect();
    for directory in registry.logged() {
        guards.spawn(bound(directory));
    }
    guards.spawn(tell(registry));
    while guards.join_next().await.is_some() {}
}

/// Tells of services that go on though the settings do not name them any more: nobody would look after them.
async fn tell(registry: Registry) {
    for (name, is_taken) in detached::call(move || registry.left()).await.unwrap_or_default() {
        let remedy = if is_taken {
            "give it its program back there, and stop it"
        } else {
            "the action stop with its name ends it"
        };
        tracing::warn!("service {name} is supervised, but not by the settings any more, and goes on: {remedy}");
    }
}

/// Bounds a log as long as it is polled.
async fn bound(directory: PathBuf) {
    loop {
        let place = directory.clone();
        let bounded = detached::call(move || supervisor::log::bound(&place)).await.flatten();
        if let Err(error) = bounded {
            tracing::warn!("cannot bound the log in {}: {error}", directory.display());
        }
        sleep(BOUND_EVERY).await;
    }
}

async fn guard(name: String, program: PathBuf, directory: PathBuf) {
    let never = CancellationToken::new();
    loop {
        let looked = directory.clone();
        let wanted = detached::call(move || supervisor::wanted(&looked)).await.and_then(|wanted| wanted);
        match wanted {
            Ok(None) => {}
            Ok(Some(_)) => match ensure(&program, &directory, false, &never).await {
                Ok(mut connection) => {
                    let begin = Instant::now();
                    connection.closed().await;
                    if begin.elapsed() >= STEADY {
                        // It was stopped, or it has died: the next look tells.
                        continue;
                    }
                }
                Err(error) => tracing::warn!("service {name}: {}", with_sources(&error)),
            },
            Err(error) => tracing::warn!("service {name}: cannot read what is wanted: {error}"),
        }
        sleep(LOOK_EVERY).await;
    }
}
