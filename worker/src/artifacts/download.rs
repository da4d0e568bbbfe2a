//! Fetching an artifact by HTTP: from where a prior command, or a connection that was cut, has come to.
//!
//! It is one request, `GET` with a range, of HTTP/1.1, and a response with the bytes as they are. Nothing the server says
//! is believed but the bytes, and these by their digest. No redirect is followed: it would lead to where the settings do
//! not allow.

use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use protocol::{artifact::Artifact, name::JobId, tls::TlsFiles};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Artifacts, Fetched, partial::Partial};
use crate::{
    detached,
    live::Live,
    log::{self, excerpt},
};

/// How long a server may say nothing.
const SILENT: Duration = Duration::from_secs(30);

/// How often a connection that was cut is made again without having brought anything.
const ATTEMPTS: u32 = 5;

/// How long is waited before that, once, twice, three times…
const BACKOFF: Duration = Duration::from_millis(200);

/// Bytes of the head of a response.
const HEAD: usize = 16 * 1024;

/// Bytes that are written at once.
const PIECE: usize = 512 * 1024;

/// How often progress is reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Why an artifact was not fetched by HTTP.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// It is no URL.
    #[error("'{0}' is no URL of the form http(s)://HOST/PATH: there must be no user, no fragment, no '..' in it")]
    Url(String),
    /// The server has something else to say.
    #[error("the server replies with status {0}{1}")]
    Status(u16, &'static str),
    /// It does not speak HTTP as it must.
    #[error("the server's response cannot be used: {0}")]
    Response(&'static str),
    /// It sends more, or less.
    #[error("what the server has is of another size than what was signed")]
    Size,
    /// All bytes are there, but they are not what was signed.
    #[error("what the server has does not have the digest that was signed")]
    Digest,
    /// The connection.
    #[error("the connection to {0} fails again and again")]
    Connection(String, #[source] io::Error),
    /// The disk.
    #[error("the content cannot be kept in {path}: {1}", path = .0.display())]
    Disk(PathBuf, #[source] io::Error),
    /// The command must end.
    #[error("it was ended before all was there")]
    Stopped,
}

/// Where an artifact is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    is_secure: bool,
    host: String,
    port: u16,
    /// Host and port as they are written.
    authority: String,
    /// Path and query.
    path: String,
    text: String,
}

impl FromStr for Url {
    type Err = DownloadError;

    fn from_str(text: &str) -> Result<Self, DownloadError> {
        let no_url = || DownloadError::Url(excerpt(text, log::SENTENCE));
        let (is_secure, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(no_url()),
        };
        let (server, path) = rest.split_at(rest.find('/').ok_or_else(no_url)?);
        // What a server would make something else of, so that the beginning of the URL meant nothing.
        let resource = path.split('?').next().unwrap_or_default().to_ascii_lowercase();
        let is_hidden = ["%2e", "%2f", "%5c"].iter().any(|hidden| resource.contains(hidden));
        let climbs = is_hidden || resource.split('/').any(|name| name == "." || name.starts_with(".."));
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\\\"<>".contains(&byte));
        if climbs || !is_plain || server.contains('@') {
            return Err(no_url());
        }
        let has_port = server.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        let (host, port) = match has_port {
            Some((host, port)) => (host, port.parse().map_err(|_| no_url())?),
            None => (server, if is_secure { 443 } else { 80 }),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let named = |char: char| char.is_ascii_alphanumeric() || "-.:".contains(char);
        if host.is_empty() || port == 0 || !host.chars().all(named) {
            return Err(no_url());
        }
        let (host, authority) = (host.to_owned(), server.to_owned());
        Ok(Self { is_secure, host, port, authority, path: path.to_owned(), text: text.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// What a response says before its content.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// The bytes of its content, where it says so.
    length: Option<u64>,
    /// From which byte on it is, of how many.
    range: Option<(u64, u64)>,
    is_encoded: bool,
}

impl Head {
    fn read(text: &str) -> Option<Self> {
        let mut lines = text.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
        let mut head = Self { status, length: None, range: None, is_encoded: false };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = Some(value.parse().ok()?),
                "content-range" => {
                    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
                    head.range = Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?));
                }
                "transfer-encoding" | "content-encoding" => head.is_encoded |= value != "identity",
                _ => {}
            }
        }
        Some(head)
    }
}

/// How an attempt ended that brought not all.
enum Cut {
    /// It may be tried again.
    Connection(io::Error),
    /// It may not.
    For(DownloadError),
}

impl From<io::Error> for Cut {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

impl Artifacts {
    /// Fetches an artifact by HTTP. Whether it may come from there is the caller's to know.
    ///
    /// # Errors
    /// The content is not there, not the right one, or cannot be kept; or `stop` was cancelled.
    pub async fn download(
        &self,
        artifact: Artifact,
        url: &Url,
        job: JobId,
        stop: &CancellationToken,
        live: &Live,
    ) -> Result<Fetched, DownloadError> {
        let disk = |error| DownloadError::Disk(self.directory.clone(), error);
        let directory = self.directory.clone();
        let open = move || Partial::open(&directory, artifact, None, job);
        let mut partial = Some(detached::call(open).await.flatten().map_err(disk)?);
        // One that begins anew each time does not get farther.
        let (mut attempt, mut farthest) = (0, partial.as_ref().map_or(0, Partial::bytes));
        loop {
            let got = tokio::select! {
                got = self.attempt(&mut partial, artifact, url, live) => got,
                () = stop.cancelled() => return Err(DownloadError::Stopped),
            };
            let now = partial.as_ref().map_or(0, Partial::bytes);
            attempt = if now > farthest { 0 } else { attempt + 1 };
            farthest = farthest.max(now);
            match got {
                Ok(()) => {}
                Err(Cut::Connection(error)) if attempt >= ATTEMPTS => {
                    return Err(DownloadError::Connection(url.host.clone(), error));
                }
                Err(Cut::Connection(_)) => {
                    live.progress(format!("the connection to {} was cut, it is made again", url.host));
                    sleep(BACKOFF * attempt).await;
                    continue;
                }
                Err(Cut::For(error)) => {
                    // A full disk gets its space back.
                    if let (DownloadError::Disk(..), Some(partial)) = (&error, partial.take()) {
                        partial.discard();
                    }
                    return Err(error);
                }
            }
            let Some(mut whole) = partial.take() else { return Err(DownloadError::Stopped) };
            if whole.is_whole() {
                return detached::call(move || whole.finish()).await.flatten().map_err(disk);
            }
            if !whole.is_resumed() {
                whole.discard();
                return Err(DownloadError::Digest);
            }
            // The disk may have lost a part of what was there.
            let anew = move || whole.begin_anew().map(|()| whole);
            partial = Some(detached::call(anew).await.flatten().map_err(disk)?);
        }
    }

    /// Asks once for what is missing. What has come stays.
    async fn attempt(
        &self,
        partial: &mut Option<Partial>,
        artifact: Artifact,
        url: &Url,
        live: &Live,
    ) -> Result<(), Cut> {
        if partial.as_ref().is_some_and(|partial| partial.bytes() == artifact.bytes()) {
            return Ok(());
        }
        let connect = TcpStream::connect((url.host.as_str(), url.port));
        let stream = timeout(SILENT, connect).await.map_err(io::Error::from).flatten()?;
        if !url.is_secure {
            return self.converse(stream, partial, artifact, url, live).await;
        }
        let files = TlsFiles::default();
        let stream = timeout(SILENT, files.wrap(&url.host, stream)).await.map_err(io::Error::from).flatten()?;
        self.converse(stream, partial, artifact, url, live).await
    }

    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        partial: &mut Option<Partial>,
        artifact: Artifact,
        url: &Url,
        live: &Live,
    ) -> Result<(), Cut> {
        let disk = |error| Cut::For(DownloadError::Disk(self.directory.clone(), error));
        let from = partial.as_ref().map_or(0, Partial::bytes);
        let range = if from > 0 { format!("Range: bytes={from}-\r\n") } else { String::new() };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: redfleet\r\nAccept: */*\r\nAccept-Encoding: identity\r\n\
             {range}Connection: close\r\n\r\n",
            url.path, url.authority
        );
        stream.write_all(request.as_bytes()).await?;
        let (head, mut piece) = head(&mut stream).await?;
        let refused = |error| Err(Cut::For(error));
        match head.status {
            _ if head.is_encoded => {
                return refused(DownloadError::Response("it is encoded, or in chunks: serve it as a file"));
            }
            206 if head.range == Some((from, artifact.bytes())) => {}
            206 => return refused(DownloadError::Size),
            200 if head.length.is_some_and(|length| length != artifact.bytes()) => return refused(DownloadError::Size),
            200 => {
                if from > 0
                    && let Some(mut all) = partial.take()
                {
                    let anew = move || all.begin_anew().map(|()| all);
                    *partial = Some(detached::call(anew).await.flatten().map_err(disk)?);
                }
            }
            status @ 300..400 => return refused(DownloadError::Status(status, ", a redirect, and none is followed")),
            // The server is busy, or is being restarted.
            status @ 500..600 => {
                let busy = DownloadError::Status(status, "").to_string();
                return Err(Cut::Connection(io::Error::other(busy)));
            }
            status => return refused(DownloadError::Status(status, "")),
        }

        let (mut report_at, mut cut) = (Instant::now() + REPORT_EVERY, Ok(()));
        loop {
            let Some(mut grown) = partial.take() else { return refused(DownloadError::Stopped) };
            // What comes behind the content is none of it.
            let left = artifact.bytes() - grown.bytes();
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let bytes = grown.bytes() + piece.len() as u64;
            let append = move || {
                let appended = grown.append_plain(&piece);
                (grown, appended)
            };
            let (grown, appended) = detached::call(append).await.map_err(disk)?;
            *partial = Some(grown);
            appended.map_err(disk)?;
            if bytes == artifact.bytes() {
                return Ok(());
            }
            cut?;
            if Instant::now() >= report_at {
                report_at = Instant::now() + REPORT_EVERY;
                live.progress(format!("fetched {} of {} MiB", bytes >> 20, artifact.bytes() >> 20));
            }
            (piece, cut) = read_piece(&mut stream).await;
        }
    }
}

/// The bytes that come next, and how it ended where there are fewer than a piece.
async fn read_piece(stream: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, io::Result<()>) {
    let mut piece = Vec::with_capacity(PIECE);
    while piece.len() < PIECE {
        let mut rest = (&mut *stream).take((PIECE - piece.len()) as u64);
        match timeout(SILENT, rest.read_buf(&mut piece)).await.map_err(io::Error::from).flatten() {
            Ok(0) => return (piece, Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return (piece, Err(error)),
        }
    }
    (piece, Ok(()))
}

/// The head of a response, and what came of its content with it.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Head, Vec<u8>), Cut> {
    let malformed = |what| Cut::For(DownloadError::Response(what));
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let content = bytes.split_off(end + 4);
            let text = std::str::from_utf8(&bytes[..end]).map_err(|_| malformed("it is no HTTP/1.1"))?;
            return Ok((Head::read(text).ok_or_else(|| malformed("it is no HTTP/1.1"))?, content));
        }
        if bytes.len() > HEAD {
            return Err(malformed("its head is too long"));
        }
        let mut buffer = [0; 2048];
        let count = timeout(SILENT, stream.read(&mut buffer)).await.map_err(io::Error::from).flatten()?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_what_its_beginning_promises() {
        let url: Url = "https://releases.example.com:8443/web/2.tar.gz?token=a%20b".parse().unwrap();
        assert_eq!((url.is_secure, url.host.as_str(), url.port), (true, "releases.example.com", 8443));
        assert_eq!(url.path, "/web/2.tar.gz?token=a%20b");
        let url: Url = "http://[::1]/x".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.authority.as_str()), ("::1", 80, "[::1]"));
        // A query is no path.
        let signed = "https://a/b?X-Amz-Credential=AKIA%2F20261128%2Feu&name=../x";
        assert_eq!(signed.parse::<Url>().unwrap().path, signed["https://a".len()..]);
        for wrong in [
            "",
            "ftp://a/b",
            "http://a",
            "http:///b",
            "http://a:0/b",
            "http://user@a/b",
            "http://a/b#c",
            "http://a/b c",
            "http://a/x/../b",
            "http://a/x/..",
            "http://a/./b",
            "http://a/%2E%2e/b",
            "http://a/x/..%2f../b",
            "http://a/x/..;/b",
            "http://a/x%5C../b",
            "http://a/x\\..\\b",
            "http://a\r\nX: y/b",
            "http://ä/b",
        ] {
            assert!(wrong.parse::<Url>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_head_of_a_response_is_understood() {
        let head =
            Head::read("HTTP/1.1 206 Partial Content\r\ncontent-LENGTH: 5\r\nContent-Range: bytes 7-11/12").unwrap();
        assert_eq!(head, Head { status: 206, length: Some(5), range: Some((7, 12)), is_encoded: false });
        assert!(Head::read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked").unwrap().is_encoded);
        for wrong in ["", "SSH-2.0", "HTTP/1.1", "HTTP/1.1 x", "HTTP/1.1 200\r\nContent-Length: -1"] {
            assert_eq!(Head::read(wrong), None, "{wrong}");
        }
    }
}
