//! Where the releases of an application are, and which one `current` leads to. A service that is supervised runs the
//! program of a release by the release's own path: so another release can be tried beside it, and a process that crashes
//! is started again as what it was, wherever `current` leads meanwhile.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use crate::supervisor::launch::Launch;

/// The directory of the releases, within that of the application.
pub(crate) const RELEASES: &str = "releases";

/// The link to the release that is to run.
pub(crate) const CURRENT: &str = "current";

/// The directory of a release.
pub(crate) fn directory(app: &Path, version: &str) -> PathBuf {
    app.join(RELEASES).join(version)
}

/// Whether a text may name an application or a version: it becomes the name of a file.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || "._+-".contains(char);
    text.starts_with(|char: char| char.is_ascii_alphanumeric()) && text.len() <= 100 && text.chars().all(plain)
}

/// The version to which `current` leads; `None` where there is no such link, or one that leads elsewhere.
pub(crate) fn current(app: &Path) -> io::Result<Option<String>> {
    let target = match fs::read_link(app.join(CURRENT)) {
        // It is none of ours, or there is none.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => return Ok(None),
        target => target?,
    };
    let version = target.strip_prefix(RELEASES).ok().and_then(Path::to_str);
    Ok(version.filter(|version| is_name(version)).map(str::to_owned))
}

/// What to launch for this release: what the settings spell through `current` is spelled by the release's directory.
pub(super) fn resolve(launch: &Launch, app: &Path, version: &str) -> Launch {
    let (link, own) = (app.join(CURRENT), directory(app, version));
    let resolved =
        |path: &Path| Some(path.strip_prefix(&link).ok()?.components().fold(own.clone(), |path, part| path.join(part)));
    let word = |word: &String| {
        let path = resolved(Path::new(word)).and_then(|path| path.into_os_string().into_string().ok());
        path.unwrap_or_else(|| word.clone())
    };
    let directory = launch.directory.as_ref().map(|path| resolved(path).unwrap_or_else(|| path.clone()));
    let argv = launch.argv.iter().map(word).collect();
    Launch { argv, directory, release: Some(version.to_owned()), ..launch.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(argv: &[&str], directory: Option<&str>) -> Launch {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let directory = directory.map(PathBuf::from);
        let (user, env, listen) = (None, [].into(), Vec::new());
        Launch { argv, directory, user, env, listen, overlap: false, drain_ms: 0, release: None }
    }

    #[test]
    fn words_through_the_link_are_spelled_by_the_release() {
        let before = launch(
            &["/srv/web/current/bin/web", "--etc=/srv/web/current/etc", "/srv/web/currently", "/srv/web/current"],
            Some("/srv/web/current/"),
        );
        let after = resolve(&before, Path::new("/srv/web"), "2.0");
        let words = [
            "/srv/web/releases/2.0/bin/web",
            "--etc=/srv/web/current/etc",
            "/srv/web/currently",
            "/srv/web/releases/2.0",
        ];
        assert_eq!(after.argv, words);
        assert_eq!((after.directory, after.release.as_deref()), (Some("/srv/web/releases/2.0".into()), Some("2.0")));
        assert_eq!(resolve(&launch(&["web"], Some("/srv")), Path::new("/srv/web"), "1").directory, Some("/srv".into()));
    }

    #[test]
    fn current_is_a_link_to_a_release_or_none() {
        let app = tempfile::tempdir().unwrap();
        let found = |target: &str| {
            let link = app.path().join(CURRENT);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(target, link).unwrap();
            current(app.path()).unwrap()
        };
        assert_eq!(current(app.path()).unwrap(), None);
        assert_eq!(found("releases/1.2-rc1").as_deref(), Some("1.2-rc1"));
        for elsewhere in ["releases/../../etc", "/srv/releases/1", "releases/", "releases/.draft-1", "1"] {
            assert_eq!(found(elsewhere), None, "{elsewhere}");
        }
    }
}
