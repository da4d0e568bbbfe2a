//! TLS to a real Redis: a private CA, certificates of clients, and what the error reports where something does not fit.

use std::path::Path;

use protocol::{
    acl::Role,
    environment::{REDIS, REDIS_CA, REDIS_CERT, REDIS_KEY},
};
use tempfile::TempDir;
use tests::{Authority, Ctl, Issued, Raw, Redis, Worker, eventually};

/// A server that speaks TLS alone over TCP, and the authority that has signed its certificate.
struct Encrypted {
    redis: Redis,
    authority: Authority,
    directory: TempDir,
}

impl Encrypted {
    /// With `clients` set, the server wants to see a certificate of each client.
    fn start(clients: bool, certificate: fn(&Authority) -> Issued) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let authority = Authority::new(directory.path(), "ca");
        let own = certificate(&authority);
        let redis =
            Redis::options().tls(&own, &authority).set("tls-auth-clients", if clients { "yes" } else { "no" }).start();
        Self { redis, authority, directory }
    }

    /// `ctl` and the settings of a worker, with these files; the password comes with the URL.
    fn ctl(&self, ca: &Path, client: Option<&Issued>) -> Ctl {
        let ctl = Ctl::alone().through(&self.redis, &self.redis.tcp_url()).env(REDIS_CA, text(ca));
        client
            .into_iter()
            .fold(ctl, |ctl, client| ctl.env(REDIS_CERT, text(&client.cert)).env(REDIS_KEY, text(&client.key)))
    }

    fn worker(&self, ca: &Path, client: Option<&Issued>) -> Worker {
        Worker::on(&self.redis).redis(&self.redis.tcp_url()).config(&settings(ca, client)).start()
    }

    /// Both programs say `what` is wrong, and what to do.
    #[track_caller]
    fn refuse(&self, ca: &Path, client: Option<&Issued>, what: &str, remedy: &str) {
        // What replies late, on a busy machine, is not looked at for long.
        eventually(&format!("ctl: {what}: {remedy}"), || {
            let output = self.ctl(ca, client).run(["host", "list"]).expect(1);
            (output.stderr.contains(what) && output.stderr.contains(remedy)).then_some(())
        });
        let line = self.worker(ca, client).wait_log(what);
        assert!(line.contains(remedy), "{line}");
    }
}

