//! `ctl host watch`: which hosts come and go, as it happens.

use std::pin::pin;

use protocol::time::{Millis, show_moment};
use serde_json::json;

use crate::{
    cli::targeting::Whom,
    client::{Change, Fleet, Happening, Presence},
    output::{Exit, Format, Printer, moments, style, summary},
};

/// Prints what happens until Ctrl-C, or until nobody reads it any more.
pub async fn run(whom: Whom, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Exit> {
    let (mut presence, doubts) = Presence::begin(fleet, &whom.selection()).await?;
    for doubt in &doubts {
        printer.warn(doubt);
    }
    let (hosts, away) = presence.count();
    let away = if away == 0 { "all online".into() } else { format!("{away} offline") };
    printer.note(&format!("watching {}, {away}; Ctrl-C ends it", summary::hosts(hosts)));
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let mut closed = pin!(Printer::reader_gone());
    loop {
        let happening = tokio::select! {
            // Where the signal cannot be caught, it ends the process as it always did.
            Ok(()) = &mut interrupt => {
                printer.leave_line();
                return Ok(Exit::Success);
            }
            () = &mut closed => return Ok(Exit::Closed),
            happening = presence.next(fleet) => happening?,
        };
        match happening {
            Happening::Disconnected(error) => printer.note(&format!("{error}; trying again …")),
            Happening::Reconnected => printer.note("Redis is back"),
            Happening::Host { host, change, at_ms, seen_ms, .. } if printer.format() == Format::Table => {
                let (name, style) = look(change);
                let more = match (change, seen_ms) {
                    (Change::Offline, Some(seen)) => format!(": last seen {}", moments::ago(seen, at_ms)),
                    (Change::ReturnedAnew, _) => ", restarted".into(),
                    _ => String::new(),
                };
                printer.line(&format!(
                    "{} {host} {}{more}",
                    moments::local(at_ms, at_ms),
                    style::paint(style, name)
                ))?;
            }
            Happening::Host { host, change, at_ms, seen_ms, started_at_ms } => {
                let moment = |moment: Option<Millis>| moment.map(show_moment);
                printer.object(&json!({
                    "at": show_moment(at_ms),
                    "host": host,
                    "event": look(change).0,
                    "restarted": matches!(change, Change::Restarted | Change::ReturnedAnew),
                    "last_seen": moment(seen_ms),
                    "started_at": moment(started_at_ms),
                }))?;
            }
        }
        if printer.is_closed() {
            return Ok(Exit::Closed);
        }
    }
}

/// What a change is called, and how it looks.
const fn look(change: Change) -> (&'static str, anstyle::Style) {
    match change {
        Change::Joined => ("joined", style::GOOD),
        Change::Stopped => ("stopped", style::WARNING),
        Change::Offline => ("offline", style::BAD),
        Change::Returned | Change::ReturnedAnew => ("returned", style::GOOD),
        Change::Restarted => ("restarted", style::WARNING),
        Change::Forgotten => ("forgotten", style::WARNING),
    }
}
