//! A program run to its end: in a process group of its own, its output captured within bounds, the
//! whole group ended when it is told to stop or its leader has gone.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, gettid},
};
use protocol::{
    event::Stream,
    limits,
    name::{HostName, JobId},
    outcome::{Captured, cut_line},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    runtime::Handle,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    detached::{self, lock},
    live::Live,
};

/// How long a process group may take between TERM and KILL.
pub const KILL_AFTER: Duration = Duration::from_secs(5);

/// How long a descendant may hold the output open after the program itself has exited.
const DRAIN: Duration = Duration::from_millis(200);

/// How long a busy machine may take to end what got KILL; what is still there then hangs in the kernel.
const DIE: Duration = Duration::from_secs(1);

/// How often it is looked whether an ending group has gone: nothing else tells when orphans are reaped.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What to run, as whom and where.
#[derive(Debug, Default)]
pub struct Program {
    /// The program and its arguments; never a shell string.
    pub argv: Vec<String>,
    /// Working directory; the worker's where absent.
    pub cwd: Option<PathBuf>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// User and group id to switch to; supplementary groups are dropped.
    pub user: Option<(u32, u32)>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; absent where not even KILL ended it.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// Whether processes that it left behind had to be ended.
    pub left_behind: bool,
}

/// Runs the program that `prepare` names until it has exited and nothing of its process group is left.
/// Once `stop` is cancelled the group gets TERM, and KILL after [`KILL_AFTER`]; output is read all the
/// while.
///
/// Dropping the future kills the group.
///
/// # Errors
/// The program could not be started, or what it needs hung until `stop` was cancelled.
pub async fn run(
    prepare: impl FnOnce() -> io::Result<Program> + Send + 'static,
    stop: &CancellationToken,
    live: &Live,
) -> io::Result<Ended> {
    if stop.is_cancelled() {
        return Err(io::Error::other("it was told to end before it started"));
    }
    let starting = Starting::default();
    let started = tokio::select! {
        biased;
        started = starting.start(prepare) => started?,
        () = stop.cancelled() => return Err(io::Error::other("its start hung until it was told to end")),
    };
    started.follow(stop, live).await
}

/// A program on its way to being started, in a thread of its own: looking up a user, entering a
/// directory and opening a program may all hang. Killed when dropped.
#[derive(Default)]
struct Starting(Arc<Mutex<Progress>>);

/// How far the thread has come.
#[derive(Default)]
enum Progress {
    /// It has not forked yet.
    #[default]
    Preparing,
    /// It forks: the thread's id.
    Forking(Pid),
    /// Its child is known, or there is none.
    Done,
    /// Nobody waits any more: it must not fork.
    Abandoned,
}

