//! Running a program: user, directory and environment, its output, its process group. Actions that run
//! programs share this.
//!
//! A program runs in a process group of its own. When it must end, the group gets TERM, and KILL after
//! [`KILL_AFTER`]. What the program leaves behind in its group when it exits is ended likewise.

mod capture;
pub(crate) mod environment;
mod group;
mod input;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::PathBuf,
    pin::pin,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, User, gettid},
};
use protocol::{
    event::Stream,
    name::{HostName, JobId},
    outcome::Captured,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    capture::{Appended, Pipe},
    group::ProcessGroup,
    input::Input,
};
use crate::{
    detached::{self, lock},
    live::Live,
};

pub(crate) use group::end_leftovers;

/// How long a process group may take between TERM and KILL.
pub const KILL_AFTER: Duration = Duration::from_secs(5);

/// How long a descendant may hold the output open after the program itself has exited.
const DRAIN: Duration = Duration::from_millis(200);

/// How long a busy machine may take to end processes after KILL. Those that are left then hang in the kernel.
const DIE: Duration = Duration::from_secs(1);

/// How long a busy machine may take to report a fork that is under way when the program must end. One that takes
/// longer hangs.
const FORK: Duration = Duration::from_millis(500);

/// How often the start of a program whose file is busy is tried again.
const BUSY_ATTEMPTS: u32 = 100;

/// How often an ending group is checked: nothing reports when orphans are reaped.
const CHECK_EVERY: Duration = Duration::from_millis(10);

/// What to run, as whom and where. It cannot be printed, as its environment may hold secrets.
#[derive(Clone, Default)]
pub struct Program {
    /// The program and its arguments; never a shell string.
    pub argv: Vec<String>,
    /// Working directory; the worker's where absent.
    pub cwd: Option<PathBuf>,
    /// Variables to add to a small environment of known content.
    pub env: BTreeMap<String, String>,
    /// The file to execute, where it is not the one that the first word names.
    pub executable: Option<PathBuf>,
    /// Standard input; an empty one where absent.
    pub stdin: Option<Vec<u8>>,
    /// Standard input in a file, in place of `stdin`.
    pub stdin_file: Option<Arc<File>>,
    /// User to switch to, by name or id; supplementary groups are dropped.
    pub user: Option<String>,
    /// If what it leaves behind is meant to stay, as that of a command that starts a service: the file to which both print.
    /// A pipe would end with this worker, and what prints to it then.
    pub lasting: Option<Arc<File>>,
}

/// The command that a program runs for.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The job.
    pub job: JobId,
    /// This host.
    pub host: HostName,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status, where it can be had.
    pub status: Option<ExitStatus>,
    /// Whether not even KILL ended it.
    pub survived: bool,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// Whether processes that it left behind had to be ended.
    pub left_behind: bool,
}

/// Why a program did not run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The argument vector is empty.
    #[error("no program given")]
    Empty,
    /// The kernel ends strings at a zero byte, so the program would get a shorter argument.
    #[error("an argument holds a zero byte")]
    ZeroByte,
    /// Not a name and value of an environment variable.
    #[error("'{0}' cannot be an environment variable")]
    Variable(String),
    /// There is no such user.
    #[error("there is no user '{0}'")]
    NoUser(String),
    /// Users cannot be looked up.
    #[error("cannot look up user '{0}'")]
    UserLookup(String, #[source] nix::Error),
    /// There is no such directory.
    #[error("'{0}' is not a directory")]
    NotADirectory(String),
    /// The system refused.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The command was stopped before the program started.
    #[error("it was ended before it started")]
    Stopped,
    /// A call that the start needs hung in the kernel.
    #[error("its start hung until it was ended")]
    Hung,
}

