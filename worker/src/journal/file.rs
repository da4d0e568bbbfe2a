//! The journal's file: opened, or made where there is none.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::ErrorKind,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use protocol::clock::FleetClock;
use redb::Database;

use super::{error::Cause, records};
use crate::private_file;

/// The output of programs is in it, which is for the worker's user alone.
const MODE: u32 = 0o600;

/// The store's page cache, in bytes.
const CACHE: usize = 256 * 1024;

/// Opens the journal at `path`, and returns whether it had to be made.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn open(path: &Path) -> Result<(Database, bool), Cause> {
    let made = !path.try_exists()?;
    if made {
        make(path)?;
    } else {
        // Earlier builds let others read it.
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
    }
    Ok((Database::builder().set_cache_size(CACHE).open(path)?, made))
}

/// Makes an empty journal under another name first: one that a crash left half made would be taken
/// for a damaged one, for ever.
fn make(path: &Path) -> Result<(), redb::Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let fresh = path.with_extension("new");
    private_file::make_directory(directory)?;
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // The store takes an empty file for a new one.
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(&fresh)?;
    records::make(&Database::builder().create(&fresh)?, FleetClock::local().now())?;
    // Unlike a renaming, this never replaces one that has come to be meanwhile.
    match fs::hard_link(&fresh, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    fs::remove_file(&fresh)?;
    fs::File::open(directory)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_while_it_was_being_made_does_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        let [path, fresh] = ["web1.journal", "web1.new"].map(|name| directory.path().join(name));
        fs::write(&fresh, vec![0; 10_000]).unwrap();
        assert!(open(&path).unwrap().1, "it was made");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(!fresh.exists());
        assert!(!open(&path).unwrap().1, "it was there");
    }

    #[test]
    fn it_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web1.journal");
        let _owner = open(&path).unwrap();
        assert!(matches!(open(&path), Err(Cause::Locked)));
    }
}
