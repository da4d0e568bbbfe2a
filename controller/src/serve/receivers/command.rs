//! A program on this machine that is given notifications.

use std::{
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin},
};

use super::message;
use crate::{
    client::alerts::Notification,
    output::style,
    serve::{span::duration, web::Failure},
};

const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(45);

/// So many bytes of what it prints are told where it fails.
const TOLD: usize = 512;

/// Where programs are looked for, and all that a program knows of such places.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Its settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// What rules call it.
    pub name: String,
    command: Vec<String>,
    timeout: Option<String>,
}

/// A program.
#[derive(Clone, Debug)]
pub struct Command {
    program: PathBuf,
    arguments: Vec<String>,
    timeout: Duration,
}

/// The processes of a program. Whatever is left of them is killed when it is dropped.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // There may be none left.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

impl Setting {
    /// Judges the settings.
    ///
    /// # Errors
    /// There is no such program.
    pub fn judge(self) -> anyhow::Result<Command> {
        let timeout = duration("timeout", self.timeout.as_deref(), TIMEOUT, TIMEOUT_MIN..=TIMEOUT_MAX)?;
        let mut words = self.command.into_iter();
        let Some(name) = words.next().filter(|name| !name.is_empty()) else {
            bail!("command: name a program and its arguments: command = [\"/usr/local/bin/page\", \"--ops\"]");
        };
        let shown = style::plain(&name);
        let program = found(&name).with_context(|| {
            format!("command: there is no program '{shown}' (a name is looked for in {PATH}; no shell reads it)")
        })?;
        Ok(Command { program, arguments: words.collect(), timeout })
    }
}

/// The program of this name.
fn found(name: &str) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_absolute() && is_program(path));
    }
    PATH.split(':').map(|directory| Path::new(directory).join(name)).find(|path| is_program(path))
}

impl Command {
    /// What it is: arguments may be secret.
    pub fn shown(&self) -> String {
        style::plain(&self.program.display().to_string())
    }

    /// Runs it, with the notification as JSON at its input. It has delivered it if it ends with 0.
    ///
    /// # Errors
    /// It has failed, or not ended in time.
    pub async fn send(&self, notification: &Notification) -> Result<(), Failure> {
        let shown = self.shown();
        let failed = |reason: String| Failure::passing(format!("{shown}: {reason}"));
        let mut child = self.started(notification).map_err(|error| failed(format!("it does not start: {error}")))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(|id| Group(Pid::from_raw(id)));
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ended = async {
            let ended = child.wait().await;
            // What it has left behind would hold its output open.
            drop(group);
            ended
        };
        let all = async {
            let ((), printed, told, ended) =
                tokio::join!(give(input, message::document(notification)), read(output), read(errors), ended);
            (ended, if told.is_empty() { printed } else { told })
        };
        let (ended, told) = tokio::time::timeout(self.timeout, all)
            .await
            .map_err(|_| failed(format!("it has not ended within {:?}, and was killed", self.timeout)))?;
        let status = ended.map_err(|error| failed(error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let told = if told.is_empty() { told } else { format!(": {told}") };
        Err(failed(format!("{status}{told}")))
    }

    fn started(&self, notification: &Notification) -> std::io::Result<Child> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.arguments).env_clear().current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("PATH", PATH);
        let words = [
            ("REDFLEET_NOTIFICATION", message::id(notification)),
            ("REDFLEET_RECEIVER", notification.receiver.clone()),
            ("REDFLEET_PHASE", message::phase(notification.phase).to_owned()),
            ("REDFLEET_SEVERITY", message::severity(message::worst(notification)).to_owned()),
            ("REDFLEET_SUMMARY", message::subject(notification)),
        ];
        command.envs(words.iter().map(|(name, value)| (name, OsStr::new(value))));
        command.spawn()
    }
}

/// Gives it the document. It need not read it.
async fn give(input: Option<ChildStdin>, document: Vec<u8>) {
    if let Some(mut input) = input {
        let _ = input.write_all(&document).await;
    }
}

/// Reads all that it prints, and keeps the beginning.
async fn read(output: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut output) = output else { return String::new() };
    let mut kept = Vec::new();
    let _ = (&mut output).take(TOLD as u64).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).trim().to_owned()
}
