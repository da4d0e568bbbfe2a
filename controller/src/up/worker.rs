//! The worker of `ctl up`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use protocol::{
    environment,
    name::{HostName, Namespace},
    time::show_duration,
};

use super::{
    directory::{Directory, cannot},
    process::Started,
    server::find,
};
use crate::error::Advice;

/// How long running commands may go on after it was asked to stop.
pub const GRACE: Duration = Duration::from_secs(30);

/// Starts a worker for the Redis of `directory`. It is not ready yet.
pub(super) fn start(directory: &Directory, host: &HostName, namespace: Option<&Namespace>) -> anyhow::Result<Started> {
    let program = find_program()?;
    let (config, state) = (directory.worker_config(), directory.worker_state());
    fs::write(&config, settings(directory, host, namespace)).map_err(|error| cannot("write", &config, &error))?;
    fs::create_dir_all(&state).map_err(|error| cannot("make", &state, &error))?;
    let mut command = Command::new(program);
    command.current_dir(directory.path()).arg("--config").arg(&config);
    // The settings file says it all; what is meant for `ctl` must not override it.
    let its_own = [environment::LOG, environment::LOG_FORMAT];
    for (name, _) in environment::ALL.iter().filter(|(name, _)| !its_own.contains(name)) {
        command.env_remove(name);
    }
    Started::start("worker", &mut command, &directory.worker_log(), &directory.worker_pid())
}

/// The worker's settings file.
fn settings(directory: &Directory, host: &HostName, namespace: Option<&Namespace>) -> String {
    let mut lines = vec!["# Written by `ctl up` whenever it starts the worker.".to_owned()];
    let mut set = |name: &str, value: &str| lines.push(format!("{name} = {}", quoted(value)));
    set("redis", &directory.url());
    set("host", host.as_str());
    if let Some(namespace) = namespace {
        set("namespace", namespace.as_str());
    }
    set("state_dir", &directory.worker_state().to_string_lossy());
    set("grace", &show_duration(GRACE));
    // Redis is reachable for its owner only, who may run programs anyway.
    lines.extend(["", "[actions]", "allow = [\"exec\"]", ""].map(str::to_owned));
    lines.join("\n")
}

/// A basic string of TOML. Control characters were refused with the directory.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The host that the settings file in `directory` names.
pub fn host(directory: &Directory) -> Option<HostName> {
    let text = fs::read_to_string(directory.worker_config()).ok()?;
    let settings: toml::Table = text.parse().ok()?;
    settings.get("host")?.as_str()?.parse().ok()
}

/// This machine's name.
pub(super) fn machine_name() -> anyhow::Result<HostName> {
    let unusable = |reason: String| {
        Advice::new(format!("this machine's host name cannot be used: {reason}"))
            .hint("name the host yourself: ctl up --host NAME")
    };
    let name = nix::unistd::gethostname().map_err(|error| unusable(error.to_string()))?;
    Ok(name.to_string_lossy().parse().map_err(|error| unusable(format!("{error}")))?)
}

/// The worker that came with this `ctl`, or else the one in `PATH`.
fn find_program() -> anyhow::Result<PathBuf> {
    let beside = env::current_exe().ok().and_then(|exe| exe.parent().map(|place| place.join("worker")));
    let missing =
        || Advice::new("the program `worker` is missing").hint("put it beside `ctl`, or into a directory of PATH");
    Ok(beside.filter(|path: &PathBuf| Path::is_file(path)).or_else(|| find("worker")).ok_or_else(missing)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_file_is_read_as_it_was_meant() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::at(&parent.path().join("a \"b\" \\c")).unwrap();
        fs::create_dir(directory.path()).unwrap();
        let (web1, prod) = ("web1".parse().unwrap(), "prod".parse().unwrap());
        let text = settings(&directory, &web1, Some(&prod));
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["state_dir"].as_str(), directory.worker_state().to_str());
        assert_eq!(table["namespace"].as_str(), Some("prod"));
        assert_eq!(table["actions"]["allow"][0].as_str(), Some("exec"));
        fs::write(directory.worker_config(), text).unwrap();
        assert_eq!(host(&directory), Some(web1));
    }
}
