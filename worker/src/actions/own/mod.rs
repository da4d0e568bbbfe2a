//! The host's own actions: what the operator adds by files in a directory, one action each.
//!
//! A file names a program with its arguments, and typed parameters. It is judged as a whole when the worker starts, and
//! at SIGHUP: one that is broken is reported, and the others are used. An own action is described, checked, permitted, journaled and
//! audited like any other one.

mod action;
mod confined;
mod definition;
mod draft;
mod parameters;
mod template;

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::libc::O_NONBLOCK;
use protocol::{action::ActionSpec, limits};

pub(super) use self::action::OwnAction;
use self::definition::{Definition, Fault};
use crate::{
    guarded::is_guarded,
    log::{self, excerpt},
};

/// Where a host's own actions are defined.
#[derive(Clone, Debug)]
pub enum ActionsDir {
    /// The settings name it: it must be there.
    Named(PathBuf),
    /// Beside the settings file, if it is there.
    Beside(PathBuf),
    /// There is no settings file.
    None,
}

impl ActionsDir {
    /// The directory that the settings name, or else the one beside their file.
    pub fn new(named: Option<PathBuf>, settings: Option<&Path>) -> Self {
        let beside = || settings.map_or(Self::None, |file| Self::Beside(file.with_file_name("actions.d")));
        named.map_or_else(beside, Self::Named)
    }

    /// Reads the files. `built_in`: the actions that every worker has, whose names are taken.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn load(&self, built_in: &[ActionSpec]) -> Result<OwnActions, DirectoryError> {
        match self {
            Self::Named(directory) => OwnActions::load(directory, built_in),
            Self::Beside(directory) if directory.is_dir() => OwnActions::load(directory, built_in),
            _ => Ok(OwnActions::default()),
        }
    }
}

impl fmt::Display for ActionsDir {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(directory) => directory.display().fmt(out),
            Self::Beside(directory) if directory.is_dir() => directory.display().fmt(out),
            _ => out.write_str("none"),
        }
    }
}

/// The own actions of one host.
#[derive(Clone, Debug, Default)]
pub struct OwnActions {
    actions: Vec<Arc<OwnAction>>,
    broken: Vec<String>,
    problems: Vec<Problem>,
}

/// Why the directory cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("actions_dir: cannot read {path}: {1}", path = .0.display())]
pub struct DirectoryError(PathBuf, #[source] io::Error);

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    path: PathBuf,
    line: Option<usize>,
    reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.line.map(|line| format!(", line {line}")).unwrap_or_default();
        let path = excerpt(&self.path.display().to_string(), log::SENTENCE);
        write!(out, "{path}{place}: {}", excerpt(&self.reason, log::SENTENCE))
    }
}

impl OwnActions {
    fn load(directory: &Path, built_in: &[ActionSpec]) -> Result<Self, DirectoryError> {
        let failed = |error| DirectoryError(directory.to_owned(), error);
        let is_safe = is_guarded(&fs::metadata(directory).map_err(failed)?);
        let entries = fs::read_dir(directory).map_err(failed)?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
        let mut paths: Vec<_> = paths.map_err(failed)?.into_iter().filter(|path| defines(path)).collect();
        paths.sort();

        let mut own = Self::default();
        for (index, path) in paths.into_iter().enumerate() {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if index == limits::ACTION_FILES {
                let reason = format!("this and all behind it are too many: a host may have {}", limits::ACTION_FILES);
                own.problems.push(Problem { path: path.clone(), line: None, reason });
            }
            if index >= limits::ACTION_FILES {
                own.broken.push(name);
                continue;
            }
            match if is_safe { read(&path, &name, built_in) } else { Err((None, OTHERS_DIRECTORY.to_owned())) } {
                Ok(definition) => own.actions.push(Arc::new(OwnAction::new(definition))),
                Err((line, reason)) => {
                    own.problems.push(Problem { path, line, reason });
                    own.broken.push(name);
                }
            }
        }
        Ok(own)
    }

    /// The descriptions of the actions.
    pub fn specs(&self) -> impl Iterator<Item = &ActionSpec> {
        self.actions.iter().map(|action| action.spec())
    }

    /// The names of the actions whose files are broken.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// What is wrong with the files.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The same in one sentence, if anything is.
    pub fn problem(&self) -> Option<String> {
        let first = self.problems.first()?;
        let more = match self.problems.len() - 1 {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Some(format!("{first}{more}"))
    }

    /// Logs what is wrong with the files.
    pub fn log_problems(&self) {
        for problem in &self.problems {
            tracing::error!("an action of this host's own is broken: {problem}");
        }
    }

    /// The actions.
    pub(super) fn actions(&self) -> impl Iterator<Item = &Arc<OwnAction>> {
        self.actions.iter()
    }
}

const OTHERS: &str = "it can be changed by others: chmod go-w it, and let root or the worker's user own it";
const OTHERS_DIRECTORY: &str =
    "its directory can be changed by others: chmod go-w it, and let root or the worker's user own it";

/// Whether the file is meant to define an action: those that editors leave beside it are not.
fn defines(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".toml") && !name.starts_with('.')
}

/// Reads a file. The error has the line, where there is one.
fn read(path: &Path, name: &str, built_in: &[ActionSpec]) -> Result<Definition, (Option<usize>, String)> {
    let text = text(path).map_err(|reason| (None, reason))?;
    Definition::read(name, &text, built_in).map_err(|Fault { at, reason }| {
        let before = text.get(..at).unwrap_or_default();
        (Some(before.matches('\n').count() + 1), reason)
    })
}

fn text(path: &Path) -> Result<String, String> {
    let failed = |error: io::Error| format!("it cannot be read: {error}");
    // Opening must not wait for whoever writes to a pipe.
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err("it is no file".into());
    }
    if !is_guarded(&found) {
        return Err(OTHERS.into());
    }
    let (most, mut bytes) = (limits::ACTION_FILE_BYTES, Vec::new());
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(format!("it has more than {most} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is no UTF-8 text".into())
}

#[cfg(test)]
mod tests;
