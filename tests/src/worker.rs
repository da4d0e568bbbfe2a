//! A worker process.

use std::{
    collections::HashMap,
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
};

use nix::sys::signal::Signal;
use protocol::{
    acl::Role,
    environment,
    keys::Keys,
    name::{HostName, Namespace},
    status::Status,
    trust::signing::SigningKey,
};
use redis::Client;
use tempfile::TempDir;

use crate::{Log, Redis, binary, eventually, operator, process, users::Users};

/// The options of a worker; see [`Worker::on`]. Workers that are started from the same options share a state
/// directory, so a later one finds the journal of the prior one.
#[derive(Clone)]
pub struct WorkerOptions {
    redis: String,
    users: Users,
    host: String,
    config: String,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    program: Option<PathBuf>,
    /// The settings file, where it is not to be written from these options.
    settings: Option<PathBuf>,
    through: Vec<String>,
    directory: Arc<TempDir>,
}

/// A running worker. It ends with the test, together with what it started.
pub struct Worker {
    options: WorkerOptions,
    child: Child,
    log: Log,
}

impl WorkerOptions {
    /// Sets the host's name; by default `web1`.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    /// Sets another URL than the one of the server's socket. Without a login it gets that of the host's user.
    #[must_use]
    pub fn redis(mut self, url: &str) -> Self {
        self.redis = url.into();
        self
    }

    /// Adds to the configuration file (TOML): keys first, then tables.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Replaces a part of the configuration file.
    #[must_use]
    pub fn replace_config(mut self, part: &str, by: &str) -> Self {
        assert!(self.config.contains(part), "{part} is not in {}", self.config);
        self.config = self.config.replace(part, by);
        self
    }

    /// Keeps the host's keys outside of the state directory.
    #[must_use]
    pub fn key_apart(mut self) -> Self {
        let path = self.directory().join("host_key");
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let text = SigningKey::generate().to_openssh(&self.host);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a key");
        let sealing = self.directory().join("sealing_key");
        for (name, path) in [("host_key", path), ("sealing_key", sealing)] {
            self.config.insert_str(0, &format!("{name} = {:?}\n", path.display().to_string()));
        }
        self
    }

    /// Allows `exec`.
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

    /// Starts the worker with what the script of `ctl host enroll` has put below `root`.
    #[must_use]
    pub fn enrolled(mut self, root: &Path) -> Self {
        let at = |name: &str| root.join(name).to_str().expect("text").to_owned();
        self.settings = Some(root.join("etc/redfleet/worker.toml"));
        self.arguments([
            "--redis-password-file",
            &at("etc/redfleet/redis-password"),
            "--trust",
            &at("etc/redfleet/allowed_signers"),
            "--revoked",
            &at("etc/redfleet/revoked"),
            "--state-dir",
            &at("var/lib/redfleet"),
        ])
    }

