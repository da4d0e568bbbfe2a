//! The operator's own copy of the fleet's trust files: what hosts are sent, and what they are compared with.

use std::{
    fs::{self, DirBuilder, File},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use protocol::{
    status::Status,
    trust::{Trust, allowed_signers::states_version, digest, key::Key, revocation::is_text},
};

use super::{
    key_file::{self, KeyFile},
    settings::Settings,
};
use crate::output::Advice;

/// Both files.
#[derive(Clone, Debug)]
pub struct FleetTrust {
    directory: PathBuf,
    /// Who is trusted: the text of `allowed_signers`.
    pub signers: String,
    /// What is trusted no more; none where there is no such file.
    pub revoked: Option<Vec<u8>>,
    /// What both say.
    pub trust: Trust,
    /// The digests of the versions that this copy had, the newest last.
    prior: Vec<String>,
}

/// Prior versions of the copy that are remembered.
const PRIOR: usize = 1000;

impl FleetTrust {
    /// Reads the copy; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is broken.
    pub fn read(settings: &Settings) -> anyhow::Result<Option<Self>> {
        Self::read_from(directory(settings)?)
    }

    fn read_from(directory: PathBuf) -> anyhow::Result<Option<Self>> {
        let [signers, revoked] = paths(&directory);
        let Some(text) = content(&signers)? else { return Ok(None) };
        let text = String::from_utf8(text).with_context(|| format!("{} is no text", signers.display()))?;
        let prior = content(&directory.join(VERSIONS))?.unwrap_or_default();
        let prior = String::from_utf8_lossy(&prior).lines().map(str::to_owned).collect();
        Self::of(directory, text, content(&revoked)?, prior).map(Some)
    }

    /// A first version, with one line.
    ///
    /// # Errors
    /// There is no place for it, or the line is broken.
    pub fn begin(settings: &Settings, line: &str) -> anyhow::Result<Self> {
        let text = format!("# Whom the hosts of this fleet obey: ctl key list, trust, revoke.\n# version: 1\n{line}\n");
        Self::of(directory(settings)?, text, None, Vec::new())
    }

    fn of(directory: PathBuf, signers: String, revoked: Option<Vec<u8>>, prior: Vec<String>) -> anyhow::Result<Self> {
        let trust = Trust::parse(&signers, revoked.as_deref());
        let trust = trust.with_context(|| format!("the fleet's trust file in {}", directory.display()))?;
        Ok(Self { directory, signers, revoked, trust, prior })
    }

    /// Where the file of those who are trusted is.
    pub fn path(&self) -> PathBuf {
        let [signers, _] = paths(&self.directory);
        signers
    }

    /// What tells it from others, as hosts publish it.
    pub fn digest(&self) -> String {
        digest(&self.signers, self.revoked.as_deref())
    }

    /// Whether nothing is lost where this copy, or what is made of it, replaces what a host has in force. A lower number
    /// does not tell: another operator may have made that version of the same prior one, and revoked a key in it.
    pub fn knows(&self, host: &Status) -> bool {
        host.trust_digest.is_empty() || host.trust_digest == self.digest() || self.prior.contains(&host.trust_digest)
    }

    /// The next version, with one line more.
    ///
    /// # Errors
    /// The file is broken then: the line is, or the file is too large.
    pub fn with(&self, line: &str) -> anyhow::Result<Self> {
        let mut text = self.signers.clone();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        self.next(&(text + line + "\n"), self.revoked.clone())
    }

    /// The next version, in which these keys are revoked and have no line any more. A remark goes with each.
    ///
    /// # Errors
    /// The list of revoked keys is not one to which a line can be added.
    pub fn without(&self, keys: &[(Key, String)]) -> anyhow::Result<Self> {
        let mut list = self.revoked.clone().unwrap_or_default();
        if !is_text(&list) {
            let [_, revoked] = paths(&self.directory);
            let advice =
                Advice::new(format!("{} was made by ssh-keygen -k, and only that can add to it", revoked.display()));
            return Err(advice
                .hint("ssh-keygen -k -u -f that file KEY.pub; remove the key's line, raise '# version:', ctl key send")
                .into());
        }
        if !list.is_empty() && !list.ends_with(b"\n") {
            list.push(b'\n');
        }
        for (key, remark) in keys {
            list.extend_from_slice(format!("{} {remark}\n", key.words()).as_bytes());
        }
        let gone: Vec<_> = self
            .trust
            .lines()
            .iter()
            .filter(|line| keys.iter().any(|(key, _)| key.blob() == line.key().blob()))
            .collect();
        let lines = self.signers.lines().zip(1..);
        let kept = lines.filter(|(_, number)| gone.iter().all(|line| line.number() != *number));
        self.next(&kept.map(|(line, _)| line).collect::<Vec<_>>().join("\n"), Some(list))
    }

    /// The next version, with this text.
    fn next(&self, text: &str, revoked: Option<Vec<u8>>) -> anyhow::Result<Self> {
        let version = format!("# version: {}\n", self.trust.version() + 1);
        let mut lines: Vec<_> = text.lines().map(|line| format!("{line}\n")).collect();
        match lines.iter().position(|line| states_version(line)) {
            Some(at) => lines[at] = version,
            None => lines.insert(0, version),
        }
        let prior = self.prior.iter().cloned().chain([self.digest()]).collect();
        Self::of(self.directory.clone(), lines.concat(), revoked, prior)
    }

    /// Writes the copy. The list of what is revoked comes before the file, as on the hosts.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self) -> anyhow::Result<()> {
        let [signers, revoked] = paths(&self.directory);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.with_context(|| format!("cannot make the directory {}", self.directory.display()))?;
        let mut versions: Vec<String> = Vec::new();
        for digest in self.prior.iter().cloned().chain([self.digest()]) {
            versions.retain(|known| *known != digest);
            versions.push(digest);
        }
        let versions = &versions[versions.len().saturating_sub(PRIOR)..];
        replace(&self.directory.join(VERSIONS), 0o644, (versions.join("\n") + "\n").as_bytes())?;
        if let Some(list) = &self.revoked {
            replace(&revoked, 0o644, list)?;
        }
        replace(&signers, 0o644, self.signers.as_bytes())
    }
}

