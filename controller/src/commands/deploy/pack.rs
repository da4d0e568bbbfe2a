//! Packs a directory. The same files give the same archive, byte for byte, whenever and by whom they were made: entries
//! are sorted, times are zero, owners are left out.

use std::{
    fs::{self, File, FileType, Metadata},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, bail};
use flate2::{Compression, GzBuilder, write::GzEncoder};
use protocol::limits;
use tar::{Builder, EntryType, Header};

use super::super::content::too_large;
use crate::output::Advice;

/// The permissions of a file that are kept.
const MODE: u32 = 0o7777;

/// Packs a directory into a tar.gz.
///
/// # Errors
/// Something in it cannot be read, or has no place in a release: sockets, devices, links that lead out.
pub fn pack(directory: &Path, out: &mut File) -> anyhow::Result<()> {
    let mut archive = Builder::new(gzip(out));
    let count = add_all(directory, Path::new(""), &mut archive)?;
    if count == 0 {
        bail!("it is empty");
    }
    archive.into_inner()?.finish()?.flush()?;
    Ok(())
}

/// Compresses what is written: the same bytes in the same way. It takes no more than can be sent.
pub fn gzip(out: &mut File) -> GzEncoder<impl Write> {
    // It notes neither name nor time, unless it is told them.
    GzBuilder::new().write(Bounded::new(BufWriter::new(out)), Compression::default())
}

/// Adds all that is in a directory, sorted by name. `inner`: the directory's own name in the archive. Returns how many
/// entries that were.
fn add_all(root: &Path, inner: &Path, archive: &mut Builder<impl Write>) -> anyhow::Result<usize> {
    let place = root.join(inner);
    let read = || -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&place)?;
        entries.map(|entry| Ok(inner.join(entry?.file_name()))).collect()
    };
    let mut names = read().with_context(|| format!("cannot read {}", place.display()))?;
    names.sort();
    let mut count = names.len();
    for name in names {
        let path = root.join(&name);
        let about = fs::symlink_metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if about.is_dir() {
            archive.append_data(&mut header(EntryType::Directory, &about), &name, io::empty())?;
            count += add_all(root, &name, archive)?;
        } else if about.is_symlink() {
            add_link(&path, &name, &about, archive)?;
        } else if about.is_file() {
            add_file(&path, &name, archive).map_err(|error| explain(error, &name))?;
        } else {
            let what = what_it_is(about.file_type());
            bail!(
                Advice::new(format!("{} is {what}", name.display())).hint("a release has files, directories and links")
            );
        }
    }
    Ok(count)
}

fn add_file(path: &Path, name: &Path, archive: &mut Builder<impl Write>) -> io::Result<()> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    let mut header = header(EntryType::Regular, &about);
    header.set_size(about.len());
    // What is longer or shorter by now would break the archive.
    let mut counted = Counted { inner: file.take(about.len()), count: 0 };
    archive.append_data(&mut header, name, &mut counted)?;
    if counted.count == about.len() { Ok(()) } else { Err(io::Error::other("it has changed while it was packed")) }
}

fn add_link(path: &Path, name: &Path, about: &Metadata, archive: &mut Builder<impl Write>) -> anyhow::Result<()> {
    let target = fs::read_link(path).with_context(|| format!("cannot read {}", path.display()))?;
    if leads_out(name, &target) {
        let leads = Advice::new(format!("the link {} leads out of it, to {}", name.display(), target.display()));
        bail!(leads.hint("a link may lead to what is packed, by a relative path"));
    }
    let mut header = header(EntryType::Symlink, about);
    // The mode of a link means nothing.
    header.set_mode(0o777);
    archive.append_link(&mut header, name, &target)?;
    Ok(())
}

