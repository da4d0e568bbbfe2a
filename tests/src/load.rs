//! Clients that ask an HTTP server again and again, and count what they get.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(20);

/// What clients have got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Whole answers with status 200, of a version that may answer.
    pub answered: usize,
    /// Answers of a version that may not.
    pub wrong: Vec<String>,
    /// Connections that were refused.
    pub refused: usize,
    /// Connections that broke before the whole answer.
    pub broken: usize,
    /// Anything else, in words.
    pub other: Vec<String>,
}

/// Which versions may answer at a moment: the first word of an answer. As long as none was named, any may.
#[derive(Clone, Default)]
pub struct Versions(Arc<Mutex<Vec<String>>>);

impl Versions {
    /// From now on these may answer, and no others.
    pub fn are(&self, versions: &[&str]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = versions.iter().map(ToString::to_string).collect();
    }

    fn now(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Counts>>,
    begin: Instant,
}

/// Asks once: the status and the body.
///
/// # Errors
/// There was no whole answer.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).filter(|body| body.ends_with('\n'));
    status.zip(body).ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

impl Load {
    /// Starts so many clients, each of which asks `path` as fast as it is answered.
    pub fn start(address: SocketAddr, path: &'static str, clients: usize) -> Self {
        Self::of_versions(address, path, clients, &Versions::default())
    }

    /// The same, where an answer counts only if its version might answer when it was asked for, or when it came.
    pub fn of_versions(address: SocketAddr, path: &'static str, clients: usize, versions: &Versions) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (stop, versions) = (Arc::clone(&stop), versions.clone());
            thread::spawn(move || {
                let mut counts = Counts::default();
                while !stop.load(Ordering::Relaxed) {
                    let before = versions.now();
                    match get(address, path) {
                        Ok((200, body)) => {
                            let version = body.split(' ').next().unwrap_or_default().to_owned();
                            if before.is_empty() || before.contains(&version) || versions.now().contains(&version) {
                                counts.answered += 1;
                            } else {
                                counts.wrong.push(format!("{version} in place of {before:?}"));
                            }
                        }
                        Ok((status, body)) => counts.other.push(format!("status {status}: {body}")),
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => counts.refused += 1,
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => counts.broken += 1,
                        Err(error) if error.kind() == ErrorKind::UnexpectedEof => counts.broken += 1,
                        Err(error) => counts.other.push(error.to_string()),
                    }
                }
                counts
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, clients, begin: Instant::now() }
    }

    /// Stops the clients. Returns what they have got, and in which time.
    pub fn finish(self) -> (Counts, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Counts::default();
        for client in self.clients {
            let counts = client.join().expect("a client does not panic");
            all.answered += counts.answered;
            all.refused += counts.refused;
            all.broken += counts.broken;
            all.wrong.extend(counts.wrong);
            all.other.extend(counts.other);
        }
        (all, self.begin.elapsed())
    }
}
