//! `ctl job`: looking at jobs, and waiting for them.

use std::time::Duration;

use protocol::time::{Millis, read_moment, show_moment};
use serde_json::json;

use crate::{
    answer_json, cancel,
    cli::Job as Command,
    dispatch::Job,
    exit::Exit,
    fleet::Fleet,
    follow::Follower,
    headline::{self, Headline},
    moments,
    printer::Printer,
    settings::Format,
    style,
    summary::{Summary, standing},
    table::{Cell, Table},
    tail::Tail,
    verdict::Answer,
    watch,
};

/// Runs a command on jobs.
pub async fn run(command: Command, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Exit> {
    match command {
        Command::List { limit } => {
            let jobs = headline::newest(fleet, limit).await?;
            list(&jobs, fleet.clock.now(), printer)?;
        }
        Command::Show { id } => {
            let job = headline::find(fleet, &id).await?;
            let mut follower = Follower::of_old(&job, printer);
            follower.only_look();
            follower.look(fleet).await.map_err(|error| fleet.explain(&error))?;
            show(&job, &follower.answers(), fleet.clock.now(), printer)?;
        }
        Command::Wait { id } => {
            let job = headline::find(fleet, &id).await?;
            return watch::watch(fleet, &job, Follower::of_old(&job, printer), printer, false).await;
        }
        Command::Logs { id, follow } => {
            let job = headline::find(fleet, &id).await?;
            let follower = Follower::of_old(&job, printer);
            if follow {
                return watch::watch(fleet, &job, follower, printer, true).await;
            }
            logs(&job, follower, fleet, printer).await?;
        }
        Command::Cancel { id, hosts } => {
            let job = headline::find(fleet, &id).await?;
            return cancel::cancel(fleet, &job, &hosts, printer).await;
        }
    }
    Ok(Exit::Success)
}

/// What is there of the job's output.
async fn logs(job: &Job, mut follower: Follower<'_>, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let mut tail = Tail::new(job, printer);
    follower.keep_output();
    follower.only_look();
    let read = async {
        follower.look(fleet).await?;
        follower.catch_up(fleet).await
    };
    read.await.map_err(|error| fleet.explain(&error))?;
    follower.take_output().iter().try_for_each(|piece| tail.piece(piece))?;
    let answers = follower.answers();
    for answer in &answers {
        tail.end(&answer.host, answer.outcome.as_ref())?;
    }
    let summary = Summary::of(&job.manifest, &answers, fleet.clock.now());
    printer.note(&summary.of_answers(&answers));
    Ok(())
}

fn list(jobs: &[Headline], now: Millis, printer: &Printer) -> anyhow::Result<()> {
    if printer.format() != Format::Table {
        return printer.objects(jobs);
    }
    if jobs.is_empty() {
        printer.note("there is no job yet: ctl run --host NAME ACTION");
        return Ok(());
    }
    let mut table = Table::new(["JOB", "ASKED", "ACTION", "BY", "HOSTS", "STATE"]);
    for job in jobs {
        let asked = read_moment(&job.issued_at).map(|moment| moments::ago(moment, now)).unwrap_or_default();
        table.row([
            job.job.to_string().into(),
            asked.into(),
            (&job.action).into(),
            (&job.operator).into(),
            job.hosts.to_string().into(),
            job.standing().into(),
        ]);
    }
    printer.table(&table)
}

fn show(job: &Job, answers: &[Answer], now: Millis, printer: &Printer) -> anyhow::Result<()> {
    let asked = &job.manifest;
    let summary = Summary::of(asked, answers, now);
    if printer.format() != Format::Table {
        let mut value = answer_json::whole(job, answers, &summary);
        value["arguments"] = json!(asked.arguments);
        value["operator"] = json!(asked.operator);
        value["issued_at"] = json!(show_moment(asked.issued_at_ms));
        value["start_by"] = json!(show_moment(asked.start_by_ms));
        value["timeout_ms"] = json!(asked.timeout_ms);
        value["retention_ms"] = json!(asked.retention_ms);
        return printer.object(&value);
    }
    let duration = |millis| moments::span(Duration::from_millis(millis));
    let mut pairs = Table::of_pairs();
    pairs.pair("job", job.id().to_string());
    pairs.pair("action", &asked.action);
    for (name, argument) in &asked.arguments {
        pairs.pair(&format!("  {name}"), argument.to_string());
    }
    pairs.pair("asked by", &asked.operator);
    pairs.pair("asked", format!("{} ({})", moments::exact(asked.issued_at_ms), moments::ago(asked.issued_at_ms, now)));
    pairs.pair("start by", moments::exact(asked.start_by_ms));
    pairs.pair("timeout", duration(asked.timeout_ms));
    pairs.pair("kept for", duration(asked.retention_ms));
    printer.table(&pairs)?;
    printer.line("")?;
    let mut table = Table::new(["HOST", "STATE", "STARTED", "TOOK", "OUTPUT"]);
    for answer in answers {
        let outcome = answer.outcome.as_ref();
        let started = outcome.and_then(|outcome| outcome.started_at_ms);
        let took = outcome.and_then(protocol::outcome::Outcome::duration_ms);
        let output = outcome.map(|outcome| outcome.stdout.written_bytes + outcome.stderr.written_bytes);
        table.row([
            answer.host.as_str().into(),
            Cell::styled(&standing(answer), style::of_state(answer.state)),
            started.map(|started| moments::ago(started, now)).unwrap_or_default().into(),
            took.map(|took| moments::span(Duration::from_millis(took))).unwrap_or_default().into(),
            output
                .filter(|bytes| *bytes > 0)
                .map(|bytes| crate::figures::bytes(bytes as f64))
                .unwrap_or_default()
                .into(),
        ]);
    }
    printer.table(&table)?;
    printer.note(&summary.of_answers(answers));
    printer.note(&format!("the results themselves: ctl job wait {}", job.id()));
    Ok(())
}
