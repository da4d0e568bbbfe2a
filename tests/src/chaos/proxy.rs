//! A TCP proxy between a worker and its Redis that can cut, stall, delay, half-close and lose answers.

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

/// What happens to what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weather {
    /// Requests wait.
    pub(super) hold_requests: bool,
    /// Answers wait.
    pub(super) hold_answers: bool,
    /// Answers are lost; so are all later ones of the same connection.
    pub(super) lose_answers: bool,
    /// Everything comes so much later.
    pub(super) delay: Duration,
    /// Redis' clock, as seen through here, is so many seconds ahead.
    pub(super) step_seconds: i64,
}

/// How a connection is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Both sides are told.
    Both,
    /// Only the client is told; the server goes on to believe in the connection for a while.
    Unnoticed,
    /// The server is told that no request comes any more; answers still pass.
    Requests,
    /// The client is told that no answer comes any more; requests still pass.
    Answers,
}

impl Cut {
    pub(super) const ALL: [Self; 4] = [Self::Both, Self::Unnoticed, Self::Requests, Self::Answers];
}

/// How long a server believes in a connection that was cut unnoticed: longer than a read blocks.
const UNNOTICED: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Requests,
    Answers,
}

/// The proxy. Ends, with all its connections, when dropped.
pub(super) struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    cuts: watch::Sender<Option<Cut>>,
}

impl Proxy {
    /// In front of the server at this socket. (Not at a TCP port: while the server is down, somebody
    /// else might be given that port.)
    pub(super) fn to(server: PathBuf) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let (weather, fair) = watch::channel(Weather::default());
        let (cuts, cut) = watch::channel(None);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(accept(listener, server, fair, cut));
        });
        Self { port, weather, cuts }
    }

    /// Where the server is found through here.
    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Changes the weather.
    pub(super) fn weather(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Breaks all connections.
    pub(super) fn cut(&self, cut: Cut) {
        self.cuts.send_replace(Some(cut));
    }
}

async fn accept(
    listener: StdListener,
    server: PathBuf,
    mut weather: watch::Receiver<Weather>,
    cuts: watch::Receiver<Option<Cut>>,
) {
    let listener = TcpListener::from_std(listener).expect("a non-blocking socket");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let (weather, cuts, server) = (weather.clone(), cuts.clone(), server.clone());
                tokio::spawn(async move {
                    // Where there is no server, the client is hung up on.
                    let Ok(server) = UnixStream::connect(server).await else { return };
                    let _ = connection(client, server, weather, cuts).await;
                });
            }
            // An error: the proxy was dropped.
            changed = weather.changed() => if changed.is_err() { return },
        }
    }
}

async fn connection(
    client: TcpStream,
    server: UnixStream,
    weather: watch::Receiver<Weather>,
    mut cuts: watch::Receiver<Option<Cut>>,
) -> io::Result<()> {
    cuts.mark_unchanged();
    client.set_nodelay(true)?;
    // Second handles, by which the streams can be shut down while they are in use.
    let (client, server) = (client.into_std()?, server.into_std()?);
    let (client_handle, server_handle) = (client.try_clone()?, server.try_clone()?);
    let (client, server) = (TcpStream::from_std(client)?, UnixStream::from_std(server)?);
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    let both = async {
        tokio::join!(
            carry(from_client, to_server, Way::Requests, weather.clone()),
            carry(from_server, to_client, Way::Answers, weather.clone()),
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
                    Some(Cut::Answers) => client_handle.shutdown(Shutdown::Write)?,
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
    way: Way,
    mut weather: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut lost = false;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = &mut buffer[..count];
        let held = |weather: &Weather| match way {
            Way::Requests => weather.hold_requests,
            Way::Answers => weather.hold_answers,
        };
        let Ok(now) = weather.wait_for(|weather| !held(weather)).await.map(|weather| *weather) else { return };
        if !now.delay.is_zero() {
            sleep(now.delay).await;
        }
        if way == Way::Answers {
            lost |= now.lose_answers;
            step_clock(bytes, now.step_seconds);
        }
        if !lost && to.write_all(bytes).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Changes the seconds in answers to TIME: `*2\r\n$10\r\nSSSSSSSSSS\r\n$…`.
fn step_clock(answers: &mut [u8], step_seconds: i64) {
    const HEAD: &[u8] = b"*2\r\n$10\r\n";
    if step_seconds == 0 {
        return;
    }
    let mut at = 0;
    while let Some(found) = answers[at..].windows(HEAD.len()).position(|part| part == HEAD) {
        at += found + HEAD.len();
        let Some(seconds) = answers.get_mut(at..at + 10) else { return };
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
    fn the_clock_is_stepped_wherever_it_is_told() {
        let mut answers =
            b"*2\r\n+OK\r\n*2\r\n$10\r\n1790000000\r\n$6\r\n123456\r\n*2\r\n$10\r\nabcdefghij\r\n".to_vec();
        step_clock(&mut answers, -3600);
        let expected = b"*2\r\n+OK\r\n*2\r\n$10\r\n1789996400\r\n$6\r\n123456\r\n*2\r\n$10\r\nabcdefghij\r\n";
        assert_eq!(answers, expected);
    }
}
