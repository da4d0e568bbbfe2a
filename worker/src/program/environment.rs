//! The user and the environment of a program.

use std::{collections::BTreeMap, env};

use nix::unistd::{Uid, User};
use protocol::name::{HostName, JobId};

use super::{ProgramError, group};
use crate::log::{self, excerpt};

/// Where programs are searched if the worker itself has no `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A user by name or id. May take its time: users may be kept on another machine.
pub(crate) fn find_user(name: &str) -> Result<User, ProgramError> {
    let found = match name.parse() {
        Ok(id) => User::from_uid(Uid::from_raw(id)),
        Err(_) => User::from_name(name),
    };
    let shown = || excerpt(name, log::NAME);
    found.map_err(|error| ProgramError::UserLookup(shown(), error))?.ok_or_else(|| ProgramError::NoUser(shown()))
}

/// The environment of a command's program: the small one, with the marks by which leftovers are found.
pub(super) fn environment(
    added: &BTreeMap<String, String>,
    user: Option<&User>,
    job: JobId,
    host: &HostName,
) -> Result<BTreeMap<String, String>, ProgramError> {
    let mut variables = base(added, user)?;
    variables.insert(group::JOB_VARIABLE.into(), job.to_string());
    variables.insert(group::HOST_VARIABLE.into(), host.to_string());
    Ok(variables)
}

/// A small environment of known content, since the worker's own may hold the Redis password; then what the
/// caller adds.
pub(crate) fn base(
    added: &BTreeMap<String, String>,
    user: Option<&User>,
) -> Result<BTreeMap<String, String>, ProgramError> {
    let inherited = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let own = if user.is_none() { User::from_uid(Uid::effective()).ok().flatten() } else { None };
    let mut variables = BTreeMap::from([
        ("PATH".to_owned(), inherited("PATH", PATH)),
        ("LANG".to_owned(), inherited("LANG", "C.UTF-8")),
    ]);
    if let Some(user) = user.or(own.as_ref()) {
        variables.insert("HOME".into(), user.dir.to_string_lossy().into_owned());
        variables.insert("USER".into(), user.name.clone());
        variables.insert("LOGNAME".into(), user.name.clone());
    }

    for (name, value) in added {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(ProgramError::Variable(excerpt(name, log::NAME)));
        }
        variables.insert(name.clone(), value.clone());
    }
    Ok(variables)
}
