//! The private Redis of `ctl up`.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    time::{Duration, Instant},
};

use anyhow::ensure;
use protocol::connection::Address;
use tokio::process::Command;

use super::{
    claim::cannot,
    started::{Started, find_program},
};
use crate::{
    cli::state_directory::Directory,
    client::redis_info::RedisInfo,
    output::{Advice, Printer},
};

/// How the usual package managers install a server.
const INSTALL: &str = "install one: `apt-get install redis-server`, `dnf install valkey`, `apk add redis`, \
                       `pacman -S valkey`, `zypper install redis` or `brew install redis`";
/// How long it may take until the server replies.
const PATIENCE: Duration = Duration::from_secs(15);
/// After this time a note says that the server still reads its data.
const SOON: Duration = Duration::from_secs(1);
/// The time between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(2);

/// Starts a server for `directory` and waits until it answers.
pub async fn start(directory: &Directory, printer: &Printer) -> anyhow::Result<(Started, RedisInfo)> {
    let data = &directory.redis_data;
    DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(|error| cannot("make", data, &error))?;
    let missing = || {
        Advice::new("no Redis server is installed here: there is neither redis-server nor valkey-server")
            .hint(INSTALL)
            .hint("or use a Redis elsewhere: ctl --redis URL …, worker --redis URL …")
    };
    let program = find_program("redis-server").or_else(|| find_program("valkey-server")).ok_or_else(missing)?;
    let mut command = Command::new(program);
    command.current_dir(&directory.path).arg("--dir").arg(data).arg("--unixsocket").arg(&directory.socket);
    // The append-only file is the only persistence: snapshots would add cost and no safety.
    command.args(["--unixsocketperm", "700", "--port", "0", "--maxmemory-policy", "noeviction"]);
    command.args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]);
    let mut started = Started::start("redis-server", command, &directory.redis_log, &directory.redis_pid)?;

    let info = started.unless_ended(first_answer(&directory.address, printer)).await?;
    let silent = |error| started.failure(&format!("does not answer after {} s ({error})", PATIENCE.as_secs()));
    let info = info.map_err(silent)?;
    ensure!(info.is_supported(), "{} is too old: install Redis 7.0 or newer, or Valkey", info.product());
    Ok((started, info))
}

/// Connects and asks for `INFO`, which a server answers even while it reads its data.
async fn info(address: &Address) -> anyhow::Result<RedisInfo> {
    Ok(RedisInfo::load(&mut address.connect().await?).await?)
}

/// Refuses if a server replies that no file of the directory names: a new one would take away its socket.
pub async fn refuse_stranger(address: &Address) -> anyhow::Result<()> {
    let Ok(info) = info(address).await else { return Ok(()) };
    let pid = info.text("process_id").unwrap_or("?");
    let message = format!("another Redis (process {pid}) already answers at {address}");
    Err(Advice::new(message).hint(format!("end it (kill {pid}), or name another directory with --dir")).into())
}

/// Waits until the server answers and has read its data, however long that takes.
async fn first_answer(address: &Address, printer: &Printer) -> anyhow::Result<RedisInfo> {
    let begun = Instant::now();
    let mut noted = false;
    loop {
        match info(address).await {
            Ok(info) if !info.is_loading() => return Ok(info),
            Ok(_) if !noted && begun.elapsed() > SOON => {
                printer.note("redis-server is reading its data …");
                noted = true;
            }
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            _ => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}
