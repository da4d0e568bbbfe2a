//! Connections to Redis, with the settings that this project needs and the client does not default to.

use std::{fmt, fs, io, net::IpAddr, path::Path, str::FromStr, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError,
    RedisFuture, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use tokio::{net::TcpStream, time::timeout};

use crate::tls::{TlsError, TlsFiles};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a reply may take. A Redis that rewrites its AOF on a slow disk stalls for seconds.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The address of a Redis server. It is displayed without its password.
#[derive(Clone, Debug)]
pub struct Address {
    info: ConnectionInfo,
    /// With TLS: the files for it.
    tls: Option<TlsFiles>,
    shown: String,
}

/// Why a text is not an address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// A demand to trust any server.
    #[error("'{0}' asks for TLS that trusts anybody: name the file with the server's CA instead (redis_ca)")]
    Insecure(String),
    /// Anything else.
    #[error("'{0}' is not a Redis URL{reason}: write redis://HOST[:PORT][/DB], rediss://… for TLS, or unix:///PATH", reason = .1.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default())]
    Malformed(String, Option<String>),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let shown = without_password(text);
        // The client library only sees a plain stream: TLS is our own layer beneath it.
        let tls = text.strip_prefix("rediss://").map(|rest| format!("redis://{rest}"));
        if tls.is_some() && text.contains('#') {
            return Err(AddressError::Insecure(shown));
        }
        let malformed = |reason| AddressError::Malformed(shown.clone(), reason);
        let info = tls.as_deref().unwrap_or(text).into_connection_info().map_err(|_| malformed(None))?;
        if let ConnectionAddr::Unix(path) = info.addr() {
            // struct sockaddr_un has room for 108 bytes with the closing zero (man 7 unix).
            let length = path.as_os_str().len();
            if length == 0 || length > 107 {
                return Err(malformed(Some(format!("a socket's path has 1 to 107 bytes, this one {length}"))));
            }
        }
        let redis = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_redis_settings(redis).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self { info, tls: tls.map(|_| TlsFiles::default()), shown })
    }
}

/// The password in the first line of a file.
///
/// # Errors
/// The file cannot be read, or its first line is empty.
pub fn read_password(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    let password = text.lines().next().filter(|line| !line.is_empty());
    password.map(str::to_owned).ok_or_else(|| io::Error::other("its first line is empty"))
}

/// `scheme://user:secret@host` with the secret replaced, also where the text is no URL.
fn without_password(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let Some((login, host)) = rest.rsplit_once('@') else {
        // What stands in the place of the port may be a password whose host was forgotten.
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        return match authority.rsplit_once(':') {
            Some((host, port)) if !port.bytes().all(|byte| byte.is_ascii_digit() || byte == b']') => {
                format!("{scheme}{host}:***")
            }
            _ => hide_query(text),
        };
    };
    let user = login.split_once(':').map_or(login, |(user, _)| user);
    if scheme.is_empty() {
        return format!("***@{host}");
    }
    hide_query(&format!("{scheme}{user}:***@{host}"))
}

/// Unix URLs may carry `?pass=`.
fn hide_query(text: &str) -> String {
    text.split_once('?').map_or_else(|| text.to_owned(), |(head, _)| format!("{head}?***"))
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.shown)
    }
}

impl Address {
    /// Whether the URL has a password.
    pub fn has_password(&self) -> bool {
        self.info.redis_settings().password().is_some()
    }

    /// Whether the keys are in another database than the first.
    pub fn selects(&self) -> bool {
        self.info.redis_settings().db() != 0
    }

    /// The address with the password in the first line of a file, whatever the URL says.
    ///
    /// # Errors
    /// As of [`read_password`].
    pub fn with_password_file(self, path: &Path) -> io::Result<Self> {
        let password = read_password(path)?;
        let redis = self.info.redis_settings().clone().set_password(password);
        Ok(Self { info: self.info.set_redis_settings(redis), ..self })
    }

