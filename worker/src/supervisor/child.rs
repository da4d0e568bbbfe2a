//! A process of a service: how it is started, with its listening sockets at the places where `sd_listen_fds(3)` looks.
//!
//! The supervisor starts this program itself once more (`worker supervise --exec`), which then becomes the service's
//! program. It gets the sockets over a socket that is its standard input, and the kernel puts them to the lowest free
//! numbers: 3 and on. Only this way the process can say its own id (`LISTEN_PID`) and nothing else is inherited.

use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use nix::{
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
    unistd::{Pid, dup2_stdin, setsid},
};
use serde::{Deserialize, Serialize};

use super::{
    family::{GENERATION, SERVICE},
    launch::{Launch, MOST_SOCKETS},
    sockets::Socket,
};
use crate::{
    log::with_sources,
    program::{
        ProgramError,
        environment::{base, find_user},
    },
};

/// The word that makes `worker supervise` a process of the service.
pub(super) const EXEC: &str = "--exec";

/// The number of the first socket, as `sd_listen_fds(3)` has it.
const FIRST: RawFd = 3;

/// The exit code of a process whose program could not be executed.
const NOT_EXECUTED: u8 = 127;

/// Bytes of an order at most.
const ORDER_BYTES: u64 = 1024 * 1024;

/// What a new process is to become.
#[derive(Serialize, Deserialize)]
struct Order {
    launch: Launch,
    /// What marks the process and all that it starts.
    marks: [(String, String); 2],
    /// The names of its sockets.
    names: Vec<String>,
}

/// A process that waits for its order.
pub(super) struct Waiting {
    pub(super) pid: Pid,
    line: UnixStream,
    order: Vec<u8>,
    sockets: Vec<Socket>,
}

/// Why there is no new process.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpawnError {
    #[error("the description of the service is too long")]
    TooLong,
    #[error("cannot start a process: {0}")]
    System(#[from] io::Error),
}

/// Starts a process. What it prints goes to `output`.
pub(super) fn spawn(
    launch: &Launch,
    directory: &Path,
    number: u64,
    sockets: Vec<Socket>,
    output: io::PipeWriter,
) -> Result<Waiting, SpawnError> {
    let service = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names = sockets.iter().map(|socket| socket.listen.name.clone().unwrap_or_else(|| service.clone())).collect();
    let marks = [(SERVICE, directory.display().to_string()), (GENERATION, number.to_string())];
    let marks = marks.map(|(name, value)| (name.to_owned(), value));
    let order = serde_json::to_vec(&Order { launch: launch.clone(), marks, names }).map_err(io::Error::from)?;
    if order.len() as u64 > ORDER_BYTES {
        return Err(SpawnError::TooLong);
    }
    let (line, theirs) = UnixStream::pair()?;
    // This program, even if its file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("worker").args([super::WORD, EXEC]).stdin(OwnedFd::from(theirs)).current_dir("/");
    let child = command.stdout(output.try_clone()?).stderr(output).spawn()?;
    Ok(Waiting { pid: Pid::from_raw(child.id().cast_signed()), line, order, sockets })
}

impl Waiting {
    /// Sends the order. The connection that is returned ends when the program is executed; before that, it says why it is
    /// not. May wait until the process reads.
    pub(super) fn go(self) -> io::Result<UnixStream> {
        let Self { mut line, order, sockets, .. } = self;
        let fds: Vec<RawFd> = sockets.iter().map(|socket| socket.open.fd.as_raw_fd()).collect();
        let length = (order.len() as u64).to_be_bytes();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<()>(line.as_raw_fd(), &[IoSlice::new(&length)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
        line.write_all(&order)?;
        Ok(line)
    }
}

/// Why the program is not executed.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("internal error: no order came: {0}")]
    NoOrder(String),
    #[error("internal error: the sockets got the numbers {0:?}")]
    Numbers(Vec<RawFd>),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("cannot run '{0}' in {directory}: {2}", directory = .1.display())]
    Exec(String, PathBuf, #[source] io::Error),
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<nix::Error> for ExecError {
    fn from(error: nix::Error) -> Self {
        Self::System(error.into())
    }
}

/// `worker supervise --exec`: becomes the program of a service.
pub(super) fn become_program() -> ExitCode {
    close_inherited();
    let (order, line) = match receive() {
        Ok(received) => received,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}", with_sources(&error));
            return NOT_EXECUTED.into();
        }
    };
    let error = execute(order);
    let _ = UnixStream::from(line).write_all(with_sources(&error).as_bytes());
    NOT_EXECUTED.into()
}

/// Closes everything but the standard streams: whoever started the worker may have left something open.
pub(super) fn close_inherited() {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| *number >= FIRST) {
        // The directory that was just read is among them, and closed already.
        let _ = nix::unistd::close(number);
    }
}

/// Reads the order, and puts the sockets to their numbers. Returns the line to the supervisor, too, which the program
/// does not inherit.
fn receive() -> Result<(Order, OwnedFd), ExecError> {
    let stdin = io::stdin();
    let mut length = [0; 8];
    let mut room = nix::cmsg_space!([RawFd; MOST_SOCKETS]);
    let mut parts = [IoSliceMut::new(&mut length)];
    let message = recvmsg::<()>(stdin.as_fd().as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::empty())?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if message.bytes != size_of::<u64>() {
        return Err(ExecError::NoOrder(format!("{} bytes", message.bytes)));
    }
    let mut order = Vec::new();
    let length = u64::from_be_bytes(length).min(ORDER_BYTES);
    stdin.lock().take(length).read_to_end(&mut order)?;
    let order: Order = serde_json::from_slice(&order).map_err(|error| ExecError::NoOrder(error.to_string()))?;
    if !(FIRST..).zip(&fds).all(|(number, fd)| number == *fd) || fds.len() != order.names.len() {
        return Err(ExecError::Numbers(fds));
    }
    let line = stdin.as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok((order, line))
}

/// Becomes the program; returns only if it cannot.
fn execute(order: Order) -> ExecError {
    let Order { launch, marks, names } = order;
    let prepared = || -> Result<Command, ExecError> {
        let [name, arguments @ ..] = launch.argv.as_slice() else { return Err(ProgramError::Empty.into()) };
        if launch.argv.iter().any(|word| word.contains('\0')) {
            return Err(ProgramError::ZeroByte.into());
        }
        let user = launch.user.as_deref().map(find_user).transpose()?;
        let mut env: BTreeMap<String, String> = base(&launch.env, user.as_ref())?;
        env.extend(marks);
        if !names.is_empty() {
            env.insert("LISTEN_FDS".into(), names.len().to_string());
            env.insert("LISTEN_PID".into(), std::process::id().to_string());
            env.insert("LISTEN_FDNAMES".into(), names.join(":"));
        }
        // A session of its own: what it starts can be told from others.
        setsid()?;
        let mut command = Command::new(name);
        command.args(arguments).env_clear().envs(env);
        if let Some(user) = user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command.current_dir(launch.directory.as_deref().unwrap_or(Path::new("/")));
        Ok(command)
    };
    match prepared() {
        Ok(mut command) => {
            let error = command.exec();
            let directory = launch.directory.clone().or_else(|| env::current_dir().ok()).unwrap_or_default();
            ExecError::Exec(launch.argv[0].clone(), directory, error)
        }
        Err(error) => error,
    }
}
