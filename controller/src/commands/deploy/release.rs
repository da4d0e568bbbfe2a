//! `ctl deploy APP`: puts a release within the reach of hosts, and has them switch to it.

use super::{
    super::{
        delivery::{Delivery, request},
        proposal,
        rolling::{Rolling, asked_for, longest},
        selected::{confirm, select},
        watch::Live,
    },
    source::Offer,
};
use crate::{
    cli::{deploys::Release, keys, settings::Settings, waves::Waves},
    client::{Fleet, Origin, Outlook, Selection, understand},
    output::{Exit, Printer},
};

/// The action.
const ACTION: &str = "deploy";

/// Deploys a release. Everything that can be checked is checked before anything is sent.
pub async fn run(
    options: Release,
    selection: &Selection,
    waves: &Waves,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let Release { app, version, from, sha256, size, dry_run, timeout, yes, .. } = options;
    let (hosts, left_out) = select(selection, fleet, printer).await?;
    let mut offer = Offer::of(&from, sha256.as_deref(), size)?;
    let mut words = vec![format!("app={app}"), format!("version={version}")];
    words.extend(offer.arguments());
    words.extend(dry_run.then(|| "dry_run=true".to_owned()));
    let known = understand(&hosts, ACTION, &words, &[])?;
    proposal::refuse_alone(ACTION, known.approvals)?;
    let waves = asked_for(waves, hosts.len(), printer)?;
    if !dry_run {
        confirm(&format!("deploy of {app} {version}"), [(selection, &hosts[..])], yes)?;
    }

    let signer = keys::open(settings).await?;
    let timeout = timeout.or(settings.timeout).unwrap_or(known.timeout);
    let content = offer.content().filter(|_| !dry_run);
    let longest = waves.as_ref().map_or(timeout, |waves| longest(&Outlook::of(hosts.len(), waves), waves, timeout));
    let mut delivery = Delivery::begin(content, longest, fleet, settings, printer).await?;
    let request = request(ACTION, known, timeout, &hosts, settings);
    let exit = match &waves {
        Some(waves) => {
            let rolling = Rolling {
                request: &request,
                waves,
                origin: Origin::New,
                live: Live::Progress,
                is_part: false,
                signer: &signer,
            };
            delivery.roll(&rolling, fleet, settings, printer).await?.exit()
        }
        None => Exit::of(delivery.send(request, &signer, Live::Progress, fleet, printer).await?),
    };
    delivery.end(fleet, printer).await;
    Ok(exit.with_left_out(left_out))
}
