//! Who may ask.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use protocol::tls::TlsFiles;
use tests::{Authority, Ctl, Redis};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Serving, read};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn tokens(redis: &Redis) -> PathBuf {
    let file = redis.directory().join("tokens");
    fs::write(&file, format!("# for Prometheus\n{TOKEN}\n")).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its rights");
    file
}

#[test]
fn without_a_token_only_the_health_is_told() {
    let redis = Redis::start();
    let tokens = tokens(&redis);
    let serving = Serving::with(&redis, &format!("listen = '0.0.0.0:0'\ntokens = {tokens:?}"));
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for path in ["/metrics", "/sd", "/", "/other"] {
        let refused =
            ["", "Authorization: Basic x\r\n", &bearer(""), &bearer(&TOKEN[1..]), &bearer("# for Prometheus")]
                .map(|headers| serving.get_with(path, headers).0);
        assert_eq!(refused, [401; 5], "{path}");
    }
    assert_eq!(serving.get("/healthz").0, 200);
    assert_eq!(serving.get("/readyz").0, 200);
    let (status, page) = serving.get_with("/metrics", &bearer(TOKEN));
    assert_eq!(status, 200);
    assert!(page.contains("redfleet_redis_up 1\n"), "{page}");
    assert_eq!(serving.get_with("/other", &bearer(TOKEN)).0, 404);
}

#[test]
fn it_does_not_listen_for_everybody_beyond_this_machine() {
    let redis = Redis::start();
    let ctl = Ctl::on(&redis);
    let check = |http: &str| {
        let config = ctl.write("serve.toml", &format!("[http]\n{http}\n"));
        let config = config.to_str().expect("text").to_owned();
        (ctl.run(["serve", "--check-config", &config]), ctl.run(["serve", &config]))
    };
    let (checked, started) = check("listen = '0.0.0.0:0'");
    for output in [checked.expect(1), started.expect(1)] {
        assert!(output.stderr.contains("http.tokens"), "{output}");
    }
    let tokens = tokens(&redis);
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o604)).expect("its rights");
    let (checked, _) = check(&format!("listen = '0.0.0.0:0'\ntokens = {tokens:?}"));
    assert!(checked.expect(1).stderr.contains("chmod 600"));
    let (checked, _) = check("listen = '0.0.0.0:0'\ntls = { cert = 'none', key = 'none', client_ca = 'none' }");
    assert!(checked.expect(1).stderr.contains("none"));
}

#[test]
fn settings_are_shown_and_an_address_in_use_is_an_error_only_where_it_was_set() {
    let redis = Redis::start();
    let ctl = Ctl::on(&redis);
    let shown = ctl.run(["serve", "--check-config"]).expect(0).stdout;
    assert!(shown.contains("http://127.0.0.1:9321") && shown.contains("everybody on this machine"), "{shown}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let config = ctl.write("taken.toml", &format!("[http]\nlisten = '{address}'\n"));
    let output = ctl.run(["serve", config.to_str().expect("text")]).expect(1);
    assert!(output.stderr.contains(&format!("cannot listen on {address}")), "{output}");
    // Of several on one machine, one has the usual address.
    let instances = [(); 2].map(|()| ctl.spawn(["serve"]));
    for instance in &instances {
        instance.wait_stderr(": ready");
    }
    let off = ctl.write("off.toml", "[http]\nlisten = 'off'\n");
    let off = ctl.spawn(["serve", off.to_str().expect("text")]);
    off.wait_stderr(": ready");
    off.interrupt();
    assert!(!off.wait().expect(0).stderr.contains("http"));
}

#[tokio::test]
async fn with_tls_only_those_may_ask_who_have_a_certificate() {
    let redis = Redis::start();
    let (ours, others) = (Authority::new(redis.directory(), "ours"), Authority::new(redis.directory(), "others"));
    let (server, client) = (ours.issue("server", &["localhost"]), ours.issue("prometheus", &[]));
    let (stranger, expired) = (others.issue("stranger", &[]), ours.issue_expired("late", &[]));
    let ca = ours.file();
    let tls = format!("tls = {{ cert = {:?}, key = {:?}, client_ca = {ca:?} }}", server.cert, server.key);
    let serving = Serving::with(&redis, &format!("listen = '0.0.0.0:0'\n{tls}"));
    let ask = |own: Option<tests::Issued>| {
        let (cert, key) = own.map(|own| (own.cert, own.key)).unzip();
        let files = TlsFiles { ca: Some(ca.clone()), cert, key };
        async move {
            let stream = TcpStream::connect(serving.address).await.expect("it listens");
            let mut stream = files.wrap("localhost", stream).await.ok()?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.ok()?;
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).await.ok()?;
            Some(read(&String::from_utf8(reply).expect("text")))
        }
    };
    let (status, page) = ask(Some(client)).await.expect("a reply");
    assert_eq!(status, 200);
    assert!(page.contains("redfleet_redis_up 1\n"), "{page}");
    for other in [None, Some(stranger), Some(expired)] {
        assert_eq!(ask(other).await, None);
    }
    // Without TLS there is nothing to see.
    let mut plain = TcpStream::connect(serving.address).await.expect("it listens");
    plain.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("it is sent");
    let mut reply = Vec::new();
    let _ = plain.read_to_end(&mut reply).await;
    assert!(!String::from_utf8_lossy(&reply).contains("redfleet"), "{reply:?}");
}
