//! The HTTP listener of `ctl serve`: figures, the list of hosts, and how this process is.
//!
//! Everything that a client can use up is bounded: connections, the size and the time of a request, and the time in which
//! it must take what it is sent.

mod patient;
mod pieces;
mod routes;
pub mod settings;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use self::{
    patient::Patient,
    routes::answer,
    settings::{Access, Http},
};
use super::{Life, exporter::Exporter};

/// Connections at a time. Who comes beyond them waits until one ends.
const CONNECTIONS: usize = 64;

/// How long a client may take for the head of a request, or do nothing between two; and for the beginning of TLS.
const HEAD: Duration = Duration::from_secs(10);

/// How long a client may take nothing of what it is sent.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of the head of a request.
const HEAD_BYTES: usize = 16 * 1024;

/// Header lines of a request.
const HEADERS: usize = 64;

/// How often it is tried to listen where the address is in use.
const AGAIN: Duration = Duration::from_secs(10);

/// How long the files with tokens and certificates are not read again.
const KEEP: Duration = Duration::from_secs(10);

/// How long a connection may be used again. A new one is judged by the files of then.
const LONGEST: Duration = Duration::from_secs(60);

/// What the listener says.
#[derive(Debug)]
pub enum Word {
    /// Something that is as it should be.
    Note(String),
    /// Something that is not.
    Trouble(String),
}

/// Listens until it is told to stop. What is being answered then is finished.
///
/// # Errors
/// It cannot listen where it was told to.
pub async fn serve(life: Life, http: Http, exporter: Arc<Exporter>, say: impl Fn(Word) + Send) -> anyhow::Result<()> {
    let Some(address) = http.listen else {
        life.stopped().await;
        return Ok(());
    };
    let Some(listener) = listen(&life, address, http.is_default, &say).await? else { return Ok(()) };
    let mut door = Door::open(http)?;
    // With the port 0, the system has chosen one.
    say(Word::Note(format!("http: listens on {}", listener.local_addr()?)));
    life.ready();
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = life.stopped() => break,
            next = next => next,
        };
        let Ok((stream, _)) = accepted else {
            // Such as too many open files.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (access, exporter, life) = (door.access(&say), Arc::clone(&exporter), life.clone());
        tasks.spawn(async move {
            connection(stream, access, exporter, life).await;
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Listens. Where nobody has asked for the address, another process may have it: then it is tried until that ends.
async fn listen(
    life: &Life,
    address: SocketAddr,
    is_default: bool,
    say: &impl Fn(Word),
) -> anyhow::Result<Option<TcpListener>> {
    let mut is_said = false;
    loop {
        let error = match TcpListener::bind(address).await {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) if is_default => error,
            Err(error) => return Err(error).with_context(|| format!("cannot listen on {address} (http.listen)")),
        };
        if !std::mem::replace(&mut is_said, true) {
            say(Word::Trouble(format!(
                "http: cannot listen on {address}, and tries again: {error}. Set listen under [http], or 'off'"
            )));
        }
        // All else works without it.
        life.ready();
        tokio::select! {
            () = life.stopped() => return Ok(None),
            () = sleep(AGAIN) => {}
        }
    }
}

/// Who may come in, by files that can change.
struct Door {
    http: Http,
    access: Arc<Access>,
    read: Instant,
    is_broken: bool,
}

impl Door {
    fn open(http: Http) -> anyhow::Result<Self> {
        let access = Arc::new(http.access()?);
        Ok(Self { http, access, read: Instant::now(), is_broken: false })
    }

    /// What the files say now, or have said when they could be read last.
    fn access(&mut self, say: &impl Fn(Word)) -> Arc<Access> {
        if self.read.elapsed() >= KEEP {
            self.read = Instant::now();
            match self.http.access() {
                Ok(access) => (self.access, self.is_broken) = (Arc::new(access), false),
                Err(error) if !std::mem::replace(&mut self.is_broken, true) => {
                    say(Word::Trouble(format!("http: goes on with what it has read before: {error:#}")));
                }
                Err(_) => {}
            }
        }
        Arc::clone(&self.access)
    }
}

async fn connection(stream: TcpStream, access: Arc<Access>, exporter: Arc<Exporter>, life: Life) {
    // A page is sent in large pieces, its end at once.
    let _ = stream.set_nodelay(true);
    match access.tls.clone() {
        None => speak(stream, access, exporter, life).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = timeout(HEAD, TlsAcceptor::from(tls).accept(stream)).await {
                speak(stream, access, exporter, life).await;
            }
        }
    }
}

/// Answers the requests of a connection, until it is over or all stops.
async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, access: Arc<Access>, exporter: Arc<Exporter>, life: Life) {
    let requests = service_fn(|request| answer(request, Arc::clone(&access), Arc::clone(&exporter), life.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Patient::new(stream, PATIENCE)), requests);
    tokio::pin!(connection);
    tokio::select! {
        // What a client does wrong ends its connection, and nothing else.
        _ = connection.as_mut() => return,
        () = life.stopped() => {}
        () = sleep(LONGEST) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
