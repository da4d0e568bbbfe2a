//! `ctl deploy status` and `ctl deploy history`: what hosts say about an app.

use super::super::{
    delivery::request,
    proposal,
    selected::select,
    watch::{self, Live},
};
use crate::{
    cli::{deploys::Whose, keys, settings::Settings},
    client::{Fleet, understand},
    output::{Exit, Printer, events, results::View},
};

/// The action.
const ACTION: &str = "deploy-status";

/// Asks hosts, and shows what they say in this view.
pub async fn run(
    whose: Whose,
    view: View,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let app = format!("app={}", whose.app);
    let (hosts, left_out) = select(&whose.selection(), fleet, printer).await?;
    let known = understand(&hosts, ACTION, &[app], &[])?;
    proposal::refuse_alone(ACTION, known.approvals)?;
    let signer = keys::open(settings).await?;
    let timeout = settings.timeout.unwrap_or(known.timeout);
    let request = request(ACTION, known, timeout, &hosts, settings);
    let job = fleet.dispatch(request, &signer, &mut |event| events::note_dispatch(&event, printer)).await?;
    let mut follower = watch::follower(&job, &hosts, false, fleet.now(), printer);
    let exit = watch::watch_as(view, fleet, &job, &mut follower, printer, Live::Results).await?.exit();
    Ok(exit.with_left_out(left_out))
}
