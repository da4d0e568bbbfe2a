//! Waits for a job at a terminal: prints its results as they come. Ctrl-C detaches.

use std::{pin::pin, time::Duration};

use protocol::{outcome::State, time::Millis};
use serde_json::json;

use crate::{
    client::{Error, Event, Fleet, Follower, Host, Job},
    output::{
        Advice, Exit, Format, Printer,
        events::{self, NAMED},
        explain::explain,
        json,
        results::{Results, View},
        summary,
        tail::Tail,
    },
};

/// How often the times of what runs are shown anew.
const TICK: Duration = Duration::from_secs(1);

/// What is printed while a job is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// Nothing but remarks: results come at the end.
    Results,
    /// What a few hosts say about how far they are, too.
    Progress,
    /// Output as it comes, too.
    Output,
}

impl Live {
    /// With output if `follow`.
    pub const fn following(follow: bool) -> Self {
        if follow { Self::Output } else { Self::Results }
    }
}

/// How a job that was just sent is followed.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Not at all: its id is printed.
    pub detach: bool,
    /// What is printed meanwhile.
    pub live: Live,
    /// Until hosts that are offline are back, too.
    pub wait: bool,
}

/// How far a job was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Until nothing more was awaited, or could be.
    ToTheEnd(Exit),
    /// Until somebody wanted to see no more.
    Left(Exit),
}

impl Watched {
    /// The exit code by what has become known.
    pub const fn exit(self) -> Exit {
        let (Self::ToTheEnd(exit) | Self::Left(exit)) = self;
        exit
    }
}

/// Follows a job that was just sent to these hosts.
pub async fn sent(fleet: &mut Fleet, job: &Job, hosts: &[Host], how: &Sent, printer: &Printer) -> anyhow::Result<Exit> {
    let mut follower = follower(job, hosts, how.wait, fleet.now(), printer);
    if how.detach {
        let written = print_id(job, printer);
        if written.is_err() {
            printer.report_loss(written, || format!("the job has been sent: ctl job wait {}", job.id()));
            return Ok(Exit::NoReply);
        }
        let (hosts, short) = (summary::hosts(hosts.len()), job.id().short());
        printer.note(&format!("dispatched to {hosts}; the results: ctl job wait {short}"));
        return Ok(Exit::Success);
    }
    watch(fleet, job, &mut follower, printer, how.live).await
}

/// A follower of a job that was just sent to these hosts. Those that are offline are named, and awaited only if `wait`.
pub fn follower<'a>(job: &'a Job, hosts: &[Host], wait: bool, now: Millis, printer: &Printer) -> Follower<'a> {
    let reached = hosts.iter().filter(|host| job.reached(&host.name));
    let absent: Vec<_> = reached.filter_map(|host| host.absent(now)).collect();
    events::absent(&absent, job.manifest().start_by_ms, now, printer);
    let mut follower = Follower::of_new(job);
    follower.known_absent(&absent);
    if !wait {
        follower.leave_offline();
    }
    follower
}

/// Prints the id of a job whose results are not awaited.
pub fn print_id(job: &Job, printer: &Printer) -> anyhow::Result<()> {
    match printer.format() {
        Format::Table => printer.line(&job.id().to_string()),
        Format::Json | Format::Jsonl => printer.object(&json!({ "job": job.id() })),
    }
}

/// Prints results as they come, and all of them at the end. The job has been sent: from now on the results decide the
/// exit code, even if they cannot be printed.
pub async fn watch(
    fleet: &mut Fleet,
    job: &Job,
    follower: &mut Follower<'_>,
    printer: &Printer,
    live: Live,
) -> anyhow::Result<Exit> {
    watch_as(View::of(job), fleet, job, follower, printer, live).await.map(Watched::exit)
}