/// Runs the program until it has exited and nothing of its process group is left. Once `stop` is cancelled
/// the group is ended; output is read all the while.
///
/// Dropping the future kills the group. Of each output stream `keep` bytes are kept.
///
/// # Errors
/// The program could not be started, or a call that the start needs hung until `stop` was cancelled.
pub async fn run(
    program: Program,
    owner: Owner,
    keep: usize,
    stop: &CancellationToken,
    live: &Live,
) -> Result<Ended, ProgramError> {
    if stop.is_cancelled() {
        return Err(ProgramError::Stopped);
    }
    let starting = Starting::default();
    let mut start = pin!(starting.start(program, owner));
    let started = tokio::select! {
        biased;
        started = &mut start => started?,
        // The program may run already, though its thread has not reported that yet.
        () = stop.cancelled() => {
            if !starting.has_forked() {
                return Err(ProgramError::Hung);
            }
            timeout(FORK, start).await.map_err(|_| ProgramError::Hung)??
        }
    };
    started.follow(keep, stop, live).await
}

/// A program on its way to being started, in a thread of its own: looking up a user, entering a
/// directory and opening a program may all hang. Killed when dropped.
#[derive(Default)]
struct Starting(Arc<Mutex<StartProgress>>);

/// How far the thread has come.
#[derive(Default)]
enum StartProgress {
    /// It has not forked yet.
    #[default]
    Preparing,
    /// It forks: the thread's id.
    Forking(Pid),
    /// Its child is known, or there is none.
    Done,
    /// The start was abandoned: the thread must not fork.
    Abandoned,
}

impl Starting {
    async fn start(&self, program: Program, owner: Owner) -> Result<Started, ProgramError> {
        let (thread, runtime) = (Arc::clone(&self.0), Handle::current());
        detached::call(move || {
            let _context = runtime.enter();
            let command = prepare(&program, &owner)?;
            match &mut *lock(&thread) {
                StartProgress::Abandoned => return Err(ProgramError::Stopped),
                progress => *progress = StartProgress::Forking(gettid()),
            }
            let started = Started::spawn(command, program.cwd, program.stdin, program.lasting);
            *lock(&thread) = StartProgress::Done;
            started
        })
        .await?
    }

