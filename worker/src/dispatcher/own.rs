//! The host's own actions, read anew at SIGHUP.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Dispatcher, subjects};
use crate::{
    actions::{Catalogue, OwnActions},
    config::ConfigError,
    detached,
    policy::Policy,
};

/// What the files amount to, and the rules with them.
pub(super) type Reread = Result<(OwnActions, Policy), ConfigError>;

/// SIGHUP, as often as it comes.
pub(super) struct Hangup(Option<Signal>);

impl Hangup {
    pub(super) fn listen() -> Self {
        Self(signal(SignalKind::hangup()).ok())
    }

    pub(super) async fn came(&mut self) {
        let came = match &mut self.0 {
            Some(hangup) => hangup.recv().await,
            None => None,
        };
        if came.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

impl Dispatcher {
    /// Begins to read the files anew. The disk may hang: nobody waits for it.
    pub(super) fn reread_actions(&self) {
        let (config, rereads) = (self.config.clone(), self.rereads.clone());
        let started = detached::run(move || drop(rereads.send(config.reread_actions())));
        if let Err(error) = started {
            tracing::error!("cannot read the actions of this host's own anew: {error}");
        }
    }

    /// Brings into force what was read anew. Commands that were admitted before run as they were then.
    pub(super) fn use_reread(&mut self, reread: Reread) {
        self.not_reread = None;
        match reread {
            Err(error) => {
                let problem = format!("they were not read anew, those from before stay: {error}");
                tracing::error!("own actions: {problem}");
                self.not_reread = Some(problem);
            }
            Ok((own, policy)) => {
                self.catalogue = Catalogue::new(&policy, &own, &subjects(&self.config));
                (self.config.own, self.config.policy) = (own, policy);
                self.config.own.log_problems();
                let count = self.config.own.specs().count();
                tracing::info!("actions of this host's own: {count} in force");
                self.publish_facts();
            }
        }
        self.publish_status(false);
    }

    /// What is wrong with them.
    pub(super) fn own_problem(&self) -> Option<String> {
        self.not_reread.clone().or_else(|| self.config.own.problem())
    }
}
