//! A TCP proxy between a worker and its Redis. It can cut, stall, delay and half-close connections and lose replies.

use std::{
    io,
    net::{Shutdown, TcpListener as StdListener},
    path::PathBuf,
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    time::sleep,
};

/// What the proxy does to the bytes that pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// Requests wait.
    pub(super) hold_requests: bool,
    /// Replies wait.
    pub(super) hold_replies: bool,
    /// Replies are lost, and so are all later ones of the same connection.
    pub(super) lose_replies: bool,
    /// Everything is delayed for so long.
    pub(super) delay: Duration,
    /// Redis' clock, as seen through the proxy, is so many seconds ahead.
    pub(super) step_seconds: i64,
}

/// How a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Both sides notice.
    Both,
    /// Only the client notices; for the server the connection stays open for a while.
    Unnoticed,
    /// The direction to the server is closed; replies still pass.
    Requests,
    /// The direction to the client is closed; requests still pass.
    Replies,
}

impl Cut {
    pub(super) const ALL: [Self; 4] = [Self::Both, Self::Unnoticed, Self::Requests, Self::Replies];
}

/// How long a connection that was cut unnoticed stays open for the server: longer than a read blocks.
const UNNOTICED: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

/// The proxy. It ends, with all its connections, when dropped.
pub(super) struct Proxy {
    port: u16,
    conditions: watch::Sender<Conditions>,
    cuts: watch::Sender<Option<Cut>>,
}

impl Proxy {
    /// A proxy in front of the server at this socket. (A TCP port will not do: while the server is down, another
    /// process might get that port.)
    pub(super) fn to(server: PathBuf) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let (conditions, watched) = watch::channel(Conditions::default());
        let (cuts, cut) = watch::channel(None);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(accept(listener, server, watched, cut));
        });
        Self { port, conditions, cuts }
    }

    /// The server's URL through this proxy.
    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Changes the conditions of all connections.
    pub(super) fn set(&self, conditions: Conditions) {
        self.conditions.send_replace(conditions);
    }

    /// Breaks all connections.
    pub(super) fn cut(&self, cut: Cut) {
        self.cuts.send_replace(Some(cut));
    }
}

async fn accept(
    listener: StdListener,
    server: PathBuf,
    mut conditions: watch::Receiver<Conditions>,
    cuts: watch::Receiver<Option<Cut>>,
) {
    let listener = TcpListener::from_std(listener).expect("a non-blocking socket");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let (conditions, cuts, server) = (conditions.clone(), cuts.clone(), server.clone());
                tokio::spawn(async move {
                    // Without a server the client's connection is closed.
                    let Ok(server) = UnixStream::connect(server).await else { return };
                    let _ = connection(client, server, conditions, cuts).await;
                });
            }
            // An error means that the proxy was dropped.
            changed = conditions.changed() => if changed.is_err() { return },
        }
    }
}

async fn connection(
    client: TcpStream,
    server: UnixStream,
    conditions: watch::Receiver<Conditions>,
    mut cuts: watch::Receiver<Option<Cut>>,
) -> io::Result<()> {
    cuts.mark_unchanged();
    client.set_nodelay(true)?;
    // Second handles, to shut the streams down while they are in use.
    let (client, server) = (client.into_std()?, server.into_std()?);
    let (client_handle, server_handle) = (client.try_clone()?, server.try_clone()?);
    let (client, server) = (TcpStream::from_std(client)?, UnixStream::from_std(server)?);
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    let both = async {
        tokio::join!(
            carry(from_client, to_server, Direction::Requests, conditions.clone()),
            carry(from_server, to_client, Direction::Replies, conditions.clone()),
        )
    };
    tokio::pin!(both);
    loop {
        tokio::select! {
            _ = &mut both => return Ok(()),
            changed = cuts.changed() => {
                let cut = if changed.is_ok() { *cuts.borrow_and_update() } else { Some(Cut::Both) };
                match cut {
                    Some(Cut::Requests) => server_handle.shutdown(Shutdown::Write)?,
                    Some(Cut::Replies) => client_handle.shutdown(Shutdown::Write)?,
                    Some(Cut::Unnoticed) => {
                        client_handle.shutdown(Shutdown::Both)?;
                        sleep(UNNOTICED).await;
                        return Ok(());
                    }
                    Some(Cut::Both) | None => return Ok(()),
                }
            }
        }
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    mut conditions: watch::Receiver<Conditions>,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut lost = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = &mut buffer[..count];
        let held = |conditions: &Conditions| match direction {
            Direction::Requests => conditions.hold_requests,
            Direction::Replies => conditions.hold_replies,
        };
        let Ok(now) = conditions.wait_for(|conditions| !held(conditions)).await.map(|conditions| *conditions) else {
            return;
        };
        if !now.delay.is_zero() {
            sleep(now.delay).await;
        }
        if direction == Direction::Replies {
            lost |= now.lose_replies;
            step_clock(bytes, now.step_seconds);
        }
        if !lost && to.write_all(bytes).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Changes the seconds in replies to TIME: `*2\r\n$10\r\nSSSSSSSSSS\r\n$…`.
pub(crate) fn step_clock(replies: &mut [u8], step_seconds: i64) {
    const HEAD: &[u8] = b"*2\r\n$10\r\n";
    if step_seconds == 0 {
        return;
    }
    let mut at = 0;
    while let Some(found) = replies[at..].windows(HEAD.len()).position(|part| part == HEAD) {
        at += found + HEAD.len();
        let Some(seconds) = replies.get_mut(at..at + 10) else { return };
        let number = std::str::from_utf8(seconds).ok().and_then(|text| text.parse::<i64>().ok());
        if let Some(number) = number {
            seconds.copy_from_slice(format!("{:010}", number + step_seconds).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_stepped_in_every_reply_to_time() {
        let mut replies =
            b"*2\r\n+OK\r\n*2\r\n$10\r\n1790000000\r\n$6\r\n123456\r\n*2\r\n$10\r\nabcdefghij\r\n".to_vec();
        step_clock(&mut replies, -3600);
        let expected = b"*2\r\n+OK\r\n*2\r\n$10\r\n1789996400\r\n$6\r\n123456\r\n*2\r\n$10\r\nabcdefghij\r\n";
        assert_eq!(replies, expected);
    }
}
