//! `ctl job resume` and `rerun`: what was asked for before, on the hosts on which it has not succeeded, or on all.

use std::slice;

use super::{
    doubt, last, proposal,
    register::Register,
    rolling::{Rolling, foretell, roll},
    secrets,
    selected::{confirm, may_change, name_unknown},
    watch::Live,
};
use crate::{
    cli::{
        jobs::{Again, Resume, Standing as Wanted},
        keys,
        settings::Settings,
    },
    client::{Fleet, Host, Job, Origin, Outlook, Request, Run, Selection, Signer, Standing, Standings, secrets_of},
    output::{Advice, Exit, Printer, Table, events, fold, moments, style, summary},
};
use protocol::{
    action::{Arguments, shown},
    name::HostName,
    rollout::Waves,
    time::Millis,
    trust::sshsig,
};

/// Secret arguments that are the keys of content.
const CONTENT_KEYS: [&str; 3] = ["content_key", "stdin_key", "script_key"];

/// A run that was seen so recently is driven by a living `ctl`: it says so every few seconds.
const ALIVE: Millis = 10_000;

/// Goes on with the hosts on which a run has not succeeded.
pub async fn resume(
    options: Resume,
    fleet: &mut Fleet,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let Resume { only, again } = options;
    let run = find(&again.id.id, fleet, settings).await?;
    if let Run::Job(job) = &run {
        proposal::refuse_waiting(job, fleet.now())?;
    }
    let mut chain = fleet.chain(run).await?;
    let signer = keys::open(settings).await?;
    let run = chain.newest().clone();
    // All that can be refused is refused before its driver is stopped.
    let secrets = secrets_again(&run, &again.secrets, fleet).await?;
    agree(chain.runs(), &signer, again.yes, Some(fleet.now()), settings, printer)?;

    if let Run::Rollout(rollout) = &run {
        let closed = fleet.close_rollout(rollout, &settings.operator).await?;
        chain.renew(closed);
    }
    let report = |job: &Job, event, fleet: &Fleet| events::note(&event, job, fleet.now(), printer);
    let standings = fleet.standings(&chain, report).await?;
    let (remaining, open) = (remaining(&standings, &only), standings.open());
    name_unknown(&open, printer);
    let succeeded = standings.at(Standing::Succeeded).count();
    let exit = if remaining.is_empty() {
        printer.note(&format!("nothing to go on with: succeeded on {}", summary::hosts(succeeded)));
        Exit::Success
    } else {
        let once_more = OnceMore { origin: Origin::Resumes(run.id()), run, secrets, options: again, signer: &signer };
        once_more.run(&remaining, fleet, settings, printer).await?
    };
    // What was not to be gone on with now is left for another time.
    Ok(exit.with_left_out(!open.is_empty() || succeeded + remaining.len() < standings.hosts.len()))
}

/// Runs everything once more, on all hosts.
pub async fn rerun(options: Again, fleet: &mut Fleet, settings: &Settings, printer: &Printer) -> anyhow::Result<Exit> {
    let run = find(&options.id.id, fleet, settings).await?;
    let chain = fleet.chain(run).await?;
    let run = chain.first().clone();
    let signer = keys::open(settings).await?;
    let secrets = secrets_again(&run, &options.secrets, fleet).await?;
    // Nothing of the others is run.
    agree(slice::from_ref(chain.first()), &signer, options.yes, None, settings, printer)?;
    let hosts = run.hosts();
    OnceMore { origin: Origin::New, run, secrets, options, signer: &signer }.run(&hosts, fleet, settings, printer).await
}

/// What the word that was typed means.
async fn find(typed: &str, fleet: &mut Fleet, settings: &Settings) -> anyhow::Result<Run> {
    if typed == last::LAST {
        last::refuse_unsent(fleet, settings).await?;
        return Ok(fleet.last_run(&settings.operator).await?);
    }
    Ok(fleet.find_run(typed).await?)
}

/// Asks before something runs that another key has signed: what stands in Redis may be anybody's. Asks also before a run is
/// taken from a living driver. `now`: where it is to be taken from one.
fn agree(
    runs: &[Run],
    signer: &Signer,
    is_sure: bool,
    now: Option<Millis>,
    settings: &Settings,
    printer: &Printer,
) -> anyhow::Result<()> {
    let mut doubts = Vec::new();
    if now.zip(runs.last()).is_some_and(|(now, newest)| is_driven(newest, now)) {
        doubts.push("a ctl has driven it within the last seconds; if it lives, it begins no further wave".to_owned());
    }
    let strange: Vec<_> = runs.iter().filter(|run| !run.is_signed_by(signer)).collect();
    if !strange.is_empty() {
        doubts.push(doubt::not_yours(&settings.operator));
    }
    doubt::agree(strange.iter().map(|run| described(run, settings, printer)), &doubts, is_sure, printer)
}

/// Whether a living `ctl` drives the run, as far as is known at `now`.
pub fn is_driven(run: &Run, now: Millis) -> bool {
    let Run::Rollout(rollout) = run else { return false };
    rollout.ended().is_none() && rollout.seen_ms().is_some_and(|seen| now < seen.saturating_add(ALIVE))
}

