//! Paths that stay below a directory, links included.

use std::{
    ffi::OsStr,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

/// Why a path is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum PathError {
    #[error("'{0}' is not below {1}")]
    Outside(String, String),
    #[error("'{path}' leads out of {1}, to '{target}'", path = .0.escape_debug(), target = .2.display())]
    Escape(String, String, PathBuf),
    #[error("'{path}' has a link that leads nowhere: '{link}'", path = .0.escape_debug(), link = .1.display())]
    Dangling(String, PathBuf),
    #[error("cannot look at '{path}'", path = .0.display())]
    Look(PathBuf, #[source] io::Error),
    #[error("'{path}' leads to a path that is no text", path = .0.escape_debug())]
    NoText(String),
}

/// The path without links, as far as it exists, if it stays below one of these directories. Blocks as long as the
/// kernel does.
pub(super) fn resolve(path: &str, roots: &[String]) -> Result<String, PathError> {
    let mut failure = None;
    for root in roots {
        match resolve_below(path, root) {
            Ok(resolved) => {
                return resolved.into_os_string().into_string().map_err(|_| PathError::NoText(path.to_owned()));
            }
            // What was found below a root tells more than that the path is not below another one.
            Err(PathError::Outside(..)) if failure.is_some() => {}
            Err(error) => failure = Some(error),
        }
    }
    let outside = || PathError::Outside(path.escape_debug().to_string(), roots.join(" or "));
    Err(failure.unwrap_or_else(outside))
}

fn resolve_below(path: &str, root: &str) -> Result<PathBuf, PathError> {
    let outside = || PathError::Outside(path.escape_debug().to_string(), root.to_owned());
    let parts = Path::new(path).strip_prefix(root).map_err(|_| outside())?;
    if parts.iter().any(|part| part == OsStr::new("..")) {
        return Err(outside());
    }
    let real = |path: &Path| fs::canonicalize(path).map_err(|error| PathError::Look(path.to_owned(), error));
    let root_path = real(Path::new(root))?;

    let mut reached = root_path.clone();
    let mut parts = parts.iter();
    while let Some(part) = parts.next() {
        let next = reached.join(part);
        match fs::symlink_metadata(&next) {
            // Nothing can lead elsewhere from here.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(parts.fold(next, |path, part| path.join(part)));
            }
            Err(error) => return Err(PathError::Look(next, error)),
            Ok(found) if found.is_symlink() => {
                reached = fs::canonicalize(&next).map_err(|error| match error.kind() {
                    ErrorKind::NotFound => PathError::Dangling(path.to_owned(), next.clone()),
                    _ => PathError::Look(next.clone(), error),
                })?;
                if !reached.starts_with(&root_path) {
                    return Err(PathError::Escape(path.to_owned(), root.to_owned(), reached));
                }
            }
            Ok(_) => reached = next,
        }
    }
    Ok(reached)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_as_long_as_they_stay_below_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(directory.path()).unwrap();
        let at = |name: &str| base.join(name);
        fs::create_dir_all(at("log/web")).unwrap();
        fs::create_dir_all(at("logs")).unwrap();
        fs::write(at("log/web/a.log"), "x").unwrap();
        fs::write(at("secret"), "x").unwrap();
        symlink("web/a.log", at("log/current")).unwrap();
        symlink("../secret", at("log/out")).unwrap();
        symlink("/", at("log/root")).unwrap();
        symlink("../gone", at("log/dangling")).unwrap();
        symlink("loop", at("log/loop")).unwrap();
        symlink(at("log"), at("alias")).unwrap();

        let root = |name: &str| at(name).to_str().unwrap().to_owned();
        let resolved = |path: &str| resolve(&root(path), &[root("log")]);
        for (path, reached) in [
            ("log", "log"),
            ("log/web/a.log", "log/web/a.log"),
            ("log/current", "log/web/a.log"),
            ("log/new", "log/new"),
            ("log/new/deep/x", "log/new/deep/x"),
            ("log//web/./a.log", "log/web/a.log"),
        ] {
            assert_eq!(resolved(path).unwrap(), root(reached), "{path}");
        }
        for (path, said) in [
            ("log/out", "leads out of"),
            ("log/root/etc/passwd", "leads out of"),
            ("log/dangling", "leads nowhere"),
            ("log/loop", "cannot look at"),
            ("log/web/a.log/x", "cannot look at"),
            ("log/../secret", "is not below"),
            ("log/new/../../secret", "is not below"),
            ("logs/x", "is not below"),
            ("secret", "is not below"),
        ] {
            let error = resolved(path).expect_err(path).to_string();
            assert!(error.contains(said), "{path}: {error}");
        }
        // The root itself may be a link, and a path below another root may be meant.
        assert_eq!(resolve(&root("alias/current"), &[root("alias")]).unwrap(), root("log/web/a.log"));
        assert_eq!(resolve(&root("log/web/a.log"), &[root("logs"), root("log")]).unwrap(), root("log/web/a.log"));
        assert!(resolve(&root("missing/x"), &[root("missing")]).is_err());
    }
}
