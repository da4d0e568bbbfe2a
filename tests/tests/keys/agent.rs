//! Keys in ssh-agent, and hardware keys, which only an agent can use.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixListener},
    path::PathBuf,
    sync::mpsc::{Receiver, channel},
    thread,
};

use ed25519_dalek::{Signer, SigningKey};
use protocol::trust::wire;
use sha2::{Digest, Sha256};
use ssh_key::{LineEnding, PrivateKey, private, public};
use tests::Ctl;

use crate::{Agent, PASSPHRASE, checked, fingerprint, keygen, refused, ssh, text};

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

/// Strings in the SSH encoding.
fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        wire::push(&mut bytes, part);
    }
    bytes
}

/// An agent with a hardware key. It signs once it is sent the flags by which the key says whether it was touched.
struct Hardware {
    key: SigningKey,
    touched: Receiver<u8>,
}

impl Hardware {
    const TYPE: &[u8] = b"sk-ssh-ed25519@openssh.com";
    const APPLICATION: &[u8] = b"ssh:";

    fn blob(&self) -> Vec<u8> {
        strings(&[Self::TYPE, self.key.verifying_key().as_bytes(), Self::APPLICATION])
    }

    /// The file of the key, which holds nothing secret.
    fn file(&self, ctl: &Ctl) -> PathBuf {
        let public = public::Ed25519PublicKey(self.key.verifying_key().to_bytes());
        let public = public::SkEd25519::new(public, "ssh:");
        let key = private::SkEd25519::new(public, 1, b"handle").expect("a key");
        let key = PrivateKey::new(key.into(), "").expect("a key").to_openssh(LineEnding::LF).expect("text");
        let path = ctl.home().join("hardware");
        let file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path);
        file.expect("a file").write_all(key.as_bytes()).expect("a file");
        path
    }

    fn reply(&self, request: &[u8]) -> Vec<u8> {
        if request[0] == 11 {
            return [vec![12, 0, 0, 0, 1], strings(&[&self.blob(), b"my key"])].concat();
        }
        let mut asked = &request[1..];
        assert_eq!(wire::string(&mut asked).expect("a key"), self.blob());
        let data = wire::string(&mut asked).expect("data");
        let trailer = [self.touched.recv().expect("a touch"), 0, 0, 0, 9];
        let signed = [&Sha256::digest(Self::APPLICATION)[..], &trailer, &Sha256::digest(data)].concat();
        let signature = [&strings(&[Self::TYPE, &self.key.sign(&signed).to_bytes()]), &trailer[..]].concat();
        [vec![14], strings(&[&signature])].concat()
    }

    fn serve(self, listener: &UnixListener) {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut length = [0; 4];
            stream.read_exact(&mut length).expect("a length");
            let mut request = vec![0; u32::from_be_bytes(length).try_into().expect("a length")];
            stream.read_exact(&mut request).expect("a request");
            stream.write_all(&strings(&[&self.reply(&request)])).expect("a reader");
        }
    }
}

#[test]
fn somebody_is_asked_to_touch_a_hardware_key_and_must() {
    let ctl = Ctl::keyless();
    let socket = ctl.home().join("agent");
    let (touch, touched) = channel();
    let hardware = Hardware { key: SigningKey::from_bytes(&[7; 32]), touched };
    let file = hardware.file(&ctl);
    let ctl = ctl.env("REDFLEET_KEY", text(&file));
    let alone = refused(&ctl);
    assert!(
        alone.stderr.contains("there is no ssh-agent") && alone.stderr.contains("hint: add it: ssh-add "),
        "{alone}"
    );

    let listener = UnixListener::bind(&socket).expect("a socket");
    thread::spawn(move || hardware.serve(&listener));
    let ctl = ctl.env("SSH_AUTH_SOCK", text(&socket));
    for (flags, code, shown) in [(1, 0, "it has signed a test document"), (0, 1, "nobody touched the hardware key")] {
        let check = ctl.spawn(["key", "show", "--check"]);
        check.wait_stderr("waiting for ssh-agent: touch the key");
        touch.send(flags).expect("an agent");
        let output = check.wait().expect(code);
        assert!(output.stdout.contains(shown) || output.stderr.contains(shown), "{output}");
    }
}
