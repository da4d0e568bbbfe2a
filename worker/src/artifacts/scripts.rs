//! Private copies of scripts, for as long as they run.
//!
//! The user that runs a script must be able to reach it, and the state directory is the worker's alone. So the copy lies
//! in a directory of its own among the temporary files, where programs can be run, and a [note](super::notes) tells where.

use std::{
    ffi::OsStr,
    fs::{DirBuilder, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
};

use nix::{
    sys::statvfs::{FsFlags, statvfs},
    unistd::{Gid, Uid},
};
use protocol::name::JobId;

use super::{
    Artifacts, Fetched,
    notes::{Kind, Note},
};

/// Where temporary files go that outlive the machine's run. Hardened hosts mount `/tmp` without programs (`noexec`).
const PERSISTENT: &str = "/var/tmp";

/// The first of these directories in which programs can be run.
fn executable(places: Vec<PathBuf>) -> io::Result<PathBuf> {
    let can = |place: &Path| statvfs(place).is_ok_and(|found| !found.flags().contains(FsFlags::ST_NOEXEC));
    let mut passed_over = Vec::new();
    for place in places {
        if can(&place) {
            return Ok(place);
        }
        passed_over.push(place.display().to_string());
    }
    let places = passed_over.join(" nor in ");
    let text = format!("no program can be run in {places} (mounted with noexec): give the worker another TMPDIR");
    Err(io::Error::new(ErrorKind::PermissionDenied, text))
}

/// A copy of a script. It is removed when it is dropped.
pub struct Script {
    path: PathBuf,
    /// About the directory with the copy, which goes with it.
    _note: Note,
}

impl Artifacts {
    /// Makes a copy of a script that only this user can read and run; without a user, the worker's own. `name`: the
    /// file's name. May take its time.
    ///
    /// # Errors
    /// The system refused.
    pub fn script(
        &self,
        mut content: Fetched,
        name: &OsStr,
        job: JobId,
        user: Option<(Uid, Gid)>,
    ) -> io::Result<Script> {
        let place = executable(vec![std::env::temp_dir(), PERSISTENT.into()])?;
        let directory = place.join(format!("redfleet-{job}-{:016x}", fastrand::u64(..)));
        let script = Script { path: directory.join(name), _note: self.note(job, Kind::Script, directory.clone())? };
        // Nobody else can have made it.
        DirBuilder::new().mode(0o700).create(&directory)?;
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o700).open(&script.path)?;
        io::copy(content.file(), &mut file)?;
        if let Some((user, group)) = user {
            std::os::unix::fs::fchown(&file, Some(user.as_raw()), Some(group.as_raw()))?;
            chown(&directory, Some(user.as_raw()), Some(group.as_raw()))?;
        }
        Ok(script)
    }
}

impl Script {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };

    use super::*;

    #[test]
    fn a_directory_in_which_no_program_can_be_run_is_passed_over_or_named() {
        let (none, some) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let nothing = None::<&str>;
        // Of this thread alone, and gone with it.
        let mounted = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(nothing, "/", nothing, MsFlags::MS_PRIVATE | MsFlags::MS_REC, nothing))
            .and_then(|()| mount(nothing, none.path(), Some("tmpfs"), MsFlags::MS_NOEXEC, nothing));
        if mounted.is_err() {
            eprintln!("skipped: a_directory_in_which_no_program_can_be_run_is_passed_over_or_named (needs root)");
            return;
        }
        let [none, some] = [none.path(), some.path()].map(Path::to_owned);
        assert_eq!(executable(vec![none.clone(), some.clone()]).unwrap(), some);
        let refused = executable(vec![none.clone(), "/no/such".into()]).unwrap_err().to_string();
        assert!(refused.contains(&format!("{} nor in /no/such (", none.display())), "{refused}");
    }
}
