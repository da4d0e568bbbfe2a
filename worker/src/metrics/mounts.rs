//! The mounts that store data, from `/proc/self/mountinfo`.
//!
//! Not read by `procfs-core`: its `MountInfos` keeps octal escapes as they are and rejects paths that are not UTF-8.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::{
    MetricsError,
    source::{Parsed, Source},
};

/// File systems in memory and overlays are left out below these directories: there the system and container
/// engines mount them for their own use.
const SCRATCH: [&str; 6] = ["/run", "/dev", "/sys", "/var/lib/docker", "/var/lib/containers", "/var/lib/kubelet"];

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mount {
    /// Major and minor device number. All mounts of one file system share it.
    pub(super) device: String,
    /// The mount point on the host.
    pub(super) point: PathBuf,
}

/// The mounts that store data, ordered by mount point. A file system that is mounted several times is listed
/// once, with its shortest mount point.
pub(super) fn read(source: &Source) -> Result<Vec<Mount>, MetricsError> {
    source.parse("/proc/self/mountinfo", parse)
}

fn parse(text: &[u8]) -> Parsed<Vec<Mount>> {
    // A later mount hides an earlier one at the same point, even if it stores no data itself.
    let mut visible = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let malformed = || format!("not a mount: {:?}", String::from_utf8_lossy(line));
        let (mount, kind) = parse_line(line).ok_or_else(malformed)?;
        let stores_data = stores_data(kind, &mount.point);
        visible.insert(mount.point.clone(), stores_data.then_some(mount));
    }

    let mut mounts: Vec<Mount> = visible.into_values().flatten().collect();
    mounts.sort_by_key(|mount| mount.point.as_os_str().len());
    let mut devices = HashSet::new();
    mounts.retain(|mount| devices.insert(mount.device.clone()));
    mounts.sort_by(|a, b| a.point.cmp(&b.point));
    Ok(mounts)
}

/// Parses `ID PARENT DEVICE ROOT POINT OPTIONS [TAG]… - KIND SOURCE SUPER_OPTIONS`.
fn parse_line(line: &[u8]) -> Option<(Mount, &str)> {
    let mut words = line.split(|byte| *byte == b' ');
    let device = str::from_utf8(words.nth(2)?).ok()?.to_owned();
    let point = PathBuf::from(OsString::from_vec(unescape(words.nth(1)?)));
    words.find(|word| *word == b"-")?;
    let kind = str::from_utf8(words.next()?).ok()?;
    let sound = device.contains(':') && point.is_absolute();
    sound.then_some((Mount { device, point }, kind))
}

fn stores_data(kind: &str, point: &Path) -> bool {
    match kind {
        "tmpfs" | "overlay" => !SCRATCH.iter().any(|scratch| point.starts_with(scratch)),
        // A probe of an autofs would mount it. The others store no data of their own, or are read-only images.
        "autofs" | "bdev" | "binder" | "binfmt_misc" | "bpf" | "cgroup" | "cgroup2" | "configfs" | "cpuset"
        | "debugfs" | "devpts" | "devtmpfs" | "efivarfs" | "fuse.gvfsd-fuse" | "fuse.lxcfs" | "fuse.portal"
        | "fusectl" | "hugetlbfs" | "iso9660" | "mqueue" | "nfsd" | "nsfs" | "pipefs" | "proc" | "pstore" | "ramfs"
        | "resctrl" | "rootfs" | "rpc_pipefs" | "securityfs" | "selinuxfs" | "smackfs" | "sockfs" | "squashfs"
        | "sysfs" | "tracefs" => false,
        _ => true,
    }
}

/// Replaces escapes. The kernel writes space, tab, newline, backslash and hash as `\` and three octal digits.
fn unescape(mut word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    while let [first, rest @ ..] = word {
        word = rest;
        bytes.push(match rest {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] if *first == b'\\' => {
                word = rest;
                (a - b'0') << 6 | (b - b'0') << 3 | (c - b'0')
            }
            _ => *first,
        });
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(text: &str) -> Vec<String> {
        let mounts = parse(text.as_bytes()).unwrap();
        mounts.iter().map(|mount| mount.point.display().to_string()).collect()
    }

    #[test]
    fn real_mounts_are_found_once_each() {
        let text = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=12334460k
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
29 27 0:26 / /run rw - tmpfs tmpfs rw
30 27 0:27 / /running rw - tmpfs tmpfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw
42 27 254:0 /var/lib/docker /var/lib/docker rw shared:1 - ext4 /dev/vda rw
43 42 0:40 / /var/lib/docker/overlay2/ab/merged rw - overlay overlay rw
44 27 0:41 / /mnt/my\\040disk\\134x rw shared:2 master:1 - nfs4 nas:/a rw
45 27 0:42 / /auto rw - autofs systemd-1 rw
46 45 0:43 / /auto rw - cifs //nas/b rw
47 27 0:44 / /mnt/fuse rw - fuse.sshfs host: rw
48 27 7:1 / /snap/core ro - squashfs /dev/loop1 ro
";
        let expected = ["/", "/auto", "/mnt/fuse", "/mnt/my disk\\x", "/running"];
        assert_eq!(points(text), expected);
    }

    #[test]
    fn what_covers_a_mount_counts() {
        let text = "\
1 0 0:2 / / rw - rootfs rootfs rw
2 1 0:30 / / rw - overlay overlay rw
3 2 8:1 / /data rw - ext4 /dev/sda1 rw
4 3 0:31 / /data rw - proc proc rw
";
        assert_eq!(points(text), ["/"]);
    }

    #[test]
    fn names_that_are_not_utf8_are_kept() {
        let mounts = parse(b"1 0 8:1 / /\xff\\12 rw - ext4 /dev/sda1 rw\n").unwrap();
        assert_eq!(mounts[0].point.as_os_str().as_encoded_bytes(), b"/\xff\\12");
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in [
            "x",
            "1 0 8:1 / /data rw",
            "1 0 8:1 / /data rw shared:1 -",
            "1 0 8:1 / data rw - ext4 x rw",
            "1 0 8 / /data rw - ext4 x rw",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