/// The same, with results that look so. Returns also whether it was left.
pub async fn watch_as(
    view: View,
    fleet: &mut Fleet,
    job: &Job,
    follower: &mut Follower<'_>,
    printer: &Printer,
    live: Live,
) -> anyhow::Result<Watched> {
    let tells = live == Live::Progress && printer.format() == Format::Table && follower.results().count() <= NAMED;
    let live = live == Live::Output && printer.format() != Format::Json;
    if live {
        follower.watch_output();
    } else {
        // A progress bar and live output would disturb each other.
        printer.start_progress(follower.results().count());
        printer.progress(follower.results());
    }

    let mut output = Results::new(job, follower.results().count(), live, view, printer);
    let again = || format!("see it again: ctl job wait {}", job.id().short());
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let mut closed = pin!(Printer::reader_gone());
    let mut tick = tokio::time::interval(TICK);
    let mut detached = false;
    'followed: loop {
        let event = {
            // It is kept from tick to tick: the next call would connect anew.
            let mut next = pin!(follower.next(fleet));
            loop {
                tokio::select! {
                    // Where the signal cannot be caught, it ends the process as it always did.
                    Ok(()) = &mut interrupt => {
                        printer.leave_line();
                        detached = true;
                        break 'followed;
                    }
                    // Nobody sees what is followed any more.
                    () = &mut closed, if live => return Ok(Watched::Left(Exit::Closed)),
                    event = &mut next => break event,
                    _ = tick.tick() => printer.tick(),
                }
            }
        };
        match event {
            Ok(None) => break,
            Ok(Some(Event::Finished(result))) => printer.report_loss(output.one(&result), again),
            Ok(Some(event)) if live => {
                printer.report_loss(print_live(&event, &mut output.tail, job, fleet, printer), again);
            }
            Ok(Some(Event::Progress { host, text })) if tells => events::progress(&host, &text, printer),
            Ok(Some(event)) => events::note(&event, job, fleet.now(), printer),
            Err(error) => {
                printer.error(&goes_on(job, error));
                break;
            }
        }
        if live && printer.is_closed() {
            return Ok(Watched::Left(Exit::Closed));
        }
        // Once for all that was read together: jobs may have very many hosts.
        if follower.is_drained() {
            printer.progress(follower.results());
        }
    }

    printer.stop_progress();
    let results: Vec<_> = follower.results().collect();
    printer.report_loss(output.all(&results, fleet.now()), again);
    let queued = results.iter().filter(|result| result.state == State::Queued).count().min(follower.left());
    for (count, what) in [(queued, "still queued"), (follower.left() - queued, "gone silent")] {
        if count > 0 {
            printer.note(&format!("{} {what}: ctl job wait {}", summary::hosts(count), job.id().short()));
        }
    }
    if detached {
        printer.note(&format!("detached; the job goes on: ctl job wait {}", job.id().short()));
    }
    let exit = output.tail.exit_of(&results);
    Ok(if detached { Watched::Left(exit) } else { Watched::ToTheEnd(exit) })
}

/// An error that ends the following of a job, which goes on.
pub fn goes_on(job: &Job, error: Error) -> Advice {
    explain(&error.into()).hint(format!("the job goes on; follow it again: ctl job wait {}", job.id().short()))
}

/// Prints an event other than an end, where output is printed as it comes.
pub fn print_live(
    event: &Event,
    tail: &mut Tail<'_>,
    job: &Job,
    fleet: &Fleet,
    printer: &Printer,
) -> anyhow::Result<()> {
    match event {
        Event::Output { host, stream, offset, data } => tail.piece(host, *stream, *offset, data)?,
        Event::Progress { host, text } if printer.format() == Format::Jsonl => {
            printer.object(&json::of_event(job.id(), host, "progress", text.as_str()))?;
        }
        Event::State { host, state, waits_for } if printer.format() == Format::Jsonl => {
            let mut object = json::of_event(job.id(), host, "state", state.as_str());
            if let Some(what) = waits_for {
                object["waits_for"] = what.as_str().into();
            }
            printer.object(&object)?;
        }
        Event::Progress { host, text } => events::progress(host, text, printer),
        event => events::note(event, job, fleet.now(), printer),
    }
    Ok(())
}
