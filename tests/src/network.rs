//! A network between a worker and its Redis that a test can disturb.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::{Redis, eventually};

/// Carries connections to a server. What passes is real; when, and whether, is up to the test.
pub struct Network {
    path: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The socket to which new connections lead.
    server: PathBuf,
    lines: Vec<Line>,
    /// The answers to a request that contains this are to be held, on a line of this number or above.
    watched: Option<(Vec<u8>, usize)>,
}

/// One connection.
struct Line {
    client: UnixStream,
    server: UnixStream,
    /// Answers do not pass.
    held: bool,
    /// An answer has come that does not pass.
    waits: bool,
    /// The client's side is gone and the server does not know.
    cut: bool,
}

impl Network {
    /// An undisturbed one.
    pub fn to(redis: &Redis) -> Self {
        let path = redis.directory().join("network.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let state = State { server: redis.socket(), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let carrier = Arc::clone(&shared);
        thread::spawn(move || {
            // Where there is no server, the client is hung up on.
            for client in listener.incoming().flatten() {
                let server = carrier.lock().server.clone();
                if let Ok(server) = UnixStream::connect(server) {
                    carrier.carry(client, server);
                }
            }
        });
        Self { path, shared }
    }

    /// Ends every connection; from now on they lead to this server.
    pub fn lead_to(&self, redis: &Redis) {
        self.shared.lock().server = redis.socket();
        self.cut();
    }

    /// Where the server is found through this network.
    pub fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Ends every connection for the client. The server is not told, as when a cable breaks: it
    /// goes on answering to nobody.
    pub fn cut(&self) {
        for line in &mut self.shared.lock().lines {
            line.cut = true;
            let _ = line.client.shutdown(Shutdown::Both);
        }
    }

    /// Holds the answers on the connection on which the next request with `pattern` is made.
    pub fn hold(&self, pattern: &str) {
        self.shared.lock().watched = Some((pattern.into(), 0));
    }

    /// The same, but only on a connection that has yet to be made.
    pub fn hold_on_new(&self, pattern: &str) {
        let mut state = self.shared.lock();
        state.watched = Some((pattern.into(), state.lines.len()));
    }

    /// Waits until an answer is held.
    #[track_caller]
    pub fn wait_held(&self) {
        eventually("an answer to hold", || self.shared.lock().lines.iter().any(|line| line.waits).then_some(()));
    }

    /// Lets the answers pass that were held.
    pub fn release(&self) {
        self.shared.lock().lines.iter_mut().for_each(|line| line.held = false);
        self.shared.changed.notify_all();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for line in &mut self.shared.lock().lines {
            line.held = false;
            let _ = (line.client.shutdown(Shutdown::Both), line.server.shutdown(Shutdown::Both));
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(self: &Arc<Self>, client: UnixStream, server: UnixStream) {
        let again = |stream: &UnixStream| stream.try_clone().expect("a file descriptor");
        let line = Line { client: again(&client), server: again(&server), held: false, waits: false, cut: false };
        let mut state = self.lock();
        state.lines.push(line);
        let number = state.lines.len() - 1;
        let (shared, from, to) = (Arc::clone(self), again(&client), again(&server));
        thread::spawn(move || shared.carry_requests(number, from, to));
        let shared = Arc::clone(self);
        thread::spawn(move || shared.carry_answers(number, server, client));
    }

    fn carry_requests(&self, number: usize, mut client: UnixStream, mut server: UnixStream) {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = client.read(&mut buffer) {
            let request = &buffer[..count];
            let mut state = self.lock();
            let asks = |pattern: &[u8]| request.windows(pattern.len()).any(|part| part == pattern);
            if state.watched.as_ref().is_some_and(|(pattern, first)| number >= *first && asks(pattern)) {
                state.watched = None;
                state.lines[number].held = true;
            }
            drop(state);
            if server.write_all(request).is_err() {
                break;
            }
        }
        if !self.lock().lines[number].cut {
            let _ = server.shutdown(Shutdown::Write);
        }
    }

    fn carry_answers(&self, number: usize, mut server: UnixStream, mut client: UnixStream) {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = server.read(&mut buffer) {
            let mut state = self.lock();
            while state.lines[number].held {
                state.lines[number].waits = true;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.lines[number].waits = false;
            drop(state);
            // Written to nobody where the line is cut; the server may say what it likes.
            let _ = client.write_all(&buffer[..count]);
        }
        let _ = client.shutdown(Shutdown::Both);
    }
}