/// The public key in a file, whatever the file holds.
///
/// # Errors
/// It holds none of a type that hosts accept.
pub fn public_key(path: &Path) -> anyhow::Result<Key> {
    let blob = match key_file::read(path)? {
        KeyFile::Private(key) => key.public_key().to_bytes()?,
        KeyFile::Public(key) => key.to_bytes()?,
        KeyFile::Certificate(certificate) => certificate.key().blob().to_vec(),
    };
    Key::from_bytes(&blob).with_context(|| format!("cannot use the key {}", path.display()))
}

/// Writes a file whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    let mut fresh = path.to_owned().into_os_string();
    fresh.push(".new");
    let write = || {
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The file beside the copy with the digests of the versions that it had.
const VERSIONS: &str = "versions";

fn directory(settings: &Settings) -> anyhow::Result<PathBuf> {
    let unknown = || Advice::new("no place for the fleet's trust file: HOME is not set");
    Ok(settings.fleet.clone().ok_or_else(unknown)?)
}

fn paths(directory: &Path) -> [PathBuf; 2] {
    ["allowed_signers", "revoked"].map(|name| directory.join(name))
}

/// The content of a file; `None` where there is none.
fn content(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        content => Ok(Some(content.with_context(|| format!("cannot read {}", path.display()))?)),
    }
}

/// The keys that a list of lines revokes; none of one that `ssh-keygen -k` made.
pub fn revoked_keys(list: &[u8]) -> Vec<(Key, String)> {
    let text = if is_text(list) { std::str::from_utf8(list).unwrap_or_default() } else { "" };
    let key = |line: &str| {
        let mut words = line.split_whitespace();
        let key = Key::from_words(words.next()?, words.next()?).ok()?;
        Some((key, words.collect::<Vec<_>>().join(" ")))
    };
    text.lines().filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> Key {
        let pair = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
        let key = ssh_key::PrivateKey::new(pair.into(), "").unwrap();
        Key::from_bytes(&key.public_key().to_bytes().unwrap()).unwrap()
    }

    fn fleet(text: &str) -> FleetTrust {
        FleetTrust::of("/nowhere".into(), text.to_owned(), None, Vec::new()).unwrap()
    }

    #[test]
    fn each_change_raises_the_version_and_keeps_the_lines_of_others() {
        let (ann, bob) = (format!("ann {}", key(1).words()), format!("bob {}", key(2).words()));
        let first = fleet(&format!("# ours\n{ann}"));
        let second = first.with(&bob).unwrap();
        assert_eq!(second.signers, format!("# version: 1\n# ours\n{ann}\n{bob}\n"));
        let third = second.without(&[(key(1), "ann".into())]).unwrap();
        assert_eq!(third.signers, format!("# version: 2\n# ours\n{bob}\n"));
        assert_eq!(third.revoked.as_deref(), Some(format!("{} ann\n", key(1).words()).as_bytes()));
        let fourth = third.without(&[(key(3), "found".into())]).unwrap();
        assert_eq!((fourth.trust.version(), revoked_keys(&fourth.revoked.clone().unwrap()).len()), (3, 2));
        let made_by_keygen = FleetTrust { revoked: Some(b"SSHKRL\n\0".to_vec()), ..fourth };
        assert!(made_by_keygen.without(&[]).unwrap_err().to_string().contains("ssh-keygen -k"));
    }

    #[test]
    fn a_host_that_has_something_else_is_not_known() {
        let first = fleet(&format!("# version: 2\nann {}", key(1).words()));
        let own = first.with(&format!("bob {}", key(2).words())).unwrap();
        let host = |trust_version, trust_digest: &str| {
            own.knows(&Status { trust_version, trust_digest: trust_digest.into(), ..Status::default() })
        };
        assert!(host(0, "") && host(2, &first.digest()) && host(3, &own.digest()));
        for version in 0..5 {
            assert!(!host(version, "other"), "{version}");
        }
    }

    #[test]
    fn the_versions_that_it_had_are_kept_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("fleet");
        let first = FleetTrust { directory: below.clone(), ..fleet(&format!("ann {}", key(1).words())) };
        first.store().unwrap();
        let second = first.with(&format!("bob {}", key(2).words())).unwrap();
        second.store().unwrap();
        second.store().unwrap();
        let read = FleetTrust::read_from(below).unwrap().unwrap();
        assert_eq!(read.prior, [first.digest(), second.digest()]);
        assert!(read.knows(&Status { trust_digest: first.digest(), ..Status::default() }));
    }
}
