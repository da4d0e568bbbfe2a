//! The controller: the binary `ctl`, which puts commands into hosts' inboxes and prints what they answer.
//!
//! What is typed (`cli`) is resolved once with environment and file into settings; each command then
//! sees only those, a printer that decides how things are told, and a connection to the fleet. The way
//! of a job: `select` its hosts, read its `arguments`, `dispatch` it, `follow` it, `report` on it.

#![expect(unreachable_pub, reason = "modules are private, so that the compiler finds what is never used")]

mod absence;
mod action;
mod answer_json;
mod arguments;
mod cancel;
mod cli;
mod complete;
mod dispatch;
mod doctor;
mod documents;
mod down;
mod error;
pub mod exit;
mod figures;
mod fleet;
mod follow;
mod headline;
mod help;
mod host;
mod job;
mod moments;
mod printer;
mod redis_info;
mod report;
mod run;
mod select;
mod settings;
mod style;
mod summary;
mod table;
mod tail;
mod up;
mod verdict;
mod watch;

use clap::{CommandFactory, FromArgMatches};
use cli::{Cli, Command};
use exit::Exit;
use fleet::Fleet;
use printer::Printer;
use settings::{Format, Settings};

/// Runs what was typed.
pub fn main() -> Exit {
    complete::serve();
    let parsed = Cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            // Where neither stream can be written, the exit code still tells.
            drop(error.print());
            return exit;
        }
    };
    let settings = match Settings::resolve(cli.global) {
        Ok(settings) => settings,
        Err(error) => {
            Printer::new(Format::Table, false, anstream::ColorChoice::Auto).error(&error);
            return Exit::NotAsked;
        }
    };
    let printer = Printer::new(settings.format, settings.quiet, settings.colour);
    for warning in &settings.warnings {
        printer.warn(warning);
    }
    run_to_end(cli.command, &settings, &printer).unwrap_or_else(|error| {
        printer.stop_progress();
        printer.error(&error);
        Exit::NotAsked
    })
}

#[tokio::main(flavor = "current_thread")]
async fn run_to_end(command: Command, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    // Commands that need no Redis come first.
    match command {
        Command::Up(options) => up::run(options, settings, printer).await,
        Command::Down(options) => down::run(options, printer),
        Command::Completions(options) => complete::print(options.shell, printer),
        Command::Man(options) => documents::man(&options.dir, printer),
        Command::Reference => documents::print_reference(printer),
        command => {
            let mut fleet = Fleet::connect(settings.redis()?, settings.namespace.as_ref()).await?;
            match command {
                Command::Run(options) => run::run(options, &mut fleet, settings, printer).await,
                Command::Job(command) => job::run(command, &mut fleet, printer).await,
                Command::Host(command) => host::run(command, &mut fleet, printer).await,
                Command::Action(command) => action::run(command, &mut fleet, printer).await,
                _ => doctor::run(&mut fleet, printer).await,
            }
        }
    }
}
