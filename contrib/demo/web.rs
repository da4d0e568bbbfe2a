//! The web server of the demo. It takes its listening socket as `sd_listen_fds(3)` says. A release of it is a directory with
//! `bin/web`, a file `version`, and perhaps a file `sick`: then `/health` is answered with 500 from the second time on. What
//! it has accepted it finishes at once, so it needs no way to end.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::fd::FromRawFd,
};

fn main() {
    let program = env::current_exe().expect("a program");
    let release = program.ancestors().nth(2).expect("a release");
    let version = fs::read_to_string(release.join("version")).expect("a version");
    // SAFETY: as sd_listen_fds(3) has it, number 3 is a socket of this process, which nothing else owns.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    println!("version {} serves", version.trim());
    let mut checks = 0;
    for mut stream in listener.incoming().flatten() {
        let lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let request: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        let mut status = "200 OK";
        if request.first().is_some_and(|line| line.contains(" /health ")) {
            checks += 1;
            if checks > 1 && release.join("sick").exists() {
                status = "500 Internal Server Error";
                println!("the database does not answer");
            }
        }
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close", version.len());
        let _ = stream.write_all(format!("{head}\r\n\r\n{version}").as_bytes());
    }
}
