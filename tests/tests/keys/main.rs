//! The operator's key: where `ctl` finds it, what it takes to sign with it, and that `ssh-keygen` agrees. With real
//! keys, a real ssh-agent and real terminals.

mod agent;
mod init;
mod passphrases;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use redis::Commands;
use serde_json::Value;
use tests::{Ctl, Output, Redis, Worker, eventually};

const PASSPHRASE: &str = "correct horse";

/// Runs a tool of OpenSSH, which must succeed.
#[track_caller]
fn ssh(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect(program);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A key as `ssh-keygen` makes it below the home directory of `ctl`.
fn keygen(ctl: &Ctl, name: &str, options: &[&str]) -> PathBuf {
    let path = ctl.write(&format!("{name}.pub"), "").with_extension("");
    fs::remove_file(path.with_extension("pub")).expect("a file");
    // Few rounds: without optimisation they take long.
    ssh("ssh-keygen", &[&["-q", "-t", "ed25519", "-a", "1", "-N", "", "-f", text(&path)], options].concat());
    path
}

/// How `ssh-keygen` calls a key.
fn fingerprint(key: &Path) -> String {
    ssh("ssh-keygen", &["-l", "-f", text(key)]).split(' ').nth(1).expect("a fingerprint").to_owned()
}

/// Gives a certificate for `principal` to a key.
fn certify(ctl: &Ctl, key: &Path, principal: &str, validity: &str) {
    let authority = ctl.home().join("authority");
    let authority = if authority.exists() { authority } else { keygen(ctl, "authority", &[]) };
    let key = key.with_extension("pub");
    ssh("ssh-keygen", &["-q", "-s", text(&authority), "-I", "ann's", "-n", principal, "-V", validity, text(&key)]);
}

/// Which key would sign, after a test of it.
#[track_caller]
fn checked(ctl: &Ctl) -> Value {
    ctl.run(["key", "show", "--check", "-o", "json"]).expect(0).json()
}

#[track_caller]
fn refused(ctl: &Ctl) -> Output {
    ctl.run(["key", "show", "--check"]).expect(1)
}

/// A running ssh-agent.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(ctl: &Ctl) -> Self {
        let socket = ctl.home().join("agent");
        let child = Command::new("ssh-agent").args(["-D", "-a", text(&socket)]).stdout(Stdio::null()).spawn();
        let agent = Self { child: child.expect("ssh-agent"), socket };
        // The socket is there before anybody listens.
        eventually("ssh-agent to listen", || UnixStream::connect(&agent.socket).ok());
        agent
    }

    fn run(&self, arguments: &[&str]) {
        let mut command = Command::new("ssh-add");
        command.arg("-q").args(arguments).env("SSH_AUTH_SOCK", &self.socket).stdin(Stdio::null());
        assert!(command.stderr(Stdio::null()).status().expect("ssh-add").success(), "ssh-add {arguments:?}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_key_is_looked_for_in_one_order() {
    let ctl = Ctl::keyless();
    let none = refused(&ctl);
    assert!(none.stderr.starts_with("error: no key to sign with"), "{none}");
    assert!(none.stderr.contains("hint: make one: ctl key init\n"), "{none}");
    let agent = Agent::start(&ctl);
    let ctl = ctl.env("SSH_AUTH_SOCK", text(&agent.socket));
    assert!(refused(&ctl).stderr.contains("ssh-agent does not hold a key"), "{none}");

    let in_agent = keygen(&ctl, "in-agent", &[]);
    agent.run(&[text(&in_agent)]);
    let places = [".ssh/id_ed25519", ".config/redfleet/key", "of-file", "of-variable", "of-flag"];
    let keys = places.map(|place| (fingerprint(&keygen(&ctl, &format!("{place}-key"), &[])), ctl.home().join(place)));
    let place = |(_, path): &(String, PathBuf)| {
        let name = path.file_name().and_then(|name| name.to_str()).expect("text");
        fs::rename(path.with_file_name(format!("{name}-key")), path).expect("a file");
    };
    let found = |ctl: &Ctl, flags: &[&str]| {
        let shown = ctl.run([flags, &["key", "show", "--check", "-o", "json"]].concat()).expect(0).json();
        shown["fingerprint"].as_str().expect("text").to_owned()
    };
    assert_eq!(found(&ctl, &[]), fingerprint(&in_agent));
    for key in &keys[..2] {
        place(key);
        assert_eq!(found(&ctl, &[]), key.0);
    }
    keys[2..].iter().for_each(place);
    ctl.write(".config/redfleet/ctl.toml", "key = '~/of-file'");
    assert_eq!(found(&ctl, &[]), keys[2].0);
    let ctl = ctl.env("REDFLEET_KEY", "of-variable");
    assert_eq!(found(&ctl, &[]), keys[3].0);
    assert_eq!(found(&ctl, &["--key", "of-flag"]), keys[4].0);
}

#[test]
fn other_types_of_keys_work_or_are_refused_by_name() {
    let ctl = Ctl::keyless().env("REDFLEET_KEY", "key");
    let agent = Agent::start(&ctl);
    let key = keygen(&ctl, "key", &["-t", "ecdsa", "-b", "256"]);
    assert_eq!(checked(&ctl)["type"], "ecdsa-sha2-nistp256");
    agent.run(&[text(&key)]);
    let by_agent = ctl.clone().env("REDFLEET_KEY", "key.pub").env("SSH_AUTH_SOCK", text(&agent.socket));
    assert_eq!(checked(&by_agent)["private"], "in ssh-agent");

    keygen(&ctl, "rsa", &["-t", "rsa", "-b", "2048"]);
    let rsa = refused(&ctl.clone().env("REDFLEET_KEY", "rsa"));
    assert!(rsa.stderr.contains("a key of type ssh-rsa is not accepted; use ed25519"), "{rsa}");
    ctl.write("no-key", "hello\n");
    let none = refused(&ctl.clone().env("REDFLEET_KEY", "no-key"));
    assert!(none.stderr.contains("no-key holds no key of ssh"), "{none}");
    let missing = refused(&ctl.clone().env("REDFLEET_KEY", "missing"));
    assert!(missing.stderr.contains("cannot read the key missing: No such file"), "{missing}");
}

#[test]
fn a_private_key_that_others_may_read_is_refused() {
    let ctl = Ctl::keyless().env("REDFLEET_KEY", "key");
    let key = keygen(&ctl, "key", &[]);
    for mode in [0o640, 0o604] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("a file");
        let open = refused(&ctl);
        assert!(open.stderr.contains("others may read the private key key"), "{open}");
        assert!(open.stderr.contains("hint: make it yours alone: chmod 600 key\n"), "{open}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).expect("a file");
    checked(&ctl);
}

#[test]
fn a_certificate_is_used_where_it_speaks_for_the_operator() {
    let ctl = Ctl::keyless().env("REDFLEET_KEY", "key").env("REDFLEET_OPERATOR", "ann@desk");
    let key = keygen(&ctl, "key", &[]);
    certify(&ctl, &key, "ann@desk", "-1d:+1d");
    let authority = fingerprint(&ctl.home().join("authority"));
    let is_used = |ctl: &Ctl| {
        let shown = checked(ctl);
        assert_eq!(shown["certificate"]["authority"], authority.as_str(), "{shown}");
        assert!(shown["allowed_signers"].as_str().expect("text").starts_with("ann@desk cert-authority,"), "{shown}");
    };
    is_used(&ctl);
    // ssh-add takes the certificate along.
    let agent = Agent::start(&ctl);
    agent.run(&[text(&key)]);
    let by_agent = ctl.clone().env("SSH_AUTH_SOCK", text(&agent.socket)).env("REDFLEET_KEY", "");
    is_used(&by_agent);
    is_used(&by_agent.clone().env("REDFLEET_KEY", "key-cert.pub"));
    fs::remove_file(ctl.home().join("key-cert.pub")).expect("a file");
    is_used(&by_agent.env("REDFLEET_KEY", "key.pub"));

    // One that names somebody else is for another purpose, such as a login.
    for (principal, validity, reason, is_warned) in [
        ("ann@desk", "-2d:-1d", "it was valid until", true),
        ("ann", "-1d:+1d", "it is for ann, not for 'ann@desk'", false),
    ] {
        certify(&ctl, &key, principal, validity);
        let shown = ctl.run(["key", "show", "--check", "-o", "json"]).expect(0);
        let warning = format!("warning: the key's certificate 'ann's' is not used: {reason}");
        assert_eq!(shown.stderr.contains(&warning), is_warned, "{shown}");
        assert!(shown.json()["certificate_unusable"].as_str().expect("text").starts_with(reason), "{shown}");
        assert_eq!(shown.json()["certificate"], Value::Null);
        assert!(shown.json()["allowed_signers"].as_str().expect("text").starts_with("ann@desk namespaces="));
    }
}

/// Has `ssh-keygen` verify a document by the signature beside it.
#[track_caller]
fn verify(ctl: &Ctl, line: &str, operator: &str, document: &Path) {
    let signers = ctl.write("allowed_signers", line);
    let signature = format!("{}.sig", document.display());
    let words = ["-Y", "verify", "-f", text(&signers), "-I", operator, "-n", "redfleet-job@v1", "-s", &signature];
    let file = fs::File::open(document).expect("a file");
    let output = Command::new("ssh-keygen").args(words).stdin(file).output().expect("ssh-keygen");
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn ssh_keygen_verifies_a_job_that_was_written_out() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    let ctl = Ctl::keyless().through(&redis, &redis.url()).env("REDFLEET_OPERATOR", "ann@desk");
    let line = ctl.run(["key", "init", "--no-passphrase"]).expect(0).stdout;
    let job = ctl.run(["run", "--host", "web1", "--detach", "ping"]).expect(0).stdout;
    let (job, directory) = (job.trim(), ctl.home().join("out/raw"));
    let record = format!("job:{{{job}}}");
    let written = ctl.run(["job", "show", job, "--raw", text(&directory), "-o", "json"]).expect(0).json();
    assert_eq!(written["manifest"], text(&directory.join("manifest")));
    let manifest: Vec<u8> = redis.blocking().hget(&record, "manifest").expect("a manifest");
    assert_eq!(fs::read(directory.join("manifest")).expect("a file"), manifest);
    verify(&ctl, &line, "ann@desk", &directory.join("manifest"));

    let () = redis.blocking().hdel(&record, "signature").expect("a reply");
    let unsigned = ctl.run(["job", "show", job, "--raw", text(&directory)]).expect(1);
    assert!(unsigned.stderr.contains("it is not signed"), "{unsigned}");
}
