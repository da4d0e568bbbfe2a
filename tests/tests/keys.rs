//! The operator's key: where `ctl` finds it, what it takes to sign with it, and that `ssh-keygen` agrees. With real
//! keys, a real ssh-agent and real terminals.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use redis::Commands;
use serde_json::Value;
use tests::{Ctl, OnTerminal, Output, Redis, Worker, eventually};

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
        eventually("ssh-agent to listen", || agent.socket.exists().then_some(()));
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
fn a_passphrase_is_asked_on_the_terminal_and_shown_nowhere() {
    let ctl = Ctl::keyless().env("REDFLEET_KEY", "key");
    let key = keygen(&ctl, "key", &["-N", PASSPHRASE]);
    let shown = ctl.run(["key", "show", "-o", "json"]).expect(0).json();
    assert_eq!(shown["private"], "in the file, with a passphrase");
    let nowhere = refused(&ctl);
    assert!(nowhere.stderr.contains("no terminal to ask at") && nowhere.stderr.contains("hint: "), "{nowhere}");

    let mut terminal = ctl.start_at_terminal(["key", "show", "--check"]);
    terminal.answer("passphrase of key: ", "wrong\n");
    terminal.answer("passphrase of key (attempt 2 of 3): ", &format!("{PASSPHRASE}!\x7f\n"));
    let (code, shown) = terminal.wait();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(&fingerprint(&key)) && shown.contains("it has signed a test document"), "{shown}");
    assert!(!shown.contains("wrong") && !shown.contains("horse"), "{shown}");

    let mut terminal = ctl.start_at_terminal(["key", "show", "--check"]);
    for asked in ["key: ", "(attempt 2 of 3): ", "(attempt 3 of 3): "] {
        terminal.answer(asked, "wrong\n");
    }
    let (code, shown) = terminal.wait();
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("its passphrase is another one"), "{shown}");
}

#[test]
fn who_gives_up_at_the_passphrase_has_an_echoing_terminal() {
    let ctl = Ctl::keyless().env("REDFLEET_KEY", "key");
    keygen(&ctl, "key", &["-N", PASSPHRASE]);
    let mut terminal = ctl.start_at_terminal(["key", "show", "--check"]);
    assert!(terminal.echoes());
    terminal.answer("passphrase of key: ", "half");
    assert!(!terminal.echoes());
    terminal.answer("passphrase of key: ", "\x03");
    let (code, shown) = terminal.wait();
    assert!(terminal.echoes());
    assert_eq!(code, None, "a signal ends it: {shown}");
    assert!(!shown.contains("half"), "{shown}");
}

#[test]
fn ssh_agent_signs_for_files_without_an_open_private_half() {
    let ctl = Ctl::keyless();
    let agent = Agent::start(&ctl);
    let (other, key) = (keygen(&ctl, "other", &[]), keygen(&ctl, "key", &[]));
    let at = |file: &str| ctl.clone().env("SSH_AUTH_SOCK", text(&agent.socket)).env("REDFLEET_KEY", file);
    agent.run(&[text(&other)]);
    let lacking = refused(&at("key.pub"));
    assert!(lacking.stderr.contains("ssh-agent does not hold this key"), "{lacking}");
    assert!(lacking.stderr.contains("hint: add it: ssh-add key\n"), "{lacking}");

    agent.run(&[text(&key)]);
    ssh("ssh-keygen", &["-q", "-p", "-a", "1", "-N", PASSPHRASE, "-f", text(&key)]);
    for file in ["key", "key.pub"] {
        let shown = checked(&at(file));
        assert_eq!((&shown["private"], &shown["fingerprint"]), (&"in ssh-agent".into(), &fingerprint(&key).into()));
    }
    // A locked agent says that it holds no keys.
    fs::remove_file(ctl.home().join("key")).expect("a file");
    let gone = refused(&ctl.clone().env("SSH_AUTH_SOCK", "/no/agent").env("REDFLEET_KEY", "key.pub"));
    assert!(gone.stderr.contains("cannot reach ssh-agent at /no/agent"), "{gone}");
    let none = refused(&ctl.clone().env("REDFLEET_KEY", "key.pub"));
    assert!(none.stderr.contains("SSH_AUTH_SOCK"), "{none}");
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

    for (principal, validity, reason) in [
        ("ann@desk", "-2d:-1d", "it was valid until"),
        ("bob@desk", "-1d:+1d", "it is for bob@desk, not for 'ann@desk'"),
    ] {
        certify(&ctl, &key, principal, validity);
        let shown = ctl.run(["key", "show", "--check", "-o", "json"]).expect(0);
        assert!(
            shown.stderr.contains(&format!("warning: the key's certificate 'ann's' is not used: {reason}")),
            "{shown}"
        );
        assert_eq!(shown.json()["certificate"], Value::Null);
        assert!(shown.json()["allowed_signers"].as_str().expect("text").starts_with("ann@desk namespaces="));
    }
}

