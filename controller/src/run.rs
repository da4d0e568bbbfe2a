//! `ctl run`: the one short cut. Checks everything that can be checked before anything is sent.

use protocol::targets::Targets;

use crate::{
    absence,
    cli::Run,
    dispatch::{self, Request},
    exit::Exit,
    fleet::Fleet,
    follow::Follower,
    printer::Printer,
    select,
    settings::{Format, Settings},
    summary, watch,
};

/// Runs an action on hosts.
pub async fn run(options: Run, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let hosts = select::hosts(fleet, &options.hosts, options.all).await?;
    let asked = select::understand(&hosts, &options.action, &options.arguments, &options.words)?;
    let request = Request {
        action: options.action,
        arguments: asked.arguments,
        targets: Targets::new(hosts.iter().map(|host| host.name.clone())),
        timeout: options.timeout.or(settings.timeout).unwrap_or(asked.timeout),
        start_by: options.start_by.unwrap_or(settings.start_by),
        retention: options.retention.unwrap_or(settings.retention),
        operator: settings.operator.clone(),
        trace: settings.trace.clone(),
    };
    let job = dispatch::dispatch(fleet, request, printer).await?;
    let now = fleet.clock.now();
    let absent = select::absent(&hosts, now);
    absence::tell(&absent, job.manifest.start_by_ms, now, printer);
    if options.detach {
        let id = job.id().to_string();
        match printer.format() {
            Format::Table => printer.line(&id)?,
            Format::Json | Format::Jsonl => printer.object(&serde_json::json!({ "job": id }))?,
        }
        printer.note(&format!("asked {}; the results: ctl job wait {id}", summary::hosts(hosts.len())));
        return Ok(Exit::Success);
    }
    let mut follower = Follower::of_new(&job, printer);
    follower.told_absent(&absent);
    watch::watch(fleet, &job, follower, printer, options.follow).await
}