/// The files as lines of a settings file.
fn settings(ca: &Path, client: Option<&Issued>) -> String {
    let client = client.map(|Issued { cert, key }| [("redis_cert", cert.as_path()), ("redis_key", key)]);
    let files = [("redis_ca", ca)].into_iter().chain(client.into_iter().flatten());
    files.map(|(name, file)| format!("{name} = {:?}", text(file))).collect::<Vec<_>>().join("\n")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn for_localhost(authority: &Authority) -> Issued {
    authority.issue("server", &["localhost"])
}

#[test]
fn a_private_ca_and_certificates_of_clients() {
    let mut server = Encrypted::start(true, for_localhost);
    let (ca, client) = (server.authority.file(), server.authority.issue("client", &[]));
    let worker = server.worker(&ca, Some(&client));
    worker.wait_log("ready: ");
    let ctl = server.ctl(&ca, Some(&client));
    let output = ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    assert!(!output.stderr.contains("warning"), "{output}");
    // Nothing was sent in clear: the server listens to nothing else.
    assert_eq!(server.redis.cli(["CONFIG", "GET", "port"]), "port\n0");

    server.redis.kill9();
    worker.wait_log("is away");
    server.redis.restart();
    worker.wait_log("Redis is back");
    ctl.run(["run", "--host", "web1", "collect-all"]).expect(0);
    Raw::on(&server.redis).wait_settled("web1");

    // The same by flags, and by the settings file.
    let url = server.redis.tcp_url_of(&Role::Controller, None);
    let flags = ["--redis-ca", text(&ca), "--redis-cert", text(&client.cert), "--redis-key", text(&client.key)];
    Ctl::alone().env(REDIS, &url).run([&flags[..], &["host", "list"]].concat()).expect(0);
    let ctl = Ctl::alone().env(REDIS, &url);
    ctl.write(".config/redfleet/ctl.toml", &settings(&ca, Some(&client)));
    ctl.run(["host", "list"]).expect(0);
}

#[test]
fn a_server_that_cannot_be_trusted() {
    let server = Encrypted::start(false, for_localhost);
    let other = Authority::new(server.directory.path(), "other");
    server.refuse(&other.file(), None, "from a CA that is not trusted here", "redis_ca");
    let server = Encrypted::start(false, |authority| authority.issue_expired("server", &["localhost"]));
    server.refuse(&server.authority.file(), None, "has expired, or is not valid yet", "renew it");
    let server = Encrypted::start(false, |authority| authority.issue("server", &["redis.example"]));
    server.refuse(&server.authority.file(), None, "redis.example", "subject alternative names");
}

#[test]
fn a_client_that_the_server_does_not_trust() {
    let server = Encrypted::start(true, for_localhost);
    let ca = server.authority.file();
    server.refuse(&ca, None, "wants a certificate of each client", "redis_cert, redis_key");
    let stranger = Authority::new(server.directory.path(), "other").issue("client", &[]);
    server.refuse(&ca, Some(&stranger), "does not accept the certificate of this client", "redis_cert, redis_key");
    let expired = server.authority.issue_expired("client", &[]);
    server.refuse(&ca, Some(&expired), "does not accept the certificate of this client", "still valid");
}

#[test]
fn tls_on_one_side_alone() {
    let server = Encrypted::start(false, for_localhost);
    let plain = server.redis.tcp_url().replace("rediss://", "redis://");
    let output = Ctl::alone().env(REDIS, &plain).run(["host", "list"]).expect(1);
    assert!(output.stderr.contains("speaks TLS") && output.stderr.contains("write rediss://"), "{output}");
    let redis = Redis::options().tcp().start();
    let url = redis.tcp_url().replace("redis://", "rediss://");
    let ctl = Ctl::alone().env(REDIS, &url).env(REDIS_CA, text(&server.authority.file()));
    let output = ctl.run(["host", "list"]).expect(1);
    assert!(output.stderr.contains("does not speak TLS") && output.stderr.contains("tls-port"), "{output}");
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_is_sent() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let authority = Authority::new(directory.path(), "ca");
    let (one, two) = (authority.issue("one", &[]), authority.issue("two", &[]));
    let (ca, missing) = (authority.file(), directory.path().join("missing"));
    let refused = |url: &str, files: &[(&str, &Path)], what: &str| {
        let ctl = files.iter().fold(Ctl::alone(), |ctl, (name, file)| ctl.env(name, text(file)));
        let output = ctl.env(REDIS, url).run(["host", "list"]).expect(1);
        assert!(output.stderr.contains(what), "{what}: {output}");
    };
    let tls = "rediss://localhost:1";
    refused(tls, &[(REDIS_CA, &missing)], "cannot read ");
    refused(tls, &[(REDIS_CA, &one.key)], "has no certificate in PEM form");
    refused(tls, &[(REDIS_CA, &ca), (REDIS_CERT, &one.cert)], "belong together");
    refused(tls, &[(REDIS_CA, &ca), (REDIS_CERT, &one.cert), (REDIS_KEY, &ca)], "has no private key in PEM form");
    refused(tls, &[(REDIS_CA, &ca), (REDIS_CERT, &one.cert), (REDIS_KEY, &two.key)], "cannot be used with the key");
    refused("redis://localhost:1", &[(REDIS_CA, &ca)], "write rediss://");
    refused("rediss://localhost:1#insecure", &[], "trusts anybody");
}

#[test]
fn a_connection_in_clear_to_another_machine_is_warned_of() {
    let warns = |url: &str| {
        // Nothing is sent by this command.
        let output = Ctl::alone().env(REDIS, url).run(["acl", "print", "--reader", "--explain"]).expect(0);
        output.stderr.contains("is not encrypted")
    };
    assert!(warns("redis://:secret@redis.example:6380/1") && warns("redis://192.0.2.1"));
    for local in ["redis://localhost", "redis://127.0.0.1:1", "redis://[::1]", "unix:///run/redis.sock"] {
        assert!(!warns(local), "{local}");
    }
    let worker = Worker::on(&Redis::options().password("unused").start()).redis("redis://192.0.2.1").start();
    assert!(worker.wait_log("is not encrypted").contains("WARN"));
}
