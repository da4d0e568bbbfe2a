//! Where a release comes from: an archive, a directory that is packed, or a URL.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, bail};
use protocol::artifact::Artifact;

use super::{super::content::Content, pack};
use crate::{cli::deploys::Source, output::Advice};

/// Bytes at the beginning of an archive by which its form is known.
const BEGINNING: usize = 512;

/// How gzip and zstd begin.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Where the magic word of a tar archive stands.
const TAR: (usize, &[u8]) = (257, b"ustar");

/// What is offered to the hosts.
pub enum Offer {
    /// Content that travels through Redis.
    Sent(Content),
    /// An archive that they fetch themselves.
    Fetched { url: String, artifact: Artifact },
}

impl Offer {
    /// What `--from` names. Where digest or size are given, it must have them.
    ///
    /// # Errors
    /// It cannot be read or packed, is no archive, or is not what was said.
    pub fn of(from: &Source, sha256: Option<&str>, size: Option<u64>) -> anyhow::Result<Self> {
        let path = match from {
            Source::Here(path) => path,
            Source::There(url) => {
                let (Some(sha256), Some(size)) = (sha256, size) else {
                    let needed = Advice::new("a URL needs --sha256 and --size: hosts take nothing else from there");
                    let hint = format!("what they are: curl -fsSL '{url}' | tee >(sha256sum >&2) | wc -c");
                    return Err(needed.hint(hint).into());
                };
                let artifact = format!("{sha256}:{size}").parse().map_err(|error| Advice::new(format!("{error}")))?;
                return Ok(Self::Fetched { url: url.to_string(), artifact });
            }
        };
        let mut content = if path.is_dir() { packed(path)? } else { Content::open(path)? };
        let form = Form::of(path, &content.beginning::<BEGINNING>()?)?;
        let found = content.artifact();
        if sha256.is_some_and(|wanted| wanted != found.sha256()) {
            bail!("{} has the SHA-256 {}, not the one that was given", path.display(), found.sha256());
        }
        if size.is_some_and(|wanted| wanted != found.bytes()) {
            bail!("{} has {} bytes, not as many as were given", path.display(), found.bytes());
        }
        Ok(Self::Sent(match form {
            Form::Compressed => content,
            Form::Plain => compressed(&mut content).with_context(|| format!("cannot compress {}", path.display()))?,
        }))
    }

    /// How the action learns of it.
    pub fn arguments(&self) -> [String; 2] {
        match self {
            Self::Sent(content) => {
                [format!("content={}", content.artifact()), format!("content_key={}", content.key().to_text())]
            }
            Self::Fetched { url, artifact } => [format!("content={artifact}"), format!("url={url}")],
        }
    }

    /// What must be sent.
    pub const fn content(&mut self) -> Option<&mut Content> {
        match self {
            Self::Sent(content) => Some(content),
            Self::Fetched { .. } => None,
        }
    }
}

/// A directory as an archive.
fn packed(directory: &Path) -> anyhow::Result<Content> {
    let content = Content::written(|file| pack::pack(directory, file));
    content.with_context(|| format!("cannot pack {}", directory.display()))
}

/// A plain tar archive as hosts unpack it.
fn compressed(plain: &mut Content) -> anyhow::Result<Content> {
    Content::written(|file| {
        let mut gzip = pack::gzip(file);
        io::copy(&mut plain.read()?, &mut gzip)?;
        gzip.finish()?.flush()?;
        Ok(())
    })
}

/// The form of an archive.
enum Form {
    /// tar.gz or tar.zst.
    Compressed,
    /// tar.
    Plain,
}

impl Form {
    /// An archive is known by how it begins, whatever its name is.
    fn of(path: &Path, begin: &[u8]) -> anyhow::Result<Self> {
        let (at, word) = TAR;
        if begin.starts_with(&GZIP) || begin.starts_with(&ZSTD) {
            return Ok(Self::Compressed);
        }
        if begin.get(at..at + word.len()) == Some(word) {
            return Ok(Self::Plain);
        }
        let what = if begin.is_empty() { "is empty" } else { "is no archive: neither tar.gz nor tar.zst or tar" };
        let advice = Advice::new(format!("{} {what}", path.display()));
        Err(advice.hint("name the directory with the files: --from DIR packs it").into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn refused(from: &Source, sha256: Option<&str>, size: Option<u64>) -> String {
        format!("{:#}", Offer::of(from, sha256, size).err().expect("an error"))
    }

    #[test]
    fn archives_are_known_by_how_they_begin() {
        let directory = tempfile::tempdir().unwrap();
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (begin, good) in [
            (&b"\x1f\x8b\x08"[..], true),
            (b"\x28\xb5\x2f\xfd", true),
            (&tar, true),
            (b"PK\x03\x04", false),
            (b"#!/bin/sh\n", false),
            (b"", false),
        ] {
            let path = directory.path().join("release");
            fs::write(&path, begin).unwrap();
            let from = Source::Here(path);
            if good {
                let mut offer = Offer::of(&from, None, None).unwrap();
                // A plain one is compressed on its way.
                let sent = offer.content().unwrap().beginning::<4>().unwrap();
                assert!(sent.starts_with(&GZIP) || sent == ZSTD, "{begin:?}");
            } else {
                let reason = refused(&from, None, None);
                assert!(reason.contains("is no archive") || reason.ends_with("is empty"), "{reason}");
            }
        }
        assert!(refused(&Source::Here("/no/such/file".into()), None, None).starts_with("cannot read /no/such/file"));
    }

    #[test]
    fn digest_and_size_are_needed_for_a_url_and_checked_of_a_file() {
        let url = Source::There("https://a/x.tgz".parse().unwrap());
        assert!(refused(&url, Some(&"ab".repeat(32)), None).contains("--sha256 and --size"));
        let mut offer = Offer::of(&url, Some(&"ab".repeat(32)), Some(7)).unwrap();
        assert_eq!(offer.arguments(), [format!("content={}:7", "ab".repeat(32)), "url=https://a/x.tgz".to_owned()]);
        assert!(offer.content().is_none());
        assert!(refused(&url, Some(&"ab".repeat(32)), Some(u64::MAX)).contains("more than"));

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.tgz");
        fs::write(&path, b"\x1f\x8b").unwrap();
        let from = Source::Here(path);
        assert!(refused(&from, Some(&"ab".repeat(32)), None).contains("not the one that was given"));
        assert!(refused(&from, None, Some(3)).contains("has 2 bytes"));
    }
}
