//! `ctl serve`: the services that do what is due while nobody types.

use std::{fs, path::Path, process, time::Duration};

use anyhow::Context;
use protocol::{scheduled::End, time::read_duration};
use serde::Deserialize;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    cli::{schedules::Serve, settings::Settings},
    client::{Error, Fleet, KnownHosts, Scheduler, Scheduling},
    output::{Advice, Exit, Printer, Table, moments, style},
    serve::{DRAIN, Life, Services},
};

/// The settings of `ctl serve`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    /// What other instances know this one by.
    name: Option<String>,
    /// The longest time between two looks at the schedules.
    interval: Option<String>,
}

/// The settings in force.
#[derive(Clone, Debug)]
struct Config {
    name: String,
    interval: Duration,
}

/// Between two looks where nothing else is set. A run that is due is not looked for later than that.
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// The shortest sleep.
const NAP: Duration = Duration::from_millis(10);

/// Runs the services until they are told to stop.
pub async fn run(options: Serve, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let config = read(options.config.as_deref())?;
    if options.check_config {
        let mut pairs = Table::of_pairs();
        pairs.pair("name", style::plain(&config.name));
        pairs.pair("interval", moments::span(config.interval));
        printer.table(&pairs)?;
        return Ok(Exit::Success);
    }
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let fleet = connect(settings).await?;
    let mut services = Services::default();
    printer.note(&format!("{}: begins", config.name));
    let name = config.name.clone();
    let (words, mut said) = mpsc::unbounded_channel();
    services.start("scheduler", move |life| schedule(life, fleet, config, words));
    let told = async {
        loop {
            tokio::select! {
                _ = term.recv() => return,
                _ = interrupt.recv() => return,
                Some(said) = said.recv() => tell(&said, printer),
            }
        }
    };
    let ended = services.run(told, || printer.note(&format!("{name}: ready")), DRAIN).await;
    while let Ok(said) = said.try_recv() {
        tell(&said, printer);
    }
    let mut exit = if ended.is_empty() { Exit::NotSent } else { Exit::Success };
    for (service, error) in ended.iter().filter_map(|ended| Some((ended.name, ended.error.as_ref()?))) {
        printer.error(&Advice::new(format!("{service}: {error:#}")));
        exit = Exit::NotSent;
    }
    printer.note(&format!("{name}: ended"));
    Ok(exit)
}

async fn connect(settings: &Settings) -> anyhow::Result<Fleet> {
    let known_hosts = KnownHosts::open(&settings.known_hosts()?)?;
    Ok(Fleet::connect(&settings.redis()?, settings.namespace.as_ref()).await?.knowing(known_hosts))
}

fn read(path: Option<&Path>) -> anyhow::Result<Config> {
    let file = match path {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            toml::from_str(&text).with_context(|| path.display().to_string())?
        }
        None => File::default(),
    };
    let interval = match &file.interval {
        None => INTERVAL,
        Some(text) => read_duration(text)
            .ok()
            .filter(|interval| (Duration::from_millis(100)..=INTERVAL_MAX).contains(interval))
            .ok_or_else(|| Advice::new(format!("interval = '{text}': write a time from 100ms to 1m")))?,
    };
    let own = || {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        format!("{}/{}", host.unwrap_or_else(|| "serve".to_owned()), process::id())
    };
    Ok(Config { name: file.name.filter(|name| !name.is_empty()).unwrap_or_else(own), interval })
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
                life.ready();
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
}

/// A line for what a scheduler says.
fn tell(said: &Said, printer: &Printer) {
    let done = match said {
        Said::Away(error) => {
            return printer.trouble(&format!("it is tried again: {}", style::plain(&error.to_string())));
        }
        Said::Back => return printer.note("Redis can be reached again"),
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
