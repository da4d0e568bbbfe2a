//! Sees to it that each service that is to run has a supervisor: after a start of the machine, and when one has died.

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

/// A supervisor that has lived for less than this is not replaced at once.
const STEADY: Duration = Duration::from_secs(5);

/// Keeps supervisors for as long as it is polled. Ends at once where there are no services to supervise.
pub(crate) async fn keep(registry: Registry) {
    let mut guards: JoinSet<()> =
        registry.supervised().map(|(name, program, directory)| guard(name, program, directory)).collect();
    while guards.join_next().await.is_some() {}
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
