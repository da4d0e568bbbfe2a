//! `ctl schedule`: what runs again and again while nobody types.

mod add;

use std::time::Duration;

use anyhow::bail;
use protocol::{
    job::shown_arguments,
    limits,
    name::ScheduleName,
    scheduled::{End, Fate, Instant, Scheduled, ScheduledError},
    standing::{Conduct, Overlap, StandingOrder, selector::Selector},
    targets::Targets,
    time::{Millis, show_moment},
    trust::sshsig,
};
use serde_json::{Value, json};

use super::{
    doubt, proposal,
    register::Register,
    watch::{self, Live, Sent},
};
use crate::{
    cli::{keys, schedules::Schedule as Command, settings::Settings},
    client::{Fleet, Request, ends_soon, in_words, next_times, silent_until},
    output::{Advice, Cell, Exit, Format, Printer, Table, events, fold, moments, style, summary},
};

/// Runs a command on schedules.
pub async fn run(command: Command, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    match command {
        Command::Add(options) => add::add(*options, fleet, settings, printer).await?,
        Command::List { times } => list(times, fleet, printer).await?,
        Command::Show { name } => show(&name, fleet, settings, printer).await?,
        Command::Pause { name } => {
            fleet.schedule(&name).await?;
            fleet.pause_schedule(&name, &format!("by {}", settings.operator)).await?;
            printer.note(&format!("{name}: paused; go on: ctl schedule resume {name}"));
        }
        Command::Resume { name } => {
            let was_paused = fleet.resume_schedule(&name).await?;
            let scheduled = fleet.schedule(&name).await?;
            let next = next_of(&scheduled, fleet.now());
            let word = if was_paused { "resumed" } else { "it was not paused" };
            printer.note(&format!("{name}: {word}; next: {next}"));
        }
        Command::RunNow { name, detach, yes } => return run_now(&name, detach, yes, fleet, settings, printer).await,
        Command::Rm { name, yes } => remove(&name, yes, fleet, printer).await?,
        Command::History { name, limit } => history(&name, limit, fleet, printer).await?,
    }
    Ok(Exit::Success)
}

fn span(duration_ms: u64) -> String {
    moments::span(Duration::from_millis(duration_ms))
}

/// An action with its arguments, as people read it.
fn command(order: &StandingOrder) -> String {
    style::plain(&summary::command(&order.action, &shown_arguments(&order.arguments)))
}

/// Which hosts, in words.
fn meant(Selector { hosts, except, labels }: &Selector) -> String {
    let whom = if hosts.is_empty() { "all hosts".to_owned() } else { hosts.join(",") };
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let with = if labels.is_empty() { String::new() } else { format!(" with {}", labels.join(",")) };
    let without = if except.is_empty() { String::new() } else { format!(" except {}", except.join(",")) };
    style::plain(&format!("{whom}{with}{without}"))
}

/// When it runs next, in words.
fn next_of(scheduled: &Scheduled, now: Millis) -> String {
    match (&scheduled.paused, next_times(scheduled.order(), now.max(scheduled.accounted_ms), 1).first()) {
        (Some(_), _) => "paused".to_owned(),
        (None, Some(next)) => moments::local(*next, now),
        (None, None) => "never again".to_owned(),
    }
}

/// A schedule as an object.
fn object(scheduled: &Scheduled, last: Option<&(Millis, Instant)>, now: Millis) -> Value {
    let order = scheduled.order();
    let next: Vec<_> = next_times(order, now.max(scheduled.accounted_ms), 10).into_iter().map(show_moment).collect();
    let mut object = json!({
        "schedule": order.name,
        "when": in_words(&order.schedule),
        "action": order.action,
        "arguments": shown_arguments(&order.arguments),
        "operator": order.operator,
        "hosts": order.selector.hosts,
        "except": order.selector.except,
        "labels": order.selector.labels,
        "issued_at": show_moment(order.issued_at_ms),
        "valid_until": show_moment(order.valid_until_ms),
        "ends_soon": ends_soon(order, now),
        "start_within_ms": order.start_within_ms,
        "timeout_ms": order.timeout_ms,
        "overlap": order.conduct.overlap,
        "late": order.conduct.late,
        "jitter_ms": order.conduct.jitter_ms,
        "pause_after": order.conduct.pause_after,
        "retries": order.conduct.retries,
        "failures": scheduled.failures,
        "paused": scheduled.paused,
        "next": if scheduled.paused.is_some() { Vec::new() } else { next },
    });
    if let Some((instant, last)) = last {
        object["last"] = of_instant(*instant, last);
    }
    object
}

