//! A small HTTP server for the tests of services. It takes its listening socket as `sd_listen_fds(3)` says, and behaves as
//! the file that `BEHAVIOUR` names tells it: a word, or a word and a number, a line.
//!
//! - `crash`: it ends at once, with exit code 3.
//! - `slow MS`: it accepts nothing for so long.
//! - `sick`: `/health` is answered with 500.
//! - `ill MS`: so it is when it has run for so long.
//! - `stubborn`: it does not obey TERM.
//! - `parent`: it starts a child, and one that leaves its session.
//! - `loud N`: it prints N lines.
//! - `turns PORT`: it is sick from the second question for `/health` on, if it listens at this port.
//! - `leaves PORT`: then it accepts nothing more, finishes what it has accepted, and ends with exit code 9, if it listens
//!   at this port.
//!
//! If `RELEASE` names a directory, the files `version` and `behaviour` in it count, too.
//!
//! `/` is answered with the version and the process id, `/slow` after 300 ms, `/crash` not at all. At TERM it accepts
//! nothing more, finishes what it has accepted, and ends. At HUP it reads the file anew.

use std::{
    env, fs,
    io::ErrorKind,
    os::{fd::FromRawFd, unix::process::CommandExt},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
    time::sleep,
};

/// What it is told to do.
#[derive(Default)]
struct Behaviour(String);

impl Behaviour {
    fn read() -> Self {
        let text = env::var_os("BEHAVIOUR").and_then(|path| fs::read_to_string(path).ok());
        Self(text.unwrap_or_default() + "\n" + &of_release("behaviour").unwrap_or_default())
    }

    /// The number behind a word; 0 where there is none.
    fn is(&self, word: &str) -> Option<u64> {
        let line = self.0.lines().find(|line| line.split(' ').next() == Some(word))?;
        Some(line.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0))
    }
}

/// What a file of the release says.
fn of_release(name: &str) -> Option<String> {
    let directory = env::var_os("RELEASE")?;
    fs::read_to_string(Path::new(&directory).join(name)).ok().map(|text| text.trim().to_owned())
}

/// What the server knows about itself.
struct Server {
    version: String,
    sick: AtomicBool,
    /// It turns sick at its second check.
    turns: bool,
    /// It ends at its second check.
    leaves: bool,
    checks: AtomicUsize,
    /// Told when it shall end.
    leave: Notify,
}

impl Server {
    fn new(behaviour: &Behaviour, port: u16) -> Self {
        let here = |word: &str| behaviour.is(word) == Some(u64::from(port));
        Self {
            version: of_release("version").unwrap_or_else(|| env::var("VERSION").unwrap_or_default()),
            sick: AtomicBool::new(behaviour.is("sick").is_some()),
            turns: here("turns"),
            leaves: here("leaves"),
            checks: AtomicUsize::new(0),
            leave: Notify::new(),
        }
    }

    /// Whether it is well, which somebody wants to know.
    fn check(&self) -> bool {
        let before = self.checks.fetch_add(1, Ordering::Relaxed);
        if before == 1 && self.turns {
            eprintln!("turns sick");
        }
        if before == 1 && self.leaves {
            eprintln!("leaves");
            self.leave.notify_one();
        }
        !(self.sick.load(Ordering::Relaxed) || self.turns && before >= 1)
    }
}

/// The socket that was handed over, or one of its own.
#[expect(unsafe_code, reason = "the number 3 is known to be a socket of this process that nothing else owns")]
fn listener() -> std::io::Result<std::net::TcpListener> {
    let is_ours = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if is_ours && env::var("LISTEN_FDS").is_ok_and(|count| count != "0") {
        println!(
            "got {} sockets: {}",
            env::var("LISTEN_FDS").unwrap_or_default(),
            env::var("LISTEN_FDNAMES").unwrap_or_default()
        );
        // SAFETY: sd_listen_fds(3) says so, and nothing has closed it since.
        return Ok(unsafe { std::net::TcpListener::from_raw_fd(3) });
    }
    std::net::TcpListener::bind(env::var("ADDRESS").map_err(|_| ErrorKind::AddrNotAvailable)?)
}

fn spawn_children() {
    let quiet = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(|child| child.id())
    };
    let child = quiet(Command::new("sleep").arg("1000"));
    // Its parent ends at once, it has a session of its own, and nothing of the environment.
    let far = quiet(Command::new("setsid").env_clear().args(["-f", "/bin/sleep", "2000"]).process_group(0));
    println!("children: {child:?}, behind {far:?}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let behaviour = Behaviour::read();
    for number in 0..behaviour.is("loud").unwrap_or(0) {
        println!("line {number}");
    }
    if behaviour.is("crash").is_some() {
        eprintln!("told to crash");
        return 3.into();
    }
    if behaviour.is("parent").is_some() {
        spawn_children();
    }
    let (mut terminate, mut hangup) =
        (signal(SignalKind::terminate()).expect("signals"), signal(SignalKind::hangup()).expect("signals"));
    if let Some(wait) = behaviour.is("slow") {
        tokio::select! {
            () = sleep(Duration::from_millis(wait)) => {}
            _ = terminate.recv() => return ExitCode::SUCCESS,
        }
    }
    let listener = listener().and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("no socket: {error}");
            return 4.into();
        }
    };
    let port = listener.local_addr().map(|address| address.port()).unwrap_or_default();
    let server = Arc::new(Server::new(&behaviour, port));
    println!("version '{}' at port {port}", server.version);
    println!("serves");
    let mut code = ExitCode::SUCCESS;
    if let Some(after) = behaviour.is("ill") {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            sleep(Duration::from_millis(after)).await;
            server.sick.store(true, Ordering::Relaxed);
        });
    }
    // Each connection holds a receiver: when all are gone, all is done.
    let (open, held) = watch::channel(());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Another process may have been faster.
                let Ok((stream, _)) = accepted else { continue };
                let (held, server) = (held.clone(), Arc::clone(&server));
                tokio::spawn(async move {
                    let _ = answer(stream, &server).await;
                    drop(held);
                });
            }
            _ = hangup.recv() => {
                println!("reads its settings anew");
                server.sick.store(Behaviour::read().is("sick").is_some(), Ordering::Relaxed);
            }
            _ = terminate.recv() => {
                if behaviour.is("stubborn").is_some() {
                    println!("does not obey");
                    continue;
                }
                break;
            }
            () = server.leave.notified() => {
                code = 9.into();
                break;
            }
        }
    }
    println!("drains");
    drop((listener, held));
    open.closed().await;
    println!("done");
    code
}

async fn answer(mut stream: TcpStream, server: &Server) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; 512];
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => request.extend_from_slice(&buffer[..count]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let mut status = "200 OK";
    match path {
        "/health" if !server.check() => status = "500 Internal Server Error",
        "/slow" => sleep(Duration::from_millis(300)).await,
        "/crash" => std::process::exit(9),
        _ => {}
    }
    let body = format!("{} {}\n", server.version, std::process::id());
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await
}
