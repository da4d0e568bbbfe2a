//! Connections to Redis, with the settings that this project needs and the client does not default to.

use std::{fmt, str::FromStr, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an answer may take. Generous: a Redis that rewrites its AOF on a slow disk stalls for seconds.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a Redis server is. Shows itself without its password.
#[derive(Clone)]
pub struct Address {
    info: ConnectionInfo,
    shown: String,
}

/// Why a text is not an address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// TLS is not part of this build.
    #[error("rediss:// is not supported yet: use redis:// or unix://")]
    Tls,
    /// Anything else.
    #[error("'{0}' is not a Redis URL: write redis://[:PASSWORD@]HOST[:PORT][/DB] or unix:///PATH ({1})")]
    Malformed(String, String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.starts_with("rediss://") {
            return Err(AddressError::Tls);
        }
        let shown = without_password(text);
        let malformed = |reason: String| AddressError::Malformed(shown.clone(), reason);
        let info = text.into_connection_info().map_err(|error| malformed(error.to_string()))?;
        if let ConnectionAddr::Unix(path) = info.addr() {
            // struct sockaddr_un has room for 108 bytes with the closing zero (man 7 unix).
            let length = path.as_os_str().len();
            if length == 0 || length > 107 {
                return Err(malformed(format!("a socket's path has 1 to 107 bytes, this has {length}")));
            }
        }
        let redis = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_redis_settings(redis).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self { info, shown })
    }
}

/// `scheme://user:secret@host` with the secret replaced.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let Some((login, host)) = rest.rsplit_once('@') else { return hide_query(text) };
    let user = login.split_once(':').map_or(login, |(user, _)| user);
    hide_query(&format!("{scheme}://{user}:***@{host}"))
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

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.shown)
    }
}

impl Address {
    /// The socket's path, where it is a Unix socket.
    pub fn socket(&self) -> Option<&std::path::Path> {
        if let ConnectionAddr::Unix(path) = self.info.addr() { Some(path) } else { None }
    }

    /// A connection for commands that answer at once.
    pub async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        self.open(RESPONSE_TIMEOUT).await
    }

    /// A connection of its own for commands that block up to `longest`: nothing else may wait behind them.
    pub async fn connect_blocking(&self, longest: Duration) -> Result<MultiplexedConnection, RedisError> {
        self.open(longest + RESPONSE_TIMEOUT).await
    }

    async fn open(&self, response: Duration) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response));
        Client::open(self.info.clone())?.get_multiplexed_async_connection_with_config(&config).await
    }
}

/// Waiting times between attempts: doubling from 50 ms to `longest`, each drawn from its upper half,
/// so that ten thousand workers do not come back in the same moment.
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

    /// After a success.
    pub const fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

/// Whether the connection is of no more use after this error.
pub fn is_broken(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_io_error() || error.is_timeout() || error.is_connection_dropped()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_hide_their_password() {
        let shown = |text: &str| text.parse::<Address>().unwrap().to_string();
        assert_eq!(shown("redis://:secret@h:1/2"), "redis://:***@h:1/2");
        assert_eq!(shown("redis://ann:sec@ret@h"), "redis://ann:***@h");
        assert_eq!(shown("unix:///run/r.sock?pass=secret"), "unix:///run/r.sock?***");
        assert_eq!(shown("redis://h"), "redis://h");
        let error = "redis://:secret@h:port".parse::<Address>().unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn bad_addresses_are_refused() {
        for bad in ["", "web1", "http://x", "rediss://x", &format!("unix:///{}", "x".repeat(108))] {
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
