//! Waiting for the worker of `ctl up`: it is ready when it has answered a command.

use std::time::{Duration, Instant};

use anyhow::ensure;
use protocol::{action::Arguments, name::HostName, outcome::State, targets::Targets};

use super::{
    Part,
    directory::Directory,
    process::{Process, Started},
    worker,
};
use crate::{
    dispatch::{self, Job, Request},
    error::Advice,
    fleet::Fleet,
    follow::Follower,
    printer::Printer,
    settings::Settings,
};

/// How long the first answer may take. A worker that was running already may take its time until it
/// connects again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the result of the first command is kept.
const RETENTION: Duration = Duration::from_secs(60);
/// Between two looks at whether the worker still lives.
const LOOK: Duration = Duration::from_millis(10);

/// Starts a worker unless one runs, and waits until it has answered. Says how long that took.
pub(super) async fn start(
    directory: &Directory,
    host: &HostName,
    running: Option<Process>,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<(Part, Duration)> {
    let mut fleet = Fleet::connect(&directory.url().parse()?, settings.namespace.as_ref()).await?;
    // The command goes first: it waits in the inbox, so that the answer is as early as can be.
    let job = dispatch::dispatch(&mut fleet, ping(host, settings), printer).await?;
    let begun = Instant::now();
    let mut part = match running {
        Some(process) => Part::Running(process),
        None => Part::Started(worker::start(directory, host, settings.namespace.as_ref())?),
    };
    let answered = tokio::select! {
        answered = answer(&mut fleet, &job, host, printer) => answered,
        ended = death(&mut part) => Err(ended),
        () = tokio::time::sleep(PATIENCE) => Err(silent(&part, host, &directory.worker_log())),
    };
    let first_answer = answered?;
    Ok((part, first_answer.duration_since(begun)))
}

fn ping(host: &HostName, settings: &Settings) -> Request {
    Request {
        action: "ping".into(),
        arguments: Arguments::new(),
        targets: Targets::new([host.clone()]),
        timeout: PATIENCE,
        start_by: PATIENCE,
        retention: RETENTION,
        operator: settings.operator.clone(),
        trace: None,
    }
}

/// Waits for the answer, and until `ctl run` can do its checks. Says when the answer came.
async fn answer(fleet: &mut Fleet, job: &Job, host: &HostName, printer: &Printer) -> anyhow::Result<Instant> {
    let mut follower = Follower::of_new(job, printer);
    while !follower.is_done() {
        follower.next(fleet).await?;
    }
    let answered = Instant::now();
    for answer in follower.answers() {
        let reason = answer.outcome.and_then(|outcome| outcome.reason).unwrap_or_default();
        let state = answer.state;
        ensure!(state == State::Succeeded, "worker {host} answered its first command with {state} {reason}");
    }
    while fleet.hosts(std::slice::from_ref(host)).await?.iter().any(|host| host.actions.is_none()) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(answered)
}

/// Returns when the worker has ended.
async fn death(part: &mut Part) -> anyhow::Error {
    loop {
        if let Err(error) = part.check("worker") {
            return error;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn silent(part: &Part, host: &HostName, log: &std::path::Path) -> anyhow::Error {
    let what = format!("does not answer after {} s", PATIENCE.as_secs());
    match part {
        Part::Started(started) => Started::complaint(started, &what).into(),
        Part::Running(_) => Advice::new(format!("worker {host} runs, but {what}"))
            .hint(format!("look into its log {}, or end it with `ctl down` and try again", log.display()))
            .into(),
    }
}
