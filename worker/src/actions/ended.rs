//! How a program's end becomes an action's result.

use std::os::unix::process::ExitStatusExt;

use tokio_util::sync::CancellationToken;

use super::Output;
use crate::program::{Ended, ProgramError};

/// Why a program did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsuccessful {
    #[error("cannot run '{0}'")]
    Start(String, #[source] ProgramError),
    #[error("exit code {0}")]
    ExitCode(i32),
    #[error("ended by signal {0}")]
    Signal(i32),
    #[error("it could not be ended, not even by SIGKILL")]
    Unkillable,
}

/// Names the program that did not start.
pub(super) fn not_started(name: &str) -> impl FnOnce(ProgramError) -> Unsuccessful {
    move |error| Unsuccessful::Start(name.to_owned(), error)
}

/// What a program has left, and why it did not succeed, if it did not. `stop`: requests its end.
pub(super) fn report(ended: Ended, stop: &CancellationToken) -> (Output, Option<Unsuccessful>) {
    let (code, signal) = (ended.status.and_then(|status| status.code()), ended.status.and_then(|s| s.signal()));
    let error = match (signal, code) {
        _ if ended.survived => Some(Unsuccessful::Unkillable),
        // However the program ended then, its end was requested.
        _ if stop.is_cancelled() => None,
        (Some(signal), _) => Some(Unsuccessful::Signal(signal)),
        (_, Some(code)) if code != 0 => Some(Unsuccessful::ExitCode(code)),
        _ => None,
    };
    let remark = ended.left_behind.then(|| "ended processes that it left behind".to_owned());
    let output =
        Output { exit_code: code, signal, remark, stdout: ended.stdout, stderr: ended.stderr, ..Output::default() };
    (output, error)
}
