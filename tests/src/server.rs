//! A private Redis server.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;
use protocol::{acl::Role, name::Namespace};
use redis::{Client, aio::MultiplexedConnection};
use tempfile::TempDir;

use crate::{Authority, Issued, eventually, free_port, process, users::Users};

/// How a server persists its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aof {
    /// Not at all.
    Off,
    /// Synced every second.
    EverySecond,
    /// Synced before each reply.
    Always,
}

/// The options of a server; see [`Redis::options`].
#[derive(Clone, Debug)]
pub struct RedisOptions {
    aof: Aof,
    tcp: bool,
    tls: bool,
    password: Option<String>,
    sentinel: bool,
    more: Vec<String>,
}

/// A private Redis server on a Unix socket in a temporary directory. It ends with the test.
pub struct Redis {
    directory: TempDir,
    options: RedisOptions,
    users: Users,
    port: u16,
    child: Child,
}

impl RedisOptions {
    /// How the server persists its data; by default it syncs every second.
    #[must_use]
    pub fn aof(mut self, aof: Aof) -> Self {
        self.aof = aof;
        self
    }

    /// Makes the server listen on a free TCP port of the loopback interface too.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Makes the server listen on a free TCP port of the loopback interface, with TLS alone. It has this certificate for
    /// `localhost`, and trusts clients whose certificates this authority has signed.
    #[must_use]
    pub fn tls(mut self, own: &Issued, clients: &Authority) -> Self {
        self.tls = true;
        let ca = clients.file();
        for (name, file) in [("cert", &own.cert), ("key", &own.key), ("ca-cert", &ca)] {
            self = self.set(&format!("tls-{name}-file"), file.to_str().expect("text"));
        }
        self
    }

    /// Requires this password of every client.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Starts a Sentinel in place of a server.
    #[must_use]
    pub fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// Limits the server's memory, for example to `3mb`.
    #[must_use]
    pub fn maxmemory(self, limit: &str) -> Self {
        self.set("maxmemory", limit)
    }

    /// Sets any other line of `redis.conf`.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.more.extend([format!("--{name}"), value.to_owned()]);
        self
    }

    /// Makes the server a replica of `primary`, which must listen on a TCP port.
    #[must_use]
    pub fn replica_of(mut self, primary: &Redis) -> Self {
        self.more.extend(["--replicaof", "127.0.0.1", &primary.port.to_string()].map(str::to_owned));
        self
    }

    /// Starts the server and waits until it replies.
    pub fn start(self) -> Redis {
        // A short name, because a socket's path may have 107 bytes only.
        let directory = tempfile::Builder::new().prefix("rf-").tempdir_in("/tmp").expect("a temporary directory");
        let port = if self.tcp || self.tls { free_port() } else { 0 };
        let has_users = self.password.is_none() && !self.sentinel;
        let users = Users::of(has_users.then_some(directory.path()));
        let child = launch(directory.path(), &self, &users, port);
        let mut redis = Redis { directory, options: self, users, port, child };
        redis.wait_ready();
        redis
    }
}

impl Redis {
    /// Starts a server with the usual options.
    pub fn start() -> Self {
        Self::options().start()
    }

