//! `ctl job`: looking at jobs, and waiting for them.

use std::{fs, path::Path, time::Duration};

use anyhow::Context;
use protocol::{
    event::Stream,
    job::shown,
    outcome::{Outcome, State},
    standing::Standing,
    time::{Millis, show_moment},
    trust::sshsig::Signature,
};
use serde_json::{Value, json};

use super::{
    cancel, last, proposal,
    register::{Register, Signed},
    resume,
    watch::{self, Live},
};
use crate::{
    cli::{jobs::Job as Command, settings::Settings},
    client::{Event, Fleet, Follower, HostResult, Job, JobFilter, Proposal, RecentJob, Rollout, Run},
    output::{
        Cell, Exit, Format, Printer, Table, events,
        explain::how_to_mend,
        figures, json, moments, style,
        summary::{self, Summary, standing, waited_ms},
        tail::Tail,
    },
};

/// The most that a list shows of an operator's name and of the states, so that 80 columns have room for the command.
const OPERATOR_WIDTH: usize = 16;
const STATE_WIDTH: usize = 22;

/// Runs a command on jobs.
pub async fn run(command: Command, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    match command {
        Command::List { limit, hosts, failed, running, mine } => {
            let operator = mine.then(|| settings.operator.clone());
            let filter = JobFilter { hosts, operator, failed, running };
            let jobs = fleet.recent_jobs(&filter, limit).await?;
            fleet.take_notices().iter().for_each(|event| events::host_keys(event, printer));
            let none = if filter == JobFilter::default() {
                "no jobs; start one: ctl run --host NAME ACTION"
            } else {
                "no such jobs; all jobs: ctl job list"
            };
            list(&jobs, none, fleet.now(), printer)?;
        }
        Command::Show { id, raw } => {
            let job = last::find(&id.id, fleet, settings).await?;
            match raw {
                Some(directory) => write_raw(&job, &directory, printer)?,
                None => show(&job, fleet, settings, printer).await?,
            }
        }
        Command::Wait { id, look } => {
            printer.set_look(look);
            let job = last::find(&id.id, fleet, settings).await?;
            proposal::refuse_waiting(&job, fleet.now())?;
            return watch::watch(fleet, &job, &mut Follower::of_old(&job), printer, Live::Results).await;
        }
        Command::Logs { id, only, follow, exact } => {
            printer.set_look(exact.into());
            let job = last::find(&id.id, fleet, settings).await?;
            proposal::refuse_waiting(&job, fleet.now())?;
            let mut follower = Follower::of_old(&job);
            follower.only(&only.hosts)?;
            if follow {
                return watch::watch(fleet, &job, &mut follower, printer, Live::Output).await;
            }
            return logs(&job, follower, fleet, printer).await;
        }
        Command::Approve(options) => return proposal::approve(options, fleet, settings, printer).await,
        Command::Resume(options) => return Box::pin(resume::resume(*options, fleet, settings, printer)).await,
        Command::Rerun(options) => return Box::pin(resume::rerun(*options, fleet, settings, printer)).await,
        Command::Cancel { id, only, yes } => {
            let job = last::find(&id.id, fleet, settings).await?;
            return cancel::cancel(fleet, &job, &only.hosts, settings, yes, printer).await;
        }
    }
    Ok(Exit::Success)
}

