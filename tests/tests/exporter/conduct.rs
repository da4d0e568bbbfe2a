//! How the listener behaves where things go wrong.

use std::io::{Read, Write};

use tests::{Raw, Redis, eventually};

use super::{Serving, hosts, publish, read};

#[test]
fn while_redis_is_away_it_is_not_ready_and_says_so() {
    let mut redis = Redis::start();
    publish(&mut Raw::on(&redis), "web1");
    let serving = Serving::on(&redis);
    assert_eq!(serving.get("/readyz"), (200, "ready\n".into()));
    redis.kill9();
    let (status, text) = serving.get("/readyz");
    assert_eq!(status, 503, "{text}");
    assert!(text.starts_with("Redis: "), "{text}");
    assert_eq!(serving.get("/healthz").0, 200);
    // Half a page would look as if hosts had gone: there is none of them, and why.
    let (status, page) = serving.get("/metrics");
    assert_eq!(status, 200);
    assert!(page.contains("redfleet_redis_up 0\n") && !page.contains("redfleet_host"), "{page}");
    assert_eq!(serving.get("/sd").0, 503);
    redis.restart();
    eventually("it to be ready again", || (serving.get("/readyz").0 == 200).then_some(()));
    assert_eq!(hosts(&serving.samples("")), ["web1"]);
}

#[test]
fn a_redis_that_hangs_hangs_nobody() {
    let redis = Redis::start();
    let serving = Serving::on(&redis);
    redis.freeze();
    let (status, text) = serving.get("/readyz");
    assert_eq!(status, 503, "{text}");
    let (status, page) = serving.get("/metrics");
    assert_eq!(status, 200);
    assert!(page.contains("redfleet_redis_up 0\n"), "{page}");
    redis.thaw();
    eventually("it to be ready again", || (serving.get("/readyz").0 == 200).then_some(()));
}

#[test]
fn clients_that_say_nothing_or_too_much_keep_nobody_out() {
    let redis = Redis::start();
    let serving = Serving::on(&redis);
    // More than are let in at a time: some say nothing, some half of a request, some nothing after one.
    let mut idle: Vec<_> = (0..100).map(|_| serving.connect()).collect();
    for (number, stream) in idle.iter_mut().enumerate() {
        let sent: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /healthz HTT",
            _ => b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        };
        stream.write_all(sent).expect("it is sent");
    }
    assert_eq!(serving.get("/healthz").0, 200);
    // Each is closed in the end.
    for stream in &mut idle {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let mut stream = serving.connect();
    let line = format!("X: {}\r\n", "x".repeat(1000));
    let _ = stream.write_all(format!("GET /healthz HTTP/1.0\r\n{}\r\n", line.repeat(40)).as_bytes());
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply);
    assert!(!reply.contains("it runs"), "{reply}");
    for (request, status) in [
        ("POST /metrics HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", 405),
        ("HEAD /metrics HTTP/1.0\r\n\r\n", 200),
        ("GET /other HTTP/1.0\r\n\r\n", 404),
    ] {
        let mut stream = serving.connect();
        stream.write_all(request.as_bytes()).expect("it is sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("a reply");
        assert_eq!(read(&reply).0, status, "{request}");
    }
    assert_eq!(serving.get("/healthz").0, 200);
}

#[test]
fn a_page_that_is_being_sent_is_finished_before_it_stops() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    for number in 0..2_000 {
        publish(&mut raw, &format!("a-host-with-quite-a-long-name-{number}"));
    }
    let serving = Serving::on(&redis);
    let mut stream = serving.connect();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it is sent");
    let mut begin = [0; 1000];
    stream.read_exact(&mut begin).expect("it begins");
    serving.running.interrupt();
    // It takes no more of them, while the page is not taken yet.
    eventually("it to stop listening", || std::net::TcpStream::connect(serving.address).is_err().then_some(()));
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the rest");
    let (status, page) = read(&(String::from_utf8_lossy(&begin).into_owned() + &rest));
    assert_eq!(status, 200);
    assert_eq!(hosts(&super::samples(&page)).len(), 2_000);
    assert!(page.contains("\nredfleet_exporter_scrape_duration_seconds "));
    serving.running.wait().expect(0);
}
