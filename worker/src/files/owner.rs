//! Modes and owners of files, as people write them.

use nix::unistd::{Gid, Group, Uid, User};

use crate::log::{self, excerpt};

/// Why a text is no mode or no owner.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// It is no mode.
    #[error("'{0}' is no mode: write it in octal digits, such as 0644")]
    Mode(String),
    /// It is no owner.
    #[error("'{0}' is no owner: write user, user:group or :group, by name or number")]
    Form(String),
    /// There is no such user.
    #[error("there is no user '{0}'")]
    NoUser(String),
    /// There is no such group.
    #[error("there is no group '{0}'")]
    NoGroup(String),
    /// Users and groups cannot be looked up.
    #[error("cannot look up '{0}'")]
    Lookup(String, #[source] nix::Error),
}

/// A mode such as `0644`.
///
/// # Errors
/// It is none.
pub fn find_mode(text: &str) -> Result<u32, OwnerError> {
    let digits = (3..=5).contains(&text.len()) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.ok_or_else(|| OwnerError::Mode(excerpt(text, log::NAME)))
}

/// A user and a group, such as `www:www`, `www`, `:www` or `33:33`. May take its time: they may be kept on another
/// machine.
pub(super) fn find_owner(text: &str) -> Result<(Option<Uid>, Option<Gid>), OwnerError> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    if (user.is_empty() && group.is_empty()) || group.contains(':') {
        return Err(OwnerError::Form(excerpt(text, log::NAME)));
    }
    let shown = |name: &str| excerpt(name, log::NAME);
    let user = match user.parse::<u32>() {
        _ if user.is_empty() => None,
        Ok(id) => Some(Uid::from_raw(id)),
        Err(_) => {
            let found = User::from_name(user).map_err(|error| OwnerError::Lookup(shown(user), error))?;
            Some(found.ok_or_else(|| OwnerError::NoUser(shown(user)))?.uid)
        }
    };
    let group = match group.parse::<u32>() {
        _ if group.is_empty() => None,
        Ok(id) => Some(Gid::from_raw(id)),
        Err(_) => {
            let found = Group::from_name(group).map_err(|error| OwnerError::Lookup(shown(group), error))?;
            Some(found.ok_or_else(|| OwnerError::NoGroup(shown(group)))?.gid)
        }
    };
    Ok((user, group))
}

/// `root:root`, or numbers where there are no names.
pub(super) fn show_owner(user: u32, group: u32) -> String {
    let user = User::from_uid(Uid::from_raw(user)).ok().flatten().map_or_else(|| user.to_string(), |user| user.name);
    let group =
        Group::from_gid(Gid::from_raw(group)).ok().flatten().map_or_else(|| group.to_string(), |group| group.name);
    format!("{user}:{group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [("0644", 0o644), ("755", 0o755), ("04755", 0o4755)] {
            assert_eq!(find_mode(text).unwrap(), mode);
        }
        for wrong in ["", "7", "0888", "u+x", "17777", "000644", "+644"] {
            assert!(find_mode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn owners_are_names_or_numbers() {
        let found = |text: &str| find_owner(text).map(|(user, group)| (user.map(Uid::as_raw), group.map(Gid::as_raw)));
        assert_eq!(found("root").unwrap(), (Some(0), None));
        assert_eq!(found("root:root").unwrap(), (Some(0), Some(0)));
        assert_eq!(found(":4711").unwrap(), (None, Some(4711)));
        for (wrong, reason) in [
            ("", "is no owner"),
            (":", "is no owner"),
            ("a:b:c", "is no owner"),
            ("no-such-user", "no user"),
            ("root:no-such-group", "no group"),
        ] {
            assert!(found(wrong).unwrap_err().to_string().contains(reason), "{wrong}");
        }
        assert_eq!(show_owner(0, 4_000_000_001), "root:4000000001");
    }
}