/// Whether `ssh-keygen` takes `line` as trust in what `key` signs.
#[track_caller]
fn trusts(ctl: &Ctl, line: &str, key: &Path, operator: &str) {
    let document = ctl.write("document", "text\n");
    ssh("ssh-keygen", &["-q", "-Y", "sign", "-n", "redfleet-job@v1", "-f", text(key), text(&document)]);
    verify(ctl, line, operator, &document);
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
fn key_init_makes_what_ssh_keygen_would() {
    let ctl = Ctl::keyless().env("REDFLEET_OPERATOR", "ann@desk");
    let refused = ctl.run(["key", "init"]).expect(1);
    assert!(refused.stderr.contains("hint: or make a key without one: ctl key init --no-passphrase"), "{refused}");
    let made = ctl.run(["key", "init", "--no-passphrase"]).expect(0);
    let key = ctl.home().join(".config/redfleet/key");
    trusts(&ctl, &made.stdout, &key, "ann@desk");
    let rights = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!((rights(&key), rights(key.parent().expect("a directory"))), (0o600, 0o700));
    let public = fs::read_to_string(key.with_extension("pub")).expect("a file");
    assert_eq!(ssh("ssh-keygen", &["-y", "-f", text(&key)]), public);
    assert!(public.ends_with(" ann@desk\n"), "{public}");
    let found = checked(&ctl);
    assert_eq!(found["allowed_signers"], made.stdout.trim_end());
    assert_eq!(found["fingerprint"], fingerprint(&key).as_str());

    let again = ctl.run(["key", "init", "--no-passphrase"]).expect(1);
    assert!(again.stderr.contains("exists, and a key is never replaced"), "{again}");
    fs::remove_file(&key).expect("a file");
    ctl.run(["key", "init", "--no-passphrase"]).expect(1);
    assert_eq!(fs::read_to_string(key.with_extension("pub")).expect("a file"), public);
    let odd = ctl.env("REDFLEET_OPERATOR", "ann,*").run(["key", "init", "--no-passphrase", "--file", "odd"]).expect(1);
    assert!(odd.stderr.contains("'ann,*' cannot be the name of an operator"), "{odd}");
}

#[test]
fn key_init_asks_for_a_passphrase_twice() {
    let ctl = Ctl::keyless();
    let key = ctl.home().join("key");
    let ask = |second: &str| {
        let mut terminal: OnTerminal = ctl.start_at_terminal(["key", "init", "--file", "key", "--comment", "mine"]);
        terminal.answer("new passphrase (empty for none): ", &format!("{PASSPHRASE}\n"));
        terminal.answer("the same again: ", second);
        terminal.wait()
    };
    let (code, shown) = ask("another\n");
    assert!(code == Some(1) && shown.contains("two different passphrases") && !key.exists(), "{shown}");
    let (code, shown) = ask(&format!("{PASSPHRASE}\n"));
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains(PASSPHRASE), "{shown}");
    let public = ssh("ssh-keygen", &["-y", "-P", PASSPHRASE, "-f", text(&key)]);
    assert_eq!(public, fs::read_to_string(key.with_extension("pub")).expect("a file"));
    assert!(public.ends_with(" mine\n"), "{public}");
}

#[test]
fn ssh_keygen_verifies_a_job_that_was_written_out() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    let ctl = Ctl::keyless().through(&redis, &redis.url()).env("REDFLEET_OPERATOR", "ann@desk");
    let line = ctl.run(["key", "init", "--no-passphrase"]).expect(0).stdout;
    let key = ctl.home().join(".config/redfleet/key");
    let job = ctl.run(["run", "--host", "web1", "--detach", "ping"]).expect(0).stdout;
    let job = job.trim();
    let record = format!("job:{{{job}}}");

    // The record with a signature by ssh-keygen, whoever sent the job.
    let manifest: Vec<u8> = redis.blocking().hget(&record, "manifest").expect("a manifest");
    let document = ctl.home().join("document");
    fs::write(&document, &manifest).expect("a file");
    ssh("ssh-keygen", &["-q", "-Y", "sign", "-n", "redfleet-job@v1", "-f", text(&key), text(&document)]);
    let armoured = document.with_extension("sig");
    let decode = format!("grep -v -- ----- '{}' | base64 -d", armoured.display());
    let signature = Command::new("sh").args(["-c", &decode]).output().expect("base64").stdout;
    let () = redis.blocking().hset(&record, "signature", &signature).expect("a reply");

    let directory = ctl.home().join("out/raw");
    ctl.run(["job", "show", job, "--raw", text(&directory)]).expect(0);
    assert_eq!(fs::read(directory.join("manifest")).expect("a file"), manifest);
    let read = |path: &Path| fs::read_to_string(path).expect("a file");
    assert_eq!(read(&directory.join("manifest.sig")), read(&armoured));
    verify(&ctl, &line, "ann@desk", &directory.join("manifest"));

    let () = redis.blocking().hdel(&record, "signature").expect("a reply");
    let unsigned = ctl.run(["job", "show", job, "--raw", text(&directory)]).expect(1);
    assert!(unsigned.stderr.contains("it is not signed"), "{unsigned}");
}
