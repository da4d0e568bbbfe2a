//! Events of a job as remarks beside its result.

use protocol::{name::HostName, outcome::State, time::Millis};

use super::{moments, printer::Printer, style, summary::hosts};
use crate::client::{Absent, Event, Job, shorten};

/// Hosts that are named at most.
const NAMED: usize = 5;

/// Prints what an operator should know while a job is sent.
pub fn note_dispatch(event: &Event, printer: &Printer) {
    if let Event::Retrying(error) = event {
        printer.note(&format!("{error}; trying again under the same id …"));
    }
}

/// Prints what an operator should know while `job` is followed. Output, progress and results are left to
/// the caller.
pub fn note(event: &Event, job: &Job, now: Millis, printer: &Printer) {
    match event {
        Event::Absent(hosts) => absent(hosts, job.manifest().start_by_ms, now, printer),
        Event::CancelOrdered { online, offline } => cancel_ordered(online, offline, printer),
        Event::State { host, state: State::Delivered, waits_for: Some(what) } if job.targets().len() <= NAMED => {
            printer.note(&format!("{host}: waiting for {}", style::plain(what)));
        }
        Event::JobLost => {
            printer.warn("the job is gone from Redis, which was flushed or restarted without its data");
        }
        Event::CommandsLost { count } => {
            printer.warn(&format!("Redis has lost the command of {}", hosts(*count)));
        }
        Event::Redispatched { .. } => printer.note("dispatched again under the same id"),
        Event::CannotRedispatch => printer.warn("its secrets are lost, so it cannot be dispatched again: run it again"),
        Event::Disconnected(error) => printer.note(&format!("{error}; trying again …")),
        Event::Reconnected => printer.note("Redis is back"),
        _ => {}
    }
}

fn cancel_ordered(online: &[HostName], offline: &[HostName], printer: &Printer) {
    if !online.is_empty() {
        printer.note(&format!("cancel ordered: {}", shorten(online)));
    }
    if !offline.is_empty() {
        let are = if offline.len() == 1 { "is" } else { "are" };
        printer.note(&format!("cancel ordered; {} {are} offline", shorten(offline)));
    }
}

/// Prints which hosts are absent, and how long their commands wait for them.
pub fn absent(absent: &[Absent], start_by_ms: Millis, now: Millis, printer: &Printer) {
    for absent in absent.iter().take(NAMED) {
        printer.note(&line(absent, &moments::local(start_by_ms, now), now));
    }
    if absent.len() > NAMED {
        let more = absent.len() - NAMED;
        printer.note(&format!("and {more} more {} offline", if more == 1 { "host is" } else { "hosts are" }));
    }
}

fn line(absent: &Absent, until: &str, now: Millis) -> String {
    let host = &absent.host;
    let seen =
        absent.seen_ms.map_or_else(|| "never seen".into(), |seen| format!("last seen {}", moments::ago(seen, now)));
    match absent.state {
        State::Queued => format!("{host}: offline, {seen}; queued until {until}"),
        state => format!("{host}: offline, {seen}; its command was {state}"),
    }
}

/// Prints an action's progress.
pub fn progress(host: &HostName, text: &str, printer: &Printer) {
    printer.note(&format!("{host}: {}", style::plain(text)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_host_is_shown_with_what_becomes_of_its_command() {
        let absent = |state| Absent { host: "web3".parse().unwrap(), seen_ms: Some(0), state };
        let shown = |state| line(&absent(state), "14:05", 180_000);
        assert_eq!(shown(State::Queued), "web3: offline, last seen 3 min ago; queued until 14:05");
        assert_eq!(shown(State::Running), "web3: offline, last seen 3 min ago; its command was running");
    }
}
