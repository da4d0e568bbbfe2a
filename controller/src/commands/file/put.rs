//! `ctl file put`.

use std::path::Path;

use super::{
    super::{
        content::Content,
        delivery::{Delivery, request},
        proposal,
        selected::confirm,
        watch::Live,
    },
    Place, select,
};
use crate::{
    cli::{keys, settings::Settings, transfers::Put},
    client::{Fleet, understand},
    output::{Exit, Printer},
};

/// The action.
const ACTION: &str = "file-put";

/// Puts a file on hosts. Everything that can be checked is checked before anything is sent.
pub async fn run(options: Put, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let is_named = options.local != Path::new("-");
    let name = is_named.then_some(&*options.local);
    let (selected, left_out) = select(&options.targets, name, fleet, printer).await?;
    let mut content = Content::open(&options.local)?;
    let mut understood = Vec::new();
    for Place { path, hosts, .. } in &selected {
        let words = arguments(&options, path, &content);
        let known = understand(hosts, ACTION, &words, &[])?;
        proposal::refuse_alone(ACTION, known.approvals)?;
        understood.push(known);
    }
    if !options.dry_run {
        let paths: Vec<_> = selected.iter().map(|place| place.path.as_str()).collect();
        let changes = selected.iter().map(|place| (&place.selection, &place.hosts[..]));
        confirm(&format!("file-put {}", paths.join(", ")), changes, options.yes)?;
    }
    let signer = keys::open(settings).await?;
    let timeout = options.timeout.or(settings.timeout).or_else(|| understood.iter().map(|known| known.timeout).max());
    let timeout = timeout.unwrap_or_default();
    // Nobody fetches what is only compared, or empty.
    let is_needed = !options.dry_run && content.artifact().bytes() > 0;
    let mut delivery = Delivery::begin(is_needed.then_some(&mut content), timeout, fleet, settings, printer).await?;

    let mut states = Vec::new();
    for (place, known) in selected.iter().zip(understood) {
        let request = request(ACTION, known, timeout, &place.hosts, settings);
        states.extend(delivery.send(request, &signer, Live::Results, fleet, printer).await?);
    }
    delivery.end(fleet, printer).await;
    Ok(Exit::of(states).with_left_out(left_out))
}

fn arguments(options: &Put, path: &str, content: &Content) -> Vec<String> {
    let mut words = vec![
        format!("path={path}"),
        format!("content={}", content.artifact()),
        format!("content_key={}", content.key().to_text()),
    ];
    words.extend(options.mode.iter().map(|mode| format!("mode={mode}")));
    words.extend(options.owner.iter().map(|owner| format!("owner={owner}")));
    words.extend(options.backup.then(|| "backup=true".to_owned()));
    words.extend(options.dry_run.then(|| "dry_run=true".to_owned()));
    words
}
