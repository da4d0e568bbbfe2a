//! The host's key: what a host states, such as an outcome, is signed with it.

use std::path::{Path, PathBuf};

use protocol::{
    name::HostName,
    trust::signing::{SigningKey, SigningKeyError},
};

use crate::private_file::{self, PrivateFileError};

/// What the file is called in errors.
const WHAT: &str = "host key";

/// Where the key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostKeyFile {
    /// In the worker's state directory. It is made where there is none.
    Own(PathBuf),
    /// In a file that somebody else has made, such as the key of the machine's SSH server.
    Named(PathBuf),
}

/// Why the host's key cannot be used. The text of each error is complete without its source.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// The file cannot be read or made.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// There is no such file.
    #[error("the host key {path} does not exist; make it (ssh-keygen -t ed25519 -N '' -f {path}), or leave out the setting `host_key`", path = .0.display())]
    Missing(PathBuf),
    /// There is no usable key in it.
    #[error("the host key {path} cannot be used: {1}. Restore it; or move it away, and let `ctl host key HOST --pin` trust the new one", path = .0.display())]
    Key(PathBuf, #[source] SigningKeyError),
}

impl HostKeyFile {
    /// The file's path.
    pub fn path(&self) -> &Path {
        let (Self::Own(path) | Self::Named(path)) = self;
        path
    }

    /// Reads the key; `None` where it is still to be made.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn read(&self) -> Result<Option<SigningKey>, HostKeyError> {
        match (private_file::read(WHAT, self.path())?, self) {
            (None, Self::Named(path)) => Err(HostKeyError::Missing(path.clone())),
            (None, Self::Own(_)) => Ok(None),
            (Some(text), _) => self.parse(&text).map(Some),
        }
    }

    /// Reads the key, or makes it.
    ///
    /// # Errors
    /// The file cannot be used, or not be made.
    pub fn open(&self, host: &HostName) -> Result<SigningKey, HostKeyError> {
        if let Some(key) = self.read()? {
            return Ok(key);
        }
        self.parse(&private_file::open(WHAT, self.path(), || SigningKey::generate().to_openssh(host.as_str()))?)
    }

    fn parse(&self, text: &[u8]) -> Result<SigningKey, HostKeyError> {
        SigningKey::from_openssh(text).map_err(|error| HostKeyError::Key(self.path().into(), error))
    }

    /// The file, and which key is in it, as a line for people.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn describe(&self) -> Result<String, HostKeyError> {
        let key = self.read()?.map_or_else(|| "made at the first start".to_owned(), |key| key.fingerprint());
        Ok(format!("{} ({key})", self.path().display()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
        process::Command,
    };

    use super::*;

    fn host() -> HostName {
        "web1".parse().unwrap()
    }

    #[test]
    fn a_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = HostKeyFile::Own(dir.path().join("state/host_key"));
        assert!(file.describe().unwrap().ends_with("(made at the first start)"));
        assert!(!file.path().exists(), "a look makes nothing");
        let key = file.open(&host()).unwrap();
        assert_eq!(file.open(&host()).unwrap().line(), key.line());
        private_file::make(file.path(), b"another").unwrap();
        assert_eq!(file.open(&host()).unwrap().line(), key.line(), "one that is there stays");
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("state")).unwrap().count(), 1);
        assert!(file.describe().unwrap().ends_with(&format!("({})", key.fingerprint())));
    }

    #[test]
    fn the_key_of_ssh_keygen_is_taken_and_understands_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let keygen = |arguments: &[&str]| {
            let ran = Command::new("ssh-keygen").args(arguments).arg("-f").arg(&path).output().unwrap();
            assert!(ran.status.success(), "{ran:?}");
            String::from_utf8(ran.stdout).unwrap()
        };
        keygen(&["-q", "-t", "ed25519", "-N", ""]);
        let shown = keygen(&["-l"]);
        let key = HostKeyFile::Named(path.clone()).read().unwrap().unwrap();
        assert!(shown.contains(&key.fingerprint()), "{shown}");

        fs::remove_file(&path).unwrap();
        let ours = HostKeyFile::Own(path.clone()).open(&host()).unwrap();
        assert_eq!(keygen(&["-y"]).trim(), format!("{} web1", ours.line()));
        fs::remove_file(&path).unwrap();
        for (kind, passphrase, expected) in [("ed25519", "secret", "passphrase"), ("ecdsa", "", "type ecdsa")] {
            keygen(&["-q", "-t", kind, "-N", passphrase]);
            let error = HostKeyFile::Named(path.clone()).read().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host_key");
        let named = HostKeyFile::Named(path.clone());
        assert!(matches!(named.open(&host()), Err(HostKeyError::Missing(_))));
        let file = HostKeyFile::Own(path.clone());
        file.open(&host()).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(matches!(file.open(&host()), Err(HostKeyError::File(PrivateFileError::Open(_, _, 0o640)))));
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        for broken in [&whole[..whole.len() / 2], b"", &vec![b'x'; 20_000]] {
            fs::write(&path, broken).unwrap();
            assert!(file.open(&host()).is_err());
            assert_eq!(fs::read(&path).unwrap(), broken);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(file.open(&host()), Err(HostKeyError::File(PrivateFileError::NoFile(..)))));
        let below_a_file = dir.path().join("file/host_key");
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(HostKeyFile::Own(below_a_file).open(&host()).is_err());
    }
}
