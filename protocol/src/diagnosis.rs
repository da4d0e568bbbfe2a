//! What is at an address that is not a Redis server for a fleet, though somebody gave it as one.

use std::{fs, io, os::unix::fs::FileTypeExt, path::Path, time::Duration};

use redis::{ConnectionAddr, RedisError};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

use crate::{
    connection::Address,
    tls::{TlsError, TlsFiles},
};

/// How long whatever is there may take to reply.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the reply that are read: enough to tell what sent them.
const REPLY_BYTES: usize = 512;
/// Two questions in Redis' inline form. A Sentinel names itself in the reply to `ROLE`. A web server refuses the
/// first line at once.
const QUESTIONS: &[u8] = b"PING\r\nROLE\r\nQUIT\r\n";
/// The beginning of a handshake of TLS, of which the rest is missing (RFC 8446 §4): who knows TLS replies with an alert.
const BROKEN_HELLO: &[u8] = &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];

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
    #[error("speaks TLS, and the URL says redis://")]
    Tls,
    /// A server that knows no TLS.
    #[error("does not speak TLS, and the URL says rediss://")]
    NoTls,
    /// The server's certificate comes from a CA that is not trusted.
    #[error("has a certificate from a CA that is not trusted here")]
    UnknownCa,
    /// The server's certificate has expired, or is not valid yet, by this machine's clock.
    #[error("has a certificate that has expired, or is not valid yet")]
    OutOfTime,
    /// The server's certificate is for other names than the URL's.
    #[error("has a certificate for another name: {0}")]
    OtherName(String),
    /// The server's certificate cannot be used for another reason.
    #[error("has a certificate that cannot be used: {0}")]
    BadCertificate(String),
    /// The server wants to see a certificate, and none is named.
    #[error("wants a certificate of each client, and none is named here")]
    WantsCertificate,
    /// The server does not accept the client's certificate.
    #[error("does not accept the certificate of this client ({0})")]
    RefusesCertificate(String),
    /// The files for TLS cannot be used.
    #[error("cannot be reached by TLS: {0}")]
    Files(String),
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
            Self::Tls => "write rediss:// in place of redis://, and name its CA if that is your own (redis_ca)",
            Self::NoTls => "give its port with TLS (`tls-port` in its configuration)",
            Self::UnknownCa => "name the file with the certificate of its CA (redis_ca)",
            Self::OutOfTime => "renew it, or set the clock of this machine",
            Self::OtherName(_) => "give a name or address that its certificate has (subject alternative names)",
            Self::BadCertificate(_) => "give it a certificate of version 3 for servers, signed by its CA",
            Self::WantsCertificate => "name one, and its key (redis_cert, redis_key)",
            Self::RefusesCertificate(_) => {
                "name one that its CA has signed and that is still valid (redis_cert, redis_key)"
            }
            Self::Files(_) => "correct the file or its name (redis_ca, redis_cert, redis_key)",
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
        // A server without TLS waits for the end of what it takes for a line.
        _ if error.is_timeout() && address.tls().is_none() => return None,
        _ => {}
    }
    let reply = match address.target() {
        ConnectionAddr::Tcp(host, port) if let Some(files) = address.tls() => {
            return Box::pin(diagnose_tls(files, host, *port)).await;
        }
        ConnectionAddr::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => ask(stream, QUESTIONS).await,
            Err(_) => return of_path(path),
        },
        ConnectionAddr::Tcp(host, port) => {
            let connect = || timeout(PATIENCE, TcpStream::connect((host.as_str(), *port)));
            let reply = ask(connect().await.ok()?.ok()?, QUESTIONS).await;
            // A server with TLS may end the connection without a word.
            if reply.is_empty() { ask(connect().await.ok()?.ok()?, BROKEN_HELLO).await } else { reply }
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

/// The beginning of the reply to these questions.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, questions: &[u8]) -> Vec<u8> {
    let mut reply = Vec::new();
    // Whatever has come before an error or the end of the patience is the reply.
    let _ = timeout(PATIENCE, async {
        stream.write_all(questions).await?;
        while reply.len() < REPLY_BYTES && of_reply(&reply).is_none() && stream.read_buf(&mut reply).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
    reply
}

/// What keeps TLS from working with this server, or what is there instead.
async fn diagnose_tls(files: &TlsFiles, host: &str, port: u16) -> Option<Mistake> {
    let connect = || timeout(PATIENCE, TcpStream::connect((host, port)));
    match timeout(PATIENCE, ask_by_tls(files, host, connect().await.ok()?.ok()?)).await {
        Ok(Ok(reply)) => of_reply(&reply),
        Ok(Err(error)) => of_tls_error(&error, files.has_certificate()),
        Err(_) => {
            let reply = ask(connect().await.ok()?.ok()?, QUESTIONS).await;
            matches!(reply[..], [b'+' | b'-', ..]).then_some(Mistake::NoTls)
        }
    }
}

/// The beginning of the reply by TLS. A server says what it thinks of the client's certificate only after the client has
/// begun to ask.
async fn ask_by_tls(files: &TlsFiles, host: &str, stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut stream = files.wrap(host, stream).await?;
    let mut reply = Vec::new();
    stream.write_all(QUESTIONS).await?;
    stream.flush().await?;
    stream.read_buf(&mut reply).await?;
    Ok(reply)
}

/// What is wrong where TLS failed with this error.
fn of_tls_error(error: &io::Error, has_certificate: bool) -> Option<Mistake> {
    use AlertDescription as Alert;
    let inner = error.get_ref()?;
    if let Some(error) = inner.downcast_ref::<TlsError>() {
        return Some(Mistake::Files(error.to_string()));
    }
    Some(match inner.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidMessage(_) => Mistake::NoTls,
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer => Mistake::UnknownCa,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Mistake::OutOfTime,
            CertificateError::NotValidForName => Mistake::OtherName("the URL's is not in it".into()),
            CertificateError::NotValidForNameContext { presented, .. } => Mistake::OtherName(presented.join(", ")),
            other => Mistake::BadCertificate(other.to_string()),
        },
        rustls::Error::AlertReceived(Alert::CertificateRequired) => Mistake::WantsCertificate,
        // What a server says in TLS 1.2 where a certificate is missing.
        rustls::Error::AlertReceived(Alert::HandshakeFailure) if !has_certificate => Mistake::WantsCertificate,
        rustls::Error::AlertReceived(alert) if has_certificate => Mistake::RefusesCertificate(format!("{alert:?}")),
        _ => return None,
    })
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
