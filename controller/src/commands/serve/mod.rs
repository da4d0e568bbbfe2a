//! `ctl serve`: the services that do what is due while nobody types.

mod said;

use std::sync::Arc;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use self::said::{Said, tell};
use crate::{
    cli::{schedules::Serve, settings::Settings},
    client::{Fleet, KnownHosts},
    output::{Advice, Exit, Printer, Table, moments, style},
    serve::{
        DRAIN, Services,
        alerts::{self, Desk, Receive},
        config::Config,
        counters::Counters,
        dead_man,
        exporter::Exporter,
        http, notify, presence, redis_status, remote_write, scheduler,
    },
};

/// Runs the services until they are told to stop.
pub async fn run(options: Serve, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let config = Config::read(options.file.as_deref())?;
    if options.check_config {
        printer.table(&shown(&config))?;
        return Ok(Exit::Success);
    }
    let mut signals = signals()?;
    let name = config.name.clone();
    printer.note(&format!("{name}: begins"));
    let (words, mut said) = mpsc::unbounded_channel();
    let services = start(config, settings, printer, &words).await?;
    let health = services.health().clone();
    let mut again = signals.clone();
    let told = async {
        loop {
            tokio::select! {
                _ = signals.wait_for(|count| *count > 0) => break,
                Some(said) = said.recv() => tell(&said, printer),
            }
        }
        notify::stopping();
        printer.note(&format!("{name}: finishes what it has begun; the next signal ends it at once"));
    };
    let on_ready = || {
        notify::ready(&name);
        printer.note(&format!("{name}: ready"));
    };
    let ended = tokio::select! {
        ended = services.run(told, on_ready, DRAIN) => ended,
        _ = again.wait_for(|count| *count > 1) => {
            // What was begun, another instance goes on with.
            printer.trouble(&format!("{name}: ended at once"));
            return Ok(Exit::NotSent);
        }
        () = notify::guard(health) => Vec::new(),
    };
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

/// The settings in force, as `--check-config` shows them.
fn shown(config: &Config) -> Table {
    let mut pairs = Table::of_pairs();
    pairs.pair("name", style::plain(&config.name));
    pairs.pair("interval", moments::span(config.interval));
    for (name, value) in config.http.words() {
        pairs.pair(name, value);
    }
    pairs.pair("alerts", alerts(&config.alerts));
    pairs.pair("redis_status.every", moments::span(config.redis_status_every));
    if let Some(remote) = &config.remote_write {
        let (to, every) = (remote.receiver(), moments::span(remote.interval));
        let version = remote.protocol.version();
        pairs.pair("remote write", format!("{}, every {every}, version {version}", style::plain(&to)));
    }
    for (name, shown) in config.receivers.shown() {
        pairs.pair(&format!("receiver {name}"), shown);
    }
    if let Some(dead_man) = &config.dead_man {
        let (origin, every) = (dead_man.endpoint.origin(), moments::span(dead_man.every));
        pairs.pair("dead man's switch", format!("{origin} every {every}"));
    }
    pairs
}

/// Starts all services that the settings ask for. Each has a connection of its own.
async fn start(
    config: Config,
    settings: &Settings,
    printer: &Printer,
    words: &mpsc::UnboundedSender<Said>,
) -> anyhow::Result<Services> {
    let mut services = Services::default();
    let Config { name, instance, interval, redis_status_every, alerts, receivers, dead_man, remote_write, http } =
        config;
    let fleet = connect(settings).await?;
    let counters = Arc::new(Counters::default());
    let exporter = Arc::new(Exporter::new(&fleet, &name, &instance, services.health().clone(), Arc::clone(&counters)));

    let (scheduling, counted, say) = (name.clone(), Arc::clone(&counters), sayer(words, Said::Scheduler));
    services.start("scheduler", move |life| scheduler::run(life, fleet, scheduling, interval, counted, say));
    let (fleet, say) = (connect(settings).await?, sayer(words, Said::RedisStatus));
    services.start("redis status", move |life| redis_status::keep(life, fleet, redis_status_every, say));
    let (fleet, own) = (connect(settings).await?, name.clone());
    services.start("presence", move |life| presence::announce(life, fleet, own));
    if alerts.enabled {
        let receivers = Arc::new(receivers.acting_in(&settings.redis()?, settings.namespace.as_ref()));
        let told = alerts.receivers.clone().unwrap_or_else(|| Receive::names(&*receivers));
        let desk = Desk {
            name: name.clone(),
            wake: Arc::default(),
            counters: Arc::clone(&counters),
            say: Arc::new(sayer(words, Said::Alerts)),
        };
        let known = Receive::names(&*receivers);
        let (evaluating, delivering) = (connect(settings).await?, connect(settings).await?);
        let own = desk.clone();
        services.start("alerts", move |life| alerts::evaluate(life, evaluating, alerts, told, known, own));
        services.start("deliveries", move |life| alerts::deliver(life, delivering, receivers, desk));
    }
    if http.listen.is_some() {
        let (exporter, say) = (Arc::clone(&exporter), sayer(words, Said::Http));
        services.start("http", move |life| http::serve(life, http, exporter, say));
    }
    if let Some(remote) = remote_write {
        if let Some(warning) = remote.warning() {
            printer.warn(&warning);
        }
        let (fleet, say) = (connect(settings).await?, sayer(words, Said::Remote));
        services.start("remote write", move |life| remote_write::run(life, fleet, exporter, remote, name, say));
    }
    if let Some(dead_man) = dead_man {
        let say = sayer(words, Said::DeadMan);
        services.start(dead_man::NAME, move |life| dead_man::run(life, dead_man, say));
    }
    Ok(services)
}

fn alerts(settings: &alerts::Settings) -> String {
    if !settings.enabled {
        return "off".into();
    }
    format!("{} rules, each {}", settings.rules.len(), moments::span(settings.interval))
}

/// What a service calls to say something. Nobody listens any more only where all ends.
fn sayer<T: Send + 'static>(
    words: &mpsc::UnboundedSender<Said>,
    said: impl Fn(T) -> Said + Clone + Send + Sync + 'static,
) -> impl Fn(T) + Clone + Send + Sync + 'static {
    let words = words.clone();
    move |what| _ = words.send(said(what))
}

/// How many signals to end have come.
fn signals() -> anyhow::Result<watch::Receiver<u32>> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        while !count.is_closed() {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(counted)
}

async fn connect(settings: &Settings) -> anyhow::Result<Fleet> {
    let known_hosts = KnownHosts::open(&settings.known_hosts()?)?;
    Ok(Fleet::connect(&settings.redis()?, settings.namespace.as_ref()).await?.knowing(known_hosts))
}