fn of_instant(instant_ms: Millis, instant: &Instant) -> Value {
    json!({
        "at": show_moment(instant_ms),
        "state": instant.state.word(),
        "job": instant.job,
        "end": instant.end,
        "attempt": instant.attempt,
        "reason": instant.reason,
        "by": instant.by,
    })
}

/// What became of an instant, in words.
fn standing(instant: &Instant) -> String {
    let end = match instant.end {
        Some(End::Succeeded) => ", succeeded",
        Some(End::Failed) => ", failed",
        Some(End::Unknown) => ", its end is not known",
        None if matches!(instant.state, Fate::Ran | Fate::Late) => ", goes on",
        None => "",
    };
    let retry = if instant.attempt > 0 { format!(" (retry {})", instant.attempt) } else { String::new() };
    format!("{}{end}{retry}", instant.state.word())
}

fn look(instant: &Instant) -> anstyle::Style {
    match (instant.state, instant.end) {
        (Fate::NotSent, _) | (_, Some(End::Failed)) => style::BAD,
        _ => style::PLAIN,
    }
}

async fn list(times: bool, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    let names = fleet.schedule_names().await?;
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for (name, scheduled) in fleet.schedules(&names).await? {
        let last = match &scheduled {
            Ok(scheduled) => match fleet.last_instant(scheduled).await {
                // What is wrong with one hides no other.
                Err(error) if !error.is_transient() => {
                    damaged.push((name.clone(), error));
                    None
                }
                last => last?,
            },
            Err(_) => None,
        };
        found.push((name, scheduled, last));
    }
    let now = fleet.now();
    if printer.format() != Format::Table {
        let objects = found.iter().map(|(name, scheduled, last)| match scheduled {
            Ok(scheduled) => object(scheduled, last.as_ref(), now),
            Err(error) => json!({ "schedule": name, "problem": error.to_string() }),
        });
        return printer.objects(&objects.collect::<Vec<_>>());
    }
    if found.is_empty() {
        printer.note("there is no schedule; add one: ctl schedule add NAME --cron '*/5 * * * *' --host 'web*' ACTION");
        return Ok(());
    }
    let table = if times {
        table_of_times(found.iter().filter_map(|(_, scheduled, _)| scheduled.as_ref().ok()), now)
    } else {
        table_of_schedules(&found, now)
    };
    printer.table(&table.folded())?;
    for gone in names.iter().filter(|name| !found.iter().any(|(known, ..)| known == *name)) {
        printer.trouble(&format!("{gone}: its record is gone; take it off the list: ctl schedule rm {gone}"));
    }
    for (name, error) in &damaged {
        printer.trouble(&format!("{name}: its history cannot be read: {}", style::plain(&error.to_string())));
    }
    for (name, scheduled, _) in &found {
        match scheduled {
            Err(error) => printer.trouble(&format!("{name}: cannot be read: {error}")),
            Ok(scheduled) => warn(scheduled, now, printer),
        }
    }
    Ok(())
}

/// A schedule, and what has become of its last time.
type Found = (ScheduleName, Result<Scheduled, ScheduledError>, Option<(Millis, Instant)>);

fn table_of_schedules(found: &[Found], now: Millis) -> Table {
    let mut table = Table::new(["SCHEDULE", "WHEN", "NEXT", "LAST", "HOSTS", "COMMAND"]);
    for (name, scheduled, last) in found {
        let Ok(scheduled) = scheduled else { continue };
        let order = scheduled.order();
        let last = last.as_ref().map_or_else(
            || Cell::from("-"),
            |(at, last)| Cell::styled(&format!("{}: {}", moments::ago(*at, now), standing(last)), look(last)),
        );
        table.row([
            name.as_str().into(),
            style::plain(&in_words(&order.schedule)).as_str().into(),
            next_of(scheduled, now).as_str().into(),
            last,
            meant(&order.selector).as_str().into(),
            command(order).as_str().into(),
        ]);
    }
    table
}

