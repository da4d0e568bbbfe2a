//! The `worker` binary: settings, logging, signals, the runtime.

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    Worker,
    config::{Config, Options},
    log,
};

/// Exit code for wrong usage and unusable settings (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

/// Exit code after a second signal.
const ABORTED: u8 = 130;

/// Runs the worker as a process. Exits 0 when it was asked to stop and did.
pub fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let check_only = options.check_config;
    let config = match Config::resolve(options) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return USAGE.into();
        }
    };
    if check_only {
        print!("{}", config.describe());
        config.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        return if config.warnings.is_empty() { ExitCode::SUCCESS } else { USAGE.into() };
    }
    log::init(config.log_level, config.log_format);
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let (shutdown, abort) = (CancellationToken::new(), CancellationToken::new());
        if let Err(error) = signals(shutdown.clone(), abort.clone()) {
            tracing::error!("cannot listen to signals: {error}");
            return ExitCode::FAILURE;
        }
        tokio::select! {
            () = Worker::run(config, shutdown) => ExitCode::SUCCESS,
            // With the runtime go the executors, and with them the programs that they run.
            () = abort.cancelled() => ABORTED.into(),
        }
    })
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
