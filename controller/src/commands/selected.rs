//! The hosts that are meant, and those of which that is not known.

use std::collections::BTreeSet;

use protocol::action::Repeat;

use crate::{
    client::{Error, Fleet, Host, Selected, Selection, Unknown},
    output::{Advice, Printer, fold, summary},
};

/// Finds the hosts that are meant. Those of which that is not known are named: they are left out. Returns also whether there
/// were any.
pub async fn select(selection: &Selection, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<(Vec<Host>, bool)> {
    let Selected { hosts, unknown, doubts } = match fleet.select(selection).await {
        Err(Error::NoneMeant { considered, filter, unknown }) => {
            name_unknown(&unknown, printer);
            return Err(Error::NoneMeant { considered, filter, unknown }.into());
        }
        selected => selected?,
    };
    for doubt in &doubts {
        printer.warn(doubt);
    }
    name_unknown(&unknown, printer);
    Ok((hosts, !unknown.is_empty()))
}

/// Names the hosts that are left out as something about them is not known, together where the reason is the same.
pub fn name_unknown(unknown: &[Unknown], printer: &Printer) {
    for line in summary::left_out(unknown) {
        printer.trouble(&line);
    }
}

/// Whether an action may change any of these hosts.
pub fn may_change(hosts: &[Host], action: &str) -> bool {
    hosts.iter().filter_map(|host| host.action(action)).any(|action| action.repeat == Repeat::Once)
}

/// Shows which hosts something would change, and asks, if there are several of which not all were named. Without a
/// terminal nobody can be asked: whoever wrote the script has decided. `changes`: the hosts, each with what they were
/// selected by.
///
/// # Errors
/// The reply was no.
pub fn confirm<'a>(
    what: &str,
    changes: impl IntoIterator<Item = (&'a Selection, &'a [Host])>,
    is_sure: bool,
) -> anyhow::Result<()> {
    let Some(question) = question(what, changes).filter(|_| !is_sure) else { return Ok(()) };
    agreed(Printer::confirm(&question))
}

/// What a reply to [`question`] means; without a terminal there is none.
///
/// # Errors
/// The reply was no.
pub fn agreed(reply: Option<bool>) -> anyhow::Result<()> {
    match reply {
        Some(true) | None => Ok(()),
        Some(false) => Err(Advice::new("nothing was sent").hint("without this question: --yes").into()),
    }
}

/// What [`confirm`] asks, if there is anything to ask.
pub fn question<'a>(what: &str, changes: impl IntoIterator<Item = (&'a Selection, &'a [Host])>) -> Option<String> {
    let (mut names, mut all_named) = (BTreeSet::new(), true);
    for (selection, hosts) in changes {
        names.extend(hosts.iter().map(|host| &host.name));
        all_named &= hosts.iter().all(|host| selection.is_named(&host.name));
    }
    if names.len() < 2 || all_named {
        return None;
    }
    let shown = fold::names(&names.iter().copied().collect::<Vec<_>>());
    Some(format!("{what} on {} hosts: {shown}. Go on?", names.len()))
}