/// Prints the output so far. It fails only where some of it was forged.
async fn logs(job: &Job, mut follower: Follower<'_>, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<Exit> {
    follower.watch_output();
    follower.only_look();
    follower.look(fleet).await?;

    let mut tail = Tail::new(job.id(), follower.results().count(), printer);
    while let Some(event) = follower.take() {
        watch::print_live(&event, &mut tail, job, fleet, printer)?;
    }
    let results: Vec<_> = follower.results().collect();
    for result in &results {
        tail.end(&result.host, result.outcome.as_ref())?;
        if printer.format() == Format::Jsonl {
            printer.object(&json::of_result(job, result))?;
        }
    }
    let summary = Summary::of(job.manifest(), &results, fleet.now());
    if printer.format() == Format::Json {
        let mut whole = json::of_job(job, &results, &summary);
        let is_signed =
            |result: &HostResult| result.outcome.as_ref().is_some_and(|outcome| outcome.state != State::Interrupted);
        for (object, result) in whole["hosts"].as_array_mut().into_iter().flatten().zip(&results) {
            // What the host has signed stands there already.
            if is_signed(result) {
                continue;
            }
            for stream in [Stream::Stdout, Stream::Stderr] {
                let (bytes, missing) = tail.collected(&result.host, stream);
                json::put_output(object, stream, bytes, missing);
            }
        }
        printer.object(&whole)?;
    }
    printer.note(&summary.of_results(&results));
    Ok(if tail.is_forged() { Exit::Failed } else { Exit::Success })
}

/// Prints a list of jobs, or `none` where it is empty.
fn list(jobs: &[RecentJob], none: &str, now: Millis, printer: &Printer) -> anyhow::Result<()> {
    if printer.format() != Format::Table {
        return printer.objects(&jobs.iter().map(object).collect::<Vec<_>>());
    }
    if jobs.is_empty() {
        printer.note(none);
        return Ok(());
    }
    let mut table = Table::new(["JOB", "AGE", "BY", "STATE", "COMMAND"]);
    for RecentJob { id, headline, states, cancel_ordered, proposal, damage } in jobs {
        let Some(headline) = headline else {
            table.row([id.short(), String::new(), String::new(), "damaged".into(), String::new()].map(Cell::from));
            continue;
        };
        let age = Duration::from_millis(now.saturating_sub(headline.issued_at_ms));
        let state = match states.keys().next() {
            _ if damage.is_some() => "damaged".into(),
            _ if let Some(proposal) = proposal => format!("proposed, {proposal}"),
            _ if *cancel_ordered > 0 => format!("{cancel_ordered} to be cancelled"),
            Some(only) if headline.target_count == 1 => summary::words(*only).to_owned(),
            _ => summary::counts(states),
        };
        table.row([
            id.short().into(),
            moments::span(age).into(),
            Cell::from(&headline.operator).at_most(OPERATOR_WIDTH),
            Cell::from(state).at_most(STATE_WIDTH),
            summary::command(&headline.action, &headline.arguments).into(),
        ]);
    }
    printer.table(&table)?;
    jobs.iter().filter_map(|job| job.damage.as_ref()).for_each(|damage| printer.trouble(&how_to_mend(damage)));
    Ok(())
}

/// A job of a list as JSON.
pub fn object(job: &RecentJob) -> Value {
    let headline = job.headline.as_ref();
    let mut object = json!({
        "job": job.id,
        "action": headline.map(|headline| &headline.action),
        "arguments": headline.map(|headline| &headline.arguments),
        "operator": headline.map(|headline| &headline.operator),
        "issued_at": headline.map(|headline| show_moment(headline.issued_at_ms)),
        "hosts": headline.map(|headline| headline.target_count),
        "states": job.states,
        "cancel_ordered": job.cancel_ordered,
    });
    // Present only where there is any.
    if let Some(Proposal { signed, needed }) = job.proposal {
        object["proposed"] = json!({ "signed": signed, "needed": needed });
    }
    if let Some(damage) = &job.damage {
        object["damage"] = json!(damage.to_string());
    }
    object
}

