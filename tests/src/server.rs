//! A private Redis server.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;
use redis::{Client, aio::MultiplexedConnection};
use tempfile::TempDir;

use crate::{eventually, process};

/// How a server keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aof {
    /// Not at all.
    Off,
    /// Synced every second.
    EverySecond,
    /// Synced before each reply.
    Always,
}

/// What a server is started with; see [`Redis::options`].
#[derive(Clone, Debug)]
pub struct RedisOptions {
    aof: Aof,
    tcp: bool,
    password: Option<String>,
    more: Vec<String>,
}

/// A private Redis server on a Unix socket in a temporary directory. Ends with the test.
pub struct Redis {
    directory: TempDir,
    options: RedisOptions,
    port: u16,
    child: Child,
}

impl RedisOptions {
    /// How it keeps its data; by default it syncs every second.
    #[must_use]
    pub fn aof(mut self, aof: Aof) -> Self {
        self.aof = aof;
        self
    }

    /// Listens on a free TCP port of the loopback interface too.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Asks every client for this password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }

    /// A limit such as `3mb`.
    #[must_use]
    pub fn maxmemory(self, limit: &str) -> Self {
        self.set("maxmemory", limit)
    }

    /// Any other line of `redis.conf`.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.more.extend([format!("--{name}"), value.to_owned()]);
        self
    }

    /// Follows this server, which must listen on a TCP port, until it is told otherwise.
    #[must_use]
    pub fn replica_of(mut self, primary: &Redis) -> Self {
        self.more.extend(["--replicaof", "127.0.0.1", &primary.port.to_string()].map(str::to_owned));
        self
    }

    /// Starts the server and waits until it answers.
    pub fn start(self) -> Redis {
        // Short, because a socket's path may have 107 bytes only.
        let directory = tempfile::Builder::new().prefix("rf-").tempdir_in("/tmp").expect("a temporary directory");
        let port = if self.tcp { free_port() } else { 0 };
        let child = launch(directory.path(), &self, port);
        let mut redis = Redis { directory, options: self, port, child };
        redis.wait_ready();
        redis
    }
}

impl Redis {
    /// A server with the usual options.
    pub fn start() -> Self {
        Self::options().start()
    }

    /// The usual options: AOF every second, `noeviction`, no TCP, no password.
    pub fn options() -> RedisOptions {
        RedisOptions { aof: Aof::EverySecond, tcp: false, password: None, more: Vec::new() }
    }

    /// Where clients find it: the Unix socket.
    pub fn url(&self) -> String {
        let password = self.options.password.as_ref().map(|password| format!("?pass={password}")).unwrap_or_default();
        format!("unix://{}{password}", self.socket().display())
    }

    /// Where clients find it over TCP, where it was started with [`RedisOptions::tcp`].
    pub fn tcp_url(&self) -> String {
        assert_ne!(self.port, 0, "this server was started without TCP");
        let password = self.options.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{password}127.0.0.1:{}", self.port)
    }

    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// The directory of this server, for whatever else belongs to the same test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process id.
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

    /// Kills it in the midst of whatever it does.
    pub fn kill9(&mut self) {
        process::kill9(&mut self.child);
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        process::send(&self.child, Signal::SIGTERM);
        process::wait(&mut self.child, "redis-server to end");
    }

    /// Halts the process: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        process::send(&self.child, Signal::SIGSTOP);
    }

    /// Lets a halted process go on.
    pub fn thaw(&self) {
        process::send(&self.child, Signal::SIGCONT);
    }

    /// Starts it again, at the same place with the same data, after [`Self::kill9`] or [`Self::stop`].
    pub fn restart(&mut self) {
        process::kill9(&mut self.child);
        self.child = launch(self.directory.path(), &self.options, self.port);
        self.wait_ready();
    }

    fn client(&self) -> Client {
        Client::open(self.url()).expect("the URL is well-formed")
    }

    fn wait_ready(&mut self) {
        let client = self.client();
        eventually("redis-server to answer", || {
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

fn launch(directory: &Path, options: &RedisOptions, port: u16) -> Child {
    let (append, sync) = match options.aof {
        Aof::Off => ("no", "no"),
        Aof::EverySecond => ("yes", "everysec"),
        Aof::Always => ("yes", "always"),
    };
    let log = File::options().create(true).append(true).open(directory.join("redis.log")).expect("a log file");
    let mut command = Command::new("redis-server");
    command.arg("--unixsocket").arg(directory.join("redis.sock")).arg("--dir").arg(directory);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", append, "--appendfsync", sync, "--maxmemory-policy", "noeviction"]);
    if let Some(password) = &options.password {
        command.args(["--requirepass", password]);
    }
    command.args(&options.more).stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    command.spawn().expect("redis-server is installed (`make test` installs it)")
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("a bound socket has an address").port()
}
