//! The real `ssh-keygen`, and the one question that it is asked, and we are.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
};

use base64ct::{Base64, Encoding};
use protocol::trust::{Trust, sshsig::Signature};
use ssh_key::PrivateKey;
use tempfile::TempDir;

/// Who signs, in all tests.
pub(crate) const ANN: &str = "ann@desk";

/// What is signed.
pub(crate) const DOCUMENT: &[u8] = b"document";

/// When it is judged, in Unix seconds; and as `ssh-keygen` takes it.
pub(crate) const NOW: u64 = 1_800_000_000;
const NOW_STATED: &str = "-Overify-time=20270115080000Z";

/// Keys, certificates and lists that `ssh-keygen` made, in a directory of its own.
pub(crate) struct Stock {
    directory: TempDir,
}

/// Is this a signature over [`DOCUMENT`] by [`ANN`]?
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) signers: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) signature: &'a [u8],
    pub(crate) revoked: Option<&'a [u8]>,
}

impl Stock {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join("document"), DOCUMENT).expect("a file");
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("a file");
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("a file")
    }

    pub(crate) fn read_text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).expect("text").trim_end().to_owned()
    }

    /// Runs `ssh-keygen` in the directory. It must succeed.
    pub(crate) fn keygen(&self, arguments: &[&str]) {
        let output = self.command().args(arguments).output().expect("ssh-keygen, which scripts/setup installs");
        assert!(output.status.success(), "ssh-keygen {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes a key.
    pub(crate) fn key(&self, name: &str, kind: &str) {
        self.keygen(&["-q", "-t", kind, "-N", "", "-C", name, "-f", name]);
    }

    /// Type and base64 of a key, as a line of a trust file has them.
    pub(crate) fn public(&self, name: &str) -> String {
        let line = self.read_text(&format!("{name}.pub"));
        line.rsplit_once(' ').expect("a comment behind the key").0.to_owned()
    }

    pub(crate) fn private(&self, name: &str) -> PrivateKey {
        PrivateKey::read_openssh_file(&self.path(name)).expect("a private key")
    }

    /// Has `ssh-keygen -Y sign` sign the document. `key` may be a certificate.
    pub(crate) fn sign(&self, key: &str, namespace: &str) -> Vec<u8> {
        self.write("to-sign", DOCUMENT);
        self.keygen(&["-q", "-Y", "sign", "-f", key, "-n", namespace, "to-sign"]);
        let pem = self.read_text("to-sign.sig");
        fs::remove_file(self.path("to-sign.sig")).expect("a signature");
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        Base64::decode_vec(&base64).expect("base64")
    }

    /// What `ssh-keygen -Y verify` says.
    pub(crate) fn accepts(&self, question: Question<'_>) -> bool {
        self.write("signers", question.signers);
        self.write("signature", armored(question.signature));
        let mut command = self.command();
        command.args(["-Y", "verify", "-f", "signers", "-s", "signature", "-I", ANN, "-n", question.namespace]);
        command.arg(NOW_STATED);
        if let Some(revoked) = question.revoked {
            self.write("revoked", revoked);
            command.args(["-r", "revoked"]);
        }
        command.stdin(File::open(self.path("document")).expect("the document"));
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.expect("ssh-keygen, which scripts/setup installs").success()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("ssh-keygen");
        command.current_dir(self.directory.path()).env("LC_ALL", "C").env("TZ", "UTC");
        command
    }
}

impl Question<'_> {
    /// What we say.
    pub(crate) fn judge(self) -> Result<(), String> {
        let trust = Trust::parse(self.signers, self.revoked).map_err(|error| error.to_string())?;
        let signature = Signature::from_bytes(self.signature).map_err(|error| error.to_string())?;
        trust.verify(self.namespace, ANN, DOCUMENT, &signature, NOW).map_err(|error| error.to_string())
    }
}

/// A signature as `ssh-keygen` reads it, sound or not.
fn armored(signature: &[u8]) -> String {
    let base64 = Base64::encode_string(signature);
    let lines = base64.as_bytes().chunks(70).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN SSH SIGNATURE-----\n{}-----END SSH SIGNATURE-----\n", lines.collect::<String>())
}
