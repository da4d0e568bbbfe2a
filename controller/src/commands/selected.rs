//! The hosts that are meant, and those of which that is not known.

use protocol::action::Repeat;

use crate::{
    client::{Fleet, Host, Selected, Selection, Unknown, by_reason, shorten},
    output::{Advice, Printer, fold},
};

/// Finds the hosts that are meant. Those of which that is not known are named: they are left out.
pub async fn select(selection: &Selection, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Vec<Host>> {
    let Selected { hosts, unknown } = fleet.select(selection).await?;
    name_unknown(&unknown, printer);
    Ok(hosts)
}

/// Names the hosts of which it is not known whether they are meant, together where the reason is the same.
pub fn name_unknown(unknown: &[Unknown], printer: &Printer) {
    for (reason, hosts) in by_reason(unknown) {
        printer.trouble(&format!("{}: left out: {reason}", shorten(&hosts)));
    }
}

/// Whether an action may change any of these hosts.
pub fn may_change(hosts: &[Host], action: &str) -> bool {
    hosts.iter().filter_map(|host| host.action(action)).any(|action| action.repeat == Repeat::Once)
}

/// Shows which hosts something would change, and asks, if there are several of which not all were named. Without a
/// terminal nobody can be asked: whoever wrote the script has decided.
///
/// # Errors
/// The reply was no.
pub fn confirm(what: &str, hosts: &[Host], selection: &Selection, is_sure: bool) -> anyhow::Result<()> {
    let is_unnamed = |host: &Host| !selection.is_named(&host.name);
    if is_sure || hosts.len() < 2 || !hosts.iter().any(is_unnamed) {
        return Ok(());
    }
    let names = fold::names(&hosts.iter().map(|host| &host.name).collect::<Vec<_>>());
    match Printer::confirm(&format!("{what} on {} hosts: {names}. Go on?", hosts.len())) {
        Some(true) | None => Ok(()),
        Some(false) => Err(Advice::new("nothing was sent").hint("without this question: --yes").into()),
    }
}
