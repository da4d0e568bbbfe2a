//! `ctl down`: ends what `ctl up` started, the worker first, so that it can still write its results.

use std::{fs, io::ErrorKind, path::Path, time::Duration};

use protocol::{name::HostName, time::show_duration};
use serde::Serialize;

use crate::{
    cli::Down,
    error::Advice,
    exit::Exit,
    printer::Printer,
    settings::{self, Format},
    up::{
        directory::{Directory, cannot},
        process::{End, Process},
        worker,
    },
};

/// How long the worker may take beyond the grace of its commands.
/// TERM and KILL of the programs, and the last writes to Redis.
const WORKER_RESERVE: Duration = Duration::from_secs(20);
/// How long Redis may take to write out what it has.
const REDIS_PATIENCE: Duration = Duration::from_secs(60);

/// What was ended.
#[derive(Serialize)]
struct Report {
    directory: String,
    /// `null` where it was not running.
    worker: Option<End>,
    /// `null` where it was not running.
    redis: Option<End>,
}

/// Takes the stack down.
pub fn run(options: Down, printer: &Printer) -> anyhow::Result<Exit> {
    let directory = Directory::at(&settings::state_dir(options.dir.dir)?)?;
    let Some(_lock) = directory.lock_existing()? else { return Err(not_up(&directory)) };
    let worker = Process::remembered(&directory.worker_pid());
    let redis = Process::remembered(&directory.redis_pid());
    let host = worker::host(&directory);
    let name = format!("worker {}", host.as_ref().map_or("", HostName::as_str));
    let report = Report {
        directory: directory.path().display().to_string(),
        worker: worker.map(|process| {
            let grace = show_duration(worker::GRACE);
            let slow = || printer.note(&format!("{name} finishes what it runs, for at most {grace} …"));
            process.end(worker::GRACE + WORKER_RESERVE, slow)
        }),
        redis: redis.map(|process| process.end(REDIS_PATIENCE, || printer.note("redis-server writes out its data …"))),
    };
    for file in [directory.worker_pid(), directory.redis_pid(), directory.socket()] {
        remove(&file)?;
    }
    if report.worker.is_none() && report.redis.is_none() {
        return Err(not_up(&directory));
    }
    tell(&report, name.trim_end(), printer)?;
    Ok(Exit::Success)
}

fn not_up(directory: &Directory) -> anyhow::Error {
    Advice::new(format!("nothing is up in {}", directory.path().display())).hint("start it: ctl up").into()
}

fn remove(file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(cannot("remove", file, &error).into()),
        _ => Ok(()),
    }
}

fn tell(report: &Report, worker: &str, printer: &Printer) -> anyhow::Result<()> {
    if printer.format() != Format::Table {
        return printer.object(report);
    }
    for (name, end) in [(worker, report.worker), ("redis-server", report.redis)] {
        printer.line(&match end {
            Some(End::InOrder) => format!("{name} has ended"),
            Some(End::Killed) => format!("{name} did not end and was killed"),
            None => format!("{name} was not running"),
        })?;
    }
    printer.note(&format!("Data and logs stay in {}", report.directory));
    Ok(())
}