    /// Starts the worker through another program, which executes the worker in its place.
    #[must_use]
    pub fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(ToString::to_string).collect();
        self
    }

    fn namespace(&self) -> Option<Namespace> {
        let given = self.environment.iter().find(|(name, _)| name == environment::NAMESPACE);
        given.map(|(_, namespace)| namespace.parse().expect("a valid namespace"))
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.host
    }

    /// The directory that holds the worker's configuration and state.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// The file that says whom the worker obeys.
    pub fn trust_file(&self) -> PathBuf {
        self.directory().join("allowed_signers")
    }

    /// Replaces the trust file: at the worker's next look it comes into force.
    pub fn trust(&self, lines: &str) {
        let fresh = self.directory().join("allowed_signers.new");
        fs::write(&fresh, lines).expect("a trust file");
        fs::set_permissions(&fresh, Permissions::from_mode(0o644)).expect("its mode");
        fs::rename(fresh, self.trust_file()).expect("a trust file");
    }

    /// Writes the settings file, and a trust file where there is none.
    fn write_settings(&self) -> PathBuf {
        let directory = self.directory();
        let file = directory.join("worker.toml");
        if !self.trust_file().exists() {
            self.trust(&operator().line("*", ""));
        }
        let role = Role::Worker(self.host.parse().expect("a valid host name"));
        let keys = format!(
            "redis = {:?}\nhost = {:?}\nstate_dir = {:?}\ntrust = {:?}\n{}",
            self.users.log_in(&self.redis, &role, self.namespace().as_ref()),
            self.host,
            directory.join("state").display().to_string(),
            self.trust_file().display().to_string(),
            self.config
        );
        fs::write(&file, keys).expect("a configuration file");
        file
    }

    /// Starts the worker. It may not be ready yet: see [`Worker::wait_online`].
    pub fn start(&self) -> Worker {
        let file = self.settings.clone().unwrap_or_else(|| self.write_settings());
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
    /// The options of a worker of `redis`: host `web1`, no configuration beyond the required one.
    pub fn on(redis: &Redis) -> WorkerOptions {
        WorkerOptions {
            redis: redis.url(),
            users: redis.users(),
            host: "web1".into(),
            config: String::new(),
            environment: Vec::new(),
            arguments: Vec::new(),
            program: None,
            settings: None,
            through: Vec::new(),
            directory: Arc::new(tempfile::tempdir().expect("a temporary directory")),
        }
    }

    /// The worker's options, to start it again.
    pub fn options(&self) -> WorkerOptions {
        self.options.clone()
    }

    /// The worker's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until this very process has published its status and its facts.
    #[track_caller]
    pub fn wait_online(&self) {
        let what = format!("{} to be online; its log:\n{}", self.options.host, self.log.text());
        eventually(&what, || {
            self.status().filter(|status| status.pid == self.pid() && !status.stopped)?;
            (!self.hash(Keys::facts)?.is_empty()).then_some(())
        });
    }

    /// The status that the worker last published.
    pub fn status(&self) -> Option<Status> {
        Status::from_fields(&self.hash(Keys::status)?)
    }

    /// One of the host's hashes; `None` where Redis does not reply.
    pub fn hash(&self, key: fn(&Keys, &HostName) -> String) -> Option<HashMap<String, String>> {
        let host = self.options.host.parse().expect("a valid host name");
        let key = key(&Keys::new(self.options.namespace().as_ref()), &host);
        let mut connection = Client::open(self.options.redis.as_str()).ok()?.get_connection().ok()?;
        redis::cmd("HGETALL").arg(key).query(&mut connection).ok()
    }

    /// Waits until the log has a line with `pattern`, and returns that line.
    #[track_caller]
    pub fn wait_log(&self, pattern: &str) -> String {
        self.log.wait(pattern)
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Whether the worker has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("one's own child can be waited for").is_some()
    }

    /// Waits until the worker has ended; returns the whole log.
    pub fn wait_log_closed(&self) -> String {
        self.log.wait_closed()
    }

    /// Kills the worker with SIGKILL. What it runs lives on, as after a real crash.
    pub fn kill9(&mut self) {
        process::kill9(&mut self.child);
    }

    /// Halts the worker with SIGSTOP.
    pub fn stop(&self) {
        process::send(&self.child, Signal::SIGSTOP);
    }

    /// Continues a halted worker.
    pub fn cont(&self) {
        process::send(&self.child, Signal::SIGCONT);
    }

    /// Sends SIGHUP: the worker rereads its trust files.
    pub fn hangup(&self) {
        process::send(&self.child, Signal::SIGHUP);
    }

    /// Sends SIGTERM: the worker stops in order; see [`Self::wait`].
    pub fn term(&self) {
        process::send(&self.child, Signal::SIGTERM);
    }

    /// Waits until the worker has ended by itself and its log is complete.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = process::wait(&mut self.child, "the worker to end");
        self.log.wait_closed();
        status
    }

    /// Stops the worker in order.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.term();
        self.wait()
    }

    /// The worker's resident memory in kB.
    pub fn rss_kb(&self) -> u64 {
        process::resident_kb(self.pid())
    }

    /// The most resident memory that the worker has had so far, in kB.
    pub fn peak_kb(&self) -> u64 {
        process::memory_kb(self.pid(), "VmHWM:")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let family = process::descendants(self.pid());
        self.kill9();
        process::kill_groups(&family);
    }
}