    /// How often a command was called, by anybody.
    ///
    /// # Panics
    /// The server does not reply.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.cli(["INFO", "commandstats"]);
        let begin = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|line| line.strip_prefix(&begin)).unwrap_or("0");
        calls.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number")
    }

    /// The usual options: AOF every second, `noeviction`, no TCP, no password.
    pub fn options() -> RedisOptions {
        RedisOptions {
            aof: Aof::EverySecond,
            tcp: false,
            tls: false,
            password: None,
            sentinel: false,
            more: Vec::new(),
        }
    }

    /// The server's URL: its Unix socket.
    pub fn url(&self) -> String {
        let password = self.options.password.as_ref().map(|password| format!("?pass={password}")).unwrap_or_default();
        format!("unix://{}{password}", self.socket().display())
    }

    /// The server's URL over TCP. The server must have been started with [`RedisOptions::tcp`] or [`RedisOptions::tls`].
    pub fn tcp_url(&self) -> String {
        assert_ne!(self.port, 0, "this server was started without TCP");
        if self.options.tls {
            return format!("rediss://localhost:{}", self.port);
        }
        let password = self.options.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{password}127.0.0.1:{}", self.port)
    }

    /// The URL of the server's socket, with the login of a role. A server that was started with a password has no such
    /// users.
    pub fn url_of(&self, role: &Role, namespace: Option<&Namespace>) -> String {
        self.users.log_in(&self.url(), role, namespace)
    }

    /// The server's URL over TCP, with the login of a role.
    pub fn tcp_url_of(&self, role: &Role, namespace: Option<&Namespace>) -> String {
        self.users.log_in(&self.tcp_url(), role, namespace)
    }

    /// Makes the user of a role, for programs that reach this server by another URL than its own.
    pub fn admit(&self, role: &Role, namespace: Option<&Namespace>) {
        self.users.make(role, namespace);
    }

    pub(crate) fn users(&self) -> Users {
        self.users.clone()
    }

    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// The directory of this server. Other files of the same test may be put there.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What `redis-cli` prints for these arguments, without the last line end.
    pub fn cli<const N: usize>(&self, arguments: [&str; N]) -> String {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(self.socket()).args(arguments);
        if let Some(password) = &self.options.password {
            command.env("REDISCLI_AUTH", password);
        }
        let output = command.output().expect("redis-cli starts");
        assert!(output.status.success(), "redis-cli {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
    }

    /// A plain, blocking connection.
    pub fn blocking(&self) -> redis::Connection {
        self.client().get_connection().expect("a connection")
    }

    /// An asynchronous connection.
    pub async fn connection(&self) -> MultiplexedConnection {
        self.client().get_multiplexed_async_connection().await.expect("a connection")
    }

    /// Kills the server with SIGKILL.
    pub fn kill9(&mut self) {
        process::kill9(&mut self.child);
    }

    /// Stops the server in order.
    pub fn stop(&mut self) {
        process::send(&self.child, Signal::SIGTERM);
        process::wait(&mut self.child, "redis-server to end");
    }

    /// Halts the process: it keeps its connections and does not reply.
    pub fn freeze(&self) {
        process::send(&self.child, Signal::SIGSTOP);
    }

    /// Continues a halted process.
    pub fn thaw(&self) {
        process::send(&self.child, Signal::SIGCONT);
    }

    /// Restarts the server in the same place with the same data, after [`Self::kill9`] or [`Self::stop`].
    pub fn restart(&mut self) {
        process::kill9(&mut self.child);
        self.child = launch(self.directory.path(), &self.options, &self.users, self.port);
        self.wait_ready();
    }

    fn client(&self) -> Client {
        Client::open(self.url()).expect("the URL is well-formed")
    }

    fn wait_ready(&mut self) {
        let client = self.client();
        eventually("redis-server to reply", || {
            if let Some(status) = self.child.try_wait().expect("one's own child can be waited for") {
                let log = fs::read_to_string(self.directory.path().join("redis.log")).unwrap_or_default();
                panic!("redis-server ended with {status}:\n{log}");
            }
            let mut connection = client.get_connection().ok()?;
            redis::cmd("PING").query::<String>(&mut connection).ok()
        });
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn launch(directory: &Path, options: &RedisOptions, users: &Users, port: u16) -> Child {
    let (append, sync) = match options.aof {
        Aof::Off => ("no", "no"),
        Aof::EverySecond => ("yes", "everysec"),
        Aof::Always => ("yes", "always"),
    };
    let log = File::options().create(true).append(true).open(directory.join("redis.log")).expect("a log file");
    let mut command = Command::new("redis-server");
    if options.sentinel {
        // A Sentinel keeps its state in its configuration file.
        let file = directory.join("sentinel.conf");
        fs::write(&file, "").expect("a configuration file");
        command.arg(file);
    }
    command.arg("--unixsocket").arg(directory.join("redis.sock")).arg("--dir").arg(directory);
    let (plain, encrypted) = if options.tls { (0, port) } else { (port, 0) };
    command.args(["--port", &plain.to_string(), "--bind", "127.0.0.1"]);
    if options.tls {
        command.args(["--tls-port", &encrypted.to_string()]);
    }
    if options.sentinel {
        command.arg("--sentinel");
    } else {
        command.args(["--save", "", "--appendonly", append, "--appendfsync", sync]);
        command.args(["--maxmemory-policy", "noeviction"]);
    }
    if let Some(password) = &options.password {
        command.args(["--requirepass", password]);
    }
    if let Some(file) = users.file() {
        command.arg("--aclfile").arg(file);
    }
    command.args(&options.more).stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    command.spawn().expect("redis-server is installed (`make test` installs it)")
}