/// The next times of schedules, the soonest first.
fn table_of_times<'a>(schedules: impl Iterator<Item = &'a Scheduled>, now: Millis) -> Table {
    let running = schedules.filter(|scheduled| scheduled.paused.is_none());
    let times = |scheduled: &'a Scheduled| {
        let next = next_times(scheduled.order(), now.max(scheduled.accounted_ms), 10);
        next.into_iter().map(move |at| (at, scheduled))
    };
    let mut times: Vec<_> = running.flat_map(times).collect();
    times.sort_by_key(|(at, scheduled)| (*at, scheduled.name()));
    let mut table = Table::new(["SCHEDULE", "AT", "COMMAND"]);
    for (at, scheduled) in times {
        let (name, command) = (scheduled.name().as_str(), command(scheduled.order()));
        table.row([name.into(), moments::exact(at).as_str().into(), command.as_str().into()]);
    }
    table
}

/// What an operator should know about a schedule.
fn warn(scheduled: &Scheduled, now: Millis, printer: &Printer) {
    let (name, order) = (scheduled.name(), scheduled.order());
    if let Some(paused) = &scheduled.paused {
        printer.trouble(&format!("{name}: paused {}; go on: ctl schedule resume {name}", style::plain(paused)));
    }
    if let Some(until) = silent_until(scheduled, now) {
        let until = moments::exact(until);
        printer.trouble(&format!(
            "{name}: nothing runs before {until}, as Redis' clock was ahead; sign another order: ctl schedule add {name} --replace …"
        ));
    }
    if ends_soon(order, now) {
        let (until, over) = (moments::exact(order.valid_until_ms), order.valid_until_ms <= now);
        let ends = if over { "ended" } else { "ends" };
        printer.trouble(&format!(
            "{name}: its standing order {ends} at {until}; sign another one: ctl schedule add {name} --replace …"
        ));
    }
}