async fn show(job: &Job, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let mut follower = Follower::of_old(job);
    follower.only_look();
    follower.look(fleet).await?;
    let now = fleet.now();
    while let Some(event) = follower.take() {
        // The states are shown below.
        if !matches!(event, Event::State { .. }) {
            events::note(&event, job, now, printer);
        }
    }

    // Keys that have expired since were good when it was signed.
    let at = if job.proposal(now).is_some() { now } else { job.manifest().issued_at_ms };
    let approvers = Register::read(settings, at, printer).approvers(job);
    let results: Vec<_> = follower.results().collect();
    let summary = Summary::of(job.manifest(), &results, now);
    if printer.format() != Format::Table {
        return printer.object(&whole(job, &approvers, &results, &summary, now));
    }
    printer.table(&overview(job, &approvers, now))?;
    approvers.iter().filter_map(Signed::remark).for_each(|remark| printer.note(&remark));
    if job.proposal(now).is_some() {
        printer.note(&format!("nothing was sent; to approve it: ctl job approve {}", job.id().short()));
        return Ok(());
    }
    printer.line("")?;
    printer.table(&standings(job, &results, now))?;
    printer.note(&summary.of_results(&results));
    if let Ok(Run::Rollout(rollout)) = fleet.run_of(job.clone()).await {
        printer.note(&place(job, &rollout));
    }
    printer.note(&format!("the results themselves: ctl job wait {}", job.id().short()));
    Ok(())
}

/// Where a job stands in its rolling run.
fn place(job: &Job, rollout: &Rollout) -> String {
    let wave = rollout.waves().position(|wave| wave.job == job.id()).map_or(0, |at| at + 1);
    let reached: usize = rollout.waves().map(|wave| wave.hosts.len()).sum();
    let total = rollout.targets().len();
    let ended = rollout.ended().map_or("not ended".to_owned(), |how| format!("ended: {}", style::plain(how)));
    let name = rollout.id().short();
    format!(
        "wave {wave} of a rolling run, which has reached {reached} of {total} hosts ({ended}): ctl job resume {name}"
    )
}

/// Writes the manifest, byte for byte as it was signed, and its signature, as `ssh-keygen -Y verify` reads them.
fn write_raw(job: &Job, directory: &Path, printer: &Printer) -> anyhow::Result<()> {
    let signed = job.signed();
    let short = job.id().short();
    // A run of a standing order has no signature of its own: the order has.
    let standing = job.standing().transpose().with_context(|| format!("job {short}"))?;
    let order = standing.as_ref().map(Standing::signed);
    let (what, document, signature) = match order {
        None => ("manifest", &signed.bytes, &signed.signature),
        Some(order) => ("standing-order", &order.bytes, &order.signature),
    };
    let signature = Signature::from_bytes(signature).with_context(|| format!("job {short}"))?.to_pem();
    fs::create_dir_all(directory).with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let signature_file = format!("{what}.sig");
    let mut files = vec![("manifest", &signed.bytes[..]), (&signature_file, signature.as_bytes())];
    files.extend(order.map(|_| (what, &document[..])));
    for (name, content) in files {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if printer.format() != Format::Table {
        let path = |name: &str| directory.join(name).display().to_string();
        let mut object = json!({ "job": job.id(), "manifest": path("manifest"), "signature": path(&signature_file) });
        // Present only where it is a run of one.
        if order.is_some() {
            object["standing_order"] = json!(path(what));
        }
        printer.object(&object)?;
    }
    let place = directory.display();
    let whose = if order.is_some() { "that of its standing order" } else { "its signature" };
    printer.note(&format!("job {short} is in {place}/manifest, {whose} in {place}/{signature_file}"));
    Ok(())
}

fn whole(job: &Job, approvers: &[Signed], results: &[&HostResult], summary: &Summary, now: Millis) -> Value {
    let manifest = job.manifest();
    let mut value = json::of_job(job, results, summary);
    value["arguments"] = shown(manifest).into();
    // Present only where there is one.
    if let Some(namespace) = &manifest.namespace {
        value["namespace"] = json!(namespace);
    }
    value["operator"] = json!(manifest.operator);
    // Present only where it is a run of one.
    if let Some(Ok(standing)) = job.standing() {
        value["standing_order"] = json!(standing.order().name);
    }
    let (verified, others): (Vec<_>, Vec<_>) = approvers.iter().partition(|approver| approver.is_verified());
    value["approved_by"] = json!(names(&verified));
    // Present only where nobody vouches for some.
    if !others.is_empty() {
        value["approved_by_unverified"] = json!(names(&others));
    }
    // Present only where it was not sent.
    if let Some(Proposal { signed, needed }) = job.proposal(now) {
        value["proposed"] = json!({ "signed": signed, "needed": needed });
    }
    value["issued_at"] = json!(show_moment(manifest.issued_at_ms));
    value["start_by"] = json!(show_moment(manifest.start_by_ms));
    value["timeout_ms"] = json!(manifest.timeout_ms);
    value["retention_ms"] = json!(manifest.retention_ms);
    value
}

fn names<'a>(signed: &[&'a Signed]) -> Vec<&'a str> {
    signed.iter().map(|signed| signed.name()).collect()
}

