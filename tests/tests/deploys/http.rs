//! Releases that hosts fetch by HTTP and HTTPS.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
};

use protocol::{action::Argument, command::Manifest};
use tests::{Authority, Issued};
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{Done, Host, archive};

/// A server of files that says what was asked for. Each connection gets one answer, in turn.
struct Server {
    address: SocketAddr,
    asked: mpsc::Receiver<String>,
}

impl Server {
    /// Each answer: the head, what is sent of the content, and no more.
    fn start(answers: Vec<(String, Vec<u8>)>) -> Self {
        Self::speaking(answers, Ok)
    }

    /// The same by TLS, with this certificate.
    fn encrypted(answers: Vec<(String, Vec<u8>)>, issued: &Issued) -> Self {
        let certificates =
            CertificateDer::pem_file_iter(&issued.cert).and_then(Iterator::collect).expect("certificates");
        let key = PrivateKeyDer::from_pem_file(&issued.key).expect("a key");
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let config = Arc::new(builder.with_single_cert(certificates, key).expect("a pair"));
        Self::speaking(answers, move |mut stream| {
            let mut connection = ServerConnection::new(Arc::clone(&config)).expect("a connection");
            connection.complete_io(&mut stream)?;
            Ok(StreamOwned::new(connection, stream))
        })
    }

    /// `prepare`: what is done with a connection first. Where that fails, there is no request.
    fn speaking<S: Read + Write>(
        answers: Vec<(String, Vec<u8>)>,
        prepare: impl Fn(TcpStream) -> io::Result<S> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, asked) = mpsc::channel();
        thread::spawn(move || {
            for (head, content) in answers {
                let mut stream = loop {
                    let (stream, _) = listener.accept().expect("a connection");
                    if let Ok(stream) = prepare(stream) {
                        break stream;
                    }
                };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).expect("a request");
                    request.push(byte[0]);
                }
                sender.send(String::from_utf8(request).expect("text")).expect("the test");
                // The other end may have heard enough.
                let _ = stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes());
                let _ = stream.write_all(&content);
            }
        });
        Self { address, asked }
    }
}

impl Host {
    /// Deploys from a URL.
    #[track_caller]
    fn deploy_from(&mut self, version: &str, content: &[u8], url: &str) -> Done {
        let (_, manifest, _) = self.deploy_of(version, content);
        let mut arguments = manifest.arguments.clone();
        arguments.insert("url".into(), Argument::Text(url.into()));
        let manifest = Manifest { arguments, ..manifest };
        self.raw.send("web1", &manifest);
        Done(self.raw.outcome("web1", &manifest))
    }
}

#[test]
fn content_is_fetched_by_http_and_goes_on_where_the_connection_was_cut() {
    let mut noise: Vec<String> =
        (0..40_000_u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string()).collect();
    noise.push(String::new());
    let content = archive(&[("noise", &noise.concat())]);
    let (size, half) = (content.len(), content.len() / 2);
    let whole = format!("200 OK\r\nContent-Length: {size}");
    let rest = format!(
        "206 Partial Content\r\nContent-Range: bytes {half}-{}/{size}\r\nContent-Length: {}",
        size - 1,
        size - half
    );
    let mut altered = content.clone();
    altered[half] ^= 1;
    let server = Server::start(vec![
        (whole.clone(), content[..half].to_vec()),
        (rest, content[half..].to_vec()),
        // What a server must not get away with.
        (whole.clone(), altered),
        (whole, [&content[..], b"more"].concat()),
        (format!("200 OK\r\nContent-Length: {}", size + 1), content.clone()),
        ("302 Found\r\nLocation: http://127.0.0.1:1/".into(), Vec::new()),
        ("404 Not Found".into(), Vec::new()),
        ("200 OK\r\nTransfer-Encoding: chunked".into(), Vec::new()),
        ("SSH-2.0".into(), Vec::new()),
    ]);
    let mut host = Host::bare(&format!("urls = ['http://{}/releases/']", server.address));
    let url = format!("http://{}/releases/web.tar.gz", server.address);
    host.deploy_from("1", &content, &url).good().is("deployed", Some("1"), None);
    let asked = server.asked.recv().expect("a request");
    assert!(asked.starts_with("GET /releases/web.tar.gz HTTP/1.1\r\n") && !asked.contains("Range:"), "{asked}");
    let asked = server.asked.recv().expect("a request");
    assert!(asked.contains(&format!("\r\nRange: bytes={half}-\r\n")), "{asked}");

    for reason in [
        "does not have the digest that was signed",
        // It had all that was signed: what follows is nobody's.
        "",
        "is of another size than what was signed",
        "status 302, a redirect, and none is followed",
        "status 404",
        "in chunks: serve it as a file",
        "it is no HTTP/1.1",
    ] {
        let done = host.deploy_from("2", &content, &url);
        if reason.is_empty() {
            done.good();
            host.run("deploy-rollback", &[("app", "web"), ("version", "1")]).good();
            fs::remove_dir_all(host.app.join("releases/2")).expect("a release");
        } else {
            done.bad("version 2 cannot be fetched: ").bad(reason);
        }
    }

    for (url, reason) in [
        (format!("http://{}/other/web.tar.gz", server.address), "does not begin with what the settings allow"),
        (format!("http://{}/releases/../other", server.address), "is no URL of the form"),
        (format!("http://user@{}/releases/x", server.address), "is no URL of the form"),
        ("file:///etc/passwd".to_owned(), "is no URL of the form"),
    ] {
        host.deploy_from("2", &content, &url).bad(reason);
    }
    assert!(server.asked.try_iter().count() == 7, "nobody was asked for what is not allowed");
    assert_eq!(host.current().as_deref(), Some("1"));
}

#[test]
fn content_comes_by_https_only_from_a_server_that_this_machine_trusts() {
    let directory = tempfile::tempdir().expect("a directory");
    let (authority, other) = (Authority::new(directory.path(), "ca"), Authority::new(directory.path(), "other"));
    let content = archive(&[("ok", "1")]);
    let head = format!("200 OK\r\nContent-Length: {}", content.len());
    let server = Server::encrypted(vec![(head, content.clone())], &authority.issue("releases", &["localhost"]));
    let urls = ["localhost", "127.0.0.1"].map(|name| format!("https://{name}:{}/", server.address.port()));

    let settings = format!("urls = ['{}', '{}']", urls[0], urls[1]);
    let mut host = Host::bare(&settings);
    let options = host.options.clone();
    for (trusted, url) in [(other.file(), &urls[0]), (authority.file(), &urls[1])] {
        drop(host.worker.take());
        host.options = options.clone().env("SSL_CERT_FILE", trusted.to_str().expect("text"));
        host.start();
        host.deploy_from("1", &content, &format!("{url}web.tar.gz")).bad("the connection to").bad("certificate");
    }
    assert!(server.asked.try_recv().is_err(), "nobody was asked for anything");
    host.deploy_from("1", &content, &format!("{}web.tar.gz", urls[0])).good().is("deployed", Some("1"), None);
    let asked = server.asked.recv().expect("a request");
    assert!(asked.contains(&format!("\r\nHost: localhost:{}\r\n", server.address.port())), "{asked}");
}
