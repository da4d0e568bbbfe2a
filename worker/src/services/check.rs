//! Checks: whether a service does what it is for.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::tools::{Tools, how_it_ended};
use crate::{log, program::Program, supervisor::launch::Listen};

/// How long a connection or a response may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Bytes of a response that are read to find its first line.
const FIRST_LINE: usize = 1024;

/// The variable that tells the program of a check where the candidate listens that it is to check: the addresses in the
/// order of `listen`, with spaces between them. Without it, the service itself is to be checked.
const ADDRESS: &str = "REDFLEET_ADDRESS";

/// A check as the settings have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Input {
    tcp: Option<String>,
    http: Option<String>,
    status: Option<u16>,
    argv: Option<Vec<String>>,
}

/// A check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Somebody accepts connections.
    Tcp(Server),
    /// A GET request is answered with this status, or with any of 200 to 299.
    Http { server: Server, path: String, status: Option<u16> },
    /// A program ends with exit code 0.
    Program { argv: Vec<String>, addresses: Vec<String> },
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    host: String,
    port: u16,
}

impl Server {
    fn read(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let plain = |char: char| char.is_ascii_alphanumeric() || "-._:".contains(char);
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (!host.is_empty() && host.chars().all(plain)).then(|| Self { host: host.to_owned(), port })
    }

    /// The address, where it can be told without asking anybody.
    fn address(&self) -> Option<SocketAddr> {
        let ip = if self.host == "localhost" { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { self.host.parse().ok()? };
        Some(SocketAddr::new(ip, self.port))
    }

    /// As a URL has it.
    fn shown(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        timeout(WITHIN, TcpStream::connect((self.host.as_str(), self.port))).await.map_err(|_| ErrorKind::TimedOut)?
    }

    /// This server as it is reached at the private sockets of a candidate.
    fn at(&self, sockets: &[(Listen, String)]) -> Option<Self> {
        let own = self.address()?;
        let (_, private) = sockets.iter().find(|(listen, _)| listen.address.serves(own))?;
        Self::read(private)
    }
}

impl Check {
    /// Reads a check from the settings.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(input: Input) -> Result<Self, String> {
        let Input { tcp, http, status, argv } = input;
        if status.is_some() && http.is_none() {
            return Err("check: status is for http alone".into());
        }
        Ok(Self(match (tcp, http, argv) {
            (Some(address), None, None) => {
                Kind::Tcp(Server::read(&address).ok_or_else(|| format!("check: '{address}' is not HOST:PORT"))?)
            }
            (None, Some(url), None) => {
                let rest = url.strip_prefix("http://").ok_or_else(|| {
                    format!("check: '{url}' does not begin with http:// (for anything else: argv = [\"curl\", …])")
                })?;
                let (server, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let has_port = server.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
                let server = if has_port { server.to_owned() } else { format!("{server}:80") };
                let server =
                    Server::read(&server).ok_or_else(|| format!("check: '{url}' is not http://HOST:PORT/PATH"))?;
                if path.contains(|char: char| char.is_ascii_control() || char == ' ' || !char.is_ascii()) {
                    return Err(format!("check: the path of '{url}' is not that of a URL"));
                }
                let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
                Kind::Http { server, path, status }
            }
            (None, None, Some(argv)) if !argv.is_empty() => Kind::Program { argv, addresses: Vec::new() },
            _ => return Err("check: exactly one of tcp, http and argv is needed".into()),
        }))
    }

    /// Whether it can be made of a candidate at private sockets, in the place of these. See [`Self::at`].
    pub(super) fn concerns(&self, listen: &[Listen]) -> bool {
        match &self.0 {
            Kind::Tcp(server) | Kind::Http { server, .. } => {
                server.address().is_some_and(|own| listen.iter().any(|listen| listen.address.serves(own)))
            }
            Kind::Program { .. } => !listen.is_empty(),
        }
    }

    /// Whether it surely looks where it is told to. A program may, by `REDFLEET_ADDRESS`, or may not.
    pub(super) const fn is_bound(&self) -> bool {
        !matches!(self.0, Kind::Program { .. })
    }

    /// This check of a candidate that listens at private sockets; `None` where the check does not concern any of them.
    pub(super) fn at(&self, sockets: &[(Listen, String)]) -> Option<Self> {
        Some(Self(match &self.0 {
            _ if sockets.is_empty() => return None,
            Kind::Tcp(server) => Kind::Tcp(server.at(sockets)?),
            Kind::Http { server, path, status } => {
                Kind::Http { server: server.at(sockets)?, path: path.clone(), status: *status }
            }
            Kind::Program { argv, .. } => {
                let addresses = sockets.iter().map(|(_, address)| address.clone()).collect();
                Kind::Program { argv: argv.clone(), addresses }
            }
        }))
    }

