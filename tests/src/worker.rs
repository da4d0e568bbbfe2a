//! A worker process.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
};

use nix::sys::signal::Signal;
use protocol::{
    environment,
    keys::Keys,
    name::{HostName, Namespace},
    status::Status,
};
use redis::Client;
use tempfile::TempDir;

use crate::{Log, Redis, binary, eventually, process};

/// What a worker is started with; see [`Worker::on`]. It can be started again from the same
/// options, and finds its state as the one before left it.
#[derive(Clone)]
pub struct WorkerOptions {
    redis: String,
    host: String,
    config: String,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    program: Option<PathBuf>,
    through: Vec<String>,
    directory: Arc<TempDir>,
}

/// A running worker. Ends with the test, together with what it started.
pub struct Worker {
    options: WorkerOptions,
    child: Child,
    log: Log,
}

impl WorkerOptions {
    /// Its host's name; by default `web1`.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    /// Another URL than the one of the server's socket.
    #[must_use]
    pub fn redis(mut self, url: &str) -> Self {
        self.redis = url.into();
        self
    }

    /// Adds to its configuration file (TOML): keys first, then tables.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Lets it run any program.
    #[must_use]
    pub fn allow_exec(self) -> Self {
        self.config("[actions]\nallow = [\"exec\"]")
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds command line arguments.
    #[must_use]
    pub fn arguments<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    /// Runs another file as the worker, such as the released one.
    #[must_use]
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// Starts it through another program, which becomes the worker in the end.
    #[must_use]
    pub fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(ToString::to_string).collect();
        self
    }

    /// Its directory, which holds its configuration and its state.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Starts it. It may not be ready yet: see [`Worker::wait_online`].
    pub fn start(&self) -> Worker {
        let directory = self.directory();
        let file = directory.join("worker.toml");
        let keys = format!(
            "redis = {:?}\nhost = {:?}\nstate_dir = {:?}\n{}",
            self.redis,
            self.host,
            directory.join("state").display().to_string(),
            self.config
        );
        fs::write(&file, keys).expect("a configuration file");
        let program = self.program.clone().unwrap_or_else(|| binary("worker"));
        let mut words = self.through.iter().map(PathBuf::from).chain([program]);
        let mut command = Command::new(words.next().expect("at least the worker itself"));
        command.args(words).arg("--config").arg(file).args(&self.arguments);
        for (name, _) in environment::ALL {
            command.env_remove(name);
        }
        command.envs(self.environment.clone());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the worker starts");
        let log = Log::default();
        log.follow(child.stdout.take().expect("piped"));
        log.follow(child.stderr.take().expect("piped"));
        Worker { options: self.clone(), child, log }
    }
}

impl Worker {
    /// The options of a worker of `redis`: host `web1`, no configuration beyond what it must have.
    pub fn on(redis: &Redis) -> WorkerOptions {
        WorkerOptions {
            redis: redis.url(),
            host: "web1".into(),
            config: String::new(),
            environment: Vec::new(),
            arguments: Vec::new(),
            program: None,
            through: Vec::new(),
            directory: Arc::new(tempfile::tempdir().expect("a temporary directory")),
        }
    }

    /// What it was started with, to start it again.
    pub fn options(&self) -> WorkerOptions {
        self.options.clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until this very process has said in Redis that it lives and what it can do.
    #[track_caller]
    pub fn wait_online(&self) {
        let what = format!("{} to be online; its log:\n{}", self.options.host, self.log.text());
        eventually(&what, || {
            self.status().filter(|status| status.pid == self.pid() && !status.stopped)?;
            (!self.hash(Keys::facts)?.is_empty()).then_some(())
        });
    }

    /// What it last said of itself in Redis.
    pub fn status(&self) -> Option<Status> {
        Status::from_fields(&self.hash(Keys::status)?)
    }

    /// One of its host's hashes; `None` where Redis cannot be asked.
    pub fn hash(&self, key: fn(&Keys, &HostName) -> String) -> Option<HashMap<String, String>> {
        let host = self.options.host.parse().expect("a valid host name");
        let key = key(&Keys::new(self.namespace().as_ref()), &host);
        let mut connection = Client::open(self.options.redis.as_str()).ok()?.get_connection().ok()?;
        redis::cmd("HGETALL").arg(key).query(&mut connection).ok()
    }

    /// Waits until its log has a line with `pattern`, and returns that line.
    #[track_caller]
    pub fn wait_log(&self, pattern: &str) -> String {
        self.log.wait(pattern)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("one's own child can be waited for").is_some()
    }

    /// All that it wrote, once it has ended.
    pub fn wait_log_closed(&self) -> String {
        self.log.wait_closed()
    }

    /// Kills it, and nothing else: what it runs lives on, as after a real crash.
    pub fn kill9(&mut self) {
        process::kill9(&mut self.child);
    }

    /// Halts it: alive, but doing nothing.
    pub fn stop(&self) {
        process::send(&self.child, Signal::SIGSTOP);
    }

    /// Lets a halted one go on.
    pub fn cont(&self) {
        process::send(&self.child, Signal::SIGCONT);
    }

    /// Asks it to stop in order; see [`Self::wait`].
    pub fn term(&self) {
        process::send(&self.child, Signal::SIGTERM);
    }

    /// Waits until it has ended by itself, and all that it wrote is in its log.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = process::wait(&mut self.child, "the worker to end");
        self.log.wait_closed();
        status
    }

    /// Stops it in order.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.term();
        self.wait()
    }

    /// Its resident memory in kB.
    pub fn rss_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the worker runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a living process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    fn namespace(&self) -> Option<Namespace> {
        let given = self.options.environment.iter().find(|(name, _)| name == environment::NAMESPACE);
        given.map(|(_, namespace)| namespace.parse().expect("a valid namespace"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let family = process::descendants(self.pid());
        self.kill9();
        process::kill_groups(&family);
    }
}
