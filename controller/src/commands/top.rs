//! `ctl top`: the fleet on a live screen.

use std::{
    io::{self, IsTerminal},
    thread,
    time::{Duration, Instant},
};

use anstream::{AutoStream, ColorChoice};
use anyhow::Context;
use protocol::{
    clock::millis,
    time::{Millis, show_moment},
};
use ratatui::{
    DefaultTerminal,
    crossterm::{
        event::{self, Event as Input},
        style::force_color_output,
    },
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{job, selected::name_unknown};
use crate::{
    cli::{settings::Settings, top::Top},
    client::{Error, Event, Filter, Fleet, Overview, Running, Selection, Vitals},
    output::{
        Advice, Exit, Format, Printer,
        explain::how_to_mend,
        summary,
        top::{self, Reaction, Screen, Trouble, View},
    },
};

/// How long after its time a look at the fleet may come until the last one counts as old.
const LATE: Duration = Duration::from_secs(3);

/// Shows the screen until it is ended, or prints it once.
pub async fn run(options: Top, mut fleet: Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let Top { targeting, every, once } = options;
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !once && (!is_terminal || printer.format() != Format::Table) {
        let message = if is_terminal { "a live screen is for people alone" } else { "a live screen needs a terminal" };
        return Err(Advice::new(message).hint("the same figures, printed once: ctl top --once").into());
    }
    let (selection, mut running) = (targeting.selection(), Running::default());
    let mut overview = fleet.overview(&selection, &mut running).await?;
    if once {
        while running.unread() > 0 {
            overview.jobs = fleet.running_jobs(&mut running).await?;
        }
        return print(&overview, printer);
    }
    let watched = Watched { fleet, running, selection, every };
    Box::pin(show(watched, overview, settings.colour)).await
}

/// Prints everything once.
fn print(overview: &Overview, printer: &Printer) -> anyhow::Result<Exit> {
    let Overview { now, hosts, unknown, doubts, jobs, .. } = overview;
    for doubt in doubts {
        printer.warn(doubt);
    }
    name_unknown(unknown, printer);
    let host = |vitals: &Vitals| host(vitals, *now);
    match printer.format() {
        Format::Table => {}
        Format::Json => {
            let left_out = |unknown: &crate::client::Unknown| json!({ "host": unknown.host, "reason": unknown.reason });
            printer.object(&json!({
                "at": show_moment(*now),
                "hosts": hosts.iter().map(host).collect::<Vec<_>>(),
                "jobs": jobs.iter().map(job::object).collect::<Vec<_>>(),
                "left_out": unknown.iter().map(left_out).collect::<Vec<_>>(),
            }))?;
            return Ok(Exit::Success);
        }
        Format::Jsonl => {
            printer.objects(&hosts.iter().map(host).chain(jobs.iter().map(job::object)).collect::<Vec<_>>())?;
            return Ok(Exit::Success);
        }
    }
    if hosts.is_empty() {
        printer.note("no such host: no worker has reported, or none is meant");
    } else {
        printer.table(&top::hosts(overview))?;
    }
    hosts
        .iter()
        .filter_map(|vitals| vitals.host.damage.as_ref())
        .for_each(|damage| printer.trouble(&how_to_mend(damage)));
    if !jobs.is_empty() {
        printer.line("")?;
        printer.table(&top::jobs(overview))?;
    }
    let online = hosts.iter().filter(|vitals| vitals.host.is_online(*now)).count();
    printer.note(&format!("{}: {online} online; jobs that run: {}", summary::hosts(hosts.len()), jobs.len()));
    Ok(Exit::Success)
}

/// A host as JSON: what is not known now is `null`.
fn host(vitals: &Vitals, now: Millis) -> Value {
    let Vitals { host, figures } = vitals;
    let running = vitals.running(now);
    json!({
        "host": host.name,
        "state": host.state(now),
        "last_seen": host.last_seen_ms().map(show_moment),
        "cpu_usage": figures.cpu.known(),
        "memory_usage": figures.memory.known(),
        "disk_usage": figures.disk.known(),
        "load1": figures.load[0].known(),
        "load5": figures.load[1].known(),
        "load15": figures.load[2].known(),
        "uptime_seconds": figures.uptime.known(),
        "running": running.map(|(running, _)| running),
        "slots": running.map(|(_, slots)| slots),
        "version": host.status.as_ref().map(|status| &status.version),
    })
}

/// What is looked at, and how often.
struct Watched {
    fleet: Fleet,
    running: Running,
    selection: Selection,
    every: Duration,
}

/// The terminal as a screen. However this process ends, it is given back as it was; a panic does it by itself.
struct Tty(DefaultTerminal);

impl Tty {
    fn open() -> anyhow::Result<Self> {
        Ok(Self(ratatui::try_init().context("cannot use the terminal as a screen")?))
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the screen until a key or a signal ends it.
async fn show(watched: Watched, mut overview: Overview, colour: ColorChoice) -> anyhow::Result<Exit> {
    let (base, every, address) = (watched.selection.clone(), watched.every, watched.fleet.address().to_string());
    // The login, which is hidden, says nothing.
    let address = address.split('?').next().unwrap_or_default().to_owned();
    let choice = if colour == ColorChoice::Auto { AutoStream::choice(&io::stdout()) } else { colour };
    let colours = choice != ColorChoice::Never;
    let [mut terminate, mut interrupt, mut hang_up] =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let (terminate, interrupt, hang_up) = (terminate.as_mut(), interrupt.as_mut(), hang_up.as_mut());
    let (Ok(terminate), Ok(interrupt), Ok(hang_up)) = (terminate, interrupt, hang_up) else {
        anyhow::bail!("cannot listen to signals");
    };
    let (ask, asked) = watch::channel(base.clone());
    let (tell, mut looks) = mpsc::channel(1);
    let mut filter = describe(&base);

    let mut tty = Tty::open()?;
    force_color_output(colours);
    let mut inputs = inputs();
    let mut looking = tokio::spawn(look(watched, asked, tell));
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut screen, mut looked_at, mut trouble) = (Screen::default(), Instant::now(), None);
    loop {
        let since = looked_at.elapsed();
        let late = (since > every + LATE).then(|| Trouble { is_away: true, error: "no reply yet".into() });
        let view = View {
            overview: &overview,
            address: &address,
            filter: &filter,
            now: overview.now.saturating_add(millis(since)),
            trouble: trouble.as_ref().or(late.as_ref()),
            colours,
        };
        tty.0.draw(|frame| top::draw(frame, &mut screen, &view)).context("cannot draw on the terminal")?;
        tokio::select! {
            input = inputs.recv() => match input {
                Some(Input::Key(key)) => match screen.press(key) {
                    Reaction::Draw => {}
                    Reaction::Quit => break,
                    Reaction::Filter(typed) => {
                        let selection = narrowed(&base, typed);
                        filter = describe(&selection);
                        ask.send_replace(selection);
                    }
                },
                // Another size.
                Some(_) => {}
                // The terminal is gone.
                None => break,
            },
            look = looks.recv() => match look {
                Some(Ok(look)) => (overview, looked_at, trouble) = (look, Instant::now(), None),
                Some(Err(error)) => {
                    trouble = Some(Trouble { is_away: matches!(error, Error::Redis { .. }), error: error.to_string() });
                }
                None => {
                    (&mut looking).await.context("nobody looks at the fleet any more")?;
                    break;
                }
            },
            _ = tick.tick() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => break,
        }
    }
    looking.abort();
    Ok(Exit::Success)
}

/// What is typed at the terminal. A thread waits for it, which ends with the process.
fn inputs() -> mpsc::Receiver<Input> {
    let (tell, inputs) = mpsc::channel(16);
    thread::spawn(move || {
        while let Ok(input) = event::read() {
            if tell.blocking_send(input).is_err() {
                return;
            }
        }
    });
    inputs
}

/// Looks at the fleet again and again, and at once when something else is asked for. Redis may be away meanwhile.
async fn look(watched: Watched, mut asked: watch::Receiver<Selection>, tell: mpsc::Sender<Result<Overview, Error>>) {
    let Watched { mut fleet, mut running, every, .. } = watched;
    let mut alarms = Vec::new();
    loop {
        tokio::select! {
            () = sleep(every) => {}
            changed = asked.changed() => if changed.is_err() { return },
        }
        let selection = asked.borrow_and_update().clone();
        let mut look = fleet.overview(&selection, &mut running).await;
        if matches!(look, Err(Error::Redis { .. })) && fleet.reconnect().await.is_ok() {
            look = fleet.overview(&selection, &mut running).await;
        }
        for notice in fleet.take_notices() {
            if let Event::HostKeyChanged(key) = notice {
                alarms.push(format!("{}: a result does not count: {key}", key.host));
            }
        }
        let look = look.map(|mut overview| {
            overview.doubts.extend(alarms.iter().cloned());
            overview
        });
        if tell.send(look).await.is_err() {
            return;
        }
    }
}

/// Of what was selected, that for which this holds, too.
fn narrowed(base: &Selection, typed: Option<Filter>) -> Selection {
    let filters = base.filter.iter().cloned().chain(typed);
    Selection { filter: filters.reduce(Filter::and), ..base.clone() }
}

/// What selects the hosts, in a line; empty where all are meant.
fn describe(selection: &Selection) -> String {
    let words =
        |words: &[crate::client::Word]| words.iter().map(|word| word.text().to_owned()).collect::<Vec<_>>().join(", ");
    let Selection { words: meant, except, filter, limit } = selection;
    let meant = (!meant.is_empty()).then(|| words(meant));
    let except = (!except.is_empty()).then(|| format!("not {}", words(except)));
    let filter = filter.as_ref().map(|filter| filter.text().to_owned());
    let limit = limit.map(|limit| format!("at most {limit}"));
    [meant, except, filter, limit].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_narrows_what_was_selected() {
        let base = Selection { filter: Some("os = x".parse().unwrap()), ..Selection::of(["web*", "db1"]).unwrap() };
        assert_eq!(describe(&Selection::all()), "");
        assert_eq!(describe(&base), "web*, db1; os = x");
        let typed = narrowed(&base, Some("cpu.usage > 8".parse().unwrap()));
        assert_eq!(describe(&typed), "web*, db1; (os = x) and (cpu.usage > 8)");
        assert_eq!(describe(&narrowed(&base, None)), describe(&base));
        let limited = Selection { limit: Some("10%".parse().unwrap()), ..Selection::all() };
        assert_eq!(describe(&limited), "at most 10%");
    }
}
