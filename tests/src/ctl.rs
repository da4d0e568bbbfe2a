//! Runs of `ctl`.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{Log, Redis, binary, process};

/// A way to run `ctl`: with an environment of its own, so that no setting of the machine's user
/// changes what a test sees.
#[derive(Clone)]
pub struct Ctl {
    home: Arc<TempDir>,
    program: PathBuf,
    environment: Vec<(String, String)>,
}

/// What a run left.
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
}

impl Ctl {
    /// For this server.
    pub fn on(redis: &Redis) -> Self {
        Self::alone().env("REDFLEET_REDIS", &redis.url())
    }

    /// Without any setting, in an empty home directory.
    pub fn alone() -> Self {
        let home = tempfile::Builder::new().prefix("rf-").tempdir_in("/tmp").expect("a temporary directory");
        Self { home: Arc::new(home), program: binary("ctl"), environment: Vec::new() }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
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

    /// Runs it to its end.
    #[track_caller]
    pub fn run<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.spawn(arguments).wait()
    }

    /// Asks `host` to run a line of shell, does not wait, and returns the job's id.
    #[track_caller]
    pub fn ask(&self, host: &str, script: &str) -> String {
        let output = self.run(["run", "--host", host, "--detach", "exec", "--", "sh", "-c", script]).expect(0);
        output.stdout.trim().to_owned()
    }

    /// How each host of a job stands, as `ctl job show` says.
    #[track_caller]
    pub fn standing(&self, job: &str) -> Vec<(String, String)> {
        let shown = self.run(["job", "show", job, "-o", "json"]).expect(0).json();
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let hosts = shown["hosts"].as_array().expect("a list");
        hosts.iter().map(|host| (text(&host["host"]), text(&host["state"]))).collect()
    }

    /// Starts it.
    pub fn spawn<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        let mut child = self.command(arguments).spawn().expect("ctl starts");
        let (stdout, stderr) = (Log::default(), Log::default());
        stdout.follow(child.stdout.take().expect("piped"));
        stderr.follow(child.stderr.take().expect("piped"));
        Running { child, stdout, stderr }
    }

    /// The command, for tests that want to change more about it.
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
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends what Ctrl-C sends.
    pub fn interrupt(&self) {
        process::send(&self.child, Signal::SIGINT);
    }

    /// Kills it.
    pub fn kill9(&mut self) {
        process::kill9(&mut self.child);
    }

    /// Waits until it has written `pattern` to standard output, and returns the line.
    #[track_caller]
    pub fn wait_stdout(&self, pattern: &str) -> String {
        self.stdout.wait(pattern)
    }

    /// Waits until it has written `pattern` to standard error, and returns the line.
    #[track_caller]
    pub fn wait_stderr(&self, pattern: &str) -> String {
        self.stderr.wait(pattern)
    }

    /// Waits until it has ended.
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