    /// Whether its thread forks, or has done so.
    fn has_forked(&self) -> bool {
        matches!(*lock(&self.0), StartProgress::Forking(_) | StartProgress::Done)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        // The lock keeps the thread from ending, and its id from being given to another, meanwhile.
        let mut progress = lock(&self.0);
        let StartProgress::Forking(id) = *progress else { return *progress = StartProgress::Abandoned };
        // A child that hangs between fork and exec is known to the kernel only (man 5 proc).
        let children = std::fs::read_to_string(format!("/proc/self/task/{id}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
    }
}

/// Looks up what the program needs. Blocks as long as the kernel does.
fn prepare(program: &Program, owner: &Owner) -> Result<Command, ProgramError> {
    let [name, arguments @ ..] = program.argv.as_slice() else { return Err(ProgramError::Empty) };
    if program.argv.iter().any(|word| word.contains('\0')) {
        return Err(ProgramError::ZeroByte);
    }
    let user: Option<User> = program.user.as_deref().map(environment::find_user).transpose()?;
    let env = if program.lasting.is_some() {
        environment::base(&program.env, user.as_ref())?
    } else {
        environment::environment(&program.env, user.as_ref(), owner.job, &owner.host)?
    };

    let mut command = Command::new(name);
    if let Some(executable) = &program.executable {
        command = Command::new(executable);
        command.arg0(name);
    }
    command.args(arguments).env_clear().envs(env).process_group(0);
    let stdin = match (&program.stdin_file, &program.stdin) {
        (Some(file), _) => file.try_clone()?.into(),
        (None, Some(_)) => Stdio::piped(),
        (None, None) => Stdio::null(),
    };
    let output = || program.lasting.as_ref().map_or(Ok(Stdio::piped()), |file| file.try_clone().map(Stdio::from));
    command.stdin(stdin).stdout(output()?).stderr(output()?);
    if let Some(cwd) = &program.cwd {
        command.current_dir(cwd);
    }
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

/// The id of a user, and of its group, by name or id. May take its time.
///
/// # Errors
/// There is no such user, or users cannot be looked up.
pub(crate) fn find_user(name: &str) -> Result<(Uid, Gid), ProgramError> {
    environment::find_user(name).map(|user| (user.uid, user.gid))
}

/// A program that runs. Killed when dropped.
struct Started {
    child: Child,
    group: ProcessGroup,
    input: Input,
    lasting: Option<Appended>,
}

impl Started {
    fn spawn(
        mut command: Command,
        cwd: Option<PathBuf>,
        stdin: Option<Vec<u8>>,
        lasting: Option<Arc<File>>,
    ) -> Result<Self, ProgramError> {
        let lasting = lasting.map(Appended::new).transpose()?;
        let mut child = spawn(&mut command).map_err(|error| match cwd {
            Some(cwd) if !cwd.is_dir() => ProgramError::NotADirectory(cwd.display().to_string()),
            _ => error.into(),
        })?;
        let group = ProcessGroup::led_by(child.id());
        let input = Input::new(child.stdin.take(), stdin.unwrap_or_default());
        Ok(Self { child, group, input, lasting })
    }

    async fn follow(self, keep: usize, stop: &CancellationToken, live: &Live) -> Result<Ended, ProgramError> {
        let Self { mut child, group, mut input, lasting } = self;
        let mut stdout = Pipe::new(child.stdout.take(), Stream::Stdout, live, keep);
        let mut stderr = Pipe::new(child.stderr.take(), Stream::Stderr, live, keep);
        let mut status = None;
        let mut left_behind = false;
        let mut phase = Phase::Running;

        while status.is_none() || group.is_alive() || stdout.is_open() || stderr.is_open() {
            tokio::select! {
                () = input.feed(), if input.is_open() => {}
                () = stdout.fill(), if stdout.is_open() => {}
                () = stderr.fill(), if stderr.is_open() => {}
                exited = child.wait(), if status.is_none() => {
                    status = Some(exited?);
                    if matches!(phase, Phase::Running) {
                        phase = Phase::Draining(Instant::now() + DRAIN);
                    }
                }
                () = stop.cancelled(), if matches!(phase, Phase::Running) => {
                    live.progress(format!("got SIGTERM; gets SIGKILL in {} s", KILL_AFTER.as_secs()));
                    group.signal(Signal::SIGTERM);
                    phase = Phase::Ending(Instant::now() + KILL_AFTER);
                }
                () = sleep(CHECK_EVERY), if phase.until().is_some_and(|until| Instant::now() < until) => {}
                () = sleep_until(phase.until().unwrap_or_else(Instant::now)), if phase.until().is_some() => {
                    phase = match phase {
                        Phase::Draining(_) if group.is_alive() && lasting.is_none() => {
                            left_behind = true;
                            group.signal(Signal::SIGTERM);
                            Phase::Ending(Instant::now() + KILL_AFTER)
                        }
                        Phase::Ending(_) if group.is_alive() => {
                            group.signal(Signal::SIGKILL);
                            Phase::Killed(Instant::now() + DIE)
                        }
                        // A process that still holds the output has left the group, or cannot be killed.
                        _ => break,
                    };
                }
            }
        }
        // A zombie has ended, though somebody else (a debugger) may have to look at it before its status can be had.
        let survived = status.is_none() && group.is_alive();
        let status = if status.is_none() { child.try_wait()? } else { status };
        group.forget();
        let (mut stdout, stderr) = (stdout.captured(), stderr.captured());
        if let Some(file) = lasting {
            stdout = detached::call(move || file.captured(keep)).await??;
            live.output(Stream::Stdout, 0, &stdout.kept);
        }
        Ok(Ended { status, survived, stdout, stderr, left_behind })
    }
}

/// Starts the program. A file that was just written is busy as long as a program that is being started at this moment
/// still has it open: a program of another command, between fork and exec.
fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..BUSY_ATTEMPTS {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => thread::sleep(CHECK_EVERY),
            spawned => return spawned,
        }
    }
    command.spawn()
}

/// The phases of a program's end. Each but the first lasts until its moment at most.
enum Phase {
    /// The program runs, and its end was not requested.
    Running,
    /// The leader has exited; its descendants may still write a last line, those that stay are ended.
    Draining(Instant),
    /// The group has got TERM.
    Ending(Instant),
    /// The group has got KILL.
    Killed(Instant),
}

impl Phase {
    const fn until(&self) -> Option<Instant> {
        match self {
            Self::Running => None,
            Self::Draining(until) | Self::Ending(until) | Self::Killed(until) => Some(*until),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::Path};

    use protocol::limits;

    use super::*;

    fn owner() -> Owner {
        Owner { job: JobId::new(), host: "web1".parse().unwrap() }
    }

    fn shell(script: &str) -> Program {
        Program { argv: ["sh", "-c", script].map(str::to_owned).into(), ..Program::default() }
    }

    async fn ended(script: &str) -> Ended {
        run(shell(script), owner(), limits::OUTPUT_BYTES, &CancellationToken::new(), &Live::none()).await.unwrap()
    }

    #[tokio::test]
    async fn output_and_exit_code_are_kept() {
        let ended = ended("echo out; echo err >&2; exit 3").await;
        assert_eq!(ended.stdout.kept, b"out\n");
        assert_eq!(ended.stderr.kept, b"err\n");
        assert_eq!(ended.status.unwrap().code(), Some(3));
        assert!(!ended.left_behind);
    }

    #[tokio::test]
    async fn input_is_fed_while_output_is_read_and_need_not_be_read() {
        let text = "x".repeat(1_000_000).into_bytes();
        for (script, written) in [("cat", text.len() as u64), ("exec <&-; sleep 0.1; echo done", 5)] {
            let program = Program { stdin: Some(text.clone()), ..shell(script) };
            let ended = run(program, owner(), limits::OUTPUT_BYTES, &CancellationToken::new(), &Live::none()).await;
            assert_eq!(ended.unwrap().stdout.written_bytes, written, "{script}");
        }
    }

    #[tokio::test]
    async fn long_output_keeps_head_and_tail() {
        let ended = ended("echo first; yes | head -c 1000000; echo last").await;
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
        let running =
            tokio::spawn(async move { run(program, owner(), limits::OUTPUT_BYTES, &token, &Live::none()).await });
        let grandchild = read_when_there(&pid).await;
        stop.cancel();
        let ended = running.await.unwrap().unwrap();
        assert_eq!(ended.stdout.kept, b"begun\n");
        assert_eq!(ended.status.unwrap().code(), None);
        assert!(is_gone(&grandchild).await);
    }

    #[tokio::test]
    async fn what_is_left_behind_is_ended() {
        let ended = ended("sleep 1000 & echo $!").await;
        assert!(ended.left_behind);
        assert!(is_gone(std::str::from_utf8(&ended.stdout.kept).unwrap().trim()).await);
    }

    #[tokio::test]
    async fn what_is_meant_to_stay_stays() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        (&*file).write_all(b"before\n").unwrap();
        let program = Program { lasting: Some(file), ..shell("sleep 1000 & echo $!; echo so >&2") };
        let ended =
            run(program, owner(), limits::OUTPUT_BYTES, &CancellationToken::new(), &Live::none()).await.unwrap();
        let pid = std::str::from_utf8(&ended.stdout.kept).unwrap().strip_suffix("\nso\n").unwrap().parse().unwrap();
        assert!(!ended.left_behind && kill(Pid::from_raw(pid), None).is_ok());
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        assert!(
            !String::from_utf8_lossy(&environment).contains(group::JOB_VARIABLE),
            "no worker takes it for a leftover"
        );
        assert!(is_gone(&pid.to_string()).await);
    }

    #[tokio::test]
    async fn what_cannot_run_is_an_error() {
        let error = |program| async {
            run(program, owner(), limits::OUTPUT_BYTES, &CancellationToken::new(), &Live::none()).await.unwrap_err()
        };
        let missing = Program { argv: vec!["/no/such/program".into()], ..Program::default() };
        assert!(matches!(error(missing).await, ProgramError::System(_)));
        assert!(matches!(error(Program::default()).await, ProgramError::Empty));
        assert!(matches!(error(shell("a\0b")).await, ProgramError::ZeroByte));
        let nowhere = Program { cwd: Some("/no/such".into()), ..shell("true") };
        assert!(matches!(error(nowhere).await, ProgramError::NotADirectory(_)));
        let nobody = Program { user: Some("no-such-user".into()), ..shell("true") };
        assert!(matches!(error(nobody).await, ProgramError::NoUser(_)));
        let variable = Program { env: BTreeMap::from([("a=b".into(), "c".into())]), ..shell("true") };
        assert!(matches!(error(variable).await, ProgramError::Variable(_)));
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
