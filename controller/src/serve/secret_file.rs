//! Secrets of the services: each stands in a file of its own, and nowhere else.

use std::{
    fmt, fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Deserialize;
use zeroize::Zeroizing;

/// The longest secret, in bytes.
const MOST: usize = 4096;

/// A file whose first line is a secret. It is read when it is needed, so that the secret can be changed without a restart.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretFile(PathBuf);

impl fmt::Debug for SecretFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl SecretFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the secret.
    ///
    /// # Errors
    /// Others may read the file, or it cannot be read, or its first line is empty, too long, or no plain text. The errors
    /// say nothing of its content.
    pub fn read(&self) -> anyhow::Result<Zeroizing<String>> {
        let shown = self.0.display();
        let reading = || format!("cannot read the secret in {shown}");
        let file = fs::File::open(&self.0).with_context(reading)?;
        let metadata = file.metadata().with_context(reading)?;
        if !metadata.is_file() {
            bail!("{shown} is no file");
        }
        // The group of a file that is not ours may be the way in which it was given to us.
        let others = if metadata.uid() == nix::unistd::getuid().as_raw() { 0o077 } else { 0o007 };
        if metadata.mode() & others != 0 {
            bail!("others may read the secret in {shown}: make it yours alone: chmod 600 {shown}");
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(MOST + 1));
        file.take(MOST as u64 + 1).read_to_end(&mut bytes).with_context(reading)?;
        let text = std::str::from_utf8(&bytes).ok().with_context(|| format!("the secret in {shown} is no text"))?;
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() || line.len() >= MOST || line.contains(char::is_control) {
            bail!("the first line of {shown} is no secret: it is empty, too long, or has control characters");
        }
        Ok(Zeroizing::new(line.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, SecretFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, SecretFile(path))
    }

    #[test]
    fn a_secret_is_the_first_line_of_a_file_that_nobody_else_may_read() {
        assert_eq!(*file(b"s3cret\nmore\n", 0o600).1.read().unwrap(), "s3cret");
        for mode in [0o640, 0o604, 0o644] {
            let error = file(b"s3cret", mode).1.read().unwrap_err().to_string();
            assert!(error.contains("chmod 600") && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_is_no_secret_is_told_without_its_content() {
        for content in [&b""[..], b"\n", b"s3cret\x07", b"s3cret\xff", &[b'a'; MOST + 5]] {
            let error = format!("{:#}", file(content, 0o600).1.read().unwrap_err());
            assert!(!error.contains("s3cret") && !error.contains("aaa"), "{error}");
        }
        assert!(SecretFile("/nowhere".into()).read().is_err());
        assert!(SecretFile("/tmp".into()).read().is_err());
    }
}