impl Starting {
    async fn start(&self, prepare: impl FnOnce() -> io::Result<Program> + Send + 'static) -> io::Result<Started> {
        let (thread, runtime) = (Arc::clone(&self.0), Handle::current());
        detached::call(move || {
            let _context = runtime.enter();
            let program = prepare()?;
            match &mut *lock(&thread) {
                Progress::Abandoned => return Err(io::Error::other("nobody waits for it")),
                progress => *progress = Progress::Forking(gettid()),
            }
            let started = Started::new(&program);
            *lock(&thread) = Progress::Done;
            started
        })
        .await?
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        // The lock keeps the thread from ending, and its id from being given to another, meanwhile.
        let mut progress = lock(&self.0);
        let Progress::Forking(id) = *progress else { return *progress = Progress::Abandoned };
        // A child that hangs between fork and exec is known to nobody but the kernel (man 5 proc).
        let children = std::fs::read_to_string(format!("/proc/self/task/{id}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
    }
}

/// A program that runs. Killed when dropped.
struct Started {
    child: Child,
    group: Group,
}

impl Started {
    /// Blocks as long as the kernel does.
    fn new(program: &Program) -> io::Result<Self> {
        let [name, arguments @ ..] = program.argv.as_slice() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program given"));
        };
        let mut command = Command::new(name);
        command.args(arguments).env_clear().envs(&program.env).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(cwd) = &program.cwd {
            command.current_dir(cwd);
        }
        if let Some((user, group)) = program.user {
            command.uid(user).gid(group);
        }
        let child = command.spawn().map_err(|error| match &program.cwd {
            Some(cwd) if !cwd.is_dir() => io::Error::other(format!("'{}' is not a directory", cwd.display())),
            _ => error,
        })?;
        let group = Group::led_by(child.id());
        Ok(Self { child, group })
    }

    async fn follow(self, stop: &CancellationToken, live: &Live) -> io::Result<Ended> {
        let Self { mut child, group } = self;
        let mut stdout = Pipe::new(child.stdout.take(), Stream::Stdout, live);
        let mut stderr = Pipe::new(child.stderr.take(), Stream::Stderr, live);
        let mut status = None;
        let mut left_behind = false;
        let mut phase = Phase::Running;
        while status.is_none() || group.is_alive() || stdout.is_open() || stderr.is_open() {
            tokio::select! {
                () = stdout.fill(), if stdout.is_open() => {}
                () = stderr.fill(), if stderr.is_open() => {}
                exited = child.wait(), if status.is_none() => {
                    status = Some(exited?);
                    if matches!(phase, Phase::Running) {
                        phase = Phase::Draining(Instant::now() + DRAIN);
                    }
                }
                () = stop.cancelled(), if matches!(phase, Phase::Running) => {
                    group.signal(Signal::SIGTERM);
                    phase = Phase::Ending(Instant::now() + KILL_AFTER);
                }
                () = sleep(LOOK_AGAIN), if phase.until().is_some_and(|until| Instant::now() < until) => {}
                () = sleep_until(phase.until().unwrap_or_else(Instant::now)), if phase.until().is_some() => {
                    phase = match phase {
                        Phase::Draining(_) if group.is_alive() => {
                            left_behind = true;
                            group.signal(Signal::SIGTERM);
                            Phase::Ending(Instant::now() + KILL_AFTER)
                        }
                        Phase::Ending(_) if group.is_alive() => {
                            group.signal(Signal::SIGKILL);
                            Phase::Killed(Instant::now() + DIE)
                        }
                        // Whoever still holds the output has left the group, or cannot be killed.
                        _ => break,
                    };
                }
            }
        }
        group.forget();
        Ok(Ended { status, stdout: stdout.capture.finish(), stderr: stderr.capture.finish(), left_behind })
    }
}

/// Ends what is left of the jobs that ran when an earlier worker process died: every process that
/// carries such a job's id in its environment. Once a job is reported as interrupted, nothing of it
/// goes on.
pub(crate) async fn end_leftovers(jobs: &[JobId], host: &HostName) {
    if jobs.is_empty() {
        return;
    }
    let marks: Vec<Vec<u8>> = jobs.iter().map(|job| format!("{JOB_VARIABLE}={job}").into_bytes()).collect();
    let host = format!("{HOST_VARIABLE}={host}").into_bytes();
    // The environment of a process that hangs in the kernel may hang, too.
    let ended = detached::call(move || {
        // More than one look, because a process may fork while it is looked for.
        for _ in 0..LOOKS {
            let left = carriers(&marks, &host);
            if left.is_empty() {
                return;
            }
            for process in left {
                let _ = kill(process, Signal::SIGKILL);
            }
            thread::sleep(LOOK_AGAIN);
        }
    });
    if let Err(error) = ended.await {
        tracing::error!("cannot look for what a dead worker left running: {error}");
    }
}

/// Name of the environment variable that tells a program, and everything it starts, its job.
pub(crate) const JOB_VARIABLE: &str = "REDFLEET_JOB";

/// Name of the environment variable that tells a program its host.
pub(crate) const HOST_VARIABLE: &str = "REDFLEET_HOST";

/// How often leftovers are looked for before they are left alone.
const LOOKS: usize = 50;

/// The processes whose environment holds one of `marks` and names this host: several workers may share
/// a machine.
fn carriers(marks: &[Vec<u8>], host: &[u8]) -> Vec<Pid> {
    let carries = |process: &std::path::Path| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let holds = |wanted: &[u8]| environment.split(|byte| *byte == 0).any(|variable| variable == wanted);
        holds(host) && marks.iter().any(|mark| holds(mark))
    };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let found = processes.flatten().filter(|process| carries(&process.path()));
    found.filter_map(|process| process.file_name().to_str()?.parse().ok().map(Pid::from_raw)).collect()
}

/// How far the end has come; each phase but the first lasts until its moment at most.
enum Phase {
    /// Nobody has asked for the end.
    Running,
    /// The leader has exited; its descendants may still write a last line, those that stay are ended.
    Draining(Instant),
    /// The group has got TERM.
    Ending(Instant),
    /// The group has got KILL.
    Killed(Instant),
}

impl Phase {
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Running => None,
            Self::Draining(until) | Self::Ending(until) | Self::Killed(until) => Some(*until),
        }
    }
}

/// A process group, killed when dropped before [`Self::forget`].
struct Group(Option<Pid>);

impl Group {
    fn led_by(leader: Option<u32>) -> Self {
        Self(leader.and_then(|pid| pid.try_into().ok()).map(Pid::from_raw))
    }

    fn signal(&self, signal: Signal) {
        // The only error is that the group has gone meanwhile.
        let _ = self.0.map(|group| killpg(group, signal));
    }

    /// Whether a member still runs. Zombies do not count: when they are reaped is init's business.
    fn is_alive(&self) -> bool {
        self.0.is_some_and(|group| killpg(group, None).is_ok() && runs(group))
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

/// Looks through `/proc` for a member of the group that is not a zombie; where that cannot be read,
/// the kernel's word that the group exists must do.
fn runs(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // PID (NAME) STATE PPID PGRP …: the name may hold anything, so count from its end (man 5 proc).
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, leader) = (fields.next(), fields.nth(1));
        leader == Some(group.to_string().as_str()) && !matches!(state, Some("Z" | "X"))
    })
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// The reading end of an output stream.
struct Pipe<'a, R> {
    source: Option<R>,
    stream: Stream,
    live: &'a Live,
    buffer: Box<[u8]>,
    capture: Capture,
}

