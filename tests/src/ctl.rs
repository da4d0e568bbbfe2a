//! Runs of `ctl`.

use std::{
    env, fmt,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
};

use nix::sys::signal::Signal;
use protocol::{acl::Role, name::Namespace};
use tempfile::TempDir;

use crate::{Log, OnTerminal, Redis, Signatory, binary, operator, process};

/// Runs `ctl` with an environment of its own, so that no setting of the machine's user changes a test.
#[derive(Clone)]
pub struct Ctl {
    home: Arc<TempDir>,
    program: PathBuf,
    environment: Vec<(String, String)>,
}

/// The output of a run.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A run that has not ended yet.
pub struct Running {
    child: Child,
    stdout: Log,
    stderr: Log,
    /// The home directory stays as long as the run.
    _home: Arc<TempDir>,
}

impl Ctl {
    /// `ctl` for this server, with the rights of a controller.
    pub fn on(redis: &Redis) -> Self {
        Self::alone().through(redis, &redis.url())
    }

    /// `ctl` for a fleet in a namespace, with the rights of its controller.
    pub fn within(redis: &Redis, namespace: &str) -> Self {
        let name: Namespace = namespace.parse().expect("a valid namespace");
        let url = redis.url_of(&Role::Controller, Some(&name));
        Self::alone().env("REDFLEET_REDIS", &url).env("REDFLEET_NAMESPACE", namespace)
    }

    /// `ctl` for this server, with the rights of its default user: all.
    pub fn as_administrator(redis: &Redis) -> Self {
        Self::alone().env("REDFLEET_REDIS", &redis.url())
    }

    /// Leads to this server by another URL than that of its socket, with the rights of a controller.
    #[must_use]
    pub fn through(self, redis: &Redis, url: &str) -> Self {
        self.env("REDFLEET_REDIS", &redis.users().log_in(url, &Role::Controller, None))
    }

    /// `ctl` without any setting, in a home directory with nothing but the operator's key.
    pub fn alone() -> Self {
        Self::keyless().with_key(operator())
    }

    /// Signs with this key.
    #[must_use]
    pub fn with_key(self, signatory: &Signatory) -> Self {
        let key = self.home().join(".config/redfleet/key");
        fs::create_dir_all(key.parent().expect("a directory")).expect("a directory for the key");
        fs::write(&key, signatory.private_key()).expect("a key");
        fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("its mode");
        self
    }

    /// `ctl` without any setting, in an empty home directory.
    pub fn keyless() -> Self {
        let home = tempfile::Builder::new().prefix("rf-").tempdir_in("/tmp").expect("a temporary directory");
        Self { home: Arc::new(home), program: binary("ctl"), environment: Vec::new() }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// `ctl` to which the key of web1 is not new any more, so that it says nothing about it.
    #[must_use]
    pub fn knowing_web1(self) -> Self {
        self.run(["host", "key", "web1", "--pin", "--yes"]).expect(0);
        self
    }

    /// Runs another file as `ctl`.
    #[must_use]
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// The home directory of the runs.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs `ctl` to its end.
    #[track_caller]
    pub fn run<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.spawn(arguments).wait()
    }

    /// Runs `ctl` to its end at a terminal of 80 columns at which `typed` was typed ahead. Returns the exit code and what
    /// the terminal shows: both outputs and the echo, without colours.
    #[track_caller]
    pub fn at_terminal<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>, typed: &str) -> (i32, String) {
        let mut command = self.command(arguments);
        let (code, shown) = OnTerminal::start_typing(command.env("NO_COLOR", "1"), typed).wait();
        (code.expect("an exit code"), shown.replace("\r\n", "\n"))
    }

    /// Starts `ctl` at a terminal that is its own, so that it can ask for passphrases there.
    pub fn start_at_terminal<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> OnTerminal {
        let session = self.clone().program("setsid".into());
        let words = ["--ctty".to_owned(), self.program.to_str().expect("text").to_owned()];
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        OnTerminal::start_typing(session.command(words.into_iter().chain(arguments)).env("NO_COLOR", "1"), "")
    }

    /// Dispatches a line of shell to `host`, does not wait, and returns the job's id.
    #[track_caller]
    pub fn dispatch(&self, host: &str, script: &str) -> String {
        let output = self.run(["run", "--host", host, "--detach", "exec", "--", "sh", "-c", script]).expect(0);
        output.stdout.trim().to_owned()
    }

    /// The state of each host of a job, as `ctl job show` prints it.
    #[track_caller]
    pub fn host_states(&self, job: &str) -> Vec<(String, String)> {
        let shown = self.run(["job", "show", job, "-o", "json"]).expect(0).json();
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let hosts = shown["hosts"].as_array().expect("a list");
        hosts.iter().map(|host| (text(&host["host"]), text(&host["state"]))).collect()
    }

    /// Starts `ctl`.
    pub fn spawn<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        let mut child = self.command(arguments).spawn().expect("ctl starts");
        let (stdout, stderr) = (Log::default(), Log::default());
        stdout.follow(child.stdout.take().expect("piped"));
        stderr.follow(child.stderr.take().expect("piped"));
        Running { child, stdout, stderr, _home: Arc::clone(&self.home) }
    }

    /// The command, for tests that need to change more of it.
    pub fn command<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        for argument in arguments {
            command.arg(argument.as_ref());
        }
        command.env_clear().env("HOME", self.home()).env("PATH", env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.clone()).current_dir(self.home());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Writes a file below the home directory and returns its path.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.home().join(name);
        fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a directory");
        fs::write(&path, content).expect("a file");
        path
    }
}

impl Running {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&self) {
        process::send(&self.child, Signal::SIGINT);
    }

    /// Kills the run. Returns whether it had not ended.
    pub fn kill9(&mut self) -> bool {
        let is_running = self.child.try_wait().is_ok_and(|status| status.is_none());
        process::kill9(&mut self.child);
        is_running
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// What it has written to standard error, once it has ended.
    #[track_caller]
    pub fn all_stderr(&self) -> String {
        self.stderr.wait_closed()
    }

    /// Waits until `ctl` has written `pattern` to standard output, and returns the line.
    #[track_caller]
    pub fn wait_stdout(&self, pattern: &str) -> String {
        self.stdout.wait(pattern)
    }

    /// Waits until `ctl` has written `pattern` to standard error, and returns the line.
    #[track_caller]
    pub fn wait_stderr(&self, pattern: &str) -> String {
        self.stderr.wait(pattern)
    }

    /// Waits until `ctl` has ended.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        let status: ExitStatus = process::wait(&mut self.child, "ctl to end");
        let code = status.code().unwrap_or_else(|| panic!("ctl ended with {status}"));
        Output { code, stdout: self.stdout.wait_closed(), stderr: self.stderr.wait_closed() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill9();
    }
}

impl Output {
    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON: {error}\n{self}"))
    }

    /// This output, which must have exit code `code`.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "often it is the check alone that matters")]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }
}

impl fmt::Display for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, stdout, stderr } = self;
        write!(out, "exit code {code}\n--- stdout\n{stdout}--- stderr\n{stderr}---")
    }
}
