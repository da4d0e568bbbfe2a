//! A network between a worker and its Redis that a test can disturb.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::{Redis, chaos::step_clock, eventually};

/// Carries connections to a server. The bytes are real; the test decides when, and whether, they pass.
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
    /// Redis' clock, as seen through this network, is so many seconds ahead.
    step_seconds: i64,
    /// The socket of the server for new connections.
    server: PathBuf,
    lines: Vec<Line>,
    /// The replies to the next request that contains these bytes are held, on a line of this number or above.
    watched: Option<(Vec<u8>, usize)>,
}

/// One connection.
struct Line {
    client: UnixStream,
    server: UnixStream,
    /// Replies do not pass.
    held: bool,
    /// A reply is being held.
    holding: bool,
    /// The client's side is closed and the server does not know.
    cut: bool,
}

impl Network {
    /// An undisturbed network in front of this server.
    pub fn to(redis: &Redis) -> Self {
        let path = redis.directory().join("network.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let state = State { server: redis.socket(), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let carrier = Arc::clone(&shared);
        thread::spawn(move || {
            // Without a server the client's connection is closed.
            for client in listener.incoming().flatten() {
                let server = carrier.lock().server.clone();
                if let Ok(server) = UnixStream::connect(server) {
                    carrier.carry(client, server);
                }
            }
        });
        Self { path, shared }
    }

    /// Ends every connection. New ones lead to this server.
    pub fn lead_to(&self, redis: &Redis) {
        self.shared.lock().server = redis.socket();
        self.cut();
    }

    /// The server's URL through this network.
    pub fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Ends every connection for the client. The server does not notice, as when a cable breaks: its replies
    /// go nowhere.
    pub fn cut(&self) {
        for line in &mut self.shared.lock().lines {
            line.cut = true;
            let _ = line.client.shutdown(Shutdown::Both);
        }
    }

    /// Makes Redis' clock show another time, so many seconds later. A worker reads it on every new connection.
    pub fn step_clock(&self, seconds: i64) {
        self.shared.lock().step_seconds = seconds;
    }

    /// Holds the replies on the connection that carries the next request with `pattern`.
    pub fn hold(&self, pattern: &str) {
        self.shared.lock().watched = Some((pattern.into(), 0));
    }

    /// The same, but only on a connection that does not exist yet.
    pub fn hold_on_new(&self, pattern: &str) {
        let mut state = self.shared.lock();
        state.watched = Some((pattern.into(), state.lines.len()));
    }

    /// Waits until a reply is held.
    #[track_caller]
    pub fn wait_held(&self) {
        eventually("a reply to hold", || self.shared.lock().lines.iter().any(|line| line.holding).then_some(()));
    }

    /// Lets the held replies pass.
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
        let handle = |stream: &UnixStream| stream.try_clone().expect("a file descriptor");
        let line = Line { client: handle(&client), server: handle(&server), held: false, holding: false, cut: false };
        let mut state = self.lock();
        state.lines.push(line);
        let number = state.lines.len() - 1;
        let (shared, from, to) = (Arc::clone(self), handle(&client), handle(&server));
        thread::spawn(move || shared.carry_requests(number, from, to));
        let shared = Arc::clone(self);
        thread::spawn(move || shared.carry_replies(number, server, client));
    }

    fn carry_requests(&self, number: usize, mut client: UnixStream, mut server: UnixStream) {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = client.read(&mut buffer) {
            let request = &buffer[..count];
            let mut state = self.lock();
            let contains = |pattern: &[u8]| request.windows(pattern.len()).any(|part| part == pattern);
            if state.watched.as_ref().is_some_and(|(pattern, first)| number >= *first && contains(pattern)) {
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

    fn carry_replies(&self, number: usize, mut server: UnixStream, mut client: UnixStream) {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = server.read(&mut buffer) {
            let mut state = self.lock();
            while state.lines[number].held {
                state.lines[number].holding = true;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.lines[number].holding = false;
            step_clock(&mut buffer[..count], state.step_seconds);
            drop(state);
            // On a line that is cut this fails; the server must not notice.
            let _ = client.write_all(&buffer[..count]);
        }
        let _ = client.shutdown(Shutdown::Both);
    }
}
