//! The controller: the program `ctl`, and [`client`], the library that it stands on.
//!
//! Dependencies point down only: this file runs `commands`. These pass the parsed command line (`cli`) to the fleet
//! ([`client`]) and print the results (`output`).

#![expect(unreachable_pub, reason = "modules are private, so that the compiler finds what is never used")]

pub mod client;

mod cli;
mod commands;
mod fault;
mod output;
mod serve;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use anstream::ColorChoice;
use clap::CommandFactory;
use clap_complete::CompleteEnv;
use cli::{
    grammar::{Cli, Command},
    parse,
    settings::Settings,
};
use output::{Exit, Format, Printer, explain::explain, style};

/// Runs the command line. An error becomes an exit code here. Once a job has been sent, its results decide instead.
#[doc(hidden)]
pub fn main() -> ExitCode {
    // If a shell asks for completions, this does not return.
    CompleteEnv::with_factory(Cli::command).complete();
    let cli = match parse::parse() {
        Ok(cli) => cli,
        Err(error) => {
            let printed = print_usage(&error).and_then(|()| io::stdout().flush());
            if error.use_stderr() {
                explain_usage(&std::env::args().skip(1).collect::<Vec<_>>());
            }
            return match printed {
                _ if error.use_stderr() => Exit::Usage,
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    // Where neither stream can be written, the exit code remains.
                    drop(writeln!(io::stderr(), "error: cannot write to standard output: {error}"));
                    Exit::NotSent
                }
                _ => Exit::Success,
            }
            .into();
        }
    };

    let is_exec = matches!(cli.command, Command::Exec(_) | Command::Sh(_));
    let sends = is_exec || matches!(cli.command, Command::Run(_));
    let failed = if is_exec { Exit::NoCode } else { Exit::NotSent };
    let mut printer = Printer::new(Format::Table, false, ColorChoice::Auto);
    let ended = Settings::resolve(cli.global).and_then(|settings| {
        printer = Printer::new(settings.format, settings.quiet, settings.colour);
        for warning in &settings.warnings {
            printer.warn(warning);
        }
        commands::run(cli.command, &settings, &printer)
    });
    ended.unwrap_or_else(|error| {
        printer.stop_progress();
        let advice = explain(&error);
        printer.error(&advice);
        if sends && commands::is_unsent(&error) {
            commands::remember_unsent(&advice.to_string());
        }
        failed.into()
    })
}

/// Prints clap's error or help. What was typed is in it: what the terminal would obey is shown instead.
fn print_usage(error: &clap::Error) -> io::Result<()> {
    let is_plain = |word: OsString| word.to_str().is_some_and(|word| style::plain(word) == word);
    if !error.use_stderr() || std::env::args_os().all(is_plain) {
        return error.print();
    }
    let text = error.to_string();
    text.lines().try_for_each(|line| writeln!(io::stderr(), "{}", style::plain(line)))
}

/// After wrong usage: what was probably meant.
fn explain_usage(words: &[String]) {
    if let Some(meant) = parse::meant(words) {
        Printer::new(Format::Table, false, ColorChoice::Auto).hint(&format!("did you mean: {meant}"));
    }
    let command = words.iter().find(|word| !word.starts_with('-'));
    if command.is_some_and(|word| word == "exec" || word == "sh") || words.iter().any(|word| word == "run") {
        commands::remember_unsent("wrong usage");
    }
}
