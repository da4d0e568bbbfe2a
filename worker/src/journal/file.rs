//! The journal's file: opened, or made where there is none.

use std::{fs, io::ErrorKind, path::Path};

use protocol::clock::FleetClock;
use redb::Database;

use super::records;

/// Why a journal cannot be opened that another process has.
const LOCKED: &str = "another worker of this host is running";

/// The store's page cache, in bytes.
const CACHE: usize = 256 * 1024;

/// Whether another worker of this host has the journal: then its commands are that one's business.
pub(crate) fn is_locked(reason: &str) -> bool {
    reason.contains(LOCKED)
}

/// Opens the journal at `path`, and says whether it had to be made.
///
/// # Errors
/// Why it cannot be used; see [`is_locked`].
pub(super) fn open(path: &Path) -> Result<(Database, bool), String> {
    let made = !path.try_exists().map_err(|error| error.to_string())?;
    if made {
        make(path).map_err(|error| error.to_string())?;
    }
    let opened = Database::builder().set_cache_size(CACHE).open(path);
    let store = opened.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => LOCKED.into(),
        error => error.to_string(),
    })?;
    Ok((store, made))
}

/// Makes an empty journal under another name first: one that a crash left half made would be taken
/// for a damaged one, for ever.
fn make(path: &Path) -> Result<(), redb::Error> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let fresh = path.with_extension("new");
    fs::create_dir_all(directory)?;
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => records::make(&Database::builder().create(&fresh)?, FleetClock::local().now())?,
    }
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
        assert!(!fresh.exists());
        assert!(!open(&path).unwrap().1, "it was there");
    }

    #[test]
    fn it_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web1.journal");
        let _owner = open(&path).unwrap();
        assert!(is_locked(&open(&path).unwrap_err()));
    }
}
