//! The host's own actions, from the files in its `actions.d`: listed, checked, permitted, run once and recorded like those
//! that every worker has.

mod attacks;
mod contributed;
mod files;
mod runs;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tests::{Ctl, Redis, Worker, WorkerOptions};

/// Where a worker with these options looks for its own actions.
fn actions_dir(options: &WorkerOptions) -> PathBuf {
    options.directory().join("actions.d")
}

/// Writes a file that nobody else can change.
fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    fs::write(path, text).expect("a file");
    fs::set_permissions(path.parent().expect("a directory"), Permissions::from_mode(0o755)).expect("its mode");
    fs::set_permissions(path, Permissions::from_mode(0o644)).expect("its mode");
}

/// The options of a worker with these files in its `actions.d`. All of its own actions are allowed, unless the settings
/// have rules.
fn with_actions(redis: &Redis, settings: &str, files: &[(&str, &str)]) -> WorkerOptions {
    let options = Worker::on(redis).config(settings);
    for (name, text) in files {
        put(&actions_dir(&options).join(format!("{name}.toml")), text);
    }
    if settings.contains("policy") {
        return options;
    }
    let names: Vec<_> = files.iter().map(|(name, _)| name).collect();
    options.config(&format!("[actions]\nallow = {names:?}"))
}

/// A server, its worker `web1` with these files, and `ctl`.
fn host(settings: &str, files: &[(&str, &str)]) -> (Redis, Worker, Ctl) {
    let redis = Redis::start();
    let worker = with_actions(&redis, settings, files).start();
    worker.wait_online();
    let ctl = Ctl::on(&redis).knowing_web1();
    (redis, worker, ctl)
}
