//! `ctl file put`.

use std::path::Path;

use protocol::{outcome::State, targets::Targets};

use super::{
    super::{
        content::{self, Content},
        last, proposal, watch,
    },
    select,
};
use crate::{
    cli::{keys, settings::Settings, transfers::Put},
    client::{Fleet, Follower, Host, HostResult, Request, Understood, understand},
    output::{Exit, Printer, events, moments},
};

/// The action.
const ACTION: &str = "file-put";

/// Puts a file on hosts. Everything that can be checked is checked before anything is sent.
pub async fn run(options: Put, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let is_named = options.local != Path::new("-");
    let selected = select(&options.targets, is_named.then_some(&*options.local), fleet).await?;
    let mut content = Content::open(&options.local)?;
    let mut understood = Vec::new();
    for (path, hosts) in &selected {
        let words = arguments(&options, path, &content);
        let known = understand(hosts, ACTION, &words, &[])?;
        proposal::refuse_alone(ACTION, known.approvals)?;
        understood.push(known);
    }
    let signer = keys::open(settings).await?;
    let timeout = options.timeout.or(settings.timeout).or_else(|| understood.iter().map(|known| known.timeout).max());
    let timeout = timeout.unwrap_or_default();
    // Nobody fetches what is only compared, or empty.
    let is_needed = !options.dry_run && content.artifact().bytes() > 0;
    let upload = if is_needed { Some(content.upload(settings.start_by, timeout, fleet, printer).await?) } else { None };

    let (mut states, mut open) = (Vec::new(), false);
    for ((_, hosts), known) in selected.iter().zip(understood) {
        let request = request(known, hosts, settings);
        let request = Request { timeout, ..request };
        let sent = fleet.dispatch(request, &signer, &mut |event| events::note_dispatch(&event, printer)).await;
        let job = match sent.map_err(anyhow::Error::from) {
            Ok(job) => job,
            Err(error) => {
                if let Some(upload) = upload.as_ref().filter(|_| !open && last::is_unsent(&error)) {
                    content::release(upload, fleet, printer).await;
                }
                return Err(error);
            }
        };
        // To send the content may have taken long: who is online now?
        let names: Vec<_> = hosts.iter().map(|host| host.name.clone()).collect();
        let hosts = fleet.hosts(&names).await?;
        let now = fleet.now();
        let absent: Vec<_> =
            hosts.iter().filter(|host| job.reached(&host.name)).filter_map(|host| host.absent(now)).collect();
        events::absent(&absent, job.manifest().start_by_ms, now, printer);
        let mut follower = Follower::of_new(&job);
        follower.known_absent(&absent);
        follower.leave_offline();
        watch::watch(fleet, &job, &mut follower, printer, false).await?;
        states.extend(follower.results().map(|result| result.state));
        if follower.results().any(|result| !has_ended(result)) && upload.is_some() {
            open = true;
            let until = moments::local(job.manifest().start_by_ms, fleet.now());
            printer.note(&format!(
                "the content stays in Redis for the hosts that have not ended; they may begin until {until}"
            ));
        }
    }
    if let Some(upload) = upload.filter(|_| !open) {
        content::release(&upload, fleet, printer).await;
    }
    Ok(Exit::of(states))
}

/// Whether the host needs the content no more.
fn has_ended(result: &HostResult) -> bool {
    result.has_ended() || result.state == State::Expired
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

fn request(known: Understood, hosts: &[Host], settings: &Settings) -> Request {
    Request {
        action: ACTION.into(),
        arguments: known.arguments,
        secrets: known.secrets,
        targets: Targets::new(hosts.iter().map(|host| host.name.clone())),
        timeout: known.timeout,
        start_by: settings.start_by,
        retention: settings.retention,
        keep_output: None,
        operator: settings.operator.clone(),
        trace: settings.trace.clone(),
    }
}
