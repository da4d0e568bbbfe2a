//! `ctl serve`: the services that do what is due while nobody types.

use std::{sync::Arc, time::Duration};

use protocol::scheduled::End;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    cli::{schedules::Serve, settings::Settings},
    client::{Error, Fleet, KnownHosts, Scheduler, Scheduling},
    output::{Advice, Exit, Printer, Table, moments, style},
    serve::{
        DRAIN, Life, Services,
        alerts::{self, Desk, Receive},
        config::Config,
        dead_man,
    },
};

/// The shortest sleep.
const NAP: Duration = Duration::from_millis(10);

/// Runs the services until they are told to stop.
pub async fn run(options: Serve, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let config = Config::read(options.config.as_deref())?;
    if options.check_config {
        let mut pairs = Table::of_pairs();
        pairs.pair("name", style::plain(&config.name));
        pairs.pair("interval", moments::span(config.interval));
        pairs.pair("alerts", describe(&config.alerts));
        for (name, shown) in config.receivers.shown() {
            pairs.pair(&format!("receiver {name}"), shown);
        }
        if let Some(dead_man) = &config.dead_man {
            let (origin, every) = (dead_man.endpoint.origin(), moments::span(dead_man.every));
            pairs.pair("dead man's switch", format!("{origin} every {every}"));
        }
        printer.table(&pairs)?;
        return Ok(Exit::Success);
    }
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let fleet = connect(settings).await?;
    let mut services = Services::default();
    printer.note(&format!("{}: begins", config.name));
    let name = config.name.clone();
    let (words, mut said) = mpsc::unbounded_channel();
    let (alert_words, mut alerts_said) = mpsc::unbounded_channel();
    if config.alerts.enabled {
        start_alerts(&mut services, &config, settings, alert_words).await?;
    }
    if let Some(dead_man) = config.dead_man.clone() {
        let words = words.clone();
        services.start(dead_man::NAME, move |life| {
            dead_man::run(life, dead_man, move |said| _ = words.send(Said::DeadMan(said)))
        });
    }
    services.start("scheduler", move |life| schedule(life, fleet, config, words));
    let told = async {
        loop {
            tokio::select! {
                _ = term.recv() => return,
                _ = interrupt.recv() => return,
                Some(said) = said.recv() => tell(&said, printer),
                Some(said) = alerts_said.recv() => tell_of_alerts(&said, printer),
            }
        }
    };
    let ended = services.run(told, || printer.note(&format!("{name}: ready")), DRAIN).await;
    while let Ok(said) = said.try_recv() {
        tell(&said, printer);
    }
    while let Ok(said) = alerts_said.try_recv() {
        tell_of_alerts(&said, printer);
    }
    let mut exit = if ended.is_empty() { Exit::NotSent } else { Exit::Success };
    for (service, error) in ended.iter().filter_map(|ended| Some((ended.name, ended.error.as_ref()?))) {
        printer.error(&Advice::new(format!("{service}: {error:#}")));
        exit = Exit::NotSent;
    }
    printer.note(&format!("{name}: ended"));
    Ok(exit)
}

/// Starts the services of alerts.
async fn start_alerts(
    services: &mut Services,
    config: &Config,
    settings: &Settings,
    words: mpsc::UnboundedSender<alerts::Said>,
) -> anyhow::Result<()> {
    let receivers = Arc::new(config.receivers.clone());
    let told = config.alerts.receivers.clone().unwrap_or_else(|| Receive::names(&*receivers));
    let desk = Desk { name: config.name.clone(), wake: Arc::default(), words };
    let (evaluating, delivering) = (connect(settings).await?, connect(settings).await?);
    let (alerts, own) = (config.alerts.clone(), desk.clone());
    services.start("alerts", move |life| alerts::evaluate(life, evaluating, alerts, told, own));
    services.start("deliveries", move |life| alerts::deliver(life, delivering, receivers, desk));
    Ok(())
}

fn describe(settings: &alerts::Settings) -> String {
    if !settings.enabled {
        return "off".into();
    }
    format!("{} rules, each {}", settings.rules.len(), moments::span(settings.interval))
}

fn tell_of_alerts(said: &alerts::Said, printer: &Printer) {
    match said {
        alerts::Said::Note(text) => printer.note(text),
        alerts::Said::Trouble(text) => printer.trouble(text),
    }
}

async fn connect(settings: &Settings) -> anyhow::Result<Fleet> {
    let known_hosts = KnownHosts::open(&settings.known_hosts()?)?;
    Ok(Fleet::connect(&settings.redis()?, settings.namespace.as_ref()).await?.knowing(known_hosts))
}

/// Sends what standing orders ask for.
async fn schedule(
    life: Life,
    mut fleet: Fleet,
    config: Config,
    words: mpsc::UnboundedSender<Said>,
) -> anyhow::Result<()> {
    let mut scheduler = Scheduler::new(config.name.clone());
    let mut is_away = false;
    // Nobody listens any more only where all ends.
    let say = |said: Said| _ = words.send(said);
    while !life.is_stopped() {
        let ticked = scheduler.tick(&mut fleet).await;
        for said in scheduler.take() {
            say(Said::Done(said));
        }
        let wait = match ticked {
            Ok(next) => {
                if std::mem::take(&mut is_away) {
                    say(Said::Back);
                }
                life.worked();
                let until = next.map(|next| Duration::from_millis(next.saturating_sub(fleet.now())));
                until.unwrap_or(config.interval).clamp(NAP, config.interval)
            }
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    say(Said::Away(error));
                }
                // Where there is no connection, the next attempt fails with the dead one.
                let _ = fleet.reconnect().await;
                config.interval
            }
        };
        tokio::select! {
            () = life.stopped() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    Ok(())
}

/// What a scheduler says.
enum Said {
    Away(Error),
    Back,
    Done(Scheduling),
    DeadMan(dead_man::Said),
}

/// A line for what a scheduler says.
fn tell(said: &Said, printer: &Printer) {
    let done = match said {
        Said::Away(error) => {
            return printer.trouble(&format!("it is tried again: {}", style::plain(&error.to_string())));
        }
        Said::Back => return printer.note("Redis can be reached again"),
        Said::DeadMan(said) => return tell_pings(said, printer),
        Said::Done(done) => done,
    };
    match done {
        Scheduling::Sent { name, job, hosts, fate } => {
            let (job, hosts) = (job.short(), crate::output::summary::hosts(*hosts));
            printer.note(&format!("{name}: {}: job {job}, {hosts}", fate.word()));
        }
        Scheduling::Left { name, instant_ms, fate, reason } => {
            let reason = reason.as_deref().map(|reason| format!(": {}", style::plain(reason))).unwrap_or_default();
            printer.note(&format!("{name}: {}: {}{reason}", moments::exact(*instant_ms), fate.word()));
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
