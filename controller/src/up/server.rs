//! The private Redis of `ctl up`.

use std::{
    env,
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use protocol::connection::Address;
use redis::RedisError;

use super::{
    directory::{Directory, cannot},
    process::Started,
};
use crate::{error::Advice, printer::Printer, redis_info::RedisInfo};

/// Programs that will do, the first that is found.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// Where servers are, beside `PATH`: Debian users have no `sbin` in theirs.
const PLACES: [&str; 5] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin"];
/// How machines install it; the first installer that is found.
const INSTALLERS: [(&str, &str); 6] = [
    ("apt-get", "apt-get install redis-server"),
    ("dnf", "dnf install redis (or valkey)"),
    ("apk", "apk add redis"),
    ("pacman", "pacman -S valkey"),
    ("zypper", "zypper install redis"),
    ("brew", "brew install redis"),
];
/// How long it may take until the socket is there.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(2);

/// Finds the server program.
pub(super) fn find_program() -> anyhow::Result<PathBuf> {
    if let Some(program) = PROGRAMS.iter().find_map(|name| find(name)) {
        return Ok(program);
    }
    let installer = INSTALLERS.iter().find(|(installer, _)| find(installer).is_some());
    let hint = match installer {
        Some((_, command)) => format!("install it: {command}"),
        None => {
            "install Redis 7.0 or newer, or Valkey: https://redis.io/docs/latest/operate/oss_and_stack/install/".into()
        }
    };
    Err(Advice::new("no Redis server is installed here: there is neither redis-server nor valkey-server")
        .hint(hint)
        .hint("or use a Redis elsewhere: ctl --redis URL …, worker --redis URL …")
        .into())
}

/// Looks for a program in `PATH` and the usual places.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let executable = |file: &PathBuf| {
        fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    // An empty part of PATH means the working directory, where nobody keeps a server on purpose.
    env::split_paths(&path)
        .filter(|place| place.is_absolute())
        .chain(PLACES.map(PathBuf::from))
        .map(|place| place.join(name))
        .find(executable)
}

/// Starts a server in `directory` and waits until it answers.
pub(super) async fn start(directory: &Directory, printer: &Printer) -> anyhow::Result<(Started, RedisInfo)> {
    refuse_stranger(directory).await?;
    let program = find_program()?;
    let data = directory.data();
    DirBuilder::new().recursive(true).mode(0o700).create(&data).map_err(|error| cannot("make", &data, &error))?;
    let mut command = Command::new(program);
    command.current_dir(directory.path()).arg("--dir").arg(&data);
    command.arg("--unixsocket").arg(directory.socket()).args(["--unixsocketperm", "700", "--port", "0"]);
    // The append-only file is all the persistence there is; snapshots beside it would only cost.
    command.args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]);
    command.args(["--maxmemory-policy", "noeviction", "--daemonize", "no", "--supervised", "no"]);
    let mut started = Started::start("redis-server", &mut command, &directory.redis_log(), &directory.redis_pid())?;
    let info = ready(directory, &mut started, printer).await?;
    Ok((started, info))
}

/// A server that answers at our socket though no file of ours remembers it must not lose its socket.
async fn refuse_stranger(directory: &Directory) -> anyhow::Result<()> {
    let Ok(info) = ask(&directory.url().parse()?).await else { return Ok(()) };
    let pid = info.text("process_id").unwrap_or("?").to_owned();
    let message = format!("a Redis that this directory does not know (process {pid}) answers at {}", directory.url());
    Err(Advice::new(message).hint(format!("end it (kill {pid}), or name another directory with --dir")).into())
}

async fn ready(directory: &Directory, started: &mut Started, printer: &Printer) -> anyhow::Result<RedisInfo> {
    let address: Address = directory.url().parse()?;
    let begun = Instant::now();
    let mut told = false;
    loop {
        started.check()?;
        match ask(&address).await {
            Ok(info) if info.is_loading() => {
                // Reading much data takes its time, and it will come to its end.
                if !told && begun.elapsed() > Duration::from_secs(1) {
                    printer.note("redis-server is reading its data …");
                    told = true;
                }
            }
            Ok(info) => return supported(info),
            Err(error) if begun.elapsed() > PATIENCE => {
                let what = format!("does not answer after {} s ({error})", PATIENCE.as_secs());
                return Err(started.complaint(&what).into());
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn supported(info: RedisInfo) -> anyhow::Result<RedisInfo> {
    if info.is_supported() {
        return Ok(info);
    }
    Err(Advice::new(format!("{} is too old", info.product())).hint("install Redis 7.0 or newer, or Valkey").into())
}

/// Connects and asks for `INFO`, which a server answers even while it reads its data.
pub(super) async fn ask(address: &Address) -> Result<RedisInfo, RedisError> {
    RedisInfo::load(&mut address.connect().await?).await
}
