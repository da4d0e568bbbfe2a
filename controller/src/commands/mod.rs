//! What `ctl` does: a file or folder for each noun.

mod acl;
mod action;
mod alert;
mod cancel;
mod content;
mod delivery;
mod deploy;
mod doctor;
mod doubt;
mod enroll;
mod exec;
mod file;
mod group;
mod history;
mod host;
mod host_key;
mod host_label;
mod host_watch;
mod job;
mod key;
mod last;
mod playbook;
mod proposal;
mod redis;
mod register;
mod resume;
mod rolling;
mod run;
mod schedule;
mod secrets;
mod selected;
mod serve;
mod top;
mod trust;
mod up;
mod watch;

use std::process::ExitCode;

pub use self::last::{is_unsent, remember_unsent};
use crate::{
    cli::{
        documents,
        grammar::{Acl, Command, Exec, Sh},
        settings::Settings,
    },
    client::{Error, Fleet, KnownHosts},
    output::{Exit, Printer},
};

/// Runs a command. An error of Redis is looked into: the address may be wrong.
#[tokio::main(flavor = "current_thread")]
pub async fn run(command: Command, settings: &Settings, printer: &Printer) -> anyhow::Result<ExitCode> {
    match Box::pin(carry_out(command, settings, printer)).await {
        Ok(exit) => Ok(exit),
        Err(error) => Err(match error.downcast::<Error>() {
            Ok(error) => error.diagnosed().await.into(),
            Err(other) => other,
        }),
    }
}

async fn carry_out(command: Command, settings: &Settings, printer: &Printer) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(options) => {
            return Ok(run::run(*options, &mut connect(settings).await?, settings, printer).await?.into());
        }
        Command::Exec(Exec { options, script, words }) => {
            let program = exec::Program { words, script };
            return Box::pin(exec::run(options, program, &mut connect(settings).await?, settings, printer)).await;
        }
        Command::Sh(Sh { options, line }) => {
            let program = exec::Program { words: ["sh", "-c", &line].map(str::to_owned).into(), script: None };
            return Box::pin(exec::run(options, program, &mut connect(settings).await?, settings, printer)).await;
        }
        Command::Job(command) => {
            return Ok(job::run(command, &mut connect(settings).await?, settings, printer).await?.into());
        }
        Command::Doctor => return Ok(doctor::run(&mut connect(settings).await?, printer).await?.into()),
        Command::File(command) => {
            let mut fleet = connect(settings).await?;
            return Ok(Box::pin(file::run(command, &mut fleet, settings, printer)).await?.into());
        }
        Command::Schedule(command) => {
            let mut fleet = connect(settings).await?;
            return Ok(Box::pin(schedule::run(command, &mut fleet, settings, printer)).await?.into());
        }
        Command::Alert(command) => {
            let mut fleet = connect(settings).await?;
            return Ok(Box::pin(alert::run(command, &mut fleet, settings, printer)).await?.into());
        }
        Command::Serve(options) => return Ok(Box::pin(serve::run(options, settings, printer)).await?.into()),
        Command::Deploy(command) => {
            let mut fleet = connect(settings).await?;
            return Ok(Box::pin(deploy::run(*command, &mut fleet, settings, printer)).await?.into());
        }
        Command::Playbook(command) => {
            let mut fleet = connect(settings).await?;
            return Ok(Box::pin(playbook::run(command, &mut fleet, settings, printer)).await?.into());
        }
        Command::Top(options) => {
            let fleet = connect(settings).await?;
            return Ok(Box::pin(top::run(*options, fleet, settings, printer)).await?.into());
        }
        Command::Host(command) => return Ok(Box::pin(host::run(command, settings, printer)).await?.into()),
        Command::Group(command) => group::run(command, &mut connect(settings).await?, printer).await?,
        Command::Redis(command) => redis::run(command, &mut connect(settings).await?, printer).await?,
        Command::Action(command) => action::run(command, &mut connect(settings).await?, printer).await?,
        Command::Key(command) => return Ok(Box::pin(key::run(command, settings, printer)).await?.into()),
        Command::Acl(Acl::Print(options)) => acl::print(options, settings, printer)?,
        Command::Up(options) => Box::pin(up::up(options, settings, printer)).await?,
        Command::Down(options) => up::down(options, settings, printer)?,
        Command::Completions { shell } => printer.raw(&documents::completion(&shell)?)?,
        Command::Man { dir } => {
            documents::write_manual(&dir)?;
            printer.note(&format!("written; try: man {}", dir.join("ctl.1").display()));
        }
        Command::Version => printer.line(&format!("ctl {}", protocol::VERSION))?,
        Command::Reference => printer.raw(documents::reference().as_bytes())?,
    }
    Ok(Exit::Success.into())
}

async fn connect(settings: &Settings) -> anyhow::Result<Fleet> {
    let redis = settings.redis()?;
    let known_hosts = KnownHosts::open(&settings.known_hosts()?)?;
    Ok(Fleet::connect(&redis, settings.namespace.as_ref()).await?.knowing(known_hosts))
}
