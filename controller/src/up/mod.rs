//! `ctl up`: a private Redis and one worker, for whoever has nothing but this machine.
//!
//! Both are the ordinary programs with ordinary settings. What this run started ends with it, unless
//! all came up; what an earlier run left half-dead is completed.

pub mod directory;
pub mod process;
mod ready;
mod server;
pub mod worker;

use std::time::Duration;

use protocol::name::HostName;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    directory::Directory,
    process::{Process, Started},
};
use crate::{
    cli::Up,
    error::Advice,
    exit::Exit,
    printer::Printer,
    redis_info::RedisInfo,
    settings::{self, Format, Settings},
};

/// A part of the stack: started now, or found running.
enum Part {
    Started(Started),
    Running(Process),
}

impl Part {
    fn process(&self) -> Process {
        match self {
            Self::Started(started) => started.process(),
            Self::Running(process) => *process,
        }
    }

    /// An error where it has ended.
    fn check(&mut self, name: &str) -> anyhow::Result<()> {
        match self {
            Self::Started(started) => started.check(),
            Self::Running(process) if process.is_alive() => Ok(()),
            Self::Running(_) => Err(Advice::new(format!("{name} has ended in the meantime")).hint("try again").into()),
        }
    }

    fn keep(self) {
        if let Self::Started(started) = self {
            started.keep();
        }
    }
}

/// What came up.
#[derive(Serialize)]
struct Report {
    directory: String,
    redis: RedisReport,
    worker: WorkerReport,
}

#[derive(Serialize)]
struct RedisReport {
    product: String,
    url: String,
    pid: i32,
    started: bool,
}

#[derive(Serialize)]
struct WorkerReport {
    host: HostName,
    pid: i32,
    started: bool,
    /// From just before the process was started, or asked where it ran already, to its answer.
    first_answer_ms: u128,
}

/// Brings the stack up, or says why not and leaves nothing running that was not before.
pub async fn run(options: Up, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let directory = Directory::at(&settings::state_dir(options.dir.dir)?)?;
    let _lock = directory.claim()?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Whichever branch loses is dropped, and with it what it has started.
    let report = tokio::select! {
        report = bring_up(&directory, options.host, settings, printer) => report?,
        _ = interrupt.recv() => return Err(interrupted()),
        _ = terminate.recv() => return Err(interrupted()),
    };
    tell(&report, &directory, settings, printer)?;
    Ok(Exit::Success)
}

fn interrupted() -> anyhow::Error {
    Advice::new("interrupted; what was started has been ended").into()
}

async fn bring_up(
    directory: &Directory,
    host: Option<HostName>,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Report> {
    let worker = Process::remembered(&directory.worker_pid());
    let host = match (worker, host) {
        // One that runs has its name already.
        (Some(process), _) => worker::host(directory).ok_or_else(|| lost(process))?,
        (None, Some(host)) => host,
        (None, None) => worker::machine_name()?,
    };
    let (mut redis, info) = if let Some(process) = Process::remembered(&directory.redis_pid()) {
        let info = reach(directory, process).await?;
        if let Some(worker) = worker {
            return Err(already_up(directory, &info, process, (&host, worker)));
        }
        printer.note("redis-server was still running; the worker had ended and is started again");
        (Part::Running(process), info)
    } else {
        let (started, info) = server::start(directory, printer).await?;
        if worker.is_some() {
            printer.note(&format!("worker {host} was still running; redis-server had ended and was started again"));
        }
        (Part::Started(started), info)
    };
    let (worker, first_answer) = ready::start(directory, &host, worker, settings, printer).await?;
    redis.check("redis-server")?;
    let report = report(directory, &info, &redis, (host, &worker, first_answer));
    redis.keep();
    worker.keep();
    Ok(report)
}

fn lost(worker: Process) -> Advice {
    Advice::new(format!("a worker (process {}) runs, but its settings are lost", worker.pid()))
        .hint("end it with `ctl down`, then try again")
}

/// A Redis that runs must answer too.
async fn reach(directory: &Directory, process: Process) -> anyhow::Result<RedisInfo> {
    let (pid, url) = (process.pid(), directory.url());
    let told = |error: anyhow::Error| {
        Advice::new(format!("redis-server (process {pid}) runs, but does not answer at {url}: {error:#}"))
            .hint("end it with `ctl down`, then try again")
    };
    let address = url.parse().map_err(|error| told(anyhow::Error::new(error)))?;
    Ok(server::ask(&address).await.map_err(|error| told(error.into()))?)
}

fn already_up(
    directory: &Directory,
    info: &RedisInfo,
    redis: Process,
    (host, worker): (&HostName, Process),
) -> anyhow::Error {
    let (directory, product) = (directory.path().display(), info.product());
    let (redis, worker) = (redis.pid(), worker.pid());
    let message =
        format!("already up in {directory}: {product} (process {redis}) and worker {host} (process {worker})");
    Advice::new(message).hint("use it: ctl host list").hint("end it: ctl down").into()
}

fn report(
    directory: &Directory,
    info: &RedisInfo,
    redis: &Part,
    (host, worker, first_answer): (HostName, &Part, Duration),
) -> Report {
    Report {
        directory: directory.path().display().to_string(),
        redis: RedisReport {
            product: info.product(),
            url: directory.url(),
            pid: redis.process().pid(),
            started: matches!(redis, Part::Started(_)),
        },
        worker: WorkerReport {
            host,
            pid: worker.process().pid(),
            started: matches!(worker, Part::Started(_)),
            first_answer_ms: first_answer.as_millis(),
        },
    }
}

fn tell(report: &Report, directory: &Directory, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    if printer.format() != Format::Table {
        return printer.object(report);
    }
    let Report { redis, worker, .. } = report;
    let WorkerReport { host, first_answer_ms, .. } = worker;
    printer.line(&format!("{} on {}", redis.product, redis.url))?;
    let since = if worker.started { "after its start" } else { "after it was asked" };
    printer.line(&format!("worker {host}: ready; first command answered {first_answer_ms} ms {since}"))?;
    printer.note("");
    match &elsewhere(directory, settings) {
        Some(Elsewhere::Redis(other)) => {
            printer.warn(&format!("your settings name another Redis, {other}: ctl talks to that one, not to this"));
            printer.note(&format!("To use this one: export REDFLEET_REDIS={}", quoted(&redis.url)));
        }
        Some(Elsewhere::Directory) => {
            printer.note(&format!("To let ctl find it: export REDFLEET_DIR={}", quoted(&report.directory)));
        }
        None => {}
    }
    printer.note("Try:");
    for line in [format!("ctl run --host {host} collect-cpu"), "ctl host list".into(), "ctl down".into()] {
        printer.note(&format!("  {line}"));
    }
    Ok(())
}

/// Why a plain `ctl` would not find what just came up.
enum Elsewhere {
    Redis(String),
    Directory,
}

fn elsewhere(directory: &Directory, settings: &Settings) -> Option<Elsewhere> {
    let usual = settings::state_dir(None).ok().and_then(|path| Directory::at(&path).ok());
    let usual_socket = usual.as_ref().map(Directory::socket);
    // Where nothing is set, the settings hold the socket in the usual directory, if there was one.
    let set = settings.redis().ok().filter(|address| address.socket() != usual_socket.as_deref());
    match set {
        Some(address) if address.socket() != Some(&directory.socket()) => Some(Elsewhere::Redis(address.to_string())),
        Some(_) => None,
        None if usual.is_some_and(|usual| usual.path() == directory.path()) => None,
        None => Some(Elsewhere::Directory),
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~:%".contains(&byte);
    if word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
