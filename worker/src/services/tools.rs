//! How drivers run programs: those whose output is only read, and those whose output is the command's.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::ExitStatusExt,
    path::Path,
};

use tokio_util::sync::CancellationToken;

use super::ServiceError;
use crate::{
    detached,
    live::Live,
    log::{self, excerpt},
    program::{self, Ended, Owner, Program},
    supervisor,
};

/// Bytes of the output of a program that are read.
const KEEP: usize = 64 * 1024;

/// Bytes of a log that are read.
const LOG_BYTES: u64 = 64 * 1024;

/// What a driver works with.
pub(crate) struct Tools<'a> {
    /// The command that it works for.
    pub(crate) owner: Owner,
    /// Cancelled when the command must end.
    pub(crate) stop: &'a CancellationToken,
    /// Takes output and progress.
    pub(crate) live: &'a Live,
}

impl Tools<'_> {
    /// Runs a program whose output nobody but the driver sees.
    pub(super) async fn quiet(&self, program: Program) -> Result<Ended, ServiceError> {
        self.run(program, &Live::none()).await
    }

    /// Runs a program; its output belongs to the command's.
    pub(super) async fn shown(&self, program: Program) -> Result<Ended, ServiceError> {
        self.run(program, self.live).await
    }

    async fn run(&self, program: Program, live: &Live) -> Result<Ended, ServiceError> {
        let name = program.argv.first().map(|name| excerpt(name, log::NAME)).unwrap_or_default();
        let ended = program::run(program, self.owner.clone(), KEEP, self.stop, live).await;
        ended.map_err(|error| ServiceError::Program(name, error))
    }
}

/// A program with these words.
pub(super) fn program(words: impl IntoIterator<Item = impl Into<String>>) -> Program {
    Program { argv: words.into_iter().map(Into::into).collect(), ..Program::default() }
}

/// Why a program did not end well; `None` where it did.
pub(super) fn how_it_ended(ended: &Ended) -> Option<String> {
    match ended.status.map(|status| (status.code(), status.signal())) {
        Some((Some(0), _)) => None,
        Some((Some(code), _)) => Some(format!("exit code {code}")),
        Some((None, Some(signal))) => Some(format!("ended by signal {signal}")),
        _ => Some("it could not be ended".into()),
    }
}

/// The end of a text: whole lines of at most `bytes` bytes, and at most so many lines.
pub(crate) fn last_lines(text: &str, lines: usize, bytes: usize) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut size = 0;
    for line in text.lines().rev().take(lines) {
        size += line.len() + 1;
        if size > bytes {
            break;
        }
        kept.push(line);
    }
    kept.reverse();
    kept.iter().flat_map(|line| [line, "\n"]).collect()
}

/// The last lines of the log in the directory of a service.
pub(super) async fn logged(directory: &Path, lines: usize) -> String {
    let directory = directory.to_owned();
    let text = detached::call(move || {
        let newest = tail(&directory.join(supervisor::log::FILE)).unwrap_or_default();
        if newest.lines().count() >= lines {
            return newest;
        }
        tail(&directory.join(supervisor::log::BEFORE)).unwrap_or_default() + &newest
    });
    last_lines(&text.await.unwrap_or_default(), lines, usize::try_from(LOG_BYTES).unwrap_or(usize::MAX))
}

/// The end of a file.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole() {
        assert_eq!(last_lines("a\nb\nc\n", 2, 100), "b\nc\n");
        assert_eq!(last_lines("a\nbb\nc", 9, 5), "bb\nc\n");
        assert_eq!(last_lines("much too long\n", 9, 5), "");
        assert_eq!(last_lines("", 9, 5), "");
    }
}
