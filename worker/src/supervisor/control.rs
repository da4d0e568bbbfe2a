//! The control socket of a supervisor.

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use super::{
    Event,
    requests::{LINE_BYTES, Reply, Request},
};

/// The name of the control socket, in the directory of the service.
const FILE: &str = "control";

/// Clients at once.
const MOST_CLIENTS: usize = 32;

/// A client's connection, as its supervisor names it.
pub(super) type Client = u64;

/// A path of the socket that is short enough for the kernel, wherever the directory is. It holds as long as the directory
/// is open.
fn path(directory: &fs::File) -> PathBuf {
    format!("/proc/self/fd/{}/{FILE}", directory.as_raw_fd()).into()
}

/// Connects to the supervisor of the service with this directory.
pub(super) async fn connect(directory: &Path) -> io::Result<UnixStream> {
    let directory = fs::File::open(directory)?;
    UnixStream::connect(path(&directory)).await
}

/// Listens in this directory, in the place of a supervisor that is dead.
pub(super) fn listen(directory: &Path) -> io::Result<UnixListener> {
    remove(directory);
    let directory = fs::File::open(directory)?;
    UnixListener::bind(path(&directory))
}

/// Removes the socket.
pub(super) fn remove(directory: &Path) {
    let _ = fs::remove_file(directory.join(FILE));
}

/// Serves clients until nobody takes the events any more.
pub(super) async fn serve(listener: UnixListener, events: mpsc::Sender<Event>) {
    let (mut next, clients) = (0, std::sync::Arc::new(tokio::sync::Semaphore::new(MOST_CLIENTS)));
    while let Ok(place) = std::sync::Arc::clone(&clients).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many files are open: those of a client may be closed soon.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        next += 1;
        let (client, events) = (next, events.clone());
        if events.send(Event::Came).await.is_err() {
            return;
        }
        tokio::spawn(async move {
            let _ = converse(client, stream, &events).await;
            let _ = events.send(Event::Left(client)).await;
            drop(place);
        });
    }
}

async fn converse(client: Client, stream: UnixStream, events: &mpsc::Sender<Event>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(1024, reader);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader).take(LINE_BYTES as u64).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(());
        }
        let request: Request = serde_json::from_slice(&line)?;
        let (reply, answered) = oneshot::channel();
        let asked = events.send(Event::Asked(client, request, reply)).await;
        asked.map_err(|_| ErrorKind::BrokenPipe)?;
        let reply: Reply = answered.await.map_err(|_| ErrorKind::BrokenPipe)?;
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
    }
}
