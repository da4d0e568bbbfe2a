//! `ctl serve`: the services that do what is due while nobody types.

use std::{sync::Arc, time::Duration};

use protocol::{scheduled::End, time::Millis};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::Instant,
};

use crate::{
    cli::{schedules::Serve, settings::Settings},
    client::{Error, Fleet, KnownHosts, Scheduler, Scheduling},
    output::{Advice, Exit, Printer, Table, moments, style},
    serve::{
        DRAIN, Life, Services,
        config::Config,
        counters::Counters,
        exporter::Exporter,
        http::{self, Word},
        remote_write,
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
        if let Some(remote) = &config.remote_write {
            let (to, every) = (remote.receiver(), moments::span(remote.interval));
            pairs.pair(
                "remote write",
                format!("{}, every {every}, version {}", style::plain(&to), remote.protocol.version()),
            );
        }
        for (name, value) in config.http.words() {
            pairs.pair(name, value);
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
    let counters = Arc::new(Counters::default());
    let exporter = Arc::new(Exporter::new(&fleet, &name, services.health().clone(), Arc::clone(&counters)));
    if config.http.listen.is_some() {
        let (http, words, exporter) = (config.http.clone(), words.clone(), Arc::clone(&exporter));
        // Nobody listens any more only where all ends.
        let say = move |word| _ = words.send(Said::Http(word));
        services.start("http", move |life| http::serve(life, http, exporter, say));
    }
    if let Some(remote) = config.remote_write.clone() {
        if let Some(warning) = remote.warning() {
            printer.warn(&warning);
        }
        let (fleet, name, words) = (connect(settings).await?, name.clone(), words.clone());
        let say = move |said| _ = words.send(Said::Remote(said));
        services.start("remote write", move |life| remote_write::run(life, fleet, exporter, remote, name, say));
    }
    services.start("scheduler", move |life| schedule(life, fleet, config, counters, words));
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

/// Sends what standing orders ask for.
async fn schedule(
    life: Life,
    mut fleet: Fleet,
    config: Config,
    counters: Arc<Counters>,
    words: mpsc::UnboundedSender<Said>,
) -> anyhow::Result<()> {
    let mut scheduler = Scheduler::new(config.name.clone());
    let mut is_away = false;
    // Nobody listens any more only where all ends.
    let say = |said: Said| _ = words.send(said);
    while !life.is_stopped() {
        let begun = Instant::now();
        let ticked = scheduler.tick(&mut fleet).await;
        let said = scheduler.take();
        count(&said, &counters, begun, fleet.now());
        for said in said {
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

/// Counts what a look at the schedules has come to, which has begun then.
fn count(said: &[Scheduling], counters: &Counters, begun: Instant, now: Millis) {
    let mut sends = false;
    for said in said {
        match said {
            Scheduling::Sent { job, fate, .. } => {
                sends = true;
                // A run is issued at its instant.
                let lag = now.saturating_sub(job.issued_at_ms());
                counters.count_run(fate.word(), Some(Duration::from_millis(lag)));
            }
            Scheduling::Left { fate, .. } => counters.count_run(fate.word(), None),
            _ => {}
        }
    }
    if sends {
        counters.count_dispatch(begun.elapsed());
    }
}

/// What the services say.
enum Said {
    Http(Word),
    Remote(remote_write::Said),
    Away(Error),
    Back,
    Done(Scheduling),
}

/// A line for what a service says.
fn tell(said: &Said, printer: &Printer) {
    let done = match said {
        Said::Http(Word::Note(text)) => return printer.note(&style::plain(text)),
        Said::Remote(said) if said.is_trouble() => return printer.trouble(&style::plain(&said.to_string())),
        Said::Remote(said) => return printer.note(&style::plain(&said.to_string())),
        Said::Http(Word::Trouble(text)) => return printer.trouble(&style::plain(text)),
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
