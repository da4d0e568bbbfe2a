//! What is to run: the description that clients send and that is kept on disk.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The most sockets of one service.
pub(crate) const MOST_SOCKETS: usize = 32;

/// What to run, and at which sockets. It cannot be printed, as its environment may hold secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    /// Working directory; the root directory where absent.
    #[serde(default)]
    pub(crate) directory: Option<PathBuf>,
    /// User to switch to, by name or id.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// Variables to add to a small environment of known content.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// The sockets that it gets.
    #[serde(default)]
    pub(crate) listen: Vec<Listen>,
    /// Whether two processes may run at once: the new one beside the one that ends.
    #[serde(default)]
    pub(crate) overlap: bool,
    /// How long it may take to end after TERM, in milliseconds.
    pub(crate) drain_ms: u64,
    /// Which release it is. It is only shown.
    #[serde(default)]
    pub(crate) release: Option<String>,
}

/// A socket to listen at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Listen {
    /// Its name in `LISTEN_FDNAMES`; that of the service where absent.
    pub(crate) name: Option<String>,
    /// Where.
    pub(crate) address: Address,
}

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why a text is no address to listen at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no address to listen at: write IP:PORT, [IPV6]:PORT or unix:/PATH, perhaps behind NAME=")]
pub(crate) struct NoAddress(String);

impl FromStr for Listen {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let (name, address) = match text.split_once('=') {
            Some((name, address)) if !name.starts_with("unix:") => (Some(name), address),
            _ => (None, text),
        };
        let no_address = || NoAddress(text.to_owned());
        let is_plain = |name: &str| {
            let plain = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
            (1..=100).contains(&name.len()) && name.chars().all(plain)
        };
        if name.is_some_and(|name| !is_plain(name)) {
            return Err(no_address());
        }
        let address = match address.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') && !path.contains('\0') => Address::Unix(path.into()),
            Some(_) => return Err(no_address()),
            None => Address::Tcp(address.parse().map_err(|_| no_address())?),
        };
        Ok(Self { name: name.map(str::to_owned), address })
    }
}

impl TryFrom<String> for Listen {
    type Error = NoAddress;

    fn try_from(text: String) -> Result<Self, NoAddress> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(out, "{name}=")?;
        }
        write!(out, "{}", self.address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(out, "{address}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Whether who connects to `other` would reach this socket.
    pub(crate) fn serves(&self, other: SocketAddr) -> bool {
        let Self::Tcp(own) = self else { return false };
        own.port() == other.port() && (own.ip() == other.ip() || own.ip().is_unspecified())
    }

    /// An address of this machine alone, with a port that is free.
    pub(crate) const fn private(own: &SocketAddr) -> SocketAddr {
        match own {
            SocketAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            SocketAddr::V6(_) => SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["127.0.0.1:8080", "[::]:80", "unix:/run/x.sock", "unix:/run/a=b", "web=127.0.0.1:1"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        let named: Listen = "admin=unix:/run/x".parse().unwrap();
        assert_eq!((named.name.as_deref(), named.address), (Some("admin"), Address::Unix("/run/x".into())));
        for text in ["", "8080", "localhost:80", "unix:run/x", "a:b=127.0.0.1:1", "=127.0.0.1:1", "127.0.0.1"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_knows_who_reaches_it() {
        let serves = |own: &str, other: &str| own.parse::<Listen>().unwrap().address.serves(other.parse().unwrap());
        assert!(serves("127.0.0.1:80", "127.0.0.1:80") && serves("0.0.0.0:80", "127.0.0.1:80"));
        assert!(!serves("127.0.0.1:80", "127.0.0.1:81") && !serves("127.0.0.2:80", "127.0.0.1:80"));
        assert!(!serves("unix:/run/x", "127.0.0.1:80"));
    }
}
