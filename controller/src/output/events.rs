//! Events of a job as remarks beside its result.

use protocol::{
    event::Stream,
    name::{HostName, JobId},
    outcome::State,
    time::Millis,
};

use super::{moments, printer::Printer, style, summary::hosts};
use crate::client::{Absent, ChangedKey, Event, Job, NewKey, shorten};

/// Hosts that are named at most, one after another.
pub const NAMED: usize = 5;

/// Prints what an operator should know while a job is sent.
pub fn note_dispatch(event: &Event, printer: &Printer) {
    match event {
        Event::Retrying(error) => printer.note(&format!("{error}; trying again under the same id …")),
        _ => host_keys(event, printer),
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
        Event::NewHostKeys(_) | Event::HostKeyChanged(_) => host_keys(event, printer),
        Event::JobLost => {
            printer.warn("the job is gone from Redis, which was flushed or restarted without its data");
        }
        Event::CommandsLost { count } => {
            printer.warn(&format!("Redis has lost the command of {}", hosts(*count)));
        }
        Event::Redispatched { .. } => printer.note("dispatched again under the same id"),
        Event::CannotRedispatch => {
            printer.warn("Redis has lost the keys of its secrets, so it cannot be dispatched again: run it again");
        }
        Event::Disconnected(error) => printer.note(&format!("{error}; trying again …")),
        Event::Reconnected => printer.note("Redis is back"),
        _ => {}
    }
}

/// Prints what has become known about keys of hosts.
pub fn host_keys(event: &Event, printer: &Printer) {
    match event {
        Event::NewHostKeys(new) => {
            for NewKey { host, fingerprint } in new.iter().take(NAMED) {
                printer.note(&format!("{host}: its host key {fingerprint} is new here; trusted from now on"));
            }
            if new.len() > NAMED {
                let more = hosts(new.len() - NAMED);
                printer.note(&format!("and {more}, whose host keys are trusted from now on (ctl host key NAME)"));
            }
        }
        Event::HostKeyChanged(changed) => alarm(changed).iter().for_each(|line| printer.trouble(line)),
        _ => {}
    }
}

/// What must not be overlooked, as ssh words it.
fn alarm(ChangedKey { host, shown, known, file }: &ChangedKey) -> Vec<String> {
    let title = format!("@ WARNING: THE HOST KEY OF {host} HAS CHANGED! @");
    let rule = "@".repeat(title.len());
    let file = file.as_ref().map(|file| format!(" ({})", file.display())).unwrap_or_default();
    vec![
        rule.clone(),
        title,
        rule,
        format!("Somebody who can write to Redis may be forging results of {host}, or it was set up anew."),
        format!("its key:           {known}{file}"),
        format!("signed this time:  {shown}"),
        format!("Ask on {host} which is right: worker --config /etc/redfleet/worker.toml --check-config"),
        format!("If it is the new one: ctl host key {host} --pin"),
    ]
}

/// Warns that live output was not what the host has signed.
pub fn forged_output(job: JobId, host: &HostName, stream: Stream, printer: &Printer) {
    let title = format!("@ WARNING: LIVE OUTPUT OF {host} WAS FORGED! @");
    let rule = "@".repeat(title.len());
    let what = format!("What was printed as its {} is not what {host} has signed.", stream.as_str());
    let why = "Somebody who can write to Redis may have written it: believe nothing of it.".to_owned();
    let own = format!("What the program has printed: ctl job wait {}", job.short());
    for line in [&rule, &title, &rule, &what, &why, &own] {
        printer.trouble(line);
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
