//! `ctl job cancel`: a command that runs is ended, one that has not started never does.

use std::{collections::HashMap, time::Duration};

use protocol::{job::shown, name::HostName, outcome::State, time::Millis};
use tokio::time::timeout;

use crate::{
    cli::{keys, settings::Settings},
    client::{Error, Event, Fleet, Follower, HostResult, Job, Run},
    output::{
        Advice, Exit, Printer, events, moments, style,
        summary::{command, hosts, standing},
    },
};

/// How long the ends on hosts that are online are awaited: the grace period of a process group and some.
const PATIENCE: Duration = Duration::from_secs(15);

/// How far this program's estimate of Redis' time may be off, in milliseconds.
const CLOCK_TOLERANCE: Millis = 1000;

/// Shows what is cancelled. Asks whether that is meant where the job is another operator's, unless `sure`.
///
/// # Errors
/// It is not meant, or nobody can be asked.
fn agree(
    job: &Job,
    only: &[HostName],
    operator: &str,
    sure: bool,
    now: Millis,
    printer: &Printer,
) -> anyhow::Result<()> {
    let (manifest, id) = (job.manifest(), job.id().short());
    let what = style::plain(&command(&manifest.action, &shown(manifest)));
    let of_all = match (only.len(), job.targets().len()) {
        (0, all) => hosts(all),
        (some, all) => format!("{some} of {}", hosts(all)),
    };
    let (owner, asked) = (style::plain(&manifest.operator), moments::ago(manifest.issued_at_ms, now));
    printer.note(&format!("job {id} ({what}) on {of_all}, asked for by {owner} {asked}"));
    if sure || manifest.operator == operator {
        return Ok(());
    }
    match Printer::confirm(&format!("It is not your job ({operator}). Cancel it?")) {
        Some(true) => Ok(()),
        Some(false) => Err(Advice::new("not cancelled").into()),
        None => {
            let error = Advice::new(format!("job {id} is not yours ({operator}): it was asked for by {owner}"));
            Err(error.hint(format!("cancel it all the same: ctl job cancel {id} --yes")).into())
        }
    }
}

/// Cancels the job on all of its hosts, or on those named. `sure`: even if it is another operator's.
pub async fn cancel(
    fleet: &mut Fleet,
    job: &Job,
    only: &[HostName],
    settings: &Settings,
    sure: bool,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let operator = &settings.operator;
    agree(job, only, operator, sure, fleet.now(), printer)?;
    let signer = keys::open(settings).await?;
    let ordered_ms = fleet.now();
    // Otherwise its driver would begin the next wave.
    if only.is_empty()
        && let Ok(Run::Rollout(rollout)) = fleet.run_of(job.clone()).await
    {
        fleet.close_rollout(&rollout, operator).await?;
        printer.note("the rolling run of which it is a wave begins no further one");
    }
    let cancellation = fleet.cancel(job, only, operator, &signer).await?;
    for result in &cancellation.ended {
        printer.note(&format!("{}: already ended ({})", result.host, standing(result)));
    }
    for host in &cancellation.offline {
        printer.note(&format!("{host}: offline; once it is back the command ends there, or never starts"));
    }
    let online = cancellation.online;
    if online.is_empty() && cancellation.offline.is_empty() {
        let ended = hosts(cancellation.ended.len());
        return Err(Advice::new(format!("nothing to cancel: the job has already ended on {ended}")).into());
    }

    let mut follower = Follower::of_old(job);
    follower.never_redispatch();
    let mut refused: HashMap<HostName, String> = HashMap::new();
    let ends = async {
        // Without any, all hosts would be awaited.
        if online.is_empty() {
            return Ok(());
        }
        follower.only(&online)?;
        while let Some(event) = follower.next(fleet).await? {
            // Which hosts are offline, and that they were ordered to cancel, was printed above. What the command waits
            // for does not matter any more.
            match event {
                Event::CancelRefused { host, operator: by, reason, at_ms } => {
                    // The events of the job begin with earlier orders.
                    if by == *operator && at_ms.is_some_and(|at| at + CLOCK_TOLERANCE >= ordered_ms) {
                        refused.insert(host, reason);
                    }
                }
                Event::Absent(_) | Event::CancelOrdered { .. } | Event::State { .. } => {}
                event => events::note(&event, job, fleet.now(), printer),
            }
            let has_ended = |host| follower.result(host).is_some_and(HostResult::has_ended);
            if online.iter().all(|host| refused.contains_key(host) || has_ended(host)) {
                break;
            }
        }
        Ok::<_, Error>(())
    };
    if let Ok(followed) = timeout(PATIENCE, ends).await {
        followed?;
    }

    let mut exit = Exit::Success;
    for result in online.iter().filter_map(|host| follower.result(host)) {
        match result.state {
            // A result that nobody can believe stays in Redis even if the host has obeyed.
            State::Unverified => {
                exit = Exit::Failed;
                let order = "the order to cancel was sent, but whether it was obeyed cannot be known";
                printer.trouble(&format!("{}: {order}: {}", result.host, standing(result)));
            }
            State::Cancelled => printer.note(&format!("{}: {}", result.host, standing(result))),
            state if state.is_terminal() => {
                exit = Exit::Failed;
                printer.trouble(&format!("{}: ended before it could be cancelled: {}", result.host, standing(result)));
            }
            _ => {
                let refusal = refused.get(&result.host);
                // A failure outweighs a missing reply, as everywhere.
                exit = if exit == Exit::Failed || refusal.is_some() { Exit::Failed } else { Exit::Incomplete };
                let standing =
                    refusal.map_or("has not replied yet".into(), |reason| format!("does not cancel it: {reason}"));
                printer.trouble(&format!("{}: {standing}", result.host));
            }
        }
    }
    Ok(exit)
}
