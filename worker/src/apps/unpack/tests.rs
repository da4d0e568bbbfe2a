//! Archives, good and hostile.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

use super::*;

/// A header of the kind, with a name that nobody has judged.
fn header(kind: EntryType, name: &[u8], link: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    let fields = header.as_gnu_mut().unwrap();
    fields.name[..name.len()].copy_from_slice(name);
    fields.linkname[..link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

/// An archive that is written member by member.
struct Archived(Builder<Vec<u8>>);

impl Archived {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn with(mut self, kind: EntryType, name: impl AsRef<[u8]>, link: impl AsRef<[u8]>, content: &[u8]) -> Self {
        let header = header(kind, name.as_ref(), link.as_ref(), content.len() as u64);
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: impl AsRef<[u8]>, content: &[u8]) -> Self {
        self.with(EntryType::Regular, name, "", content)
    }

    /// Attributes of PAX for the member that follows.
    fn pax(self, kind: EntryType, records: &[(&str, &str)]) -> Self {
        let record = |(key, value): &(&str, &str)| {
            let bare = key.len() + value.len() + 3;
            // The length counts its own digits.
            let length = (bare..bare + 9).find(|length| bare + length.to_string().len() == *length).unwrap();
            format!("{length} {key}={value}\n")
        };
        let text: String = records.iter().map(record).collect();
        self.with(kind, "PaxHeaders/x", "", text.as_bytes())
    }

    fn raw(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn gz(self) -> Vec<u8> {
        gz(&self.raw())
    }
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A frame of zstd with blocks as they are. `window`: its descriptor.
fn zstd(bytes: &[u8], window: u8) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window];
    let mut chunks = bytes.chunks(32 * 1024).peekable();
    while let Some(chunk) = chunks.next() {
        let header = u32::try_from(chunk.len()).unwrap() << 3 | u32::from(chunks.peek().is_none());
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(chunk);
    }
    frame
}

const BOUNDS: Bounds = Bounds { bytes: 1 << 20, files: 100 };

/// A directory to unpack into, within one in which nothing else may appear.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("draft")).unwrap();
    fs::write(place.path().join("outside"), "untouched").unwrap();
    place
}

fn unpacked(archive: &[u8]) -> (tempfile::TempDir, Result<Unpacked, UnpackError>) {
    let place = place();
    let unpacked = unpack(archive, &place.path().join("draft"), None, BOUNDS, &|| false);
    (place, unpacked)
}

/// Refuses an archive for this reason, and touches nothing outside.
#[track_caller]
fn refused(archive: &[u8], reason: &str) {
    let (place, unpacked) = unpacked(archive);
    let error = unpacked.expect_err(reason).to_string();
    assert!(error.contains(reason), "'{error}' and not '{reason}'");
    assert!(!error.chars().any(char::is_control), "{error:?}");
    let names: Vec<_> = fs::read_dir(place.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let outside = place.path().join("outside");
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
    assert_eq!((fs::metadata(&outside).unwrap().mode() & 0o7777, fs::metadata(&outside).unwrap().nlink()), (0o644, 1));
}

fn archived() -> Archived {
    Archived::new()
}

#[test]
fn a_plain_archive_is_unpacked_whatever_compressed_it() {
    let content: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let archive = archived()
        .with(EntryType::Directory, "./", "", b"")
        .with(EntryType::Directory, "./bin/", "", b"")
        .file("./bin/web", &content)
        .with(EntryType::Symlink, "bin/latest", "../bin/web", b"")
        .with(EntryType::Link, "copy", "bin/web", b"")
        .with(EntryType::GNULongName, "././@LongLink", "", format!("{long}\0").as_bytes())
        .file("short", b"long")
        .pax(EntryType::XHeader, &[("path", "attributes/größe"), ("mtime", "1.5"), ("size", "3")])
        .file("short", b"pax")
        .pax(EntryType::XGlobalHeader, &[("comment", "of a commit")])
        .file("last", b"")
        .raw();
    for compressed in [gz(&archive), zstd(&archive, 0)] {
        let (place, unpacked) = unpacked(&compressed);
        let unpacked = unpacked.unwrap();
        assert_eq!((unpacked.files, unpacked.bytes, unpacked.tamed), (9, 200_007, 0));
        let draft = place.path().join("draft");
        for name in ["bin/web", "bin/latest", "copy"] {
            assert!(fs::read(draft.join(name)).unwrap() == content, "{name}");
        }
        assert_eq!(fs::read(draft.join(&long)).unwrap(), b"long");
        assert_eq!(fs::read(draft.join("attributes/größe")).unwrap(), b"pax");
        assert_eq!(fs::metadata(draft.join("attributes")).unwrap().permissions().mode() & 0o7777, 0o755);
    }
}

#[test]
fn rights_that_a_mode_gives_to_others_are_not_kept() {
    let mut archive = Builder::new(Vec::new());
    for (name, kind, mode) in [
        ("suid", EntryType::Regular, 0o4755),
        ("sgid", EntryType::Regular, 0o2711),
        ("open", EntryType::Regular, 0o666),
        ("private", EntryType::Regular, 0o400),
        ("sticky", EntryType::Directory, 0o1777),
        ("closed", EntryType::Directory, 0o000),
    ] {
        let mut header = header(kind, name.as_bytes(), b"", 0);
        header.set_mode(mode);
        header.set_cksum();
        archive.append(&header, &b""[..]).unwrap();
    }
    let (place, unpacked) = unpacked(&gz(&archive.into_inner().unwrap()));
    assert_eq!(unpacked.unwrap().tamed, 4);
    let mode = |name: &str| fs::metadata(place.path().join("draft").join(name)).unwrap().mode() & 0o7777;
    let modes = ["suid", "sgid", "open", "private", "sticky", "closed"].map(mode);
    assert_eq!(modes, [0o755, 0o711, 0o644, 0o400, 0o755, 0o700]);
}

#[test]
fn attack_leaving_the_release_by_name() {
    for (name, reason) in [
        ("../outside", "its name leads up (..)"),
        ("a/../../outside", "its name leads up (..)"),
        ("./../outside", "its name leads up (..)"),
        ("a/..", "its name leads up (..)"),
        ("/etc/passwd", "its name is absolute"),
        ("//etc/passwd", "its name is absolute"),
        (".//etc/passwd", "its name has an empty part"),
        ("a/./b", "a single dot"),
        ("", "its name is empty"),
        (".", "is that of the release itself"),
        ("a/", "ends with a slash, and it is a file"),
    ] {
        refused(&archived().file(name, b"x").gz(), reason);
        // The same, where it stands beside the header.
        if !name.is_empty() {
            let long = format!("{name}\0");
            refused(&archived().with(EntryType::GNULongName, "x", "", long.as_bytes()).file("good", b"x").gz(), reason);
            refused(&archived().pax(EntryType::XHeader, &[("path", name)]).file("good", b"x").gz(), reason);
        }
    }
    let deep = format!("{}f", "d/".repeat(64));
    refused(&archived().pax(EntryType::XHeader, &[("path", &deep)]).file("x", b"").gz(), "64 directories deep");
}

#[test]
fn attack_confusing_names() {
    refused(&archived().file(b"a\xff", b"x").gz(), "its name is not UTF-8");
    for name in ["a\nb", "a\x1b[2J", "a\u{9b}b", "\u{7f}"] {
        refused(&archived().file(name, b"x").gz(), "its name has a control character");
    }
    refused(&archived().pax(EntryType::XHeader, &[("path", "a\0b")]).file("x", b"").gz(), "a control character");
    refused(&archived().file("twice", b"1").file("./twice", b"2").gz(), "the archive has it twice");
    refused(&archived().file("a/b", b"1").file("a", b"2").gz(), "the archive has it twice");
    refused(&archived().file("a", b"1").file("a/b", b"2").gz(), "'a' on its way is no directory but a file");
    let directory = archived().file("a", b"1").with(EntryType::Directory, "a", "", b"");
    refused(&directory.gz(), "the archive has it twice");
    let link = archived().file("a", b"1").with(EntryType::Symlink, "a", "b", b"");
    refused(&link.gz(), "the archive has it twice");
}

#[test]
fn attack_leaving_the_release_by_a_link() {
    for (name, target, reason) in [
        ("l", "/etc", "it is a link to '/etc', which is absolute"),
        ("l", "..", "which leads out of the release"),
        ("l", "../outside", "which leads out of the release"),
        ("a/b/l", "../../../outside", "which leads out of the release"),
        ("a/l", "../x/../../outside", "leads down and then up"),
        ("l", "x/..", "leads down and then up"),
        ("l", "", "which is empty"),
        ("l", "a\nb", "a control character"),
    ] {
        refused(&archived().with(EntryType::Symlink, name, target, b"").gz(), reason);
        let pax = archived().pax(EntryType::XHeader, &[("linkpath", target)]);
        if !target.is_empty() {
            refused(&pax.with(EntryType::Symlink, name, "good", b"").gz(), reason);
        }
    }
    // What a link says that leads within, another one must not use to get out.
    let steps = archived().with(EntryType::Symlink, "a/b/root", "../..", b"");
    refused(&steps.with(EntryType::Symlink, "out", "a/b/root/../outside", b"").gz(), "leads down and then up");

    for (target, reason) in [
        ("/etc/passwd", "which is absolute"),
        ("../outside", "which leads up"),
        (".", "is the release itself"),
        ("later", "'later', which is no file that comes before it"),
        ("directory", "'directory', which is no file that comes before it"),
        ("symbolic", "'symbolic', which is no file that comes before it"),
        ("through/passwd", "'through/passwd', which is no file that comes before it"),
    ] {
        let archive = archived()
            .with(EntryType::Directory, "directory", "", b"")
            .with(EntryType::Symlink, "symbolic", "directory", b"")
            .with(EntryType::Symlink, "through", "directory", b"")
            .with(EntryType::Link, "hard", target, b"")
            .file("later", b"");
        refused(&archive.gz(), reason);
    }
}

#[test]
fn attack_writing_through_a_link() {
    let link = || archived().with(EntryType::Symlink, "link", "directory", b"");
    refused(&link().file("link/file", b"x").gz(), "'link' on its way is no directory but a symbolic link");
    refused(&link().with(EntryType::Directory, "link", "", b"").gz(), "the archive has it twice");
    refused(&link().file("link", b"x").gz(), "the archive has it twice");
    let inner = archived().with(EntryType::Directory, "directory", "", b"");
    let inner = inner.with(EntryType::Symlink, "directory/up", "..", b"");
    refused(&inner.file("directory/up/file", b"x").gz(), "'directory/up' on its way is no directory");
}

#[test]
fn attack_what_is_no_file() {
    for (kind, reason) in [
        (EntryType::Char, "it is a device"),
        (EntryType::Block, "it is a device"),
        (EntryType::Fifo, "it is a named pipe"),
        (EntryType::GNUSparse, "it is a sparse file"),
        (EntryType::Continuous, "of an unknown kind"),
        (EntryType::new(b'V'), "of an unknown kind"),
        (EntryType::new(b'X'), "of an unknown kind"),
    ] {
        refused(&archived().file("good", b"").with(kind, "bad", "", b"").gz(), reason);
    }
    refused(&archived().with(EntryType::Directory, "d", "", b"content").gz(), "it is no file, and has content");
    let link = archived().file("a", b"").with(EntryType::Link, "b", "a", b"content");
    refused(&link.gz(), "it is no file, and has content");
}

#[test]
fn attack_saying_two_things() {
    let pax = |records: &[(&str, &str)]| archived().pax(EntryType::XHeader, records);
    refused(&pax(&[("size", "7")]).file("x", b"1234").gz(), "the archive says two things about it: its size");
    refused(&pax(&[("size", "+4")]).file("x", b"1234").gz(), "its attributes (PAX) are malformed");
    refused(&pax(&[("path", "a"), ("path", "b")]).file("x", b"").gz(), "an attribute twice");
    refused(&pax(&[("path", "a")]).pax(EntryType::XHeader, &[]).file("x", b"").gz(), "two sets of attributes");
    let both = pax(&[("path", "a")]).with(EntryType::GNULongName, "x", "", b"b\0").file("x", b"");
    refused(&both.gz(), "a name of the format GNU and one of PAX");
    for key in ["path", "linkpath", "size"] {
        let global = archived().pax(EntryType::XGlobalHeader, &[(key, "1")]).file("x", b"1");
        refused(&global.gz(), "for all that follow");
    }
    refused(&pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.name", "a")]).file("x", b"").gz(), "a sparse file");
    refused(&pax(&[("path", "a")]).gz(), "its end is missing");
    for malformed in [&b"5 a=b"[..], b"99 a=b\n", b"a=b\n", b"0 \n", b"5 abc\n", b"18446744073709551617 a=b\n"] {
        let archive = archived().with(EntryType::XHeader, "x", "", malformed).file("x", b"");
        refused(&archive.gz(), "are malformed");
    }
}

#[test]
fn attack_bombs() {
    // A size that is claimed is refused before any of it is written.
    let mut huge = header(EntryType::Regular, b"huge", b"", 0);
    huge.set_size(1 << 40);
    huge.set_cksum();
    refused(&gz(huge.as_bytes()), "it unpacks to more than 1048576 bytes (max_bytes in the settings)");
    let file = vec![0; 600_000];
    refused(&archived().file("a", &file).file("b", &file).gz(), "it unpacks to more than 1048576 bytes");
    let many = (0..101).fold(archived(), |archive, number| archive.file(number.to_string(), b""));
    refused(&many.gz(), "it has more than 100 files (max_files in the settings)");
    // Directories that are only implied count, too: 4 files in 120 of them.
    let deep = |from: u32| format!("{from}/{}x", "d/".repeat(29));
    let implied = (0..4).fold(archived(), |archive, from| archive.file(deep(from), b""));
    refused(&implied.gz(), "it has more than 100 files");
    // So is what would only be kept in memory.
    let long = vec![b'a'; 5000];
    refused(&archived().with(EntryType::GNULongName, "x", "", &long).file("x", b"").gz(), "are too long");
    let attributes = vec![b'a'; 70_000];
    refused(&archived().with(EntryType::XHeader, "x", "", &attributes).file("x", b"").gz(), "are too long");
    // Nothing but headers, and nothing but padding.
    let heads = (0..2000)
        .fold(archived(), |archive, _| archive.pax(EntryType::XGlobalHeader, &[("comment", &"x".repeat(600))]));
    refused(&heads.gz(), "far more headers and padding than files");
    let mut padded = archived().file("a", b"").raw();
    padded.resize(padded.len() + (4 << 20), 0);
    refused(&gz(&padded), "far more headers and padding than files");
    // A window of 128 MiB.
    refused(&zstd(&archived().file("a", b"").raw(), 17 << 3), "its zstd window of 134217728 bytes is larger");
}

#[test]
fn attack_archives_that_are_none() {
    refused(b"", "it is neither a .tar.gz nor a .tar.zst");
    refused(b"PK\x03\x04", "it is neither a .tar.gz nor a .tar.zst");
    refused(&archived().file("a", b"").raw(), "it is neither a .tar.gz nor a .tar.zst");
    refused(&gz(b""), "its end is missing");
    refused(&gz(&[7; 2000]), "is no tar archive");
    refused(&archived().gz(), "there is no file in it");
    refused(b"\x28\xb5\x2f\xfd", "it is damaged or cut off");
    refused(b"\x28\xb5\x2f\xfd\x00\x00garbage", "it is damaged or cut off");

    let raw = archived().file("a", &[7; 3000]).file("b", b"1").raw();
    for whole in [gz(&raw), zstd(&raw, 0)] {
        for length in [20, whole.len() / 2, whole.len() - 1] {
            refused(&whole[..length], "cut off");
        }
    }
    // Cut off before it was compressed: within a file, within a header, and where its end should be.
    for length in [700, 512 + 3072 + 100, raw.len() - 1024] {
        refused(&gz(&raw[..length]), if length == 3684 { "is no tar archive" } else { "cut off" });
    }
    // What others would read on, or not.
    refused(&[gz(&raw), gz(&raw)].concat(), "there is something behind the end of the archive");
    refused(&[gz(&raw), vec![0; 10]].concat(), "there is something behind the end of the archive");
    refused(&[zstd(&raw, 0), zstd(&raw, 0)].concat(), "there is something behind the end of the archive");
    refused(&gz(&[raw.clone(), raw.clone()].concat()), "there is something behind the end of the archive");
    let mut altered = gz(&raw);
    let check = altered.len() - 6;
    altered[check] ^= 1;
    refused(&altered, "it is damaged or cut off");
}

#[test]
fn it_ends_when_it_has_to() {
    let place = place();
    let archive = archived().file("a", b"").gz();
    let stopped = unpack(&archive[..], &place.path().join("draft"), None, BOUNDS, &|| true);
    assert!(matches!(stopped, Err(UnpackError::Stopped)));
}
