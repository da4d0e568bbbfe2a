//! `ctl run`: checks everything that can be checked before anything is sent.

use protocol::{limits, name::HostName, targets::Targets, time::Millis};

use super::{
    proposal,
    rolling::{Rolling, asked_for, roll},
    secrets,
    selected::{confirm, may_change, select},
    watch::{self, Live, Sent},
};
use crate::{
    cli::{grammar::Run, keys, settings::Settings},
    client::{Fleet, Host, Origin, Request, Selection, as_dry_run, shorten, understand},
    output::{Advice, Exit, Printer, events, explain::how_to_mend},
};

/// Runs an action on hosts.
pub async fn run(options: Run, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let mut selection = options.targeting.selection();
    // Who is left out for other reasons does not count.
    let limit = selection.limit.take();
    let (mut hosts, left_out) = select(&selection, fleet, printer).await?;
    let damaged = leave_out_damaged(&mut hosts, &selection, printer);
    if options.online {
        hosts = leave_out_offline(hosts, fleet.now(), printer)?;
    }
    if let Some(limit) = limit {
        hosts.truncate(limit.of(hosts.len()));
    }
    let typed =
        if options.rehearse { as_dry_run(&hosts, &options.action, options.arguments)? } else { options.arguments };
    let understood = understand(&hosts, &options.action, &typed, &options.words)?;
    if let [program] = &options.words[..]
        && let Some((first, _)) = program.split_once(' ')
        && !first.contains('/')
    {
        let words = format!("ctl run … {} -- {program}", options.action);
        printer.warn(&format!("'{program}' is one word, the name of a program; did you mean: {words}"));
    }
    let request = Request {
        action: options.action,
        arguments: understood.arguments,
        secrets: secrets::read(understood.secrets)?,
        targets: Targets::new(hosts.iter().map(|host| host.name.clone())),
        timeout: options.timeout.or(settings.timeout).unwrap_or(understood.timeout),
        start_by: options.start_by.unwrap_or(if options.propose {
            settings.start_by.max(limits::PROPOSAL_DEFAULT)
        } else {
            settings.start_by
        }),
        retention: options.retention.unwrap_or(settings.retention),
        keep_output: options.keep_output,
        operator: settings.operator.clone(),
        trace: settings.trace.clone(),
    };
    if options.propose {
        return proposal::propose(request, understood.approvals, fleet, settings, printer).await;
    }
    proposal::refuse_alone(&request.action, understood.approvals)?;
    let waves = asked_for(&options.waves, hosts.len(), printer)?;
    if !options.rehearse && may_change(&hosts, &request.action) {
        confirm(&request.action, [(&selection, &hosts[..])], options.yes)?;
    }
    let signer = keys::open(settings).await?;
    if let Some(waves) = &waves {
        printer.set_look(options.look);
        let live = Live::following(options.follow);
        let rolling = Rolling { request: &request, waves, origin: Origin::New, live, is_part: false, signer: &signer };
        let ran = roll(&rolling, fleet, settings, printer).await?;
        return Ok(ran.exit().with_left_out(left_out || damaged));
    }
    let job = fleet.dispatch(request, &signer, &mut |event| events::note_dispatch(&event, printer)).await?;

    printer.set_look(options.look);
    let sent = Sent { detach: options.detach, live: Live::following(options.follow), wait: options.wait };
    let exit = watch::sent(fleet, &job, &hosts, &sent, printer).await?;
    Ok(exit.with_left_out(left_out || damaged))
}

/// Leaves out the hosts whose actions cannot be read, as a key is damaged, and names them. A host that was named itself
/// stays: the request is refused. Returns whether there were any.
fn leave_out_damaged(hosts: &mut Vec<Host>, selection: &Selection, printer: &Printer) -> bool {
    let is_named = |host: &Host| selection.is_named(&host.name);
    let usable = |host: &mut Host| host.actions.is_some() || host.damage.is_none() || is_named(host);
    let damaged: Vec<Host> = hosts.extract_if(.., |host| !usable(host)).collect();
    for (host, damage) in damaged.iter().filter_map(|host| Some((host, host.damage.as_ref()?))) {
        printer.trouble(&format!("{}: left out: {}", host.name, how_to_mend(damage)));
    }
    !damaged.is_empty()
}

/// The hosts that are online; the others are named.
fn leave_out_offline(hosts: Vec<Host>, now: Millis, printer: &Printer) -> anyhow::Result<Vec<Host>> {
    let (online, offline): (Vec<_>, Vec<_>) = hosts.into_iter().partition(|host| host.is_online(now));
    let names: Vec<_> = offline.iter().map(|host| &host.name).collect();
    if online.is_empty() {
        let nobody = Advice::new(format!("nothing was sent: {} offline", are(&names)));
        return Err(nobody.hint("without --online the command is queued for them").into());
    }
    if !offline.is_empty() {
        printer.note(&format!("left out: {} offline", are(&names)));
    }
    Ok(online)
}

/// `web1 is`, `web1, web2 are`.
fn are(names: &[&HostName]) -> String {
    format!("{} {}", shorten(names), if names.len() == 1 { "is" } else { "are" })
}