    /// The address with these files for TLS, which are tried.
    ///
    /// # Errors
    /// A file cannot be used, or the address is one without TLS. A Unix socket needs none.
    pub fn with_tls(self, files: TlsFiles) -> Result<Self, TlsError> {
        match &self.tls {
            None if files.is_empty() || self.socket().is_some() => return Ok(self),
            None => return Err(TlsError::Plain(self.shown)),
            Some(_) => drop(files.read()?),
        }
        Ok(Self { tls: Some(files), ..self })
    }

    /// The files for TLS, if the address is one with TLS.
    pub(crate) const fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    /// What is unwise: everything that passes on the way to another machine can be read and altered.
    pub fn warning(&self) -> Option<String> {
        (self.tls.is_none() && !self.is_local()).then(|| {
            let who = "whoever is on the way to it can read and alter everything";
            format!("the connection to {} is not encrypted: {who}; use rediss:// (TLS)", self.shown)
        })
    }

    /// Whether it is only for programs of this machine.
    pub fn is_local(&self) -> bool {
        match self.target() {
            ConnectionAddr::Tcp(host, _) => {
                host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
            }
            target => matches!(target, ConnectionAddr::Unix(_)),
        }
    }

    /// Whether the connection is encrypted.
    pub const fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The file with the CAs to trust, if one is named.
    pub fn ca(&self) -> Option<&Path> {
        self.tls.as_ref()?.ca.as_deref()
    }

    /// The URL with which another user reaches the same server. It has no password.
    pub fn url_of(&self, user: &str) -> String {
        let database = self.info.redis_settings().db();
        match self.target() {
            ConnectionAddr::Unix(path) => {
                let database = if database == 0 { String::new() } else { format!("&db={database}") };
                format!("unix://{}?user={user}{database}", path.display())
            }
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                let scheme = if self.is_encrypted() { "rediss" } else { "redis" };
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let database = if database == 0 { String::new() } else { format!("/{database}") };
                format!("{scheme}://{user}@{host}:{port}{database}")
            }
            _ => String::new(),
        }
    }

    /// The socket's path, if the address is that of a Unix socket.
    pub fn socket(&self) -> Option<&std::path::Path> {
        if let ConnectionAddr::Unix(path) = self.target() { Some(path) } else { None }
    }

    /// Where to connect to.
    pub(crate) fn target(&self) -> &ConnectionAddr {
        self.info.addr()
    }

    /// A connection for commands that reply at once.
    pub async fn connect(&self) -> Result<Connection, RedisError> {
        self.connect_blocking(Duration::ZERO).await
    }

    /// A separate connection for commands that block up to `longest`: no other command may wait behind them.
    pub async fn connect_blocking(&self, longest: Duration) -> Result<Connection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(longest + RESPONSE_TIMEOUT));
        let connection = match (&self.tls, self.target()) {
            (Some(files), ConnectionAddr::Tcp(host, port)) => {
                let connect = Box::pin(self.connect_with_tls(files, host, *port, config));
                timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
            }
            _ => Client::open(self.info.clone())?.get_multiplexed_async_connection_with_config(&config).await?,
        };
        Ok(Connection(connection))
    }

    async fn connect_with_tls(
        &self,
        files: &TlsFiles,
        host: &str,
        port: u16,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let stream = files.wrap(host, stream).await?;
        let redis = self.info.redis_settings();
        let (connection, driver) = MultiplexedConnection::new_with_config(redis, stream, config).await?;
        // It ends with the last handle of the connection.
        tokio::spawn(driver);
        Ok(connection)
    }
}

/// A connection to Redis, whatever runs there. No other code names a connection type of the client library.
#[derive(Clone)]
pub struct Connection(MultiplexedConnection);

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

/// The result of a transaction: its commands' replies, or why none of them was executed. A command that fails when it
/// is executed does not undo the others.
pub type Transacted = Result<Vec<Value>, RedisError>;

