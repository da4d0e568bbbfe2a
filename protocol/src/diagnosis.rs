//! What is at an address that is not a Redis server for a fleet, though somebody gave it as one.

use std::{fs, io, os::unix::fs::FileTypeExt, path::Path, time::Duration};

use redis::{ConnectionAddr, RedisError};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::connection::Address;

/// How long whatever is there may take to reply.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the reply that are read: enough to tell what sent them.
const REPLY_BYTES: usize = 512;
/// Two questions in Redis' inline form. A Sentinel names itself in the reply to `ROLE`. A web server refuses the
/// first line at once.
const QUESTIONS: &[u8] = b"PING\r\nROLE\r\nQUIT\r\n";

/// What is there instead. Each is displayed as the rest of a sentence that begins with the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mistake {
    /// Nothing has this path.
    #[error("cannot be reached: there is no such file")]
    Missing,
    /// The path of a Unix socket is that of a directory.
    #[error("is a directory, not the socket of a Redis server")]
    Directory,
    /// The path of a Unix socket is that of another file.
    #[error("is a file, not the socket of a Redis server")]
    File,
    /// A node of a Redis Cluster.
    #[error("is a node of a Redis Cluster, which is not supported yet")]
    ClusterNode,
    /// A Sentinel.
    #[error("is a Redis Sentinel, which keeps no data itself")]
    Sentinel,
    /// A web server.
    #[error("is a web server: it speaks HTTP, not Redis' protocol")]
    Http,
    /// A server that expects TLS.
    #[error("speaks TLS, which is not supported yet")]
    Tls,
    /// Anything else.
    #[error("is no Redis server: it speaks another protocol")]
    Foreign,
}

impl Mistake {
    /// What to give instead.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Missing => "is redis-server running, and is this the `unixsocket` of its configuration?",
            Self::Directory => "give the socket in it, such as unix:///run/redis/redis.sock",
            Self::File => "give the `unixsocket` of the server's configuration",
            Self::ClusterNode => "give a Redis server that is not in cluster mode (cluster-enabled no)",
            Self::Sentinel => "give the server that it watches: redis-cli -p PORT SENTINEL MASTERS shows its address",
            Self::Http | Self::Foreign => {
                "give the port of redis-server: 6379, unless its configuration says otherwise"
            }
            Self::Tls => "give the server's port without TLS (`port` in its configuration), or a Unix socket",
        }
    }
}

/// Finds out whether an error comes from an address that is not what it should be. Asks the address itself where the
/// error does not say, over a connection of its own.
pub async fn diagnose(address: &Address, error: &RedisError) -> Option<Mistake> {
    match error.code() {
        Some("MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT") => return Some(Mistake::ClusterNode),
        // A Sentinel does not know most commands.
        Some(code) if code != "ERR" => return None,
        _ if error.is_timeout() => return None,
        _ => {}
    }
    let reply = match address.target() {
        ConnectionAddr::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => ask(stream).await,
            Err(_) => return of_path(path),
        },
        ConnectionAddr::Tcp(host, port) => {
            let connect = TcpStream::connect((host.as_str(), *port));
            ask(timeout(PATIENCE, connect).await.ok()?.ok()?).await
        }
        _ => return None,
    };
    of_reply(&reply)
}

/// What a path is that no server listens on; `None` where it is a socket.
fn of_path(path: &Path) -> Option<Mistake> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Mistake::Missing),
        Err(_) => None,
        Ok(found) if found.is_dir() => Some(Mistake::Directory),
        Ok(found) => (!found.file_type().is_socket()).then_some(Mistake::File),
    }
}

/// The beginning of the reply to [`QUESTIONS`].
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<u8> {
    let mut reply = Vec::new();
    // Whatever has come before an error or the end of the patience is the reply.
    let _ = timeout(PATIENCE, async {
        stream.write_all(QUESTIONS).await?;
        while reply.len() < REPLY_BYTES && of_reply(&reply).is_none() && stream.read_buf(&mut reply).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
    reply
}

/// What sent this reply; `None` where it is a Redis server, or sent nothing.
fn of_reply(reply: &[u8]) -> Option<Mistake> {
    match reply {
        [] | [b'+' | b'-', ..] => contains(reply, b"\r\nsentinel\r\n").then_some(Mistake::Sentinel),
        // An alert of TLS (RFC 8446 §5.1).
        [0x15, 3, ..] => Some(Mistake::Tls),
        _ if reply.starts_with(b"HTTP/") || reply.starts_with(b"<") => Some(Mistake::Http),
        _ => Some(Mistake::Foreign),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_tell_who_sent_them() {
        for (reply, mistake) in [
            ("", None),
            ("+PONG\r\n*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n", None),
            ("-NOAUTH Authentication required.\r\n", None),
            ("+PONG\r\n*2\r\n$8\r\nsentinel\r\n*1\r\n$6\r\nmaster\r\n", Some(Mistake::Sentinel)),
            ("HTTP/1.1 400 Bad Request\r\n\r\n", Some(Mistake::Http)),
            ("<!DOCTYPE HTML>", Some(Mistake::Http)),
            ("\x15\x03\x03\0\x02\x02\x50", Some(Mistake::Tls)),
            ("SSH-2.0-OpenSSH_9.2\r\n", Some(Mistake::Foreign)),
        ] {
            assert_eq!(of_reply(reply.as_bytes()), mistake, "{reply}");
        }
    }

    #[test]
    fn paths_tell_what_they_are() {
        assert_eq!(of_path(Path::new("/tmp")), Some(Mistake::Directory));
        assert_eq!(of_path(Path::new("/proc/self/stat")), Some(Mistake::File));
        assert_eq!(of_path(Path::new("/no/such/socket")), Some(Mistake::Missing));
    }
}
