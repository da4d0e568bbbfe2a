//! `ctl job cancel`: a command that runs is ended, one that has not started never does.

use std::time::{Duration, Instant};

use protocol::{control::Control, limits, name::HostName, outcome::State};

use crate::{
    dispatch::Job,
    error::Advice,
    exit::Exit,
    fleet::Fleet,
    follow::Follower,
    printer::Printer,
    summary::{hosts, standing},
    verdict::Answer,
};

/// How long the answers of hosts that are online are awaited: the grace period of a process group and some.
const PATIENCE: Duration = Duration::from_secs(15);

/// Cancels the job on all of its hosts, or on those named.
pub async fn cancel(fleet: &mut Fleet, job: &Job, only: &[HostName], printer: &Printer) -> anyhow::Result<Exit> {
    if let Some(stranger) = only.iter().find(|host| job.targets.hosts().all(|target| target != *host)) {
        let error = Advice::new(format!("{stranger} is not among the hosts of job {}", job.id()));
        return Err(error.hint(format!("see ctl job show {}", job.id())).into());
    }
    let mut follower = Follower::of_old(job, printer);
    follower.only_look();
    follower.look(fleet).await.map_err(|error| fleet.explain(&error))?;
    let wanted = |host: &HostName| only.is_empty() || only.contains(host);
    let names: Vec<HostName> = job.targets.hosts().filter(|host| wanted(host)).cloned().collect();
    let stands = |follower: &Follower<'_>, host: &HostName| follower.answer(host).cloned();
    let (ended, open): (Vec<_>, Vec<_>) =
        names.iter().filter_map(|host| stands(&follower, host)).partition(|answer| answer.outcome.is_some());
    for answer in &ended {
        printer.note(&format!("{}: has ended already: {}", answer.host, standing(answer)));
    }
    if open.is_empty() {
        return Err(Advice::new(format!("nothing to cancel: the job has ended on {}", hosts(ended.len()))).into());
    }
    order(fleet, job, &open).await?;
    let known = fleet.hosts(&open.iter().map(|answer| answer.host.clone()).collect::<Vec<_>>()).await?;
    let now = fleet.clock.now();
    let (online, offline): (Vec<_>, Vec<_>) = known.into_iter().partition(|host| host.is_online(now));
    for host in offline {
        printer.note(&format!("{}: offline; once it is back the command ends there, or never starts", host.name));
    }
    let online: Vec<HostName> = online.into_iter().map(|host| host.name).collect();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && online.iter().any(|host| !is_over(&follower, host)) {
        follower.next(fleet).await?;
    }
    let mut exit = Exit::Success;
    for answer in online.iter().filter_map(|host| stands(&follower, host)) {
        match answer.state {
            State::Cancelled => printer.note(&format!("{}: {}", answer.host, standing(&answer))),
            state if state.is_terminal() => {
                exit = Exit::Failed;
                printer.trouble(&format!("{}: ended before it could be cancelled: {}", answer.host, standing(&answer)));
            }
            _ => {
                // A failure is worth more words than a silence, as everywhere.
                exit = if exit == Exit::Failed { exit } else { Exit::Incomplete };
                printer.trouble(&format!("{}: has not answered yet", answer.host));
            }
        }
    }
    Ok(exit)
}

fn is_over(follower: &Follower<'_>, host: &HostName) -> bool {
    follower.answer(host).is_none_or(|answer| answer.state.is_terminal())
}

/// Puts the order into the hosts' control streams, where it is read even when every slot is busy.
async fn order(fleet: &mut Fleet, job: &Job, open: &[Answer]) -> anyhow::Result<()> {
    let mut pipeline = redis::pipe();
    for answer in open {
        pipeline.cmd("XADD").arg(fleet.keys.control(&answer.host));
        pipeline.arg("MAXLEN").arg("~").arg(limits::CONTROL_ENTRIES).arg("*");
        for (name, value) in Control::Cancel(job.id()).fields() {
            pipeline.arg(name).arg(value);
        }
    }
    let _: Vec<String> = fleet.ask(&pipeline).await?;
    Ok(())
}
