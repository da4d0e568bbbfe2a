//! `ctl playbook`: steps of a file, one after another.

mod file;
mod plan;
mod play;
mod stage;
mod values;

use std::path::Path;

use protocol::name::JobId;
use tokio::signal::unix::{SignalKind, signal};

use self::{file::Playbook, plan::PlannedStep, play::Player, stage::Stage};
use super::selected::{confirm, may_change};
use crate::{
    cli::{
        keys,
        playbooks::{Playbook as Command, Run},
        settings::Settings,
    },
    client::Fleet,
    output::{Exit, Printer, style},
};

/// Runs a command on playbooks.
pub async fn run(command: Command, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let Command::Run(options) = command;
    let Run { file, values, rehearse, resume, yes, look } = *options;
    let playbook = Playbook::read(&file, &values)?;
    // What was begun has its hosts already; what was not is asked about when its turn comes.
    let mut agreed = vec![Vec::new(); playbook.steps.len()];
    if resume.is_none() {
        let planned = plan::of(&playbook, fleet, printer).await?;
        if rehearse {
            plan::print(&playbook, &planned, printer)?;
            return Ok(Exit::Success.with_left_out(planned.left_out));
        }
        let changes = planned.steps.iter().zip(&playbook.steps).filter(|(planned, step)| {
            let actions = [step.action(), step.rollback.as_ref().map(|call| call.action.as_str())];
            actions.into_iter().flatten().any(|action| may_change(&planned.hosts, action))
        });
        let changes = changes.map(|(planned, step)| (&step.selection, &planned.hosts[..]));
        confirm(&format!("playbook {}", file.display()), changes, yes)?;
        let names = |step: PlannedStep| step.hosts.into_iter().map(|host| host.name).collect();
        agreed = planned.steps.into_iter().map(names).collect();
    }

    let signer = keys::open(settings).await?;
    printer.set_look(look);
    let run = resume.unwrap_or_else(|| JobId::derive(&settings.operator, fleet.now(), &JobId::salt()));
    printer.note(&format!("run {run} of {}", style::plain(&file.display().to_string())));
    let interrupt = signal(SignalKind::interrupt())?;
    let stage = Stage { fleet, signer: &signer, settings, printer, interrupt, is_sure: yes };
    Player::new(&playbook, run, stage, agreed).play(&shown(&file), resume.is_some()).await
}

/// The file as it is typed.
fn shown(file: &Path) -> String {
    style::quoted(&file.display().to_string()).into_owned()
}
