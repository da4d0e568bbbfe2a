//! `ctl up`: a private Redis and one worker, for whoever has nothing but this machine; and `ctl down`, which ends them.
//!
//! Both are the ordinary programs with ordinary settings. They come up together or not at all: where a start
//! fails, what it has started is ended. Where only one of them is left, it is ended, and both are started.

mod claim;
mod process;
mod server;
mod stack;
mod started;
mod worker;

use anyhow::bail;
use protocol::name::HostName;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::{process::End, stack::Stack};
use crate::{
    cli::{
        grammar::{Dir, Up},
        settings::Settings,
        state_directory::Directory,
    },
    output::{Advice, Format, Printer, style},
};

/// Starts a stack. Where that fails, or is interrupted, it ends what it has started.
pub async fn up(options: Up, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    started::close_inherited();
    let directory = claim::open(options.dir.dir, settings)?;
    let _lock = claim::claim(&directory)?;
    make_way(&directory, printer).await?;

    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // The branches that lose are dropped, and with them what they have started.
    tokio::select! {
        started = start(&directory, options.host, settings, printer) => return started,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    bail!("interrupted; what had been started was stopped")
}

/// Ends a stack, and prints how its processes ended.
pub fn down(options: Dir, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let directory = claim::open(options.dir, settings)?;
    let path = directory.path.display();
    let nothing = || Advice::new(format!("nothing is up in {path}")).hint("start it: ctl up");
    let _lock = claim::claim_existing(&directory)?.ok_or_else(nothing)?;
    let stack = Stack::find(&directory);
    let (worker, redis) = stack.end(printer)?;
    if worker.is_none() && redis.is_none() {
        return Err(nothing().into());
    }

    if printer.format() != Format::Table {
        return printer.object(&json!({ "directory": directory.path, "worker": worker, "redis": redis }));
    }
    for (name, end) in [(stack.worker_name.as_str(), worker), ("redis-server", redis)] {
        printer.line(&match end {
            Some(End::InOrder) => format!("{name} has stopped"),
            Some(End::Killed) => format!("{name} did not stop and was killed"),
            None => format!("{name} was not running"),
        })?;
    }
    printer.note(&format!("Data and logs stay in {path}"));
    Ok(())
}

/// Ends leftover processes of an earlier stack. Ctrl-C ends `ctl` meanwhile, as nothing has been started yet.
///
/// # Errors
/// A complete stack runs, or the server at the socket is not of this directory.
async fn make_way(directory: &Directory, printer: &Printer) -> anyhow::Result<()> {
    let stack = Stack::find(directory);
    if stack.redis.is_none() {
        server::refuse_stranger(&directory.address).await?;
    }
    let left = match (stack.redis, stack.worker) {
        (Some(redis), Some(worker)) => {
            let processes = [("redis-server", redis), (&stack.worker_name, worker)];
            let [redis, worker] = processes.map(|(name, process)| format!("{name} (process {})", process.pid()));
            let message = format!("already up in {}: {redis} and {worker}", directory.path.display());
            return Err(Advice::new(message).hint("use it: ctl host list").hint("end it: ctl down").into());
        }
        (Some(_), None) => "redis-server",
        (None, Some(_)) => &stack.worker_name,
        (None, None) => return Ok(()),
    };
    printer.note(&format!("only {left} was still running: stopping it, then starting both"));
    stack.end(printer)?;
    Ok(())
}

/// Starts Redis, then the worker, and prints what was started.
async fn start(
    directory: &Directory,
    host: Option<HostName>,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<()> {
    let host = host.map_or_else(worker::machine_name, Ok)?;
    let (mut redis, info) = server::start(directory, printer).await?;
    let (worker, first_answer) = redis.unless_ended(Box::pin(worker::start(directory, &host, settings))).await??;
    let (redis_pid, worker_pid) = (redis.keep().pid(), worker.keep().pid());

    let (product, url, first_answer_ms) = (info.product(), &directory.url, first_answer.as_millis());
    if printer.format() != Format::Table {
        return printer.object(&json!({
            "directory": directory.path,
            "redis": { "product": product, "url": url, "pid": redis_pid },
            "worker": { "host": host, "pid": worker_pid, "first_answer_ms": first_answer_ms },
        }));
    }
    printer.line(&format!("{product} on {url}"))?;
    printer.line(&format!("worker {host}: ready; first command done {first_answer_ms} ms after its start"))?;
    printer.note("");
    note_settings(directory, settings, printer);
    printer.note(&format!("Try:\n  ctl run --host {host} collect-cpu\n  ctl host list\n  ctl down"));
    Ok(())
}

/// Prints which variable to set where `ctl` would not find this stack by itself.
fn note_settings(directory: &Directory, settings: &Settings, printer: &Printer) {
    let is_usual = || claim::open(None, settings).is_ok_and(|usual| usual.path == directory.path);
    match &settings.named_redis {
        Some(named) if named.socket() != Some(&directory.socket) => {
            printer.warn(&format!("your settings name another Redis, {named}: ctl uses that one, not this"));
            printer.note(&format!("To use this one: export REDFLEET_REDIS={}", style::quoted(&directory.url)));
        }
        None if !is_usual() => {
            let path = directory.path.display().to_string();
            printer.note(&format!("To let ctl find it: export REDFLEET_DIR={}", style::quoted(&path)));
        }
        _ => {}
    }
}
