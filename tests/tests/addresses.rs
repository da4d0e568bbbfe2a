//! Addresses that are not those of a Redis server for a fleet: each is named for what it is, by both programs.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use tests::{Ctl, Redis, Worker, eventually, free_port};

/// Both programs name `what` is at the address, and what to give instead.
#[track_caller]
fn named(url: &str, what: &str, instead: &str) {
    for line in ["host list", "run --all ping", "doctor"] {
        let named = format!("error: {url} {what}");
        // What replies late, on a busy machine, is not looked at for long.
        let output = eventually(&format!("{line}: {named}"), || {
            let output = Ctl::alone().env("REDFLEET_REDIS", url).run(line.split(' ')).expect(1);
            output.stderr.starts_with(&named).then_some(output)
        });
        assert!(output.stderr.contains("\nhint: ") && output.stderr.contains(instead), "{line}: {output}");
    }
    // Its worker gets no login: what is there might refuse that first.
    let redis = Redis::options().password("unused").start();
    let worker = Worker::on(&redis).redis(url).start();
    let line = worker.wait_log(&format!("{url} {what}"));
    assert!(line.contains(instead), "{line}");
}

/// A TCP server that reads a line and replies with `reply`, whoever asks.
fn server(reply: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let serve = move |mut stream: TcpStream| {
        let _ = BufReader::new(&stream).read_line(&mut String::new());
        let _ = stream.write_all(reply.as_bytes());
    };
    thread::spawn(move || listener.incoming().flatten().for_each(serve));
    format!("redis://{address}")
}

#[test]
fn a_web_server() {
    let reply = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<h1>Bad Request</h1>";
    named(&server(reply), "is a web server: it speaks HTTP", "6379");
}

#[test]
fn another_server() {
    named(&server("SSH-2.0-OpenSSH_9.2\r\n"), "is no Redis server", "6379");
}

#[test]
fn a_sentinel() {
    let sentinel = Redis::options().sentinel().start();
    named(&sentinel.url(), "is a Redis Sentinel", "SENTINEL MASTERS");
}

#[test]
fn a_directory_a_file_and_nothing() {
    let redis = Redis::start();
    let url = |path: &str| format!("unix://{}{path}", redis.directory().display());
    named(&url(""), "is a directory", "unix:///run/redis/redis.sock");
    named(&url("/redis.log"), "is a file", "unixsocket");
    named(&url("/missing.sock"), "cannot be reached: there is no such file", "is redis-server running");
}

#[test]
fn a_node_of_a_cluster() {
    let node = |bus: &str| Redis::options().tcp().set("cluster-enabled", "yes").set("cluster-port", bus).start();
    let buses = [free_port(), free_port()].map(|port| port.to_string());
    let [one, other] = [0, 1].map(|index: usize| node(&buses[index]));
    // No slot is served yet.
    refused_by_node(&one);

    let (_, port) =
        other.tcp_url().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).expect("a port");
    one.cli(["CLUSTER", "MEET", "127.0.0.1", &port, &buses[1]]);
    other.cli(["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    eventually("the cluster to be up", || one.cli(["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(()));
    // All slots are served by the other node.
    refused_by_node(&one);
}

#[track_caller]
fn refused_by_node(node: &Redis) {
    let what = format!("{}?*** is a node of a Redis Cluster, which is not supported yet", node.url());
    for line in ["host list", "run --all ping"] {
        let output = Ctl::on(node).run(line.split(' ')).expect(1);
        assert!(output.stderr.starts_with(&format!("error: {what}\nhint: ")), "{output}");
        assert!(output.stderr.contains("cluster-enabled no"), "{output}");
    }
    let doctor = Ctl::on(node).run(["doctor"]).expect(2);
    assert!(doctor.stdout.contains(&what), "{doctor}");
    let worker = Worker::on(node).start();
    assert!(worker.wait_log("is away").contains(&what));
}
