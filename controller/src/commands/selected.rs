//! The hosts that are meant, and those of which that is not known.

use crate::{
    client::{Fleet, Host, Selected, Selection, Unknown, shorten},
    output::Printer,
};

/// Finds the hosts that are meant. Those of which that is not known are named: they are left out.
pub async fn select(selection: &Selection, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Vec<Host>> {
    let Selected { hosts, unknown } = fleet.select(selection).await?;
    name_unknown(&unknown, printer);
    Ok(hosts)
}

/// Names the hosts of which it is not known whether they are meant, together where the reason is the same.
pub fn name_unknown(unknown: &[Unknown], printer: &Printer) {
    let mut reasons: Vec<&str> = unknown.iter().map(|unknown| unknown.reason.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    for reason in reasons {
        let of_reason = unknown.iter().filter(|unknown| unknown.reason == reason);
        let hosts: Vec<_> = of_reason.map(|unknown| &unknown.host).collect();
        printer.trouble(&format!("{}: left out: {reason}", shorten(&hosts)));
    }
}
