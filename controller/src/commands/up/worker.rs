//! The worker of `ctl up`.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use anyhow::ensure;
use protocol::{
    action::Arguments,
    environment,
    name::{HostName, NameError, Namespace},
    outcome::State,
    targets::Targets,
    time::show_duration,
};
use tokio::{process::Command, time::timeout};

use super::{
    claim::cannot,
    started::{Started, find_program, is_program},
};
use crate::{
    cli::{
        key_file::{self, KeyFile},
        settings::Settings,
        state_directory::Directory,
    },
    client::{Fleet, Follower, Job, KnownHosts, Request, Signer, known_name},
    output::{Advice, summary::standing},
};

/// How long running commands may go on after the worker has got SIGTERM.
pub const GRACE: Duration = Duration::from_secs(30);

/// How long it may take until the worker replies.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the result of the first command is kept.
const RETENTION: Duration = Duration::from_secs(60);
/// The time between two checks of whether the worker has published its actions.
const PAUSE: Duration = Duration::from_millis(10);

/// Starts a worker for the Redis of `directory` and waits until `ctl run` can use it. Returns how long the
/// worker took from its start to its first reply.
pub async fn start(directory: &Directory, host: &HostName, settings: &Settings) -> anyhow::Result<(Started, Duration)> {
    let mut known_hosts = KnownHosts::open(&settings.known_hosts_of(directory))?;
    // Nobody else can write to this Redis, and the worker may have been given a new key.
    let name = known_name(settings.namespace.as_ref(), host);
    if !known_hosts.keys(&name).is_empty() {
        known_hosts.forget(&name)?;
    }
    let mut fleet = Fleet::connect(&directory.address, settings.namespace.as_ref()).await?.knowing(known_hosts);
    // The command waits in the inbox before the worker starts, so the reply comes as early as it can.
    let signer = signer(directory)?;
    let job = fleet.dispatch(ping(host, settings), &signer, &mut |_| {}).await?;
    let begun = Instant::now();
    let mut started = spawn(directory, host, settings.namespace.as_ref())?;
    let answered = started.unless_ended(timeout(PATIENCE, ready(&mut fleet, &job, host))).await?;
    let silent = |_| started.failure(&format!("does not answer after {} s", PATIENCE.as_secs()));
    let answered = answered.map_err(silent)??;
    Ok((started, answered - begun))
}

/// The operator's key, which is made for the first stack of the directory, and is the only one that the worker obeys.
fn signer(directory: &Directory) -> anyhow::Result<Signer> {
    let (path, trust) = (&directory.key, &directory.trust);
    if !path.exists() {
        key_file::store(&key_file::generate("ctl up")?, path, None)?;
    }
    let KeyFile::Private(key) = key_file::read(path)? else {
        let message = format!("{} holds no private key", path.display());
        return Err(Advice::new(message).hint("remove it: ctl up makes another one").into());
    };
    // Only the user who has the key can reach this Redis, under whatever name.
    let line = format!("# Written by `ctl up` whenever it starts the worker.\n* {}\n", key.public_key().to_openssh()?);
    fs::write(trust, line).map_err(|error| cannot("write", trust, &error))?;
    fs::set_permissions(trust, Permissions::from_mode(0o600)).map_err(|error| cannot("protect", trust, &error))?;
    Ok(Signer::from_private(*key)?)
}

/// The host that the settings file in `directory` names.
pub fn configured_host(directory: &Directory) -> Option<HostName> {
    let text = fs::read_to_string(&directory.worker_config).ok()?;
    let table: toml::Table = text.parse().ok()?;
    table.get("host")?.as_str()?.parse().ok()
}

/// This machine's name.
pub fn machine_name() -> anyhow::Result<HostName> {
    let name = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    let unusable = |error| Advice::new(format!("this machine's host name '{name}' cannot be used: {error}"));
    Ok(name.parse().map_err(|error: NameError| unusable(error).hint("name the host yourself: ctl up --host NAME"))?)
}