async fn show(name: &ScheduleName, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<()> {
    let scheduled = fleet.schedule(name).await?;
    let last = fleet.last_instant(&scheduled).await?;
    let (order, now) = (scheduled.order(), fleet.now());
    if printer.format() != Format::Table {
        return printer.object(&object(&scheduled, last.as_ref(), now));
    }
    let signed = scheduled.standing.signed();
    let register = Register::read(settings, now, printer);
    let by = register.judge(&order.operator, sshsig::STANDING, (&signed.bytes, &signed.signature));
    let mut pairs = Table::of_pairs();
    pairs.pair("schedule", name.as_str());
    pairs.pair("when", style::plain(&in_words(&order.schedule)));
    pairs.pair("command", command(order));
    pairs.pair("hosts", meant(&order.selector));
    pairs.pair("ordered by", by.shown());
    pairs.pair(
        "valid",
        format!("from {} until {}", moments::exact(order.issued_at_ms), moments::exact(order.valid_until_ms)),
    );
    pairs.pair("may start", format!("within {}", span(order.start_within_ms)));
    pairs.pair("timeout", span(order.timeout_ms));
    let Conduct { overlap, late, jitter_ms, pause_after, retries } = &order.conduct;
    let overlap = match overlap {
        Overlap::Skip => "skipped",
        Overlap::Queue => "waits",
        Overlap::Allow => "runs beside it",
        Overlap::Cancel => "the prior one is cancelled",
    };
    pairs.pair("if the prior run goes on", overlap);
    pairs.pair("runs late", if *late { "yes" } else { "no" });
    if *jitter_ms > 0 {
        pairs.pair("jitter", span(*jitter_ms));
    }
    if *retries > 0 {
        pairs.pair("retries", retries.to_string());
    }
    if *pause_after > 0 {
        pairs.pair("pauses after", format!("{pause_after} failed runs in a row (now {})", scheduled.failures));
    }
    if let Some((at, last)) = &last {
        pairs.pair("last", format!("{}: {}", moments::exact(*at), standing(last)));
    }
    let next = next_times(order, now.max(scheduled.accounted_ms), 10);
    for (number, next) in next.iter().enumerate().filter(|_| scheduled.paused.is_none()) {
        pairs.pair(if number == 0 { "next" } else { "" }, moments::exact(*next));
    }
    printer.table(&pairs.folded())?;
    warn(&scheduled, now, printer);
    if let Some(remark) = by.remark() {
        printer.note(&remark);
    }
    Ok(())
}

async fn run_now(
    name: &ScheduleName,
    detach: bool,
    is_sure: bool,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let standing = fleet.schedule(name).await?.standing;
    let order = standing.order().clone();
    let hosts = fleet.selected_hosts(&order.selector).await?;
    let hosts = fleet.hosts(&hosts).await?;
    let signer = keys::open(settings).await?;

    // The order stands in Redis, where somebody may have put another one.
    let document = (&*standing.signed().bytes, &*standing.signed().signature);
    if !signer.has_signed(sshsig::STANDING, document) {
        let by = Register::read(settings, fleet.now(), printer).judge(&order.operator, sshsig::STANDING, document);
        let names: Vec<_> = hosts.iter().map(|host| &host.name).collect();
        let mut pairs = Table::of_pairs();
        pairs.pair("ordered by", format!("{}, {}", by.shown(), moments::exact(order.issued_at_ms)));
        pairs.pair("action", style::exact(&order.action));
        for (name, words) in proposal::arguments(&order.arguments) {
            pairs.pair(&format!("  {}", style::exact(&name)), words);
        }
        pairs.pair("on", format!("{}: {}", summary::hosts(names.len()), fold::names(&names)));
        doubt::agree([pairs], &[doubt::not_yours(&settings.operator)], is_sure, printer)?;
    }
    let request = Request {
        action: order.action,
        arguments: order.arguments,
        secrets: protocol::action::Arguments::new(),
        targets: Targets::new(hosts.iter().map(|host| host.name.clone())),
        timeout: Duration::from_millis(order.timeout_ms),
        start_by: settings.start_by,
        retention: Duration::from_millis(order.retention_ms).min(limits::RETENTION_MAX),
        keep_output: order.keep_output,
        operator: settings.operator.clone(),
        trace: settings.trace.clone(),
    };
    let job = fleet.dispatch(request, &signer, &mut |event| events::note_dispatch(&event, printer)).await?;
    let sent = Sent { detach, live: Live::Results, wait: false };
    watch::sent(fleet, &job, &hosts, &sent, printer).await
}

async fn remove(name: &ScheduleName, yes: bool, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    // One that is damaged can be removed, too.
    if !fleet.schedule_names().await?.contains(name) {
        fleet.schedule(name).await?;
    }
    if !yes && Printer::confirm(&format!("Remove the schedule {name} and its history?")) == Some(false) {
        bail!(Advice::new("nothing was removed").hint("without this question: --yes"));
    }
    fleet.remove_schedule(name).await?;
    printer.note(&format!("{name}: removed"));
    Ok(())
}

async fn history(name: &ScheduleName, limit: usize, fleet: &mut Fleet, printer: &Printer) -> anyhow::Result<()> {
    fleet.schedule(name).await?;
    let mut history = fleet.schedule_history(name).await?;
    history.truncate(limit);
    let now = fleet.now();
    if printer.format() != Format::Table {
        return printer.objects(&history.iter().map(|(at, instant)| of_instant(*at, instant)).collect::<Vec<_>>());
    }
    if history.is_empty() {
        printer.note(&format!("{name}: nothing was due yet"));
        return Ok(());
    }
    let mut table = Table::new(["AT", "STATE", "JOB", "REASON"]);
    for (at, instant) in &history {
        table.row([
            moments::local(*at, now).as_str().into(),
            Cell::styled(&standing(instant), look(instant)),
            instant.job.map(|job| job.short()).unwrap_or_default().as_str().into(),
            style::plain(instant.reason.as_deref().unwrap_or_default()).as_str().into(),
        ]);
    }
    printer.table(&table.folded())
}
