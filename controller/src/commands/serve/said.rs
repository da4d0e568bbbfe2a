//! What the services of `ctl serve` say, in lines.

use protocol::scheduled::End;

use crate::{
    client::{Error, Scheduling},
    output::{Printer, moments, style, summary},
    serve::{alerts, dead_man, http::Word, remote_write, scheduler},
};

/// What the services say.
pub(super) enum Said {
    Scheduler(scheduler::Said),
    /// Why Redis' state cannot be kept; `None`: it can again.
    RedisStatus(Option<Error>),
    Http(Word),
    Remote(remote_write::Said),
    DeadMan(dead_man::Said),
    Alerts(alerts::Said),
}

/// A line for what a service says.
pub(super) fn tell(said: &Said, printer: &Printer) {
    match said {
        Said::Http(Word::Note(text)) => printer.note(&style::plain(text)),
        Said::Http(Word::Trouble(text)) => printer.trouble(&style::plain(text)),
        Said::Remote(said) if said.is_trouble() => printer.trouble(&style::plain(&said.to_string())),
        Said::Remote(said) => printer.note(&style::plain(&said.to_string())),
        Said::Scheduler(scheduler::Said::Away(error)) | Said::RedisStatus(Some(error)) => {
            printer.trouble(&format!("it is tried again: {}", style::plain(&error.to_string())));
        }
        Said::Scheduler(scheduler::Said::Back) | Said::RedisStatus(None) => printer.note("Redis can be reached again"),
        Said::Scheduler(scheduler::Said::Done(done)) => tell_scheduling(done, printer),
        Said::Alerts(alerts::Said::Note(text)) => printer.note(text),
        Said::Alerts(alerts::Said::Trouble(text)) => printer.trouble(text),
        Said::DeadMan(said) => tell_pings(said, printer),
    }
}

/// A line for what became of a run.
fn tell_scheduling(done: &Scheduling, printer: &Printer) {
    match done {
        Scheduling::Sent { name, job, hosts, fate } => {
            let (job, hosts) = (job.short(), summary::hosts(*hosts));
            printer.note(&format!("{name}: {}: job {job}, {hosts}", fate.word()));
        }
        Scheduling::Left { name, instant_ms, fate, reason } => {
            let reason = reason.as_deref().map(|reason| format!(": {}", style::plain(reason))).unwrap_or_default();
            printer.note(&format!("{name}: {}: {}{reason}", moments::exact(*instant_ms), fate.word()));
        }
        Scheduling::GivenUp { name, instant_ms, reason } => {
            let at = moments::exact(*instant_ms);
            printer.note(&format!("{name}: {at}: not tried again: {}", style::plain(reason)));
        }
        Scheduling::Ended { name, job, end, paused } => {
            let job = job.map(|job| format!("job {} ", job.short())).unwrap_or_default();
            let how = match end {
                End::Succeeded => "succeeded",
                End::Failed => "failed",
                End::Unknown => "is gone from Redis",
            };
            printer.note(&format!("{name}: {job}{how}"));
            if *paused {
                printer.trouble(&format!(
                    "{name}: paused, as too many runs have failed in a row: ctl schedule resume {name}"
                ));
            }
        }
        Scheduling::TakenOver { name, instant_ms, from } => {
            let (at, from) = (moments::exact(*instant_ms), style::plain(from));
            printer.note(&format!("{name}: {at}: taken over from {from}"));
        }
        Scheduling::Ends { name, until_ms } => {
            let until = moments::exact(*until_ms);
            printer
                .trouble(&format!("{name}: its standing order ends at {until}: ctl schedule add {name} --replace …"));
        }
        Scheduling::Silent { name, until_ms } => {
            let until = moments::exact(*until_ms);
            printer.trouble(&format!(
                "{name}: nothing runs before {until}, as Redis' clock was ahead: ctl schedule add {name} --replace …"
            ));
        }
        Scheduling::Broken { name, reason } => {
            printer.trouble(&format!("{name}: cannot be used: {}", style::plain(reason)));
        }
    }
}

/// A line for what the dead man's switch says.
fn tell_pings(said: &dead_man::Said, printer: &Printer) {
    let name = dead_man::NAME;
    match said {
        dead_man::Said::Withheld(idle) => {
            printer.trouble(&format!("{name}: no ping goes out, as this does not work: {}", idle.join(", ")));
        }
        dead_man::Said::Failed(reason) => {
            printer.trouble(&format!("{name}: the ping failed, and is tried again: {reason}"));
        }
        dead_man::Said::Back => printer.note(&format!("{name}: pings go out again")),
    }
}
