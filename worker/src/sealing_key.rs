//! The host's sealing key: secrets are sealed to it.

use std::path::{Path, PathBuf};

use protocol::sealing::UnsealingKey;

use crate::private_file::{self, PrivateFileError};

/// What the file is called in errors.
const WHAT: &str = "sealing key";

/// Why the sealing key cannot be used. The text of each error is complete without its source.
#[derive(Debug, thiserror::Error)]
pub enum SealingKeyError {
    /// The file cannot be read or made.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// There is no key in it.
    #[error("the sealing key {path} is damaged. Restore it; or move it away, and let the worker make a new one: commands with secrets that wait for this host are rejected then", path = .0.display())]
    Damaged(PathBuf),
}

/// Reads the key, or makes it.
///
/// # Errors
/// The file cannot be used, or not be made.
pub fn open(path: &Path) -> Result<UnsealingKey, SealingKeyError> {
    let text = private_file::open(WHAT, path, || UnsealingKey::generate().to_text().to_string())?;
    UnsealingKey::from_text(&text).ok_or_else(|| SealingKeyError::Damaged(path.into()))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use super::*;

    #[test]
    fn it_is_made_once_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/sealing_key");
        let public = || open(&path).map(|key| key.public(None, "web1".parse().unwrap()));
        let made = public().unwrap();
        assert_eq!(public().unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(matches!(public(), Err(SealingKeyError::File(PrivateFileError::Open(..)))));
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&path, "x25519 AAAA").unwrap();
        assert!(matches!(public(), Err(SealingKeyError::Damaged(_))));
        assert_eq!(fs::read(&path).unwrap(), b"x25519 AAAA");
    }
}
