//! Files that say what this host does: nobody but root and the worker's user may change them.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

use nix::unistd::{Uid, geteuid};

/// Whether nobody else can change the file or directory.
pub(crate) fn is_guarded(found: &Metadata) -> bool {
    let owner = Uid::from_raw(found.uid());
    found.mode() & 0o022 == 0 && (owner.is_root() || owner == geteuid())
}