/// All that is signed, as far as it decides what happens.
fn described(run: &Run, settings: &Settings, printer: &Printer) -> Table {
    let (request, issued_at_ms) = (run.request(), run.issued_at_ms());
    let register = Register::read(settings, issued_at_ms, printer);
    let by = match run {
        Run::Job(job) => register.operator(job),
        Run::Rollout(rollout) => register.judge(&request.operator, sshsig::ROLLOUT, rollout.signed()),
    };
    let mut pairs = Table::of_pairs();
    pairs.pair("asked by", format!("{}, {}", by.shown(), moments::exact(issued_at_ms)));
    pairs.pair("action", style::exact(&request.action));
    for (name, words) in proposal::arguments(&request.arguments) {
        pairs.pair(&format!("  {}", style::exact(&name)), words);
    }
    for name in run.secret_names() {
        pairs.pair(&format!("  {}", style::exact(&name)), "*** (a secret)");
    }
    let names: Vec<_> = request.targets.hosts().collect();
    pairs.pair("on", format!("{}: {}", summary::hosts(names.len()), fold::names(&names)));
    pairs.pair("timeout", moments::span(request.timeout));
    if let Some(waves) = run.waves() {
        pairs.pair("waves", foretell(&Outlook::of(names.len(), waves), waves));
        pairs.pair("unless", style::exact(waves.abort_if.as_deref().unwrap_or("-")));
    }
    pairs
}

/// The hosts that are to be reached.
pub fn remaining(standings: &Standings, only: &[Wanted]) -> Vec<HostName> {
    let wants = |wanted| only.is_empty() || only.contains(&wanted);
    let is_meant = |standing: &Standing| match standing {
        Standing::Failed => wants(Wanted::Failed),
        Standing::Unreached => wants(Wanted::Unreached),
        Standing::Expired => wants(Wanted::Expired),
        Standing::Succeeded | Standing::Open => false,
    };
    standings.hosts.iter().filter(|(_, standing)| is_meant(standing)).map(|(host, _)| host.clone()).collect()
}

/// What was asked for before, and is asked for once more.
struct OnceMore<'a> {
    run: Run,
    /// Its secret arguments, in clear.
    secrets: Arguments,
    origin: Origin,
    options: Again,
    signer: &'a Signer,
}

impl OnceMore<'_> {
    /// Runs it on these hosts, in waves if it was.
    async fn run(
        self,
        names: &[HostName],
        fleet: &mut Fleet,
        settings: &Settings,
        printer: &Printer,
    ) -> anyhow::Result<Exit> {
        let Self { run, secrets, origin, options, signer } = self;
        let (hosts, gone): (Vec<Host>, Vec<Host>) = fleet.hosts(names).await?.into_iter().partition(Host::is_known);
        let gone: Vec<_> = gone.iter().map(|host| &host.name).collect();
        if !gone.is_empty() {
            printer.trouble(&format!("{}: left out: no longer a host of the fleet", fold::names(&gone)));
        }
        let total = hosts.len();
        let waves = match run.waves() {
            Some(prior) => options.waves.over(total, prior),
            None if options.waves.asks()? => options.waves.of(total),
            // All at once, as it was.
            None => Waves { max_fail: total as u64, ..options.waves.of(total) },
        };

        let request = Request {
            secrets: secrets::read(secrets)?,
            operator: settings.operator.clone(),
            trace: settings.trace.clone(),
            ..run.request().to(hosts.iter().map(|host| host.name.clone()))
        };
        let names: Vec<_> = request.targets.hosts().collect();
        let command = summary::command(&request.action, &shown(&request.arguments, &run.secret_names()));
        let (command, on) = (style::plain(&command), summary::hosts(total));
        printer.note(&format!("{command} on {on}: {}", fold::names(&names)));
        let outlook = Outlook::of(total, &waves);
        if outlook.count() > 1 {
            printer.note(&foretell(&outlook, &waves));
        }
        if may_change(&hosts, &request.action) {
            confirm(&request.action, [(&Selection::all(), &hosts[..])], options.yes)?;
        }
        printer.set_look(options.look);
        let live = Live::following(options.follow);
        let rolling = Rolling { request: &request, waves: &waves, origin, live, is_part: false, signer };
        let ran = roll(&rolling, fleet, settings, printer).await?;
        Ok(ran.exit().with_left_out(!gone.is_empty()))
    }
}

/// The secret arguments of a run as they are typed once more.
///
/// # Errors
/// Some are missing, or the action cannot be asked for by one alone.
async fn secrets_again(run: &Run, typed: &[String], fleet: &mut Fleet) -> anyhow::Result<Arguments> {
    let hosts: Vec<Host> = fleet.hosts(&run.hosts()).await?.into_iter().filter(Host::is_known).collect();
    let (action, names) = (run.request().action, run.secret_names());
    let given = secrets_of(&hosts, &action, typed)?;
    let approvals = hosts.iter().filter_map(|host| host.action(&action)).map(|action| action.approvals).max();
    proposal::refuse_alone(&action, approvals.unwrap_or(1))?;
    if let Some(stranger) = given.keys().find(|name| !names.contains(name)) {
        return Err(Advice::new(format!("'{stranger}' was no secret of it")).into());
    }
    let missing: Vec<_> = names.iter().filter(|name| !given.contains_key(*name)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(given);
    }
    let error =
        Advice::new(format!("nothing was sent: it has secrets, which Redis does not have: {}", missing.join(", ")));
    // The key of content comes from whoever sends the content.
    let hint = if missing.iter().any(|name| CONTENT_KEYS.contains(name)) {
        let hosts = fold::names(&hosts.iter().map(|host| &host.name).collect::<Vec<_>>());
        format!("it needs content that only the first command could send: give that command again, on {hosts}")
    } else {
        format!("give them again: {}", missing.iter().map(|name| format!("{name}=…")).collect::<Vec<_>>().join(" "))
    };
    Err(error.hint(hint).into())
}