fn overview(job: &Job, approvers: &[Signed], now: Millis) -> Table {
    let manifest = job.manifest();
    let duration = |millis| moments::span(Duration::from_millis(millis));
    let mut pairs = Table::of_pairs();
    pairs.pair("job", job.id().to_string());
    if let Some(namespace) = &manifest.namespace {
        pairs.pair("namespace", namespace.to_string());
    }
    pairs.pair("action", &manifest.action);
    for (name, argument) in &manifest.arguments {
        pairs.pair(&format!("  {name}"), argument.to_string());
    }
    for name in manifest.secret_names() {
        pairs.pair(&format!("  {name}"), "***");
    }
    pairs.pair("operator", &manifest.operator);
    match job.standing() {
        None => {}
        Some(Ok(standing)) => pairs.pair("by", format!("the standing order '{}'", standing.order().name)),
        Some(Err(unfounded)) => pairs.pair("by", style::plain(&unfounded.to_string())),
    }
    if !approvers.is_empty() {
        pairs.pair("approved by", approvers.iter().map(Signed::shown).collect::<Vec<_>>().join(", "));
    }
    if let Some(proposal) = job.proposal(now) {
        pairs.pair("state", format!("proposed, {proposal} have signed"));
    }
    pairs.pair(
        "issued",
        format!("{} ({})", moments::exact(manifest.issued_at_ms), moments::ago(manifest.issued_at_ms, now)),
    );
    pairs.pair("start by", format!("{} (unless its worker has taken it)", moments::exact(manifest.start_by_ms)));
    pairs.pair("timeout", duration(manifest.timeout_ms));
    pairs.pair("kept for", duration(manifest.retention_ms));
    pairs.folded()
}

/// A table of hosts, with the job's state on each.
fn standings(job: &Job, results: &[&HostResult], now: Millis) -> Table {
    let mut table = Table::new(["HOST", "STARTED", "WAITED", "TOOK", "OUTPUT", "STATE"]);
    for result in results {
        let outcome = result.outcome.as_ref();
        let started = outcome.and_then(|outcome| outcome.started_at_ms);
        let took = outcome.and_then(Outcome::duration_ms);
        let waited = waited_ms(result, job.manifest().issued_at_ms, now);
        let output = outcome.map(|outcome| outcome.stdout.written_bytes + outcome.stderr.written_bytes);
        let output = output.filter(|bytes| *bytes > 0);
        table.row([
            result.host.as_str().into(),
            started.map(|started| moments::ago(started, now)).unwrap_or_default().into(),
            waited.map(|waited| moments::span(Duration::from_millis(waited))).unwrap_or_default().into(),
            took.map(|took| moments::span(Duration::from_millis(took))).unwrap_or_default().into(),
            output.map(|bytes| figures::bytes(bytes as f64)).unwrap_or_default().into(),
            Cell::styled(&standing(result), style::of_state(result.state)),
        ]);
    }
    table.folded()
}
