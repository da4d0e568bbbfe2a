//! The `worker` binary: settings, logging, signals, the runtime.

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use protocol::trust::UNSIGNED;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    HostKeys, Worker,
    config::{Config, Options},
    explain::{Command, Question, Test},
    log, supervisor,
};

/// Exit code for wrong usage and unusable settings (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

/// Exit code after a second signal.
const ABORTED: u8 = 130;

/// Runs the worker as a process. Exits 0 after an orderly stop.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == supervisor::WORD) {
        return supervisor::main(words);
    }
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let printed = error.print();
            return if error.use_stderr() { USAGE.into() } else { written(printed) };
        }
    };
    if let Some(Command::Policy(Question::Test(test))) = options.command.clone() {
        return explain(options, &test);
    }
    let check_only = options.check_config;
    let config = match Config::resolve(options) {
        // This program, even if its file is replaced meanwhile.
        Ok(mut config) => {
            config.supervisor = Some("/proc/self/exe".into());
            config
        }
        Err(error) => return unusable(&error),
    };
    if check_only {
        let described = match config.describe() {
            Ok(described) => described,
            Err(error) => return unusable(&error),
        };
        let printed = io::stdout().write_all(described.as_bytes());
        config.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        config.unknown.iter().for_each(|unknown| eprintln!("error: {unknown}"));
        config.own.problems().iter().for_each(|problem| eprintln!("error: {problem}"));
        return if config.unknown.is_empty() && config.own.problems().is_empty() {
            written(printed)
        } else {
            USAGE.into()
        };
    }
    let keys = match config.open_keys() {
        Ok(keys) => keys,
        Err(error) => return unusable(&error),
    };
    log::init(config.log_level, config.log_format);
    if UNSIGNED {
        tracing::error!("this build verifies no signature, and obeys everybody: it is for benchmarks alone");
    }
    config.warnings.iter().chain(&config.unknown).for_each(|warning| tracing::warn!("{warning}"));
    config.own.log_problems();
    work(config, keys)
}

/// Says why the settings cannot be used.
fn unusable(error: &dyn Error) -> ExitCode {
    eprintln!("error: {error}");
    USAGE.into()
}

/// Says what the policy decides.
fn explain(options: Options, test: &Test) -> ExitCode {
    let asked = Config::policy(options).map_err(|error| error.to_string()).and_then(|(policy, specs, warnings)| {
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        test.ask(&policy, &specs)
    });
    match asked {
        Ok(answer) if answer.granted => written(io::stdout().write_all(answer.text.as_bytes())),
        Ok(answer) => {
            written(io::stdout().write_all(answer.text.as_bytes()));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            USAGE.into()
        }
    }
}

/// The exit code of a process that had only to print something. A reader that wants no more is no failure.
fn written(printed: io::Result<()>) -> ExitCode {
    match printed.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            // Where neither stream can be written, the exit code remains.
            let _ = writeln!(io::stderr(), "error: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn work(config: Config, keys: HostKeys) -> ExitCode {
    let (shutdown, abort) = (CancellationToken::new(), CancellationToken::new());
    if let Err(error) = signals(shutdown.clone(), abort.clone()) {
        tracing::error!("cannot listen to signals: {error}");
        return ExitCode::FAILURE;
    }
    tokio::select! {
        () = Worker::run(config, keys, shutdown) => ExitCode::SUCCESS,
        // The end of the runtime drops the executors, which kills the programs that they run.
        () = abort.cancelled() => ABORTED.into(),
    }
}

/// The first SIGTERM or SIGINT begins an orderly stop, a second one ends the process at once.
fn signals(shutdown: CancellationToken, abort: CancellationToken) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        for (token, meaning) in [
            (shutdown, "stopping; running commands may finish"),
            (abort, "stopping at once; running commands are ended"),
        ] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!("{name}: {meaning}");
            token.cancel();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_manual_page_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.1");
        let mut page = Vec::new();
        clap_mangen::Man::new(Options::command()).render(&mut page).unwrap();
        if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
            fs::write(&path, &page).unwrap();
        }
        let hint = "write it anew: UPDATE_DOCUMENTS=1 cargo test -p worker --lib manual_page";
        assert!(fs::read(&path).unwrap_or_default() == page, "worker.1 is out of date; {hint}");
    }
}
