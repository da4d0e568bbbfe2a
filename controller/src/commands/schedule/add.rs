//! `ctl schedule add`: makes a standing order of what was typed.

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use jiff::{Timestamp, civil::DateTime};
use protocol::{
    action::Repeat,
    clock::millis,
    name::{JobId, ScheduleName},
    scheduled::Scheduled,
    standing::{Conduct, Overlap, StandingOrder, schedule::Schedule, selector::Selector},
    time::Millis,
};

use super::{command, meant, next_of, object, span};
use crate::{
    cli::{
        keys,
        schedules::AddSchedule,
        settings::Settings,
        targeting::joined,
        zones::{self, Zone},
    },
    client::{Fleet, Host, in_words, next_times, understand},
    output::{Advice, Format, Printer, fold, moments, summary},
};

/// Where nothing else is said, a run may start so long after its time at most.
const GRACE: Duration = Duration::from_secs(600);

/// How many of the next times are looked at to find how near they can be.
const LOOKED_AHEAD: usize = 50;

/// Signs a standing order, and adds it as a schedule.
pub(super) async fn add(
    options: AddSchedule,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<()> {
    let texts =
        |words: &[crate::cli::targeting::Words]| joined(words).iter().map(|word| word.text().to_owned()).collect();
    let selector = Selector {
        hosts: texts(&options.hosts),
        except: texts(&options.exclude),
        labels: options.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let hosts = fleet.selected_hosts(&selector).await?;
    if hosts.is_empty() {
        bail!(Advice::new("no host is meant now, so nobody knows whether the action is right").hint("ctl host list"));
    }
    let hosts = fleet.hosts(&hosts).await?;
    let understood = understand(&hosts, &options.action, &options.arguments, &options.words)?;
    if let Some(secret) = understood.secrets.keys().next() {
        let no_secrets =
            Advice::new(format!("'{secret}' is a secret, and a standing order can have none: a scheduler has no key"));
        bail!(no_secrets.hint("keep the secret in a file on the hosts, and have the action read it"));
    }
    if understood.approvals > 1 {
        let approvals = Advice::new(format!(
            "{} needs the approvals of others on these hosts, and nobody is awake to give them",
            options.action
        ));
        bail!(approvals.hint("a rule of its own can let you run it alone (worker.toml, [[policy]])"));
    }

    let now = fleet.order_moment().await?;
    let schedule = when(&options, now)?;
    let order = StandingOrder {
        name: options.name.clone(),
        operator: settings.operator.clone(),
        salt: JobId::salt(),
        issued_at_ms: now,
        valid_until_ms: now.saturating_add(millis(options.valid_for)),
        start_within_ms: 0,
        timeout_ms: millis(options.timeout.or(settings.timeout).unwrap_or(understood.timeout)),
        retention_ms: millis(options.retention.unwrap_or(settings.retention)),
        keep_output: options.keep_output,
        namespace: fleet.namespace().cloned(),
        selector,
        schedule,
        conduct: Conduct {
            overlap: options.overlap.into(),
            late: options.late || waits(&options) || !may_change(&hosts, &options.action),
            jitter_ms: options.jitter.map_or(0, millis),
            pause_after: options.pause_after.unwrap_or(0),
            retries: options.retries,
        },
        action: options.action,
        arguments: understood.arguments,
    };
    order.schedule.times()?;
    let start_within_ms = options.grace.map_or_else(|| grace(&order), millis);
    let order = StandingOrder { start_within_ms, ..order };
    fits(&order, now)?;
    if !options.replace && fleet.schedule_names().await?.contains(&order.name) {
        bail!(exists(&order.name));
    }
    let signer = keys::open(settings).await?;
    let scheduled = Scheduled::new(fleet.sign_order(&order, &signer).await?);
    if !fleet.put_schedule(&scheduled, options.replace).await? {
        bail!(exists(&order.name));
    }
    let names: Vec<_> = hosts.iter().map(|host| &host.name).collect();
    if printer.format() != Format::Table {
        printer.object(&object(&scheduled, None, fleet.now()))?;
    }
    printer.note(&format!(
        "{}: {} on {} ({} now: {}); next: {}",
        order.name,
        command(&order),
        meant(&order.selector),
        summary::hosts(names.len()),
        fold::names(&names),
        next_of(&scheduled, fleet.now()),
    ));
    printer.note(&format!(
        "the order is valid until {}; a `ctl serve` must run somewhere",
        moments::exact(order.valid_until_ms)
    ));
    Ok(())
}

/// Whether an order can run in time.
fn fits(order: &StandingOrder, now: Millis) -> anyhow::Result<()> {
    let next = next_times(order, now, 1);
    if next.is_empty() {
        let never = Advice::new(format!(
            "it would never run: {} has no time before {}",
            in_words(&order.schedule),
            moments::exact(order.valid_until_ms)
        ));
        bail!(never.hint("a longer order: --valid-for 366d"));
    }
    if order.conduct.jitter_ms >= order.start_within_ms {
        let (jitter, grace) = (span(order.conduct.jitter_ms), span(order.start_within_ms));
        bail!(
            Advice::new(format!(
                "with --jitter {jitter} a run could come too late to start, which it must within {grace}"
            ))
            .hint("a longer time: --grace")
        );
    }
    if let Some(period) = nearest(order).filter(|period| order.conduct.jitter_ms >= *period) {
        let (jitter, period) = (span(order.conduct.jitter_ms), span(period));
        let behind =
            format!("with --jitter {jitter} a run could come behind the next one, which follows {period} later");
        bail!(Advice::new(behind).hint("a shorter time: --jitter"));
    }
    Ok(())
}

fn exists(name: &ScheduleName) -> Advice {
    Advice::new(format!("there is a schedule '{name}' already"))
        .hint(format!("see it: ctl schedule show {name}"))
        .hint("put this one in its place: --replace")
}

/// What waits for the prior run may be sent late.
fn waits(options: &AddSchedule) -> bool {
    Overlap::from(options.overlap) == Overlap::Queue
}

/// Whether the action may change any of these hosts.
fn may_change(hosts: &[Host], action: &str) -> bool {
    hosts.iter().filter_map(|host| host.action(action)).any(|action| action.repeat == Repeat::Once)
}

/// When it runs, as the flags say.
fn when(options: &AddSchedule, now: Millis) -> anyhow::Result<Schedule> {
    if let Some(every) = options.every {
        return Ok(Schedule::Every { period_ms: millis(every), anchor_ms: now });
    }
    let zone = zones::find(options.tz.as_deref())?;
    if let Some(expression) = &options.cron {
        let Zone { name, tzif, .. } = zone;
        return Ok(Schedule::Cron { expression: expression.clone(), zone: name, tzif });
    }
    let text = options.at.as_deref().unwrap_or_default().trim();
    let moment =
        text.parse::<Timestamp>().or_else(|_| Ok(zone.clocks.to_zoned(text.parse::<DateTime>()?)?.timestamp()));
    let moment: Result<Timestamp, jiff::Error> = moment;
    let moment = moment.ok().and_then(|moment| Millis::try_from(moment.as_millisecond()).ok());
    match moment {
        Some(instant_ms) if instant_ms > now => Ok(Schedule::At { instant_ms }),
        Some(instant_ms) => {
            bail!(Advice::new(format!("{} is over", moments::exact(instant_ms))).hint("now: ctl run …"))
        }
        None => bail!(
            Advice::new(format!("'{text}' is no time")).hint("such as 2026-12-01T14:00, or 2026-12-01T14:00:00+01:00")
        ),
    }
}

/// How long after its time a run may start: until the next one, at most ten minutes.
fn grace(order: &StandingOrder) -> Millis {
    nearest(order).unwrap_or(Millis::MAX).min(millis(GRACE))
}

/// The shortest time from one of its times to the next, as far as is looked.
fn nearest(order: &StandingOrder) -> Option<Millis> {
    let next = next_times(order, order.issued_at_ms, LOOKED_AHEAD);
    next.windows(2).map(|pair| pair[1] - pair[0]).min()
}
