//! A supervisor: a small process of its own for each service that the worker supervises itself (`worker supervise DIR`).
//!
//! # Theory of operation
//!
//! It outlives the worker, and does four things: it holds the listening sockets of the service, starts the program with
//! them (again, if it crashes), writes what the program prints into a bounded log, and obeys its control socket
//! ([`requests`]).
//!
//! ```text
//!                 prepare               switch                    crash
//!     (nothing) ──────────▶ candidate ──────────▶ running ◀─────────────────▶ (waits to be started again)
//!                               │ discard,           │ switch to another, stop     backoff
//!                               ▼ client gone        ▼
//!                            retiring: TERM, then KILL when its time to drain is over ──▶ (gone, with all it started)
//! ```
//!
//! One task owns all that ([`Supervisor`]) and gets events: requests of clients, ends of processes, moments. Each process
//! is started in a session of its own and carries its number in its environment; orphans come to the supervisor, so that
//! it finds all that a process has started (`family`).
//!
//! In the directory of the service (mode 0700) are: `control`, the socket; `lock`, held by the supervisor; `wanted.json`,
//! what is to run, as long as it is to run; `processes.json`, what was started; `log` and `log.1`. If a supervisor dies,
//! its processes live on. The next one, which the worker starts, ends them in order and starts what is wanted anew.

mod child;
pub(crate) mod client;
mod control;
mod family;
mod generation;
pub(crate) mod launch;
pub(crate) mod log;
pub(crate) mod requests;
mod sockets;
mod state;

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::prctl::{set_child_subreaper, set_name},
    unistd::setsid,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use self::{
    control::Client,
    launch::Launch,
    log::Log,
    requests::{Reply, Request},
    state::Supervisor,
};

/// The word that makes the worker's program a supervisor.
pub(crate) const WORD: &str = "supervise";

/// The argument by which a supervisor starts nothing by itself.
const IDLE: &str = "--idle";

/// Exit code for wrong usage (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

/// Exit code where another supervisor does the work already (`EX_TEMPFAIL` of sysexits.h).
const BUSY: u8 = 75;

/// The file that is locked by the supervisor.
const LOCK: &str = "lock";

/// The file with what is to run.
const WANTED: &str = "wanted.json";

/// How long the last lines of the log may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Events that wait.
const EVENTS: usize = 64;

/// Something that happened.
enum Event {
    /// A client has connected.
    Came,
    /// A client asks for something.
    Asked(Client, Request, oneshot::Sender<Reply>),
    /// A client is gone.
    Left(Client),
    /// The process of this number runs its program, or says why it does not.
    Launched(u64, Option<String>),
    /// The process of this number has ended, and what it printed is in the log.
    Gone(u64),
}

/// The supervisor as a process, or the process that becomes a service's program. `arguments`: those behind `supervise`.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    match arguments.iter().filter_map(|word| word.to_str()).collect::<Vec<_>>()[..] {
        [child::EXEC] => child::become_program(),
        [directory] => supervise(Path::new(directory), false),
        [directory, IDLE] => supervise(Path::new(directory), true),
        _ => {
            let _ = writeln!(io::stderr(), "usage: worker {WORD} DIR [{IDLE}]; the worker starts this by itself");
            USAGE.into()
        }
    }
}

fn supervise(directory: &Path, idle: bool) -> ExitCode {
    child::close_inherited();
    // Fails only where it leads a group already: then somebody has started it by hand.
    let _ = setsid();
    let failed = |what: &str, error: &dyn std::error::Error| {
        let _ = writeln!(io::stderr(), "error: {what}: {error}");
        ExitCode::FAILURE
    };
    let directory = match directory.canonicalize() {
        Ok(directory) => directory,
        Err(error) => return failed(&format!("cannot use {}", directory.display()), &error),
    };
    let _lock = match lock(&directory) {
        Ok(Some(lock)) => lock,
        Ok(None) => return BUSY.into(),
        Err(error) => return failed("cannot lock the directory of the service", &error),
    };
    // It is shown by `ps`, and by whatever names the holder of a socket.
    let _ = set_name(c"supervisor");
    if let Err(error) = set_child_subreaper(true) {
        return failed("cannot take care of orphans", &error);
    }
    let wanted = match wanted(&directory) {
        Ok(wanted) => wanted,
        Err(error) => return failed(&format!("cannot read {WANTED}"), &error),
    };
    let drain = wanted.as_ref().map_or(Duration::ZERO, |wanted| Duration::from_millis(wanted.drain_ms));
    let ended = family::end_leftovers(&directory, drain);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let worked = runtime.and_then(|runtime| runtime.block_on(work(directory, wanted.filter(|_| !idle), ended)));
    match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed("the supervisor cannot work", &error),
    }
}

/// Locks the directory of a service; `None` where a supervisor has locked it.
fn lock(directory: &Path) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join(LOCK))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// What is to run in this directory.
pub(crate) fn wanted(directory: &Path) -> io::Result<Option<Launch>> {
    match fs::read(directory.join(WANTED)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file, readable for its owner alone, by one with this content.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

async fn work(directory: PathBuf, wanted: Option<Launch>, ended: usize) -> io::Result<()> {
    let log = Log::open(&directory)?;
    if ended > 0 {
        log.note(&format!("the supervisor before this one died; ended {ended} processes that it had left"));
    }
    let (mut children, mut terminate) = (signal(SignalKind::child())?, signal(SignalKind::terminate())?);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, mut events) = mpsc::channel(EVENTS);
    let serving = tokio::spawn(control::serve(control::listen(&directory)?, sender.clone()));
    let mut supervisor = Supervisor::new(directory.clone(), log.clone(), sender, wanted);
    while !supervisor.is_done() {
        let due = supervisor.due();
        tokio::select! {
            Some(event) = events.recv() => supervisor.handle(event),
            _ = children.recv() => supervisor.reap(),
            _ = terminate.recv() => supervisor.stop(false),
            _ = interrupt.recv() => supervisor.stop(false),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => supervisor.tick(),
        }
    }
    serving.abort();
    control::remove(&directory);
    // A disk that hangs keeps nobody waiting.
    let _ = timeout(LAST_LINES, log.flush()).await;
    Ok(())
}
