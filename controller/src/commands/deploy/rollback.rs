//! `ctl deploy rollback`.

use super::super::{
    delivery::{Delivery, request},
    proposal,
    selected::{confirm, select},
    watch::Live,
};
use crate::{
    cli::{deploys::Rollback, keys, settings::Settings},
    client::{Fleet, understand},
    output::{Exit, Printer},
};

/// The action.
const ACTION: &str = "deploy-rollback";

/// Has hosts go back to an earlier release.
pub async fn run(options: Rollback, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let Rollback { whose, to, dry_run, timeout, yes } = options;
    let (app, selection) = (whose.app.clone(), whose.selection());
    let (hosts, left_out) = select(&selection, fleet, printer).await?;
    let mut words = vec![format!("app={app}")];
    words.extend(to.map(|version| format!("version={version}")));
    words.extend(dry_run.then(|| "dry_run=true".to_owned()));
    let known = understand(&hosts, ACTION, &words, &[])?;
    proposal::refuse_alone(ACTION, known.approvals)?;
    if !dry_run {
        confirm(&format!("rollback of {app}"), [(&selection, &hosts[..])], yes)?;
    }

    let signer = keys::open(settings).await?;
    let timeout = timeout.or(settings.timeout).unwrap_or(known.timeout);
    // The hosts have the release already.
    let mut delivery = Delivery::begin(None, timeout, fleet, settings, printer).await?;
    let request = request(ACTION, known, timeout, &hosts, settings);
    let states = delivery.send(request, &signer, Live::Progress, fleet, printer).await?;
    Ok(Exit::of(states).with_left_out(left_out))
}
