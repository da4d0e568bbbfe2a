//! `ctl alert`: what is wrong with hosts and with Redis, who was told, and by which rules.

mod change;
mod look;
mod trial;

use crate::{
    cli::{
        alerts::{Alert as Command, Silences},
        settings::Settings,
    },
    client::Fleet,
    output::{Exit, Printer},
};

/// Runs a command on alerts.
pub async fn run(command: Command, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    match command {
        Command::List { rules: true } => look::rules(fleet, printer).await?,
        Command::List { rules: false } => look::list(fleet, printer).await?,
        Command::Show { what } => look::show(&what, fleet, printer).await?,
        Command::Log { limit } => look::log(limit, fleet, printer).await?,
        Command::Add(options) => change::add(*options, fleet, settings, printer).await?,
        Command::Rm { name, yes } => change::remove(&name, yes, fleet, printer).await?,
        Command::Silence(silence) => match (silence.command, silence.new) {
            (Some(Silences::Rm { id }), _) => change::end_silence(&id, fleet, printer).await?,
            (None, Some(new)) => change::silence(new, fleet, settings, printer).await?,
            // The grammar asks for one of them.
            (Some(Silences::List), _) | (None, None) => look::silences(fleet, printer).await?,
        },
        Command::Test(options) => trial::run(options, fleet, settings, printer).await?,
    }
    Ok(Exit::Success)
}
