//! The worker's side of a supervisor: starting it, and asking it.

use std::{
    env,
    fs::{self, DirBuilder},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::{Child, Command},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    BUSY, IDLE, WORD, control,
    requests::{LINE_BYTES, Reply, Request, Status, VERSION},
};

/// How long a supervisor may take to reply: it does nothing that takes its time.
const REPLY_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether a supervisor has come.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// When a supervisor is started again that found another one at its place.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The file with what a supervisor says that cannot work.
const ERRORS: &str = "errors";

/// Why a supervisor did not do something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    /// It refuses.
    #[error("{0}")]
    Refused(String),
    /// It does not reply.
    #[error("its supervisor does not answer (look at the process that holds {path}/lock)", path = .0.display())]
    Silent(PathBuf),
    /// It has ended meanwhile.
    #[error("its supervisor has ended")]
    Ended(#[source] io::Error),
    /// It is of another release and speaks differently.
    #[error("its supervisor is of another release (version {0}, not {VERSION}): stop the service, and start it again")]
    Version(u32),
    /// It cannot be started.
    #[error("its supervisor cannot be started: {0}")]
    NotStarted(String),
    /// The command must end.
    #[error("its supervisor had not come until then")]
    Stopped,
}

/// A connection to a supervisor.
pub(crate) struct Connection {
    stream: BufReader<UnixStream>,
    directory: PathBuf,
}

impl Connection {
    /// Connects to the supervisor of the service with this directory; `None` where there is none.
    pub(crate) async fn open(directory: &Path) -> Result<Option<Self>, SupervisorError> {
        match control::connect(directory).await {
            Ok(stream) => {
                Ok(Some(Self { stream: BufReader::with_capacity(1024, stream), directory: directory.to_owned() }))
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) => Err(SupervisorError::Ended(error)),
        }
    }

    /// Asks for something; returns how all stands. A supervisor of another version tells how it stands, and ends: that is
    /// the way from it to one of this version.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Status, SupervisorError> {
        let asked = timeout(REPLY_WITHIN, self.converse(request)).await;
        let Reply { error, status } = match asked {
            Ok(reply) => reply.map_err(SupervisorError::Ended)?,
            Err(_) => return Err(SupervisorError::Silent(self.directory.clone())),
        };
        match error {
            _ if status.version != VERSION && !matches!(request, Request::Status | Request::Stop) => {
                Err(SupervisorError::Version(status.version))
            }
            Some(error) => Err(SupervisorError::Refused(error)),
            None => Ok(status),
        }
    }

    async fn converse(&mut self, request: &Request) -> io::Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).await?;
        line.clear();
        (&mut self.stream).take(LINE_BYTES as u64).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }

    /// Waits until the supervisor has ended.
    pub(crate) async fn closed(&mut self) {
        // It says nothing without being asked.
        while self.stream.read_u8().await.is_ok() {}
    }
}

/// Connects to the supervisor of the service with this directory, and starts it where there is none. `idle`: a new one
/// does not start what was wanted before. What a dead one has left is ended first, which may take as long as the service
/// may drain.
pub(crate) async fn ensure(
    program: &Path,
    directory: &Path,
    idle: bool,
    stop: &CancellationToken,
) -> Result<Connection, SupervisorError> {
    let not_started = |error: io::Error| SupervisorError::NotStarted(error.to_string());
    let mut child: Option<Child> = None;
    loop {
        if directory.exists()
            && let Some(connection) = Connection::open(directory).await?
        {
            return Ok(connection);
        }
        match &mut child {
            None => child = Some(start(program, directory, idle).map_err(not_started)?),
            Some(started) => {
                if let Some(status) = started.try_wait().map_err(not_started)? {
                    // Another one is just about to come, or to end.
                    if status.code() != Some(i32::from(BUSY)) && !status.success() {
                        let text = fs::read_to_string(directory.join(ERRORS)).unwrap_or_default();
                        return Err(SupervisorError::NotStarted(format!("{} ({status})", text.trim())));
                    }
                    child = None;
                    sleep(AGAIN_AFTER).await;
                }
            }
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return Err(SupervisorError::Stopped),
        }
    }
}

/// Starts a supervisor, which goes on when this worker has ended. It inherits nothing: the worker's environment may hold
/// the password of Redis.
fn start(program: &Path, directory: &Path, idle: bool) -> io::Result<Child> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let errors =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(directory.join(ERRORS))?;
    let kept = ["PATH", "LANG", "HOME", "USER", "LOGNAME"];
    let kept = kept.iter().filter_map(|name| Some((name, env::var_os(name)?)));
    let mut command = Command::new(program);
    command.arg0("worker").arg(WORD).arg(directory).args(idle.then_some(IDLE)).env_clear().envs(kept).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_supervisor_of_another_version_can_be_looked_at_and_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let listener = control::listen(directory.path()).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut lines = BufReader::new(stream);
            let mut line = String::new();
            while lines.read_line(&mut line).await.unwrap() > 0 {
                // It knows things that this version does not, and not all that this one does.
                let reply = format!("{{\"status\":{{\"version\":{},\"mood\":\"good\"}}}}\n", VERSION + 1);
                lines.get_mut().write_all(reply.as_bytes()).await.unwrap();
            }
        });
        let mut connection = Connection::open(directory.path()).await.unwrap().unwrap();
        assert_eq!(connection.ask(&Request::Status).await.unwrap().version, VERSION + 1);
        let refused = connection.ask(&Request::Switch).await.unwrap_err().to_string();
        assert!(refused.contains("of another release") && refused.contains("stop the service"), "{refused}");
        connection.ask(&Request::Stop).await.unwrap();
    }
}