impl<'a, R: AsyncRead + Unpin> Pipe<'a, R> {
    fn new(source: Option<R>, stream: Stream, live: &'a Live) -> Self {
        Self { source, stream, live, buffer: vec![0; 8192].into(), capture: Capture::new(limits::OUTPUT_BYTES) }
    }

    fn is_open(&self) -> bool {
        self.source.is_some()
    }

    /// Reads what is there. Cancel-safe: nothing is read that is not captured.
    async fn fill(&mut self) {
        let Some(source) = &mut self.source else { return };
        match source.read(&mut self.buffer).await {
            Ok(0) | Err(_) => self.source = None,
            Ok(count) => {
                self.live.write(self.stream, self.capture.written, &self.buffer[..count]);
                self.capture.push(&self.buffer[..count]);
            }
        }
    }
}

/// Keeps the head and the tail of a stream, half of the limit each.
struct Capture {
    limit: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    written: u64,
}

impl Capture {
    fn new(limit: usize) -> Self {
        Self { limit, head: Vec::new(), tail: VecDeque::new(), written: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let room = (self.limit / 2).saturating_sub(self.head.len()).min(bytes.len());
        let (head, rest) = bytes.split_at(room);
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.limit - self.limit / 2);
        self.tail.drain(..excess);
    }

    fn finish(self) -> Captured {
        let cut_bytes = self.written - (self.head.len() + self.tail.len()) as u64;
        let mut kept = self.head;
        if cut_bytes > 0 {
            kept.extend_from_slice(cut_line(cut_bytes).as_bytes());
        }
        kept.extend(self.tail);
        Captured { kept, written_bytes: self.written, cut_bytes }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn shell(script: &str) -> impl FnOnce() -> io::Result<Program> + Send + 'static {
        let env = BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]);
        let argv = ["sh", "-c", script].map(str::to_owned).into();
        move || Ok(Program { argv, env, ..Program::default() })
    }

    #[tokio::test]
    async fn output_and_exit_code_are_kept() {
        let ended =
            run(shell("echo out; echo err >&2; exit 3"), &CancellationToken::new(), &Live::none()).await.unwrap();
        assert_eq!(ended.stdout.kept, b"out\n");
        assert_eq!(ended.stderr.kept, b"err\n");
        assert_eq!(ended.status.unwrap().code(), Some(3));
        assert!(!ended.left_behind);
    }

    #[tokio::test]
    async fn long_output_keeps_head_and_tail() {
        let ended =
            run(shell("echo first; yes | head -c 1000000; echo last"), &CancellationToken::new(), &Live::none())
                .await
                .unwrap();
        let text = String::from_utf8(ended.stdout.kept).unwrap();
        assert_eq!(ended.stdout.written_bytes, 1_000_011);
        assert_eq!(ended.stdout.cut_bytes, 1_000_011 - limits::OUTPUT_BYTES as u64);
        assert!(text.starts_with("first\n") && text.ends_with("last\n"));
        assert!(text.contains(&format!("[... {} bytes cut ...]", ended.stdout.cut_bytes)));
    }

    #[tokio::test]
    async fn stopping_ends_grandchildren_and_keeps_what_was_printed() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("echo begun; sleep 1000 & echo $! > {p}.new; mv {p}.new {p}; wait", p = pid.display());
        let stop = CancellationToken::new();
        let (program, token) = (shell(&script), stop.clone());
        let running = tokio::spawn(async move { run(program, &token, &Live::none()).await });
        let grandchild = read_when_there(&pid).await;
        stop.cancel();
        let ended = running.await.unwrap().unwrap();
        assert_eq!(ended.stdout.kept, b"begun\n");
        assert_eq!(ended.status.unwrap().code(), None);
        assert!(is_gone(&grandchild).await);
    }

    #[tokio::test]
    async fn what_is_left_behind_is_ended() {
        let ended = run(shell("sleep 1000 & echo $!"), &CancellationToken::new(), &Live::none()).await.unwrap();
        assert!(ended.left_behind);
        assert!(is_gone(std::str::from_utf8(&ended.stdout.kept).unwrap().trim()).await);
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let program = || Ok(Program { argv: vec!["/no/such/program".into()], ..Program::default() });
        assert!(run(program, &CancellationToken::new(), &Live::none()).await.is_err());
    }

    async fn read_when_there(path: &Path) -> String {
        loop {
            if let Ok(text) = std::fs::read_to_string(path) {
                return text.trim().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether the process ends (an orphan's zombie counts as ended: reaping it is init's business).
    async fn is_gone(pid: &str) -> bool {
        for _ in 0..1000 {
            match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                Ok(stat) if !stat.contains(") Z ") => tokio::time::sleep(Duration::from_millis(5)).await,
                _ => return true,
            }
        }
        false
    }
}
