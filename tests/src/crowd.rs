//! Many real workers in this process: a fleet of a thousand hosts on one machine.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    thread::{self, JoinHandle},
};

use ::worker::{
    Worker,
    config::{Config, Options},
};
use clap::Parser;
use protocol::{acl::Role, keys::Keys, metrics::MetricGroup, name::HostName};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{Raw, Redis, eventually, operator};

/// Workers that share this process. Each has its own user of Redis, its own keys and its own journal.
pub struct Crowd {
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
    names: Vec<String>,
    _directory: TempDir,
}

impl Crowd {
    /// Starts workers of these names, which may run programs. They may not be ready yet: see [`Self::wait_online`].
    pub fn start(redis: &Redis, names: impl IntoIterator<Item = String>) -> Self {
        let directory = tempfile::Builder::new().prefix("rf-").tempdir_in("/tmp").expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("allowed_signers"), operator().line("*", "")).expect("a trust file");
        fs::set_permissions(at("allowed_signers"), Permissions::from_mode(0o644)).expect("its mode");
        // A thousand samplers keep a small machine busy.
        fs::write(at("worker.toml"), "slots = 4\nsample_interval = '60s'\n[actions]\nallow = ['exec']\n")
            .expect("settings");
        let names: Vec<String> = names.into_iter().collect();
        let config = |name: &String| {
            let role = Role::Worker(name.parse().expect("a valid host name"));
            let url = redis.url_of(&role, None);
            let (settings, trust, state) = (at("worker.toml"), at("allowed_signers"), at(name));
            let paths = [("--config", settings), ("--trust", trust), ("--state-dir", state)];
            let paths = paths.map(|(flag, path)| [flag.to_owned(), path.display().to_string()]).concat();
            let words = ["worker", "--redis", &url, "--host", name].map(str::to_owned);
            let options = Options::try_parse_from(words.into_iter().chain(paths)).expect("flags of a worker");
            let config = Config::resolve(options).expect("settings of a worker");
            let keys = config.open_keys().expect("keys of a host");
            (config, keys)
        };
        let configs: Vec<_> = names.iter().map(config).collect();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let run = |(config, keys)| tokio::spawn(Worker::run(config, keys, stop.clone()));
                let workers: Vec<_> = configs.into_iter().map(run).collect();
                for worker in workers {
                    worker.await.expect("a worker that does not panic");
                }
            });
        });
        Self { shutdown, thread: Some(thread), names, _directory: directory }
    }

    /// Waits until all have published their status, their facts and their figures.
    #[track_caller]
    pub fn wait_online(&self, redis: &Redis) {
        let (mut raw, keys) = (Raw::on(redis), Keys::new(None));
        for name in &self.names {
            let host: HostName = name.parse().expect("a valid host name");
            let last = keys.metrics(&host, MetricGroup::Cpu);
            eventually(&format!("{name} to have figures"), || {
                (raw.query::<u64>(&["EXISTS", &keys.status(&host), &keys.facts(&host), &last]) == 3).then_some(())
            });
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has failed the test, or did not matter to it.
            let _ = thread.join();
        }
    }
}