/// Whether a link of this name leads out of the directory that is packed, at any of its steps.
fn leads_out(name: &Path, target: &Path) -> bool {
    let mut depth = name.components().count() - 1;
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

fn header(kind: EntryType, about: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(about.permissions().mode() & MODE);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

fn what_it_is(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a device"
    }
}

/// An error of a file with its name, unless it is about the whole archive.
fn explain(error: io::Error, name: &Path) -> anyhow::Error {
    match error.downcast::<Advice>() {
        Ok(advice) => advice.into(),
        Err(error) => anyhow::Error::from(error).context(format!("cannot read {}", name.display())),
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

/// Takes no more than can be sent, so that a directory that is too large does not fill the disk first.
struct Bounded<W> {
    inner: W,
    left: usize,
}

impl<W: Write> Bounded<W> {
    const fn new(inner: W) -> Self {
        Self { inner, left: limits::ARTIFACT_BYTES }
    }
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| io::Error::other(too_large()))?;
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use flate2::read::GzDecoder;

    use super::*;

    fn packed(directory: &Path) -> anyhow::Result<Vec<u8>> {
        let mut file = tempfile::tempfile()?;
        pack(directory, &mut file)?;
        let mut bytes = Vec::new();
        io::Seek::rewind(&mut file)?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn make(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("this is {name}")).unwrap();
        }
        fs::set_permissions(directory.path().join(files[0]), PermissionsExt::from_mode(0o750)).unwrap();
        directory
    }

    #[test]
    fn the_same_files_are_the_same_archive_whenever_they_were_made() {
        let long = format!("etc/{}", "x".repeat(200));
        let one = make(&["bin/web", "etc/conf", &long]);
        let other = make(&["bin/web", &long, "etc/conf"]);
        for directory in [&one, &other] {
            symlink("../etc/conf", directory.path().join("bin/conf")).unwrap();
        }
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::open(other.path().join("bin/web")).unwrap().set_modified(old).unwrap();
        let archive = packed(one.path()).unwrap();
        assert!(archive == packed(other.path()).unwrap());

        let mut found = Vec::new();
        for entry in tar::Archive::new(GzDecoder::new(&archive[..])).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert_eq!(entry.header().uid().unwrap() + entry.header().mtime().unwrap(), 0);
            found.push((name, entry.header().mode().unwrap(), link.unwrap_or(text)));
        }
        let names: Vec<_> = found.iter().map(|(name, ..)| name.trim_end_matches('/')).collect();
        assert_eq!(names, ["bin", "bin/conf", "bin/web", "etc", "etc/conf", &long]);
        assert_eq!((found[2].1, found[2].2.as_str()), (0o750, "this is bin/web"));
        assert_eq!(found[1].2, "../etc/conf");

        // Another mode is another release.
        fs::set_permissions(one.path().join("bin/web"), PermissionsExt::from_mode(0o755)).unwrap();
        assert!(archive != packed(one.path()).unwrap());
    }

    #[test]
    fn what_has_no_place_in_a_release_is_named() {
        let refused = |directory: &tempfile::TempDir| format!("{:#}", packed(directory.path()).unwrap_err());
        assert_eq!(refused(&tempfile::tempdir().unwrap()), "it is empty");
        for target in ["/etc/passwd", "../../x", "../bin/../../x"] {
            let directory = make(&["bin/web"]);
            symlink(target, directory.path().join("bin/link")).unwrap();
            assert_eq!(refused(&directory), format!("the link bin/link leads out of it, to {target}"));
        }
        let directory = make(&["run/pid"]);
        let _socket = UnixListener::bind(directory.path().join("run/sock")).unwrap();
        assert_eq!(refused(&directory), "run/sock is a socket");
        let directory = make(&["run/pid"]);
        nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refused(&directory), "pipe is a pipe");
    }

    #[test]
    fn more_than_can_be_sent_is_not_written() {
        let mut out = Bounded { inner: Vec::new(), left: 3 };
        out.write_all(b"abc").unwrap();
        let error = explain(out.write_all(b"d").unwrap_err(), Path::new("x"));
        assert!(format!("{error:#}").contains("larger than 512 MiB"));
        assert_eq!(out.inner, b"abc");
    }
}