impl Connection {
    /// Sends transactions, each on the keys of one slot, and returns the result of each. They are executed in this
    /// order, but not as a whole: the connection may break between two of them. One server needs a single round trip.
    ///
    /// # Errors
    /// The connection broke: which of them were executed is not known.
    pub async fn transact(&mut self, transactions: &[Pipeline]) -> Result<Vec<Transacted>, RedisError> {
        let mut all = redis::pipe();
        all.ignore_errors();
        for transaction in transactions {
            // A single command is atomic by itself.
            let several = transaction.len() > 1;
            if several {
                all.cmd("MULTI");
            }
            for command in transaction.cmd_iter() {
                all.add_command(command.clone());
            }
            if several {
                all.cmd("EXEC");
            }
        }
        if all.is_empty() {
            return Ok(Vec::new());
        }

        let mut replies = all.query_async::<Vec<Result<Value, RedisError>>>(self).await?.into_iter();
        let of = |transaction: &Pipeline| {
            let several = transaction.len() > 1;
            let count = transaction.len() + if several { 2 } else { 0 };
            let replies: Vec<_> = replies.by_ref().take(count).collect();
            if several { executed(replies) } else { replies.into_iter().collect() }
        };
        Ok(transactions.iter().map(of).collect())
    }
}

/// Reads the replies to `MULTI`, the queued commands and `EXEC`.
fn executed(mut replies: Vec<Result<Value, RedisError>>) -> Transacted {
    let last = replies.pop();
    // The refusal of a command is more specific than the abort of the transaction that follows from it.
    if let Some(refused) = replies.into_iter().find_map(Result::err) {
        return Err(refused);
    }
    match last {
        Some(Ok(Value::Array(values))) => values.into_iter().map(Value::extract_error).collect(),
        Some(Err(error)) => Err(error),
        _ => Err((redis::ErrorKind::UnexpectedReturnType, "EXEC replied something else").into()),
    }
}

/// Waiting times between attempts: doubling from 50 ms to `longest`, each drawn from its upper half,
/// so that ten thousand workers do not reconnect at the same moment.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);

    /// Starts at 50 ms.
    pub const fn new(longest: Duration) -> Self {
        Self { next: Self::FIRST, longest }
    }

    /// The next waiting time.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.longest);
        delay.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Starts again at 50 ms, after a success.
    pub const fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

/// Whether this error leaves the connection unusable.
pub fn is_broken(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_io_error() || error.is_timeout() || error.is_connection_dropped()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_hide_their_password() {
        let shown = |text: &str| {
            let address: Address = text.parse().unwrap();
            assert!(!format!("{address:?}").contains("sec"), "{address:?}");
            address.to_string()
        };
        assert_eq!(shown("redis://:secret@h:1/2"), "redis://:***@h:1/2");
        assert_eq!(shown("redis://ann:sec@ret@h"), "redis://ann:***@h");
        assert_eq!(shown("unix:///run/r.sock?pass=secret"), "unix:///run/r.sock?***");
        assert_eq!(shown("redis://h"), "redis://h");
        for malformed in [
            "redis://:secret@h:port",
            "redis://h:secret",
            "redis://:secret",
            ":secret@h",
            "ann:secret@h",
            "redis:/:secret@h",
            "redis//ann:sec@ret@h",
            "h:secret",
        ] {
            let error = malformed.parse::<Address>().unwrap_err().to_string();
            assert!(!error.contains("sec") && error.contains("***"), "{error}");
        }
    }

    #[test]
    fn bad_addresses_are_refused() {
        for bad in ["", "web1", "http://x", "rediss://x#insecure", &format!("unix:///{}", "x".repeat(108))] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn backoff_grows_and_is_bounded() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        for _ in 0..20 {
            assert!(backoff.delay() <= Duration::from_secs(1));
        }
        assert!(backoff.delay() >= Duration::from_millis(500));
        backoff.reset();
        assert!(backoff.delay() <= Backoff::FIRST);
    }
}