    /// What it does, in words.
    pub(crate) fn describe(&self) -> String {
        match &self.0 {
            Kind::Tcp(server) => format!("connect to {}", server.shown()),
            Kind::Http { server, path, status } => {
                let wanted = status.map_or("200 to 299".to_owned(), |status| status.to_string());
                format!("GET http://{}{path}, status {wanted}", server.shown())
            }
            Kind::Program { argv, .. } => format!("run {}, exit code 0", argv.join(" ")),
        }
    }

    /// Checks once.
    ///
    /// # Errors
    /// What is not as it should be.
    pub(crate) async fn run(&self, tools: &Tools<'_>) -> Result<(), String> {
        match &self.0 {
            Kind::Tcp(server) => {
                let connected = server.connect().await;
                connected.map(drop).map_err(|error| format!("cannot connect to {}: {error}", server.shown()))
            }
            Kind::Http { server, path, status } => {
                let url = format!("http://{}{path}", server.shown());
                let got = timeout(WITHIN, get(server, path)).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
                let got = got.map_err(|error| format!("{url}: {error}"))?;
                let fits = status.map_or((200..300).contains(&got), |status| status == got);
                if fits { Ok(()) } else { Err(format!("{url}: status {got}")) }
            }
            Kind::Program { argv, addresses } => {
                let mut env = BTreeMap::new();
                if !addresses.is_empty() {
                    env.insert(ADDRESS.to_owned(), addresses.join(" "));
                }
                let name = argv.first().cloned().unwrap_or_default();
                let program = Program { argv: argv.clone(), env, ..Program::default() };
                let ended = tools.quiet(program).await.map_err(|error| log::with_sources(&error))?;
                how_it_ended(&ended).map_or(Ok(()), |how| {
                    let said = [&ended.stdout.kept[..], &ended.stderr.kept[..]].concat();
                    let said = String::from_utf8_lossy(&said).trim().to_owned();
                    Err(format!("{name}: {how}{}{said}", if said.is_empty() { "" } else { ": " }))
                })
            }
        }
    }
}

/// A GET request; returns the status of the response. Nothing else of it is read.
async fn get(server: &Server, path: &str) -> io::Result<u16> {
    let mut stream = server.connect().await?;
    let host = server.shown();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: redfleet\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = Vec::new();
    while !line.contains(&b'\n') && line.len() < FIRST_LINE {
        let mut buffer = [0; 256];
        match stream.read(&mut buffer).await? {
            0 => break,
            count => line.extend_from_slice(&buffer[..count]),
        }
    }
    let line = String::from_utf8_lossy(&line);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
    status.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the response is not one of HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Check, String> {
        Check::read(toml::from_str(toml).unwrap())
    }

    #[test]
    fn checks_read_as_they_are_meant() {
        let described = |toml: &str| read(toml).unwrap().describe();
        assert_eq!(described("tcp = '127.0.0.1:80'"), "connect to 127.0.0.1:80");
        assert_eq!(described("http = 'http://web/x?y=1'"), "GET http://web:80/x?y=1, status 200 to 299");
        assert_eq!(described("http = 'http://[::1]:8080'\nstatus = 204"), "GET http://[::1]:8080/, status 204");
        assert_eq!(described("argv = ['pg_isready', '-q']"), "run pg_isready -q, exit code 0");
        for wrong in [
            "",
            "tcp = '127.0.0.1'",
            "tcp = ':80'",
            "tcp = 'a:0'",
            "http = 'https://web/'",
            "http = 'http://web/a b'",
            "http = 'http://a@b/'",
            "tcp = 'a:1'\nargv = ['true']",
            "tcp = 'a:1'\nstatus = 200",
            "argv = []",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_candidate_is_checked_where_it_listens() {
        let sockets = [("127.0.0.1:80".parse::<Listen>().unwrap(), "127.0.0.1:4711".to_owned())];
        let at = |toml: &str| read(toml).unwrap().at(&sockets).map(|check| check.describe());
        assert_eq!(at("tcp = 'localhost:80'").unwrap(), "connect to 127.0.0.1:4711");
        let http = at("http = 'http://127.0.0.1/health'\nstatus = 200").unwrap();
        assert_eq!(http, "GET http://127.0.0.1:4711/health, status 200");
        assert_eq!(at("tcp = '127.0.0.1:81'"), None);
        assert_eq!(at("http = 'http://web:80/'"), None, "nobody is asked what a name means");

        let listen = [sockets[0].0.clone()];
        for toml in ["tcp = 'localhost:80'", "tcp = '127.0.0.1:81'", "http = 'http://web:80/'"] {
            assert_eq!(read(toml).unwrap().concerns(&listen), at(toml).is_some(), "{toml}");
        }
        let program = read("argv = ['curl']").unwrap();
        assert!(program.concerns(&listen) && !program.concerns(&[]) && !program.is_bound());
    }
}
