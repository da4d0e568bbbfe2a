//! The operator's key in files, as `ssh-keygen` makes and reads them.

use std::{
    ffi::OsString,
    fs::{DirBuilder, File},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use protocol::trust::certificate::Certificate;
use ssh_key::{Cipher, Kdf, LineEnding, PrivateKey, PublicKey, private::Ed25519Keypair};
use zeroize::Zeroizing;

use crate::output::Advice;

/// The largest file that is read as a key or certificate: OpenSSH writes a few hundred bytes.
const BYTES: usize = 64 * 1024;

/// How much work it is to try a passphrase: as much as with OpenSSH's default.
const ROUNDS: u32 = 16;

/// What a file holds.
#[derive(Debug)]
pub enum KeyFile {
    /// A private key, perhaps encrypted.
    Private(Box<PrivateKey>),
    /// A public key.
    Public(Box<PublicKey>),
    /// A certificate, and so a public key.
    Certificate(Box<Certificate>),
}

/// Reads a key, whatever its kind.
///
/// # Errors
/// The file cannot be read or is no key, or others may read the private key in it.
pub fn read(path: &Path) -> anyhow::Result<KeyFile> {
    let reading = || format!("cannot read the key {}", path.display());
    let file = File::open(path).with_context(reading)?;
    let metadata = file.metadata().with_context(reading)?;
    let text = read_text(&file).with_context(reading)?;
    if text.contains("PRIVATE KEY-----") {
        // As ssh has it: who lets others read their own key is stopped.
        let is_open = metadata.uid() == nix::unistd::getuid().as_raw() && metadata.mode() & 0o077 != 0;
        if is_open {
            let message = format!("others may read the private key {}", path.display());
            return Err(Advice::new(message).hint(format!("make it yours alone: chmod 600 {}", path.display())).into());
        }
        return Ok(KeyFile::Private(Box::new(private(&text, path)?)));
    }
    let no_key = || {
        Advice::new(format!("{} holds no key of ssh", path.display()))
            .hint("name a private key as ssh-keygen makes them, or the .pub file of a key in ssh-agent")
    };
    if let Ok(key) = PublicKey::from_openssh(&text) {
        return Ok(KeyFile::Public(Box::new(key)));
    }
    let certificate = Certificate::from_openssh(&text).map_err(|_| no_key())?;
    Ok(KeyFile::Certificate(Box::new(certificate)))
}

fn private(text: &str, path: &Path) -> anyhow::Result<PrivateKey> {
    let shown = path.display();
    if !text.contains("BEGIN OPENSSH PRIVATE KEY") {
        return Err(Advice::new(format!("the private key {shown} is not in the format of OpenSSH"))
            .hint(format!("convert it: ssh-keygen -p -f {shown}"))
            .into());
    }
    PrivateKey::from_openssh(text).map_err(|error| {
        Advice::new(format!("the private key {shown} is damaged, or of a type that is not known: {error}"))
            .hint("make another one: ctl key init")
            .into()
    })
}

/// Reads the certificate that `ssh-keygen -s` puts beside a key: `KEY-cert.pub`, for `KEY` as for `KEY.pub`.
///
/// # Errors
/// There is one that cannot be read.
pub fn read_certificate(key: &Path) -> anyhow::Result<Option<Certificate>> {
    let path = beside(key, "-cert.pub");
    let reading = || format!("cannot read the certificate {}", path.display());
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.with_context(reading)?,
    };
    let text = read_text(&file).with_context(reading)?;
    Ok(Some(Certificate::from_openssh(&text).with_context(reading)?))
}

/// The path of a key with another ending: without its `.pub`, if it has that, and with `ending`.
pub fn beside(key: &Path, ending: &str) -> PathBuf {
    let mut path: OsString = match key.extension() {
        Some(extension) if extension == "pub" => key.with_extension("").into(),
        _ => key.into(),
    };
    path.push(ending);
    path.into()
}

/// Makes sure that no key is there yet.
///
/// # Errors
/// There is one; the error tells what to do.
pub fn ensure_absent(path: &Path) -> anyhow::Result<()> {
    match [path.to_owned(), beside(path, ".pub")].iter().find(|path| path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(existing) => Err(Advice::new(format!("{} exists, and a key is never replaced", existing.display()))
            .hint(format!("use it: ctl key show --key {}", path.display()))
            .hint("or make another one: ctl key init --file FILE")
            .into()),
    }
}

/// Makes an ed25519 key.
///
/// # Errors
/// The machine has no random numbers.
pub fn generate(comment: &str) -> anyhow::Result<PrivateKey> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).context("this machine has no random numbers")?;
    Ok(PrivateKey::new(Ed25519Keypair::from_seed(&seed).into(), comment)?)
}

/// Writes a key to `path`, and its public half to `path.pub`.
///
/// # Errors
/// One of these exists, or cannot be written.
pub fn store(key: &PrivateKey, path: &Path, passphrase: Option<&str>) -> anyhow::Result<()> {
    ensure_absent(path)?;
    let written = match passphrase {
        Some(passphrase) => encrypt(key, passphrase)?.to_openssh(LineEnding::LF)?,
        None => key.to_openssh(LineEnding::LF)?,
    };
    if let Some(parent) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
        made.with_context(|| format!("cannot make the directory {}", parent.display()))?;
    }
    let public = key.public_key().to_openssh()? + "\n";
    write(path, 0o600, written.as_bytes())?;
    write(&beside(path, ".pub"), 0o644, public.as_bytes())
}

/// As `ssh-keygen` encrypts keys.
fn encrypt(key: &PrivateKey, passphrase: &str) -> anyhow::Result<PrivateKey> {
    let mut random = [0; 20];
    getrandom::fill(&mut random).context("this machine has no random numbers")?;
    let (salt, check) = random.split_at(16);
    let check = check.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    let kdf = Kdf::Bcrypt { salt: salt.to_vec(), rounds: ROUNDS };
    Ok(key.encrypt_with(Cipher::Aes256Ctr, kdf, check, passphrase)?)
}

fn write(path: &Path, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write the key {}", path.display()))
}

fn read_text(file: &File) -> anyhow::Result<Zeroizing<String>> {
    // Enough room from the start, so that no copy of a key is left behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES + 1));
    file.take(BYTES as u64 + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() <= BYTES, "it is larger than {} KiB", BYTES / 1024);
    Ok(Zeroizing::new(str::from_utf8(&bytes).context("it is not text")?.to_owned()))
}