fn spawn(directory: &Directory, host: &HostName, namespace: Option<&Namespace>) -> anyhow::Result<Started> {
    // The worker that was installed with this `ctl` comes first.
    let beside = env::current_exe().ok().map(|ctl| ctl.with_file_name("worker")).filter(|path| is_program(path));
    let missing =
        || Advice::new("the program `worker` is missing").hint("put it beside `ctl`, or into a directory of PATH");
    let program = beside.or_else(|| find_program("worker")).ok_or_else(missing)?;

    let (config, state) = (&directory.worker_config, &directory.worker_state);
    fs::write(config, config_text(directory, host, namespace)).map_err(|error| cannot("write", config, &error))?;
    fs::create_dir_all(state).map_err(|error| cannot("make", state, &error))?;

    let mut command = Command::new(program);
    command.current_dir(&directory.path).arg("--config").arg(config);
    // Variables that are meant for `ctl` must not override the settings file.
    let kept = [environment::LOG, environment::LOG_FORMAT];
    for (name, _) in environment::ALL.iter().filter(|(name, _)| !kept.contains(name)) {
        command.env_remove(name);
    }
    Started::start("worker", command, &directory.worker_log, &directory.worker_pid)
}

/// The worker's settings file. A string of JSON is a string of TOML too.
fn config_text(directory: &Directory, host: &HostName, namespace: Option<&Namespace>) -> String {
    let string = |text: &str| serde_json::Value::from(text).to_string();
    let namespace = namespace.map(|name| format!("namespace = \"{name}\"\n")).unwrap_or_default();
    format!(
        r#"# Written by `ctl up` whenever it starts the worker.
redis = {redis}
host = "{host}"
{namespace}state_dir = {state}
trust = {trust}
grace = "{grace}"

[actions]
# Only the user who may run programs here anyway can reach this Redis.
allow = ["exec", "standing-order"]
"#,
        redis = string(&directory.url),
        state = string(&directory.worker_state.to_string_lossy()),
        trust = string(&directory.trust.to_string_lossy()),
        grace = show_duration(GRACE),
    )
}

fn ping(host: &HostName, settings: &Settings) -> Request {
    Request {
        action: "ping".into(),
        arguments: Arguments::new(),
        secrets: Arguments::new(),
        targets: Targets::new([host.clone()]),
        timeout: PATIENCE,
        start_by: PATIENCE,
        retention: RETENTION,
        keep_output: None,
        operator: settings.operator.clone(),
        trace: None,
    }
}

/// Waits for the reply, and then until the worker has published its actions, which `ctl run` checks.
/// Returns when the reply came.
async fn ready(fleet: &mut Fleet, job: &Job, host: &HostName) -> anyhow::Result<Instant> {
    let mut follower = Follower::of_new(job);
    while follower.next(fleet).await?.is_some() {}
    let answered = Instant::now();
    for result in follower.results() {
        ensure!(result.state == State::Succeeded, "worker {host} ended its first command: {}", standing(result));
    }

    while fleet.hosts(std::slice::from_ref(host)).await?.iter().any(|host| host.actions.is_none()) {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_settings_file_reads_as_it_was_meant() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::at(&parent.path().join(r#"a "b" \c ü"#)).unwrap();
        fs::create_dir(&directory.path).unwrap();
        let (web1, prod) = ("web1".parse().unwrap(), "prod".parse().unwrap());
        let text = config_text(&directory, &web1, Some(&prod));
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["state_dir"].as_str().map(Path::new), Some(directory.worker_state.as_path()));
        assert_eq!(table["redis"].as_str(), Some(directory.url.as_str()));
        assert_eq!(table["namespace"].as_str(), Some("prod"));
        assert_eq!(table["actions"]["allow"][0].as_str(), Some("exec"));
        fs::write(&directory.worker_config, text).unwrap();
        assert_eq!(configured_host(&directory), Some(web1));
    }
}
